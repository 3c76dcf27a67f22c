"""How big a model for my compute? At each of several budgets, which width of a small GPT-2 ends lowest, and how does the best one grow?"""

from archsweep.space import Choice, Space
from search_spaces.bases import TINY

space = Space(
    base=TINY,
    compare={"budget.flops": Choice(1.5e10, 3e10, 6e10), "hidden_size": Choice(12, 24, 36, 48)},  # tokens follow from both
    tune={"learning_rate": Choice(5e-3, 1e-2, 2e-2, 4e-2, 8e-2)},
    repeat=3,
)
