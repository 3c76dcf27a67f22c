"""A difference in loss as a factor of compute: loss falls as a small power of the compute that is spent well."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd


class Exponent(NamedTuple):
    """The exponent alpha of loss ~ compute^-alpha, and whose it is."""

    alpha: float
    source: str


KAPLAN = Exponent(0.050, "Kaplan's exponent")  # alpha_C^min of Kaplan et al. 2020: 1 % of the loss takes 22 % more compute


def compute_ratio(means: pd.Series, is_standard: pd.Series, exponent: Exponent) -> pd.Series:
    """How many times the compute would bring a variant's loss to the standard's: (loss / standard's loss)^(1 / alpha)."""
    standard = means[is_standard]
    return (means.astype(float) / (float(standard.iloc[0]) if len(standard) else float("nan"))) ** (1 / exponent.alpha)
