"""The verdict in words: what is decided, what is not, and what it would take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from archsweep.analysis.verdicts import BETTER, BUDGET_MISMATCH, LR_CONFOUNDED, UNDECIDED, at_edge
from archsweep.analysis.words import difference, loss, variants_text, words

if TYPE_CHECKING:
    from archsweep.analysis.source import SearchRule


def sentence(table: pd.DataFrame) -> str:
    """The answer in words: what is decided, and what is not."""
    ranked = table[table["mean"].notna()]
    if ranked.empty:
        return "No verdict: no variant has finished all its seeds at any setting."
    best, others = ranked.iloc[0], ranked.iloc[1:]
    found = f"{best['variant']}, with {loss(best['mean'])} nats/token"
    if len(table) == 1:
        return f"Nothing to compare: there is one variant, {found}."
    if others.empty:
        return f"Nothing to compare yet: only one variant has finished all its seeds at a setting, {found}."
    parts = [_undecided(best, others), _beaten(best, others, table), _confounded(best, others), _mismatched(best, others, ranked)]
    return " ".join(part for part in parts if part)


def search_sentence(search: SearchRule, table: pd.DataFrame) -> str:
    """What a search may say: what it found, not that it is the best; its variants were chosen by the losses that would test them."""
    ranked = table[table["mean"].notna()]
    if ranked.empty:
        return "Nothing found: no variant has finished all its seeds at any setting."
    best = ranked.iloc[0]
    whose = f"{variants_text(len(ranked), verb='')} that {search.sampler} chose"
    found = f"The lowest loss of {whose}: {best['variant']}, with {loss(best['mean'])} nats/token."
    if len(search.objectives) > 1:
        others = " and ".join(words(name) for name in search.objectives if name != "val_loss")
        found += f" What it costs in {others} the front says."
    return f"{found} A search suggests: to decide between its best few, compare them in a grid with more seeds."


def _undecided(best: pd.Series, others: pd.DataFrame) -> str:
    group = others[others["verdict"] == UNDECIDED]
    if group.empty:
        return ""
    nearest = group.iloc[0]
    if len(group) == 1:
        return (
            f"Undecided between {best['variant']} and {nearest['variant']}: they differ by {difference(nearest)}, {_would_need(nearest)}."
        )
    names = ", ".join(group["variant"].head(4)) + (f" and {len(group) - 4} more" if len(group) > 4 else "")
    return (
        f"Undecided between {best['variant']} and {len(group)} others ({names}): "
        f"the nearest, {nearest['variant']}, differs by {difference(nearest)}, {_would_need(nearest)}."
    )


def _would_need(row: pd.Series) -> str:
    if pd.isna(row["low"]):
        return "and one seed shows no spread; run at least 3 seeds"
    if pd.isna(row["seeds_needed"]):
        return "too small a difference to settle with 1000 seeds"
    return f"and would need about {row['seeds_needed']} seeds"


def _beaten(best: pd.Series, others: pd.DataFrame, table: pd.DataFrame) -> str:
    group = others[others["verdict"] == BETTER]
    if group.empty:
        return ""
    nearest = group.iloc[0]
    margin = f"{difference(nearest)} less than {nearest['variant']}"
    if len(group) < len(others):
        names = group["variant"].iloc[0] if len(group) == 1 else f"{len(group)} others"
        return f"{best['variant']} beats {names}: {margin}{', the nearest of them' if len(group) > 1 else ''}."
    whom = "every other variant" if len(others) == len(table) - 1 else "every other variant that has a result"
    whom = nearest["variant"] if len(table) == 2 else whom
    return f"{best['variant']} beats {whom}: {loss(best['mean'])} nats/token, {margin}."


def _confounded(best: pd.Series, others: pd.DataFrame) -> str:
    group = others[others["verdict"] == LR_CONFOUNDED]
    if group.empty:
        return ""
    if at_edge(best):
        return (
            f"No verdict for {best['variant']}, the lowest loss so far ({loss(best['mean'])} nats/token): its best learning rate, "
            f"{best['learning_rate']:g}, is the {best['learning_rate_edge']} that was tried. Add {best['learning_rate_to_add']:g}."
        )
    names = group["variant"].iloc[0] if len(group) == 1 else f"{len(group)} others"
    rates = ", ".join(f"{rate:g}" for rate in sorted(group["learning_rate_to_add"].unique()))
    return f"No verdict between {best['variant']} and {names}: the best learning rate there is at the edge of those tried. Add {rates}."


def _mismatched(best: pd.Series, others: pd.DataFrame, ranked: pd.DataFrame) -> str:
    group = others[others["verdict"] == BUDGET_MISMATCH]
    if group.empty:
        return ""
    if len(group) == len(ranked) - 1:
        return f"No verdict for {best['variant']}, the lowest loss ({loss(best['mean'])} nats/token): the variants do not share the budget."
    names = group["variant"].iloc[0] if len(group) == 1 else f"{len(group)} others"
    return f"No verdict between {best['variant']} and {names}: they do not share the budget."
