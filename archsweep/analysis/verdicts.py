"""What may be said of each variant against the best, or the plan's reference: the first reason that forbids it, else what the tests say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from archsweep.analysis.detect import detectable_effect, seeds_needed
from archsweep.analysis.statistics import ALPHA
from archsweep.analysis.tuning import SETTING, seeds_for

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from archsweep.analysis.source import BudgetRule
    from archsweep.analysis.statistics import Array, Family, Layout

BEST, REFERENCE_ITSELF = "BEST", "REFERENCE"
BETTER, BETTER_BUT_SMALL, EQUIVALENT, UNDECIDED = "BETTER", "BETTER BUT SMALL", "EQUIVALENT", "UNDECIDED"
WORSE, WORSE_BUT_SMALL = "WORSE", "WORSE BUT SMALL"  # than the reference; nothing is better than the best
LR_CONFOUNDED, BUDGET_MISMATCH, NO_REFERENCE = "LR-CONFOUNDED", "BUDGET-MISMATCH", "NO-REFERENCE"
NO_RESULT = {
    "diverged": "DIVERGED",
    "failed": "FAILED",
    "stopped": "STOPPED",
    "unfinished": "UNFINISHED",
}  # the verdict of a variant no setting of which counts


def without_result(rows: pd.DataFrame) -> pd.Series:
    """The verdict of each variant that has none in these results, by variant: of its settings' the one that may yet mend itself.

    That of a setting is the worst of its seeds', as a setting counts only with all of them.
    """
    order = {status: place for place, status in enumerate(NO_RESULT)}  # the first mends itself the least
    places = rows["status"].map(order).astype("Int64")
    of_settings = places.groupby([rows[name] for name in SETTING], dropna=False, sort=False).min().fillna(order["diverged"])
    return of_settings.groupby(level="variant", sort=False).max().map(dict(enumerate(NO_RESULT.values())))


def verdict_text(row: pd.Series) -> str:
    """A verdict as it stands in a table: undecided ones with the seeds they would take."""
    if row["verdict"] != UNDECIDED or pd.isna(row["seeds_needed"]):
        return str(row["verdict"])
    return f"{UNDECIDED} (about {row['seeds_needed']} seeds)"


def verdicts(table: pd.DataFrame, budgets: Sequence[BudgetRule], reference: Hashable | None, margin: float) -> list[str]:
    """One for each row of the table. Against the best, BETTER says that the best is; against a reference, that the row's variant is."""
    rows = table.to_dict("records")
    standard = rows[0] if reference is None else next((row for row in rows if row["variant"] == reference), None)
    return [_verdict(row, standard, budgets, reference is not None, margin) for row in rows]


def _verdict(row: pd.Series, standard: pd.Series | None, budgets: Sequence[BudgetRule], is_reference: bool, margin: float) -> str:
    """The first reason that forbids a comparison with the standard, else what the corrected tests say."""
    if pd.notna(row.get("verdict")):
        return str(row["verdict"])
    if standard is None or pd.isna(standard["mean"]):
        return NO_REFERENCE
    if row["variant"] == standard["variant"]:
        return REFERENCE_ITSELF if is_reference else BEST
    shared = [budget for budget in budgets if budget.concerns(row["variant"], standard["variant"])]
    if any(off_budget(row, budget) or off_budget(standard, budget) for budget in shared):
        return BUDGET_MISMATCH
    if at_edge(row) or at_edge(standard):
        return LR_CONFOUNDED
    if row["holm_p"] < ALPHA:
        is_small = abs(row["difference"]) < margin * abs(standard["mean"])
        if is_reference and row["difference"] > 0:
            return WORSE_BUT_SMALL if is_small else WORSE
        return BETTER_BUT_SMALL if is_small else BETTER
    return EQUIVALENT if row["equivalence_p"] < ALPHA else UNDECIDED


def off_budget(row: pd.Series, budget: BudgetRule) -> bool:
    if pd.isna(row.get(budget.kind)):
        return False
    return bool(abs(row[budget.kind] - budget.target) > budget.tolerance * budget.target)


def at_edge(row: pd.Series) -> bool:
    return row["learning_rate_edge"] in ("lowest", "highest")


def seeds_to_find(table: pd.DataFrame, layout: Layout | None, standard: Hashable, family: Family, tuned: bool) -> pd.arrays.IntegerArray:
    """For each undecided variant, the seeds of it and of `standard` that would find the difference seen four times out of five.

    Missing beyond MOST_SEEDS. Where settings are tuned, from some number of seeds on these include the ones that choose the setting.
    """
    needed = np.full(len(table), np.nan)
    if layout is not None and layout.degrees:
        rows = (table["verdict"] == UNDECIDED).to_numpy(dtype=bool)
        variants = len(layout.means)
        found = seeds_needed(_effects(table[rows], layout, standard), variants, family.strictest(variants), family)
        needed[rows] = [seeds_for(int(seeds)) if tuned and np.isfinite(seeds) else seeds for seeds in found]
    return pd.array([None if np.isnan(seeds) else int(seeds) for seeds in needed], dtype="Int64")


def detectable(table: pd.DataFrame, layout: Layout | None, standard: Hashable, family: Family) -> Array:
    """For each variant, the smallest difference to `standard` that their seeds find four times out of five (nats).

    NaN where one of the two has a single seed.
    """
    if layout is None or not layout.degrees:
        return np.full(len(table), np.nan)
    variants, seeds = len(layout.means), _seeds_of_pairs(table, layout, standard)
    effects = {count: detectable_effect(count, variants, family.strictest(variants), family) for count in set(seeds[seeds >= 2])}
    effect = np.array([effects.get(count, np.nan) for count in seeds])
    return np.asarray(effect * table["error"].to_numpy(dtype=float) * seeds**0.5)


def _effects(rows: pd.DataFrame, layout: Layout, standard: Hashable) -> Array:
    """The differences to `standard` in standard deviations of each at one seed."""
    difference, seeds = np.abs(rows["difference"].to_numpy(dtype=float)), _seeds_of_pairs(rows, layout, standard)
    sd = rows["error"].to_numpy(dtype=float) * seeds**0.5
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(difference == 0, 0.0, difference / sd))


def _seeds_of_pairs(rows: pd.DataFrame, layout: Layout, standard: Hashable) -> Array:
    """The harmonic mean of each variant's seeds and those of `standard`: as many of both give their difference the error that it has."""
    counts = layout.losses.count(axis=1)
    own, its = counts.reindex(rows["variant"]).to_numpy(dtype=float), float(counts.get(standard, np.nan))
    return np.asarray(2 * own * its / (own + its))
