"""The report's tables, as text: the ranking, the audits, the trials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from archsweep.analysis.words import MINUS, NONE, decimals, duration, loss, number, p_value, si, text, verdict_text, words
from archsweep.records.schema import CONFIG

if TYPE_CHECKING:
    from collections.abc import Callable

    from archsweep.analysis import search
    from archsweep.analysis.compare import Comparison


@dataclass(frozen=True)
class Table:
    """A table as text: its header, its rows, and which columns hold numbers."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    numeric: frozenset[int] = frozenset()
    verdict_column: int | None = None


def ranking(comparison: Comparison) -> Table:
    named = comparison.source.compare
    header = (
        *(words(name) for name in named),
        "val loss", "± sd", "seeds", "to the best", "95 % interval", "Holm p", "best against it",
        "best LR", "parameters", "non-embedding", "FLOPs", "tokens/s",
    )  # fmt: skip
    verdict = header.index("best against it")
    rows = [
        (*(text(row[name]) for name in named), *_test_cells(row), verdict_text(row), *_cost_cells(row))
        for _, row in comparison.table.iterrows()
    ]
    texts = {i for i, name in enumerate(named) if not pd.api.types.is_numeric_dtype(comparison.table[name])}
    return Table(header, rows, frozenset(set(range(len(header))) - texts - {verdict}), verdict)


def _test_cells(row: pd.Series) -> tuple[str, ...]:
    half = (row["high"] - row["low"]) / 2
    return (
        number(row["mean"], loss),
        number(row["sd"], lambda sd: decimals(sd, sd)),
        str(row["n"]),
        number(row["difference"], lambda value: "+" + decimals(value, half)),
        f"{decimals(row['low'], half)} to {decimals(row['high'], half)}".replace("-", MINUS) if pd.notna(row["low"]) else NONE,
        p_value(row["holm_p"]).replace("-", NONE),
    )


def _cost_cells(row: pd.Series) -> tuple[str, ...]:
    edge = {"lowest": " ↓ edge", "highest": " ↑ edge"}.get(row["learning_rate_edge"], "")
    return (
        number(row["learning_rate"], "{:g}".format) + edge,
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
            str(row["n"]),
            *(number(row[name], _OBJECTIVES[name]) for name in others),
        )
        for _, row in front.iterrows()
    ]
    return Table(header, rows, frozenset(range(1, len(header))))


_OBJECTIVES: dict[str, Callable[[float], str]] = {
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
                " ".join(number(miss, "{:+.2%}".format).replace("-", MINUS) for miss in off) or number(float("nan"), str),
                number(row["tokens"], "{:,.0f}".format),
                number(row["tokens"] / row["parameters"], "{:.2g}".format),
            )
        )
    return Table(header, rows, frozenset(range(1, len(header))))


def rates(comparison: Comparison) -> Table:
    """Mean loss at every learning rate that was planned, at its best weight decay where that was tuned too."""
    rates = sorted(comparison.settings["learning_rate"].dropna().unique())
    header = ("variant", *(f"{rate:g}" for rate in rates), "best", "audit")
    rows = [_rate_row(row, comparison.settings, rates) for _, row in comparison.table.iterrows()]
    return Table(header, rows, frozenset(range(1, len(rates) + 2)))


def _rate_row(row: pd.Series, tried: pd.DataFrame, rates: list[float]) -> tuple[str, ...]:
    mine = tried[(tried["variant"] == row["variant"]) & tried["complete"]]
    means = mine.groupby("learning_rate")["mean"].min()
    audits = {"none": "inside", "not tuned": "not tuned", "": "no result"}
    audit = audits.get(row["learning_rate_edge"], f"{row['learning_rate_edge']}: add {row['learning_rate_to_add']:g}")
    cells = [number(means.get(rate, float("nan")), loss) for rate in rates]
    return (str(row["variant"]), *cells, number(row["learning_rate"], "{:g}".format), audit)


def trials(comparison: Comparison) -> Table:
    """Every trial in the plan's order, with what its config does not share with the others'."""
    results = comparison.source.results
    varying = _varying(results)
    header = ("trial", "variant", *(words(name) for name in varying), "status", "time", "machine", "why")
    rows = [_trial_row(rows, varying) for _, rows in results.groupby("trial_id", sort=False, dropna=False)]
    numeric = {i + 2 for i, name in enumerate(varying) if pd.api.types.is_numeric_dtype(results[name])}
    return Table(header, rows, frozenset(numeric | {len(varying) + 3}))


def _trial_row(rows: pd.DataFrame, varying: list[str]) -> tuple[str, ...]:
    first = rows.iloc[0]
    counts = rows["status"].value_counts()
    status = ", ".join(f"{count} {name}" for name, count in counts.items())
    machine = " ".join(str(value) for value in (first["hostname"], first["device_name"]) if pd.notna(value))
    reasons = "; ".join(rows["reason"].dropna().unique()[:3])
    cells = (text(first["trial_id"]), str(first["variant"]), *(text(first[name]) for name in varying))
    return (*cells, status, number(first["trial_seconds"], duration), machine or NONE, reasons or NONE)


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
