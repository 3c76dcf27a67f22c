"""Text becomes the same tokens once and for all, and the same batches for every architecture."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from archsweep.config import ExperimentConfig
from archsweep.errors import DataError, MachineError
from archsweep.training.data import Corpus, LanguageModelDataset, TokenWindows, default_cache_dir, prepare
from archsweep.training.tokenizer import make_tokenizer

PARAGRAPHS = [
    f"Paragraph {number} says that {number} times {number} is {number * number}.\nNothing else is said here." for number in range(300)
]


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text("\n\n".join(PARAGRAPHS))
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def config(book: Path) -> ExperimentConfig:
    return ExperimentConfig(dataset=f"text:{book}", vocab_size=300, context_length=16, batch_size=4, eval_tokens=256)


@pytest.fixture(scope="module")
def corpus(config: ExperimentConfig, cache: Path) -> Corpus:
    return prepare(config, cache)


def texts_of(corpus: Corpus, tokens: np.ndarray) -> list[str]:
    """The documents that a split's tokens stand for."""
    tokenizer = Tokenizer.from_file(str(corpus.tokenizer_path))
    ends = np.flatnonzero(tokens == tokenizer.token_to_id("<|endoftext|>"))
    starts = [0, *(ends[:-1] + 1)]
    return [tokenizer.decode(tokens[start:end].tolist(), skip_special_tokens=False) for start, end in zip(starts, ends, strict=True)]


# The split.


def test_every_document_is_in_one_split_as_it_was(corpus: Corpus) -> None:
    train, validation = texts_of(corpus, corpus.train), texts_of(corpus, corpus.validation)
    assert Counter(train + validation) == Counter(PARAGRAPHS)
    assert not set(train) & set(validation)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(min_size=3).filter(str.strip), min_size=4, max_size=12), st.lists(st.integers(0, 3), max_size=6))
def test_no_text_is_in_both_splits_however_often_it_comes(texts: list[str], again: list[int]) -> None:
    texts = texts + [texts[index] for index in again]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        try:
            config = ExperimentConfig(dataset=f"text:{path}", vocab_size=257, context_length=2, eval_tokens=2, validation_fraction=0.5)
            corpus = prepare(config, Path(folder) / "cache")
        except DataError:
            assume(False)  # all on one side
        train, validation = texts_of(corpus, corpus.train), texts_of(corpus, corpus.validation)
    assert not set(train) & set(validation)
    assert Counter(train + validation) == Counter(texts)


def test_the_validation_split_has_about_its_share(config: ExperimentConfig, cache: Path) -> None:
    corpus = prepare(config.copy(validation_fraction=0.3), cache)
    share = len(texts_of(corpus, corpus.validation)) / len(PARAGRAPHS)
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / len(PARAGRAPHS)) ** 0.5  # four standard deviations of a fair draw


def test_a_larger_fraction_keeps_the_validation_texts_of_a_smaller_one(config: ExperimentConfig, corpus: Corpus, cache: Path) -> None:
    larger = prepare(config.copy(validation_fraction=0.3), cache)
    assert set(texts_of(corpus, corpus.validation)) < set(texts_of(larger, larger.validation))


@pytest.mark.parametrize("fraction", [1e-6, 1 - 1e-6])
def test_an_empty_side_is_refused_with_a_fraction_that_works(config: ExperimentConfig, cache: Path, fraction: float) -> None:
    with pytest.raises(DataError, match=r"all on one side.*use validation_fraction=([\d.e-]+)\.") as error:
        prepare(config.copy(validation_fraction=fraction), cache)
    way_out = float(re.findall(r"use validation_fraction=([\d.e-]+)\.", str(error.value))[0])
    assert prepare(config.copy(validation_fraction=way_out), cache).validation_tokens > 0


def test_one_document_is_too_few(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a single paragraph")
    with pytest.raises(DataError, match="1 different"):
        prepare(ExperimentConfig(dataset=f"text:{tmp_path}/a.txt"), tmp_path)


@pytest.mark.parametrize(("split", "fraction"), [("training", 0.99), ("validation", 0.01)])
def test_a_split_shorter_than_a_window_is_refused_with_both_numbers(
    config: ExperimentConfig, cache: Path, split: str, fraction: float
) -> None:
    short = config.copy(validation_fraction=fraction, context_length=500, eval_tokens=500)
    with pytest.raises(DataError, match=rf"the {split} split must hold one window of context_length \+ 1 = 501 tokens, got \d+\."):
        prepare(short, cache)


# The tokenizer.


def test_bytes_alone_make_a_token_of_every_byte_and_every_end(config: ExperimentConfig, cache: Path) -> None:
    corpus = prepare(config.copy(vocab_size=257), cache)
    train, validation = (sum(len(text.encode()) + 1 for text in texts_of(corpus, tokens)) for tokens in (corpus.train, corpus.validation))
    assert (corpus.train_tokens, corpus.validation_tokens) == (train, validation) == (len(corpus.train), len(corpus.validation))
    documents = len(texts_of(corpus, corpus.validation))
    assert corpus.validation_bytes_per_token == (validation - documents) / validation


def test_bytes_per_token_are_the_bytes_of_the_text_over_its_tokens(corpus: Corpus) -> None:
    size = sum(len(text.encode()) for text in texts_of(corpus, corpus.validation))
    assert corpus.validation_bytes_per_token == size / len(corpus.validation)
    assert corpus.validation_bytes_per_token > 1.5  # pairs were merged


@pytest.mark.parametrize("size", [257, 300, 350])
def test_the_vocabulary_has_the_size_that_was_asked_for(config: ExperimentConfig, cache: Path, size: int) -> None:
    tokenizer = Tokenizer.from_file(str(prepare(config.copy(vocab_size=size), cache).tokenizer_path))
    assert tokenizer.get_vocab_size() == size


def test_the_tokenizer_has_seen_no_validation_text(tmp_path: Path) -> None:
    # A document's side depends on its text alone, so a first corpus tells which documents to leave out of a second one.
    path = tmp_path / "corpus.txt"
    config = ExperimentConfig(dataset=f"text:{path}", vocab_size=300, context_length=4, validation_fraction=0.5)
    path.write_text("\n\n".join(f"{word} {number} {word}" for word in ("zyxw", "QJKV") for number in range(100)))
    first = prepare(config, tmp_path)
    train = [text for text in texts_of(first, first.train) if "zyxw" in text]
    validation = [text for text in texts_of(first, first.validation) if "QJKV" in text]
    path.write_text("\n\n".join(train + validation))
    second = prepare(config, tmp_path)
    assert sorted(texts_of(second, second.validation)) == sorted(validation)
    tokenizer = Tokenizer.from_file(str(second.tokenizer_path))
    assert len(tokenizer.encode(" zyxw").ids) == 1
    assert len(tokenizer.encode(" QJKV").ids) == 5


@pytest.fixture(scope="module")
def tokenizer(config: ExperimentConfig) -> Tokenizer:
    return make_tokenizer(config, PARAGRAPHS)


@settings(max_examples=200, deadline=None)
@given(st.text())
@example("<|endoftext|>")
@example("\u00e9\u4e2d\U0001f600 \r\n\t  x")
def test_any_text_comes_back_from_its_tokens(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


def test_a_document_that_spells_the_end_of_text_does_not_end_there(tmp_path: Path) -> None:
    texts = [f"before {number} <|endoftext|> after" for number in range(20)]
    (tmp_path / "a.txt").write_text("\n\n".join(texts))
    corpus = prepare(ExperimentConfig(dataset=f"text:{tmp_path}/a.txt", context_length=4, validation_fraction=0.5), tmp_path)
    end = Tokenizer.from_file(str(corpus.tokenizer_path)).token_to_id("<|endoftext|>")
    assert (corpus.train == end).sum() + (corpus.validation == end).sum() == len(texts)


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_tokens_take_two_bytes_where_they_fit(config: ExperimentConfig, cache: Path, vocab_size: int, dtype: type) -> None:
    corpus = prepare(config.copy(vocab_size=vocab_size), cache)
    assert corpus.train.dtype == corpus.validation.dtype == dtype


def test_a_local_tokenizer_is_used_as_it_is(config: ExperimentConfig, corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(corpus.tokenizer_path.read_bytes())
    theirs = prepare(config.copy(tokenizer=str(path), vocab_size=400), tmp_path)
    assert theirs.id != corpus.id
    assert np.array_equal(theirs.train, corpus.train)


def test_a_tokenizer_that_does_not_fit_is_refused_with_both_numbers(config: ExperimentConfig, corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"got 299 for 300 entries\. Use vocab_size=300"):
        prepare(config.copy(tokenizer=str(corpus.tokenizer_path), vocab_size=299), tmp_path)


def test_a_tokenizer_without_an_end_of_text_is_refused(config: ExperimentConfig, tmp_path: Path) -> None:
    Tokenizer(models.BPE({"a": 0}, [])).save(str(tmp_path / "endless.json"))
    with pytest.raises(DataError, match="end of a text"):
        prepare(config.copy(tokenizer=str(tmp_path / "endless.json")), tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "\0"])
def test_a_file_that_is_no_tokenizer_is_refused(config: ExperimentConfig, tmp_path: Path, content: str) -> None:
    (tmp_path / "broken.json").write_text(content)
    with pytest.raises(DataError, match=r"broken\.json must be a tokenizer\.json"):
        prepare(config.copy(tokenizer=str(tmp_path / "broken.json")), tmp_path)


def test_a_hubs_tokenizer_that_was_fetched_before_needs_no_hub(corpus: Corpus, tmp_path: Path) -> None:
    kept = tmp_path / "hub" / "models--someone--something"
    (kept / "snapshots" / "0123").mkdir(parents=True)
    (kept / "snapshots" / "0123" / "tokenizer.json").write_bytes(corpus.tokenizer_path.read_bytes())
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0123")
    script = """
from archsweep.config import ExperimentConfig
from archsweep.training.tokenizer import make_tokenizer
print(make_tokenizer(ExperimentConfig(tokenizer="hf:someone/something"), []).get_vocab_size())
"""
    assert run_python(script, HF_HOME=str(tmp_path), HF_ENDPOINT="http://127.0.0.1:9") == "300\n"


# The folder of tokens.


def run_python(script: str, *arguments: str, **environment: str) -> str:
    """The output of a fresh interpreter."""
    process = start_python(script, *arguments, **environment)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output


def start_python(script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    known = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", script, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=known | environment, text=True, stdin=pipe, stdout=pipe, stderr=pipe)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_second_call_opens_what_the_first_one_wrote(config: ExperimentConfig, corpus: Corpus, cache: Path) -> None:
    written = {path: path.stat().st_mtime_ns for path in corpus.folder.iterdir()}
    assert prepare(config, cache) == corpus
    assert {path: path.stat().st_mtime_ns for path in corpus.folder.iterdir()} == written
    assert isinstance(corpus.train, np.memmap)
    assert not corpus.train.flags.writeable


def test_a_second_build_writes_the_same_bytes(config: ExperimentConfig, corpus: Corpus, tmp_path: Path) -> None:
    assert content(prepare(config, tmp_path).folder) == content(corpus.folder)


def test_the_folder_says_what_it_holds(corpus: Corpus) -> None:
    facts = json.loads((corpus.folder / "corpus.json").read_text())
    assert facts["id"] == corpus.id == corpus.folder.name
    assert facts["train"]["documents"] + facts["validation"]["documents"] == len(PARAGRAPHS)
    assert facts["train"]["bytes"] + facts["validation"]["bytes"] == sum(len(text) for text in PARAGRAPHS)
    assert facts["train"]["tokens"] == corpus.train_tokens


@pytest.mark.parametrize("change", [{"vocab_size": 301}, {"validation_fraction": 0.2}])
def test_what_decides_the_tokens_decides_the_id(config: ExperimentConfig, corpus: Corpus, cache: Path, change: dict[str, float]) -> None:
    assert prepare(config.copy(**change), cache).id != corpus.id


@pytest.mark.parametrize("change", [{"num_layers": 2}, {"seed": 5}, {"context_length": 8}, {"max_tokens": 10**6}])
def test_what_does_not_decide_the_tokens_shares_them(config: ExperimentConfig, corpus: Corpus, cache: Path, change: dict[str, int]) -> None:
    assert prepare(config.copy(**change), cache) == corpus


def test_a_changed_text_is_tokenized_anew(config: ExperimentConfig, corpus: Corpus, book: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(book.read_text() + "\n\nAnd a last word.")
    changed = prepare(config.copy(dataset=f"text:{tmp_path}/book.txt"), tmp_path)
    assert changed.id != corpus.id
    assert "And a last word." in texts_of(changed, changed.train) + texts_of(changed, changed.validation)


@pytest.mark.parametrize("name", ["train.npy", "validation.npy", "tokenizer.json", "corpus.json"])
@pytest.mark.parametrize("damage", ["gone", "empty", "cut"])
def test_a_torn_folder_is_never_used(config: ExperimentConfig, corpus: Corpus, tmp_path: Path, name: str, damage: str) -> None:
    torn = prepare(config, tmp_path).folder
    whole = (torn / name).read_bytes()
    if damage == "gone":
        (torn / name).unlink()
    else:
        (torn / name).write_bytes(whole[: len(whole) - 3] if damage == "cut" else b"")
    assert content(prepare(config, tmp_path).folder) == content(corpus.folder)
    assert os.listdir(tmp_path) == [corpus.id]


def test_two_processes_that_build_at_once_both_end_right(config: ExperimentConfig, corpus: Corpus, tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from archsweep.config import ExperimentConfig
from archsweep.training.data import prepare
print("ready", flush=True)
sys.stdin.readline()
corpus = prepare(ExperimentConfig.load(sys.argv[1]), Path(sys.argv[2]))
print(corpus.id, len(corpus.train), len(corpus.validation))
"""
    arguments = [str(config.save(tmp_path / "config.json")), str(tmp_path / "cache")]
    processes = [start_python(script, *arguments) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert answers == [f"{corpus.id} {corpus.train_tokens} {corpus.validation_tokens}"] * 2
    assert os.listdir(tmp_path / "cache") == [corpus.id]
    assert content(tmp_path / "cache" / corpus.id) == content(corpus.folder)


def test_a_build_that_fails_leaves_nothing(config: ExperimentConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        prepare(config.copy(tokenizer=str(tmp_path / "missing.json")), tmp_path / "cache")
    with pytest.raises(DataError):
        prepare(config.copy(validation_fraction=1e-6), tmp_path / "cache")
    assert os.listdir(tmp_path / "cache") == []


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="permissions of POSIX")
def test_a_cache_that_may_not_be_written_is_the_machines_problem(book: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "book.txt").write_bytes(book.read_bytes())
        Path(folder).chmod(0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # nothing is forbidden to root
        try:
            with pytest.raises(MachineError, match=rf"{folder}/cache must be writable.*Permission denied.*ARCHSWEEP_CACHE"):
                prepare(ExperimentConfig(dataset=f"text:{folder}/book.txt"), Path(folder) / "cache")
        finally:
            os.seteuid(user)
            Path(folder).chmod(0o755)


def test_a_cache_below_a_file_is_the_machines_problem(config: ExperimentConfig, book: Path) -> None:
    with pytest.raises(MachineError, match=r"must be writable.*ARCHSWEEP_CACHE"):
        prepare(config, book / "cache")


def test_the_cache_lies_where_the_user_keeps_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache_dir() == tmp_path / ".cache" / "archsweep"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert default_cache_dir() == tmp_path / ".cache" / "archsweep"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert default_cache_dir() == tmp_path / "elsewhere" / "archsweep"


def test_a_streamed_dataset_becomes_tokens_like_any_other(corpus: Corpus, config: ExperimentConfig, tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in PARAGRAPHS))
    streamed = prepare(config.copy(dataset=f"hf:{rows}"), tmp_path / "cache")
    assert np.array_equal(streamed.train, corpus.train)
    assert np.array_equal(streamed.validation, corpus.validation)


@pytest.mark.slow
def test_the_standard_library_makes_millions_of_tokens_at_two_bytes_each(tmp_path: Path) -> None:
    corpus = prepare(ExperimentConfig(), tmp_path)
    assert corpus.train_tokens > 2_000_000
    assert 0.05 < corpus.validation_tokens / corpus.train_tokens < 0.2
    assert 1.8 < corpus.validation_bytes_per_token < 2.5  # the prototype's 2.1


# Batches.

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(10, 200), st.integers(0, 2**64 - 1))


@settings(max_examples=100, deadline=None)
@given(SHAPES)
def test_each_pass_visits_each_window_exactly_once(shape: tuple[int, int, int, int]) -> None:
    context, batch, length, seed = shape
    windows = TokenWindows(np.arange(length, dtype=np.uint16), context, batch, seed)
    starts = list(range(0, length - context, context))  # every window of context + 1 tokens that fits
    seen = np.concatenate([windows.batch(step) for step in range(3 * len(starts))])  # at least three passes
    assert (seen == seen[:, :1] + np.arange(context + 1)).all()
    for number in range(3):
        assert sorted(seen[number * len(starts) : (number + 1) * len(starts), 0]) == starts
    assert len(windows) == len(starts) // batch
    assert seen.dtype == np.int64


@settings(max_examples=50, deadline=None)
@given(SHAPES, st.lists(st.integers(0, 300), min_size=1, max_size=20))
def test_a_batch_does_not_depend_on_what_was_asked_before(shape: tuple[int, int, int, int], steps: list[int]) -> None:
    context, batch, length, seed = shape
    tokens = np.arange(length, dtype=np.uint16)
    windows = TokenWindows(tokens, context, batch, seed)
    for step in steps:
        assert np.array_equal(windows.batch(step), TokenWindows(tokens, context, batch, seed).batch(step))


def test_two_seeds_and_two_passes_have_different_orders() -> None:
    tokens = np.arange(1_001, dtype=np.uint16)
    orders = [TokenWindows(tokens, 10, 100, seed).batch(number)[:, 0].tolist() for seed in (0, 1) for number in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_every_architecture_sees_the_same_tokens_in_the_same_order(config: ExperimentConfig, cache: Path) -> None:
    one, other = (LanguageModelDataset(config.copy(num_layers=layers, seed=layers), cache) for layers in (1, 3))
    for step in range(50):
        assert np.array_equal(one.train_windows(7).batch(step), other.train_windows(7).batch(step))
    assert np.array_equal(one.evaluation_windows(), other.evaluation_windows())


def test_evaluation_takes_the_first_tokens_of_the_validation_split(config: ExperimentConfig, corpus: Corpus, cache: Path) -> None:
    windows = LanguageModelDataset(config, cache).evaluation_windows()
    assert windows.shape == (256 // 16, 17)
    assert np.array_equal(windows[:, :-1].ravel(), corpus.validation[:256])
    assert np.array_equal(windows[:, 1:].ravel(), corpus.validation[1:257])


def test_evaluation_takes_the_whole_validation_split_where_that_is_smaller(config: ExperimentConfig, corpus: Corpus, cache: Path) -> None:
    windows = LanguageModelDataset(config.copy(eval_tokens=10**9), cache).evaluation_windows()
    assert len(windows) == (corpus.validation_tokens - 1) // 16


def test_the_training_loader_is_one_pass_in_the_seeds_order(config: ExperimentConfig, cache: Path) -> None:
    data = LanguageModelDataset(config, cache)
    windows = data.train_windows(config.seed)
    loader = data.get_train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == len(windows) > 10
    for step, batch in enumerate(batches):
        expected = torch.from_numpy(windows.batch(step))
        assert torch.equal(batch["input_ids"], expected[:, :-1])
        assert torch.equal(batch["labels"], expected[:, 1:])
        assert batch["input_ids"].shape == (4, 16)
        assert batch["input_ids"].dtype == batch["labels"].dtype == torch.int64
    assert all(torch.equal(first["labels"], again["labels"]) for first, again in zip(batches, loader, strict=True))


def test_the_validation_loader_is_the_evaluation_windows_in_order(config: ExperimentConfig, cache: Path) -> None:
    data = LanguageModelDataset(config.copy(batch_size=5), cache)
    loader = data.get_val_dataloader()
    batches = list(loader)
    assert [len(batch["labels"]) for batch in batches] == [5, 5, 5, 1]
    assert len(loader) == 4
    windows = torch.from_numpy(data.evaluation_windows())
    assert torch.equal(torch.cat([batch["input_ids"] for batch in batches]), windows[:, :-1])
    assert torch.equal(torch.cat([batch["labels"] for batch in batches]), windows[:, 1:])
