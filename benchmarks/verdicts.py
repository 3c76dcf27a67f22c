"""Is the verdict right? Sweeps of planted losses, tuned and judged by the report's own code: how often it is wrong, how often it finds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from archsweep.analysis.checks import by_seed
from archsweep.analysis.detect import detectable_effect
from archsweep.analysis.equivalence import equivalence
from archsweep.analysis.statistics import ALL_PAIRS, ALPHA, REFERENCE, all_pairs, fit_layout, paired_tests
from archsweep.analysis.tuning import choosing
from archsweep.analysis.verdicts import (
    BEST,
    BETTER,
    BETTER_BUT_SMALL,
    EQUIVALENT,
    LR_CONFOUNDED,
    REFERENCE_ITSELF,
    UNDECIDED,
    WORSE,
    WORSE_BUT_SMALL,
)

if TYPE_CHECKING:
    from collections.abc import Callable

Array = npt.NDArray[np.float64]

VARIANTS, SEEDS = (2, 4, 9), (3, 5, 8)
RATES = 3
LOSS, SPREAD, MARGIN = 4.0, 0.01, 0.005  # nats/token, the standard deviation over seeds, and the part of the loss that counts as equal
SWEEPS = 10_000
MOST_TABLES = 2000  # of the intervals, which are read from the report's own table, sweep by sweep
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
    diverged: bool = False  # one replica at the first variant's highest rate, which then no longer counts
    shift: float = 0.0  # nats/token
    reference: bool = False  # whether all are tested against the first variant

    def draw(self, rng: np.random.Generator, sweeps: int = 1) -> Array:
        """Losses of so many sweeps, (sweeps, variants, rates, seeds), with an effect of the seed that all share; NaN: it diverged."""
        shape = (sweeps, self.variants, RATES, self.seeds)
        noise = rng.normal(size=shape) if np.isinf(self.tails) else rng.standard_t(self.tails, size=shape)
        off_best = np.where(np.arange(RATES) == RATES // 2, 0.0, self.steep)
        curve = off_best * (np.arange(self.variants) >= self.flat)[:, None]
        seed_effect = 3 * SPREAD * rng.normal(size=(sweeps, 1, 1, self.seeds))
        losses = LOSS + seed_effect + SPREAD * (self.spreads(self.variants)[:, None, None] * noise + curve[:, :, None])
        losses[:, 1:] += self.shift
        if self.diverged:
            losses[np.arange(sweeps), 0, RATES - 1, rng.integers(self.seeds, size=sweeps)] = np.nan
        return np.asarray(losses)


def tuned(losses: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
    """(sweeps, variants, rates, seeds) -> the tested losses at each variant's best rate, (sweeps, variants, seeds), and whether that rate
    is at an edge, (sweeps, variants)."""
    count = choosing(losses.shape[3])
    choice = np.where(np.isnan(losses).any(axis=3), np.inf, losses[..., : count or None].mean(axis=3)).argmin(axis=2)
    at_best = np.take_along_axis(losses, choice[..., None, None], axis=2)[:, :, 0, count:]
    return at_best, (choice == 0) | (choice == RATES - 1)


def judged(losses: Array, reference: bool = False) -> npt.NDArray[np.str_]:
    """The verdict on each variant, (sweeps, variants), as compare_experiments reaches it; `reference`: against the first variant."""
    at_best, edges = tuned(losses)
    order = np.tile(np.arange(losses.shape[1]), (len(losses), 1)) if reference else at_best.mean(axis=2).argsort(axis=1, kind="stable")
    ranked, edges = np.take_along_axis(at_best, order[..., None], axis=1), np.take_along_axis(edges, order, axis=1)
    first, second = _pairs(losses.shape[1], reference)
    tests = paired_tests(ranked, first, second, REFERENCE if reference else ALL_PAIRS)
    margin = MARGIN * ranked.mean(axis=2)
    equivalent = equivalence(tests.difference, tests.error, tests.degrees, margin[:, first])
    others = slice(losses.shape[1] - 1)  # the pairs with the best, or with the reference, are the first ones
    difference, is_found, is_equal = tests.difference[:, others], tests.holm_p[:, others] < ALPHA, equivalent[:, others] < ALPHA
    is_small = np.abs(difference) < margin[:, :1]
    better = np.where(is_small, BETTER_BUT_SMALL, BETTER)
    found = np.where(reference & (difference > 0), np.where(is_small, WORSE_BUT_SMALL, WORSE), better)
    verdict = np.where(is_found, found, np.where(is_equal, EQUIVALENT, UNDECIDED))
    verdict = np.where(edges[:, 1:] | edges[:, :1], LR_CONFOUNDED, verdict)
    whole = np.concatenate([np.full((len(losses), 1), REFERENCE_ITSELF if reference else BEST), verdict], axis=1)
    return np.take_along_axis(whole, order.argsort(axis=1), axis=1)


def _pairs(variants: int, reference: bool) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    if reference:
        return np.zeros(variants - 1, dtype=np.intp), np.arange(1, variants)
    first, second = np.triu_indices(variants, k=1)
    return first, second


def rate(world: World, wrong: set[str], sweeps: int = SWEEPS, seed: int = 0) -> float:
    """The part of the sweeps from this world in which any verdict is one of `wrong`."""
    verdicts = judged(world.draw(np.random.default_rng(seed), sweeps), world.reference)
    return float(np.isin(verdicts, list(wrong)).any(axis=1).mean())


def coverage(world: World, sweeps: int = SWEEPS, seed: int = 1) -> float:
    """How often the difference of the first two variants lies in its 95 % interval."""
    at_best, _ = tuned(world.draw(np.random.default_rng(seed), sweeps))
    tables = [all_pairs(fit_layout(pd.DataFrame(losses))).iloc[0] for losses in at_best[: min(sweeps, MOST_TABLES)]]
    return float(np.mean([row["low"] <= world.shift <= row["high"] for row in tables]))


def own_coverage(world: World, sweeps: int = SWEEPS, seed: int = 1) -> float:
    """How often it lies in the interval from the pair's own seeds."""
    at_best, _ = tuned(world.draw(np.random.default_rng(seed), sweeps))
    pairs = pd.DataFrame(at_best[:, 1] - at_best[:, 0])  # each sweep's difference is a variant of one table, against nought
    layout = fit_layout(pd.concat([pd.DataFrame(np.zeros((1, pairs.shape[1])), index=["nought"]), pairs]))
    own = by_seed(layout, "nought").drop("nought")
    return float(((own["own_low"] <= world.shift) & (world.shift <= own["own_high"])).mean())


def found(world: World, sweeps: int = SWEEPS, seed: int = 2) -> float:
    """How often a difference that is said to be found four times out of five is, at Holm's strictest step."""
    family, tested = REFERENCE if world.reference else ALL_PAIRS, world.seeds - choosing(world.seeds)
    alpha = family.strictest(world.variants)
    effect = detectable_effect(tested, world.variants, alpha, family) * 2**0.5 * SPREAD
    at_best, _ = tuned(replace(world, shift=effect).draw(np.random.default_rng(seed), sweeps))
    tests = paired_tests(at_best, *_pairs(world.variants, world.reference), family)
    return float(((tests.p[:, 0] < alpha) & (tests.difference[:, 0] > 0)).mean())


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
    "one diverged replica": _worlds(steep=2.0, diverged=True),
    "against a reference": _worlds(reference=True),
    "against one four times as noisy": _worlds(reference=True, spreads=_one_noisy),
}
AT_MARGIN = {
    "others worse by the margin": _worlds(shift=MARGIN * LOSS),
    "the same, against it": _worlds(shift=MARGIN * LOSS, reference=True),
}


def main() -> None:
    """Print a table row for every claim."""
    cells = [(variants, seeds) for variants in VARIANTS for seeds in SEEDS]
    print(f"{SWEEPS:,} planted sweeps a cell, {RATES} learning rates; columns are variants x seeds; percent")
    print("| | " + " | ".join(f"{variants} x {seeds}" for variants, seeds in cells) + " |\n|---|" + "---:|" * len(cells))
    for name, worlds in NULL.items():
        _row(f"wrong BETTER: {name}", [rate(world, DECIDED) for world in worlds])
    for name, worlds in AT_MARGIN.items():
        _row(f"wrong EQUIVALENT: {name}", [rate(world, {EQUIVALENT}) for world in worlds])
    _row("95 % interval covers", [coverage(world) for world in _worlds()])
    _row("the pair's own interval covers", [own_coverage(world) for world in _worlds()])
    _row("found, 80 predicted", [found(world) for world in _worlds()])
    _row("found against a reference, 80 predicted", [found(world) for world in _worlds(reference=True)])


def _row(name: str, parts: list[float]) -> None:
    print(f"| {name} | " + " | ".join(f"{100 * part:.1f}" for part in parts) + " |", flush=True)


if __name__ == "__main__":
    main()
