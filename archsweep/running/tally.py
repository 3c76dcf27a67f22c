"""A run's accounts: from what its trials report to a Snapshot."""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import fmean, stdev
from time import perf_counter
from typing import TYPE_CHECKING, Any

from archsweep.running.snapshot import Best, Counts, RunningTrial, Snapshot, State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from archsweep.planning.plan import Trial
    from archsweep.running.worker import Report
    from archsweep.vocabulary import Metric

RATE_SECONDS = 30.0  # of reports that a trial's tokens per second are taken over
CONFIDENCE = 0.95

Setting = tuple[str, float, float]  # a variant at a learning rate and a weight decay


class Tally:
    """What a run of `trials` has done; `planned` are all trials of the plan, those that had ended before among them."""

    def __init__(
        self,
        planned: Sequence[Trial],
        trials: Sequence[Trial],
        clock: Callable[[], float] = perf_counter,
        *,
        unknown: int = 0,
        metric: Metric = "val_loss",
    ) -> None:
        """`unknown` more trials will come, which a search has yet to suggest: each is taken for the mean of those that are known; `metric`
        says which is the best."""
        self._unknown = unknown
        self._clock, self._began = clock, clock()
        self._states: dict[str, State] = {}
        self._counts: Counter[State] = Counter()  # of the states: whoever looks, after every trial, does not go through all of them
        self._waiting: dict[str, int] = {}  # the work of trials that have not begun
        self._waiting_work = 0
        self._left: dict[str, float] = {}  # of those that have, and not ended
        self._work: dict[str, int] = {}
        self._known_work = 0
        self._attempts: dict[str, _Attempt] = {}
        self._gained = 0.0
        self._first_report: tuple[float, float] | None = None  # when, and the work done by then: start-up is not the rate
        self._last_report = 0.0
        self._losses = Losses(planned, metric)
        for trial in planned:
            self._set(trial.id, "to_do")
        self.expect(trials)

    def expect(self, trials: Sequence[Trial]) -> None:
        """These are left to train, instead of those of before: their parts, where they were split."""
        for former in (*self._waiting, *self._left):
            self._counts[self._states.pop(former)] -= 1
        for trial in trials:
            self._set(trial.id, "to_do")
        self._work = {trial.id: trial.work for trial in trials}
        self._waiting, self._left = dict(self._work), {}
        self._known_work = self._waiting_work = sum(self._work.values())

    def began(self, trial: Trial) -> None:
        """An attempt at a trial, the first or a later one."""
        self._meet(trial)
        if trial.id not in self._work:
            self._work[trial.id] = trial.work
            self._known_work += trial.work
        self._set(trial.id, "running")
        self._waits_no_more(trial)
        self._left[trial.id] = self._work[trial.id]
        self._attempts[trial.id] = _Attempt(trial)

    def reported(self, trial: Trial, report: Report) -> None:
        attempt = self._attempts[trial.id]
        self._gained += attempt.take(report) * self._work[trial.id]
        self._left[trial.id] = (1 - attempt.step / attempt.steps) * self._work[trial.id]
        self._last_report = self._clock()
        if self._first_report is None:
            self._first_report = (self._last_report, self._gained)

    def ended(self, trial: Trial, state: State, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        """In this run or before it, with the last rows of its replicas."""
        self._meet(trial)
        self._set(trial.id, state)
        self._waits_no_more(trial)
        self._attempts.pop(trial.id, None)
        self._left.pop(trial.id, None)
        self._losses.add(trial.label, rows)

    def waits_again(self, trial: Trial) -> None:
        """An attempt is over and another one will follow, which has left to do what this one had."""
        self._meet(trial)
        self._set(trial.id, "to_do")
        self._attempts.pop(trial.id, None)

    def _meet(self, trial: Trial) -> None:
        """One that a search suggested is unknown no more."""
        if trial.id not in self._states:
            self._unknown -= 1
            self._losses.expect([trial])

    def _set(self, trial_id: str, state: State) -> None:
        if (before := self._states.get(trial_id)) is not None:
            self._counts[before] -= 1
        self._states[trial_id] = state
        self._counts[state] += 1

    def _waits_no_more(self, trial: Trial) -> None:
        self._waiting_work -= self._waiting.pop(trial.id, 0)

    def stopped(self) -> None:
        """The run is over: what was running is to do again."""
        for trial_id in self._attempts:
            self._set(trial_id, "to_do")
        self._attempts.clear()

    def snapshot(self) -> Snapshot:
        running = tuple(attempt.seen() for attempt in self._attempts.values())
        rates = [trial.tokens_per_second for trial in running if trial.tokens_per_second is not None]
        to_come: Counter[State] = Counter({"to_do": max(0, self._unknown)})
        unknown = to_come.total() * self._known_work / max(1, len(self._work))
        left, total = self._waiting_work + sum(self._left.values()) + unknown, self._known_work + unknown
        return Snapshot(
            at=datetime.now(UTC),
            counts=Counts.of(self._counts + to_come),
            running=running,
            best=self._losses.best,
            tokens_per_second=sum(rates) if rates else None,
            share_done=1 - left / total if total else 1.0,
            elapsed_seconds=self._clock() - self._began,
            seconds_left=self._seconds(left),
        )

    def _seconds(self, work: float) -> float | None:
        """How long so much work takes at the rate between the first report and the last; None where that is unknown."""
        if self._first_report is None or self._gained <= self._first_report[1]:
            return None
        began, before = self._first_report
        return work * (self._last_report - began) / (self._gained - before)


@dataclass
class _Attempt:
    """One attempt at a trial, by its reports."""

    trial: Trial
    step: float = 0.0
    val_loss: float = math.inf
    _moments: deque[tuple[float, float]] = field(default_factory=deque)  # (seconds, step) of the reports of the last RATE_SECONDS

    @property
    def steps(self) -> int:
        return max(1, self.trial.steps)

    def take(self, report: Report) -> float:
        """Take a report in; the share of the trial that was trained since the one before, or since the checkpoint that it went on from."""
        before = self.step if self._moments else report["resumed_at"]
        self.step, self.val_loss = report["step"], report["val_loss"]
        self._moments.append((report["trial_seconds"], self.step))
        while self._moments[-1][0] - self._moments[0][0] > RATE_SECONDS and len(self._moments) > 2:
            self._moments.popleft()
        return (self.step - before) / self.steps

    def seen(self) -> RunningTrial:
        return RunningTrial(
            id=self.trial.id,
            label=self.trial.label,
            step=self.step,
            steps=self.steps,
            val_loss=self.val_loss if math.isfinite(self.val_loss) else None,
            tokens_per_second=self._rate(),
        )

    def _rate(self) -> float | None:
        """Of all replicas together, evaluations included."""
        if len(self._moments) < 2 or self._moments[-1][0] == self._moments[0][0]:
            return None
        (began, first), (ended, last) = self._moments[0], self._moments[-1]
        return (last - first) * self.trial.config.tokens_per_step * len(self.trial.replicas) / (ended - began)


class Losses:
    """The losses of finished replicas by variant and tuned setting, whichever trials they come from, and the best of them by `metric`."""

    def __init__(self, planned: Sequence[Trial], metric: Metric = "val_loss") -> None:
        self._metric, self._lowest = metric, math.inf
        self._seeds: dict[Setting, set[int]] = defaultdict(set)
        self._found: dict[Setting, dict[int, Mapping[str, Any]]] = defaultdict(dict)
        self.best: Best | None = None
        self.expect(planned)

    def expect(self, planned: Sequence[Trial]) -> None:
        """The seeds that each setting has to finish."""
        for trial in planned:
            for replica in trial.replicas:
                self._seeds[trial.label, replica.learning_rate, replica.weight_decay].add(replica.seed)

    def add(self, variant: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take in the last rows of replicas. A setting counts once each of its planned seeds has finished."""
        for row in rows:
            if row["status"] == "finished":
                setting = variant, row["learning_rate"], row["weight_decay"]
                self._found[setting][row["seed"]] = row
                if self._found[setting].keys() >= self._seeds[setting]:
                    self._consider(setting)

    def _consider(self, setting: Setting) -> None:
        rows = list(self._found[setting].values())
        values = [row[self._metric] for row in rows]
        if fmean(values) < self._lowest:
            self._lowest = fmean(values)
            variant, learning_rate, weight_decay = setting
            self.best = Best(
                variant=variant,
                val_loss=fmean(row["val_loss"] for row in rows),
                bits_per_byte=self._lowest if self._metric == "bits_per_byte" else None,
                half_width=_half_width(values),
                seeds=len(rows),
                learning_rate=learning_rate,
                weight_decay=weight_decay,
            )


def _half_width(losses: Sequence[float]) -> float | None:
    """Half of the mean's t interval; None for one loss."""
    if len(losses) < 2:
        return None
    from scipy.special import stdtrit

    return float(stdtrit(len(losses) - 1, (1 + CONFIDENCE) / 2)) * stdev(losses) / math.sqrt(len(losses))
