"""How a Ray of our own ends: beside what comes after, unless something went wrong, and before the next one."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import ray

from archsweep.running import session

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_SECONDS = 60.0


@pytest.fixture
def end(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A Ray whose end lasts until it `may`, and then is `over`."""
    state = SimpleNamespace(may=threading.Event(), over=threading.Event())

    def shutdown() -> None:
        assert state.may.wait(PATIENCE_SECONDS)
        state.over.set()

    monkeypatch.setattr(ray, "init", lambda **options: None)
    monkeypatch.setattr(ray, "shutdown", shutdown)
    yield state
    state.may.set()
    session._wait_for_the_last_end()


def test_what_comes_after_does_not_wait_for_the_end_and_the_next_ray_does(end: SimpleNamespace) -> None:
    with session.opened(1, 0, None):
        pass
    assert not end.over.is_set()
    came = threading.Event()

    def again() -> None:
        with session.opened(1, 0, None):
            assert end.over.is_set()
            came.set()

    thread = threading.Thread(target=again)
    thread.start()
    end.may.set()
    assert came.wait(PATIENCE_SECONDS)
    thread.join()


def test_after_an_error_nothing_of_ray_is_left(end: SimpleNamespace) -> None:
    end.may.set()
    with pytest.raises(KeyboardInterrupt), session.opened(1, 0, None):
        raise KeyboardInterrupt
    assert end.over.is_set()
    assert "end of Ray" not in {thread.name for thread in threading.enumerate()}


def test_without_a_thread_to_be_had_the_end_is_waited_for(end: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    end.may.set()
    with session.opened(1, 0, None):
        monkeypatch.setattr(threading.Thread, "start", start)
    assert end.over.is_set()
