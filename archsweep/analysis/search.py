"""What a search found: the front of variants that no other beats in every objective, the best so far, and which fields decided.

The one file here that imports optuna, for its importances.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from optuna.distributions import BaseDistribution

    from archsweep.analysis.compare import Comparison

FEWEST_FOR_IMPORTANCE = 10  # variants below which an importance is noise


class Found(NamedTuple):
    """A search's results: a row per variant with a loss, in the order of the suggestions, and what its points came to."""

    objectives: tuple[str, ...]
    variants: pd.DataFrame  # variant, mean, its 95 % `half_width`, sd, n, one column per objective, `front` and `best_so_far`
    importances: dict[str, float]  # of the compared fields for val_loss; they sum to 1, and are empty for few variants
    counts: dict[str, int]  # points by what became of them


def found(comparison: Comparison) -> Found | None:
    """What the search behind the comparison found; None where there was none."""
    search = comparison.source.search
    if search is None:
        return None
    table = comparison.table[comparison.table["mean"].notna()].set_index("variant")
    order = [variant for variant in comparison.source.results["variant"].unique() if variant in table.index]
    variants = table.loc[order].assign(**{name: objective(name, comparison, order) for name in search.objectives}).reset_index()
    values = variants[list(search.objectives)].to_numpy(dtype=float)
    variants["half_width"] = comparison.half_widths(order)
    variants["front"] = non_dominated(values)
    variants["best_so_far"] = np.minimum.accumulate(variants["mean"].to_numpy(dtype=float))
    return Found(search.objectives, variants, importances(variants, comparison.source.compare), _counts(comparison))


def non_dominated(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """(points, objectives), all to be small -> which points no other is at least as small as everywhere and smaller somewhere."""
    known = np.asarray(np.isfinite(values).all(axis=1))
    beaten = [bool((known & (values <= own).all(axis=1) & (values < own).any(axis=1)).any()) for own in values]
    return np.asarray(known & ~np.array(beaten, dtype=bool))


def objective(name: str, comparison: Comparison, order: Sequence[str]) -> npt.NDArray[np.float64]:
    """The objective of each variant, from its rows of the results."""
    results = comparison.source.results
    if name == "val_loss":
        found = comparison.table.set_index("variant")["mean"]
    elif name == "decode_latency":
        found = decode_latency(results)
    else:
        # Records of before the model's own memory was one of them have the trial's.
        values = results["training_memory_bytes"].fillna(results["predicted_memory_bytes"]) if name == "memory" else results[name]
        found = values.groupby(results["variant"], sort=False).max()
    return np.asarray(found.loc[order].to_numpy(dtype=float, na_value=np.nan))


def decode_latency(results: pd.DataFrame) -> pd.Series:
    """Each variant's seconds per token that it writes: of its trials the slowest."""
    slowest = results.groupby("variant", sort=False)["decode_tokens_per_second"].min()
    return 1 / slowest


def importances(variants: pd.DataFrame, compare: Sequence[str]) -> dict[str, float]:
    """How much each compared field has to do with being among the better variants, by PED-ANOVA (Watanabe et al. 2023)."""
    varied = [name for name in compare if name in variants and variants[name].nunique() > 1]
    if len(variants) < FEWEST_FOR_IMPORTANCE or not varied:
        return {}
    import optuna  # takes a second, and no grid needs it

    columns = {name: _column(variants[name]) for name in varied}
    distributions = {name: distribution for name, (_, distribution) in columns.items()}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings(action="ignore"):
        study = optuna.create_study()
        for index, loss in enumerate(variants["mean"]):
            params = {name: values[index] for name, (values, _) in columns.items()}
            study.add_trial(optuna.trial.create_trial(value=float(loss), params=params, distributions=distributions))
        return dict(optuna.importance.get_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()))


def _column(values: pd.Series) -> tuple[list[Any], BaseDistribution]:
    """A compared field as optuna takes it: numbers in their range, all else as text."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values) and values.notna().all():
        numbers = [float(value) for value in values]
        return numbers, FloatDistribution(min(numbers), max(numbers))
    texts = [str(value) for value in values]
    return texts, CategoricalDistribution(sorted(set(texts)))


def _counts(comparison: Comparison) -> dict[str, int]:
    """Suggestions by what became of them; a trial counts as failed, diverged or stopped where none of its settings finished."""
    search = comparison.source.search
    assert search is not None
    verdicts = comparison.table.loc[comparison.table["mean"].isna(), "verdict"].str.lower().value_counts()
    trained = int(comparison.table["mean"].notna().sum())
    return {"trained": trained, **verdicts.to_dict(), "refused": search.refused, "suggested again": search.duplicates}
