"""What the verdict's test is held against: the pairs' own seeds without any model, and one test of all variants at once."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from archsweep.analysis.statistics import ALPHA

if TYPE_CHECKING:
    from collections.abc import Hashable

    from archsweep.analysis.statistics import Array, Layout

FEWEST_FOR_BOOTSTRAP = 20  # below it BCa covers less than it says: 84 % with 5 seeds, 88 % with 8 (benchmarks/RESULTS.md, verdicts)
FEWEST_FOR_SIGNS = 6  # with five seeds the smallest two-sided p is 2 / 2**5 = .0625
RESAMPLES = 2000
MOST_SIGNS = 2**12  # exact up to twelve seeds, by resampling beyond
MOST_VARIANTS = 50  # a linear model of more takes seconds, and answers what nobody asks

_BATCH = 4_000_000  # numbers held at once


class Omnibus(NamedTuple):
    """P-values of "all variants are equal", by two tests: of the two-way analysis of variance, and Friedman's of the ranks; NaN: none."""

    anova: float
    friedman: float


def omnibus(layout: Layout) -> Omnibus:
    """Both tests of all variants at once; NaN for fewer than two seeds, more than MOST_VARIANTS, or variants that share no seeds."""
    variants, seeds = layout.losses.shape
    if not layout.paired or variants < 2 or seeds < 2 or variants > MOST_VARIANTS or not layout.error > 0:
        return Omnibus(float("nan"), float("nan"))
    from statsmodels.formula.api import ols  # a quarter of a second
    from statsmodels.stats.anova import anova_lm

    long = pd.DataFrame(
        {
            "variant": np.repeat(np.arange(variants), seeds),
            "seed": np.tile(np.arange(seeds), variants),
            "loss": layout.losses.to_numpy().ravel(),
        }
    )
    table = anova_lm(ols("loss ~ C(variant) + C(seed)", long).fit())
    friedman = stats.friedmanchisquare(*layout.losses.to_numpy()).pvalue if variants > 2 else float("nan")
    return Omnibus(float(table.loc["C(variant)", "PR(>F)"]), float(friedman))


BY_SEED = ["seeds_better", "own_low", "own_high", "signs_p"]


def by_seed(layout: Layout, against: Hashable) -> pd.DataFrame:
    """For each variant, from its differences to the variant `against` seed by seed: the part of the seeds at which `against` is the better
    one (ties count half), the 95 % interval of the mean difference (BCa for many seeds, Student's for few), and the exact p of flipping its
    signs. NaN where seeds are not shared; there is no p for fewer than six seeds, which cannot bring it below .05.
    """
    index = layout.losses.index
    others = index[index != against]
    if not layout.paired or not len(others) or layout.losses.shape[1] < 2:
        return pd.DataFrame(np.nan, index=index, columns=BY_SEED)
    differences = layout.losses.loc[others].to_numpy() - layout.losses.loc[against].to_numpy()
    low, high = _interval(differences)
    better = (differences > 0).mean(axis=1) + (differences == 0).mean(axis=1) / 2
    table = pd.DataFrame(dict(zip(BY_SEED, (better, low, high, _signs_p(differences)), strict=True)), index=others)
    return table.reindex(index)


def _interval(differences: Array) -> tuple[Array, Array]:
    """95 % intervals of the mean of each row."""
    mean, n = differences.mean(axis=1), differences.shape[1]
    if n >= FEWEST_FOR_BOOTSTRAP:
        return bca_interval(differences)
    half = stats.t.ppf(1 - ALPHA / 2, n - 1) * differences.std(axis=1, ddof=1) / np.sqrt(n)
    return mean - half, mean + half


def bca_interval(differences: Array) -> tuple[Array, Array]:
    """95 % intervals of the mean of each row by the bias-corrected and accelerated bootstrap."""
    mean = differences.mean(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # differences without any spread, whose interval is their mean
        found = stats.bootstrap(
            (differences,), np.mean, axis=1, method="BCa", n_resamples=RESAMPLES, batch=_batch(differences), rng=np.random.default_rng(0)
        ).confidence_interval
    return np.where(np.isnan(found.low), mean, found.low), np.where(np.isnan(found.high), mean, found.high)


def _signs_p(differences: Array) -> Array:
    """Two-sided p of each row's mean among the means with every choice of signs."""
    n = differences.shape[1]
    if n < FEWEST_FOR_SIGNS:
        return np.full(len(differences), np.nan)
    return np.asarray(
        stats.permutation_test(
            (differences,),
            np.mean,
            permutation_type="samples",
            n_resamples=np.inf if 2**n <= MOST_SIGNS else MOST_SIGNS,
            batch=_batch(differences),
            axis=1,
            rng=np.random.default_rng(0),
        ).pvalue
    )


def _batch(differences: Array) -> int:
    return max(1, _BATCH // differences.size)
