"""Forecast: what a plan will take on a machine (seconds, device-hours, money, disk), what it trains on, and what speaks against it."""

from __future__ import annotations

from math import exp, sqrt
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict

from archsweep.planning.split import makespan, split
from archsweep.planning.throughput import Measured, Rate, Rates

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from archsweep.planning.plan import Plan, Trial

FEW_TOKENS_PER_PARAMETER = 5  # below it the answer holds for this budget alone; twenty is compute-optimal (Hoffmann 2022, arXiv 2203.15556)
MANY_EPOCHS = 4  # beyond it repeated text is worth less and less (Muennighoff 2023, arXiv 2305.16264)
CHECKPOINTS_AT_ONCE = 3  # of a running trial: the two that are kept, and the next as it is written
RECORD_BYTES = 1_500  # of one replica at one evaluation
REPORT_BYTES = 6_000_000  # the page with its plotting library, and the figures
# More than any yet: NVIDIA's B200 multiplies bf16 at 2.25e15 FLOP/s, and a processor's core has two units of 16 float32 FMAs at 5 GHz.
GPU_FLOPS, PROCESSOR_FLOPS = 3e15, 3.2e11
MOST_UNASKED_SECONDS, MOST_UNASKED_MONEY = 3600, 10
SPREADS = 2  # standard deviations to either side: 19 times out of 20


class Kind(NamedTuple):
    """Devices of one name: how many trials run on them side by side, and what was measured on such devices."""

    device_name: str
    slots: int
    known: tuple[Measured, ...]


class Circumstances(NamedTuple):
    """Where a plan would run, and what is known there."""

    kinds: tuple[Kind, ...]  # none: a cluster whose devices show only when it runs
    devices: int  # GPUs, or processors where there are none
    gpu_bytes: int | None  # of the smallest GPU; None where trials train on processors
    corpus_tokens: int | None  # of the training split; None until it is tokenized
    price: float | None = None  # of a device for an hour
    in_parts: bool = True  # whether large trials may be split
    is_here: bool = True  # and not another machine, where --measure does not reach

    @property
    def on_gpu(self) -> bool:
        """Whether trials train on GPUs."""
        return self.gpu_bytes is not None

    @property
    def slots(self) -> int:
        """Trials side by side, of all kinds."""
        return max(1, sum(kind.slots for kind in self.kinds))

    @property
    def device_name(self) -> str:
        """The kinds' names."""
        return " and ".join(kind.device_name for kind in self.kinds) or "a cluster"


class Interval(BaseModel):
    """An expected number, and what it lies between 19 times out of 20 as far as the measurements tell."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float
    expected: float
    high: float

    def times(self, factor: float) -> Interval:
        """Each of its numbers times `factor`."""
        return Interval(low=self.low * factor, expected=self.expected * factor, high=self.high * factor)


class TrialForecast(BaseModel):
    """What one trial takes, all its replicas together; `seconds` is None where nothing alike was measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    replicas: int
    flops: int
    memory_bytes: int
    tokens_per_parameter: float
    epochs: float | None
    seconds: Interval | None
    measured: bool  # this very shape was


class Disk(BaseModel):
    """Bytes that a sweep needs: checkpoints while trials run, then the best model of each and the records with their report."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoints: int
    models: int
    records: int


class Forecast(BaseModel):
    """The plan's price. Times and money are of the trials that have not finished; everything else is of the whole plan. Those that a search
    has yet to choose are taken to be like the mean of those that are known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device_name: str
    devices: int
    on_gpu: bool
    slots: int
    trials: tuple[TrialForecast, ...]
    seconds_in_sum: Interval | None  # one trial after another
    seconds: Interval | None  # from the first trial's begin to the last one's end
    device_hours: Interval | None
    money: Interval | None
    disk: Disk
    basis: str  # what the times rest on, or why there are none
    unchosen: int  # trials that a search has yet to choose
    least_seconds: float  # that no device could go below
    detectable: str | None  # what difference the seeds find, where that was asked
    warnings: tuple[str, ...]


def forecast(
    plan: Plan,
    where: Circumstances,
    left: Sequence[Trial] | None = None,
    unchosen: int | None = None,
    detectable: str | None = None,
    warnings: Sequence[str] = (),
) -> Forecast:
    """The plan's forecast, its times those of the trials that are `left` (default: all), split for the slots as a run splits them, and of
    the `unchosen` ones that its search has yet to suggest; `detectable` and `warnings` are what others found out."""
    left = plan.trials if left is None else left
    unchosen = plan.unchosen if unchosen is None else unchosen
    rates = [(kind.slots, Rates(kind.known)) for kind in where.kinds]
    sharing = _sharing(where)
    trials = tuple(_trial(trial, where, rates, sharing) for trial in plan.trials)
    parts = [_trial(trial, where, rates, sharing).seconds for trial in _parts(plan, where, left)]
    if unchosen:
        known = [trial.seconds for trial in trials if trial.seconds is not None]
        parts += [_each(known, fmean) if len(known) == len(trials) else None] * unchosen
    seconds = [each for each in parts if each is not None]
    complete = len(seconds) == len(parts)
    whole = _each(seconds, lambda values: makespan(values, where.slots)) if complete else None
    hours = whole and whole.times(where.devices / 3600)
    return Forecast(
        device_name=where.device_name,
        devices=where.devices,
        on_gpu=where.on_gpu,
        slots=where.slots,
        trials=trials,
        seconds_in_sum=_each(seconds, sum) if complete else None,
        seconds=whole,
        device_hours=hours,
        money=None if hours is None or where.price is None else hours.times(where.price),
        disk=_disk(plan, where.slots),
        basis=_basis(trials, where),
        unchosen=unchosen,
        least_seconds=_least_seconds(plan, where, left, unchosen),
        detectable=detectable,
        warnings=(*_warnings(plan, where.corpus_tokens), *warnings),
    )


def is_large(forecast: Forecast) -> bool:
    """Whether to ask before it is spent: over an hour of the machine, or more money than MOST_UNASKED_MONEY. What was not measured is asked
    about where the fastest device would take so long."""
    seconds = forecast.seconds.expected if forecast.seconds else forecast.least_seconds
    money = forecast.money.expected if forecast.money else 0.0
    return seconds > MOST_UNASKED_SECONDS or money > MOST_UNASKED_MONEY


def _least_seconds(plan: Plan, where: Circumstances, left: Sequence[Trial], unchosen: int) -> float:
    flops = sum(map(_flops, left)) + unchosen * fmean(map(_flops, plan.trials))
    rate = where.devices * (GPU_FLOPS if where.on_gpu else PROCESSOR_FLOPS)
    return flops / (rate or GPU_FLOPS)  # of a cluster that does not show its devices, on one of the fastest


def _flops(trial: Trial) -> int:
    return trial.cost.flops * len(trial.replicas)


def _parts(plan: Plan, where: Circumstances, left: Sequence[Trial]) -> Sequence[Trial]:
    if not where.in_parts or not left:
        return left
    return split(left, where.slots, plan.corpus_id, where.gpu_bytes)


def _each(intervals: Sequence[Interval], combine: Callable[[list[float]], float]) -> Interval:
    """What becomes of all low ends, all expected ones and all high ones: errors of one device point one way."""
    low, expected, high = (combine([getattr(each, end) for each in intervals]) for end in ("low", "expected", "high"))
    return Interval(low=low, expected=expected, high=high)


def _sharing(where: Circumstances) -> float:
    """How many times as long a trial may take beside others on its GPU as alone, as --measure has it; 1 where trials told that."""
    alone = where.on_gpu and all(line.by == "measurement" for kind in where.kinds for line in kind.known)
    return where.slots / where.devices if alone else 1.0


def _trial(trial: Trial, where: Circumstances, rates: Sequence[tuple[int, Rates]], sharing: float) -> TrialForecast:
    found, tokens = [each.of(trial.config) for _, each in rates], trial.cost.train_tokens
    return TrialForecast(
        id=trial.id,
        replicas=len(trial.replicas),
        flops=_flops(trial),
        memory_bytes=trial.memory_bytes,
        tokens_per_parameter=tokens / trial.cost.parameters,
        epochs=tokens / where.corpus_tokens if where.corpus_tokens else None,
        seconds=_seconds_anywhere(trial, found, rates, sharing),
        measured=bool(found) and all(rate is not None and rate.exact for rate in found),
    )


def _seconds_anywhere(trial: Trial, found: Sequence[Rate | None], rates: Sequence[tuple[int, Rates]], sharing: float) -> Interval | None:
    """On whichever kind of device it runs: low alone on the fastest, high on the slowest with all of its `sharing`, expected as the slots
    together would have it done, half way (in the logarithm) between a GPU that others do not slow down and one that they share."""
    known = [(slots, _seconds(trial, rate, each.set_up_seconds)) for rate, (slots, each) in zip(found, rates, strict=True) if rate]
    if not known or len(known) < len(found):
        return None
    expected = sum(slots for slots, _ in known) / sum(slots / seconds.expected for slots, seconds in known)
    low, high = min(seconds.low for _, seconds in known), max(seconds.high for _, seconds in known)
    return Interval(low=low, expected=expected * sqrt(sharing), high=high * sharing)


def _seconds(trial: Trial, found: Rate, set_up: float) -> Interval:
    """All its replicas' training, its evaluations (a token forward takes a third of one in training), and its set-up."""
    per_rate = len(trial.replicas) * (trial.cost.train_tokens + trial.evaluated_tokens / 3)
    expected, off = per_rate * found.seconds_per_token, exp(SPREADS * found.spread)
    return Interval(low=set_up + expected / off, expected=set_up + expected, high=set_up + expected * off)


def _disk(plan: Plan, slots: int) -> Disk:
    # Of each replica the weights and two moments, and once more the best one's weights.
    states = sorted((4 * trial.cost.parameters * (3 * len(trial.replicas) + 1) for trial in plan.trials), reverse=True)
    evaluations = [len(trial.replicas) * trial.evaluations for trial in plan.trials]
    return Disk(
        checkpoints=CHECKPOINTS_AT_ONCE * sum(states[:slots]),
        models=round(plan.size * fmean(4 * trial.cost.parameters for trial in plan.trials)),
        records=round(plan.size * RECORD_BYTES * fmean(evaluations)) + REPORT_BYTES,
    )


def _basis(trials: Sequence[TrialForecast], where: Circumstances) -> str:
    if not where.kinds:
        return "unknown: the cluster's devices show only when it runs"
    way = "--measure trains each shape for a few seconds" if where.is_here else "trials that run there measure it"
    if unmeasured := [kind.device_name for kind in where.kinds if not kind.known]:
        return f"unknown: nothing was measured on {' and '.join(unmeasured)}; {way}"
    if any(each.seconds is None for each in trials):
        return f"unknown: nothing of this precision was measured on {where.device_name}; {way}"
    exact, count = sum(each.measured for each in trials), sum(len(kind.known) for kind in where.kinds)
    lines = f"{count} measurement{'s' if count > 1 else ''} on {where.device_name}"
    return f"from {lines}, which have the shapes of {exact} of the {len(trials)} trials"


def _warnings(plan: Plan, corpus_tokens: int | None) -> list[str]:
    found = []
    longest = max(trial.cost.train_tokens for trial in plan.trials)
    if corpus_tokens and longest > MANY_EPOCHS * corpus_tokens:
        found.append(
            f"{longest / corpus_tokens:.1f} passes over {corpus_tokens:,} training tokens, more than {MANY_EPOCHS}: repeated text teaches "
            "less. Give more text by dataset, or fewer tokens by max_tokens."
        )
    thinnest = min(trial.cost.train_tokens / trial.cost.parameters for trial in plan.trials)
    if thinnest < FEW_TOKENS_PER_PARAMETER:
        found.append(
            f"{thinnest:.2g} tokens per parameter at the least, below {FEW_TOKENS_PER_PARAMETER}: "
            "the answer is about this budget, not about longer training."
        )
    return found
