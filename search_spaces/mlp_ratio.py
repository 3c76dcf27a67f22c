"""How wide the feed-forward? At one parameter budget, how should a small GPT-2 divide it between attention and feed-forward?"""

from archsweep.space import Budget, Choice, Space
from search_spaces.bases import TINY

space = Space(
    base=TINY,
    compare={"ffn_ratio": Choice(0.5, 1, 2, 4, 8, 16)},  # ffn_size / hidden_size; the width follows from the budget
    budget=Budget("non_embedding_parameters", 50_000, tolerance=0.01),
    tune={"learning_rate": Choice(2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2)},
    repeat=3,
)
