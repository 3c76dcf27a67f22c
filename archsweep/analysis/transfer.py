"""Whether a learning rate carries over: what each shape loses at the rate that is best for the smallest one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from archsweep.analysis.equivalence import equivalence_p
from archsweep.analysis.statistics import ALPHA, all_pairs, fit_layout
from archsweep.analysis.tuning import best_settings, edge_of
from archsweep.analysis.words import decimals, half_of, names, words
from archsweep.config import label

if TYPE_CHECKING:
    from archsweep.analysis.compare import Comparison

RATE = "learning_rate"


@dataclass(frozen=True)
class Shape:
    """One shape at every rate that it finished. Where its best is the "lowest" or "highest" that was tried, `edge` says so, with the rate
    to `add`. `cost` is the loss at the carried rate minus the best, with half of its 95 % interval, the `p` of a cost, corrected, and that
    of one below the margin; NaN where the carried rate is its own best, or has no loss, as where training diverged there."""

    name: str
    parameters: float
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    best_rate: float
    loss: float
    edge: str
    add: float
    diverged: bool  # at the carried rate
    carried_loss: float
    cost: float
    half_width: float
    p: float
    equivalence_p: float

    @property
    def sensitivity(self) -> float:
        """Mean over the rates of the loss above the lowest."""
        return float(np.mean(self.losses) - min(self.losses))

    @property
    def is_inside(self) -> bool:
        """Whether its best rate lies between others that were tried."""
        return self.edge == "none"


@dataclass(frozen=True)
class Transfer:
    """The shapes, the smallest first, whose best rate is carried to the others; `what` they are, in words. `tests` are the pairs of rates
    that could have been picked, for which p-values are corrected."""

    what: str
    shapes: tuple[Shape, ...]
    tests: int

    @property
    def first(self) -> Shape:
        return self.shapes[0]


def transfer(comparison: Comparison) -> Transfer | None:
    """What a comparison of learning rates over other dimensions says; None where it is no such question.

    Tested is each shape's best rate against the carried one, in the two-way layout of these variants alone: rates that nearly diverge,
    which are in the grid to be seen to lose, would blur the error of the others. Any rate could have been its best, so p-values are
    multiplied by all the pairs that there might have been (Bonferroni).
    """
    source, layout = comparison.source, comparison.layout
    others = [name for name in source.compare if name != RATE]
    if layout is None or source.search is not None or RATE not in source.compare or not others:
        return None
    groups = [group for _, group in _tried(comparison, others).groupby(others, dropna=False, sort=False) if group["mean"].notna().any()]
    if len(groups) < 2 or any(group[RATE].nunique() < 2 or group["parameters"].isna().any() for group in groups):
        return None
    groups.sort(key=lambda group: float(group["parameters"].iloc[0]))
    carried = float(_best(groups[0])[RATE])
    tests = sum(group[RATE].nunique() - 1 for group in groups[1:])
    at_stake = [name for group in groups for name in (_best(group)["variant"], *group.loc[group[RATE] == carried, "variant"])]
    pairs = all_pairs(fit_layout(layout.losses.loc[[name for name in dict.fromkeys(at_stake) if name in layout.losses.index]]))
    pairs["equivalence_p"] = equivalence_p(pairs, source.margin * layout.means.loc[pairs["first"]].abs().to_numpy(dtype=float))
    shapes = tuple(_shape(group, others, carried, pairs, tests) for group in groups)
    return Transfer(" and ".join(map(words, others)), shapes, tests)


def _tried(comparison: Comparison, others: list[str]) -> pd.DataFrame:
    """A row per variant that was tried to its end, with its mean loss (missing where a seed diverged), in the plan's order.

    Where weight decay is tuned it is that of the variant's best setting. One that has none diverged only if each setting that ended did.
    """
    results, tried = comparison.source.results, comparison.settings
    first = results[~results["variant"].duplicated()].set_index("variant")
    ended = pd.concat([best_settings(tried), tried[tried["ended"]].sort_values("diverged", kind="stable")])
    ended = ended.drop_duplicates("variant").set_index("variant")
    told = first[list(dict.fromkeys([*others, RATE, "parameters"]))]
    rows = told.join(ended[["mean", "complete", "diverged"]], how="inner").reset_index()
    rows["mean"] = rows["mean"].astype(float).where(rows["complete"].astype(bool))
    return rows.astype({RATE: float})


def _best(group: pd.DataFrame) -> pd.Series:
    return group.loc[group["mean"].idxmin()]


def _shape(group: pd.DataFrame, others: list[str], carried: float, pairs: pd.DataFrame, tests: int) -> Shape:
    best, known = _best(group), group[group["mean"].notna()].sort_values(RATE)
    at_carried = group[group[RATE] == carried]
    test = _pair(pairs, best["variant"], at_carried["variant"].iloc[0]) if len(at_carried) else None
    edge, add = edge_of(float(best[RATE]), sorted(group[RATE].unique()))  # a rate that diverged bounds the best one from above
    nan = float("nan")
    return Shape(
        name=label({name: _plain(best[name]) for name in others}),
        parameters=float(best["parameters"]),
        rates=tuple(known[RATE]),
        losses=tuple(known["mean"]),
        best_rate=float(best[RATE]),
        loss=float(best["mean"]),
        edge=edge,
        add=add,
        diverged=bool(at_carried["diverged"].any()),
        carried_loss=float(at_carried["mean"].iloc[0]) if len(at_carried) else nan,
        cost=nan if test is None else abs(float(test["difference"])),
        half_width=nan if test is None else float(test["high"] - test["low"]) / 2,
        p=nan if test is None else min(1.0, tests * float(test["p"])),
        equivalence_p=nan if test is None else float(test["equivalence_p"]),
    )


def _plain(value: Any) -> Any:
    """A number of Python's own, as names are made of."""
    return value.item() if isinstance(value, np.generic) else value


def _pair(pairs: pd.DataFrame, one: str, other: str) -> pd.Series | None:
    found = pairs[pairs["first"].isin([one, other]) & pairs["second"].isin([one, other])]
    return found.iloc[0] if one != other and len(found) else None


def sentence(found: Transfer) -> str:
    """The answer in words."""
    first = found.first
    parts = _carried(found) if first.is_inside else []
    parts.append(f"Best rates: {', '.join(f'{shape.best_rate:g} at {shape.name}' for shape in found.shapes)}.")
    if at_edge := [shape for shape in found.shapes if not shape.is_inside]:
        rates = ", ".join(f"{shape.name} (add {shape.add:g})" for shape in at_edge)
        parts.append(f"No verdict for {rates}: the best rate there is at the edge of those tried.")
    return " ".join(parts)


def _carried(found: Transfer) -> list[str]:
    """What the first shape's best rate does to the others whose own best is known."""
    first, rest = found.first, [shape for shape in found.shapes[1:] if shape.is_inside]
    rate = f"{first.name}'s best learning rate, {first.best_rate:g},"
    if diverged := [shape.name for shape in found.shapes[1:] if shape.diverged]:
        return [f"The learning rate does not carry over: {rate} diverges at {names(pd.Series(diverged))}."]
    moved = [shape for shape in rest if np.isfinite(shape.cost)]
    if not moved:
        everyone = rest and len(rest) == len(found.shapes) - 1 and all(shape.best_rate == first.best_rate for shape in rest)
        said = f"The learning rate carries over: of those tried, {first.best_rate:g} is the best for every {found.what}."
        return [said] if everyone else []
    worst = max(moved, key=lambda shape: shape.cost)
    if lost := [shape for shape in moved if shape.p < ALPHA]:
        worst = max(lost, key=lambda shape: shape.cost)
        more = f", the most of {len(lost)} that lose by it" if len(lost) > 1 else ""
        return [f"The learning rate does not carry over: {rate} costs {worst.name} {_cost(worst)}{more}."]
    if all(shape.equivalence_p < ALPHA for shape in moved):
        return [f"The learning rate carries over: {rate} costs {worst.name} {_cost(worst)}, the most, within the margin."]
    unshown = "that it costs anything is not shown, which is not the same as nothing"
    return [f"{rate} costs {worst.name} {_cost(worst)}, the most: {unshown}."]


def _cost(shape: Shape) -> str:
    return f"{decimals(shape.cost, shape.half_width)}{half_of(shape.half_width)} nats/token"
