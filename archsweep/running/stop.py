"""How a run is asked to stop: by a file, or by Ctrl-C or a polite kill. Every trial is saved; a second signal ends it on the spot."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from archsweep.running.background import repeating
from archsweep.running.lock import asked_to_stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOOK_SECONDS = 1.0  # between two looks for the file


@contextmanager
def stop_requests(folder: Path, say: Callable[[str], object]) -> Iterator[threading.Event]:
    """The event that the first signal sets, or another process that asks by `lock.ask_to_stop(folder)`."""
    requested = threading.Event()

    def look() -> None:
        if not requested.is_set() and (who := asked_to_stop(folder)):
            requested.set()
            say(f"stopping, as {who} asks: trials are saved first")

    with repeating(LOOK_SECONDS, look), _signals(requested, say):
        yield requested


@contextmanager
def _signals(requested: threading.Event, say: Callable[[str], object]) -> Iterator[None]:
    """The first signal sets the event. Signals are as they were after the block, and when this is not the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def ask(number: int, frame: FrameType | None) -> None:
        requested.set()
        for each in _SIGNALS:
            signal.signal(each, signal.default_int_handler)
        say("stopping: trials are saved first; once more stops at once")

    for number in _SIGNALS:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
