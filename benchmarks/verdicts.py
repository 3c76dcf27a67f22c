"""Is the verdict right? Sweeps of planted losses, tuned and judged by the report's own code: how often it is wrong, how often it finds."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from archsweep.analysis.checks import by_seed
from archsweep.analysis.detect import detectable_effect
from archsweep.analysis.equivalence import equivalence_p
from archsweep.analysis.statistics import ALL_PAIRS, ALPHA, REFERENCE, Layout, all_against, all_pairs, fit_layout
from archsweep.analysis.tuning import choosing
from archsweep.analysis.verdicts import BETTER, BETTER_BUT_SMALL, EQUIVALENT, WORSE, WORSE_BUT_SMALL, verdicts

if TYPE_CHECKING:
    from collections.abc import Callable

Array = npt.NDArray[np.float64]

VARIANTS, SEEDS = (2, 4, 9), (3, 5, 8)
RATES = 3
LOSS, SPREAD, MARGIN = 4.0, 0.01, 0.005  # nats/token, the standard deviation over seeds, and the part of the loss that counts as equal
TRIALS = 1000
DECIDED = {BETTER, BETTER_BUT_SMALL, WORSE, WORSE_BUT_SMALL}


@dataclass(frozen=True)
class World:
    """What losses are drawn from: all variants equal at their best rate, the middle one, unless `shift` (of all but the first) says so."""

    variants: int
    seeds: int
    spreads: Callable[[int], Array] = np.ones  # of each variant, in units of SPREAD
    tails: float = np.inf  # degrees of freedom of Student's noise
    flat: int = 0  # so many variants lose nothing at the other rates
    steep: float = 10.0  # what the others lose there, in units of SPREAD
    diverged: bool = False  # one replica at the first variant's middle rate, which then no longer counts
    shift: float = 0.0  # nats/token
    reference: bool = False  # whether all are tested against the first variant

    def draw(self, rng: np.random.Generator) -> Array:
        """Losses of every variant, rate and seed, with an effect of the seed that all share; NaN where a replica diverged."""
        shape = (self.variants, RATES, self.seeds)
        noise = rng.normal(size=shape) if np.isinf(self.tails) else rng.standard_t(self.tails, size=shape)
        curve = (
            np.where(np.arange(RATES) == RATES // 2, 0.0, self.steep)[None, :, None]
            * (np.arange(self.variants) >= self.flat)[:, None, None]
        )
        seed_effect = 3 * SPREAD * rng.normal(size=self.seeds)
        losses = LOSS + seed_effect + SPREAD * (self.spreads(self.variants)[:, None, None] * noise + curve)
        losses[1:] += self.shift
        if self.diverged:
            losses[0, RATES // 2, rng.integers(self.seeds)] = np.nan
        return np.asarray(losses)


def tuned(losses: Array) -> tuple[Layout, list[bool]]:
    """(variants, rates, seeds) -> the layout at each variant's best rate, the best variant first, and whether that rate is at an edge."""
    count = choosing(losses.shape[2])
    choice = np.where(np.isnan(losses).any(axis=2), np.inf, losses[:, :, : count or None].mean(axis=2)).argmin(axis=1)
    at_best = losses[np.arange(len(losses)), choice, count:]
    order = at_best.mean(axis=1).argsort(kind="stable")
    names = [f"v{number}" for number in order]
    return fit_layout(pd.DataFrame(at_best[order], index=names)), [bool(choice[number] in (0, RATES - 1)) for number in order]


def judged(losses: Array, reference: bool = False) -> dict[str, str]:
    """The verdict on each variant, as compare_experiments reaches it; nothing where no test has found anything."""
    layout, edges = tuned(losses)
    pairs = all_against(layout, "v0") if reference else all_pairs(layout)
    equivalent = equivalence_p(pairs, MARGIN * layout.means[pairs["first"]].to_numpy())
    others = len(layout.means) - 1
    if not min(pairs["holm_p"].to_numpy()[:others].min(), equivalent[:others].min()) < ALPHA:
        return {}
    table = (
        pairs.assign(equivalence_p=equivalent)
        .head(others)
        .set_index("second")[["difference", "holm_p", "equivalence_p"]]
        .reindex(layout.means.index)
    )
    table = table.rename_axis("variant").reset_index().assign(mean=layout.means.to_numpy())
    table["learning_rate_edge"] = ["lowest" if edge else "none" for edge in edges]
    return dict(zip(table["variant"], verdicts(table, (), "v0" if reference else None, MARGIN), strict=True))


def rate(world: World, wrong: set[str], trials: int = TRIALS, seed: int = 0) -> float:
    """The part of the sweeps from this world in which any verdict is one of `wrong`."""
    rng = np.random.default_rng(seed)
    return sum(bool(wrong & set(judged(world.draw(rng), world.reference).values())) for _ in range(trials)) / trials


def coverage(world: World, trials: int = TRIALS, seed: int = 1) -> tuple[float, float]:
    """How often the difference of the first two variants lies in its 95 % interval: the report's, and that of the pair's own seeds."""
    rng, inside = np.random.default_rng(seed), np.zeros(2)
    for _ in range(trials):
        layout, _ = tuned(world.draw(rng))
        row = all_against(layout, "v0").set_index("second").loc["v1"]
        own = by_seed(layout, "v0").loc["v1"]
        inside += [row["low"] <= world.shift <= row["high"], own["own_low"] <= world.shift <= own["own_high"]]
    return float(inside[0] / trials), float(inside[1] / trials)


def found(world: World, trials: int = TRIALS, seed: int = 2) -> float:
    """How often a difference that is said to be found four times out of five is, at Holm's strictest step."""
    family, tested = REFERENCE if world.reference else ALL_PAIRS, world.seeds - choosing(world.seeds)
    alpha = family.strictest(world.variants)
    effect = detectable_effect(tested, world.variants, alpha, family) * 2**0.5 * SPREAD
    rng, hits, planted = np.random.default_rng(seed), 0, replace(world, shift=effect)
    for _ in range(trials):
        layout, _ = tuned(planted.draw(rng))
        pairs = all_against(layout, "v0") if world.reference else all_pairs(layout)
        pair = pairs[pairs["first"].isin(["v0", "v1"]) & pairs["second"].isin(["v0", "v1"])].iloc[0]
        hits += bool(pair["p"] < alpha)
    return hits / trials


def _one_noisy(variants: int) -> Array:
    return np.array([4.0] + [1.0] * (variants - 1))


def _one_to_four(variants: int) -> Array:
    return np.geomspace(4, 1, variants)


def _worlds(**more: object) -> list[World]:
    return [World(variants, seeds, **more) for variants in VARIANTS for seeds in SEEDS]  # type: ignore[arg-type]


NULL = {
    "equal variants": _worlds(),
    "one variant's rates all equal": _worlds(flat=1),
    "all variants' rates equal": _worlds(flat=99),
    "one variant four times as noisy": _worlds(spreads=_one_noisy),
    "spreads from 1 to 4": _worlds(spreads=_one_to_four),
    "Student's t with 3 degrees": _worlds(tails=3),
    "one diverged replica": _worlds(flat=99, diverged=True),
    "against a reference": _worlds(reference=True),
    "against one four times as noisy": _worlds(reference=True, spreads=_one_noisy),
}
AT_MARGIN = {
    "others worse by the margin": _worlds(shift=MARGIN * LOSS),
    "the same, against it": _worlds(shift=MARGIN * LOSS, reference=True),
}


def main() -> None:
    """Print a table row for every claim; a number on the command line replaces the number of sweeps in each cell."""
    trials = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else TRIALS
    cells = [(variants, seeds) for variants in VARIANTS for seeds in SEEDS]
    print(f"{trials} planted sweeps a cell, {RATES} learning rates; columns are variants x seeds; percent")
    print("| | " + " | ".join(f"{variants} x {seeds}" for variants, seeds in cells) + " |\n|---|" + "---|" * len(cells))
    for name, worlds in NULL.items():
        _row(f"wrong BETTER: {name}", [rate(world, DECIDED, trials) for world in worlds])
    for name, worlds in AT_MARGIN.items():
        _row(f"wrong EQUIVALENT: {name}", [rate(world, {EQUIVALENT}, trials) for world in worlds])
    covered = [coverage(world, trials) for world in _worlds()]
    _row("95 % interval covers", [both[0] for both in covered])
    _row("the pair's own interval covers", [both[1] for both in covered])
    _row("found, 80 predicted", [found(world, trials) for world in _worlds()])
    _row("found against a reference, 80 predicted", [found(world, trials) for world in _worlds(reference=True)])


def _row(name: str, parts: list[float]) -> None:
    print(f"| {name} | " + " | ".join(f"{100 * part:.1f}" for part in parts) + " |", flush=True)


if __name__ == "__main__":
    main()
