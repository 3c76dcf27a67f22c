"""The figures: training curves, heat map, differences to the best, learning rates. Each function returns a matplotlib figure."""

from __future__ import annotations

import math
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, FuncFormatter, NullLocator

from archsweep.analysis.compare import Comparison, compare_experiments
from archsweep.analysis.tuning import best_by_rate, finished_loss, tested_at
from archsweep.analysis.verdicts import (
    BEST,
    BETTER,
    BETTER_BUT_SMALL,
    BUDGET_MISMATCH,
    EQUIVALENT,
    LR_CONFOUNDED,
    REFERENCE_ITSELF,
    UNDECIDED,
    WORSE,
    WORSE_BUT_SMALL,
)
from archsweep.analysis.words import loss, short, with_missing, words
from archsweep.atomic import write_atomically
from archsweep.errors import RecordError
from archsweep.imports import without_collector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from matplotlib.axes import Axes

    from archsweep.analysis.source import Given

# Colours that stay apart for colour-blind readers (seaborn's "colorblind", without its palest), with a marker each for print.
PALETTE = ("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, RULE, MUTED, PAPER = "#1f2930", "#dfe3e8", "#9aa4ad", "#fefefe"

LOSS_LABEL = "validation loss (nats/token)"
PNG_DPI = 300  # what journals ask of a figure
SVG_DPI = 150  # of what is a picture in a drawing, because it would have thousands of parts
STANDARDS = (BEST, REFERENCE_ITSELF)
DECIDED = (BETTER, BETTER_BUT_SMALL, WORSE, WORSE_BUT_SMALL)

MOST_VARIANTS = 30  # in one figure: what a page holds
MOST_CELLS = 12  # on a side of a heat map whose cells are wide enough for text

STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "text.parse_math": False,  # a name may hold dollar signs
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,  # TrueType, which publishers ask for
    "svg.hashsalt": "archsweep",
}


def plot_training_curves(source: Given | Comparison, path: str | Path | None = None) -> Figure:
    """Validation loss against tokens, each variant at its best setting: the mean, and a band from the lowest seed to the highest."""
    comparison = compare_experiments(source)
    curves = best_curves(comparison)
    if curves.empty:
        raise RecordError(f"{comparison.source.name} has no evaluations of a finished setting to draw. Give a sweep's folder.")
    x = "tokens" if curves["tokens"].notna().all() else "evaluation"
    with _figure(6.4, 4.4 + _legend_height(comparison), path) as (figure, axes):
        seeds = curves.groupby(["variant", x])["val_loss"].agg(["mean", "min", "max"])  # of all at once: seaborn would for each
        known = set(curves["variant"])
        for name, colour, marker, order in _series(comparison):
            if name not in known:
                continue
            rows, label = seeds.loc[name], name if order > 1 else "_grey"
            axes.fill_between(rows.index, rows["min"], rows["max"], color=colour, alpha=0.15, linewidth=0, zorder=order)
            axes.plot(rows.index, rows["mean"], marker, linestyle="-", color=colour, markersize=5, mew=0, label=label, zorder=order)
        axes.set(xlabel="training tokens" if x == "tokens" else "evaluation", ylabel=LOSS_LABEL)
        if x == "tokens":
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        _legend(comparison, axes)
    return figure


def plot_heat_map(source: Given | Comparison, path: str | Path | None = None) -> Figure:
    """Mean validation loss over two compared dimensions, ± half of its 95 % interval.

    Framed: the lowest, and a reference; dashed, what is equivalent to the best or the reference; dotted, what is not decided.
    """
    comparison = compare_experiments(source)
    if len(comparison.source.compare) != 2:
        raise RecordError(
            f"A heat map needs two compared dimensions, got {', '.join(comparison.source.compare)}. Draw differences instead."
        )
    column, row = comparison.source.compare
    levels = {name: with_missing(comparison.table[name]) for name in (column, row)}
    table = comparison.table.assign(**levels, **{"cell text": _cell_texts(comparison)})
    means = table.pivot(index=row, columns=column, values="mean").astype(float)
    texts = table.pivot(index=row, columns=column, values="cell text").reindex_like(means).astype(object)
    texts = texts.where(texts.notna(), "")
    wide = max(means.shape) <= MOST_CELLS
    cell = (1.15, 0.75) if wide else (0.3, 0.3)
    with _figure(2.6 + cell[0] * means.shape[1], 1.8 + cell[1] * means.shape[0], path) as (figure, axes):
        heat = sns.heatmap(
            means.rename(index=_tick, columns=_tick), annot=texts.to_numpy() if wide else None, fmt="", cmap="crest", linecolor=PAPER,
            ax=axes, rasterized=not wide, linewidths=2 if wide else 0.5, cbar_kws={"label": LOSS_LABEL},
            annot_kws={"fontsize": 9},
        )  # fmt: skip
        heat.grid(False)
        heat.tick_params(length=0)
        heat.set(xlabel=words(column), ylabel=words(row))
        heat.invert_yaxis()
        if wide:
            _cells_without_loss(heat, means, texts)
        _frames(heat, table, means, wide)
    return figure


def plot_differences(source: Given | Comparison, path: str | Path | None = None) -> Figure:
    """Each variant's difference to the best, or the reference, with its 95 % interval; hollow where it is not decided.

    A band shows the differences that count as none.
    """
    comparison = compare_experiments(source)
    table = comparison.table[comparison.table["mean"].notna()].head(MOST_VARIANTS)
    with _figure(6.4, 1.2 + 0.32 * len(table), path) as (figure, axes):
        axes.axvline(0, color=INK, linewidth=1)
        margin = comparison.source.margin * standard_of(table)["mean"]
        axes.axvspan(-margin, margin, color=MUTED, alpha=0.2, linewidth=0, zorder=0)
        for y, (_, row) in enumerate(table.iterrows()):
            _interval(axes, y, row)
        axes.set_yticks(range(len(table)), [short(name) for name in table["variant"]])
        axes.set_ylim(len(table) - 0.4, -0.6)
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set(xlabel=f"validation loss above {standard_name(table)} (nats/token)")
    return figure


def plot_learning_rates(source: Given | Comparison, path: str | Path | None = None) -> Figure:
    """Validation loss against learning rate: a line through each variant's means, a point per tested seed, its best rate ringed.

    Each rate at its best weight decay, and where that setting counts.
    """
    comparison = compare_experiments(source)
    results = comparison.source.results
    shown = best_by_rate(comparison.settings).astype({"learning_rate": float}).sort_values("learning_rate")
    seeds = tested_at(results.assign(val_loss=finished_loss(results)), results, shown).astype({"learning_rate": float})
    best = comparison.table.set_index("variant")
    with _figure(6.4, 4.4 + _legend_height(comparison), path) as (figure, axes):
        for name, colour, marker, order in _series(comparison):
            rows, means = (table[table["variant"] == name] for table in (seeds, shown))
            label = name if order > 1 else "_grey"
            axes.plot(rows["learning_rate"], rows["val_loss"], marker, color=colour, markersize=3.5, alpha=0.45, mew=0, zorder=order)
            axes.plot(means["learning_rate"], means["mean"], color=colour, linewidth=1.6, label=label, zorder=order)
            if pd.notna(best.loc[name, "mean"]):
                at, lowest = float(best.loc[name, "learning_rate"]), float(best.loc[name, "mean"])
                axes.plot([at], [lowest], marker, markersize=9, mew=1.8, color=colour, markerfacecolor=PAPER, zorder=order + 20)
        over_rates(axes, shown["learning_rate"].unique())
        _legend(comparison, axes)
    return figure


def over_rates(axes: Axes, rates: Iterable[float]) -> None:
    """Let losses stand over these learning rates, on a log axis that names each."""
    axes.set_xscale("log")
    axes.set_xticks(sorted(rates))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="peak learning rate (log scale)", ylabel=LOSS_LABEL)


def plot_front(variants: pd.DataFrame, objective: str) -> Figure:
    """Loss against one other objective: a point per variant with its 95 % interval; filled, and joined, where it is on the front.

    `variants` is that of search.Found.
    """
    front = variants[variants["front"]].sort_values(objective)
    with _figure(6.4, 4.4, None) as (figure, axes):
        for rows, colour, fill, order in ((variants[~variants["front"]], MUTED, PAPER, 2), (front, PALETTE[0], PALETTE[0], 3)):
            x, mean, half = (rows[name].to_numpy(dtype=float, na_value=np.nan) for name in (objective, "mean", "half_width"))
            axes.errorbar(
                x, mean, yerr=np.nan_to_num(half), fmt="o", color=colour, markerfacecolor=fill, markersize=6, elinewidth=1, zorder=order
            )
        axes.plot(front[objective], front["mean"], color=PALETTE[0], linewidth=1, alpha=0.4)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        unit = {"decode_latency": " (s/token)", "memory": " (bytes)", "flops": " (FLOPs)"}.get(objective, "")
        axes.set(xlabel=f"{words(objective)}{unit}", ylabel=LOSS_LABEL)
    return figure


def plot_best_so_far(variants: pd.DataFrame) -> Figure:
    """The loss of each variant in the order of the suggestions, and the lowest so far; `variants` is that of search.Found."""
    numbers = range(1, len(variants) + 1)
    with _figure(6.4, 4.4, None) as (figure, axes):
        axes.plot(numbers, variants["mean"], "o", color=MUTED, markersize=5, mew=0)
        axes.step(numbers, variants["best_so_far"], where="post", color=PALETTE[0], linewidth=2)
        axes.set(xlabel="variant", ylabel=LOSS_LABEL)
    return figure


def standard_of(table: pd.DataFrame) -> pd.Series:
    """The row that all others are compared with: the reference where it has a loss, else the best."""
    rows = table[(table["verdict"] == REFERENCE_ITSELF) & table["mean"].notna()]
    return rows.iloc[0] if len(rows) else table.iloc[0]


def standard_name(table: pd.DataFrame) -> str:
    return "the reference" if standard_of(table)["verdict"] == REFERENCE_ITSELF else "the best"


def png(figure: Figure) -> bytes:
    """A figure as a PNG for documents."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return buffer.getvalue()


def pdf(figure: Figure) -> bytes:
    """A figure as a PDF for papers: its text stays text, in an embedded font; without a date, so that it is the same each time."""
    buffer = BytesIO()
    with mpl.rc_context(STYLE), without_collector():  # what of a font goes into the file is found in many small objects
        figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return buffer.getvalue()


def svg(figure: Figure) -> str:
    """A figure as SVG text, without date and metadata."""
    buffer = BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(
            buffer, format="svg", dpi=SVG_DPI, transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    return buffer.getvalue().decode()


@contextmanager
def canvas(width: float, height: float, path: str | Path | None = None) -> Iterator[Figure]:
    """A figure that no window and no global state knows of, drawn in our style and saved to `path` at the end."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        # Laid out once and for all: it is saved in three formats, and with any engine, "none" included, each draws it once more for that.
        figure.draw_without_rendering()
        figure.set_layout_engine(None)
        if path is not None:
            write_atomically(path, png(figure))


@contextmanager
def _figure(width: float, height: float, path: str | Path | None) -> Iterator[tuple[Figure, Axes]]:
    """A canvas with one pair of axes."""
    with canvas(width, height, path) as figure:
        yield figure, figure.add_subplot()


def best_curves(comparison: Comparison) -> pd.DataFrame:
    """The evaluations of every variant's best setting by the tested seeds, numbered along the training."""
    ranked = comparison.table[comparison.table["mean"].notna()]
    curves = tested_at(comparison.source.curves, comparison.source.results, ranked)
    curves["evaluation"] = curves.groupby(["trial_id", "seed", "learning_rate", "weight_decay"]).cumcount() + 1
    curves = curves[["variant", "seed", "evaluation", "tokens", "val_loss"]].dropna(subset=["val_loss"])
    return curves.astype({"val_loss": float, "evaluation": int, **({"tokens": int} if curves["tokens"].notna().all() else {})})


def _series(comparison: Comparison) -> Iterator[tuple[str, str, str, int]]:
    """Name, colour, marker and drawing order of each variant by rank: the leading ones in colour, on top; all others grey."""
    names = list(comparison.table["variant"].head(MOST_VARIANTS))
    for rank, name in reversed(list(enumerate(names))):
        leading = rank < len(PALETTE)
        yield name, PALETTE[rank] if leading else MUTED, MARKERS[rank] if leading else ".", 2 + len(PALETTE) - rank if leading else 1


def _legend(comparison: Comparison, axes: Axes) -> None:
    """A legend below the axes, the best variant first."""
    ranks = {name: rank for rank, name in enumerate(comparison.table["variant"])}
    entries = sorted(zip(*axes.get_legend_handles_labels(), strict=True), key=lambda entry: ranks[entry[1]])
    if entries:
        handles, labels = zip(*entries, strict=True)
        title = "best first, others in grey" if comparison.table["mean"].notna().sum() > len(PALETTE) else "best first"
        axes.figure.legend(
            handles,
            [short(label) for label in labels],
            loc="outside lower left",
            ncols=_LEGEND_COLUMNS,
            title=title,
            alignment="left",
            fontsize=9,
            title_fontsize=9,
        )


_LEGEND_COLUMNS = 2


def _legend_height(comparison: Comparison) -> float:
    """Inches that the legend adds to a figure, so that its axes keep their size."""
    return 0.2 * math.ceil(min(len(PALETTE), len(comparison.table)) / _LEGEND_COLUMNS)


def _interval(axes: Axes, y: int, row: pd.Series) -> None:
    verdict = row["verdict"]
    standard, decided, equivalent = verdict in STANDARDS, verdict in DECIDED, verdict == EQUIVALENT
    colour = (
        PALETTE[2]
        if equivalent
        else PALETTE[0]
        if decided or standard
        else PALETTE[3]
        if verdict in (LR_CONFOUNDED, BUDGET_MISMATCH)
        else MUTED
    )
    if pd.notna(row["low"]):
        axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2.2, solid_capstyle="round", zorder=3)
    marker = "D" if standard else "s" if equivalent else "o"
    fill = colour if decided or standard or equivalent else PAPER
    x = 0.0 if standard else row["difference"]
    axes.plot([x], [y], marker, color=colour, markerfacecolor=fill, markersize=7, markeredgewidth=1.8, zorder=4)


def _cell_texts(comparison: Comparison) -> list[str]:
    """Of each variant: its mean ± half of the interval that the layout's pooled error gives it, or why it has none."""
    texts = []
    for (_, row), half in zip(comparison.table.iterrows(), comparison.half_widths(comparison.table["variant"]), strict=True):
        mean = f"{loss(row['mean'])}" if pd.notna(row["mean"]) else str(row["verdict"]).lower()
        texts.append(f"{mean}\n± {half:.3f}" if np.isfinite(half) else mean)
    return texts


def _tick(value: Any) -> Any:
    """A compared value as a heat map's tick: a text, short enough for one cell."""
    return short(value, letters=15) if isinstance(value, str) else value


_LOWEST = "the lowest"  # of all means, whatever its verdict


class _Frame(NamedTuple):
    """How the cells of some verdicts are framed; later frames lie on top."""

    verdicts: tuple[str, ...]
    label: str
    style: str | tuple[int, tuple[float, ...]]
    width: float
    colour: str


_FRAMES = (
    _Frame((UNDECIDED, LR_CONFOUNDED, BUDGET_MISMATCH), "not decided", (0, (1, 1.6)), 1.6, INK),
    _Frame((EQUIVALENT,), "equivalent", (0, (4, 2)), 2.2, PALETTE[3]),
    _Frame((REFERENCE_ITSELF,), "the reference", "-.", 2.8, INK),
    _Frame((_LOWEST,), "the lowest", "-", 2.8, PALETTE[3]),
)


def _frames(axes: Axes, table: pd.DataFrame, means: pd.DataFrame, wide: bool) -> None:
    """Frames of cells by their verdicts, drawn a little inside, so that neighbours do not cover each other; with a legend below."""
    handles, inset = [], 0.035 if wide else 0.06
    known = table[table["mean"].notna()]
    for frame in _FRAMES:
        rows = known.head(1) if _LOWEST in frame.verdicts else known[known["verdict"].isin(frame.verdicts)]
        for row, column in zip(rows[means.index.name], rows[means.columns.name], strict=True):
            y, x = means.index.get_loc(row), means.columns.get_loc(column)
            axes.add_patch(_framed(frame, x + inset, y + inset, 1 - 2 * inset, 1 if wide else 0.6))
        if len(rows):
            handles.append(_framed(frame, 0, 0, 1, 1))
    axes.figure.legend(handles=handles[::-1], loc="outside lower left", ncols=3, fontsize=9, handlelength=2.8, handleheight=1.3)


def _framed(frame: _Frame, x: float, y: float, side: float, scale: float) -> Rectangle:
    return Rectangle(
        (x, y), side, side, fill=False, edgecolor=frame.colour, linewidth=scale * frame.width, linestyle=frame.style, label=frame.label
    )


def _cells_without_loss(axes: Axes, means: pd.DataFrame, texts: pd.DataFrame) -> None:
    for y, x in np.argwhere(means.isna().to_numpy()):
        axes.text(x + 0.5, y + 0.5, texts.iloc[y, x] or "not run", ha="center", va="center", fontsize=8, color=MUTED)
