"""How small a difference the seeds can find, and how many seeds one takes: the power of the verdicts' own test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from archsweep.analysis.statistics import ALL_PAIRS, ALPHA, Family

if TYPE_CHECKING:
    from archsweep.analysis.statistics import Array

POWER = 0.8
MOST_SEEDS = 1000  # beyond this a difference is too small to plan for

_NODES = (np.arange(12) + 0.5) / 12


def power(effect: npt.ArrayLike, seeds: npt.ArrayLike, variants: int = 2, alpha: float = ALPHA, family: Family = ALL_PAIRS) -> Array:
    """Chance to find a difference of `effect` standard deviations of the paired difference, and its sign, where variants are equally noisy.

    Of two variants, that of the paired t-test. With more, the error is the larger of the pair's own and the pooled one: the share of the
    residuals that is the pair's own varies as a beta distribution, over which the chance is averaged.
    """
    from statsmodels.stats.power import ttest_power  # a quarter of a second that only sweeps with something to find need

    effects, counts = np.broadcast_arrays(np.abs(np.asarray(effect, float)), np.asarray(seeds, float))
    own = np.maximum(counts - 1, 1)[..., None]
    pooled = (variants - 1) * own
    critical = stats.t.isf(alpha / 2, own * family.times(variants))
    if variants > 2:
        share = stats.beta.ppf(_NODES, own / 2, (pooled - own) / 2)
        critical = critical * np.sqrt(np.maximum(1, share * pooled / own))
    chance = ttest_power(effects[..., None], counts[..., None], stats.t.sf(critical, pooled), df=pooled, alternative="larger")
    chance = np.nan_to_num(chance, nan=1.0)  # far out, where it is 1, the noncentral t is not computed
    return np.asarray(np.where(counts < 2, 0.0, chance.mean(axis=-1)))


def detectable_effect(seeds: float, variants: int = 2, alpha: float = ALPHA, family: Family = ALL_PAIRS) -> float:
    """The smallest effect that is found four times out of five, in standard deviations of the paired difference; inf for one seed."""
    if seeds < 2:
        return float("inf")
    high = 1.0
    while power(high, seeds, variants, alpha, family) < POWER:
        high *= 2
    return float(optimize.brentq(lambda effect: power(effect, seeds, variants, alpha, family) - POWER, 0, high, rtol=1e-6))


def seeds_needed(effects: npt.ArrayLike, variants: int = 2, alpha: float = ALPHA, family: Family = ALL_PAIRS) -> Array:
    """The fewest tested seeds that find each effect four times out of five; NaN where that is more than MOST_SEEDS, or unknown."""
    wanted = np.atleast_1d(np.asarray(effects, float))
    low, high = np.ones(wanted.shape), np.full(wanted.shape, float(MOST_SEEDS))
    found = power(wanted, high, variants, alpha, family) >= POWER
    while (high - low > 1).any():
        middle = (low + high) // 2
        enough = power(wanted, middle, variants, alpha, family) >= POWER
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(found & ~np.isnan(wanted), high, np.nan)
