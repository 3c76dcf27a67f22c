"""The tests behind a verdict: the two-way layout, the pairs of the family that the plan fixed, corrected p-values. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Hashable

ALPHA = 0.05

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


class Family(NamedTuple):
    """Which pairs are tested, as the plan fixed it, and for how much the other variants' residuals count in their tests.

    Pooling takes all variants to be equally noisy, which a few seeds can hardly contradict, so the degrees of freedom of the pooled error
    would promise too much: a pair counts its own, and `share` of them for each other variant up to `most` times its own.
    """

    name: str
    share: float
    most: float

    def times(self, variants: int) -> float:
        """How many times its own degrees of freedom a pair's test has."""
        return min(1 + self.share * max(0, variants - 2), self.most)

    def tests(self, variants: int) -> int:
        """How many pairs are tested."""
        return variants - 1 if self is REFERENCE else variants * (variants - 1) // 2

    def strictest(self, variants: int) -> float:
        """The level of Holm's first step: what a plan for more seeds has to reckon with."""
        return ALPHA / max(1, self.tests(variants))


# Found by simulation (benchmarks/RESULTS.md, verdicts): the most that keep wrong verdicts to 5 % of sweeps where one variant, or the
# reference, spreads four times as wide as the others. A noisy reference is in every pair of its family, hence the smaller share.
ALL_PAIRS = Family("all pairs", share=2 / 3, most=4.5)
REFERENCE = Family("all against the reference", share=1 / 3, most=2.0)


@dataclass(frozen=True, eq=False)
class Layout:
    """val_loss ~ variant + seed: the variants' means, the residual standard deviation pooled over them, and its degrees of freedom.

    `paired` is False where the variants do not share their seeds: then the seed is left out and its effect is part of the error.
    Without degrees of freedom the errors are NaN.
    """

    losses: pd.DataFrame
    means: pd.Series
    error: float
    degrees: int
    paired: bool

    @property
    def seeds(self) -> int:
        """Seeds of each variant; where they have different numbers of them, the smallest."""
        return int(self.losses.notna().sum(axis=1).min())

    @property
    def mean_errors(self) -> pd.Series:
        """Standard error of each variant's mean over these seeds."""
        return pd.Series(self.error / np.sqrt(np.isfinite(self.losses.to_numpy(dtype=float)).sum(axis=1)), index=self.losses.index)

    @property
    def half_widths(self) -> pd.Series:
        """Half of the 95 % interval of each variant's mean over these seeds."""
        return self.mean_errors * (stats.t.ppf(1 - ALPHA / 2, self.degrees) if self.degrees else np.nan)


def fit_layout(losses: pd.DataFrame) -> Layout:
    """Fit val_loss ~ variant + seed by least squares to losses_by_seed's table; with two variants this is the paired t-test's model.

    Every variant has every seed, so the fit is closed: a loss minus its variant's and its seed's mean plus the mean of all.
    """
    values, means = losses.to_numpy(dtype=float), losses.mean(axis=1)
    variants, seeds = values.shape
    if not np.isnan(values).any():
        degrees, paired = (variants - 1) * (seeds - 1), True
        return Layout(losses, means, float(_residual_error(values)) if degrees else float("nan"), degrees, paired)
    degrees, paired = int((~np.isnan(values)).sum()) - variants, False
    squares = np.nansum((values - means.to_numpy()[:, None]) ** 2)
    return Layout(losses, means, float(np.sqrt(squares / degrees)) if degrees > 0 else float("nan"), max(degrees, 0), paired)


def _residual_error(losses: Array) -> Array:
    """The residual standard deviation of loss ~ variant + seed, of any number of sweeps: (..., variants, seeds) -> (...)."""
    variants, seeds = losses.shape[-2:]
    residuals = losses - losses.mean(axis=-1, keepdims=True)
    residuals = residuals - residuals.mean(axis=-2, keepdims=True)
    return np.asarray(np.sqrt((residuals**2).sum(axis=(-2, -1)) / ((variants - 1) * (seeds - 1))))


def all_pairs(layout: Layout) -> pd.DataFrame:
    """A row per pair: `difference` is second minus first, with standard error, 95 % interval, p-value, and p by Holm over all pairs.

    The family is all pairs, although a verdict reads only those with the best: which variant is the best is known only after
    seeing the losses, and a test against a reference that was picked for being smallest finds differences where there are none.
    """
    first, second = np.triu_indices(len(layout.means), k=1)
    return _tested(layout, first, second, ALL_PAIRS)


def all_against(layout: Layout, reference: Hashable) -> pd.DataFrame:
    """The columns of all_pairs for every other variant (`second`) against the reference (`first`), p by Holm over these alone."""
    second = np.flatnonzero(layout.means.index != reference)
    return _tested(layout, np.full_like(second, layout.means.index.get_loc(reference)), second, REFERENCE)


class Tests(NamedTuple):
    """Of each pair: second minus first, its standard error, half of its 95 % interval, its test's degrees of freedom, p, and p by Holm."""

    difference: Array
    error: Array
    half: Array
    degrees: Array
    p: Array
    holm_p: Array


def _tested(layout: Layout, first: Indices, second: Indices, family: Family) -> pd.DataFrame:
    if layout.paired and layout.degrees:
        tests = paired_tests(layout.losses.to_numpy(dtype=float), first, second, family)
    else:
        tests = _unpaired_tests(layout, first, second, family)
    names = layout.means.index
    return pd.DataFrame(
        {
            "first": names[first],
            "second": names[second],
            "difference": tests.difference,
            "error": tests.error,
            "degrees": tests.degrees,
            "low": tests.difference - tests.half,
            "high": tests.difference + tests.half,
            "p": tests.p,
            "holm_p": tests.holm_p,
        }
    )


def paired_tests(losses: Array, first: Indices, second: Indices, family: Family) -> Tests:
    """The family's tests of variants that share two seeds or more, in any number of sweeps: (..., variants, seeds) -> (..., pairs) each.

    Where a pair's own seeds spread wider than the pool, its own error counts: otherwise the calm variants would lend their certainty
    to a noisy one (in simulation: up to 18 % wrong verdicts where 5 % are allowed).
    """
    variants, seeds = losses.shape[-2:]
    by_seed = losses[..., second, :] - losses[..., first, :]
    pooled = _residual_error(losses)[..., None] * np.sqrt(2 / seeds)
    error = np.maximum(pooled, by_seed.std(axis=-1, ddof=1) / np.sqrt(seeds))
    degrees = np.full(error.shape, (seeds - 1) * family.times(variants))
    # Of one difference at 95 % the pooled degrees hold what they promise; it is far out, at Holm's levels, that they do not.
    return _student(by_seed.mean(axis=-1), error, degrees, np.array((variants - 1.0) * (seeds - 1)))


def _unpaired_tests(layout: Layout, first: Indices, second: Indices, family: Family) -> Tests:
    """The same of variants that do not share their seeds, with Welch's degrees of freedom for the pair's own; NaN where there are none."""
    counts, means = layout.losses.count(axis=1).to_numpy(), layout.means.to_numpy()
    own = np.nan_to_num(layout.losses.var(axis=1, ddof=1).to_numpy() / counts)  # a single loss shows no spread
    per_degree, pooled = own**2 / np.maximum(counts - 1, 1), layout.error**2 / counts
    error = np.sqrt(np.maximum(own[first] + own[second], pooled[first] + pooled[second]))
    with np.errstate(invalid="ignore"):
        welch = (own[first] + own[second]) ** 2 / (per_degree[first] + per_degree[second])
    degrees = np.fmin(welch * family.times(len(means)), layout.degrees) if layout.degrees else np.full(len(first), np.nan)
    return _student(means[second] - means[first], error, degrees, degrees)


def _student(difference: Array, error: Array, degrees: Array, degrees_of_interval: Array) -> Tests:
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(difference == 0, 0.0, np.abs(difference) / error)  # equal losses differ by nothing, however small the error
    p = np.asarray(2 * stats.t.sf(t, degrees))
    return Tests(difference, error, stats.t.ppf(1 - ALPHA / 2, degrees_of_interval) * error, degrees, p, holm(p))


def holm(p: Array) -> Array:
    """P-values corrected for their number, along the last axis, by Holm's step-down procedure (Holm 1979); NaN stays NaN.

    The numbers of statsmodels' multipletests, without the garbage collection that it runs at every call (some 90 ms beside torch).
    """
    order, tests = np.argsort(p, axis=-1), p.shape[-1]
    steps = np.take_along_axis(p, order, axis=-1) * np.arange(tests, 0, -1)
    corrected = np.empty_like(p)
    np.put_along_axis(corrected, order, np.minimum(1, np.maximum.accumulate(steps, axis=-1)), axis=-1)
    return corrected
