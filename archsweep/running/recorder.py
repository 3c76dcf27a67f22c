"""The driver's side of a run: every report goes to the trial's records first, then to whoever watches. Both runners use it."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from archsweep.atomic import OTHER_RESULTS, must_be_writable
from archsweep.planning import throughput
from archsweep.records import write
from archsweep.records.files import read_records
from archsweep.records.schema import CHECKPOINT_FOLDER, MODEL_FOLDER, MODELS_FOLDER, OUTCOME_FILE, RECORDS_FILE, TRIALS_FOLDER
from archsweep.running.trackers import replica_name
from archsweep.training.best import best_replica, best_setting_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from archsweep.planning.plan import Trial
    from archsweep.planning.search import Result, Search
    from archsweep.running.early_stopping import EarlyStopping
    from archsweep.running.progress import Progress
    from archsweep.running.trackers import Trackers
    from archsweep.running.worker import KeepModels, Report

ERROR_FILE = "error.txt"
ENDED = {"finished", "stopped"}  # of a trial that is not run again


class Place:
    """The folder that a run began in, which its path may no longer lead to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with self._writable():
            self._identity = _identity(folder)

    @property
    def trials(self) -> Path:
        """Where the trials' folders are."""
        return self.folder / TRIALS_FOLDER

    @contextmanager
    def opened(self) -> Iterator[Path]:
        """The folder, for writing. Raises MachineError where it cannot be written, or is no longer the one that the run began in."""
        with self._writable():
            if _identity(self.folder) != self._identity:
                raise OSError("it is not the folder in which the run began, but was unmounted, moved or replaced")
            yield self.folder

    def _writable(self) -> AbstractContextManager[None]:
        return must_be_writable(self.folder, "What was recorded is there; the same command goes on once there is room and permission.")


class Recorder:
    """Writes a sweep's records as its trials report, and tells `progress`, `trackers`, the `search` that suggested them, and
    `early_stopping`; with `cache_dir`, what training took is kept there for plans. `nearly_over` is called when a trial has ended and none
    has yet to begin.

    Every method raises MachineError where the folder cannot be written, or is no longer the one that the run began in.
    """

    def __init__(
        self,
        place: Place,
        progress: Progress,
        trackers: Trackers,
        cache_dir: Path | None = None,
        search: Search | None = None,
        early_stopping: EarlyStopping | None = None,
        nearly_over: Callable[[], object] = lambda: None,
    ) -> None:
        self._nearly_over = nearly_over
        self.place, self._cache_dir = place, cache_dir
        self._progress, self._trackers = progress, trackers
        self._search, self._early_stopping = search, early_stopping
        self._reported: set[str] = set()

    def begin(self, trial: Trial) -> None:
        with self._opened(trial) as folder:
            write.begin(folder, trial.config)
        self._reported.discard(trial.id)
        self._progress.trial_began(trial)

    def report(self, trial: Trial, report: Report) -> None:
        with self._opened(trial) as folder:
            if trial.id not in self._reported:
                self._reported.add(trial.id)
                if not report["resumed_at"]:
                    write.set_aside_records(folder)
                self._progress.trial_noted(trial, _notes(report))
                self._trackers.begin(trial, [row for rows in read_records(folder / RECORDS_FILE).values() for row in rows])
            if report["rows"]:
                self._trackers.report(trial, write.append(folder, report["rows"]))
        if self._search and report["rows"]:
            self._search.report(trial, report["rows"][0]["step"], report["val_loss"])
        self._progress.trial_reported(trial, report)

    def stops(self, trial: Trial, report: Report) -> bool:
        """Whether the trial ends here, before its time; `finish` then says why."""
        return self._early_stopping is not None and self._early_stopping.stops(trial, report["rows"])

    def finish(self, trial: Trial, last: Report) -> None:
        outcome = self._outcome(trial, last)
        with self._opened(trial) as folder:
            write.finish(folder, outcome)
        self.tidy(trial)
        self._tell(trial)
        self._keep_throughput(trial, last)
        self._trackers.end(trial, failed=outcome.status == "finished" and outcome.reason is not None)
        self._progress.trial_finished(trial, last, outcome)
        self._leave_place()

    def _keep_throughput(self, trial: Trial, last: Report) -> None:
        line = None if self._cache_dir is None else _throughput(trial, last)
        if self._cache_dir is not None and line is not None:
            with suppress(OSError):  # a cache, which no sweep fails for
                throughput.append(self._cache_dir, line)

    def _outcome(self, trial: Trial, last: Report) -> write.Outcome:
        facts = {name: last[name] for name in set(write.Outcome.model_fields) & set(last)}
        if stopped := self._early_stopping and self._early_stopping.reasons.get(trial.id):
            return write.Outcome(status="stopped", reason=stopped, stopped_step=last["rows"][0]["step"], **facts)
        lost = all(row["status"] == "diverged" for row in last["rows"])
        reason = f"every replica diverged: {last['rows'][0]['reason']}" if lost else None
        return write.Outcome(status="finished", reason=reason, **facts)

    def tidy(self, trial: Trial) -> None:
        """Remove the checkpoint of a trial that has ended; a worker that was told to stop may have saved itself once more."""
        with self._opened(trial) as folder:
            if recorded_status(folder) in ENDED:
                shutil.rmtree(folder / CHECKPOINT_FOLDER, ignore_errors=True)

    def _tell(self, trial: Trial) -> None:
        if self._search and (result := recorded_result(self.trial_folder(trial))):
            self._search.tell(trial, result)

    def fail(self, trial: Trial, reason: str, details: str) -> None:
        """The trial's end."""
        self._write_failure(trial, reason, details)
        self._trackers.end(trial, failed=True)
        self._tell(trial)
        self._progress.trial_failed(trial, reason, self.trial_folder(trial) / ERROR_FILE)
        self._leave_place()

    def _leave_place(self) -> None:
        if not self._progress.waits:
            self._nearly_over()

    def retry(self, trial: Trial, reason: str, details: str, how: str) -> None:
        """A failure after which the trial runs again: kept as an attempt."""
        self._write_failure(trial, reason, details)
        with self._opened(trial) as folder:
            write.set_aside_outcome(folder)
        self._progress.trial_waits_again(trial, f"{reason}; {how}")

    def _write_failure(self, trial: Trial, reason: str, details: str) -> None:
        with self._opened(trial) as folder:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ERROR_FILE).write_text(details)
            write.finish(folder, write.Outcome(status="failed", reason=reason))

    def trial_folder(self, trial: Trial) -> Path:
        """Where the trial's records, checkpoint and model are."""
        return self.place.trials / trial.id

    @contextmanager
    def _opened(self, trial: Trial) -> Iterator[Path]:
        """The trial's folder, for writing."""
        with self.place.opened():
            yield self.trial_folder(trial)


def _identity(folder: Path) -> tuple[int, int]:
    """Which folder a path leads to now: a mount that vanishes leaves another one of the same name."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _throughput(trial: Trial, last: Report) -> throughput.Measured | None:
    """What the trial's training took; None where it was too short to tell."""
    rows = last["rows"]
    tokens = last["tokens"] * len(rows)
    seconds = sum(row["tokens"] / row["tokens_per_second"] for row in rows)
    if seconds < throughput.SHORTEST_SECONDS:
        return None
    config, was_pruned = trial.config, len(rows) < len(trial.replicas)
    return throughput.measured(
        config,
        "trial",
        device_name=last["device_name"],
        precision=last["precision_used"],
        replicas=len(rows),
        stack_size=max(row["stack_size"] for row in rows),
        seconds_per_token=seconds / tokens,
        evaluated_tokens=trial.evaluated_tokens * len(rows),
        other_seconds=None if last["resumed_at"] or was_pruned else max(0.0, last["trial_seconds"] - seconds),
    )


def _notes(report: Report) -> list[str]:
    resumed = [f"goes on from its checkpoint at step {report['resumed_at']:.0f}"] if report["resumed_at"] else []
    return [*report["warnings"], *resumed]


def to_train(trials: Sequence[Trial], folder: Path, *, retry_failed: bool = True) -> list[Trial]:
    """Those of `trials` that have not finished in the sweep's `folder`, in their order; without `retry_failed` nor failed."""
    ended = ENDED if retry_failed else {*ENDED, "failed"}
    return [trial for trial in trials if recorded_status(folder / TRIALS_FOLDER / trial.id) not in ended]


def recorded_status(folder: Path) -> str | None:
    """How the trial in `folder` ended; None where it has not."""
    outcome = write.recorded_outcome(folder)
    return None if outcome is None else outcome.status


def recorded_result(folder: Path) -> Result | None:
    """How the trial in `folder` ended, as a search is told; None where it has not."""
    from archsweep.planning.search import Result

    if (outcome := write.recorded_outcome(folder)) is None:
        return None
    losses = {step: best_setting_loss(rows) for step, rows in write.recorded_evaluations(folder).items()}
    return Result(outcome.status, losses[max(losses)] if losses else float("inf"), outcome.decode_tokens_per_second, losses)


def kept_models(folder: Path) -> dict[str, Path]:
    """The models that the trial in `folder` has left, by their replicas' names: its best one's, or every one's."""
    found = {path.name: path for path in (folder / MODELS_FOLDER).glob("*")}
    evaluations = write.recorded_evaluations(folder)
    rows = evaluations[max(evaluations)] if evaluations else []
    if (folder / MODEL_FOLDER).is_dir() and rows and (best := best_replica(rows)) is not None:
        found[replica_name(rows[best])] = folder / MODEL_FOLDER
    return found


def reuse(trials: Sequence[Trial], folder: Path, keep_models: KeepModels, text_id: Callable[[Trial], str]) -> list[Trial]:
    """Copy those of `trials` that another sweep beside `folder` has finished, with the models that are kept, as far as it has them; returns
    the trials. A trial's name is all of its content but how much of a hub's dataset was read, which `text_id` names: one of the same name
    and text is the same trial. Raises MachineError."""
    return [
        trial
        for trial in trials
        if (found := finished_elsewhere(trial, folder))
        and recorded_text(found) in (None, text_id(trial))
        and _copy(found, folder / TRIALS_FOLDER / trial.id, keep_models)
    ]


def recorded_text(folder: Path) -> str | None:
    """Which tokens the trial in `folder` was trained on; None where that is not recorded."""
    outcome = write.recorded_outcome(folder)
    return None if outcome is None else outcome.corpus_id


def finished_elsewhere(trial: Trial, folder: Path) -> Path | None:
    """The folder of the very trial in a sweep beside `folder` that has finished it."""
    found = sorted(path.parent for path in folder.parent.glob(f"*/{TRIALS_FOLDER}/{trial.id}/{OUTCOME_FILE}"))
    return next((path for path in found if path.parents[1] != folder and recorded_status(path) == "finished"), None)


def _copy(found: Path, target: Path, keep_models: KeepModels) -> bool:
    """Whether `target` has taken over the finished trial `found`, whole; one that was begun there goes on instead."""
    if (target / RECORDS_FILE).exists():
        return False
    unwanted = {"all": (), "best": (MODELS_FOLDER,), "none": (MODEL_FOLDER, MODELS_FOLDER)}[keep_models]
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with must_be_writable(target, OTHER_RESULTS):
        shutil.rmtree(draft, ignore_errors=True)  # of a process of the same number, as in a container, that was killed
        try:
            # A trial that has just finished may be about to lose its checkpoint.
            shutil.copytree(found, draft, ignore=shutil.ignore_patterns(CHECKPOINT_FOLDER, "*.tmp", *unwanted))
            outcome = write.recorded_outcome(draft)
            assert outcome is not None
            write.finish(draft, outcome.model_copy(update={"reused_from": found.parents[1].name}))
            shutil.rmtree(target, ignore_errors=True)
            os.replace(draft, target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return True


def reason_in(traceback: str) -> str:
    """What happened, from a traceback's text: everything from the line that names the exception on, in one line."""
    lines = [line for line in traceback.splitlines() if line.strip()]
    named = [number for number, line in enumerate(lines) if re.match(r"[A-Za-z_][\w.]*(:|$)", line)]
    return " ".join(line.strip() for line in lines[named[-1] if named else -1 :])
