"""Does my learning rate carry over? What does the best rate of a small, narrow GPT-2 cost a wider or a deeper one?"""

from archsweep.space import Choice, Space
from search_spaces.bases import TINY

space = Space(
    base=TINY,
    compare={
        "num_layers": Choice(1, 4),
        "hidden_size": Choice(12, 24, 48),
        "learning_rate": Choice(2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2, 8e-2),  # here the rate is the question, so nothing is tuned
    },
    repeat=5,
)
