"""What a person sees of a run: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from rich.console import Console

    from archsweep.planning.plan import Trial


class Progress:
    """Counts what is done, in trials for people and in their cost's work for the time that is left."""

    def __init__(self, trials: Sequence[Trial], console: Console, more: int = 0) -> None:
        """`more` trials will come of which nothing is known yet: they are taken for the mean of those that are."""
        self._console = console
        self._total_work = sum(trial.work for trial in trials) * (len(trials) + more) / max(1, len(trials))
        self._done_work: dict[str, float] = {}
        self._count, self._finished, self._failed = len(trials) + more, 0, 0
        self._best: tuple[float, str] | None = None
        self._first_report: tuple[float, float] | None = None  # when, and the work done by then: start-up is not the rate
        self._bar: Bar | None = None
        self._task = TaskID(0)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the run for the length of the block."""
        if not self._console.is_terminal:
            self.say(f"{self._count} trials to train")
            yield
            return
        columns = (
            TextColumn("[progress.description]{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        with Bar(*columns, console=self._console) as self._bar:
            self._task = self._bar.add_task(self._summary(), total=self._total_work, left="starting")
            yield

    def trial_began(self, trial: Trial) -> None:
        if not self._console.is_terminal:
            self.say(f"{trial.label}: {len(trial.replicas)} replicas began")

    def trial_noted(self, trial: Trial, notes: Sequence[str]) -> None:
        for note in notes:
            self.say(f"{trial.label}: {note}")

    def trial_reported(self, trial: Trial, step: float) -> None:
        self._done_work[trial.id] = trial.work * step * trial.config.tokens_per_step / trial.cost.train_tokens
        if self._first_report is None:
            self._first_report = (perf_counter(), sum(self._done_work.values()))
        self._refresh()

    def trial_finished(self, trial: Trial, loss: float, reason: str | None) -> None:
        self._finished += 1
        if reason is None:
            self._best = min((loss, trial.label), self._best or (loss, trial.label))
        self._done_work[trial.id] = trial.work
        if not self._console.is_terminal:
            ended = reason or f"finished, validation loss {loss:.4f}"
            self.say(f"{trial.label}: {ended} ({self._summary()}, {self._time_left()})")
        self._refresh()

    def trial_failed(self, trial: Trial, reason: str, details: Path) -> None:
        self._failed += 1
        self._done_work[trial.id] = trial.work
        self.say(f"{trial.label}: failed, {reason} (all of it in {details})")
        self._refresh()

    def _refresh(self) -> None:
        if self._bar is not None:
            done = sum(self._done_work.values())
            self._bar.update(self._task, completed=done, description=self._summary(), left=self._time_left())

    def _summary(self) -> str:
        failed = f", {self._failed} failed" if self._failed else ""
        best = f", best {self._best[0]:.4f} ({self._best[1]})" if self._best else ""
        return f"{self._finished} of {self._count} trials finished{failed}{best}"

    def _time_left(self) -> str:
        """Work left over the rate since the first report."""
        done = sum(self._done_work.values())
        if self._first_report is None or done <= self._first_report[1]:
            return "time left unknown"
        began, before = self._first_report
        seconds = (self._total_work - done) * (perf_counter() - began) / (done - before)
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
