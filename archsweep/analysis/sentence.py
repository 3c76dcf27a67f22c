"""The verdict in words: what is decided, what is not, and what it would take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from archsweep.analysis.detect import MOST_SEEDS
from archsweep.analysis.verdicts import (
    BETTER,
    BETTER_BUT_SMALL,
    BUDGET_MISMATCH,
    EQUIVALENT,
    LR_CONFOUNDED,
    UNDECIDED,
    WORSE,
    WORSE_BUT_SMALL,
    at_edge,
)
from archsweep.analysis.words import compute, decimals, difference, loss, names, percent, variants_text, words

if TYPE_CHECKING:
    from archsweep.analysis.compute import Exponent
    from archsweep.analysis.scaling import Scaling
    from archsweep.analysis.source import SearchRule, Source


def sentence(table: pd.DataFrame, source: Source, exponent: Exponent) -> str:
    """The answer in words: what is decided, and what is not; about the best variant, or about each against the plan's reference."""
    ranked = table[table["mean"].notna()]
    if ranked.empty:
        return "No verdict: no variant has finished all its seeds at any setting."
    found = f"{ranked['variant'].iloc[0]}, with {loss(ranked['mean'].iloc[0])} nats/token"
    if len(table) == 1:
        return f"Nothing to compare: there is one variant, {found}."
    if len(ranked) == 1:
        return f"Nothing to compare yet: only one variant has finished all its seeds at a setting, {found}."
    if source.reference is not None:
        return _against_reference(ranked, source, exponent)
    best, others = ranked.iloc[0], ranked.iloc[1:]
    parts = [
        _undecided(best, others),
        _beaten(best, others, table, exponent),
        _small(best, others, source.margin),
        _equivalent(best, others, source.margin),
        _confounded(best, others),
        _mismatched(best, others, ranked),
    ]
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


# ---------------------------------------------------------------------------------------------------------------- about the best


def _undecided(best: pd.Series, others: pd.DataFrame) -> str:
    group = others[others["verdict"] == UNDECIDED]
    if group.empty:
        return ""
    nearest = group.iloc[0]
    if len(group) == 1:
        return (
            f"Undecided between {best['variant']} and {nearest['variant']}: they differ by {difference(nearest)}, {_would_need(nearest)}."
        )
    return (
        f"Undecided between {best['variant']} and {len(group)} others ({names(group['variant'])}): "
        f"the nearest, {nearest['variant']}, differs by {difference(nearest)}, {_would_need(nearest)}."
    )


def _would_need(row: pd.Series) -> str:
    if pd.isna(row["low"]):
        return "and one seed shows no spread; run at least 3 seeds"
    smallest = row["detectable"]
    found = f"; these {row['n']} find {decimals(smallest, smallest)} or more" if pd.notna(smallest) else ""
    if pd.isna(row["seeds_needed"]):
        return f"too small a difference to settle with {MOST_SEEDS} seeds{found}"
    return f"and would need about {row['seeds_needed']} seeds{found}"


def _beaten(best: pd.Series, others: pd.DataFrame, table: pd.DataFrame, exponent: Exponent) -> str:
    group = others[others["verdict"] == BETTER]
    if group.empty:
        return ""
    nearest = group.iloc[0]
    worth = compute(nearest["compute_ratio"], exponent.source)
    less = f"{difference(nearest)} less than {nearest['variant']}"
    if len(group) < len(others):
        whom = group["variant"].iloc[0] if len(group) == 1 else f"{len(group)} others"
        return f"{best['variant']} beats {whom}: {less}{', the nearest of them' if len(group) > 1 else ''}{worth}."
    whom = "every other variant" if len(others) == len(table) - 1 else "every other variant that has a result"
    whom = nearest["variant"] if len(table) == 2 else whom
    return f"{best['variant']} beats {whom}: {loss(best['mean'])} nats/token, {less}{worth}."


def _small(best: pd.Series, others: pd.DataFrame, margin: float) -> str:
    group = others[others["verdict"] == BETTER_BUT_SMALL]
    if group.empty:
        return ""
    farthest = group.iloc[-1]
    by = f"by {difference(farthest)}" if len(group) == 1 else f"by at most {difference(farthest)}"
    return (
        f"{best['variant']} is better than {names(group['variant'])}, but little: {by}, below the margin of {percent(margin)} of the loss."
    )


def _equivalent(best: pd.Series, others: pd.DataFrame, margin: float) -> str:
    group = others[others["verdict"] == EQUIVALENT]
    if group.empty:
        return ""
    farthest = group.iloc[-1]
    by = f"they differ by {difference(farthest)}" if len(group) == 1 else f"they differ by at most {difference(farthest)}"
    return f"{best['variant']} and {names(group['variant'])} are equivalent: {by}, within the margin of {percent(margin)} of the loss."


def _confounded(best: pd.Series, others: pd.DataFrame, is_best: bool = True) -> str:
    group = others[others["verdict"] == LR_CONFOUNDED]
    if group.empty:
        return ""
    if at_edge(best):
        what = "the lowest loss so far" if is_best else "the reference"
        return (
            f"No verdict for {best['variant']}, {what} ({loss(best['mean'])} nats/token): its best learning rate, "
            f"{best['learning_rate']:g}, is the {best['learning_rate_edge']} that was tried. Add {best['learning_rate_to_add']:g}."
        )
    whom = group["variant"].iloc[0] if len(group) == 1 else f"{len(group)} others"
    rates = ", ".join(f"{rate:g}" for rate in sorted(group["learning_rate_to_add"].unique()))
    return f"No verdict between {best['variant']} and {whom}: the best learning rate there is at the edge of those tried. Add {rates}."


def _mismatched(best: pd.Series, others: pd.DataFrame, ranked: pd.DataFrame, is_best: bool = True) -> str:
    group = others[others["verdict"] == BUDGET_MISMATCH]
    if group.empty:
        return ""
    if len(group) == len(ranked) - 1:
        what = "the lowest loss" if is_best else "the reference"
        return f"No verdict for {best['variant']}, {what} ({loss(best['mean'])} nats/token): the variants do not share the budget."
    whom = group["variant"].iloc[0] if len(group) == 1 else f"{len(group)} others"
    return f"No verdict between {best['variant']} and {whom}: they do not share the budget."


# ------------------------------------------------------------------------------------------------------------ about the reference


def _against_reference(ranked: pd.DataFrame, source: Source, exponent: Exponent) -> str:
    """What each variant is against the reference, the lowest losses first."""
    standard = ranked[ranked["variant"] == source.reference]
    if standard.empty:
        return f"No verdict: {source.reference}, the reference, has no result to compare with."
    reference, others = standard.iloc[0], ranked[ranked["variant"] != source.reference]
    whom = f"{reference['variant']}, the reference with {loss(reference['mean'])} nats/token"
    parts = [part for verdict in _SAID for part in _group(others[others["verdict"] == verdict], verdict, source.margin, exponent)]
    decided = f"Against {whom}: {'; '.join(parts)}." if parts else ""
    rest = [_confounded(reference, others, is_best=False), _mismatched(reference, others, ranked, is_best=False)]
    return " ".join(part for part in (decided, *rest) if part)


_SAID = {
    BETTER: "better",
    BETTER_BUT_SMALL: "better, but by less than the margin of {margin}",
    EQUIVALENT: "equivalent within the margin of {margin}",
    UNDECIDED: "undecided",
    WORSE_BUT_SMALL: "worse, but by less than the margin of {margin}",
    WORSE: "worse",
}


def _group(group: pd.DataFrame, verdict: str, margin: float, exponent: Exponent) -> list[str]:
    """What the variants of one verdict are, with the difference of the one of the lowest loss; nothing for none."""
    if group.empty:
        return []
    first, are = group.iloc[0], "is" if len(group) == 1 else "are"
    which = "" if len(group) == 1 else f"{first['variant']} "
    more = f", {_would_need(first)}" if verdict == UNDECIDED else ""
    more += compute(1 / first["compute_ratio"], exponent.source) if verdict == BETTER else ""
    what = _SAID[verdict].format(margin=f"{percent(margin)} of the loss")
    return [f"{names(group['variant'])} {are} {what} ({which}{difference(first, signed=True)}{more})"]


# ------------------------------------------------------------------------------------------------------------------ about compute


def growth(found: Scaling | None) -> list[str]:
    """How the best size grows with compute, where a law of both size and tokens could be fitted."""
    fit = found.shown if found else None
    if fit is None or fit.points.one_length or not fit.law.is_determined:
        return []
    low, high = fit.interval("size_exponent")
    interval = f" ({low:.2f} to {high:.2f})" if np.isfinite(low) else ""
    return [f"By a law fitted to all of them, the best number of {words(fit.convention)} grows as C^{fit.law.size_exponent:.2f}{interval}."]
