"""Longer windows, or more of them? At equal compute and equal tokens in a batch, how far back should a small GPT-2 look?"""

from archsweep.space import Budget, Choice, Space
from search_spaces.bases import TINY

space = Space(
    base=TINY.copy(eval_tokens=32_768, metrics=("search_spaces.positions:loss_by_position",)),
    compare={"context_length": Choice(16, 32, 64, 128, 256)},  # the batch is stated in tokens, so it holds fewer of the longer ones
    budget=Budget("flops", 6e10),  # long windows cost attention, and pay for it in tokens
    tune={"learning_rate": Choice(5e-3, 1e-2, 2e-2, 4e-2)},
    repeat=3,
)
