"""What vocabulary, tied or not? At one count of all parameters, embeddings included, which alphabet spends a small GPT-2's best?"""

from archsweep.space import Budget, Choice, Space
from search_spaces.bases import TINY

space = Space(
    base=TINY.copy(validation_fraction=0.01, eval_tokens=131_072),  # all of the validation text, the same in every alphabet
    compare={"vocab_size": Choice(300, 512, 1024), "model_overrides.tie_word_embeddings": Choice(True, False)},
    budget=Budget("parameters", 90_000, tolerance=0.01),
    tune={"learning_rate": Choice(5e-3, 1e-2, 2e-2, 4e-2)},
    repeat=3,
    metric="bits_per_byte",  # a token of one alphabet is not one of another
)
