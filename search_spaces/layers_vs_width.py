"""Deep or wide? At one parameter budget, how many layers should a small GPT-2 have?"""

from archsweep.space import Budget, Choice, Space
from search_spaces.bases import TINY

space = Space(
    base=TINY,
    compare={"num_layers": Choice(1, 2, 4, 8)},  # the width follows from the budget
    budget=Budget("non_embedding_parameters", 100_000, tolerance=0.01),
    tune={"learning_rate": Choice(2e-3, 4e-3, 8e-3)},
    repeat=3,
)
