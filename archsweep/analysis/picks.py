"""What to take when something else is limited too: for a ladder of limits, the variant of lowest loss that keeps each."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from archsweep.analysis import search

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from archsweep.analysis.compare import Comparison

FEWEST, MOST = 3, 8  # rungs of a ladder
FEWEST_VARIANTS = 4
WORTH_CHOOSING = 1.5  # a cost that varies by a smaller factor is nobody's limit
GRID_COSTS = ("parameters", "decode_latency")  # of variants that were not searched for objectives
LADDERS = (
    (1, 2, 5),
    (1, 1.5, 2, 3, 4, 5, 7),
    tuple(step / 10 for step in range(10, 100, 2)),
    tuple(step / 100 for step in range(100, 1000)),
)


class Pick(NamedTuple):
    """The variant of lowest loss within a limit (inf: none), and how much lower the next pick's loss is; NaN for the last."""

    limit: float
    variant: str
    mean: float
    half_width: float  # of the mean's 95 % interval
    cost: float
    gain: float
    gain_half_width: float


def picks(comparison: Comparison, found: search.Found | None) -> dict[str, list[Pick]]:
    """By each cost that can be limited, the rungs where the pick changes; empty for few variants, and where a limit changes nothing."""
    ranked = comparison.table[comparison.table["mean"].notna()]
    if comparison.layout is None or len(ranked) < FEWEST_VARIANTS:
        return {}
    order = list(ranked["variant"])
    costs = [name for name in found.objectives if name != "val_loss"] if found else list(GRID_COSTS)
    told = ranked.assign(half_width=comparison.half_widths(order))
    told = told.assign(**{name: search.objective(name, comparison, order) for name in costs}).set_index("variant")
    ladders = {name: _ladder_of(told, name, comparison.pairs) for name in costs if _is_choice(told[name].to_numpy(dtype=float))}
    return {name: rungs for name, rungs in ladders.items() if len(rungs) > 1}


def _is_choice(costs: npt.NDArray[np.float64]) -> bool:
    known = _known(costs)
    return len(known) >= FEWEST_VARIANTS and bool(known.max() >= WORTH_CHOOSING * known.min())


def _known(costs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(costs[np.isfinite(costs) & (costs > 0)])


def _ladder_of(told: pd.DataFrame, cost: str, pairs: pd.DataFrame) -> list[Pick]:
    rungs = [*ladder(_known(told[cost].to_numpy(dtype=float))), float("inf")]
    best = [str(told.index[(told[cost] <= rung).to_numpy(dtype=bool, na_value=False)][0]) for rung in rungs]  # told has the best first
    first = {variant: rung for rung, variant in reversed(list(zip(rungs, best, strict=True)))}  # the smallest limit of each pick
    kept = list(dict.fromkeys(best))
    gains = [_gain(told, pairs, here, there) for here, there in zip(kept, [*kept[1:], None], strict=True)]
    numbers = told.loc[kept, ["mean", "half_width", cost]].to_numpy(dtype=float, na_value=np.nan)
    columns = ([first[variant] for variant in kept], kept, *numbers.T.tolist(), *zip(*gains, strict=True))
    return [Pick(*row) for row in zip(*columns, strict=True)]


def _gain(told: pd.DataFrame, pairs: pd.DataFrame, here: str, there: str | None) -> tuple[float, float]:
    """How much lower the loss of `there` is, and half of the interval of that difference where the pair was compared."""
    if there is None:
        return float("nan"), float("nan")
    pair = pairs[(pairs["first"] == there) & (pairs["second"] == here) | (pairs["first"] == here) & (pairs["second"] == there)]
    half = float(pair["high"].iloc[0] - pair["low"].iloc[0]) / 2 if len(pair) else float("nan")
    return float(told.loc[here, "mean"] - told.loc[there, "mean"]), half


def ladder(costs: npt.NDArray[np.float64]) -> list[float]:
    """Round limits that at least one variant keeps and at least one does not, as coarse as still gives a few: 1, 2, 5, 10, 20 …"""
    low, high = float(costs.min()), float(costs.max())
    decades = range(int(np.floor(np.log10(low))), int(np.floor(np.log10(high))) + 1)
    for steps in LADDERS:
        rungs = [limit for decade in decades for step in steps if low <= (limit := float(f"{step * 10.0**decade:.3g}")) < high]
        if len(rungs) >= FEWEST:
            break
    return [rungs[index] for index in np.linspace(0, len(rungs) - 1, min(MOST, len(rungs))).round().astype(int)]
