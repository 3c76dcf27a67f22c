"""Which learning rate? How much does one small GPT-2 gain or lose by it, beside the spread of its seeds?"""

from archsweep.space import Choice, Space
from search_spaces.bases import TINY

space = Space(
    base=TINY,
    compare={"learning_rate": Choice(2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2)},  # here the rate is the question, so nothing is tuned
    repeat=3,
)
