"""compare_experiments: a ranked table, a verdict for each variant against the best, and what limits them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from archsweep.analysis.source import BudgetRule, Given, SearchRule, Source, read_source
from archsweep.analysis.statistics import (
    ALPHA,
    Layout,
    all_pairs,
    best_settings,
    detectable_effect,
    family_alpha,
    fit_layout,
    learning_rate_audit,
    losses_by_seed,
    seeds_needed,
    settings,
)
from archsweep.atomic import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence

BEST, BETTER, UNDECIDED = "BEST", "BETTER", "UNDECIDED"
LR_CONFOUNDED, BUDGET_MISMATCH = "LR-CONFOUNDED", "BUDGET-MISMATCH"
NO_RESULT = {
    "diverged": "DIVERGED",
    "failed": "FAILED",
    "stopped": "STOPPED",
    "unfinished": "UNFINISHED",
}  # the verdict of a variant no setting of which counts

FEWEST_TOKENS_PER_PARAMETER = 5  # below it a ranking is about this budget alone
SIZE_TOLERANCE = 0.01  # where no budget is stated


@dataclass(frozen=True, eq=False)
class Comparison:
    """What may be said about a sweep's variants; print it, or read its parts.

    `table` has a row per variant, the best first; `difference`, its interval and `verdict` are against the best. BETTER says
    that the best one is better than the variant of that row. `pairs` has all pairs, `settings` every tuned setting.
    """

    question: str
    verdict: str
    table: pd.DataFrame
    caveats: tuple[str, ...]
    pairs: pd.DataFrame
    settings: pd.DataFrame
    source: Source

    def __str__(self) -> str:
        parts = [self.question, self.verdict, _plain_table(self.table), *(f"- {caveat}" for caveat in self.caveats)]
        return "\n\n".join(part for part in parts[:3] if part) + "".join(f"\n{part}" for part in ["", *parts[3:]] if self.caveats)


def compare_experiments(
    source: Given | Comparison, output_dir: str | Path | None = None, *, compare: Sequence[str] | None = None
) -> Comparison:
    """Compare a sweep's folder, a results dataframe or a list of ExperimentResults; into `output_dir`: comparison.txt and comparison.csv.

    For a dataframe `compare` names the columns that make a variant (left out: "variant"); a sweep's plan says it itself.
    """
    comparison = source if isinstance(source, Comparison) else _compare(read_source(source, compare))
    if output_dir is not None:
        write_atomically(Path(output_dir) / "comparison.txt", f"{comparison}\n")
        write_atomically(Path(output_dir) / "comparison.csv", _safe_cells(comparison.table).to_csv(index=False))
    return comparison


def _compare(source: Source) -> Comparison:
    tried = settings(source.results)
    best = best_settings(tried)
    layout = fit_layout(losses_by_seed(source.results, best)) if len(best) else None
    pairs = all_pairs(layout) if layout else pd.DataFrame(columns=["first", "second", "difference", "error", "low", "high", "p", "holm_p"])
    table = pd.concat([_ranked(source, tried, best, pairs), _without_result(source, best)], ignore_index=True)
    table["verdict"] = _verdicts(table, source.budgets)
    table["seeds_needed"] = _seeds_needed(table, layout)
    so_far = "So far: " if (source.results["status"] == "unfinished").any() else ""
    sentence = _search_sentence(source.search, table) if source.search else _sentence(table)
    return Comparison(source.question, so_far + sentence, table, _caveats(source, tried, table, layout), pairs, tried, source)


# --------------------------------------------------------------------------------------------------------------------- the table


def _ranked(source: Source, tried: pd.DataFrame, best: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """A row per variant with a setting that counts: its best setting, its cost, its difference to the best variant."""
    audit = learning_rate_audit(tried, best)
    against = pairs.head(max(0, len(best) - 1)).set_index("second").reindex(best["variant"]).reset_index(drop=True)
    facts = _facts(source, best)
    return pd.DataFrame(
        {
            "variant": best["variant"],
            **{name: facts[name] for name in source.compare if name != "variant"},
            "mean": best["mean"],
            "sd": best["sd"],
            "n": best["finished"],
            "learning_rate": best["learning_rate"],
            "weight_decay": best["weight_decay"],
            "learning_rate_edge": audit["edge"],
            "learning_rate_to_add": audit["add"],
            **{name: facts[name] for name in (*_COST_COLUMNS, "train_seconds")},
            "difference": against["difference"],
            "error": against["error"],
            "low": against["low"],
            "high": against["high"],
            "holm_p": against["holm_p"],
        }
    )


_SIZES = ("parameters", "non_embedding_parameters", "kaplan_parameters")
_COST_COLUMNS = (*_SIZES, "tokens", "flops", "tokens_per_second")


def _facts(source: Source, best: pd.DataFrame) -> pd.DataFrame:
    """The compared values and the costs of each row of `best`; costs are means over its seeds."""
    compared = [name for name in source.compare if name != "variant"]
    at_best = source.results.merge(best[["variant", "learning_rate", "weight_decay"]], on=["variant", "learning_rate", "weight_decay"])
    groups = at_best.groupby("variant", sort=False)
    facts = groups[compared].first() if compared else pd.DataFrame(index=best["variant"])
    costs = groups[list(_COST_COLUMNS)].mean()
    costs["train_seconds"] = costs["tokens"] / costs["tokens_per_second"]  # a replica's part of its stack's time
    return facts.join(costs).reindex(best["variant"]).reset_index(drop=True)


def _without_result(source: Source, best: pd.DataFrame) -> pd.DataFrame:
    """The variants no setting of which counts, in the plan's order, with what is known of them."""
    others = source.results[~source.results["variant"].isin(best["variant"])]
    compared = [name for name in source.compare if name != "variant"]
    rows = others[["variant", *compared, *_SIZES]].drop_duplicates("variant")
    worst = [_worst_status(others.loc[others["variant"] == variant, "status"]) for variant in rows["variant"]]
    return rows.assign(n=0, learning_rate_edge="", verdict=pd.array(worst, dtype="string"))


def _worst_status(statuses: pd.Series) -> str:
    """Why a variant has no result: what will not mend itself first."""
    return next((verdict for status, verdict in NO_RESULT.items() if (statuses == status).any()), NO_RESULT["diverged"])


# ------------------------------------------------------------------------------------------------------------------ the verdicts


def _verdicts(table: pd.DataFrame, budgets: Sequence[BudgetRule]) -> list[str]:
    return [_verdict(row, table.iloc[0], budgets) for _, row in table.iterrows()]


def _verdict(row: pd.Series, best: pd.Series, budgets: Sequence[BudgetRule]) -> str:
    """The first reason that forbids a comparison with the best one, else what the corrected test says."""
    if pd.notna(row.get("verdict")):
        return str(row["verdict"])
    if row["variant"] == best["variant"]:
        return BEST
    if any(_off_budget(row, budget) or _off_budget(best, budget) for budget in budgets):
        return BUDGET_MISMATCH
    if _at_edge(row) or _at_edge(best):
        return LR_CONFOUNDED
    return BETTER if row["holm_p"] < ALPHA else UNDECIDED


def _off_budget(row: pd.Series, budget: BudgetRule) -> bool:
    if pd.isna(row.get(budget.kind)):
        return False
    return bool(abs(row[budget.kind] - budget.target) > budget.tolerance * budget.target)


def _at_edge(row: pd.Series) -> bool:
    return row["learning_rate_edge"] in ("lowest", "highest")


def _seeds_needed(table: pd.DataFrame, layout: Layout | None) -> Any:
    """For each undecided variant, the seeds that would find the difference seen four times out of five; missing beyond MOST_SEEDS."""
    variants = len(layout.means) if layout else 0
    needed = []
    for _, row in table.iterrows():
        effect = _effect(row, layout) if layout and row["verdict"] == UNDECIDED else float("nan")
        needed.append(seeds_needed(effect, variants, family_alpha(variants)))
    return pd.array(needed, dtype="Int64")


def _effect(row: pd.Series, layout: Layout) -> float:
    """The difference to the best in standard deviations of that difference at one seed."""
    sd = float(row["error"]) * layout.seeds**0.5
    if row["difference"] == 0:
        return 0.0
    return float(row["difference"]) / sd if sd else float("inf")


def _sentence(table: pd.DataFrame) -> str:
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


def _search_sentence(search: SearchRule, table: pd.DataFrame) -> str:
    """What a search may say: what it found, not that it is the best; its variants were chosen by the losses that would test them."""
    ranked = table[table["mean"].notna()]
    if ranked.empty:
        return "Nothing found: no variant has finished all its seeds at any setting."
    best = ranked.iloc[0]
    whose = f"{_variants(len(ranked), verb='')} that {search.sampler} chose"
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
    if _at_edge(best):
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


# ------------------------------------------------------------------------------------------------------------------- the caveats


def _caveats(source: Source, tried: pd.DataFrame, table: pd.DataFrame, layout: Layout | None) -> tuple[str, ...]:
    ranked = table[table["mean"].notna()]
    found = [
        _partial(source),
        *_incomplete(source),
        _pruned(source),
        _edges(ranked),
        _untuned(ranked),
        _tuned_on_test_seeds(tried),
        _budget(source, ranked),
        _tokens(source, ranked),
        _under_trained(ranked),
        _detectable(layout),
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
    stopped = source.results[statuses == "stopped"].drop_duplicates("trial_id")
    if len(stopped):
        shown = "; ".join(f"{row.variant} at step {row.step}" for row in stopped.head(4).itertuples())
        more = f"; and {len(stopped) - 4} more" if len(stopped) > 4 else ""
        which = f"{_variants(len(stopped), verb='')}: {shown}{more}"
        found.append(f"{source.early_stopping or 'Early stopping'} stopped {which}. No verdict counts them.")
    if counts:
        rule = "a setting counts only where all its seeds finished with a finite loss"
        found.append(f"Of {len(statuses)} replicas, {' and '.join(counts)}; {rule}.")
    if source.refused:
        found.append(f"{_variants(len(source.refused))} refused before training: {'; '.join(f'{v} ({r})' for v, r in source.refused[:3])}.")
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
    edge = ranked[[_at_edge(row) for _, row in ranked.iterrows()]]
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
    whose = "The learning rate was" if len(untuned) == len(ranked) else f"The learning rate of {_variants(len(untuned), verb='')}was"
    return f"{whose} not tuned: a difference may be one of learning rates, not of architectures."


def _tuned_on_test_seeds(tried: pd.DataFrame) -> str:
    if tried.groupby("variant").size().max() < 2:
        return ""
    return "Each variant's setting was chosen on the same seeds that the test uses, which makes its loss look slightly better than it is."


def _budget(source: Source, ranked: pd.DataFrame) -> str:
    if source.budgets:
        return " ".join(filter(None, (_off(ranked, budget) for budget in source.budgets)))
    spread = _relative_spread(ranked["parameters"])
    return f"No budget was stated: the variants' parameters differ by up to {spread:.0%}." if spread > SIZE_TOLERANCE else ""


def _off(ranked: pd.DataFrame, budget: BudgetRule) -> str:
    off = ranked[[_off_budget(row, budget) for _, row in ranked.iterrows()]]
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


def _detectable(layout: Layout | None) -> str:
    if layout is None or len(layout.means) < 2:
        return ""
    if not layout.degrees:
        return "One seed for each variant shows no spread, so nothing can be tested: repeat with at least 3 seeds."
    variants = len(layout.means)
    smallest = detectable_effect(layout.seeds, variants, family_alpha(variants)) * layout.error * 2**0.5
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


def _variants(count: int, verb: str = "was ") -> str:
    return f"1 variant {verb}".strip() if count == 1 else f"{count} variants {'were' if verb else ''}".strip()


# ------------------------------------------------------------------------------------------------------------------------- words


def words(column: str) -> str:
    """A column's name in prose."""
    names = {"flops": "FLOPs", "train_seconds": "seconds of training"}
    return names.get(column) or column.replace("non_embedding", "non-embedding").replace("_", " ")


def amount(value: float) -> str:
    """A quantity of a budget: whole where it is large, to four digits where it is small or beyond counting."""
    return f"{value:,.0f}" if 1000 <= value < 1e10 else f"{value:.4g}"


def loss(value: float) -> str:
    """A loss as it is printed everywhere."""
    return f"{value:.3f}"


def decimals(value: float, precision: float) -> str:
    """`value` with as many decimals as two digits of `precision` take, three at least; of a precision that is rounding error, three."""
    digits = max(3, 1 - int(np.floor(np.log10(precision)))) if precision > 1e-6 and np.isfinite(precision) else 3
    return f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no "-0.000"


def difference(row: pd.Series) -> str:
    """A variant's difference to the best, with half of its 95 % interval where there is one."""
    half = (row["high"] - row["low"]) / 2
    text = decimals(row["difference"], half)
    return f"{text} ± {decimals(half, half)} nats/token" if np.isfinite(half) else f"{text} nats/token"


def _plain_table(table: pd.DataFrame) -> str:
    shown = pd.DataFrame(
        {
            "variant": table["variant"],
            "val_loss": [loss(mean) if pd.notna(mean) else "-" for mean in table["mean"]],
            "sd": [decimals(sd, sd) if pd.notna(sd) else "-" for sd in table["sd"]],
            "seeds": table["n"],
            "best LR": [f"{rate:g}" if pd.notna(rate) else "-" for rate in table["learning_rate"]],
            "to the best": [
                difference(row).removesuffix(" nats/token") if pd.notna(row["difference"]) else "-" for _, row in table.iterrows()
            ],
            "Holm p": [p_value(p) for p in table["holm_p"]],
            "verdict": [verdict_text(row) for _, row in table.iterrows()],
        }
    )
    return str(shown.to_string(index=False))


def p_value(p: float) -> str:
    """A p-value to two digits; none below .001."""
    if pd.isna(p):
        return "-"
    return "<.001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 1 else "1"


def verdict_text(row: pd.Series) -> str:
    """A verdict as it stands in a table: undecided ones with the seeds they would take."""
    if row["verdict"] != UNDECIDED or pd.isna(row["seeds_needed"]):
        return str(row["verdict"])
    return f"{UNDECIDED} (about {row['seeds_needed']} seeds)"


def _safe_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Texts that a spreadsheet would run as a formula, quoted."""
    texts = table.select_dtypes(include=["string", "str", "object"]).columns
    quoted = {name: [f"'{cell}" if isinstance(cell, str) and cell[:1] in "=+-@" else cell for cell in table[name]] for name in texts}
    return table.assign(**quoted)
