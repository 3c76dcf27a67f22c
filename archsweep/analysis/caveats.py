"""What limits a comparison, in sentences: what is missing, at an edge, off the budget, too short or too noisy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from archsweep.analysis import trend
from archsweep.analysis.detect import detectable_effect
from archsweep.analysis.tuning import FEWEST_TO_SPLIT, choosing_seeds, is_tuned, tested_at
from archsweep.analysis.verdicts import BETTER, BETTER_BUT_SMALL, WORSE, WORSE_BUT_SMALL, at_edge, off_budget
from archsweep.analysis.words import amount, decimals, names, variants_text, words

if TYPE_CHECKING:
    from archsweep.analysis.source import BudgetRule, Source
    from archsweep.analysis.statistics import Family, Layout

FEWEST_TOKENS_PER_PARAMETER = 5  # below it a ranking is about this budget alone
SIZE_TOLERANCE = 0.01  # where no budget is stated
MANY_EPOCHS = 4


def caveats(source: Source, tried: pd.DataFrame, table: pd.DataFrame, layout: Layout | None, family: Family) -> tuple[str, ...]:
    ranked = table[table["mean"].notna()]
    found = [
        _partial(source),
        *source.notes,
        *_incomplete(source),
        _pruned(source),
        _edges(ranked),
        "" if "learning_rate" in source.compare else _untuned(ranked),
        _tuned_on_test_seeds(source, tried),
        _budget(source, ranked),
        _tokens(source, ranked),
        _under_trained(ranked),
        _repeated(source),
        *_moving(source, ranked),
        _detectable(layout, family),
        _unpaired(layout),
        _precisions(source),
    ]
    return tuple(caveat for caveat in found if caveat)


def _partial(source: Source) -> str:
    rows = source.results
    unfinished = int((rows["status"] == "unfinished").sum())
    return f"This sweep is partial: {unfinished} of {len(rows)} replicas are unfinished, and its ranking may change." if unfinished else ""


def _incomplete(source: Source) -> list[str]:
    """Replicas that failed or diverged, and refused variants, each counted: no loss is missing silently."""
    statuses, found = source.results["status"], []
    counts = [f"{(statuses == status).sum()} {status}" for status in ("failed", "diverged") if (statuses == status).any()]
    stopped = source.results[statuses == "stopped"].drop_duplicates("variant")
    if len(stopped):
        shown = "; ".join(
            f"{row.variant} at step {row.step}" if pd.notna(row.step) else row.variant for row in stopped.head(4).itertuples()
        )
        more = f"; and {len(stopped) - 4} more" if len(stopped) > 4 else ""
        which = f"{variants_text(len(stopped), verb='')}: {shown}{more}"
        found.append(f"{source.early_stopping or 'Early stopping'} stopped {which}. No verdict counts them.")
    if counts:
        rule = "a setting counts only where all its seeds finished with a finite loss"
        found.append(f"Of {len(statuses)} replicas, {' and '.join(counts)}; {rule}.")
    if source.refused:
        found.append(
            f"{variants_text(len(source.refused))} refused before training: {'; '.join(f'{v} ({r})' for v, r in source.refused[:3])}."
        )
    return found


def _pruned(source: Source) -> str:
    """What prune_tune saved, and what it may have cost."""
    rows = source.results[source.results["status"] == "pruned"]
    if rows.empty:
        return ""
    settings = len(rows.drop_duplicates(["variant", "learning_rate", "weight_decay"]))
    whole = source.results.groupby("variant")["tokens"].transform("max")
    left = source.results["flops_per_token"] * (whole - source.results["tokens"])
    saved = float(left[rows.index].sum() / (source.results["flops_per_token"] * whole).sum())
    which = f"{settings} tuned setting{'s' if settings > 1 else ''}"
    return (
        f"prune_tune gave up {which} half-way or later, which saved {saved:.0%} of the FLOPs. "
        "One that was far behind there may still have won: high learning rates gain most at the end."
    )


def _edges(ranked: pd.DataFrame) -> str:
    edge = ranked[[at_edge(row) for _, row in ranked.iterrows()]]
    if edge.empty:
        return ""
    rows = "; ".join(
        f"{row.variant}: {row.learning_rate:g} is the {row.learning_rate_edge}, add {row.learning_rate_to_add:g}"
        for row in edge.head(4).itertuples()
    )
    more = f"; and {len(edge) - 4} more" if len(edge) > 4 else ""
    return f"The best learning rate is at the edge of those tried, so a better one may lie beyond: {rows}{more}."


def _untuned(ranked: pd.DataFrame) -> str:
    untuned = ranked[ranked["learning_rate_edge"] == "not tuned"]
    if len(ranked) < 2 or untuned.empty:
        return ""
    whose = "The learning rate was" if len(untuned) == len(ranked) else f"The learning rate of {variants_text(len(untuned), verb='')} was"
    return f"{whose} not tuned: a difference may be one of learning rates, not of architectures."


def _tuned_on_test_seeds(source: Source, tried: pd.DataFrame) -> str:
    if not is_tuned(tried) or choosing_seeds(source.results):
        return ""
    return (
        "Each variant's setting was chosen on the same seeds that the test uses, which makes its loss look slightly better than it is; "
        f"from {FEWEST_TO_SPLIT} seeds on that all settings share, some only choose."
    )


def _budget(source: Source, ranked: pd.DataFrame) -> str:
    if source.budgets:
        return " ".join(filter(None, (_off(ranked, budget) for budget in source.budgets)))
    spread = _relative_spread(ranked["parameters"])
    return f"No budget was stated: the variants' parameters differ by up to {spread:.0%}." if spread > SIZE_TOLERANCE else ""


def _off(ranked: pd.DataFrame, budget: BudgetRule) -> str:
    off = ranked[[budget.concerns(row["variant"]) and off_budget(row, budget) for _, row in ranked.iterrows()]]
    names = ", ".join(f"{row['variant']} ({amount(row[budget.kind])})" for _, row in off.iterrows())
    return f"Off the budget of {amount(budget.target)} {words(budget.kind)} ± {budget.tolerance:.1%}: {names}." if len(off) else ""


def _tokens(source: Source, ranked: pd.DataFrame) -> str:
    if any(budget.kind in ("flops", "train_seconds") for budget in source.budgets):
        return ""  # which has each variant train on tokens of its own
    spread = _relative_spread(ranked["tokens"])
    return f"The variants did not train on equally many tokens: they differ by up to {spread:.0%}." if spread > SIZE_TOLERANCE else ""


def _relative_spread(values: pd.Series) -> float:
    known = values.dropna().astype(float)
    return float(known.max() / known.min() - 1) if len(known) > 1 and known.min() > 0 else 0.0


def _under_trained(ranked: pd.DataFrame) -> str:
    ratio = (ranked["tokens"].astype("Float64") / ranked["parameters"].astype("Float64")).dropna()
    if ratio.empty or ratio.min() >= FEWEST_TOKENS_PER_PARAMETER:
        return ""
    return (
        f"Under-trained: {ratio.min():.2g} tokens per parameter at the least, below {FEWEST_TOKENS_PER_PARAMETER}. "
        "The ranking is about this training length and may change with a longer one."
    )


def _repeated(source: Source) -> str:
    """Tokens against those of the corpus, where the records say how many there are."""
    epochs = (source.results["tokens"] / source.results["corpus_tokens"]).dropna()
    if epochs.empty or epochs.max() <= 1:
        return ""
    few = " More than 4 teach less and less (Muennighoff et al. 2023)." if epochs.max() > MANY_EPOCHS else ""
    return f"The training text was read up to {epochs.max():.2g} times.{few}"


def _moving(source: Source, ranked: pd.DataFrame) -> list[str]:
    """Decided differences that later training may undo, by the variant that they are tested against."""
    decided = ranked[ranked["verdict"].isin([BETTER, BETTER_BUT_SMALL, WORSE, WORSE_BUT_SMALL])]
    if decided.empty:
        return []
    curves = tested_at(source.curves, source.results, ranked)
    groups = decided.groupby("tested_against", sort=False)["variant"]  # several where each size of a budget has a best one
    return [caveat for leader, variants in groups for caveat in _moving_against(str(leader), variants, curves)]


def _moving_against(leader: str, variants: pd.Series, curves: pd.DataFrame) -> list[str]:
    own = curves[curves["variant"].isin([leader, *variants])]
    crossed, closing = (variants[variants.isin(found)] for found in trend.moving(own, leader))
    found = []
    if len(crossed):
        found.append(f"Curves still cross: in the last half of training, the order against {leader} has changed for {names(crossed)}.")
    if len(closing):
        found.append(
            f"The ranking is moving: as in the last half of training, twice as long would close the gap of {names(closing)} to {leader}."
        )
    return found


def _detectable(layout: Layout | None, family: Family) -> str:
    if layout is None or len(layout.means) < 2:
        return ""
    if not layout.degrees:
        return "One seed for each variant shows no spread, so nothing can be tested: repeat with at least 3 seeds."
    counts, variants = layout.losses.count(axis=1), len(layout.means)
    if layout.seeds < 2:
        single = names(counts.index[counts == 1].to_series())
        return f"How small a difference would be found is not known for a single seed: repeat {single} with at least 3 seeds."
    smallest = detectable_effect(layout.seeds, variants, family.strictest(variants), family) * layout.error * 2**0.5
    return (
        f"With {layout.seeds} seeds and {variants} variants, a difference must be about {decimals(smallest, smallest)} nats/token "
        "to be found four times out of five."
    )


def _unpaired(layout: Layout | None) -> str:
    if layout is None or layout.paired or len(layout.means) < 2:
        return ""
    return "The variants do not share their seeds, so the noise between seeds is part of the error: fewer differences can be found."


def _precisions(source: Source) -> str:
    """Trials of one sweep that ran on unlike machines may have computed in unlike formats."""
    used = sorted(source.results["precision_used"].dropna().unique())
    return f"Trained in different precisions, {' and '.join(used)}: set precision, so that all variants share one." if len(used) > 1 else ""
