"""A sweep whose results are in an object store: its folder here and its copy there, kept in step while it runs or is watched."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from archsweep.errors import MachineError
from archsweep.records import remote
from archsweep.running.background import repeating
from archsweep.running.lock import STOP_FILE, last_sign, owner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STEP_SECONDS = 5.0


@contextmanager
def pushed(folder: Path, say: Callable[[str], object]) -> Iterator[None]:
    """Begin with the copy's state, and bring it to the folder's every few seconds and at the end; without a copy nothing happens.

    A store that does not answer for a while is told to `say`. Raises MachineError where it does not at the beginning or the end.
    """
    if remote.uri_of(folder) is None:
        yield
        return
    remote.pull(folder)
    _wait_for_the_dead(folder)

    def step() -> None:
        remote.push(folder)
        remote.pull_file(folder, STOP_FILE)  # another machine asks the run to stop by putting it there

    try:
        with repeating(STEP_SECONDS, _patiently(step, say)):
            yield
    finally:
        remote.push(folder)


@contextmanager
def pulled(folder: Path, say: Callable[[str], object]) -> Iterator[None]:
    """Bring the folder to the copy's state now and every few seconds, without checkpoints and models; nothing without a copy."""
    if remote.uri_of(folder) is None:
        yield
        return
    remote.pull(folder, large=False)
    with repeating(STEP_SECONDS, _patiently(lambda: remote.pull(folder, large=False), say)):
        yield


def _wait_for_the_dead(folder: Path) -> None:
    """Go on where nobody runs the sweep. Raises MachineError where a driver elsewhere shows signs of life: a store knows no locks."""
    sign = last_sign(folder)
    while (other := owner(folder)) is not None:
        if last_sign(folder) > sign:
            raise MachineError(f"{folder.name} is being run by {other}. Wait for it, or stop it: python -m archsweep stop {folder.name}.")
        time.sleep(STEP_SECONDS)
        remote.pull(folder)


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
