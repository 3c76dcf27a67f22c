"""How big a model for my compute? At each of several budgets, which width of a small GPT-2 ends lowest, and how does the best one grow?"""

from archsweep.space import Choice, Space
from search_spaces.bases import TINY

space = Space(
    base=TINY,
    compare={"budget.flops": Choice(2e10, 4e10, 8e10), "hidden_size": Choice(24, 36, 48, 60)},  # tokens follow from both
    tune={"learning_rate": Choice(5e-3, 1e-2, 2e-2, 4e-2)},
    repeat=3,
)
