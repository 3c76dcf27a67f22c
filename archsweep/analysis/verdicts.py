"""What may be said of each variant against the best: the first reason that forbids a comparison, else what the corrected test says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from archsweep.analysis.statistics import ALPHA, Layout, family_alpha, seeds_needed_each

if TYPE_CHECKING:
    from collections.abc import Sequence

    from archsweep.analysis.source import BudgetRule

BEST, BETTER, UNDECIDED = "BEST", "BETTER", "UNDECIDED"
LR_CONFOUNDED, BUDGET_MISMATCH = "LR-CONFOUNDED", "BUDGET-MISMATCH"
NO_RESULT = {
    "diverged": "DIVERGED",
    "failed": "FAILED",
    "stopped": "STOPPED",
    "unfinished": "UNFINISHED",
}  # the verdict of a variant no setting of which counts


def worst_status(statuses: pd.Series) -> str:
    """Why a variant has no result: what will not mend itself first."""
    return next((verdict for status, verdict in NO_RESULT.items() if (statuses == status).any()), NO_RESULT["diverged"])


def verdicts(table: pd.DataFrame, budgets: Sequence[BudgetRule]) -> list[str]:
    rows = table.to_dict("records")
    return [_verdict(row, rows[0], budgets) for row in rows]


def _verdict(row: pd.Series, best: pd.Series, budgets: Sequence[BudgetRule]) -> str:
    """The first reason that forbids a comparison with the best one, else what the corrected test says."""
    if pd.notna(row.get("verdict")):
        return str(row["verdict"])
    if row["variant"] == best["variant"]:
        return BEST
    shared = [budget for budget in budgets if budget.concerns(row["variant"], best["variant"])]
    if any(off_budget(row, budget) or off_budget(best, budget) for budget in shared):
        return BUDGET_MISMATCH
    if at_edge(row) or at_edge(best):
        return LR_CONFOUNDED
    return BETTER if row["holm_p"] < ALPHA else UNDECIDED


def off_budget(row: pd.Series, budget: BudgetRule) -> bool:
    if pd.isna(row.get(budget.kind)):
        return False
    return bool(abs(row[budget.kind] - budget.target) > budget.tolerance * budget.target)


def at_edge(row: pd.Series) -> bool:
    return row["learning_rate_edge"] in ("lowest", "highest")


def seeds_to_find(table: pd.DataFrame, layout: Layout | None) -> Any:
    """For each undecided variant, the seeds that would find the difference seen four times out of five; missing beyond MOST_SEEDS."""
    variants, seeds = (len(layout.means), layout.seeds) if layout else (0, 0)
    effects = [_effect(row, seeds) if row["verdict"] == UNDECIDED else float("nan") for row in table.to_dict("records")]
    return pd.array(seeds_needed_each(effects, variants, family_alpha(variants)), dtype="Int64")


def _effect(row: pd.Series, seeds: int) -> float:
    """The difference to the best in standard deviations of that difference at one seed."""
    sd = float(row["error"]) * seeds**0.5
    if row["difference"] == 0:
        return 0.0
    return float(row["difference"]) / sd if sd else float("inf")
