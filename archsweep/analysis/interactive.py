"""The figures that a reader can question: their numbers, compact, for the page's own script to draw with plotly.js."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from archsweep.analysis import plots
from archsweep.analysis.costs import MOST_BARS, costs, front, is_wide, known

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

    from archsweep.analysis.compare import Comparison

MOST_EVALUATIONS = 200  # of one curve: more than a screen has room for
DIGITS = 6  # significant ones, of every number on the page

Drawing = dict[str, Any]


def training_curves(comparison: Comparison) -> Drawing | None:
    """Each variant's curve at its best setting, the best first: mean, lowest and highest over seeds, and their number, at each `x`."""
    curves = plots.best_curves(comparison)
    if curves.empty:
        return None
    x = "tokens" if curves["tokens"].notna().all() else "evaluation"
    there = set(curves["variant"])
    names = [name for name in comparison.table["variant"] if name in there][: plots.MOST_VARIANTS]
    groups = dict(list(curves[curves["variant"].isin(names)].groupby("variant")))
    return {
        "kind": "curves",
        "x": "training tokens" if x == "tokens" else "evaluation",
        "y": plots.LOSS_LABEL,
        "evaluations": int(curves["evaluation"].max()),
        "series": [{"name": name, **_curve(groups[name], x)} for name in names],
    }


def _curve(rows: pd.DataFrame, x: str) -> Drawing:
    points = rows.groupby(x)["val_loss"].agg(["mean", "min", "max", "count"])
    kept = points.iloc[thinned(len(points))]
    return {"x": kept.index.tolist(), **{name: _numbers(kept[name]) for name in ("mean", "min", "max")}, "n": kept["count"].tolist()}


def thinned(count: int) -> list[int]:
    """At most MOST_EVALUATIONS of `count` places, evenly spread, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, MOST_EVALUATIONS))})


def loss_against_cost(comparison: Comparison) -> Drawing | None:
    """Every variant's loss, the best first, and what it costs in each way that was measured; `front` has the undominated ones."""
    found = costs(comparison)
    if not (shown := known(found)):
        return None
    return {
        "kind": "costs",
        "y": plots.LOSS_LABEL,
        "names": found["variant"].tolist(),
        "loss": _numbers(found["mean"]),
        "bars": len(found) <= MOST_BARS,
        "half": _numbers(found["half_width"]) if "half_width" in found else [None] * len(found),
        "costs": [
            {
                "title": cost.title,
                "label": cost.label,
                "values": _numbers(found[cost.column]),
                "front": [int(place) for place in np.flatnonzero(front(found, cost))],
                "log": is_wide(found[cost.column]),
            }
            for cost in shown
        ],
    }


def _numbers(values: Iterable[float]) -> list[float | None]:
    """Numbers as JSON has them: short, and null where there is none."""
    return [float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in values]
