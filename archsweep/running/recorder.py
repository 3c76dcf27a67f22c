"""The driver's side of a run: every report goes to the trial's records first, then to whoever watches. Both runners use it."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from archsweep.planning import throughput
from archsweep.records import write
from archsweep.records.schema import CHECKPOINT_FOLDER, TRIALS_FOLDER

if TYPE_CHECKING:
    from pathlib import Path

    from archsweep.planning.plan import Plan, Trial
    from archsweep.running.progress import Progress
    from archsweep.running.worker import Report

ERROR_FILE = "error.txt"


class Recorder:
    """Writes a sweep's records as its trials report, and tells `progress`; with `cache_dir`, what training took is kept there for plans."""

    def __init__(self, folder: Path, progress: Progress, cache_dir: Path | None = None) -> None:
        self._folder, self._cache_dir = folder, cache_dir
        self._progress = progress
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
        self._progress.trial_reported(trial, report["step"])

    def finish(self, trial: Trial, last: Report) -> None:
        names = set(write.Outcome.model_fields) & set(last)
        lost = all(row["status"] == "diverged" for row in last["rows"])
        reason = f"every replica diverged: {last['rows'][0]['reason']}" if lost else None
        outcome = write.Outcome(status="finished", reason=reason, **{name: last[name] for name in names})
        write.finish(self.trial_folder(trial), outcome)
        shutil.rmtree(self.trial_folder(trial) / CHECKPOINT_FOLDER, ignore_errors=True)
        self._keep_throughput(trial, last)
        self._progress.trial_finished(trial, last["val_loss"], reason)

    def _keep_throughput(self, trial: Trial, last: Report) -> None:
        line = None if self._cache_dir is None else _throughput(trial, last)
        if self._cache_dir is not None and line is not None:
            with suppress(OSError):  # a cache, which no sweep fails for
                throughput.append(self._cache_dir, line)

    def fail(self, trial: Trial, reason: str, details: str) -> None:
        folder = self.trial_folder(trial)
        (folder / ERROR_FILE).write_text(details)
        write.finish(folder, write.Outcome(status="failed", reason=reason))
        self._progress.trial_failed(trial, reason, folder / ERROR_FILE)

    def trial_folder(self, trial: Trial) -> Path:
        """Where the trial's records, checkpoint and model are."""
        return self._folder / TRIALS_FOLDER / trial.id


def _throughput(trial: Trial, last: Report) -> throughput.Measured | None:
    """What the trial's training took; None where it was too short to tell."""
    rows = last["rows"]
    tokens = last["tokens"] * len(rows)
    seconds = sum(row["train_seconds"] / row["stack_size"] for row in rows)
    if seconds < throughput.SHORTEST_SECONDS:
        return None
    config = trial.config
    return throughput.measured(
        config,
        "trial",
        device_name=last["device_name"],
        precision=last["precision_used"],
        replicas=len(rows),
        stack_size=max(row["stack_size"] for row in rows),
        seconds_per_token=seconds / tokens,
        evaluated_tokens=config.num_evaluations * config.eval_tokens * len(rows),
        other_seconds=None if last["resumed_at"] else max(0.0, last["trial_seconds"] - seconds),
    )


def _notes(report: Report) -> list[str]:
    resumed = [f"goes on from its checkpoint at step {report['resumed_at']}"] if report["resumed_at"] else []
    return [*report["warnings"], *resumed]


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
