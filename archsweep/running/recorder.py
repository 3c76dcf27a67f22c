"""The driver's side of a run: every report goes to the trial's records first, then to whoever watches. Both runners use it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from archsweep.records import write

if TYPE_CHECKING:
    from pathlib import Path

    from archsweep.planning.plan import Plan, Trial
    from archsweep.running.progress import Progress
    from archsweep.running.worker import Report

TRIALS_FOLDER = "trials"
ERROR_FILE = "error.txt"


class Recorder:
    """Writes a sweep's records as its trials report, and tells `progress`."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self._folder = folder
        self._progress = progress

    def begin(self, trial: Trial) -> None:
        write.begin(self._trial_folder(trial), trial.config)
        self._progress.trial_began(trial)

    def report(self, trial: Trial, report: Report) -> None:
        write.append(self._trial_folder(trial), report["rows"])
        self._progress.trial_reported(trial, report["step"], report["val_loss"])

    def finish(self, trial: Trial, last: Report) -> None:
        outcome = {name: last[name] for name in ("trial_seconds", "hostname", "device_name", "precision_used", "software", "corpus_id")}
        write.finish(self._trial_folder(trial), write.Outcome(status="finished", **outcome))
        self._progress.trial_finished(trial, last["val_loss"])

    def fail(self, trial: Trial, reason: str, details: str) -> None:
        folder = self._trial_folder(trial)
        (folder / ERROR_FILE).write_text(details)
        write.finish(folder, write.Outcome(status="failed", reason=reason))
        self._progress.trial_failed(trial, reason, folder / ERROR_FILE)

    def _trial_folder(self, trial: Trial) -> Path:
        return self._folder / TRIALS_FOLDER / trial.id


def unfinished(plan: Plan, folder: Path) -> list[Trial]:
    """The plan's trials that have not finished, in its order: the longest first."""
    return [trial for trial in plan.trials if not _is_finished(folder / TRIALS_FOLDER / trial.id)]


def _is_finished(folder: Path) -> bool:
    outcome = write.recorded_outcome(folder)
    return outcome is not None and outcome.status == "finished"


def reason_in(traceback: str) -> str:
    """What happened, from a traceback's text: everything from the line that names the exception on, in one line."""
    lines = [line for line in traceback.splitlines() if line.strip()]
    named = [number for number, line in enumerate(lines) if re.match(r"[A-Za-z_][\w.]*(:|$)", line)]
    return " ".join(line.strip() for line in lines[named[-1] if named else -1 :])
