"""What a sweep's folder can do without: never its plan, configs, records or results."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from archsweep.atomic import OTHER_RESULTS, must_be_writable
from archsweep.errors import MachineError
from archsweep.records.files import load_plan
from archsweep.records.schema import CHECKPOINT_FOLDER, MODEL_FOLDER, MODELS_FOLDER, OUTCOME_FILE, RECORDS_FILE, TRIALS_FOLDER
from archsweep.records.write import recorded_outcome
from archsweep.running.lock import locked, owner
from archsweep.running.recorder import ENDED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class Removable(NamedTuple):
    """A file or folder that can go."""

    path: Path
    size: int  # bytes
    what: str


@contextmanager
def removable(folder: Path, models: bool) -> Iterator[list[Removable]]:
    """What can go, for a block in which nobody else runs the sweep; `models` adds the models that were kept.

    Raises RecordError where there is no sweep, MachineError where a driver runs it.
    """
    trials = [folder / TRIALS_FOLDER / trial["id"] for trial in load_plan(folder)["trials"]]
    if driver := owner(folder):
        raise MachineError(f"{folder} is being run by {driver}. Wait for it, or stop it: python -m archsweep stop {folder.name}.")
    with locked(folder):
        found = [*_drafts(folder), *_drafts(folder / TRIALS_FOLDER)]
        for trial in (trial for trial in trials if trial.is_dir() and not trial.is_symlink()):
            found += _of_trial(trial, models)
        yield found


def remove(found: Sequence[Removable]) -> None:
    """Remove them. Raises MachineError for what cannot be."""
    for each in found:
        with must_be_writable(each.path.parent, OTHER_RESULTS):
            if each.path.is_dir():
                shutil.rmtree(each.path)
            else:
                each.path.unlink(missing_ok=True)


def _of_trial(trial: Path, models: bool) -> Iterator[Removable]:
    outcome = recorded_outcome(trial)
    checkpoint = trial / CHECKPOINT_FOLDER
    if outcome is not None and outcome.status in ENDED and checkpoint.is_dir():
        yield _removable(checkpoint, "checkpoint of a finished trial")
    else:
        yield from _drafts(checkpoint)
    yield from _drafts(trial)
    for name in (RECORDS_FILE, OUTCOME_FILE):
        yield from (_removable(path, "attempt that was set aside") for path in sorted(trial.glob(f"{name}.attempt[0-9]*")))
    if models:
        yield from (_removable(trial / name, "model") for name in (MODEL_FOLDER, MODELS_FOLDER) if (trial / name).is_dir())


def _drafts(folder: Path) -> Iterator[Removable]:
    """Files that a kill kept from being put in place."""
    yield from (_removable(path, "left-over draft") for path in sorted(folder.glob(".*.tmp")))


def _removable(path: Path, what: str) -> Removable:
    files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
    return Removable(path, sum(each.stat().st_size for each in files), what)
