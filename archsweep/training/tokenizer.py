"""The tokenizer: trained on the corpus, or found on a disk or a hub; and the encoding of documents with it."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from archsweep.errors import DataError
from archsweep.training.corpus import ask_hub, existing, first_line, is_local, place

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from archsweep.config import ExperimentConfig

END_OF_TEXT = "<|endoftext|>"

_SAMPLE_CHARACTERS = 2_000_000  # what BPE is trained on: twice as much gave 0.2 % fewer tokens of the standard library, and took 2 s more
_CHUNK_CHARACTERS = 4_000_000  # what is encoded at once
_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "[SEP]")  # how tokenizers from elsewhere name the end of a document
_OWN_TOKENIZER = "Or train one on the corpus: tokenizer='bpe'."


def make_tokenizer(config: ExperimentConfig, texts: Sequence[str]) -> Tokenizer:
    """The config's tokenizer, trained on `texts` where it is "bpe". Raises DataError where `vocab_size` does not hold it."""
    tokenizer = _train_bpe(texts, config.vocab_size) if config.tokenizer == "bpe" else _load_tokenizer(config.tokenizer)
    entries = max(tokenizer.get_vocab().values(), default=-1) + 1
    if entries > config.vocab_size:
        raise DataError(
            f"vocab_size must hold every entry of the tokenizer {config.tokenizer}, got {config.vocab_size} for {entries} entries. "
            f"Use vocab_size={entries}."
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # a document that spells <|endoftext|> does not end there
    return tokenizer


def _train_bpe(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE of `vocab_size` entries, fewer where the text has no more pairs to merge."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_sample(texts), trainer)
    return tokenizer


def _sample(texts: Sequence[str]) -> Iterator[str]:
    """At most `_SAMPLE_CHARACTERS` of the texts, in the order of their hashes: a fair draw, and the same one on every machine."""
    left = _SAMPLE_CHARACTERS
    for text in sorted(texts, key=place):
        yield text[:left]
        left -= len(text)
        if left <= 0:
            return


def _load_tokenizer(name: str) -> Tokenizer:
    path = existing(name) if is_local(name) else _hub_tokenizer(name.removeprefix("hf:"))
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise DataError(
            f"{name} must be a tokenizer.json as the tokenizers library writes it, and is not: {error}. {_OWN_TOKENIZER}"
        ) from None


def _hub_tokenizer(name: str) -> str:
    """The hub's tokenizer.json of `name`, from the hub's local cache where it is there."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    try:
        cached = try_to_load_from_cache(name, "tokenizer.json")
        if isinstance(cached, str):
            return cached
        ask_hub(name, "model", _OWN_TOKENIZER)
        return hf_hub_download(name, "tokenizer.json")
    except (EntryNotFoundError, HFValidationError) as error:
        raise DataError(f"hf:{name} must name a model with a tokenizer.json, and does not: {first_line(error)}. {_OWN_TOKENIZER}") from None


def encode(tokenizer: Tokenizer, texts: Sequence[str], dtype: type[np.unsignedinteger[Any]]) -> npt.NDArray[np.unsignedinteger[Any]]:
    """All texts as one array, an end of text after each."""
    end = next((tokenizer.token_to_id(name) for name in _ENDS if tokenizer.token_to_id(name) is not None), None)
    if end is None:
        raise DataError(f"the tokenizer must have a token for the end of a text, one of {', '.join(_ENDS)}, and has none. {_OWN_TOKENIZER}")
    parts = []
    for chunk in _chunks(texts):
        encodings = tokenizer.encode_batch_fast(chunk, add_special_tokens=False)
        parts.append(np.fromiter(chain.from_iterable((*encoding.ids, end) for encoding in encodings), dtype))
    return np.concatenate(parts)


def save_tokenizer(path: Path, context_length: int, folder: Path) -> None:
    """Write the tokenizer.json at `path` as Hugging Face's AutoTokenizer reads it, with its end of text and the longest input."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer.from_file(str(path))
    end = next((name for name in _ENDS if tokenizer.token_to_id(name) is not None), None)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, model_max_length=context_length).save_pretrained(folder)


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    """Consecutive texts of about `_CHUNK_CHARACTERS` together, which bounds the memory of their encodings."""
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
