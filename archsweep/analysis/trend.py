"""Whether the ranking is still moving at the end of training: curves that cross late, and gaps that close."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from archsweep.analysis.statistics import Array

LATE = 0.5  # the part of the training after which a crossing is late: its last doubling


def moving(curves: pd.DataFrame, leader: str) -> tuple[list[str], list[str]]:
    """The variants that were ahead of `leader` in the last doubling of their training, and those whose gap to it would close in another.

    `curves` are the evaluations of each one's best setting. A gap is of the means over seeds, at equal parts of the training; it is
    carried on by as much as it changed between half of the training and its end. Neither list says anything without evaluations in that
    half.
    """
    means = _mean_curves(curves)
    if leader not in means.index or not np.isfinite(means.loc[leader]).all():
        return [], []
    late = means.loc[:, means.columns >= LATE - 0.01]
    if late.shape[1] < 2:
        return [], []
    gaps = (late - late.loc[leader]).drop(leader).dropna()
    values: Array = gaps.to_numpy(dtype=float)
    ahead = (values[:, :-1] < 0).any(axis=1)
    closing = ~ahead & (values[:, -1] + (values[:, -1] - values[:, 0]) <= 0)
    return list(gaps.index[ahead]), list(gaps.index[closing])


def _mean_curves(curves: pd.DataFrame) -> pd.DataFrame:
    """Mean val_loss over seeds: variants as rows, the part of the training that was done as columns."""
    rows = curves[["variant", "seed", "tokens", "val_loss"]].dropna(subset=["tokens", "val_loss"])
    if rows.empty:
        return pd.DataFrame(index=pd.Index([], dtype=object))
    done = (rows["tokens"] / rows.groupby("variant")["tokens"].transform("max")).astype(float).round(2)
    return rows.assign(done=done).pivot_table(index="variant", columns="done", values="val_loss", aggfunc="mean", sort=True).astype(float)
