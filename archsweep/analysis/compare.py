"""compare_experiments: a ranked table, a verdict for each variant against the best, and what limits them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from archsweep.analysis import transfer
from archsweep.analysis.caveats import caveats
from archsweep.analysis.checks import BY_SEED, Omnibus, by_seed, omnibus
from archsweep.analysis.compute import KAPLAN, Exponent, compute_ratio
from archsweep.analysis.equivalence import equivalence_p
from archsweep.analysis.frames import Roles
from archsweep.analysis.metric import LOSS, named
from archsweep.analysis.scaling import compute_exponent, scaling
from archsweep.analysis.sentence import growth, search_sentence, sentence
from archsweep.analysis.source import Given, Source, read_source
from archsweep.analysis.statistics import ALL_PAIRS, REFERENCE, Family, Layout, all_against, all_pairs, fit_layout
from archsweep.analysis.tables import safe_cells
from archsweep.analysis.tuning import (
    at_common_rate,
    at_settings,
    best_settings,
    is_tuned,
    learning_rate_audit,
    losses_by_seed,
    sensitivity,
    settings,
    with_tuned,
)
from archsweep.analysis.verdicts import REFERENCE_ITSELF, detectable, seeds_to_find, verdict_text, verdicts, without_result
from archsweep.analysis.words import amount, decimals, difference, loss, p_value, words
from archsweep.atomic import write_atomically
from archsweep.config import label
from archsweep.errors import RecordError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from archsweep.analysis.statistics import Array


@dataclass(frozen=True, eq=False)
class Comparison:
    """What may be said about a sweep's variants; print it, or read its parts.

    `table` has a row per variant, the best first; `difference`, its interval and `verdict` are against the best, and BETTER says
    that the best one is better than the variant of that row. Where the plan names a reference, they are against that, and BETTER says that
    the variant of the row is better than it; `tested_against` names either. `pairs` has the pairs that were tested, `settings` every tuned
    setting, and `layout` what the tests are made of: the losses of each variant's best setting by seed; None where no variant has one.
    """

    question: str
    verdict: str
    table: pd.DataFrame
    caveats: tuple[str, ...]
    pairs: pd.DataFrame
    settings: pd.DataFrame
    layout: Layout | None
    source: Source
    family: Family
    exponent: Exponent
    omnibus: Omnibus
    common_rate: float  # the learning rate with the lowest mean over all variants

    def half_widths(self, variants: Iterable[str]) -> Array:
        """Half of the 95 % interval of the mean of each of these variants; NaN for one without a result."""
        known = pd.Series(dtype=float) if self.layout is None else self.layout.half_widths
        return np.asarray(known.reindex(pd.Index(variants)).to_numpy(dtype=float, na_value=np.nan))

    def __str__(self) -> str:
        parts = [self.question, self.verdict, _plain_table(self.table), *(f"- {caveat}" for caveat in self.caveats)]
        text = "\n\n".join(part for part in parts[:3] if part) + "".join(f"\n{part}" for part in ["", *parts[3:]] if self.caveats)
        return named(text, self.source)


def compare_experiments(
    source: Given | Comparison,
    output_dir: str | Path | None = None,
    *,
    compare: Sequence[str] | None = None,
    tune: Sequence[str] | None = None,
    repeat: str | None = None,
    metric: str | None = None,
    mode: Literal["min", "max"] = "min",
    reference: str | None = None,
    margin: float | None = None,
    exponent: Exponent | None = None,
) -> Comparison:
    """Compare a sweep's folder, several that are joined, a list of ExperimentResults, a dataframe of results or Ray Tune's ResultGrid.

    For the last two, `compare` names the columns that make a variant (left out: "variant"), `tune` those that each variant may choose for
    itself, `repeat` the one that pairs the repetitions (left out: "seed"), `metric` the one to compare ("val_loss"), with mode="max" where
    a large one is good. Tune's "config/" before a name may be left out. `reference` is the variant that all are tested against (left out:
    every pair is tested) and `margin` the part of the loss within which losses count as equal; a sweep's plan says both.
    `exponent` turns a difference into a factor of compute; left out, it is that of the sweep's own scaling law, else Kaplan's.
    Into `output_dir` go comparison.txt and comparison.csv.
    """
    roles = Roles(compare, tune, repeat, metric, mode)
    if not isinstance(source, Comparison):
        comparison = _compare(read_source(source, roles, reference, margin), exponent)
    elif (roles, reference, margin, exponent) == (Roles(), None, None, None):
        comparison = source
    else:
        raise RecordError("A Comparison is made already, and takes no roles, reference, margin or exponent: compare its results again.")
    if output_dir is not None:
        write_atomically(Path(output_dir) / "comparison.txt", f"{comparison}\n")
        write_atomically(Path(output_dir) / "comparison.csv", safe_cells(comparison.table).to_csv(index=False))
    return comparison


def _compare(source: Source, exponent: Exponent | None) -> Comparison:
    whole = _compare_all(source, exponent)
    if source.within is not None:
        whole = _compare_within(whole)
    elif carried := transfer.transfer(whole):
        whole = replace(whole, verdict=named(transfer.sentence(carried), source))
    so_far = "So far: " if (source.results["status"] == "unfinished").any() else ""
    return replace(whole, verdict=so_far + whole.verdict)


def _compare_within(whole: Comparison) -> Comparison:
    """The comparison with the variants of each size of the compared budget tested among themselves, each size a family of its own."""
    source, field = whole.source, str(whole.source.within)
    targets = sorted(source.results[field].dropna().unique())
    parts = {target: _compare_all(_part(source, field, target), whole.exponent) for target in targets}
    tested = pd.concat([part.table for part in parts.values()]).set_index("variant")
    table = whole.table.assign(**{name: tested[name].reindex(whole.table["variant"]).array for name in _WITHIN})
    table["verdict"] = tested["verdict"].reindex(table["variant"]).to_numpy()
    found = scaling(table, whole.layout) if source.metric == LOSS else None
    said = [f"At {amount(target)} {words(field)}: {_without(part.verdict, field, target)}" for target, part in parts.items()]
    # What would be found differs between the sizes, and stands beside each variant.
    limits = tuple(named(each, source) for each in caveats(source, whole.settings, table, None, whole.family))
    return replace(
        whole,
        verdict=" ".join([*said, *(named(line, source) for line in growth(found))]),
        table=table,
        caveats=limits,
        pairs=pd.concat([part.pairs for part in parts.values()], ignore_index=True),
        omnibus=Omnibus(float("nan"), float("nan")),
    )


def _part(source: Source, field: str, target: float) -> Source:
    """The variants of one size of the compared budget, as a source of their own."""
    results = source.results[source.results[field] == target]
    variants = frozenset(results["variant"])
    return replace(
        source,
        compare=tuple(name for name in source.compare if name != field),
        budgets=tuple(rule._replace(variants=None) for rule in source.budgets if rule.concerns(*variants)),
        results=results,
        curves=source.curves[source.curves["variant"].isin(variants)],
        refused=(),
        within=None,
    )


def _without(text: str, field: str, target: float) -> str:
    """A sentence about one size, in which variants need not be named by it."""
    own = label({field: target})
    return text.replace(f" {own}", "").replace(f"{own} ", "")


def _compare_all(source: Source, exponent: Exponent | None) -> Comparison:
    tried = settings(source.results)
    best = best_settings(tried)
    family = REFERENCE if source.reference else ALL_PAIRS
    layout = fit_layout(losses_by_seed(source.results, best)) if len(best) else None
    pairs = _pairs(source, layout)
    rate, at_common = at_common_rate(tried, best)
    table = pd.concat([_ranked(source, tried, best, at_common), _without_result(source, best)], ignore_index=True)
    exponent = exponent or (_own_exponent(table) if source.metric == LOSS else None) or KAPLAN
    standard = source.reference or table["variant"].iloc[0]
    table = _tested(table, source, layout, standard, pairs, exponent)
    table["verdict"] = verdicts(table, source.budgets, source.reference, source.margin)
    table["seeds_needed"] = seeds_to_find(table, layout, standard, family, is_tuned(tried))
    table["detectable"] = detectable(table, layout, standard, family)
    verdict = search_sentence(source.search, table) if source.search else sentence(table, source, exponent)
    limits = tuple(named(caveat, source) for caveat in caveats(source, tried, table, layout, family))
    at_once = omnibus(layout) if layout else Omnibus(float("nan"), float("nan"))
    return Comparison(source.question, named(verdict, source), table, limits, pairs, tried, layout, source, family, exponent, at_once, rate)


def _own_exponent(table: pd.DataFrame) -> Exponent | None:
    alpha = compute_exponent(table)
    return Exponent(alpha, "the sweep's own scaling law") if alpha else None


# --------------------------------------------------------------------------------------------------------------------- the tests


def _pairs(source: Source, layout: Layout | None) -> pd.DataFrame:
    """The pairs of the family, with the p-value that each is equal within the margin."""
    if layout is None or (source.reference and source.reference not in layout.means.index):
        return pd.DataFrame(columns=[*_TESTS, "first", "second", "degrees", "p"])
    pairs = all_against(layout, source.reference) if source.reference else all_pairs(layout)
    margin = source.margin * layout.means.loc[pairs["first"]].abs().to_numpy(dtype=float)
    return pairs.assign(equivalence_p=equivalence_p(pairs, margin))


_TESTS = ["difference", "error", "low", "high", "holm_p", "equivalence_p"]
_WITHIN = [*_TESTS, *BY_SEED, "compute_ratio", "tested_against", "seeds_needed", "detectable"]


def _tested(
    table: pd.DataFrame, source: Source, layout: Layout | None, standard: str, pairs: pd.DataFrame, exponent: Exponent
) -> pd.DataFrame:
    """The table with each variant's difference to `standard`, the best or the reference, and what speaks for it."""
    against = pairs[pairs["first"] == standard] if source.reference else pairs.head(max(0, len(layout.means) - 1) if layout else 0)
    tests = against.set_index("second")[_TESTS].astype(float)
    if layout is not None and standard in layout.means.index:
        tests = tests.join(by_seed(layout, standard), how="outer")
    tests = tests.reindex(columns=[*_TESTS, *BY_SEED])  # all there, though nothing may be known
    ratio = compute_ratio(table["mean"], table["variant"] == standard, exponent)
    tested = table.join(tests, on="variant").assign(compute_ratio=ratio if source.metric == LOSS else np.nan)  # a law of losses alone
    return tested.assign(tested_against=pd.Series(standard, index=tested.index, dtype="string").where(tested["difference"].notna()))


# --------------------------------------------------------------------------------------------------------------------- the table


def _ranked(source: Source, tried: pd.DataFrame, best: pd.DataFrame, at_common: pd.Series) -> pd.DataFrame:
    """A row per variant with a setting that counts: its best setting, how much that matters, its cost."""
    audit = learning_rate_audit(tried, best)
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
            "tuned": best["tuned"],
            "learning_rate_edge": audit["edge"],
            "learning_rate_to_add": audit["add"],
            "at_common_rate": at_common.to_numpy(dtype=float),
            "learning_rate_sensitivity": sensitivity(tried, best, _loss_before_training(source)).to_numpy(dtype=float),
            **{name: facts[name] for name in (*_COST_COLUMNS, "train_seconds")},
        }
    )


def _loss_before_training(source: Source) -> float:
    """Of a uniform guess among the tokens; NaN where the vocabulary is not known, and of another metric."""
    sizes = source.results["vocab_size"].dropna() if source.metric == LOSS else ()
    return float(np.log(max(sizes))) if len(sizes) else float("nan")


_SIZES = ("parameters", "non_embedding_parameters", "kaplan_parameters")
_COST_COLUMNS = (*_SIZES, "tokens", "flops", "kv_bytes_per_token", "tokens_per_second")


def _facts(source: Source, best: pd.DataFrame) -> pd.DataFrame:
    """The compared values, which may be costs, and the other costs of each row of `best`; these are means over its seeds."""
    compared = [name for name in source.compare if name != "variant"]
    at_best = at_settings(source.results, best)
    groups = at_best.groupby("variant", sort=False)
    facts = groups[compared].first() if compared else pd.DataFrame(index=best["variant"])
    costs = groups[list(_COST_COLUMNS)].mean()
    costs["train_seconds"] = costs["tokens"] / costs["tokens_per_second"]  # a replica's part of its stack's time
    return facts.join(costs.drop(columns=compared, errors="ignore")).reindex(best["variant"]).reset_index(drop=True)


def _without_result(source: Source, best: pd.DataFrame) -> pd.DataFrame:
    """The variants no setting of which counts, in the plan's order, with what is known of them."""
    others = source.results[~source.results["variant"].isin(best["variant"])]
    compared = [name for name in source.compare if name != "variant"]
    rows = others[list(dict.fromkeys(["variant", *compared, *_SIZES]))].drop_duplicates("variant")
    why = without_result(with_tuned(others)).reindex(rows["variant"])
    return rows.assign(n=0, learning_rate_edge="", verdict=pd.array(why.to_numpy(), dtype="string"))


def _plain_table(table: pd.DataFrame) -> str:
    rows = table.to_dict("records")
    shown = pd.DataFrame(
        {
            "variant": table["variant"],
            "val_loss": [loss(mean) if pd.notna(mean) else "-" for mean in table["mean"]],
            "sd": [decimals(sd, sd) if pd.notna(sd) else "-" for sd in table["sd"]],
            "seeds": table["n"],
            "best LR": [f"{rate:g}" if pd.notna(rate) else "-" for rate in table["learning_rate"]],
            **({"tuned": table["tuned"].fillna("-")} if table["tuned"].notna().any() else {}),
            "to the reference" if REFERENCE_ITSELF in set(table["verdict"]) else "to the best": [
                difference(row).removesuffix(" nats/token") if pd.notna(row["difference"]) else "-" for row in rows
            ],
            "Holm p": [p_value(p) for p in table["holm_p"]],
            "verdict": [verdict_text(row) for row in rows],
        }
    )
    return str(shown.to_string(index=False))
