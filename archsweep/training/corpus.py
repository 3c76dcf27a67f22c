"""Which documents a `dataset=` names, and the id of their content; light to import, so that planning can ask for the id."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sysconfig
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from archsweep.errors import DataError, MachineError
from archsweep.extensions import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from archsweep.config import ExperimentConfig

HUB_BYTES = 64 * 2**20  # how much text a hub's dataset gives unless more is asked for: 15 to 30 million tokens
HUB_TIMEOUT_SECONDS = 5.0
CORPUS_FILE = "corpus.json"  # in a folder of tokens: how many there are
_FORMAT_VERSION = 1  # of what such a folder holds; part of its id

_NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
_BUILD_SPECIFIC = ("config-", "_sysconfigdata")  # holds the paths of the machine that built this Python
_BLANK_LINES = re.compile(r"\r?\n(?:[^\S\n]*\n)+")
_OWN_TEXT = "Or train without a hub: dataset='stdlib' or dataset='text:PATH'."


class _File(NamedTuple):
    """A file of a corpus; its name does not depend on where the corpus lies."""

    name: str
    path: Path


def identify(dataset: str, tokenizer: str = "bpe") -> str:
    """Twelve hex digits that name the content of `dataset`, and of `tokenizer` where that is a local file; nothing is tokenized.

    A hub's dataset is named by its specification alone. Raises DataError and MachineError as `documents` does for missing files.
    """
    if _is_function(dataset):
        content: list[object] = [hashlib.sha256(text.encode()).hexdigest() for text in documents(dataset)]
    else:
        content = _content(dataset)
    if is_local(tokenizer):
        content.append(_sha256(existing(tokenizer)))
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


# The tokens that are made of them.


def default_cache_dir() -> Path:
    """Where tokenized corpora are kept: $XDG_CACHE_HOME/archsweep, or ~/.cache/archsweep."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "archsweep"


def tokens_folder(config: ExperimentConfig, cache_dir: Path | None = None) -> Path:
    """Where the config's tokenized corpus is, or will be."""
    return (cache_dir or default_cache_dir()) / tokens_id(config)


def train_tokens(config: ExperimentConfig, cache_dir: Path | None = None) -> int | None:
    """The tokens of the training split; None where the corpus has not been tokenized."""
    try:
        return int(json.loads((tokens_folder(config, cache_dir) / CORPUS_FILE).read_text())["train"]["tokens"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def tokens_id(config: ExperimentConfig) -> str:
    """Sixteen hex digits that name the tokens which `config` makes of its corpus."""
    recipe = "file" if is_local(config.tokenizer) else config.tokenizer
    stream = [hub_bytes(config)] if config.dataset.startswith("hf:") else []
    content = [_FORMAT_VERSION, identify(config.dataset, config.tokenizer), recipe, config.vocab_size, config.validation_fraction, *stream]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def hub_bytes(config: ExperimentConfig) -> int:
    """How much of a hub's dataset is read: 8 bytes for each of `max_tokens`, in steps of 4 times so that near budgets share a corpus."""
    size = HUB_BYTES
    while size < 8 * (config.max_tokens or 0):
        size *= 4
    return size


# The documents.


def _content(dataset: str) -> list[object]:
    files = _files(dataset)
    return [dataset] if files is None else [[file.name, _sha256(file.path)] for file in files]


def _is_function(dataset: str) -> bool:
    return dataset != "stdlib" and not dataset.startswith(("text:", "hf:"))


def _own_texts(dataset: str) -> Iterator[str]:
    """What the user's function gives. Raises DataError for a document that is no text."""
    for text in load(dataset)():
        if not isinstance(text, str):
            raise DataError(f"{dataset} must give texts (str), got {type(text).__name__}.")
        yield text


def documents(dataset: str, max_bytes: int = HUB_BYTES) -> Iterator[str]:
    """Yield the documents of `dataset`, none of them empty; a dataset of the `datasets` library ends after `max_bytes` of text.

    Raises DataError for what is missing or no text, MachineError for what this machine may not read or cannot reach.
    """
    if dataset.startswith("hf:"):
        yield from first_documents(_open_stream(dataset), max_bytes, dataset)
        return
    files = [] if _is_function(dataset) else _files(dataset) or []
    if _is_function(dataset):
        texts: Iterable[str] = _own_texts(dataset)
    elif dataset == "stdlib":
        texts = _library_texts(files)
    elif len(files) == 1 and files[0].path.suffix == ".txt":
        texts = _BLANK_LINES.split(_text(files[0].path))
    else:
        texts = (text for file in files for text in _READERS[file.path.suffix](file.path))
    yield from (text for text in texts if text.strip())


def is_local(tokenizer: str) -> bool:
    """Whether a config's tokenizer is a file, not a recipe or a name on a hub."""
    return tokenizer != "bpe" and not tokenizer.startswith("hf:")


def place(text: str) -> float:
    """A number in [0, 1) that only the text decides: by it documents are split and sampled."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _files(dataset: str) -> list[_File] | None:
    """The files that `dataset` consists of, sorted by name; None for a dataset on a hub."""
    if dataset == "stdlib":
        return _library_files()
    if dataset.startswith("text:"):
        return _text_files(dataset.removeprefix("text:"))
    folder = Path(_hub_name(dataset)[0])
    return _named(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else None


def _named(paths: Iterable[Path]) -> list[_File]:
    """Files under their paths relative to the folder they share."""
    found = list(paths)
    root = os.path.commonpath([path.parent for path in found]) if found else ""
    return sorted(_File(path.relative_to(root).as_posix(), path) for path in found)


# The standard library.


def _library_files() -> list[_File]:
    root = sysconfig.get_path("stdlib")
    paths = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _NOT_LIBRARY and not name.startswith(_BUILD_SPECIFIC)]
        paths += [Path(folder, name) for name in names if name.endswith(".py") and not name.startswith(_BUILD_SPECIFIC)]
    if not paths:
        raise MachineError(f"dataset=stdlib needs the standard library's Python sources, and {root} holds none. Use dataset='text:PATH'.")
    return _named(paths)


def _library_texts(files: list[_File]) -> Iterator[str]:
    for file in files:
        try:
            yield _read(file.path).decode()
        except UnicodeDecodeError:
            continue  # a file in an older encoding is no loss


# Text files.


def _text_files(pattern: str) -> list[_File]:
    """The files that a path or glob names, each of a known kind and none empty."""
    given = Path(pattern).expanduser()
    with _must_be_readable(given):
        # A name may hold a glob's own signs, so a file of exactly this name comes first.
        paths = [given] if given.is_file() else [path for path in map(Path, glob(str(given), recursive=True)) if path.is_file()]
    if not paths:
        way_out = f"Name the folder's files: text:{given}/*.txt" if given.is_dir() else f"It was looked for in {Path.cwd()}."
        raise DataError(f"text:{pattern} must name at least one file, and matches none. {way_out}")
    for path in paths:
        if path.suffix not in _READERS:
            found = path.suffix or "no extension"
            raise DataError(f"{path} must end in {', '.join(_READERS)}, got {found}. Convert it, or narrow the glob.")
        if not path.stat().st_size:
            raise DataError(f"{path} must hold text, and is empty. Fill it, or leave it out of the glob.")
    return _named(paths)


@contextmanager
def _must_be_readable(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise MachineError(
            f"{path} must be readable by this user, and is not. Give read permission (chmod +r), or name another file."
        ) from error


def _read(path: Path) -> bytes:
    with _must_be_readable(path):
        return path.read_bytes()


def _sha256(path: Path) -> str:
    with _must_be_readable(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def existing(path: str) -> Path:
    """The local file `path`. Raises DataError where there is none."""
    file = Path(path).expanduser()
    with _must_be_readable(file):
        if file.is_file():
            return file
    raise DataError(f"{path} must be an existing file, and is not. It was looked for in {Path.cwd()}.")


def _decode(raw: bytes, path: Path, place: str = "") -> str:
    """UTF-8 text, with a byte order mark or without."""
    try:
        if b"\0" in raw:
            raise ValueError("it holds a NUL byte")
        return raw.decode("utf-8-sig")
    except ValueError as error:
        raise DataError(f"{path}{place} must be UTF-8 text, and is not: {error}. Convert it, or name another file.") from None


def _text(path: Path) -> str:
    text = _decode(_read(path), path)
    if not text.strip():
        raise DataError(f"{path} must hold text, and holds only white space. Fill it, or leave it out of the glob.")
    return text


def _whole_text(path: Path) -> Iterator[str]:
    yield _text(path)


def _json_lines(path: Path) -> Iterator[str]:
    for number, line in enumerate(_read(path).split(b"\n"), start=1):
        if line.strip():
            yield _json_text(_decode(line, path, f":{number}"), f"{path}:{number}")


def _json_text(line: str, place: str) -> str:
    """The "text" field of one JSON line."""
    try:
        text = _text_field(json.loads(line))
        text.encode()  # JSON can spell half a surrogate pair, which is no text
    except ValueError as error:
        way_out = "Rename the field that holds the text, or leave the line out."
        raise DataError(f'{place} must be a JSON object with a string in "text", and is not: {error}. {way_out}') from None
    return text


def _text_field(row: object) -> str:
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        found = f"an object with {', '.join(row) or 'no field'}" if isinstance(row, dict) else f"a {type(row).__name__}"
        raise ValueError(f"it is {found}")
    return text


def _parquet_texts(path: Path) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with _must_be_readable(path):
            table = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} must be a Parquet file, and is not: {error} Write it anew, or leave it out of the glob.") from None
    with table:
        columns = {field.name: field.type for field in table.schema_arrow}
        if "text" not in columns or not _is_string(columns["text"]):
            found = ", ".join(f"{name} ({kind})" for name, kind in columns.items())
            raise DataError(f'{path} must have a column "text" of strings, got {found}. Rename the column that holds the text.')
        for batch in table.iter_batches(columns=["text"]):
            yield from (text for text in batch.column(0).to_pylist() if text is not None)


def _is_string(kind: object) -> bool:
    return str(kind) in {"string", "large_string", "string_view"} or str(kind).startswith("dictionary<values=string")


_READERS: dict[str, Callable[[Path], Iterator[str]]] = {".txt": _whole_text, ".jsonl": _json_lines, ".parquet": _parquet_texts}


# The Hugging Face hub.


def _hub_name(dataset: str) -> tuple[str, str | None, str]:
    """NAME, CONFIG and SPLIT of an `hf:` dataset; the split is "train" unless given."""
    name, config, split, *_ = [*dataset.removeprefix("hf:").split(":"), None, None]
    return str(name), config, split or "train"


def first_line(error: Exception) -> str:
    """What the hub's library says, without the paragraphs that follow it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def ask_hub(name: str, kind: Literal["dataset", "model"], instead: str) -> None:
    """One quick question to the hub, for its libraries retry for half a minute when there is none; `instead` is the way out.

    Raises DataError where the hub has no such name, MachineError where there is no hub.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        HfApi().repo_info(name, repo_type=kind, timeout=HUB_TIMEOUT_SECONDS)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise DataError(
            f"hf:{name} must name a {kind} of the Hugging Face hub that you may read, and does not: {first_line(error)}. {instead}"
        ) from None
    except Exception as error:  # each version of the hub's library brings another HTTP client, with errors of its own
        raise MachineError(
            f"hf:{name} needs the Hugging Face hub, which could not be asked: {first_line(error)}. "
            f"Check the network, the proxy, HF_ENDPOINT and HF_HUB_OFFLINE. {instead}"
        ) from error


def _open_stream(dataset: str) -> Iterable[Mapping[str, object]]:
    """The rows of an `hf:` dataset, which is on the hub or a local folder, one after another."""
    name, config, split = _hub_name(dataset)
    if not Path(name).is_dir():
        ask_hub(name, "dataset", _OWN_TEXT)
    import datasets

    try:
        stream: Iterable[Mapping[str, object]] = datasets.load_dataset(name, config, split=split, streaming=True)
    except (ValueError, FileNotFoundError) as error:  # no such config, split or files; datasets names those there are
        raise DataError(f"{dataset} must name a dataset as hf:NAME[:CONFIG[:SPLIT]], and does not: {error}") from None
    except OSError as error:
        raise MachineError(f"{dataset} could not be opened: {error}. {_OWN_TEXT}") from error
    return stream


def first_documents(rows: Iterable[Mapping[str, object]], max_bytes: int, dataset: str) -> Iterator[str]:
    """The "text" column of `rows`, or else the first column of strings, until `max_bytes` of text; raises DataError where there is none."""
    size, column = 0, None
    for row in rows:
        column = column or _text_column(row, dataset)
        text = row[column]
        if isinstance(text, str) and text.strip():
            yield text
            size += len(text.encode())
        if size >= max_bytes:
            return


def _text_column(row: Mapping[str, object], dataset: str) -> str:
    strings = [name for name, value in row.items() if isinstance(value, str) or (name == "text" and value is None)]
    if not strings:
        raise DataError(f"{dataset} must have a column of strings, got {', '.join(row) or 'no column'}. Choose another dataset or config.")
    return "text" if "text" in strings else strings[0]
