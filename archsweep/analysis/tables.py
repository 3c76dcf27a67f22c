"""The report's tables, as text: the ranking, the audits, the trials."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
from markupsafe import Markup

from archsweep.analysis.tuning import best_by_rate
from archsweep.analysis.verdicts import verdict_text
from archsweep.analysis.words import MINUS, NONE, Number, decimals, duration, loss, number, p_value, si, text, words
from archsweep.records.schema import CONFIG

if TYPE_CHECKING:
    from collections.abc import Callable

    from archsweep.analysis import search
    from archsweep.analysis.compare import Comparison


@dataclass(frozen=True)
class Table:
    """A table as text: its header, its rows, and which columns hold numbers; a cell that is a words.Number is sorted by its value."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    numeric: frozenset[int] = frozenset()
    verdict_column: int | None = None


def ranking(comparison: Comparison) -> Table:
    named = (*comparison.source.compare, *(["tuned"] if comparison.table["tuned"].notna().any() else []))
    standard = _standard(comparison)
    against = "best against it" if standard == "best" else "it against the reference"
    header = (
        *(words(name) for name in named),
        "val loss", "± sd", "seeds", f"to the {standard}", "95 % interval", "Holm p", against,
        "best LR", "parameters", "non-embedding", "FLOPs each", "tokens/s of its stack",
    )  # fmt: skip
    verdict = header.index(against)
    rows = [
        (*(text(row[name]) for name in named), *_test_cells(row), verdict_text(row), *_cost_cells(row))
        for _, row in comparison.table.iterrows()
    ]
    texts = {i for i, name in enumerate(named) if not pd.api.types.is_numeric_dtype(comparison.table[name])}
    return Table(header, rows, frozenset(set(range(len(header))) - texts - {verdict}), verdict)


def beside(comparison: Comparison) -> Table:
    """What stands beside each verdict, as far as it is known: tests without the layout's assumptions, and what a difference is worth."""
    ranked = comparison.table[comparison.table["mean"].notna()]
    shown = [column for column in _BESIDE if ranked[column.name].notna().any()]
    if not shown:
        return Table((), [])
    names = {"standard": _standard(comparison), "rate": comparison.common_rate}
    header = ("variant", *(column.title.format(**names) for column in shown))
    rows = [(str(row["variant"]), *(column.cell(row) for column in shown)) for _, row in ranked.iterrows()]
    return Table(header, rows, frozenset(range(1, len(header))))


class _Column(NamedTuple):
    """A column of beside(): there where Comparison.table has `name`."""

    name: str
    title: str
    form: Callable[[float], str] | None = None

    def cell(self, row: pd.Series) -> str:
        if self.form is None:  # an interval, by its lower end
            return _interval(row["own_low"], row["own_high"], (row["own_high"] - row["own_low"]) / 2)
        return number(row[self.name], self.form)


_BESIDE = (
    _Column("equivalence_p", "p of being equal within the margin", p_value),
    _Column("seeds_better", "seeds at which the {standard} is better", "{:.0%}".format),
    _Column("own_low", "95 % interval of its own seeds"),
    _Column("signs_p", "p by flipping signs", p_value),
    _Column("detectable", "difference that would be found", loss),
    _Column("compute_ratio", "compute to match the {standard}", "{:.3g} \N{MULTIPLICATION SIGN}".format),
    _Column("at_common_rate", "loss at LR {rate:g}", loss),
    _Column("learning_rate_sensitivity", "sensitivity to LR", loss),
)


def _standard(comparison: Comparison) -> str:
    """What the variants are tested against: the best one, or the reference that the plan names."""
    return "best" if comparison.source.reference is None else "reference"


def _test_cells(row: pd.Series) -> tuple[str, ...]:
    half = (row["high"] - row["low"]) / 2
    return (
        number(row["mean"], loss),
        number(row["sd"], lambda sd: decimals(sd, sd)),
        text(row["n"]),
        number(row["difference"], lambda value: f"{'+' if value >= 0 else ''}{decimals(value, half)}".replace("-", MINUS)),
        _interval(row["low"], row["high"], half),
        number(row["holm_p"], p_value),
    )


def _interval(low: float, high: float, half: float) -> str:
    """An interval, sorted by its lower end."""
    return number(low, lambda low: f"{decimals(low, half)} to {decimals(high, half)}".replace("-", MINUS))


def _cost_cells(row: pd.Series) -> tuple[str, ...]:
    edge = {"lowest": " ↓ edge", "highest": " ↑ edge"}.get(row["learning_rate_edge"], "")
    return (
        number(row["learning_rate"], "{:g}".format, edge),
        number(row["parameters"], "{:,.0f}".format),
        number(row["non_embedding_parameters"], "{:,.0f}".format),
        number(row["flops"], si),
        number(row["tokens_per_second"], "{:,.0f}".format),
    )


def front(comparison: Comparison, found: search.Found | None) -> Table:
    """The variants of the front, the lowest loss first."""
    if found is None or len(found.objectives) == 1:
        return Table((), [])
    others = [name for name in found.objectives if name != "val_loss"]
    header = ("variant", "val loss", "± 95 %", "seeds", *map(words, others))
    front = found.variants[found.variants["front"]].sort_values("mean")
    rows = [
        (
            str(row["variant"]),
            number(row["mean"], loss),
            number(row["half_width"], lambda half: decimals(half, half)),
            text(row["n"]),
            *(number(row[name], OBJECTIVES[name]) for name in others),
        )
        for _, row in front.iterrows()
    ]
    return Table(header, rows, frozenset(range(1, len(header))))


OBJECTIVES: dict[str, Callable[[float], str]] = {
    "parameters": "{:,.0f}".format,
    "non_embedding_parameters": "{:,.0f}".format,
    "flops": lambda value: si(value),
    "decode_latency": lambda value: f"{1000 * value:.3g} ms/token",
    "memory": lambda value: f"{value / 1e6:,.0f} MB",
}


def sizes(comparison: Comparison) -> Table:
    budgets = comparison.source.budgets
    header = ("variant", "parameters", "non-embedding", "12·L·d²", "off the budget", "tokens", "tokens/parameter")
    rows = []
    for _, row in comparison.table.iterrows():
        own = [budget for budget in budgets if budget.concerns(row["variant"]) and pd.notna(row.get(budget.kind))]
        off = [row[budget.kind] / budget.target - 1 for budget in own]
        counts = (row["parameters"], row["non_embedding_parameters"], row["kaplan_parameters"])
        rows.append(
            (
                str(row["variant"]),
                *(number(count, "{:,.0f}".format) for count in counts),
                _off(off),
                number(row["tokens"], "{:,.0f}".format),
                number(row["tokens"] / row["parameters"], "{:.2g}".format),
            )
        )
    return Table(header, rows, frozenset(range(1, len(header))))


def _off(misses: list[float]) -> str:
    """How far each budget is missed, sorted by the farthest."""
    worded = " ".join(f"{miss:+.2%}".replace("-", MINUS) for miss in misses)
    return Number(worded, max(misses, key=abs)) if misses else NONE


def rates(comparison: Comparison) -> Table:
    """Mean loss at every learning rate that was planned, at its best weight decay where that was tuned too."""
    tried = comparison.settings
    rates = sorted(tried["learning_rate"].dropna().unique())
    means = best_by_rate(tried).set_index(["variant", "learning_rate"])["mean"].to_dict()
    header = ("variant", *(f"{rate:g}" for rate in rates), "best", "audit")
    rows = [_rate_row(row, [means.get((row["variant"], rate)) for rate in rates]) for _, row in comparison.table.iterrows()]
    return Table(header, rows, frozenset(range(1, len(rates) + 2)))


def _rate_row(row: pd.Series, means: list[float | None]) -> tuple[str, ...]:
    audits = {"none": "inside", "not tuned": "not tuned", "": "no result"}
    audit = audits.get(row["learning_rate_edge"]) or f"{row['learning_rate_edge']}: add {row['learning_rate_to_add']:g}"
    return (str(row["variant"]), *(number(mean, loss) for mean in means), number(row["learning_rate"], "{:g}".format), audit)


def trials(comparison: Comparison) -> Table:
    """Every trial in the plan's order, with what of its config neither its variant nor all trials say."""
    results = comparison.source.results
    first = results[~results["trial_id"].duplicated()]
    varying = [name for name in _varying(results) if name not in comparison.source.compare]
    told = {
        "trial": map(text, first["trial_id"]),
        "variant": map(str, first["variant"]),
        **{words(name): map(text, first[name]) for name in varying},
        "learning rates": map(_listed, _by_trial(results, "learning_rate")),
        "seeds": map(_listed, _by_trial(results, "seed")),
        "status": map(_counted, _by_trial(results, "status")),
        "time": [number(seconds, duration) for seconds in first["trial_seconds"]],
        "machine": [_machine(row) for row in zip(first["hostname"], first["device_name"], strict=True)],
        "why": ["; ".join(dict.fromkeys(reasons)) or NONE for reasons in _by_trial(results, "reason")],
    }
    numeric = {i + 2 for i, name in enumerate(varying) if pd.api.types.is_numeric_dtype(results[name])}
    return Table(tuple(told), list(zip(*told.values(), strict=True)), frozenset(numeric | {len(varying) + 5}))


def _by_trial(results: pd.DataFrame, column: str) -> list[list[Any]]:
    """What is known in a column of each trial, in the order of the trials; pandas would take a millisecond for each."""
    groups: dict[Any, list[Any]] = {}
    for trial, value in zip(results["trial_id"], results[column], strict=True):
        groups.setdefault(trial, []).extend([] if pd.isna(value) else [value])
    return list(groups.values())


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(set(values))) or NONE


def _counted(statuses: list[str]) -> str:
    return ", ".join(f"{count} {status}" for status, count in Counter(statuses).most_common())


def _machine(names: tuple[object, object]) -> str:
    return " ".join(str(name) for name in names if pd.notna(name)) or NONE


def _varying(results: pd.DataFrame) -> list[str]:
    names = [column.name for column in CONFIG if column.name not in ("experiment_name", "device")]
    return [name for name in names if results[name].nunique(dropna=False) > 1]


def held_equal(results: pd.DataFrame) -> list[tuple[str, str]]:
    varying = {*_varying(results), "experiment_name"}
    return [(c.name, text(results[c.name].iloc[0])) for c in CONFIG if c.name not in varying and results[c.name].notna().any()]


def incomplete(comparison: Comparison) -> Table:
    """Every replica without a finished loss, those of one trial, status and reason on one line."""
    results = comparison.source.results
    rest = results[results["status"] != "finished"]
    rows: list[tuple[str, ...]] = []
    for (_, status, reason), group in rest.groupby(["trial_id", "status", "reason"], sort=False, dropna=False):
        which = "; ".join(
            f"{number(rate, '{:g}'.format)}: {', '.join(map(str, part['seed']))}"
            for rate, part in group.groupby("learning_rate", dropna=False)
        )
        rows.append((str(group["variant"].iloc[0]), which, str(status), text(reason)))
    return Table(("variant", "learning rate: seeds", "status", "why"), rows)


# ----------------------------------------------------------------------------------------------------------------------- formats


def markdown_table(table: Table, name: Callable[[object], object] = lambda text: text) -> Markup:
    """A table in Markdown, every cell of which is text on one line, worded by `name`."""
    rule = ["---:" if column in table.numeric else "---" for column in range(len(table.header))]
    lines = [
        [markdown_text(name(cell)) for cell in table.header],
        rule,
        *([markdown_text(name(cell)) for cell in row] for row in table.rows),
    ]
    return Markup("".join(f"| {' | '.join(line)} |\n" for line in lines))


def markdown_text(value: object) -> str:
    """A text on one line in which Markdown and HTML see nothing but text; what is marked as Markdown already stays as it is."""
    if isinstance(value, Markup):
        return value
    line = " ".join(str(value).split())
    return re.sub(r"([\\`*\[\]|])", r"\\\1", line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet takes for one


def safe_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Texts that a spreadsheet would run as a formula, quoted."""
    texts = table.select_dtypes(include=["string", "str", "object"]).columns
    quoted = {name: [f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell for cell in table[name]] for name in texts}
    return table.assign(**quoted)
