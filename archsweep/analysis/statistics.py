"""The tests behind a verdict: the two-way layout, the pairs of the family that the plan fixed, corrected p-values. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

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
    paired = not np.isnan(values).any()
    residuals = values - means.to_numpy()[:, None]
    if paired:
        residuals = residuals - residuals.mean(axis=0)
    variants, seeds = values.shape
    degrees = (variants - 1) * (seeds - 1) if paired else int((~np.isnan(values)).sum()) - variants
    error = float(np.sqrt(np.nansum(residuals**2) / degrees)) if degrees > 0 else float("nan")
    return Layout(losses, means, error, max(degrees, 0), paired)


def all_pairs(layout: Layout) -> pd.DataFrame:
    """A row per pair: `difference` is second minus first, with standard error, 95 % interval, p-value, and p by Holm over all pairs.

    The family is all pairs, although a verdict reads only those with the best: which variant is the best is known only after
    seeing the losses, and a test against a reference that was picked for being smallest finds differences where there are none.
    """
    first, second = np.triu_indices(len(layout.means), k=1)
    return _tested(layout, first, second, ALL_PAIRS)


def all_against(layout: Layout, reference: str) -> pd.DataFrame:
    """The columns of all_pairs for every other variant (`second`) against the reference (`first`), p by Holm over these alone."""
    second = np.flatnonzero(layout.means.index != reference)
    return _tested(layout, np.full_like(second, layout.means.index.get_loc(reference)), second, REFERENCE)


def _tested(layout: Layout, first: Indices, second: Indices, family: Family) -> pd.DataFrame:
    means, names = layout.means.to_numpy(), layout.means.index
    difference = means[second] - means[first]
    # Where a pair's own seeds spread wider than the pool, its own error counts: otherwise the calm variants would lend their certainty
    # to a noisy one (in simulation: up to 18 % wrong verdicts where 5 % are allowed).
    error = np.maximum(_pooled_error(layout, first, second), _own_error(layout, first, second))
    degrees = _test_degrees(layout, first, second, family.times(len(means)))
    # Of one difference at 95 % the pooled degrees hold what they promise; it is far out, at Holm's levels, that they do not.
    half = stats.t.ppf(1 - ALPHA / 2, layout.degrees or np.nan if layout.paired else degrees) * error
    p = p_values(difference, error, degrees)
    return pd.DataFrame(
        {
            "first": names[first],
            "second": names[second],
            "difference": difference,
            "error": error,
            "degrees": degrees,
            "low": difference - half,
            "high": difference + half,
            "p": p,
            "holm_p": holm(p),
        }
    )


def holm(p: Array) -> Array:
    """P-values corrected for their number by Holm's step-down procedure (Holm 1979); NaN stays NaN.

    The numbers of statsmodels' multipletests, without the garbage collection that it runs at every call (some 90 ms beside torch).
    """
    order, tests = np.argsort(p), len(p)
    corrected = np.empty(tests)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(tests, 0, -1)))
    return corrected


def p_values(difference: Array, error: Array, degrees: Array) -> Array:
    """Two-sided p-values of Student's t; NaN without degrees of freedom."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(difference == 0, 0.0, np.abs(difference) / error)  # equal losses differ by nothing, however small the error
    return np.asarray(2 * stats.t.sf(t, degrees))


def _pooled_error(layout: Layout, first: Indices, second: Indices) -> Array:
    squares = layout.mean_errors.to_numpy() ** 2
    return np.asarray(np.sqrt(squares[first] + squares[second]))


def _own_error(layout: Layout, first: Indices, second: Indices) -> Array:
    """Standard error of each pair's difference from its own seeds alone; 0 where one seed cannot show any."""
    losses = layout.losses.to_numpy(dtype=float)
    if layout.paired:
        n = losses.shape[1]
        return (losses[second] - losses[first]).std(axis=1, ddof=1) / np.sqrt(n) if n > 1 else np.zeros(len(first))
    squares = _squared_mean_errors(layout)
    return np.asarray(np.sqrt(squares[first] + squares[second]))


def _squared_mean_errors(layout: Layout) -> Array:
    """Of each variant's mean, from its own seeds; 0 for one seed."""
    return np.asarray(np.nan_to_num(layout.losses.var(axis=1, ddof=1).to_numpy() / layout.losses.count(axis=1).to_numpy()))


def _test_degrees(layout: Layout, first: Indices, second: Indices, times: float) -> Array:
    """Degrees of freedom of each pair's test: `times` its own, which unpaired are Welch's; NaN where there are none."""
    if not layout.degrees:
        return np.full(len(first), np.nan)
    if layout.paired:
        return np.full(len(first), (layout.losses.shape[1] - 1) * times)
    squares, own = _squared_mean_errors(layout), np.maximum(layout.losses.count(axis=1).to_numpy() - 1, 1)
    with np.errstate(invalid="ignore"):
        welch = (squares[first] + squares[second]) ** 2 / ((squares**2 / own)[first] + (squares**2 / own)[second])
    return np.asarray(np.fmin(welch * times, layout.degrees))
