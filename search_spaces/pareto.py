"""What does a lower loss cost? The small GPT-2s that no other beats in loss, in decoding speed and in size at once."""

from archsweep.space import Choice, IntRange, Optuna, Space
from search_spaces.bases import TINY

space = Space(
    base=TINY,
    compare={
        "num_layers": IntRange(1, 6),
        "num_heads": Choice(1, 2, 4),
        "hidden_size": IntRange(16, 64, 8),
        "ffn_size": IntRange(32, 256, 32),
    },
    tune={"learning_rate": Choice(5e-3, 1e-2, 2e-2, 4e-2)},
    repeat=2,
    method=Optuna(trials=20, sampler="nsga2", objectives=("val_loss", "decode_latency", "parameters")),
)
