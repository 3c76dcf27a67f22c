"""How small a difference the seeds can find, and how many seeds one takes: the power of the verdicts' own test."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from archsweep.analysis.statistics import ALL_PAIRS, ALPHA, Family

if TYPE_CHECKING:
    from archsweep.analysis.statistics import Array

POWER = 0.8
MOST_SEEDS = 1000  # beyond this a difference is too small to plan for
MOST_DOUBLINGS = 64  # of an effect of 1, in the search for one that is found

_NODES = (np.arange(12) + 0.5) / 12


def power(effect: npt.ArrayLike, seeds: npt.ArrayLike, variants: int = 2, alpha: float = ALPHA, family: Family = ALL_PAIRS) -> Array:
    """Chance to find a difference of `effect` standard deviations of the paired difference, and its sign, where variants are equally noisy.

    Of two variants, that of the paired t-test. With more, the error is the larger of the pair's own and the pooled one: the share of the
    residuals that is the pair's own varies as a beta distribution, over which the chance is averaged.
    """
    effects, counts = np.broadcast_arrays(np.abs(np.asarray(effect, float)), np.asarray(seeds, float))
    own = np.maximum(counts - 1, 1)[..., None]
    pooled = (variants - 1) * own
    critical = stats.t.isf(alpha / 2, own * family.times(variants))
    if variants > 2:
        share = stats.beta.ppf(_NODES, own / 2, (pooled - own) / 2)
        critical = critical * np.sqrt(np.maximum(1, share * pooled / own))
    chance = _noncentral_t(critical, pooled, (effects * np.sqrt(counts))[..., None])
    return np.asarray(np.where(counts < 2, 0.0, chance.mean(axis=-1)))


def _noncentral_t(critical: Array, degrees: Array, shift: Array) -> Array:
    """Chance that a t, moved by `shift`, is above `critical`. Far out scipy gives NaN: there it is the normal approximation
    (Abramowitz and Stegun 26.7.10), which is 0 or 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        chance = stats.nct.sf(critical, degrees, shift)
    nearly = stats.norm.cdf((shift - critical * (1 - 1 / (4 * degrees))) / np.sqrt(1 + critical**2 / (2 * degrees)))
    return np.asarray(np.where(np.isnan(chance), nearly, chance))


def detectable_effect(seeds: float, variants: int = 2, alpha: float = ALPHA, family: Family = ALL_PAIRS) -> float:
    """The smallest effect that is found four times out of five, in standard deviations of the paired difference; inf where none
    is, as for one seed."""
    if seeds < 2:
        return float("inf")
    doubled = (2.0**times for times in range(MOST_DOUBLINGS))
    high = next((effect for effect in doubled if power(effect, seeds, variants, alpha, family) >= POWER), None)
    if high is None:
        return float("inf")
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
