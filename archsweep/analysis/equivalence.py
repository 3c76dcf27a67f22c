"""Equal within a margin: two one-sided tests, which a small sample fails. Not to be told apart is not the same as equal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from archsweep.analysis.statistics import holm

if TYPE_CHECKING:
    import pandas as pd

    from archsweep.analysis.statistics import Array


def equivalence_p(pairs: pd.DataFrame, margin: Array) -> Array:
    """P by Holm that each pair of the family differs by less than `margin` nats/token, from two one-sided tests (Schuirmann 1987).

    The error and the degrees of freedom are those of the pair's difference; with two variants it is statsmodels' ttost_paired.
    """
    difference, error, degrees = (pairs[name].to_numpy(dtype=float) for name in ("difference", "error", "degrees"))
    return equivalence(difference, error, degrees, margin)


def equivalence(difference: Array, error: Array, degrees: Array, margin: Array) -> Array:
    """`equivalence_p` of arrays, of any number of sweeps: (..., pairs) each."""
    with np.errstate(divide="ignore", invalid="ignore"):
        nearest = (margin - np.abs(difference)) / error  # to the nearer end of the margin: the larger of the two p-values
    return holm(np.asarray(stats.t.sf(nearest, degrees)))
