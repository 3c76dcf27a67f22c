"""A comparison's tables as files for other programs: CSV, Parquet, LaTeX, Markdown."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Literal

import pandas as pd

from archsweep.analysis import tables
from archsweep.analysis.metric import named
from archsweep.analysis.tables import Table, markdown_table, safe_cells
from archsweep.analysis.words import NONE, text
from archsweep.records import read
from archsweep.records.schema import CURVES, RESULTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from archsweep.analysis.compare import Comparison
    from archsweep.records.schema import Column

Format = Literal["csv", "parquet", "latex", "markdown"]
Which = Literal["ranking", "results", "curves", "pairs"]
ENDINGS: dict[Format, str] = {"csv": "csv", "parquet": "parquet", "latex": "tex", "markdown": "md"}


def export_table(comparison: Comparison, which: Which, form: Format) -> bytes:
    """The table as a file's content: all columns in full in CSV and Parquet, as the report prints it in LaTeX and Markdown."""
    if form == "csv":
        return bytes(safe_cells(_frame(comparison, which)).to_csv(index=False).encode())
    if form == "parquet":
        return _parquet(comparison, which)
    printed = _printed(comparison, which)
    name, caption = partial(named, source=comparison.source), _caption(comparison, which)
    if form == "latex":
        return _latex(_named_table(printed, name), name(caption), f"tab:{comparison.source.name}-{which}").encode()
    return f"{markdown_table(printed, name)}\n{name(caption)}\n".encode()


def _named_table(table: Table, name: Callable[[str], str]) -> Table:
    """The table with the metric's own name in it: before LaTeX's signs are taken from it, so that those in the name are too."""
    return replace(table, header=tuple(map(name, table.header)), rows=[tuple(map(name, row)) for row in table.rows])


def _frame(comparison: Comparison, which: Which) -> pd.DataFrame:
    source = comparison.source
    return {"ranking": comparison.table, "results": source.results, "curves": source.curves, "pairs": comparison.pairs}[which]


def _parquet(comparison: Comparison, which: Which) -> bytes:
    frame = _frame(comparison, which)
    schema = {"results": RESULTS, "curves": CURVES}.get(which)
    if schema is not None:  # each column with its unit and meaning, as in the sweep's own files
        return bytes(read.parquet(read.table_of(frame, [_as_held(column, frame[column.name]) for column in schema])))
    buffer = BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _as_held(column: Column, values: pd.Series) -> Column:
    """The column with the type of its values: what a dataframe compares may be of another type than ours of the same name."""
    kinds: dict[str, Literal["boolean", "Int64", "Float64"]] = {"b": "boolean", "i": "Int64", "f": "Float64"}
    return column._replace(dtype=kinds.get(values.dtype.kind, "string"))


def _printed(comparison: Comparison, which: Which) -> Table:
    if which == "ranking":
        return tables.ranking(comparison)
    frame = _frame(comparison, which)
    frame = frame if frame.empty else frame.dropna(axis="columns", how="all")  # an empty one keeps its header
    numeric = {index for index, name in enumerate(frame) if pd.api.types.is_numeric_dtype(frame[name])}
    rows = [tuple(map(text, row)) for row in frame.itertuples(index=False, name=None)]
    return Table(tuple(frame.columns), rows, frozenset(numeric))


def _caption(comparison: Comparison, which: Which) -> str:
    """The verdict, and that it is not the last where trials are missing."""
    return comparison.verdict if which == "ranking" else f"{comparison.source.name}: {which}. {comparison.verdict}"


# ---------------------------------------------------------------------------------------------------------------------------- LaTeX


def _latex(table: Table, caption: str, name: str) -> str:
    """A table for a document that loads booktabs."""
    columns = "".join("r" if column in table.numeric else "l" for column in range(len(table.header)))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex_text(caption)}}}",
            rf"\label{{{''.join(letter if letter.isalnum() or letter in ':-.' else '-' for letter in name)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _latex_row(table.header),
            r"\midrule",
            *map(_latex_row, table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _latex_row(cells: tuple[str, ...]) -> str:
    return " & ".join(map(latex_text, cells)) + r" \\"


def latex_text(value: str) -> str:
    """A text in which LaTeX sees nothing but text; the signs that the report prints are its own."""
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(str(value).split()))


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",  # after \\ it would begin an optional argument
    "]": "{]}",
    "*": "{*}",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MINUS SIGN}": r"$-$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{MIDDLE DOT}": r"$\cdot$",
    "\N{SUPERSCRIPT TWO}": r"$^2$",
    "\N{UPWARDS ARROW}": r"$\uparrow$",
    "\N{DOWNWARDS ARROW}": r"$\downarrow$",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    NONE: "--",
}
