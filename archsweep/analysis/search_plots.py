"""The figures of many variants, searched or listed: parallel coordinates, and which fields matter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn  # noqa: F401  # registers its colour maps with matplotlib

from archsweep.analysis.design_plots import DECADE, level_text, panels
from archsweep.analysis.factorial import in_order
from archsweep.analysis.plots import INK, MARKERS, MUTED, PALETTE, PAPER
from archsweep.analysis.words import short, si, words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from archsweep.analysis.scaling import Numbers

LEADING = 3  # lines that are drawn on top, with a marker each
MOST_LABELS = 8  # on an axis of its own values
MISSING = -0.09  # where a variant stands on the axis of a field that it does not have


def plot_parallel_coordinates(table: pd.DataFrame, fields: Sequence[str]) -> Figure:
    """A line per variant through an axis per compared field to its loss, darker the lower that is; the best few stand out.

    `table` is that of a comparison. Lines that share a value are spread a little around it, the better above, so that each shows.
    """
    ranked = table[table["mean"].notna()].sort_values("mean")
    axes_of = [_Axis(ranked[name]) for name in fields]
    ends = _Axis(ranked["mean"])
    spread = 0.03 * np.linspace(1, -1, len(ranked)) if len(ranked) > 1 else np.zeros(1)
    places = np.column_stack([axis.places + spread for axis in axes_of] + [ends.places])
    shades = mpl.colormaps["crest_r"](0.05 + 0.95 * ends.places)
    with panels(max(6.4, 1.3 * len(fields) + 2.2), 4.6) as (figure, (axes,)):
        for rank in reversed(range(len(ranked))):
            leading = rank < LEADING
            axes.plot(
                range(places.shape[1]), places[rank], color=PALETTE[3] if leading else shades[rank], linewidth=2.4 if leading else 0.9,
                marker=MARKERS[rank] if leading else None, markersize=7, markerfacecolor=PAPER, markeredgewidth=1.6,
                alpha=1 if leading else 0.7, zorder=5 if leading else 3,
            )  # fmt: skip
        for place, axis in enumerate([*axes_of, ends]):
            _draw_axis(axes, place, axis)
        names = [*(words(name).replace(" ", "\n", 1) for name in fields), "validation\nloss"]
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks([])
        axes.set(xlim=(-0.45, len(fields) + 0.45), ylim=(min(0, places.min()) - 0.05, 1.06))
        axes.grid(False)
        axes.tick_params(length=0)
        axes.spines[["left", "bottom"]].set_visible(False)
    return figure


class _Axis:
    """A field's values as places between 0 and 1, and what is written there: numbers by their size, all else in equal steps."""

    def __init__(self, values: pd.Series) -> None:
        known = values.dropna()
        numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
        self.places, self.labels = self._numbers(values, known) if numeric and len(known) else self._levels(values, known)

    def _numbers(self, values: pd.Series, known: pd.Series) -> tuple[Numbers, list[tuple[float, str]]]:
        numbers, distinct = values.to_numpy(dtype=float, na_value=np.nan), np.unique(known.to_numpy(dtype=float))
        low, high = float(distinct[0]), float(distinct[-1])
        self.log = low > 0 and high > DECADE * low

        def place(value: Any) -> Any:
            if low == high:
                return 0.5 * np.ones_like(value)
            return np.log(value / low) / np.log(high / low) if self.log else (value - low) / (high - low)

        ends = np.geomspace(low, high, 4) if self.log else np.linspace(low, high, 4)
        shown = distinct if len(distinct) <= MOST_LABELS else ends
        labels = [(float(place(value)), _amount(value, low, high)) for value in shown]
        return np.where(np.isnan(numbers), MISSING, place(numbers)), labels + self._missing(values)

    def _levels(self, values: pd.Series, known: pd.Series) -> tuple[Numbers, list[tuple[float, str]]]:
        levels = in_order(known)
        step = 1 / max(1, len(levels) - 1)
        at = {str(level): place * step if len(levels) > 1 else 0.5 for place, level in enumerate(levels)}
        shown = list(at.items())[:: -(-len(at) // 12) or 1]
        places = np.array([MISSING if pd.isna(value) else at[str(value)] for value in values])
        return places, [(place, level_text(name)) for name, place in shown] + self._missing(values)

    @staticmethod
    def _missing(values: pd.Series) -> list[tuple[float, str]]:
        return [(MISSING, "none")] if values.isna().any() else []


def _amount(value: float, low: float, high: float) -> str:
    if high >= 1e5:
        return si(value)
    return f"{value:.0f}" if float(value).is_integer() and float(low).is_integer() else f"{value:.4g}"


def _draw_axis(axes: Axes, place: int, axis: _Axis) -> None:
    axes.plot([place, place], [0, 1], color=MUTED, linewidth=1, zorder=2)
    for at, label in axis.labels:
        axes.annotate(
            label, (place, at), (5, 0), textcoords="offset points", va="center", fontsize=8, color=INK, zorder=9,
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.6, "alpha": 0.75},
        )  # fmt: skip


def plot_importances(importances: dict[str, float]) -> Figure:
    """A bar per compared field: its part in being among the better variants, the largest above."""
    ordered = sorted(importances.items(), key=lambda item: item[1])
    with panels(6.4, 1.1 + 0.36 * len(ordered)) as (figure, (axes,)):
        bars = axes.barh([short(words(name), 30) for name, _ in ordered], [share for _, share in ordered], color=PALETTE[0], height=0.62)
        axes.bar_label(bars, [f"{share:.0%}" for _, share in ordered], padding=4, fontsize=9)
        axes.set_xlim(0, 1.12 * max(share for _, share in ordered))
        axes.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1))
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("importance for the validation loss (PED-ANOVA)")
    return figure
