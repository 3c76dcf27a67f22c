"""MHA, GQA or MQA? What does a small Llama lose where its query heads share keys and values, and its feed-forward gets the weights?"""

from archsweep.space import Budget, Choice, Space
from search_spaces.bases import TINY

space = Space(
    base=TINY.copy(family="llama", num_heads=8, hidden_size=64, ffn_ratio=8 / 3),
    compare={"num_kv_heads": Choice(8, 4, 2, 1)},  # from each head its own to one for all
    budget=Budget("non_embedding_parameters", 75_000, solve=("ffn_size",)),  # the width stays
    tune={"learning_rate": Choice(5e-3, 1e-2, 2e-2, 4e-2)},
    repeat=5,
)
