"""Deep or wide? At one parameter budget, how many layers should a small GPT-2 have?"""

from archsweep.space import Budget, Choice, Space
from search_spaces.bases import TINY

space = Space(
    base=TINY,
    compare={"num_layers": Choice(1, 2, 4, 8)},  # the width follows from the budget
    budget=Budget("non_embedding_parameters", 50_000, tolerance=0.01),
    tune={"learning_rate": Choice(5e-3, 1e-2, 2e-2, 4e-2)},
    repeat=3,
)
