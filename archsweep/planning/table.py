"""The plan and its forecast for people: a table with a row per variant, what is the same in all rows below it; and both as JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from statistics import fmean
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

from archsweep.config import bare_name, value_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pydantic import JsonValue

    from archsweep.planning.forecast import Forecast, Interval, TrialForecast
    from archsweep.planning.plan import Plan, Trial

    Trials = Sequence[tuple[Trial, TrialForecast]]  # of one variant

# What a row has, under its heading in two lines. Columns in _FOLDED that have one value in all rows are told below the table instead.
_HEADINGS = {
    "hidden_size": "hidden\nsize",
    "ffn_size": "ffn\nsize",
    "non_embedding": "non-\nembedding",
    "kaplan": "Kaplan's\n12·L·d²",
    "tokens_per_parameter": "tokens/\nparameter",
    "FLOPs": "FLOPs\nin all",
}
_FOLDED = {"trials": "{} trials each", "replicas": "{} replicas", "tokens": "{} tokens", "epochs": "{}"}
ABSENT = "\N{EN DASH}"  # a field that this variant does not compare
UNKNOWN_EPOCHS = "epochs unknown until the text is tokenized"


def table(plan: Plan, forecast: Forecast) -> Text:
    """A row per variant, with exact parameters in three conventions and what its trials take together."""
    rows = [_cells(plan, trials) for trials in _by_variant(plan, forecast)]
    folded = {name: rows[0][name] for name in _FOLDED if len({row[name] for row in rows}) == 1}
    columns = [name for name in rows[0] if name not in folded]
    heading, *body = _aligned(_head(columns), ([row[name] for name in columns] for row in rows))
    told = Text.assemble((_title(plan), "table.title"), "\n\n", (heading, "table.header"), "\n", "\n".join(body))
    return told.append("\n\n").append(caption, "table.caption") if (caption := _caption(folded)) else told


def _head(columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The headings in as many lines as the tallest has, each at the bottom of its column."""
    headings = [_HEADINGS.get(name, bare_name(name)).split("\n") for name in columns]
    tallest = max(map(len, headings))
    return list(zip(*([""] * (tallest - len(lines)) + lines for lines in headings), strict=True))


def _aligned(head: Sequence[Sequence[str]], rows: Iterable[Sequence[str]]) -> list[str]:
    """The head with a rule below it, then a line for each row; columns are as wide as their widest cell and end at the right.

    By hand, since rich takes a millisecond for a row, and a plan may have ten thousand.
    """
    lines = [*head, *rows]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    texts = ["".join(" " * (2 + width - cell_len(cell)) + cell for cell, width in zip(line, widths, strict=True)) for line in lines]
    return ["\n".join([*texts[: len(head)], " " + "─" * (sum(widths) + 2 * len(widths) - 1)]), *texts[len(head) :]]


def facts(plan: Plan, forecast: Forecast) -> Iterator[str]:
    """What the whole sweep takes, and what speaks against it: a line each."""
    if forecast.unchosen:
        yield f"for all {plan.size} trials, if those that the search has yet to choose cost as much as these {len(plan.trials)}:"
    gpus = "GPU" if forecast.on_gpu else "processor"
    where = f"{forecast.devices} {gpus}{'s' if forecast.devices != 1 else ''}, {forecast.slots} side by side"
    if forecast.seconds is None or forecast.seconds_in_sum is None or forecast.device_hours is None:
        yield f"time: {forecast.basis}"
    elif not forecast.seconds_in_sum.expected:
        yield "time: nothing is left to train"
    else:
        yield f"time: {_span(forecast.seconds)} on {where} ({_span(forecast.seconds_in_sum)} one after another), {forecast.basis}"
        cost = f", {_money(forecast.money)}" if forecast.money else ""
        yield f"{gpus}-hours: {_range(forecast.device_hours)}{cost}"
    disk = forecast.disk
    stays = f"{_bytes(disk.models)} of models and {_bytes(disk.records)} of records stay"
    yield f"disk: {_bytes(disk.checkpoints)} of checkpoints while it runs; {stays}"
    yield f"FLOPs in all: {_in_all(plan, [trial.flops for trial in forecast.trials]):.2e}"
    if forecast.detectable:
        yield f"seeds: {forecast.detectable}"
    yield from (f"warning: {warning}" for warning in forecast.warnings)


def as_json(plan: Plan, forecast: Forecast) -> str:
    """The plan as plan.json has it, with the forecast under "forecast"."""
    return json.dumps(plan.model_dump(mode="json") | {"forecast": forecast.model_dump(mode="json")}, indent=2)


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, name, most in ((1, "s", 90), (60, "min", 90), (3600, "h", 72)):
        if seconds < most * unit:
            return f"{seconds / unit:.{0 if seconds >= 10 * unit else 1}f} {name}"
    return f"{seconds / 86_400:.1f} days"


def in_short(plan: Plan, forecast: Forecast) -> str:
    """The plan in a line: how many models, and the time or the FLOPs that they take."""
    models = _in_all(plan, [len(trial.replicas) for trial in plan.trials])
    flops = _in_all(plan, [trial.flops for trial in forecast.trials])
    time = f"about {_span(forecast.seconds)}" if forecast.seconds else "a time that is not known yet (plan NAME --measure)"
    return f"{plan.size} variants, {models:.0f} models, {flops:.1e} FLOPs, {time}"


def spending(forecast: Forecast) -> str:
    """The time and money of what is left, in words for a question."""
    if forecast.seconds is None:
        return f"an unknown time, at least {duration(forecast.least_seconds)} even on the fastest devices"
    return _span(forecast.seconds) + (f" and {_money(forecast.money)}" if forecast.money else "")


def _in_all(plan: Plan, each: Sequence[float]) -> float:
    """What all trials have together, by those that are known."""
    return plan.size * fmean(each)


def _by_variant(plan: Plan, forecast: Forecast) -> list[Trials]:
    """The trials of each variant, which may be several, by the compared values."""
    groups: defaultdict[str, list[tuple[Trial, TrialForecast]]] = defaultdict(list)
    for trial, price in zip(plan.trials, forecast.trials, strict=True):
        groups[trial.label].append((trial, price))
    return sorted(groups.values(), key=lambda group: [_sort_key(group[0][0].variant.get(name)) for name in plan.compare])


def _cells(plan: Plan, trials: Trials) -> dict[str, str]:
    trial, price = trials[0]
    cost = trial.cost
    prices = [each for _, each in trials]
    cells = {
        "hidden_size": str(trial.config.hidden_size),
        "ffn_size": str(trial.config.ffn_size),
        "parameters": f"{cost.parameters:,}",
        "non_embedding": f"{cost.non_embedding_parameters:,}",
        "kaplan": f"{cost.kaplan_parameters:,}",
        "trials": str(len(trials)),
        "replicas": str(sum(each.replicas for each in prices)),
        "tokens": f"{cost.train_tokens:,}",
        "epochs": f"{price.epochs:.2g} epochs" if price.epochs is not None else UNKNOWN_EPOCHS,
        "tokens_per_parameter": f"{price.tokens_per_parameter:.2g}",
        "FLOPs": f"{sum(each.flops for each in prices):.2e}",
        "memory": _bytes(max(each.memory_bytes for each in prices)),
        "time": _time([each.seconds for each in prices]),
    }
    return {**{name: _compared(trial.variant, name) for name in plan.compare}, **_without(cells, plan.compare)}


def _compared(variant: Mapping[str, JsonValue], name: str) -> str:
    return value_text(variant.get(name, ABSENT))


def _without(cells: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    return {name: cell for name, cell in cells.items() if name not in names}


def _sort_key(value: JsonValue) -> tuple[bool, float, str]:
    """Numbers by size, then everything else by its text."""
    number = isinstance(value, (int, float))
    return (not number, float(value) if isinstance(value, (int, float)) else 0.0, json.dumps(value))


def _title(plan: Plan) -> str:
    replicas = sum(len(trial.replicas) for trial in plan.trials)
    budget = f", each {' and '.join(map(str, plan.budgets))}" if plan.budgets else ""
    if plan.method is None:
        return f"{plan.name}: {len(plan.trials)} trials, {replicas} replicas{budget}"
    each = f"{plan.size} trials of {replicas // len(plan.trials)} replicas{budget}"
    chosen = [f"  {name}: {values}" for name, values in plan.ranges.items()]
    heading = f"{plan.name}: {each}, chosen by {plan.method.sampler} to minimise {' and '.join(plan.method.objectives)}, from"
    return "\n".join([heading, *chosen, f"The first {len(plan.trials)}, which depend on no result:"])


def _caption(folded: Mapping[str, str]) -> str:
    alike = [_FOLDED[name].format(value) for name, value in folded.items() if (name, value) != ("trials", "1")]
    return f"every variant: {', '.join(alike)}" if alike else ""


def _time(intervals: Sequence[Interval | None]) -> str:
    known = [interval for interval in intervals if interval is not None]
    if len(known) < len(intervals):
        return "unknown"
    low, expected, high = (sum(getattr(each, end) for each in known) for end in ("low", "expected", "high"))
    return f"{duration(expected)} ({duration(low)} to {duration(high)})"


def _span(interval: Interval) -> str:
    return f"{duration(interval.expected)} ({duration(interval.low)} to {duration(interval.high)})"


def _range(interval: Interval) -> str:
    return f"{interval.expected:.2g} ({interval.low:.2g} to {interval.high:.2g})"


def _money(interval: Interval) -> str:
    return f"{interval.expected:,.2f} ({interval.low:,.2f} to {interval.high:,.2f}) at that price"


def _bytes(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e10 else f"{count / 1e6:,.0f} MB"
