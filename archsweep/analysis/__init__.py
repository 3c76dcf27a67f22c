"""Results become an answer: the statistics, the comparison, the figures and the report, each saying no more than the data supports."""
