"""What others see of a run: a live view on a terminal, plain lines elsewhere, and sweep.log and progress.json for other terminals."""

from __future__ import annotations

import threading
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from typing import TYPE_CHECKING

from rich.live import Live

from archsweep.atomic import write_atomically
from archsweep.records.files import read_records
from archsweep.records.schema import LOG_FILE, PROGRESS_FILE, RECORDS_FILE, TRIALS_FOLDER
from archsweep.records.write import recorded_outcome
from archsweep.running.background import repeating
from archsweep.running.snapshot import state_of, time_left
from archsweep.running.tally import Tally
from archsweep.running.view import view

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from rich.console import Console, RenderableType

    from archsweep.planning.plan import Plan, Trial
    from archsweep.records.write import Outcome
    from archsweep.running.worker import Report

PROGRESS_SECONDS = 2.0  # between two writings of progress.json
VIEWS_PER_SECOND = 2.0
FEWEST_LINES = 10  # of a view, however low the terminal is


class Progress:
    """Tells of a run of `trials`, those of the plan that are left, in the sweep's folder and on the console."""

    def __init__(self, plan: Plan, trials: Sequence[Trial], folder: Path, console: Console) -> None:
        self._folder, self._console = folder, console
        self._tally = Tally(plan.trials, trials, unknown=plan.unchosen, metric=plan.metric)
        self._lock = threading.RLock()  # the screen and progress.json are drawn from threads of their own
        left = {trial.id for trial in trials}
        for trial in (trial for trial in plan.trials if trial.id not in left):
            self._ended_before(trial)

    def _ended_before(self, trial: Trial) -> None:
        place = self._folder / TRIALS_FOLDER / trial.id
        rows = [evaluations[-1] for evaluations in read_records(place / RECORDS_FILE).values()]
        with self._lock:
            self._tally.ended(trial, state_of(recorded_outcome(place)), rows)

    @contextmanager
    def written(self) -> Iterator[None]:
        """Keep progress.json up to date for the length of the block; the log then says how it ended."""
        try:
            with repeating(PROGRESS_SECONDS, self._write):
                yield
        except BaseException as error:
            why = "stopped" if isinstance(error, KeyboardInterrupt) else f"ended by {type(error).__name__}: {error}"
            with self._lock:
                self._tally.stopped()
            self._log(f"{why}, {self._summary()}")
            raise
        finally:
            self._write()
        self._log(f"ended, {self._summary()}")

    @contextmanager
    def shown(self, trials: Sequence[Trial]) -> Iterator[None]:
        """Show the training for the length of the block, of the trials that are left or of the parts that they were split into."""
        with self._lock:
            self._tally.expect(trials)
        self._note(f"{len(trials)} trials to train")
        with self._live():
            yield

    def trial_began(self, trial: Trial) -> None:
        with self._lock:
            self._tally.began(trial)
        self._note(f"{trial.label}: {len(trial.replicas)} replicas began", trial)

    def trial_recorded(self, trial: Trial, how: str) -> None:
        """A trial that a search suggests has ended already: `how` says where."""
        self._ended_before(trial)
        self.say(f"{trial.label}: {how}", trial)

    def trial_noted(self, trial: Trial, notes: Sequence[str]) -> None:
        for note in notes:
            self.say(f"{trial.label}: {note}", trial)

    def trial_waits_again(self, trial: Trial, why: str) -> None:
        """An attempt failed, and another one will follow."""
        with self._lock:
            self._tally.waits_again(trial)
        self.trial_noted(trial, [why])

    def trial_reported(self, trial: Trial, report: Report) -> None:
        with self._lock:
            self._tally.reported(trial, report)

    def trial_finished(self, trial: Trial, last: Report, outcome: Outcome) -> None:
        with self._lock:
            self._tally.ended(trial, state_of(outcome), last["rows"])
        ended = outcome.reason or f"finished, validation loss {last['val_loss']:.4f}"
        self._note(f"{trial.label}: {ended} ({self._summary()})", trial)

    def trial_failed(self, trial: Trial, reason: str, details: Path) -> None:
        with self._lock:
            self._tally.ended(trial, "failed")
        self.say(f"{trial.label}: failed, {reason} (all of it in {details})", trial)

    @property
    def waits(self) -> bool:
        """Whether a trial waits to begin."""
        with self._lock:
            return self._tally.snapshot().counts.to_do > 0

    def say(self, line: str, trial: Trial | None = None) -> None:
        """A line for the screen and the log."""
        self._log(line, trial)
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _note(self, line: str, trial: Trial | None = None) -> None:
        """A line that the live view says in its own way."""
        self._log(line, trial)
        if not self._console.is_terminal:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _log(self, line: str, trial: Trial | None = None) -> None:
        which = f"[{trial.id}] " if trial else ""
        # One write a line: a signal's line never falls into another's. A disk that is full or gone ends a sweep by its records, not here.
        with suppress(OSError), open(self._folder / LOG_FILE, "ab", buffering=0) as log:
            log.write(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S} {which}{' '.join(line.splitlines())}\n".encode())

    def _summary(self) -> str:
        with self._lock:
            seen = self._tally.snapshot()
        best = [f"best {seen.best}"] if seen.best else []
        left = [time_left(seen.seconds_left)] if seen.counts.running + seen.counts.to_do else []
        return ", ".join([str(seen.counts), *best, *left])

    def _live(self) -> AbstractContextManager[object]:
        if not self._console.is_terminal:
            return nullcontext()
        return Live(get_renderable=self._view, console=self._console, refresh_per_second=VIEWS_PER_SECOND)

    def _view(self) -> RenderableType:
        with self._lock:
            return view(self._tally.snapshot(), max(FEWEST_LINES, self._console.height))

    def _write(self) -> None:
        if not self._folder.is_dir():
            return  # moved or unmounted: not to be made anew
        with self._lock, suppress(OSError):
            write_atomically(self._folder / PROGRESS_FILE, self._tally.snapshot().model_dump_json(indent=1) + "\n")
