"""Heads or layers? At one parameter budget, where should a small GPT-2 spend it?"""

from archsweep.space import Budget, Choice, Space
from search_spaces.bases import TINY

space = Space(
    base=TINY,
    compare={"num_layers": Choice(1, 2, 4), "num_heads": Choice(1, 2, 4)},  # the question
    budget=Budget("non_embedding_parameters", 100_000, tolerance=0.01),  # fairness: solved, then audited
    tune={"learning_rate": Choice(2e-3, 4e-3, 8e-3)},  # each variant keeps its best
    repeat=3,  # seeds: mean and spread
)
