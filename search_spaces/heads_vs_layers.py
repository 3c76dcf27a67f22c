"""Heads or layers? At one parameter budget, where should a small GPT-2 spend it?"""

from archsweep.space import Budget, Choice, Space
from search_spaces.bases import TINY

space = Space(
    base=TINY,
    compare={"num_layers": Choice(1, 2, 4), "num_heads": Choice(1, 2, 4)},  # the question
    budget=Budget("non_embedding_parameters", 50_000, tolerance=0.01),  # fairness: solved, then audited
    tune={"learning_rate": Choice(5e-3, 1e-2, 2e-2, 4e-2)},  # each variant keeps its best
    repeat=3,  # seeds: mean and spread
)
