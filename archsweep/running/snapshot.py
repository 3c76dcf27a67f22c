"""What is known of a run at one moment: what the screen shows, progress.json holds, and `status` reads from another terminal."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from archsweep.records.write import Outcome

State = Literal["to_do", "running", "finished", "stopped", "diverged", "failed"]


def state_of(outcome: Outcome | None) -> State:
    """What a trial's recorded outcome says of it: it diverged where every replica of it did."""
    if outcome is None:
        return "to_do"
    if outcome.status != "finished":
        return outcome.status
    return "finished" if outcome.reason is None else "diverged"


class _Known(BaseModel):
    model_config = ConfigDict(frozen=True)


class Counts(_Known):
    """Trials by their state; each is in one."""

    total: int
    finished: int = 0
    running: int = 0
    stopped: int = 0
    failed: int = 0
    diverged: int = 0
    to_do: int = 0

    @classmethod
    def of(cls, states: Iterable[State] | Mapping[State, int]) -> Self:
        """How many there are of each, or of each as they were counted."""
        counted = Counter(states)
        return cls.model_validate({"total": counted.total(), **counted})

    @property
    def left(self) -> int:
        """Those that the next run would train."""
        return self.to_do + self.failed

    def __str__(self) -> str:
        rest = [f"{number} {name}" for name in ("running", "stopped", "failed", "diverged") if (number := getattr(self, name))]
        to_do = [f"{self.to_do} to do"] if self.to_do else []
        return ", ".join([f"{self.finished} of {self.total} trials finished", *rest, *to_do])


class RunningTrial(_Known):
    """How far a trial is. `step` is the mean over its replicas, `val_loss` its best setting's mean at the last evaluation."""

    id: str
    label: str
    step: float
    steps: int
    val_loss: float | None
    tokens_per_second: float | None


class Best(_Known):
    """The best variant so far by the plan's metric: the mean over the seeds of its best tuned setting, and half of its 95 % t interval."""

    variant: str
    val_loss: float
    bits_per_byte: float | None = None  # where that is the plan's metric
    half_width: float | None  # of the metric; None for one seed
    seeds: int
    learning_rate: float
    weight_decay: float

    def __str__(self) -> str:
        value, unit = (self.val_loss, "") if self.bits_per_byte is None else (self.bits_per_byte, " bits/byte")
        spread = "" if self.half_width is None else f" ± {self.half_width:.4f}"
        return f"{value:.4f}{spread}{unit} {self.variant} (learning_rate {self.learning_rate:g}, {self.seeds} seeds)"


class Snapshot(_Known):
    """One moment of a run; `share_done` (0 to 1) and `seconds_left` count this run's work, not what was finished before it."""

    at: datetime
    counts: Counts
    running: tuple[RunningTrial, ...]
    best: Best | None
    tokens_per_second: float | None
    share_done: float
    elapsed_seconds: float
    seconds_left: float | None


def time_left(seconds: float | None) -> str:
    """In words, as exact as such a guess is."""
    if seconds is None:
        return "time left unknown"
    if seconds < 90:
        return f"about {seconds:.0f} s left"
    minutes = seconds / 60
    return f"about {minutes:.0f} min left" if minutes < 90 else f"about {minutes / 60:.1f} h left"
