"""Seeds enough? What a planned sweep could find, from the spread that seeds were seen to have in sweeps that are recorded."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from archsweep.analysis.detect import MOST_SEEDS, detectable_effect, seeds_needed
from archsweep.analysis.statistics import ALL_PAIRS, Family, fit_layout
from archsweep.analysis.tuning import best_settings, choosing, losses_by_seed, seeds_for, settings
from archsweep.errors import ArchsweepError
from archsweep.records import read

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Spread(NamedTuple):
    """How far losses of one variant lie apart by their seeds: the standard deviation of a paired difference, the loss, and who says so."""

    deviation: float  # nats/token
    loss: float  # nats/token
    source: str
    flops: float = 1.0  # of a replica


# Of the default sweep's size: a standard deviation of .015 nats/token over seeds was measured there.
ASSUMED = Spread(0.02 * 2**0.5, 4.0, "assumed, as no sweep here has recorded it")


class Power(NamedTuple):
    """What a plan's seeds find, in words, and what speaks against it, if anything."""

    found: str
    warning: str | None


def recorded_spread(own: Path, others: Iterable[Path], flops: float) -> Spread:
    """The spread in the sweep at `own`, else in that of `others` whose replicas took the most alike FLOPs, else what is assumed."""
    if (spread := _spread(own)) is not None:
        return spread
    found = [spread for folder in others if (spread := _spread(folder)) is not None]
    return min(found, key=lambda spread: abs(log(spread.flops / flops)), default=ASSUMED)


def _spread(folder: Path) -> Spread | None:
    """The residual of val_loss ~ variant + seed at each variant's best setting; None where the records do not tell it."""
    try:
        results = read.load(folder)
    except ArchsweepError:
        return None
    best = best_settings(settings(results))
    if best.empty:
        return None
    layout = fit_layout(losses_by_seed(results, best))
    flops = float(results["flops"].mean())
    return Spread(layout.error * 2**0.5, float(layout.means.min()), f"as in {folder.name}", flops) if layout.error > 0 else None


def power_of(
    effect: float, relative: bool, seeds: int, variants: int, spread: Spread, family: Family = ALL_PAIRS, tuned: bool = False
) -> Power:
    """Whether `seeds` find a difference of `effect` (nats/token, or with `relative` a part of the loss) four times out of five.

    By the test that the report uses: paired, the error pooled over the variants, corrected over the family's pairs; where settings are
    `tuned`, without the seeds that choose them.
    """
    if variants < 2:
        return Power("with one variant there is no difference to find", None)
    wanted = effect * spread.loss if relative else effect
    alpha, tested = family.strictest(variants), seeds - choosing(seeds) if tuned else seeds
    smallest = detectable_effect(tested, variants, alpha, family) * spread.deviation
    spreading = f"with seeds that spread by {spread.deviation / 2**0.5:.2g} nats/token ({spread.source})"
    found = f"{seeds} seeds and {variants} variants find a difference of {smallest:.2g} nats/token four times out of five, {spreading}"
    if smallest <= wanted:
        return Power(found, None)
    enough = float(seeds_needed(wanted / spread.deviation, variants, alpha, family)[0])
    needed = 0 if np.isnan(enough) else seeds_for(int(enough)) if tuned else int(enough)
    way_out = f"{needed} seeds would: --set repeat={needed}" if needed else f"more than {MOST_SEEDS} seeds would"
    return Power(found, f"too few seeds to find a difference of {wanted:.2g} nats/token: {way_out}.")
