"""Results in an object store: a sweep's folder on this machine, and its copy under a URI, each brought to the state of the other."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from archsweep.atomic import write_atomically
from archsweep.errors import ConfigError, MachineError
from archsweep.records.schema import CHECKPOINT_FOLDER, LOCK_FILE, MODEL_FOLDER, MODELS_FOLDER, OUTCOME_FILE, PROGRESS_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

URI_FILE = ".uri"  # in the folder of all sweeps: whose copy it is
SYNCED_FILE = ".synced.json"  # in a sweep's: of each file, the stamps that both sides had when they were last the same
ALIVE_SECONDS, PART_BYTES = 10.0, 8 * 2**20
LARGE_FOLDERS = {CHECKPOINT_FOLDER, MODEL_FOLDER, MODELS_FOLDER}  # no table and no report needs them

_ONE_AT_A_TIME = threading.RLock()  # of what this process brings to and from stores, by whatever thread

Stamp = list[int]  # a file's time in nanoseconds, and its size in bytes


def is_uri(results: str) -> bool:
    """Whether it names a place in a store (s3://, gs://, file://, …) rather than a folder."""
    return re.match(r"[a-z][a-z0-9+.-]*://", results) is not None


def check_no_password(uri: str) -> None:
    """Raises ConfigError, which does not repeat it, for a URI that holds one: before its host, or among its options."""
    before_host = uri.partition("://")[2].rpartition("@")[0]
    if ":" in before_host or re.search(r"(secret|password|key|token|signature|sig)[^=&]*=", uri.partition("?")[2], re.IGNORECASE):
        raise ConfigError(
            "--results must be a URI without a password, which would be in commands and logs, and has one. The environment of what opens "
            "the store is to hold it: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS."
        )


def local_root(uri: str, cache_dir: Path) -> Path:
    """This machine's folder for the sweeps under `uri`. Raises ConfigError for a URI that names no store, or holds a password."""
    uri = uri.rstrip("/")
    check_no_password(uri)
    _opened(uri)
    root = cache_dir / "results" / sha256(uri.encode()).hexdigest()[:12]
    write_atomically(root / URI_FILE, uri)
    return root


def root_uri(root: Path) -> str | None:
    """The URI whose copy the folder of all sweeps is, None where it is no copy."""
    try:
        return (root / URI_FILE).read_text()
    except OSError:
        return None


def uri_of(folder: Path) -> str | None:
    """The URI of the sweep's copy, None where it has none."""
    if (uri := root_uri(folder.parent)) is None:
        return None
    place, question, query = uri.partition("?")
    return f"{place}/{folder.name}{question}{query}"


def sweeps(root: Path) -> list[Path]:
    """The folders, here, of the sweeps that are in the store; none where `root` is no copy. Raises MachineError where it cannot be read."""
    if (uri := root_uri(root)) is None:
        return []
    with _must_answer(uri):
        from pyarrow.fs import FileSelector, FileType

        filesystem, base = _opened(uri)
        found = filesystem.get_file_info(FileSelector(base, allow_not_found=True))
        return [root / info.base_name for info in found if info.type == FileType.Directory]


def pull(folder: Path, large: bool = True) -> None:
    """Bring the sweep's folder to the state of its copy; what has changed here alone stays. Without `large`, no checkpoints and models.

    Of a file that has changed on both sides, the one that has grown from the other is taken, else the younger one.
    Does nothing for a folder without a copy. Raises MachineError where the store cannot be read.
    """
    if (uri := uri_of(folder)) is None:
        return
    with _ONE_AT_A_TIME, _must_answer(uri):
        filesystem, base = _opened(uri)
        synced, there = _synced(folder), _listed(filesystem, base)
        try:
            for name in sorted(there, key=lambda name: _turn(name, there[name])):
                stamp, path = there[name], folder / name
                known = name in synced and synced[name][0] == stamp and path.exists()
                if known or (not large and LARGE_FOLDERS & set(name.split("/"))):
                    continue
                if _is_ahead(path, synced.get(name), filesystem, base, name, stamp):
                    synced[name] = [stamp, None]  # of no stamp of ours: it is brought there with the next push
                else:
                    _bring(folder, name, stamp, filesystem, base, synced)
            for name in set(synced) - set(there):
                if synced.pop(name)[1] == _stamp(folder / name):
                    (folder / name).unlink(missing_ok=True)
        finally:
            write_atomically(folder / SYNCED_FILE, json.dumps(synced))


def _is_ahead(path: Path, last: list[Stamp | None] | None, filesystem: Any, base: str, name: str, stamp: Stamp) -> bool:
    """Whether the file has changed here since both sides were `last` the same, and has what the copy has, or is younger."""
    if not path.is_file() or (last is not None and last[1] == _stamp(path)):
        return False
    with filesystem.open_input_stream(f"{base}/{name}") as source:
        theirs = source.read()
    ours = path.read_bytes()
    if ours.startswith(theirs) or theirs.startswith(ours):
        return len(ours) >= len(theirs)
    return path.stat().st_mtime_ns > stamp[0]


def push(folder: Path, removes: bool = False) -> None:
    """Bring the copy to the state of the sweep's folder; with `removes`, for a folder that had all of it, what is gone here goes there too.

    Raises MachineError where the store cannot be written.
    """
    if (uri := uri_of(folder)) is None or not folder.exists():
        return
    with _ONE_AT_A_TIME, _must_answer(uri):
        filesystem, base = _opened(uri)
        synced, here = _synced(folder), {name: stamp for name in _names(folder) if (stamp := _stamp(folder / name))}
        alive = time.monotonic()
        try:
            for name in sorted(here, key=lambda name: _turn(name, here[name])):
                if name in synced and synced[name][1] == here[name]:
                    continue
                _send(folder, name, filesystem, base, synced)
                if time.monotonic() - alive > ALIVE_SECONDS:  # others must not take a driver that sends much for a dead one
                    _send(folder, PROGRESS_FILE, filesystem, base, synced)
                    alive = time.monotonic()
            for name in set(synced) - set(here) if removes else ():
                with suppress(FileNotFoundError):  # a push before this one was cut short after it
                    filesystem.delete_file(f"{base}/{name}")
                del synced[name]
        finally:
            write_atomically(folder / SYNCED_FILE, json.dumps(synced))


def _send(folder: Path, name: str, filesystem: Any, base: str, synced: dict[str, Any]) -> None:
    """The file as it is here; nothing where it has been removed meanwhile, as checkpoints are."""
    stamp = _stamp(folder / name)  # before its content is read: what is added meanwhile makes it another
    if filesystem.type_name == "local":  # a store has no folders
        filesystem.create_dir(f"{base}/{name}".rpartition("/")[0])
    try:
        source = (folder / name).open("rb")
    except FileNotFoundError:
        return
    with source, filesystem.open_output_stream(f"{base}/{name}") as target:
        shutil.copyfileobj(source, target, PART_BYTES)
    synced[name] = [_stamp_of(filesystem.get_file_info(f"{base}/{name}")), stamp]


def pull_file(folder: Path, name: str) -> None:
    """Bring this one file, if the copy has another than when both were last the same."""
    if (uri := uri_of(folder)) is None:
        return
    with _ONE_AT_A_TIME, _must_answer(uri):
        filesystem, base = _opened(uri)
        synced, info = _synced(folder), filesystem.get_file_info(f"{base}/{name}")
        if info.is_file and _stamp_of(info) != synced.get(name, [None])[0]:
            _bring(folder, name, _stamp_of(info), filesystem, base, synced)
            write_atomically(folder / SYNCED_FILE, json.dumps(synced))


def _bring(folder: Path, name: str, stamp: Stamp, filesystem: Any, base: str, synced: dict[str, Any]) -> None:
    """The file as it is in the store."""
    with filesystem.open_input_stream(f"{base}/{name}") as source:
        _take(folder / name, source.read())
    os.utime(folder / name, ns=(stamp[0], stamp[0]))  # whether a driver elsewhere is alive is told by the times of what it writes
    synced[name] = [stamp, _stamp(folder / name)]


def _opened(uri: str) -> tuple[Any, str]:
    """The store and the path in it. Raises ConfigError."""
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem

    try:
        filesystem, base = FileSystem.from_uri(uri)
    except (ArrowException, OSError, ValueError) as error:
        raise _no_store(uri, str(error)) from None
    if not base.strip("/"):
        raise _no_store(uri, "it names no place in the store")
    return filesystem, base.rstrip("/")


def _no_store(uri: str, why: str) -> ConfigError:
    rule = "--results must be a folder, or the URI of a place in a store that pyarrow knows, as s3://BUCKET/PATH or gs://BUCKET/PATH"
    return ConfigError(f"{rule}, got {uri}: {why}.")


@contextmanager
def _must_answer(uri: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"{uri} must be readable and writable: {error}. What was recorded is on this machine too; the same command goes on."
        ) from error


def _take(path: Path, content: bytes) -> None:
    """Let the file have this content; one that has only grown grows here too, under the eyes of who follows it."""
    old = path.read_bytes() if path.is_file() else b""
    if old and content.startswith(old):
        with path.open("ab") as file:
            file.write(content[len(old) :])
    else:
        write_atomically(path, content)


def _turn(name: str, stamp: Stamp) -> tuple[int, str]:
    """The order of the files: who runs the sweep comes first, and that nobody does last, when all that it left is there; a trial that has
    ended has its records first. So at any moment, on both sides, what is there may be relied on."""
    if name == LOCK_FILE:
        return (0 if stamp[1] else 3), name
    return (2 if name.endswith(OUTCOME_FILE) else 1), name


def _names(folder: Path) -> Iterator[str]:
    """The files that both sides have: all but drafts and what says which they are."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.name != SYNCED_FILE and not path.name.endswith(".tmp"):
            yield path.relative_to(folder).as_posix()


def _listed(filesystem: Any, base: str) -> dict[str, Stamp]:
    from pyarrow.fs import FileSelector

    found = filesystem.get_file_info(FileSelector(base, recursive=True, allow_not_found=True))
    stamps = {info.path.removeprefix(f"{base}/"): _stamp_of(info) for info in found if info.is_file}
    return {name: stamp for name, stamp in stamps.items() if not {"", ".", ".."} & set(name.split("/"))}  # what would leave the folder


def _stamp_of(info: Any) -> Stamp:
    return [info.mtime_ns, info.size]


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return [status.st_mtime_ns, status.st_size]


def _synced(folder: Path) -> dict[str, Any]:
    try:
        synced: dict[str, Any] = json.loads((folder / SYNCED_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return synced
