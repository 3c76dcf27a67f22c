"""Documents become tokens on disk, once; tokens become batches that are a function of seed and step alone."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import numpy as np

from archsweep.atomic import must_be_writable
from archsweep.errors import DataError, MachineError
from archsweep.training.corpus import CORPUS_FILE, documents, hub_bytes, place, tokens_folder, tokens_id
from archsweep.training.corpus import default_cache_dir as default_cache_dir
from archsweep.training.tokenizer import encode, make_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt
    from tokenizers import Tokenizer
    from torch import Tensor
    from torch.utils.data import DataLoader, Dataset

    from archsweep.config import ExperimentConfig

    Tokens = npt.NDArray[np.unsignedinteger[Any]]
    Windows = npt.NDArray[np.int64]
    Batch = dict[str, Tensor]

_OTHER_CACHE = "It keeps tokenized corpora; choose another folder with ARCHSWEEP_CACHE=FOLDER."


@dataclass(frozen=True)
class Corpus:
    """A tokenized corpus on disk: both splits, each document followed by an end of text."""

    id: str
    folder: Path
    train_tokens: int
    validation_tokens: int
    validation_bytes_per_token: float  # bytes of the validation text over its tokens, ends of text included

    @property
    def train(self) -> Tokens:
        """The training tokens, mapped from disk."""
        return _map(self.folder / "train.npy")

    @property
    def validation(self) -> Tokens:
        """The validation tokens, mapped from disk."""
        return _map(self.folder / "validation.npy")

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer.json that made the tokens."""
        return self.folder / "tokenizer.json"


def prepare(config: ExperimentConfig, cache_dir: Path | None = None) -> Corpus:
    """Tokenize the config's corpus, or open it where that was done before, in this process or another.

    Raises DataError for a corpus that cannot be trained on, MachineError for what this machine may not read, write or reach.
    """
    folder = tokens_folder(config, cache_dir)
    corpus = _open(folder) or _build(config, folder)
    window = config.context_length + 1
    for split, tokens in (("training", corpus.train_tokens), ("validation", corpus.validation_tokens)):
        if tokens < window:
            raise DataError(
                f"{config.dataset}: the {split} split must hold one window of context_length + 1 = {window} tokens, got {tokens}. "
                f"Give more text, a smaller context_length, or another validation_fraction than {config.validation_fraction}."
            )
    return corpus


def prepared(corpus_id: str, cache_dir: Path | None = None) -> Corpus | None:
    """The corpus that `prepare` has made here or elsewhere, by its id; None where this machine's cache does not hold it."""
    return _open((cache_dir or default_cache_dir()) / corpus_id)


def receive(corpus_id: str, files: Mapping[str, bytes | memoryview], cache_dir: Path | None = None) -> None:
    """Put the files of another machine's corpus into this one's cache. Raises MachineError where it cannot be written."""
    folder = (cache_dir or default_cache_dir()) / corpus_id
    staging = folder.with_name(f".{folder.name}-{uuid4().hex}")
    with must_be_writable(folder.parent, _OTHER_CACHE):
        staging.mkdir(parents=True)
        try:
            for name, content in files.items():
                (staging / Path(name).name).write_bytes(content)
            _publish(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


# The corpus folder.


def _map(path: Path) -> Tokens:
    tokens: Tokens = np.load(path, mmap_mode="r")
    return tokens


def _open(folder: Path) -> Corpus | None:
    """The corpus in `folder`; None where there is none, or where it is not whole."""
    try:
        facts = json.loads((folder / CORPUS_FILE).read_text())
        train, validation = facts["train"], facts["validation"]
        corpus = Corpus(facts["id"], folder, train["tokens"], validation["tokens"], validation["bytes"] / validation["tokens"])
        sizes = len(corpus.train), len(corpus.validation)
        tokenizer = hashlib.sha256(corpus.tokenizer_path.read_bytes()).hexdigest()
    except PermissionError as error:
        raise MachineError(
            f"{folder} must be readable by this user: {error}. Give read permission, or use another cache folder."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    whole = sizes == (corpus.train_tokens, corpus.validation_tokens) and tokenizer == facts["tokenizer_id"]
    return corpus if whole else None


def _build(config: ExperimentConfig, folder: Path) -> Corpus:
    """Tokenize into a folder beside `folder`, and rename it when it is whole."""
    staging = folder.with_name(f".{folder.name}-{uuid4().hex}")
    with must_be_writable(folder.parent, _OTHER_CACHE):
        staging.mkdir(parents=True)  # before the work, so that a missing permission does not come after it
    try:
        splits = dict(zip(("train", "validation"), _split(config), strict=True))
        if tokens_id(config) != folder.name:
            raise DataError(f"{config.dataset} must stay as it is while it is tokenized, and was changed meanwhile. Run again.")
        tokenizer = make_tokenizer(config, splits["train"])
        dtype = np.uint16 if config.vocab_size <= 2**16 else np.uint32
        tokens = {name: encode(tokenizer, texts, dtype) for name, texts in splits.items()}
        facts = {name: _count(splits[name], tokens[name]) for name in splits}
        with must_be_writable(folder.parent, _OTHER_CACHE):
            _write(staging, folder.name, tokenizer, tokens, facts)
            _publish(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    corpus = _open(folder)
    if corpus is None:
        raise MachineError(f"{folder} was written, and then changed by someone else. Remove it, and run again.")
    return corpus


def _count(texts: Sequence[str], tokens: Tokens) -> dict[str, int]:
    return {"documents": len(texts), "tokens": len(tokens), "bytes": sum(len(text.encode()) for text in texts)}


def _write(folder: Path, corpus_id: str, tokenizer: Tokenizer, tokens: dict[str, Tokens], facts: dict[str, dict[str, int]]) -> None:
    text = tokenizer.to_str()
    corpus = {"id": corpus_id, "tokenizer_id": hashlib.sha256(text.encode()).hexdigest(), **facts}
    (folder / "tokenizer.json").write_bytes(text.encode())
    (folder / CORPUS_FILE).write_text(json.dumps(corpus, indent=2) + "\n")
    for name, array in tokens.items():
        with (folder / f"{name}.npy").open("wb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())  # a rename may reach the disk before the bytes do


def _publish(staging: Path, folder: Path) -> None:
    """Rename `staging` to `folder`; a whole corpus that another process put there meanwhile stays, a torn one goes."""
    try:
        staging.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if _open(folder) is None:
            with suppress(FileNotFoundError):  # another process does the same
                torn = folder.rename(staging.with_suffix(".torn"))
                shutil.rmtree(torn)
            _publish(staging, folder)


# Documents to splits.


def _split(config: ExperimentConfig) -> tuple[list[str], list[str]]:
    """Training and validation documents, by a hash of their text: no text is on both sides. Validation is in the hash's order,
    so that its first `eval_tokens` are a fair draw of the documents."""
    train: list[str] = []
    validation: list[str] = []
    for text in documents(config.dataset, hub_bytes(config)):
        (validation if place(text) < config.validation_fraction else train).append(text)
    if not (train and validation):
        raise DataError(_one_sided(config, sorted({place(text) for text in train or validation})))
    return train, sorted(validation, key=place)


def _one_sided(config: ExperimentConfig, places: list[float]) -> str:
    rule = f"{config.dataset} must have documents for training and for validation"
    if len(places) < 2:
        return f"{rule}, got {len(places)} different ones. Give more text; a single .txt is split into documents at its blank lines."
    near = places[:2] if places[0] >= config.validation_fraction else places[-2:]
    return (
        f"{rule}, and validation_fraction={config.validation_fraction} puts its {len(places)} documents all on one side. "
        f"Give more documents, or use validation_fraction={sum(near) / 2:.4g}."
    )


# Tokens to batches.


class TokenWindows:
    """The endless sequence of batches that a seed makes of `tokens`: windows of context_length + 1 tokens at stride context_length,
    in a new order each pass. Any step's batch can be had at any time, so resuming needs no state."""

    def __init__(self, tokens: Tokens, context_length: int, batch_size: int, seed: int) -> None:
        self.batch_size, self.seed = batch_size, seed
        self._windows = _windows(tokens, context_length)
        self._orders: dict[int, npt.NDArray[np.int64]] = {}

    def __len__(self) -> int:
        """Full batches of one pass."""
        return len(self._windows) // self.batch_size

    def batch(self, step: int) -> Windows:
        """Windows [step * batch_size, (step + 1) * batch_size) of all passes, one after another: (batch_size, context_length + 1)."""
        count, start = len(self._windows), step * self.batch_size
        stop = start + self.batch_size
        passes = range(start // count, (stop - 1) // count + 1)
        order = np.concatenate([self._order(n)[max(start - n * count, 0) : stop - n * count] for n in passes])
        batch: Windows = self._windows[order].astype(np.int64)
        return batch

    def _order(self, number: int) -> npt.NDArray[np.int64]:
        """The permutation of one pass; the last two stay, for a batch may end one pass and begin the next."""
        if number not in self._orders:
            key = np.array([self.seed, number], dtype=np.uint64)
            order = np.random.Generator(np.random.Philox(key=key)).permutation(len(self._windows))
            self._orders = {last: kept for last, kept in self._orders.items() if last == number - 1} | {number: order}
        return self._orders[number]


def _windows(tokens: Tokens, context_length: int) -> Tokens:
    """A view (windows, context_length + 1): the last token of a window is the first of the next, so every token is predicted once."""
    windows: Tokens = np.lib.stride_tricks.sliding_window_view(tokens, context_length + 1)[::context_length]
    return windows


class LanguageModelDataset:
    """The config's text as batches {"input_ids", "labels"}, int64 (batch, context_length); `labels` are the next tokens,
    already shifted: a Hugging Face model given them as `labels=` would shift them again."""

    def __init__(self, config: ExperimentConfig, cache_dir: Path | None = None, corpus: Corpus | None = None) -> None:
        self.config = config
        self.corpus = corpus or prepare(config, cache_dir)

    def steps(self) -> int:
        """Optimizer steps of the whole run. Raises DataError where its passes over the text make none."""
        config = self.config
        if config.max_tokens is not None:
            return config.max_tokens // config.tokens_per_step
        steps = config.num_epochs * len(self.train_windows(config.seed)) // config.gradient_accumulation_steps
        if not steps:
            raise DataError(
                f"{config.dataset}: {config.num_epochs} passes over {self.corpus.train_tokens} training tokens make no step "
                f"of {config.tokens_per_step} tokens. Give more text, a smaller batch_size, or max_tokens."
            )
        return steps

    def train_windows(self, seed: int) -> TokenWindows:
        """The training batches of `seed`: the same for every architecture."""
        return TokenWindows(self.corpus.train, self.config.context_length, self.config.batch_size, seed)

    def evaluation_windows(self) -> Windows:
        """The first `eval_tokens` of the validation split, or all of it: (windows, context_length + 1), for every architecture and seed."""
        windows = _windows(self.corpus.validation, self.config.context_length)
        return windows[: self.config.eval_tokens // self.config.context_length].astype(np.int64)

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """One pass over the training windows, in the order of the config's seed; full batches only."""
        windows = self.train_windows(self.config.seed)
        return _loader(len(windows), windows.batch)

    def get_val_dataloader(self) -> DataLoader[Batch]:
        """The evaluation windows in order; the last batch may be smaller."""
        windows, size = self.evaluation_windows(), self.config.batch_size
        return _loader(-(-len(windows) // size), lambda step: windows[step * size : (step + 1) * size])


@dataclass(frozen=True)
class _Batches:
    """Batches by number, as a DataLoader wants its dataset."""

    count: int
    batch: Callable[[int], Windows]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, step: int) -> Batch:
        import torch

        windows = torch.from_numpy(self.batch(step))
        return {"input_ids": windows[:, :-1].contiguous(), "labels": windows[:, 1:].contiguous()}


def _loader(count: int, batch: Callable[[int], Windows]) -> DataLoader[Batch]:
    from torch.utils.data import DataLoader

    return DataLoader(cast("Dataset[Batch]", _Batches(count, batch)), batch_size=None)
