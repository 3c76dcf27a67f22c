"""The columns of results.parquet and curves.parquet in words, for docs/columns.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archsweep.records.schema import CONFIG, COST, CURVES, MEASURED, OUTCOME, REPLICA, RESULTS, WHICH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from archsweep.records.schema import Column

_INTRODUCTION = """# Columns

What `python -m archsweep columns` prints. Every type admits missing values: a column is there, and empty, where nothing is known.

`archsweep.load(sweep)` and `results.parquet`: a row per planned replica, whatever became of it.
`archsweep.load_curves(sweep)` and `curves.parquet`: a row per replica and evaluation.
"""

_GROUPS: tuple[tuple[str, Sequence[Column]], ...] = (
    ("Which row it is", WHICH),
    ("The replica", REPLICA),
    ("What became of it", OUTCOME),
    ("What was measured", MEASURED),
    ("What it takes, as planned", COST),
    ("Its config", CONFIG),
)


def describe() -> str:
    """A table for each group of columns: name, type, unit, meaning, and which of the two dataframes has it."""
    return "\n".join([_INTRODUCTION, *(_table(title, columns) for title, columns in _GROUPS)])


def _table(title: str, columns: Sequence[Column]) -> str:
    lines = [f"## {title}", "", "| name | type | unit | in | meaning |", "|---|---|---|---|---|"]
    lines += [f"| `{c.name}` | {c.dtype} | {c.unit or '-'} | {_where(c)} | {c.meaning} |" for c in columns]
    return "\n".join(lines) + "\n"


def _where(column: Column) -> str:
    return ", ".join(name for name, columns in (("results", RESULTS), ("curves", CURVES)) if column in columns)
