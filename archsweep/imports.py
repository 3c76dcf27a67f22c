"""Heavy libraries without needless waiting: what they define stays, so the garbage collector need not look through it."""

from __future__ import annotations

import atexit
import gc
import sys
import threading
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


_lock = threading.Lock()
_blocks, _was_on = 0, False  # blocks that are without the collector now, and whether it was on before the first


@contextmanager
def without_collector() -> Iterator[None]:
    """For a block that imports, or makes as many objects at once: looking for garbage among what modules define, again and again, takes a
    fifth of the time of importing torch and transformers. Blocks of several threads may overlap."""
    global _blocks, _was_on
    with _lock:
        _was_on = gc.isenabled() if _blocks == 0 else _was_on
        _blocks += 1
        gc.disable()
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if _blocks == 0 and _was_on:
                gc.enable()


def import_meanwhile(*names: str) -> None:
    """Import these modules in a thread, while the caller waits for other things: whoever then imports one waits for what is left.
    One that fails is for them to find."""
    left = [name for name in names if name not in sys.modules]

    def work() -> None:
        with without_collector(), suppress(Exception):
            for name in left:
                import_module(name)

    if left:
        with suppress(RuntimeError):  # no thread is to be had: it is imported when it is needed
            threading.Thread(target=work, daemon=True).start()


def import_alone(name: str) -> ModuleType:
    """A module in a package, without what the package's own `__init__` imports; the package can be imported as ever afterwards."""
    package = name.partition(".")[0]
    spec = None if package in sys.modules else find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        return import_module(name)
    sys.modules[package] = hollow = ModuleType(package)
    hollow.__path__ = spec.submodule_search_locations
    try:
        return import_module(name)
    finally:
        del sys.modules[package]


def end_quickly() -> None:
    """Let this process end without a last look through all that it has imported, which with torch, transformers and Ray takes it over a
    second. Exit handlers run and files are closed all the same, but for those that only the collector would find."""
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
