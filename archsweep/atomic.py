"""Write a file so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from archsweep.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Iterator


OTHER_RESULTS = "Give another place with --results."


@contextmanager
def must_be_writable(folder: Path, way_out: str) -> Iterator[None]:
    """What goes wrong with the disk in the block becomes a MachineError that names `folder` and the way out."""
    try:
        yield
    except OSError as error:
        raise MachineError(f"{folder} must be writable: {error}. {way_out}") from error


def write_atomically(path: str | Path, content: str | bytes | memoryview, *, mtime_ns: int | None = None) -> Path:
    """Write `content` (text as UTF-8) beside `path`, then put it in place in one step; makes the folder; returns the path. With `mtime_ns`
    that is when the file was written, in nanoseconds since 1970."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
        if mtime_ns is not None:
            os.utime(draft, ns=(mtime_ns, mtime_ns))
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path
