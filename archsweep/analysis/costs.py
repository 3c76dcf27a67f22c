"""Loss against what it costs: FLOPs, training time, memory, decoding latency, parameters, the cache of keys and values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.ticker import EngFormatter

from archsweep.analysis import plots
from archsweep.analysis.search import decode_latency, non_dominated

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from archsweep.analysis.compare import Comparison


class Cost(NamedTuple):
    """A column of costs(): its name in prose and its unit."""

    column: str
    title: str
    unit: str

    @property
    def label(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title


COSTS = (
    Cost("flops", "training FLOPs", ""),
    Cost("train_seconds", "training time of one model", "s"),
    Cost("peak_memory_bytes", "peak memory of its trial", "bytes"),
    Cost("decode_latency", "decoding latency", "s/token"),
    Cost("parameters", "parameters", ""),
    Cost("kv_bytes_per_token", "keys and values in the cache", "bytes/token"),
)
MOST_BARS = 300  # variants beyond which their intervals would hide each other, and their points are a picture in the drawing
WIDEST_LOG = 10  # costs that differ by more than this factor are drawn on a log axis


def costs(comparison: Comparison) -> pd.DataFrame:
    """A row per variant with a loss, the best first: variant, mean, its 95 % `half_width`, and those columns of COSTS that are known.

    FLOPs, time, sizes and cache are means over the seeds of the best setting; memory and latency the largest of the variant's trials.
    """
    table = comparison.table[comparison.table["mean"].notna()]
    found = table[["variant", "mean", "flops", "train_seconds", "parameters", "kv_bytes_per_token"]].copy()
    results = comparison.source.results
    found["peak_memory_bytes"] = results.groupby("variant")["peak_memory_bytes"].max().reindex(found["variant"]).to_numpy()
    found["decode_latency"] = decode_latency(results).reindex(found["variant"]).to_numpy()
    found["half_width"] = comparison.half_widths(found["variant"])
    numbers = {name: found[name].to_numpy(dtype=float, na_value=np.nan) for name in found.columns.drop("variant")}
    return pd.DataFrame(
        {"variant": found["variant"].to_numpy(), **{name: held for name, held in numbers.items() if np.isfinite(held).any()}}
    )


def known(found: pd.DataFrame) -> list[Cost]:
    """The costs that costs() has found for at least two variants; the cache only where it is a part of the question."""
    shared = found["kv_bytes_per_token"].nunique() < 2 if "kv_bytes_per_token" in found else True
    named = [cost for cost in COSTS if not (shared and cost.column == "kv_bytes_per_token")]
    return [cost for cost in named if cost.column in found and found[cost.column].notna().sum() > 1]


def front(found: pd.DataFrame, cost: Cost) -> pd.Series:
    """Whether no other variant has a loss and a cost as low, with one of them lower."""
    return pd.Series(non_dominated(found[["mean", cost.column]].to_numpy()), index=found.index)


def is_wide(values: pd.Series) -> bool:
    """Whether positive values lie so far apart that a log axis shows them better."""
    lowest = values.min()
    return bool(lowest > 0 and values.max() > WIDEST_LOG * lowest)


def plot_costs(comparison: Comparison) -> Figure:
    """A panel per known cost: a point per variant, filled, and joined, where it is on the front; with the 95 % interval of its mean."""
    found = costs(comparison)
    shown = known(found)
    columns = min(2, len(shown))
    lines = math.ceil(len(shown) / columns)
    with plots.canvas(3.7 * columns + 0.4, 2.9 * lines + 0.2) as figure:
        grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
        for cost, axes in zip(shown, grid.flat, strict=False):
            _panel(axes, found, cost)
        for axes in grid.flat[len(shown) :]:
            axes.remove()
        for axes in grid[:, 0]:
            axes.set_ylabel(plots.LOSS_LABEL)
    return figure


def _panel(axes: Axes, found: pd.DataFrame, cost: Cost) -> None:
    crowded = len(found) > MOST_BARS
    best = front(found, cost)
    line = found[best].sort_values(cost.column)
    for rows, colour, fill, order in ((found[~best], plots.MUTED, plots.PAPER, 2), (line, plots.PALETTE[0], plots.PALETTE[0], 3)):
        bars = np.nan_to_num(rows["half_width"]) if "half_width" in rows and not crowded else None
        axes.errorbar(
            rows[cost.column], rows["mean"], yerr=bars, fmt="o", color=colour, mfc=fill, markersize=3 if crowded else 5, elinewidth=0.9,
            zorder=order, rasterized=crowded,
        )  # fmt: skip
    axes.plot(line[cost.column], line["mean"], color=plots.PALETTE[0], linewidth=1, alpha=0.4)
    if is_wide(found[cost.column]):
        axes.set_xscale("log")
    else:
        axes.locator_params(axis="x", nbins=5)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.tick_params(labelleft=True)
    axes.set_xlabel(f"{cost.label}{', log scale' if axes.get_xscale() == 'log' else ''}")
