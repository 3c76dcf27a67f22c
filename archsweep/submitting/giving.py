"""On the cluster, as a job: pack a sweep's folder beside the head's logs, where its API hands files out; take it away when told to stop."""

from __future__ import annotations

import gzip
import os
import signal
import sys
import tarfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from archsweep.errors import ArchsweepError, MachineError, RecordError
from archsweep.records.schema import OUTCOME_FILE, PLAN_FILE
from archsweep.submitting.parcel import MANIFEST_MARK, Manifest, Order, Piece, describe_piece, is_plain, piece_name, travels

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE_BYTES = 32 * 2**20
LONGEST_SECONDS = 3600.0  # for whoever fetches to fetch


class _Pieces:
    """What is written to it, as files of a size that can be asked for again."""

    def __init__(self, folder: Path, ticket: str) -> None:
        self._folder, self._ticket = folder, ticket
        self._part = bytearray()
        self.pieces: list[Piece] = []

    def write(self, data: bytes) -> int:
        self._part += data
        while len(self._part) >= PIECE_BYTES:
            self._put(PIECE_BYTES)
        return len(data)

    def flush(self) -> None: ...

    def end(self) -> None:
        if self._part:
            self._put(len(self._part))

    def _put(self, size: int) -> None:
        content = bytes(self._part[:size])
        del self._part[:size]
        path = self._folder / piece_name(self._ticket, len(self.pieces))
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        self.pieces.append(describe_piece(content))


class _Folder:
    """A sweep's folder on the cluster's disk. Links in it are not followed."""

    def __init__(self, results: Path, sweep: str) -> None:
        self._folder = results.expanduser() / sweep

    def names(self) -> Iterator[PurePosixPath]:
        for place, folders, files in os.walk(self._folder):
            folders[:] = [each for each in folders if not (Path(place) / each).is_symlink()]
            here = PurePosixPath(Path(place).relative_to(self._folder).as_posix())
            yield from (here / each for each in files if not (Path(place) / each).is_symlink())

    @contextmanager
    def opened(self, name: PurePosixPath) -> Iterator[tuple[IO[bytes], int]]:
        with open(os.open(self._folder / name, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            yield file, os.fstat(file.fileno()).st_size


class _Stored:
    """A sweep's folder in a store that a URI names."""

    def __init__(self, results: str, sweep: str) -> None:
        from pyarrow import fs

        self._store, root = fs.FileSystem.from_uri(results)
        self._folder = f"{root.rstrip('/')}/{sweep}"
        self._everything = fs.FileSelector(self._folder, allow_not_found=True, recursive=True)

    def names(self) -> Iterator[PurePosixPath]:
        yield from (
            PurePosixPath(each.path).relative_to(self._folder) for each in self._store.get_file_info(self._everything) if each.is_file
        )

    @contextmanager
    def opened(self, name: PurePosixPath) -> Iterator[tuple[IO[bytes], int]]:
        with self._store.open_input_file(f"{self._folder}/{name}") as file:
            yield file, file.size()


@contextmanager
def given(order: Order, logs: Path) -> Iterator[Manifest]:
    """The pieces of the sweep's folder lie in `logs` for the length of the block. Raises RecordError where there is no such sweep."""
    pieces = _Pieces(logs, order.ticket)
    try:
        files, unpacked = _pack(order, pieces)
        yield Manifest(pieces=tuple(pieces.pieces), files=files, unpacked=unpacked)
    finally:
        for path in logs.glob(piece_name(order.ticket, 0)[:-1] + "*"):
            path.unlink(missing_ok=True)


def _pack(order: Order, into: _Pieces) -> tuple[int, int]:
    """Write the files as a compressed tar; returns how many there are, and their bytes.

    An outcome goes before its records, so that a trial that is said to have finished has all of its rows.
    """
    files = unpacked = 0
    try:
        folder = _source(order)
        names = sorted((name for name in folder.names() if travels(name, order.models)), key=lambda name: (name.name != OUTCOME_FILE, name))
        if PurePosixPath(PLAN_FILE) not in names:
            raise RecordError(f"there is no sweep {order.sweep} in {order.results} on the cluster. It is there once the sweep has begun.")
        with gzip.GzipFile(fileobj=into, mode="wb", compresslevel=6) as packed, tarfile.open(fileobj=packed, mode="w|") as tar:
            for name in names:
                with suppress(FileNotFoundError), folder.opened(name) as (file, size):
                    entry = tarfile.TarInfo(str(name))
                    entry.size = size
                    tar.addfile(entry, file)  # a file that grows meanwhile is taken as long as it was
                    files, unpacked = files + 1, unpacked + size
    except OSError as error:
        raise MachineError(f"{order.sweep} in {order.results} must be readable on the cluster: {error}.") from error
    into.end()
    return files, unpacked


def _source(order: Order) -> _Folder | _Stored:
    if not is_plain(order.sweep):
        raise RecordError(f"there is no sweep {order.sweep!r}: it is no name of one.")
    scheme, separator, _ = order.results.partition("://")
    if separator and scheme != "file":
        return _Stored(order.results, order.sweep)
    return _Folder(Path(unquote(urlsplit(order.results).path) if separator else order.results), order.sweep)


def _logs_folder() -> Path:
    """The session's folder of logs: a job runs in SESSION/runtime_resources/working_dir_files/PACKAGE. Raises MachineError."""
    place = Path.cwd()
    logs = place.parents[2] / "logs" if len(place.parents) > 2 else place
    if place.parent.name != "working_dir_files" or not logs.is_dir():
        raise MachineError(f"a fetch must run as a job of Ray, in a folder of its session, and runs in {place}.")
    return logs


def main() -> int:
    """Answer the order on the command line: print the manifest, and wait to be stopped."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt), given(Order.model_validate_json(sys.argv[1]), _logs_folder()) as manifest:
            print(MANIFEST_MARK + manifest.model_dump_json(), flush=True)
            time.sleep(LONGEST_SECONDS)
    except ArchsweepError as error:
        print(f"archsweep: {error}", flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
