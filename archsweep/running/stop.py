"""How a run is asked to stop: the first Ctrl-C or polite kill lets every trial save itself, the second ends it on the spot."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_requests(say: Callable[[str], object]) -> Iterator[threading.Event]:
    """The event that the first signal sets. Signals are as they were after the block, and when this is not the main thread."""
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
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
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
