"""What the README and RESULTS.md quote, each a command: `python -m benchmarks` runs all of them, `python -m benchmarks.NAME` one."""
