"""A sweep whose results are in an object store: its folder here and its copy there, kept in step while it runs or is watched."""

from __future__ import annotations

import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from archsweep.errors import MachineError
from archsweep.records import remote
from archsweep.running.background import repeating
from archsweep.running.lock import STOP_FILE, is_held_here, last_owner, last_sign, owner, wait_for_the_dead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from archsweep.running.lock import Owner

STEP_SECONDS = 5.0
LATELY_SECONDS = 600.0


def refresh(folder: Path, large: bool = False) -> None:
    """Bring the folder to the state of its copy, to be looked at; one that a driver of this machine has is ahead of it already."""
    if not is_held_here(folder):
        remote.pull(folder, large)


def share(folder: Path, removes: bool = False) -> None:
    """Bring the copy to the state of the folder, as `remote.push`; where a driver of this machine has it, that does so."""
    if not is_held_here(folder):
        remote.push(folder, removes)


@contextmanager
def pushed(folder: Path, say: Callable[[str], object]) -> Iterator[None]:
    """Begin with the copy's state, and bring it to the folder's every few seconds and at the end; without a copy nothing happens.

    A store that does not answer for a while is told to `say`. Raises MachineError where it does not at the beginning or the end. A folder
    that another driver of this machine has is left alone: the run is refused.
    """
    if remote.uri_of(folder) is None or is_held_here(folder):
        yield
        return
    remote.pull(folder)
    sign = last_sign(folder)

    def look_again() -> None:
        time.sleep(STEP_SECONDS)
        remote.pull(folder)

    wait_for_the_dead(folder, lambda: _who_may_live(folder, sign), look_again, say)

    def step() -> None:
        remote.push(folder, removes=True)
        remote.pull_file(folder, STOP_FILE)  # another machine asks the run to stop by putting it there

    try:
        with repeating(STEP_SECONDS, _patiently(step, say)):
            yield
    finally:
        remote.push(folder, removes=True)


@contextmanager
def pulled(folder: Path, say: Callable[[str], object]) -> Iterator[None]:
    """Bring the folder to the copy's state now and every few seconds, without checkpoints and models; nothing without a copy."""
    if remote.uri_of(folder) is None:
        yield
        return
    refresh(folder)
    with repeating(STEP_SECONDS, _patiently(lambda: refresh(folder), say)):
        yield


def _who_may_live(folder: Path, sign: float) -> Owner | None:
    """The driver that the folder names, where it is seen to live, or may live on another machine, by whatever clock set the time of its
    last sign: a store knows no locks."""
    other = last_owner(folder)
    lately = other is not None and other.host != socket.gethostname() and abs(time.time() - sign) < LATELY_SECONDS
    return other if other and (lately or owner(folder)) else None


def _patiently(step: Callable[[], None], say: Callable[[str], object]) -> Callable[[], None]:
    """The step, whose failures are said, each once, and tried again."""
    said: set[str] = set()

    def attempt() -> None:
        try:
            step()
        except MachineError as error:
            if str(error) not in said:
                said.add(str(error))
                say(str(error))

    return attempt
