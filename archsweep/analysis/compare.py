"""compare_experiments: a ranked table, a verdict for each variant against the best, and what limits them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd

from archsweep.analysis.caveats import caveats
from archsweep.analysis.frames import Roles
from archsweep.analysis.metric import named
from archsweep.analysis.sentence import search_sentence, sentence
from archsweep.analysis.source import Given, Source, read_source
from archsweep.analysis.statistics import all_pairs, at_settings, best_settings, fit_layout, learning_rate_audit, losses_by_seed, settings
from archsweep.analysis.verdicts import seeds_to_find, verdicts, worst_status
from archsweep.analysis.words import decimals, difference, loss, p_value, verdict_text
from archsweep.atomic import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence


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
) -> Comparison:
    """Compare a sweep's folder, several that are joined, a list of ExperimentResults, a dataframe of results or Ray Tune's ResultGrid.

    For the last two, `compare` names the columns that make a variant (left out: "variant"), `tune` those that each variant may choose for
    itself, `repeat` the one that pairs the repetitions (left out: "seed"), `metric` the one to compare ("val_loss"), with mode="max" where
    a large one is good. Tune's "config/" before a name may be left out. Into `output_dir` go comparison.txt and comparison.csv.
    """
    comparison = source if isinstance(source, Comparison) else _compare(read_source(source, Roles(compare, tune, repeat, metric, mode)))
    if output_dir is not None:
        write_atomically(Path(output_dir) / "comparison.txt", f"{comparison}\n")
        write_atomically(Path(output_dir) / "comparison.csv", safe_cells(comparison.table).to_csv(index=False))
    return comparison


def _compare(source: Source) -> Comparison:
    tried = settings(source.results)
    best = best_settings(tried)
    layout = fit_layout(losses_by_seed(source.results, best)) if len(best) else None
    pairs = all_pairs(layout) if layout else pd.DataFrame(columns=["first", "second", "difference", "error", "low", "high", "p", "holm_p"])
    table = pd.concat([_ranked(source, tried, best, pairs), _without_result(source, best)], ignore_index=True)
    table["verdict"] = verdicts(table, source.budgets)
    table["seeds_needed"] = seeds_to_find(table, layout)
    so_far = "So far: " if (source.results["status"] == "unfinished").any() else ""
    verdict = search_sentence(source.search, table) if source.search else sentence(table)
    limits = tuple(named(caveat, source) for caveat in caveats(source, tried, table, layout))
    return Comparison(source.question, named(so_far + verdict, source), table, limits, pairs, tried, source)


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
            "tuned": best["tuned"],
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
    at_best = at_settings(source.results, best)
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
    statuses = dict(list(others.groupby("variant", sort=False)["status"]))
    worst = [worst_status(statuses[variant]) for variant in rows["variant"]]
    return rows.assign(n=0, learning_rate_edge="", verdict=pd.array(worst, dtype="string"))


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
            "to the best": [difference(row).removesuffix(" nats/token") if pd.notna(row["difference"]) else "-" for row in rows],
            "Holm p": [p_value(p) for p in table["holm_p"]],
            "verdict": [verdict_text(row) for row in rows],
        }
    )
    return str(shown.to_string(index=False))


_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet takes for one


def safe_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Texts that a spreadsheet would run as a formula, quoted."""
    texts = table.select_dtypes(include=["string", "str", "object"]).columns
    quoted = {name: [f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell for cell in table[name]] for name in texts}
    return table.assign(**quoted)
