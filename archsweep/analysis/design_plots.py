"""The figures of designs: loss increase over one dimension, effects of crossed ones, and the laws of a scaling grid."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator, PercentFormatter

from archsweep.analysis import scaling
from archsweep.analysis.plots import INK, LOSS_LABEL, MARKERS, MUTED, PALETTE, PAPER, canvas, over_rates, standard_name, standard_of
from archsweep.analysis.words import short, si, text, words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from archsweep.analysis.compare import Comparison
    from archsweep.analysis.factorial import Effects
    from archsweep.analysis.scaling import Fit, Numbers
    from archsweep.analysis.transfer import Transfer

DECADE = 10  # values over a wider factor stand on a log axis
MOST_TICKS = 12


@contextmanager
def panels(width: float, height: float, count: int = 1) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of `count` axes beside each other with one scale of losses."""
    with canvas(width, height) as figure:
        yield figure, list(figure.subplots(1, count, squeeze=False, sharey=True)[0])


def level_text(value: Any, letters: int = 18) -> str:
    """A level as a tick has room for it."""
    many = isinstance(value, (int, float, np.number)) and abs(float(value)) >= 1e5
    return _tick(float(value)) if many else short(text(value), letters)


# ----------------------------------------------------------------------------------------------------------------- one dimension


def is_numeric(comparison: Comparison) -> bool:
    """Whether the question is one number, of every variant, with at least three values that have a loss."""
    if len(comparison.source.compare) != 1 or (name := comparison.source.compare[0]) not in comparison.table:
        return False
    values = comparison.table.loc[comparison.table["mean"].notna(), name]
    numbers = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return bool(numbers and values.notna().all() and values.nunique() > 2)


def plot_loss_increase(comparison: Comparison) -> Figure:
    """Loss above the best, or the reference, in per cent against the one compared number (figure 5 of Kaplan et al. 2020)."""
    (name,) = comparison.source.compare
    known = comparison.table[comparison.table["mean"].notna()]
    table, standard = known.sort_values(name), standard_of(known)
    x, of = table[name].to_numpy(dtype=float), float(standard["mean"])
    one_percent = abs(of) / 100  # of a negated metric too, which is the worse the farther it lies above
    increase = (table["mean"].to_numpy(dtype=float) - of) / one_percent
    low, high = (table[column].to_numpy(dtype=float, na_value=np.nan) / one_percent for column in ("low", "high"))
    itself = (table["variant"] == standard["variant"]).to_numpy(dtype=bool)
    with panels(6.4, 4.0) as (figure, (axes,)):
        axes.axhline(0, color=INK, linewidth=1)
        axes.plot(x, increase, color=PALETTE[0], linewidth=1.2, alpha=0.6)
        axes.vlines(x, low, high, color=PALETTE[0], linewidth=2.2, zorder=3)
        axes.plot(x[~itself], increase[~itself], "o", color=PALETTE[0], markerfacecolor=PAPER, markersize=7, markeredgewidth=1.8, zorder=4)
        axes.plot(x[itself], increase[itself], "D", color=PALETTE[0], markersize=8, zorder=5)
        _number_axis(axes, x, words(name))
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=None))
        axes.set_ylabel(f"loss increase over {standard_name(known)}")
    return figure


def _number_axis(axes: Axes, values: Numbers, name: str) -> None:
    """A log axis where positive values span more than a decade; few values have a tick each."""
    known = np.unique(values)
    log = known[0] > 0 and known[-1] > DECADE * known[0]
    if log:
        axes.set_xscale("log")
    if len(known) <= MOST_TICKS:
        axes.set_xticks(known)
    elif log:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"{name} (log scale)" if log else name)


def _tick(value: float) -> str:
    return f"{value:g}" if 1e-3 <= abs(value) < 1e5 or value == 0 else si(value) if value >= 1e5 else f"{value:.2g}"


# ------------------------------------------------------------------------------------------------------------ crossed dimensions


def plot_effects(found: Effects) -> Figure:
    """A panel per dimension: its levels' marginal means with 95 % intervals, in black; of two dimensions, a line per level of the other."""
    with panels(0.6 + 3.1 * len(found.dimensions), 4.4, len(found.dimensions)) as (figure, all_axes):
        for dimension, axes in zip(found.dimensions, all_axes, strict=True):
            means = found.means[found.means["dimension"] == dimension]
            places = {str(level): place for place, level in enumerate(means["level"])}
            if len(found.dimensions) == 2:
                _interactions(axes, found, dimension, places)
            half = np.nan_to_num(means["half_width"].to_numpy(dtype=float))
            axes.errorbar(range(len(means)), means["mean"], yerr=half, fmt="D-", color=INK, linewidth=2.2, markersize=6, zorder=9)
            axes.set_xticks(range(len(means)), [level_text(level) for level in means["level"]])
            if len(means) > 6 or max(len(level_text(level)) for level in means["level"]) > 6:
                axes.tick_params(axis="x", rotation=90)
            axes.margins(x=0.12)
            axes.set_xlabel(words(dimension))
        all_axes[0].set_ylabel(LOSS_LABEL)
    return figure


def _interactions(axes: Axes, found: Effects, dimension: str, places: dict[str, int]) -> None:
    (other,) = (name for name in found.dimensions if name != dimension)
    levels = found.means.loc[found.means["dimension"] == other, "level"]
    for rank, level in enumerate(levels):
        cells = found.cells[found.cells[other].map(str) == str(level)]
        line = sorted((places[str(at)], mean) for at, mean in zip(cells[dimension], cells["mean"], strict=True))
        coloured = rank < len(PALETTE)
        axes.plot(
            *zip(*line, strict=True), marker=MARKERS[rank] if coloured else ".", color=PALETTE[rank] if coloured else MUTED,
            linewidth=1.1, markersize=4.5, label=level_text(level) if coloured else None,
        )  # fmt: skip
    columns = 3 if max(len(level_text(level)) for level in levels) < 9 else 1
    axes.legend(
        title=words(other), loc="lower left", bbox_to_anchor=(0, 1.01), ncols=columns, fontsize=8, title_fontsize=8, handlelength=1.4
    )


# -------------------------------------------------------------------------------------------------------------------- transfer


def plot_transfer(found: Transfer, comparison: Comparison) -> Figure:
    """Loss against learning rate, a line per shape with the 95 % intervals of its means; its best rate ringed."""
    with panels(6.4, 4.6) as (figure, (axes,)):
        half = comparison.half_widths([comparison.table["variant"].iloc[0]])[0]
        for rank, shape in enumerate(found.shapes):
            colour, marker = PALETTE[rank % len(PALETTE)], MARKERS[rank % len(MARKERS)]
            bars = np.full(len(shape.rates), np.nan_to_num(half))
            axes.errorbar(
                shape.rates, shape.losses, yerr=bars, fmt=f"{marker}-", color=colour, markersize=5, elinewidth=1, label=shape.name
            )
            axes.plot([shape.best_rate], [shape.loss], marker, markersize=10, mew=1.8, color=colour, markerfacecolor=PAPER, zorder=9)
        over_rates(axes, {rate for shape in found.shapes for rate in shape.rates})
        axes.legend(fontsize=9)
    return figure


# -------------------------------------------------------------------------------------------------------------------- scaling


def plot_scaling(fit: Fit) -> Figure:
    """Loss against size: the points with their 95 % intervals, and the law with its band between the sizes that were trained.

    Where the number of tokens varies too: a curve per number of tokens, or per compute budget, with its best size marked by a star;
    where these are too many for curves, the measured losses against the law's.
    """
    groups = _groups(fit)
    with panels(6.4, 4.6) as (figure, (axes,)):
        if not groups:
            _against_law(axes, fit)
            return figure
        for rank, (label, rows, flops) in enumerate(groups):
            _curve(axes, fit, rows, flops, PALETTE[rank], MARKERS[rank], label)
        for optimum in scaling.optima(fit) if groups[0][2] else []:
            at = fit.law.loss(optimum.size, optimum.tokens)
            if optimum.inside:
                axes.plot([optimum.size], [at], "*", color=INK, markerfacecolor=PAPER, markersize=13, markeredgewidth=1.4, zorder=9)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel=f"{words(fit.convention)} (log scale)", ylabel=LOSS_LABEL)
        if len(groups) > 1:
            axes.legend(title="compute" if groups[0][2] else "training tokens", fontsize=9, title_fontsize=9)
    return figure


def _groups(fit: Fit) -> list[tuple[str, Any, float]]:
    """What shares a curve: a label, the points' indices, and the FLOPs where it is a compute budget; empty where these are too many."""
    points = fit.points
    if points.one_length:
        return [("", np.arange(len(points.sizes)), 0.0)]
    budgets = scaling.alike(points.flops, scaling.SAME_FLOPS) if np.isfinite(points.flops).all() else []
    lengths = scaling.alike(points.tokens, scaling.SAME)
    if len(lengths) <= min(len(PALETTE), len(budgets) or len(PALETTE)):
        return [(si(float(np.median(points.tokens[rows]))), rows, 0.0) for rows in lengths]
    if 0 < len(budgets) <= len(PALETTE):
        flops = [float(np.median(points.flops[rows])) for rows in budgets]
        return [(f"{si(budget)} FLOPs", rows, budget) for budget, rows in zip(flops, budgets, strict=True)]
    return []


def _curve(axes: Axes, fit: Fit, rows: Any, flops: float, colour: str, marker: str, label: str) -> None:
    points, sizes = fit.points, fit.points.sizes[rows]
    half = np.nan_to_num(points.half_width)
    axes.errorbar(sizes, points.losses[rows], yerr=half, fmt=marker, color=colour, markersize=6, elinewidth=1.2, zorder=4, label=label)
    if len(rows) < 2:
        return
    grid = np.geomspace(sizes.min(), sizes.max(), 60)
    tokens = flops / (fit.flops_per_product * grid) if flops else np.full(60, np.median(points.tokens[rows]))
    axes.plot(grid, fit.law.loss(grid, tokens), color=colour, linewidth=1.6, zorder=3)
    if fit.draws:
        axes.fill_between(grid, *fit.band(grid, tokens), color=colour, alpha=0.18, linewidth=0, zorder=2)


def _against_law(axes: Axes, fit: Fit) -> None:
    expected = fit.law.loss(fit.points.sizes, fit.points.tokens)
    both = [min(expected.min(), fit.points.losses.min()), max(expected.max(), fit.points.losses.max())]
    axes.plot(both, both, color=INK, linewidth=1)
    axes.errorbar(expected, fit.points.losses, yerr=np.nan_to_num(fit.points.half_width), fmt="o", color=PALETTE[0], markersize=6)
    axes.set(xlabel="the law's loss (nats/token)", ylabel=LOSS_LABEL)
