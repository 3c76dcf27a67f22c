"""GELU, ReLU\N{SUPERSCRIPT TWO} or a gated unit? Which feed-forward makes the most of one parameter budget in a small GPT-2?"""

from archsweep.config import ExperimentConfig
from archsweep.space import Budget, Choice, Space
from search_spaces.bases import TINY


def gated_at_two_thirds(config: ExperimentConfig) -> ExperimentConfig:
    """A gate is a third matrix, so 8/3 of the width has as many weights as 4 times without one."""
    return config.copy(ffn_ratio=8 / 3) if config.model_overrides["activation"] == "swiglu" else config


space = Space(
    base=TINY.copy(family="search_spaces.parts:build"),
    compare={"model_overrides.activation": Choice("gelu", "relu2", "swiglu")},
    derive=gated_at_two_thirds,
    budget=Budget("non_embedding_parameters", 50_000, tolerance=0.01),
    tune={"learning_rate": Choice(5e-3, 1e-2, 2e-2, 4e-2)},
    repeat=5,
)
