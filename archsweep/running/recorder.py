"""The driver's side of a run: every report goes to the trial's records first, then to whoever watches. Both runners use it."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

from archsweep.records import write
from archsweep.records.schema import CHECKPOINT_FOLDER, TRIALS_FOLDER
from archsweep.running.worker import best_setting_loss

if TYPE_CHECKING:
    from pathlib import Path

    from archsweep.planning.plan import Plan, Trial
    from archsweep.planning.search import Result, Search
    from archsweep.running.early_stopping import EarlyStopping
    from archsweep.running.progress import Progress
    from archsweep.running.worker import Report

ERROR_FILE = "error.txt"


class Recorder:
    """Writes a sweep's records as its trials report, and tells `progress`, the `search` that suggested them, and `early_stopping`."""

    def __init__(self, folder: Path, progress: Progress, search: Search | None = None, early_stopping: EarlyStopping | None = None) -> None:
        self._folder = folder
        self._progress, self._search, self._early_stopping = progress, search, early_stopping
        self._reported: set[str] = set()

    def begin(self, trial: Trial) -> None:
        write.begin(self.trial_folder(trial), trial.config)
        self._reported.discard(trial.id)
        self._progress.trial_began(trial)

    def report(self, trial: Trial, report: Report) -> None:
        folder = self.trial_folder(trial)
        if trial.id not in self._reported:
            self._reported.add(trial.id)
            if not report["resumed_at"]:
                write.set_aside_records(folder)
            self._progress.trial_noted(trial, _notes(report))
        if report["rows"]:
            write.append(folder, report["rows"])
            if self._search:
                self._search.report(trial, report["rows"][0]["step"], report["val_loss"])
        self._progress.trial_reported(trial, report["step"])

    def stops(self, trial: Trial, report: Report) -> bool:
        """Whether the trial ends here, before its time; `finish` then says why."""
        return self._early_stopping is not None and self._early_stopping.stops(trial, report["rows"])

    def finish(self, trial: Trial, last: Report) -> None:
        names = set(write.Outcome.model_fields) & set(last)
        facts = {name: last[name] for name in names}
        if stopped := self._early_stopping and self._early_stopping.reasons.get(trial.id):
            outcome = write.Outcome(status="stopped", reason=stopped, stopped_step=last["rows"][0]["step"], **facts)
        else:
            lost = all(row["status"] == "diverged" for row in last["rows"])
            reason = f"every replica diverged: {last['rows'][0]['reason']}" if lost else None
            outcome = write.Outcome(status="finished", reason=reason, **facts)
        write.finish(self.trial_folder(trial), outcome)
        self.tidy(trial)
        self._tell(trial)
        self._progress.trial_finished(trial, last["val_loss"], outcome.reason)

    def tidy(self, trial: Trial) -> None:
        """Remove the checkpoint of a trial that has ended; a worker that was told to stop may have saved itself once more."""
        if _is_finished(self.trial_folder(trial)):
            shutil.rmtree(self.trial_folder(trial) / CHECKPOINT_FOLDER, ignore_errors=True)

    def _tell(self, trial: Trial) -> None:
        if self._search and (result := recorded_result(self.trial_folder(trial))):
            self._search.tell(trial, result)

    def fail(self, trial: Trial, reason: str, details: str) -> None:
        folder = self.trial_folder(trial)
        (folder / ERROR_FILE).write_text(details)
        write.finish(folder, write.Outcome(status="failed", reason=reason))
        self._tell(trial)
        self._progress.trial_failed(trial, reason, folder / ERROR_FILE)

    def trial_folder(self, trial: Trial) -> Path:
        """Where the trial's records, checkpoint and model are."""
        return self.home / trial.id

    @property
    def home(self) -> Path:
        """Where the trials' folders are."""
        return self._folder / TRIALS_FOLDER


def _notes(report: Report) -> list[str]:
    resumed = [f"goes on from its checkpoint at step {report['resumed_at']}"] if report["resumed_at"] else []
    return [*report["warnings"], *resumed]


def unfinished(plan: Plan, folder: Path) -> list[Trial]:
    """The plan's trials that have not finished, in its order: the longest first."""
    return [trial for trial in plan.trials if not _is_finished(folder / TRIALS_FOLDER / trial.id)]


def _is_finished(folder: Path) -> bool:
    outcome = write.recorded_outcome(folder)
    return outcome is not None and outcome.status in ("finished", "stopped")


def recorded_result(folder: Path) -> Result | None:
    """How the trial in `folder` ended, as a search is told; None where it has not."""
    from archsweep.planning.search import Result

    if (outcome := write.recorded_outcome(folder)) is None:
        return None
    losses = {step: best_setting_loss(rows) for step, rows in write.recorded_evaluations(folder).items()}
    return Result(outcome.status, losses[max(losses)] if losses else float("inf"), outcome.decode_tokens_per_second, losses)


def reason_in(traceback: str) -> str:
    """What happened, from a traceback's text: everything from the line that names the exception on, in one line."""
    lines = [line for line in traceback.splitlines() if line.strip()]
    named = [number for number, line in enumerate(lines) if re.match(r"[A-Za-z_][\w.]*(:|$)", line)]
    return " ".join(line.strip() for line in lines[named[-1] if named else -1 :])
