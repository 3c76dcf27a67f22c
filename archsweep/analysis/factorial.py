"""Main effects and interactions of crossed dimensions: loss ~ C(a) * C(b) + C(seed), each variant at its best setting."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from archsweep.analysis.statistics import ALPHA, holm
from archsweep.analysis.words import with_missing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from statsmodels.regression.linear_model import OLS, RegressionResults

    from archsweep.analysis.compare import Comparison
    from archsweep.analysis.statistics import Layout

MOST_DIMENSIONS = 4  # crossed ones: of more, no table of interactions is read
ROUNDING = 1e-12  # of a loss, in sums of squares whose difference may be nothing


@dataclass(frozen=True, eq=False)
class Effects:
    """What each compared dimension does by itself, and what it does only together with others.

    `table`: a row per effect, main effects first: `terms` (dimensions), `span` (highest minus lowest marginal mean; missing for
    interactions), `df`, `F`, `p`, `holm_p` over the table, `eta` (its part of the total sum of squares) and `partial_eta` (its
    part of itself and the error). `means`: a row per dimension and level: `mean` and `half_width` of its 95 % interval, averaged
    over the other dimensions' levels with equal weight. `cells`: a row per variant: its levels and `mean`.
    """

    dimensions: tuple[str, ...]
    table: pd.DataFrame
    means: pd.DataFrame
    cells: pd.DataFrame
    degrees: int  # of the error
    empty: int  # combinations without a result


def effects(comparison: Comparison) -> Effects | None:
    """The effects of two to four crossed dimensions; None for a search, and where the crossing has too many holes to tell effects apart."""
    source, layout, ranked = comparison.source, comparison.layout, comparison.table[comparison.table["mean"].notna()]
    dimensions = tuple(name for name in source.compare if name != "variant" and ranked[name].nunique(dropna=False) > 1)
    if layout is None or source.search is not None or not 2 <= len(dimensions) <= MOST_DIMENSIONS:
        return None
    cells = pd.DataFrame({name: with_missing(ranked[name]).to_numpy() for name in dimensions})
    cells["mean"] = ranked["mean"].to_numpy(dtype=float)
    empty = int(np.prod([cells[name].nunique() for name in dimensions])) - len(cells.drop_duplicates(list(dimensions)))
    data = _data(cells, dimensions, layout)
    blocks = ["C(seed)"] if layout.paired and layout.seeds > 1 else []
    additive = _fit(data, [*(f"C({name})" for name in _names(dimensions)), *blocks])
    if additive.df_model < sum(cells[name].nunique() - 1 for name in dimensions) + (layout.seeds - 1) * len(blocks):
        return None
    means = pd.concat(
        [_marginal_means(name, dimensions, in_order(cells[name]), data, additive, layout) for name in dimensions], ignore_index=True
    )
    return Effects(dimensions, _table(dimensions, data, blocks, means, layout), means, cells, layout.degrees, empty)


def _data(cells: pd.DataFrame, dimensions: tuple[str, ...], layout: Layout) -> pd.DataFrame:
    """A row per replica: its levels as texts in columns d0, d1, ... that a formula can name, its seed and its loss."""
    losses = layout.losses.reset_index(drop=True)
    levels = {alias: cells[name].map(str) for alias, name in zip(_names(dimensions), dimensions, strict=True)}
    rows = losses.assign(**levels).melt(id_vars=list(levels), var_name="seed", value_name="loss")
    return rows.dropna(subset=["loss"]).astype({"seed": str, "loss": float, **dict.fromkeys(levels, object)})


def _names(dimensions: tuple[str, ...]) -> list[str]:
    return [f"d{index}" for index in range(len(dimensions))]


def _model(data: pd.DataFrame, terms: list[str]) -> OLS:
    from statsmodels.formula.api import ols  # takes a second, and few sweeps need it

    return ols("loss ~ " + (" + ".join(terms) or "1"), data)


def _fit(data: pd.DataFrame, terms: list[str]) -> RegressionResults:
    with warnings.catch_warnings(action="ignore"):  # of a matrix without full rank, which combinations without a result leave
        return _model(data, terms).fit()


def _table(dimensions: tuple[str, ...], data: pd.DataFrame, blocks: list[str], means: pd.DataFrame, layout: Layout) -> pd.DataFrame:
    """Type II sums of squares: what a term explains beyond all terms that do not contain it, against the error of the whole layout.

    They are differences of nested fits, the numbers of anova_lm(typ=2), which combinations without a result do not upset.
    """
    terms = [term for order in range(1, len(dimensions) + 1) for term in combinations(range(len(dimensions)), order)]
    error, total = layout.error**2, float(((data["loss"] - data["loss"].mean()) ** 2).sum())

    rounding = len(data) * (ROUNDING * float(data["loss"].abs().max())) ** 2

    def fit(chosen: list[tuple[int, ...]]) -> RegressionResults:
        return _fit(data, [*(":".join(f"C(d{index})" for index in term) for term in chosen), *blocks])

    rows: list[dict[str, Any]] = []
    for term in terms:
        others = [other for other in terms if not set(term) <= set(other)]
        without, with_it = fit(others), fit([*others, term])
        df, squares = round(without.df_resid - with_it.df_resid), without.ssr - with_it.ssr
        squares = squares if squares > rounding else 0.0
        if df < 1:
            continue  # no combinations are there to show it
        ratio = squares / df / error if layout.degrees and error else np.nan
        names = tuple(dimensions[index] for index in term)
        own = means.loc[means["dimension"] == names[0], "mean"] if len(names) == 1 else pd.Series([np.nan])
        partial = squares + error * layout.degrees if layout.degrees else 0.0
        shares = {"eta": _share(squares, total), "partial_eta": _share(squares, partial)}
        p = stats.f.sf(ratio, df, layout.degrees) if layout.degrees else np.nan
        rows.append({"terms": names, "span": own.max() - own.min(), "df": df, "squares": squares, "F": ratio, "p": p, **shares})
    table = pd.DataFrame(rows)
    return table.assign(holm_p=holm(table["p"].to_numpy(dtype=float)))


def _share(part: float, whole: float) -> float:
    """Nothing has no parts: losses may all be the same."""
    return part / whole if whole else np.nan


def _marginal_means(
    dimension: str, dimensions: tuple[str, ...], levels: list[Any], data: pd.DataFrame, additive: RegressionResults, layout: Layout
) -> pd.DataFrame:
    """Of each level of a dimension: the fitted loss, averaged over the levels of the others and the seeds with equal weight.

    Where every combination has a result this is the plain mean. Intervals are of the mean over these seeds, from the pooled error.
    """
    factors, own = [*_names(dimensions), "seed"], f"d{dimensions.index(dimension)}"
    grid = pd.MultiIndex.from_product([data[name].unique() for name in factors], names=factors).to_frame(index=False)
    design = _model(grid.assign(loss=0.0), additive.model.formula.split(" ~ ")[1].split(" + ")).exog
    weights = pd.DataFrame(design).groupby(grid[own].to_numpy(), sort=False).mean()
    spread = np.sqrt(np.einsum("ij,jk,ik->i", weights, additive.normalized_cov_params, weights))
    critical = stats.t.ppf(1 - ALPHA / 2, layout.degrees) if layout.degrees else np.nan
    means = dict(zip(weights.index, weights.to_numpy() @ additive.params.to_numpy(), strict=True))
    halves = dict(zip(weights.index, critical * layout.error * spread, strict=True))
    rows = [{"dimension": dimension, "level": level, "mean": means[str(level)], "half_width": halves[str(level)]} for level in levels]
    return pd.DataFrame(rows).astype({"level": object})  # beside levels of another kind they stay what they are


def in_order(values: Iterable[Any]) -> list[Any]:
    """Levels as they are listed: numbers by size, then all else by name."""
    return sorted(set(values), key=lambda value: (0, value, "") if isinstance(value, (int, float, np.number)) else (1, 0, str(value)))
