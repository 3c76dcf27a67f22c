"""Whether a learning rate carries over: what each shape loses at the rate that is best for the smallest one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from archsweep.analysis.equivalence import equivalence_p
from archsweep.analysis.statistics import ALPHA, all_pairs, fit_layout
from archsweep.analysis.tuning import beyond
from archsweep.analysis.words import decimals, half_of, words
from archsweep.config import label

if TYPE_CHECKING:
    import pandas as pd

    from archsweep.analysis.source import Source
    from archsweep.analysis.statistics import Layout

RATE = "learning_rate"


@dataclass(frozen=True)
class Shape:
    """One shape at every rate. `edge` is "lowest" or "highest" with the rate to add; `cost` is the loss at the carried rate minus the best,
    with half of its 95 % interval, the `p` of a cost, corrected, and that of one below the margin; NaN where the carried rate is its own
    best, or was not finished."""

    name: str
    parameters: float
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    best_rate: float
    loss: float
    edge: tuple[str, float] | None
    carried_loss: float
    cost: float
    half_width: float
    p: float
    equivalence_p: float

    @property
    def sensitivity(self) -> float:
        """Mean over the rates of the loss above the lowest."""
        return float(np.mean(self.losses) - min(self.losses))


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


def transfer(table: pd.DataFrame, layout: Layout | None, source: Source) -> Transfer | None:
    """What a comparison of learning rates over other dimensions says; None where it is no such question.

    Tested is each shape's best rate against the carried one, in the two-way layout of these variants alone: rates that nearly diverge,
    which are in the grid to be seen to lose, would blur the error of the others. Any rate could have been its best, so p-values are
    multiplied by all the pairs that there might have been (Bonferroni).
    """
    others = [name for name in source.compare if name != RATE]
    known = table[table["mean"].notna()]
    if layout is None or RATE not in source.compare or not others or known.groupby(others, dropna=False).ngroups < 2:
        return None
    groups = [group.sort_values(RATE) for _, group in known.groupby(others, dropna=False, sort=False)]
    groups.sort(key=lambda group: float(group["parameters"].iloc[0]))
    carried = _best(groups[0])[RATE]
    tests = sum(len(group) - 1 for group in groups[1:])
    at_stake = [name for group in groups for name in (_best(group)["variant"], *group.loc[group[RATE] == carried, "variant"])]
    pairs = all_pairs(fit_layout(layout.losses.loc[list(dict.fromkeys(at_stake))]))
    pairs["equivalence_p"] = equivalence_p(pairs, source.margin * layout.means.loc[pairs["first"]].abs().to_numpy(dtype=float))
    shapes = tuple(_shape(group, others, carried, pairs, tests) for group in groups)
    return Transfer(" and ".join(map(words, others)), shapes, tests)


def _best(group: pd.DataFrame) -> pd.Series:
    return group.loc[group["mean"].idxmin()]


def _shape(group: pd.DataFrame, others: list[str], carried: float, pairs: pd.DataFrame, tests: int) -> Shape:
    best, rates = _best(group), group[RATE].astype(float).tolist()
    at_carried = group[group[RATE] == carried]
    test = _pair(pairs, best["variant"], at_carried["variant"].iloc[0]) if len(at_carried) else None
    nan = float("nan")
    return Shape(
        name=label({name: _plain(best[name]) for name in others}),
        parameters=float(best["parameters"]),
        rates=tuple(rates),
        losses=tuple(group["mean"].astype(float)),
        best_rate=float(best[RATE]),
        loss=float(best["mean"]),
        edge=_edge(float(best[RATE]), rates),
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
    return found.iloc[0] if len(found) else None


def _edge(best: float, rates: list[float]) -> tuple[str, float] | None:
    """Where the best rate is the lowest or highest that was tried: which, and the rate to add at the grid's own spacing."""
    if len(rates) < 2 or rates[0] < best < rates[-1]:
        return None
    lowest = best == rates[0]
    return ("lowest", beyond(best, rates[1])) if lowest else ("highest", beyond(best, rates[-2]))


def sentence(found: Transfer) -> str:
    """The answer in words."""
    first, rest = found.first, found.shapes[1:]
    at_edge = [shape for shape in found.shapes if shape.edge]
    lost = [shape for shape in rest if shape.p < ALPHA and not shape.edge and not first.edge]
    drift = ", ".join(f"{shape.best_rate:g} at {shape.name}" for shape in found.shapes)
    parts = []
    if lost:
        worst = max(lost, key=lambda shape: shape.cost)
        more = f", the most of {len(lost)} that lose by it" if len(lost) > 1 else ""
        parts.append(
            f"The learning rate does not carry over: {first.name}'s best, {first.best_rate:g}, costs {worst.name} {_cost(worst)}{more}."
        )
    elif first.edge is None and all(shape.best_rate == first.best_rate for shape in rest):
        parts.append(f"The learning rate carries over: of those tried, {first.best_rate:g} is the best for every {found.what}.")
    elif first.edge is None:
        moved = [shape for shape in rest if shape.best_rate != first.best_rate and not shape.edge]
        equal = moved and all(shape.equivalence_p < ALPHA for shape in moved)
        if moved:
            worst = max(moved, key=lambda shape: shape.cost)
            shown = (
                "no loss beyond the margin is left" if equal else "that it costs anything is not shown, which is not the same as nothing"
            )
            parts.append(f"{first.name}'s best learning rate, {first.best_rate:g}, costs {worst.name} {_cost(worst)}, the most: {shown}.")
    parts.append(f"Best rates: {drift}.")
    if at_edge:
        rates = ", ".join(f"{shape.name} (add {shape.edge[1]:g})" for shape in at_edge if shape.edge)
        parts.append(f"No verdict for {rates}: the best rate there is at the edge of those tried.")
    return " ".join(parts)


def _cost(shape: Shape) -> str:
    return f"{decimals(shape.cost, shape.half_width)}{half_of(shape.half_width)} nats/token"
