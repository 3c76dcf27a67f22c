"""Heavy libraries without needless waiting: what they define stays, so the garbage collector need not look through it."""

from __future__ import annotations

import atexit
import gc
from contextlib import contextmanager, suppress
from importlib import import_module
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def importing() -> Iterator[None]:
    """Without the collector while a block imports: a fifth of the time that torch and transformers take is its."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def import_meanwhile(*names: str) -> None:
    """Import these modules in a thread, while the caller waits for other things: whoever then imports one waits for what is left.
    One that fails is for them to find."""

    def work() -> None:
        with importing(), suppress(Exception):
            for name in names:
                import_module(name)

    Thread(target=work, daemon=True).start()


def end_quickly() -> None:
    """Let this process end without a last look through all that it has imported, which with torch, transformers and Ray takes it over a
    second. Exit handlers run and files are closed all the same, but for those that only the collector would find."""
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
