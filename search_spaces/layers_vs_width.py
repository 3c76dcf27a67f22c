"""Deep or wide? At one parameter budget, how many layers should a small GPT-2 have?

Layers run one after another, so deep models are slower: `layers_vs_width:by_time` gives each the same seconds instead of the same tokens.
"""

from dataclasses import replace

from archsweep.space import Budget, Choice, Space
from search_spaces.bases import TINY

space = Space(
    base=TINY,
    compare={"num_layers": Choice(1, 2, 4, 8)},  # the width follows from the budget
    budget=Budget("non_embedding_parameters", 50_000, tolerance=0.01),
    tune={"learning_rate": Choice(5e-3, 1e-2, 2e-2, 4e-2)},
    repeat=3,
)

by_time = replace(space, budget=(*space.budgets, Budget("train_seconds", 1.5, tolerance=0.1)))
