"""How many heads? At one width and one parameter count, does a small GPT-2 want few wide heads or many narrow ones?"""

from archsweep.space import Budget, Choice, Space
from search_spaces.bases import TINY

space = Space(
    base=TINY.copy(hidden_size=48),
    compare={"num_heads": Choice(1, 2, 3, 4, 6)},  # of 48 to 8 numbers each; no weight more or less
    budget=Budget("non_embedding_parameters", 50_000, solve=("ffn_size",)),  # the width stays
    tune={"learning_rate": Choice(5e-3, 1e-2, 2e-2, 4e-2)},
    repeat=5,
)
