"""The two audits that a verdict stands on, in a line each: were the budgets kept, and does the best learning rate lie inside its grid?"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from archsweep.analysis.verdicts import at_edge, off_budget
from archsweep.analysis.words import amount, plural, words

if TYPE_CHECKING:
    import pandas as pd

    from archsweep.analysis.compare import Comparison
    from archsweep.analysis.source import BudgetRule


class Audit(NamedTuple):
    what: str
    found: str
    passed: bool


def audits(comparison: Comparison) -> list[Audit]:
    """A line for each budget, or for sizes that no budget held, and one for the learning rates; none before anything has finished."""
    ranked = comparison.table[comparison.table["mean"].notna()]
    if ranked.empty:
        return []
    budgets = [_budget(ranked, budget) for budget in comparison.source.budgets]
    sizes = budgets or [Audit("budget", "none was stated; the sizes are listed as they are", False)]
    if "learning_rate" in comparison.source.compare:
        return [*sizes, Audit("learning rate", "what is compared, so nothing chooses it", True)]
    return [*sizes, _rates(ranked)]


def _budget(ranked: pd.DataFrame, budget: BudgetRule) -> Audit:
    stated = f"{amount(budget.target)} {words(budget.kind)} ± {budget.tolerance:.1%}"
    measured = ranked[ranked[budget.kind].notna() & ranked["variant"].map(budget.concerns).astype(bool)]
    if measured.empty:
        return Audit("budget", f"{stated}: not recorded", False)
    off = int(sum(off_budget(row, budget) for _, row in measured.iterrows()))
    farthest = float((measured[budget.kind].astype(float) / budget.target - 1).abs().max())
    kept = f"kept by all {plural(len(measured), 'variant')}" if not off else f"missed by {plural(off, 'variant')} of {len(measured)}"
    return Audit("budget", f"{stated}: {kept}, the farthest is {farthest:.2%} off", not off)


def _rates(ranked: pd.DataFrame) -> Audit:
    untuned = int((ranked["learning_rate_edge"] == "not tuned").sum())
    edge = int(sum(at_edge(row) for _, row in ranked.iterrows()))
    inside = len(ranked) - untuned - edge
    if untuned == len(ranked):
        return Audit("learning rate", "not tuned", False)
    rest = [f"at the edge for {edge}"] * bool(edge) + [f"not tuned for {untuned}"] * bool(untuned)
    found = f"the best one lies inside the rates that were tried for {inside} of {plural(len(ranked), 'variant')}"
    return Audit("learning rate", "; ".join([found, *rest]), inside == len(ranked))
