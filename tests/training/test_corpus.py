"""Which documents a dataset names, what identifies them, and what is refused with which words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from archsweep.errors import DataError, MachineError
from archsweep.training.corpus import documents, first_documents, identify

if TYPE_CHECKING:
    from collections.abc import Iterator

CLOSED_PORT = "http://127.0.0.1:9"  # the discard service, which nothing runs


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def run_python(script: str, **environment: str) -> str:
    """The output of a fresh interpreter."""
    known = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run(
        [sys.executable, "-c", script], env=known | environment, check=True, capture_output=True, text=True, timeout=60
    ).stdout


@contextmanager
def without_root() -> Iterator[Path]:
    """A folder to write in, and a user who is not root even where the tests run as root, whom nothing is forbidden."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            os.seteuid(user)


# The standard library.


def test_the_standard_library_is_millions_of_bytes_of_its_own_sources() -> None:
    texts = list(documents("stdlib"))
    argparse = Path(json.__file__).parent.parent.joinpath("argparse.py").read_bytes().decode()
    assert argparse in texts
    assert 5_000_000 < sum(len(text.encode()) for text in texts) < 30_000_000


def test_the_standard_library_has_no_tests_and_no_installed_packages() -> None:
    texts = set(documents("stdlib"))
    assert Path(pytest.__file__).read_text() not in texts
    library = Path(json.__file__).parent.parent
    tests = [path.read_bytes() for folder in ("idlelib/idle_test", "test/test_json") for path in library.glob(f"{folder}/test_*.py")]
    assert not texts & {text.decode() for text in tests}


def test_the_standard_library_keeps_its_id() -> None:
    assert identify("stdlib") == identify("stdlib")
    assert len(identify("stdlib")) == 12


def test_asking_for_an_id_imports_nothing_heavy() -> None:
    script = "import sys; from archsweep.training.corpus import identify; identify('stdlib'); print(*sys.modules)"
    assert not {"torch", "numpy", "pandas", "ray", "tokenizers", "datasets", "pyarrow"} & set(run_python(script).split())


# Text files.


def test_files_are_documents(tmp_path: Path) -> None:
    write(tmp_path / "b.txt", "second\n\nfile")
    write(tmp_path / "a.txt", "first file")
    assert list(documents(f"text:{tmp_path}/*.txt")) == ["first file", "second\n\nfile"]


def test_a_glob_reaches_into_folders(tmp_path: Path) -> None:
    write(tmp_path / "one" / "a.txt", "first")
    write(tmp_path / "two" / "deep" / "b.txt", "second")
    assert list(documents(f"text:{tmp_path}/**/*.txt")) == ["first", "second"]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_single_file_is_split_at_its_blank_lines(tmp_path: Path, line_end: str) -> None:
    text = line_end.join(["", "one", "still one", "", "  two", " \t", "", "three", ""])
    expected = [f"one{line_end}still one", "  two", f"three{line_end}"]
    assert [text.removeprefix(line_end) for text in documents(f"text:{write(tmp_path / 'book.txt', text)}")] == expected


def test_lines_of_json_are_documents(tmp_path: Path) -> None:
    lines = [{"text": "one\nand more"}, {"text": "", "id": 2}, {"text": "zwei\u2028drei", "id": 3}]
    path = write(tmp_path / "a.jsonl", "\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n\n")
    assert list(documents(f"text:{path}")) == ["one\nand more", "zwei\u2028drei"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_rows_of_parquet_are_documents(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"id": [1, 2, 3], "text": pa.array(["one", None, "two"]).cast(kind)}), tmp_path / "a.parquet")
    assert list(documents(f"text:{tmp_path}/a.parquet")) == ["one", "two"]


def test_kinds_of_files_mix(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "one")
    write(tmp_path / "b.jsonl", '{"text": "two"}')
    assert list(documents(f"text:{tmp_path}/*")) == ["one", "two"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbfone")
    assert list(documents(f"text:{path}")) == ["one"]


def test_a_name_with_a_globs_signs_is_the_file_of_that_name(tmp_path: Path) -> None:
    write(tmp_path / "a[1].txt", "this one")
    write(tmp_path / "a1.txt", "not this one")
    assert list(documents(f"text:{tmp_path}/a[1].txt")) == ["this one"]


def test_relative_paths_start_at_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "corpus" / "a.txt", "here")
    monkeypatch.chdir(tmp_path)
    assert list(documents("text:corpus/a.txt")) == ["here"]


# Identity.


def test_a_corpus_keeps_its_id_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("here", "there/below"):
        write(tmp_path / folder / "a.txt", "one")
        write(tmp_path / folder / "sub" / "b.txt", "two")
    monkeypatch.chdir(tmp_path)
    ids = {identify(f"text:{path}/**/*.txt") for path in (tmp_path / "here", tmp_path / "there" / "below", "here", "./there/below")}
    assert len(ids) == 1


def test_a_changed_byte_changes_the_id(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "one")
    before = identify(f"text:{path}")
    write(path, "onE")
    assert identify(f"text:{path}") != before


def test_a_tokenizer_file_is_part_of_the_id_by_its_content(tmp_path: Path) -> None:
    first, same, other = (write(tmp_path / name, text) for name, text in (("a.json", "1"), ("b.json", "1"), ("c.json", "2")))
    assert identify("stdlib", str(first)) == identify("stdlib", str(same)) != identify("stdlib", str(other))
    assert identify("stdlib", "hf:gpt2") == identify("stdlib", "bpe") == identify("stdlib") != identify("stdlib", str(first))


def test_datasets_of_a_hub_are_told_apart_by_their_names_without_asking_it() -> None:
    assert len({identify("hf:a/b"), identify("hf:a/b:en"), identify("hf:a/b:en:test")}) == 3


# What is refused.


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b" \n\t\n", "only white space"),
        ("a.txt", b"one\0two", "NUL"),
        ("a.txt", "caf\u00e9".encode("latin-1"), "UTF-8"),
        ("a.csv", b"text\none", r"\.txt, \.jsonl, \.parquet, got \.csv"),
        ("a", b"one", "no extension"),
        ("a.jsonl", b'{"text": "one"}\n{"body": "two"}', r'a\.jsonl:2 .*"text".*body'),
        ("a.jsonl", b'{"text": 3}', r'a\.jsonl:1 .*"text"'),
        ("a.jsonl", b"[1, 2]", r'a\.jsonl:1 .*"text".*list'),
        ("a.jsonl", b'{"text": "one"', r"a\.jsonl:1 "),
        ("a.jsonl", b'{"text": "half \\ud800"}', r"a\.jsonl:1 .*surrogate"),
        ("a.jsonl", b'{"text": "\xff"}', r"a\.jsonl:1 .*UTF-8"),
        ("a.parquet", b"no parquet at all", "Parquet"),
    ],
)
def test_a_file_that_is_no_text_is_refused_by_name(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=f"(?s){path.name}.*") as error:
        list(documents(f"text:{path}"))
    assert error.match(words)


@pytest.mark.parametrize("table", [{"body": ["one"]}, {"text": [1, 2]}])
def test_parquet_without_a_text_column_is_refused_with_the_columns_it_has(tmp_path: Path, table: dict[str, list[object]]) -> None:
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=rf'a\.parquet.*"text" of strings, got {next(iter(table))}'):
        list(documents(f"text:{tmp_path}/a.parquet"))


@pytest.mark.parametrize("pattern", ["missing.txt", "*.txt"])
def test_a_path_that_matches_nothing_is_refused_before_anything_is_read(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(DataError, match="matches none"):
        identify(f"text:{tmp_path}/{pattern}")


def test_a_folder_is_refused_with_the_glob_that_was_meant(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "one")
    with pytest.raises(DataError, match=rf"text:{tmp_path}/\*\.txt"):
        identify(f"text:{tmp_path}/")


def test_a_missing_tokenizer_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.json"):
        identify("stdlib", str(tmp_path / "missing.json"))


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="permissions of POSIX")
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_a_file_without_read_permission_is_the_machines_problem(name: str) -> None:
    with without_root() as folder:
        path = write(folder / "closed" / name, "one")
        path.chmod(0)
        for ask in (identify, lambda dataset: list(documents(dataset))):
            with pytest.raises(MachineError, match=f"{path}.*read permission"):
                ask(f"text:{path}")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="permissions of POSIX")
def test_a_folder_that_may_not_be_entered_is_the_machines_problem() -> None:
    with without_root() as folder:
        path = write(folder / "closed" / "a.txt", "one")
        path.parent.chmod(0)
        with pytest.raises(MachineError, match=f"{path}.*read permission"):
            identify(f"text:{path}")
        path.parent.chmod(0o700)


# Datasets of the `datasets` library.


@pytest.fixture(scope="module")
def folder_of_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    rows = [{"id": number, "text": f"document {number} " + "x" * 88} for number in range(100)]
    for split, first in (("train", 10), ("test", 90)):  # from the tenth on each has 100 bytes
        write(folder / f"{split}.jsonl", "\n".join(json.dumps(row) for row in rows[first:]))
    return folder


def test_a_dataset_is_streamed_until_there_is_enough_text(folder_of_rows: Path) -> None:
    texts = list(documents(f"hf:{folder_of_rows}", max_bytes=1_000))
    assert [text.split()[1] for text in texts] == [str(number) for number in range(10, 20)]


def test_a_dataset_has_splits(folder_of_rows: Path) -> None:
    assert len(list(documents(f"hf:{folder_of_rows}:default:test"))) == 10


def test_a_split_that_is_not_there_is_refused_with_those_that_are(folder_of_rows: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)hf:NAME.*nowhere.*train"):
        list(documents(f"hf:{folder_of_rows}:default:nowhere"))


def test_a_folder_of_rows_is_identified_by_its_content(folder_of_rows: Path, tmp_path: Path) -> None:
    for file in folder_of_rows.iterdir():
        write(tmp_path / file.name, file.read_bytes())
    assert identify(f"hf:{folder_of_rows}") == identify(f"hf:{tmp_path}")
    write(tmp_path / "train.jsonl", '{"text": "other"}')
    assert identify(f"hf:{folder_of_rows}") != identify(f"hf:{tmp_path}")


def test_the_first_column_of_strings_stands_in_for_text() -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"id": [1, 2], "sentence": ["one", "two"], "label": ["x", "y"]}).to_iterable_dataset()
    assert list(first_documents(rows, 1_000, "hf:x")) == ["one", "two"]


def test_a_text_column_goes_before_another_column_of_strings() -> None:
    assert list(first_documents([{"title": "x", "text": None}, {"title": "y", "text": "one"}], 1_000, "hf:x")) == ["one"]


def test_a_dataset_without_strings_is_refused_with_its_columns() -> None:
    with pytest.raises(DataError, match="hf:x must have a column of strings, got id, label"):
        list(first_documents([{"id": 1, "label": 2}], 1_000, "hf:x"))


ASK_THE_HUB = """
from archsweep.config import ExperimentConfig
from archsweep.errors import ArchsweepError
from archsweep.training.corpus import documents
from archsweep.training.tokenizer import make_tokenizer
config = ExperimentConfig(dataset="hf:someone/something", tokenizer="hf:someone/something")
for ask in (lambda: list(documents(config.dataset)), lambda: make_tokenizer(config, [])):
    try:
        ask()
    except ArchsweepError as error:
        print(type(error).__name__, error)
"""


def test_a_hub_that_cannot_be_reached_is_the_machines_problem_at_once(tmp_path: Path) -> None:
    dataset, tokenizer = run_python(ASK_THE_HUB, HF_ENDPOINT=CLOSED_PORT, HF_HOME=str(tmp_path)).splitlines()
    assert dataset.startswith("MachineError hf:someone/something needs the Hugging Face hub")
    assert "dataset='stdlib'" in dataset
    assert tokenizer.startswith("MachineError hf:someone/something needs the Hugging Face hub")
    assert "tokenizer='bpe'" in tokenizer


class EmptyHub(BaseHTTPRequestHandler):
    """A hub that has nothing, and says so as the real one does."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


def test_a_name_that_the_hub_does_not_have_is_the_users_mistake(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), EmptyHub) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        answers = run_python(ASK_THE_HUB, HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}", HF_HOME=str(tmp_path)).splitlines()
        hub.shutdown()
    assert answers[0].startswith("DataError hf:someone/something must name a dataset")
    assert answers[1].startswith("DataError hf:someone/something must name a model")
    assert len(answers) == 2
