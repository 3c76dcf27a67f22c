"""Which learning rate? How much does one small GPT-2 gain or lose by it, beside the spread of its seeds?"""

from archsweep.space import Choice, Space
from search_spaces.bases import TINY

space = Space(
    base=TINY,
    compare={"learning_rate": Choice(1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)},  # here the rate is the question, so nothing is tuned
    repeat=3,
)
