"""Where the norm, which one, and which positions? The steps from the first Transformer by GPT-2 to Llama: which matter, do they add up?"""

from archsweep.space import Budget, Choice, Space
from search_spaces.bases import TINY

space = Space(
    base=TINY.copy(family="search_spaces.parts:build"),
    compare={
        "model_overrides.norm_position": Choice("pre", "post"),
        "model_overrides.norm": Choice("layer", "rms"),
        "model_overrides.positions": Choice("learned", "rotary"),
    },
    budget=Budget("non_embedding_parameters", 50_000, tolerance=0.02, multiple_of=8),
    tune={"learning_rate": Choice(2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2)},
    repeat=3,
)
