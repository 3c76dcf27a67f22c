"""Who runs a sweep, and how another process asks it to stop: by two files in the sweep's folder, on this host or another."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from archsweep.atomic import OTHER_RESULTS, must_be_writable, write_atomically
from archsweep.errors import MachineError
from archsweep.records.remote import uri_of
from archsweep.records.schema import LOCK_FILE as LOCK_FILE
from archsweep.records.schema import PROGRESS_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import TextIO

STOP_FILE = "stop"
TRIES, TRY_SECONDS = 5, 0.05  # who only looks holds the lock for a moment
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # what a disk without locks answers
LOOK_SECONDS = 0.5
SIGN_OF_LIFE_SECONDS = 60.0  # a driver on another host, whose lock may not show here, writes its progress every two


class Owner(BaseModel):
    """The process that runs a sweep."""

    model_config = ConfigDict(frozen=True)

    pid: int
    host: str
    since: datetime

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since.astimezone():%Y-%m-%d %H:%M:%S}"


class StopRequest(BaseModel):
    """What the stop file holds. It names the run that it is meant for: a store's copies may show it to the next one too."""

    model_config = ConfigDict(frozen=True)

    to: Owner
    by: str


@contextmanager
def locked(folder: Path, say: Callable[[str], object] = lambda line: None) -> Iterator[None]:
    """The sweep in `folder` for this process alone. Raises MachineError where another one has it, or the folder cannot be written.

    Where it was run on another host, whose lock may not show here, this waits until that one shows that it lives, or has not for a minute.
    """
    with must_be_writable(folder, OTHER_RESULTS):
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / LOCK_FILE, "a+")  # noqa: SIM115  # closed below, which is what gives the lock back
    with lock:
        with must_be_writable(folder, OTHER_RESULTS):
            taken = _take(lock, fcntl.LOCK_EX, TRIES)
        if taken is False:
            raise MachineError(f"{folder} is being run by {last_owner(folder) or 'another process'}. Wait for it, or stop it.")
        if taken is None or uri_of(folder) is None:  # else `mirror.pushed` has waited: the times of a store's copies tell less
            wait_for_the_dead(
                folder, lambda: _other_than_this(_living_owner(folder, taken is not None)), lambda: time.sleep(LOOK_SECONDS), say
            )
        (folder / STOP_FILE).unlink(missing_ok=True)
        lock.truncate(0)
        lock.write(Owner(pid=os.getpid(), host=socket.gethostname(), since=datetime.now(UTC)).model_dump_json())
        lock.flush()
        try:
            yield
        finally:
            (folder / STOP_FILE).unlink(missing_ok=True)
            lock.truncate(0)


def wait_for_the_dead(
    folder: Path, living: Callable[[], Owner | None], look_again: Callable[[], object], say: Callable[[str], object]
) -> None:
    """Go on where nobody runs the sweep: a driver that left no word, and whose lock would not show here, is given time to show a sign of
    life. `living` says who may live, and `look_again` takes a moment.

    By this process's own clock: that of a disk, a store or another machine may be another. Raises MachineError where the driver lives.
    """
    sign, end, told = last_sign(folder), time.monotonic() + SIGN_OF_LIFE_SECONDS, False
    while (other := living()) is not None and time.monotonic() < end:
        if last_sign(folder) > sign:
            raise MachineError(f"{folder.name} is being run by {other}. Wait for it, or stop it: python -m archsweep stop {folder.name}.")
        if not told:
            say(f"{folder.name} was last run by {other}, which left no word: waiting up to {SIGN_OF_LIFE_SECONDS:.0f} s for a sign of life")
            told = True
        look_again()


def owner(folder: Path) -> Owner | None:
    """The process that runs the sweep in `folder`, as far as this host can see; None where none does."""
    try:
        with open(folder / LOCK_FILE) as lock:
            if not (written := last_owner(folder)) or (taken := _take(lock, fcntl.LOCK_SH, 1)) is False:
                return written
    except OSError:
        return None
    return _living_owner(folder, has_locks=taken is not None)


def is_held_here(folder: Path) -> bool:
    """Whether a process of this machine runs the sweep, so that its folder here is the truth and a copy elsewhere is behind."""
    try:
        with open(folder / LOCK_FILE) as lock:
            taken = _take(lock, fcntl.LOCK_SH, 1)
    except OSError:
        return False
    if taken is not None:
        return not taken
    living = _living_owner(folder, has_locks=False)
    return living is not None and living.host == socket.gethostname()


def ask_to_stop(folder: Path, runner: Owner) -> None:
    """Ask the process that runs the sweep to save its trials and end. Raises MachineError where the folder cannot be written."""
    request = StopRequest(to=runner, by=f"process {os.getpid()} on {socket.gethostname()}")
    with must_be_writable(folder, OTHER_RESULTS):
        write_atomically(folder / STOP_FILE, request.model_dump_json())


def asked_to_stop(folder: Path) -> str | None:
    """Who asked the run whose lock the folder holds, None where nobody did."""
    try:
        request = StopRequest.model_validate_json((folder / STOP_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
    return request.by if request.to == last_owner(folder) else None


def _take(lock: TextIO, kind: int, tries: int) -> bool | None:
    """Try to lock the file, shared or exclusively; closing it gives the lock back. None where its disk has no locks."""
    for number in range(tries):
        time.sleep(TRY_SECONDS if number else 0)
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            continue
        except OSError as error:
            if error.errno in NO_LOCKS:
                return None
            raise
    return False


def last_owner(folder: Path) -> Owner | None:
    """Whom the lock file names. It may have been killed since."""
    try:
        return Owner.model_validate_json((folder / LOCK_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def _living_owner(folder: Path, has_locks: bool) -> Owner | None:
    """The process that the lock file names, where it lives although nothing is locked here: on another host, since not every shared disk
    has locks that reach there; by a store's copy on this one; or on a disk without locks."""
    if (written := last_owner(folder)) is None:
        return None
    is_lively = time.time() - last_sign(folder) < SIGN_OF_LIFE_SECONDS
    if written.host != socket.gethostname():
        return written if is_lively else None
    may_live = uri_of(folder) is not None or (not has_locks and is_lively)  # a lock of this host shows here, and ends with its process
    return written if may_live and _is_alive(written.pid) else None


def _other_than_this(owner: Owner | None) -> Owner | None:
    return None if owner and (owner.pid, owner.host) == (os.getpid(), socket.gethostname()) else owner


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def last_sign(folder: Path) -> float:
    """When a driver was last alive, as the times of its files tell (seconds since the epoch); 0 where there was none."""
    return max((path.stat().st_mtime for name in (LOCK_FILE, PROGRESS_FILE) if (path := folder / name).exists()), default=0.0)
