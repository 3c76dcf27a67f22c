"""The numbers behind a verdict: tuned settings, the learning-rate audit, the two-way layout, all pairs, power. Pure functions."""

from __future__ import annotations

import warnings
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from archsweep.errors import RecordError

if TYPE_CHECKING:
    from collections.abc import Sequence

ALPHA = 0.05
POWER = 0.8
MOST_SEEDS = 1000  # beyond this a difference is too small to plan for

SETTING = ["variant", "learning_rate", "weight_decay", "tuned"]  # `tuned`: further settings in words, of results that are not a sweep's


def settings(results: pd.DataFrame) -> pd.DataFrame:
    """A row per variant and tuned setting: mean and sd of val_loss over seeds, and whether it counts.

    A setting counts (`complete`) where every planned seed finished with a finite loss: dropping the seeds that diverged would
    reward a setting for being unstable. It `ended` where every seed finished, diverged or was given up, which also says something about it.
    """
    rows = _with_tuned(results)[[*SETTING, "seed", "status"]].copy()
    rows["loss"] = finished_loss(results)
    if (twice := rows.duplicated([*SETTING, "seed"])).any():
        row = rows[twice].iloc[0]
        raise RecordError(f"{row.variant} has two results for seed {row.seed} at one setting. Keep one row per variant, setting and seed.")
    rows["has_ended"] = rows["loss"].notna() | rows["status"].isin(["diverged", "pruned"])
    groups = rows.groupby(SETTING, dropna=False, sort=False)
    table = groups.agg(
        planned=("seed", "size"), finished=("loss", "count"), mean=("loss", "mean"), sd=("loss", "std"), ended=("has_ended", "all")
    )
    table["complete"] = table["planned"] == table["finished"]
    return table.reset_index()


def _with_tuned(results: pd.DataFrame) -> pd.DataFrame:
    return results if "tuned" in results else results.assign(tuned=pd.array([None] * len(results), dtype="string"))


def finished_loss(results: pd.DataFrame) -> pd.Series:
    """val_loss where the replica finished with a finite one, else missing."""
    loss = pd.Series(results["val_loss"].to_numpy(dtype=float, na_value=np.nan), index=results.index)
    return loss.where((results["status"] == "finished").to_numpy(dtype=bool, na_value=False) & np.isfinite(loss))


def best_settings(table: pd.DataFrame) -> pd.DataFrame:
    """Of each variant with a setting that counts, the one with the smallest mean; the best variant first."""
    complete = table[table["complete"]]
    best = complete.loc[complete.groupby("variant", sort=False)["mean"].idxmin()]
    return best.sort_values("mean", kind="stable").reset_index(drop=True)


def learning_rate_audit(table: pd.DataFrame, best: pd.DataFrame) -> pd.DataFrame:
    """Whether each variant's best learning rate lies inside its grid: `edge` is "lowest", "highest", "none" or "not tuned".

    The grid is what the variant tried to the end at its best weight decay: a rate that diverged bounds the best one from
    above, a rate that failed or is unfinished says nothing. `add` is the rate to add beyond the edge, at the grid's own spacing.
    """
    tried: defaultdict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)  # of each variant: rates with weight decays
    ended = table[table["ended"]].dropna(subset=["learning_rate"])
    pairs = (ended[name].to_numpy(dtype=float, na_value=np.nan).tolist() for name in ("learning_rate", "weight_decay"))
    for variant, tuned, *setting in zip(ended["variant"], ended["tuned"].fillna(""), *pairs, strict=True):
        tried[variant, tuned].append((setting[0], setting[1]))
    rows = [_audit(row, tried[row.variant, tuned]) for row, tuned in zip(best.itertuples(), best["tuned"].fillna(""), strict=True)]
    return pd.DataFrame(rows, columns=["variant", "edge", "add"], index=best.index)


def _audit(best: pd.Series, tried: list[tuple[float, float]]) -> tuple[str, str, float]:
    rates = sorted({rate for rate, decay in tried if pd.isna(best.weight_decay) or decay == best.weight_decay})
    if len(rates) < 2:
        return best.variant, "not tuned", float("nan")
    if best.learning_rate == rates[0]:
        return best.variant, "lowest", _rounded(rates[0] ** 2 / rates[1])
    if best.learning_rate == rates[-1]:
        return best.variant, "highest", _rounded(rates[-1] ** 2 / rates[-2])
    return best.variant, "none", float("nan")


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")


def losses_by_seed(results: pd.DataFrame, best: pd.DataFrame) -> pd.DataFrame:
    """val_loss at each variant's best setting: variants as rows, in the order of `best`, seeds as columns."""
    at_best = at_settings(results, best).assign(val_loss=finished_loss)
    return at_best.pivot(index="variant", columns="seed", values="val_loss").reindex(best["variant"]).astype(float)


def at_settings(results: pd.DataFrame, best: pd.DataFrame) -> pd.DataFrame:
    """The rows of each variant's setting in `best`."""
    return _with_tuned(results).merge(best[SETTING], on=SETTING)


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
        return self.error / np.sqrt(self.losses.notna().sum(axis=1))

    @property
    def half_widths(self) -> pd.Series:
        """Half of the 95 % interval of each variant's mean over these seeds."""
        return _critical(self.degrees) * self.mean_errors


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
    """A row per pair: `difference` is second minus first, with its standard error, 95 % interval, p-value, and p by Holm over all pairs.

    The family is all pairs, although a verdict reads only those with the best: which variant is the best is known only after
    seeing the losses, and a test against a reference that was picked for being smallest finds differences where there are none.
    """
    first, second = np.triu_indices(len(layout.means), k=1)
    means, names = layout.means.to_numpy(), layout.means.index
    difference = means[second] - means[first]
    # Pooling takes all variants to be equally noisy. Where a pair's own seeds spread wider, its own error counts: otherwise the calm
    # variants would lend their certainty to a noisy one (in simulation: up to 18 % wrong verdicts where 5 % are allowed).
    error = np.maximum(_pooled_error(layout, first, second), _own_error(layout, first, second))
    p = _p_values(difference, error, layout.degrees)
    half = _critical(layout.degrees) * error
    return pd.DataFrame(
        {
            "first": names[first],
            "second": names[second],
            "difference": difference,
            "error": error,
            "low": difference - half,
            "high": difference + half,
            "p": p,
            "holm_p": holm(p),
        }
    )


def holm(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """P-values corrected for their number by Holm's step-down procedure (Holm 1979); NaN stays NaN.

    The numbers of statsmodels' multipletests, without the garbage collection that it runs at every call (some 90 ms beside torch).
    """
    order, tests = np.argsort(p), len(p)
    corrected = np.empty(tests)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(tests, 0, -1)))
    return corrected


def _pooled_error(layout: Layout, first: npt.NDArray[np.intp], second: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    squares = layout.mean_errors.to_numpy() ** 2
    return np.asarray(np.sqrt(squares[first] + squares[second]))


def _own_error(layout: Layout, first: npt.NDArray[np.intp], second: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """Standard error of each pair's difference from its own seeds alone; 0 where one seed cannot show any."""
    losses = layout.losses.to_numpy(dtype=float)
    if layout.paired:
        n = losses.shape[1]
        return (losses[second] - losses[first]).std(axis=1, ddof=1) / np.sqrt(n) if n > 1 else np.zeros(len(first))
    squares = np.nan_to_num(layout.losses.var(axis=1, ddof=1).to_numpy() / layout.losses.count(axis=1).to_numpy())
    return np.asarray(np.sqrt(squares[first] + squares[second]))


def _p_values(difference: npt.NDArray[np.float64], error: npt.NDArray[np.float64], degrees: int) -> npt.NDArray[np.float64]:
    if not degrees:
        return np.full(len(difference), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(difference == 0, 0.0, np.abs(difference) / error)  # equal losses differ by nothing, however small the error
    return np.asarray(2 * stats.t.sf(t, degrees))


def _critical(degrees: int) -> float:
    return float(stats.t.ppf(1 - ALPHA / 2, degrees)) if degrees else float("nan")


def power(effect: float, seeds: int, variants: int = 2, alpha: float = ALPHA) -> float:
    """Chance to find a difference of `effect` standard deviations of the paired difference, with the error pooled over the variants."""
    return float(_powers(np.array([effect]), np.array([seeds]), variants, alpha)[0])


def _powers(effects: npt.NDArray[np.float64], seeds: npt.NDArray[np.int64], variants: int, alpha: float) -> npt.NDArray[np.float64]:
    """`power` of each effect with its number of seeds."""
    degrees = (variants - 1) * (seeds - 1)
    critical, shift = stats.t.ppf(1 - alpha / 2, degrees), effects * np.sqrt(seeds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # scipy's noncentral t overflows far out, where the power is 1
        chance = stats.nct.sf(critical, degrees, shift) + stats.nct.cdf(-critical, degrees, shift)
    return np.where(degrees < 1, 0.0, np.where(np.isfinite(chance), chance, 1.0))


def detectable_effect(seeds: int, variants: int = 2, alpha: float = ALPHA) -> float:
    """The smallest effect that is found four times out of five, in standard deviations of the paired difference; inf for one seed."""
    low, high = 0.0, 1.0
    while power(high, seeds, variants, alpha) < POWER:
        low, high = high, 2 * high
        if high > 1e9:
            return float("inf")
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, seeds, variants, alpha) >= POWER else (middle, high)
    return high


def seeds_needed(effect: float, variants: int = 2, alpha: float = ALPHA) -> int | None:
    """The fewest seeds that find `effect` four times out of five; None where more than MOST_SEEDS would be needed."""
    return seeds_needed_each([effect], variants, alpha)[0]


def seeds_needed_each(effects: Sequence[float], variants: int = 2, alpha: float = ALPHA) -> list[int | None]:
    """`seeds_needed` of each effect, all at once: one by one, scipy's checks of its arguments take seconds for a thousand."""
    sizes = np.abs(np.array(effects, dtype=float))
    findable = ~np.isnan(sizes)
    findable[findable] = _powers(sizes[findable], np.full(findable.sum(), MOST_SEEDS), variants, alpha) >= POWER
    wanted = sizes[findable]
    low, high = np.ones(len(wanted), dtype=int), np.full(len(wanted), MOST_SEEDS)
    while (high - low > 1).any():
        middle = (low + high) // 2
        enough = _powers(wanted, middle, variants, alpha) >= POWER
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    found = iter(high.tolist())
    return [next(found) if is_findable else None for is_findable in findable]


def family_alpha(variants: int) -> float:
    """The level at which Holm's strictest step tests one of all pairs: what a plan for more seeds has to reckon with."""
    return ALPHA / max(1, variants * (variants - 1) // 2)
