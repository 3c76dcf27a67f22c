"""How numbers and names are worded: one way each, in every table, sentence and figure."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from archsweep.config import bare_name, value_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NONE = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


class Number(str):
    """A number as it is worded, which still knows its value: a table is sorted by it."""

    value: float

    def __new__(cls, worded: str, value: float) -> Number:
        self = super().__new__(cls, worded)
        self.value = value
        return self


def words(column: str) -> str:
    """A column's name in prose."""
    names = {"flops": "FLOPs", "train_seconds": "seconds of training"}
    column = bare_name(column)
    return names.get(column) or column.replace("non_embedding", "non-embedding").replace("_", " ")


def one_kind(values: Iterable[Any]) -> list[Any]:
    """Compared values for one column: all numbers, all truths or all texts as they are; else each as a variant's name has it.

    Lists, mappings and a mixture can neither be told apart nor sorted by pandas, nor written by Arrow.
    """
    found = list(values)
    kinds = {bool if isinstance(value, bool) else Real if isinstance(value, Real) else type(value) for value in found}
    return found if len(kinds) < 2 and kinds <= {bool, Real, str} else [value_text(value) for value in found]


def with_missing(values: pd.Series) -> pd.Series:
    """Compared values of which a missing one is a level too: called as in the variants' names, for pandas leaves it out of all groups."""
    return values.astype(object).where(values.notna(), value_text(None)) if values.isna().any() else values


def amount(value: float) -> str:
    """A quantity of a budget: whole where it is large, to four digits where it is small or beyond counting."""
    return f"{value:,.0f}" if 1000 <= value < 1e10 else f"{value:.4g}"


def loss(value: float) -> str:
    """A loss as it is printed everywhere."""
    return f"{value:.3f}"


def decimals(value: float, precision: float) -> str:
    """`value` with as many decimals as two digits of `precision` take, three at least; of a precision that is rounding error, three."""
    digits = max(3, 1 - int(np.floor(np.log10(precision)))) if precision > 1e-6 and np.isfinite(precision) else 3
    return f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no "-0.000"


def half_of(half: float) -> str:
    """Half of an interval, or another spread, behind what it is of; nothing where it is not known."""
    return f" ± {decimals(half, half)}" if np.isfinite(half) else ""


def difference(row: pd.Series, signed: bool = False) -> str:
    """A variant's difference to the best or the reference, with half of its 95 % interval where there is one."""
    half = (row["high"] - row["low"]) / 2
    text = decimals(row["difference"], half).replace("-", MINUS)
    text = f"+{text}" if signed and row["difference"] > 0 else text
    return f"{text}{half_of(half)} nats/token"


def compute(ratio: float, whose: str) -> str:
    """What a difference is worth in compute, as the end of a sentence about it; nothing where that is not known or less than 1 %."""
    if not np.isfinite(ratio) or ratio < 1.01:
        return ""
    worth = f"{ratio - 1:.0%} more" if ratio < 2 else f"{ratio:.1f} times the" if ratio < 10 else f"{ratio:,.0f} times the"
    return f", as much as {worth} compute would bring ({whose})"


def percent(part: float) -> str:
    """A part as a percentage without needless digits: 0.5%."""
    return f"{100 * part:g}%"


def names(variants: pd.Series) -> str:
    """The first four, and how many more there are."""
    return ", ".join(variants.head(4)) + (f" and {len(variants) - 4} more" if len(variants) > 4 else "")


def p_value(p: float) -> str:
    """A p-value to two digits; none below .001."""
    if pd.isna(p):
        return "-"
    return "<.001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 1 else "1"


def tag(verdict: str) -> str:
    """The class of a verdict's tag on the page: "better-but-small" of "BETTER BUT SMALL", without what stands behind it in brackets."""
    return verdict.partition(" (")[0].lower().replace(" ", "-")


def variants_text(count: int, verb: str = "was ") -> str:
    return f"1 variant {verb}".strip() if count == 1 else f"{count} variants {'were' if verb else ''}".strip()


def number(value: Any, form: Callable[[float], str], after: str = "") -> str:
    """A number in its form, with what stands `after` it; a dash where there is none."""
    return NONE if pd.isna(value) else Number(form(float(value)) + after, float(value))


def short(name: str, letters: int = 49) -> str:
    """A name that a figure has room for: where it is longer than so many letters, without its middle."""
    half = (letters - 1) // 2
    return name if len(name) <= letters else f"{name[:half]}…{name[-half:]}"


def text(value: Any) -> str:
    if pd.isna(value):
        return NONE
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        return Number(f"{value:g}" if isinstance(value, (float, np.floating)) else str(value), float(value))
    return str(value)


def si(value: float) -> str:
    """A large count with three digits and its unit prefix: 1.23 T."""
    for limit, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {prefix}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
