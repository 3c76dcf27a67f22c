"""What each variant was tuned to: its settings, the best of them, whether that lies inside its grid, and how much the rate matters."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from archsweep.errors import RecordError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from archsweep.analysis.compare import Comparison

SETTING = ["variant", "learning_rate", "weight_decay", "tuned"]  # `tuned`: further settings in words, of results that are not a sweep's

# From so many seeds on, some only choose the setting and the others are tested. Six are left at the least, the fewest whose signs can be
# flipped to a p below .05. With fewer seeds a choice by one or two of them costs more than it mends (benchmarks/RESULTS.md, verdicts).
FEWEST_TO_SPLIT = 8


def choosing(seeds: int) -> int:
    """Of so many seeds, how many choose each variant's setting and are not tested: a third from FEWEST_TO_SPLIT on, else none."""
    return seeds // 3 if seeds >= FEWEST_TO_SPLIT else 0


def seeds_for(tested: int) -> int:
    """The fewest seeds of which so many are tested, where settings are tuned."""
    return tested if tested < FEWEST_TO_SPLIT else 3 * (tested - 1) // 2 + 1


def choosing_seeds(results: pd.DataFrame) -> frozenset[int]:
    """The seeds that choose each variant's setting: the first ones, by `choosing`.

    None where nothing is tuned, and where a setting lacks a seed: one that only the choosing seeds ran would win without a test.
    """
    seeds, rows = sorted(results["seed"].dropna().unique()), with_tuned(results)
    if not (count := choosing(len(seeds))) or not is_tuned(rows):
        return frozenset()
    are_shared = (rows.groupby(SETTING, dropna=False, sort=False)["seed"].nunique() == len(seeds)).all()
    return frozenset(int(seed) for seed in seeds[:count]) if are_shared else frozenset()


def is_tuned(table: pd.DataFrame) -> bool:
    """Whether a variant has settings to choose from, in any table with the columns of SETTING."""
    return bool((table.drop_duplicates(SETTING).groupby("variant").size() > 1).any())


def settings(results: pd.DataFrame) -> pd.DataFrame:
    """A row per variant and tuned setting: mean and sd of val_loss over the tested seeds, its mean over the seeds that choose (`choice`).

    A setting counts (`complete`) where every planned seed finished with a finite loss, and one of them is tested: dropping the seeds
    that diverged would reward a setting for being unstable. It `ended` where every seed finished, diverged or was given up, which also
    says something about it.
    """
    rows = with_tuned(results)[[*SETTING, "seed", "status"]].copy()
    rows["loss"] = finished_loss(results)
    if (twice := rows.duplicated([*SETTING, "seed"])).any():
        row = rows[twice].iloc[0]
        raise RecordError(f"{row.variant} has two results for seed {row.seed} at one setting. Keep one row per variant, setting and seed.")
    chooses = rows["seed"].isin(seeds := choosing_seeds(results))
    rows["tested"], rows["chosen_by"] = rows["loss"].mask(chooses), rows["loss"].where(chooses | (not seeds))
    rows["has_diverged"] = rows["status"] == "diverged"
    rows["has_ended"] = rows["loss"].notna() | rows["status"].isin(["diverged", "pruned"])
    table = rows.groupby(SETTING, dropna=False, sort=False).agg(
        planned=("seed", "size"), known=("loss", "count"), finished=("tested", "count"), mean=("tested", "mean"), sd=("tested", "std"),
        choice=("chosen_by", "mean"), ended=("has_ended", "all"), diverged=("has_diverged", "any"),
    )  # fmt: skip
    table["complete"] = (table["planned"] == table["known"]) & (table["finished"] > 0)
    return table.reset_index()


def with_tuned(results: pd.DataFrame) -> pd.DataFrame:
    """Results with the column `tuned`, which a sweep's own do not need."""
    return results if "tuned" in results else results.assign(tuned=pd.array([None] * len(results), dtype="string"))


def at_settings(results: pd.DataFrame, best: pd.DataFrame) -> pd.DataFrame:
    """The rows of each variant's setting in `best`."""
    return with_tuned(results).merge(best[SETTING], on=SETTING)


def tested_at(rows: pd.DataFrame, results: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Of `rows`, which are `results` or their curves, those of the tested seeds at the settings in `table`."""
    return at_settings(rows[~rows["seed"].isin(choosing_seeds(results))], table)


def finished_loss(results: pd.DataFrame) -> pd.Series:
    """val_loss where the replica finished with a finite one, else missing."""
    loss = pd.Series(results["val_loss"].to_numpy(dtype=float, na_value=np.nan), index=results.index)
    return loss.where((results["status"] == "finished").to_numpy(dtype=bool, na_value=False) & np.isfinite(loss))


def best_settings(table: pd.DataFrame) -> pd.DataFrame:
    """Of each variant with a setting that counts, the one of the smallest `choice`; the variant of the smallest mean first."""
    complete = table[table["complete"]]
    best = complete.loc[complete.groupby("variant", sort=False)["choice"].idxmin()]
    return best.sort_values("mean", kind="stable").reset_index(drop=True)


def best_by_rate(table: pd.DataFrame) -> pd.DataFrame:
    """Of each variant at each learning rate, the setting that counts of the smallest `choice`: each rate at its best weight decay."""
    known = table[table["complete"]].dropna(subset=["learning_rate"])
    return known.loc[known.groupby(["variant", "learning_rate"], sort=False)["choice"].idxmin()]


def losses_by_seed(results: pd.DataFrame, best: pd.DataFrame) -> pd.DataFrame:
    """val_loss at each variant's best setting: variants as rows, in the order of `best`, the tested seeds as columns."""
    at_best = tested_at(results.assign(val_loss=finished_loss(results)), results, best)
    return at_best.pivot(index="variant", columns="seed", values="val_loss").reindex(best["variant"]).astype(float)


def metric_values(comparison: Comparison) -> pd.DataFrame:
    """What the config's own metrics measured: a row per variant at its best setting and tested seed, a column per metric."""
    table, results = comparison.table, comparison.source.results
    rows = tested_at(results, results, table[table["mean"].notna()]).dropna(subset=["user_metrics"]).set_index(["variant", "seed"])
    found = pd.DataFrame([json.loads(text) for text in rows["user_metrics"]], index=rows.index)
    shown = [variant for variant in table["variant"] if variant in found.index.get_level_values("variant")]
    return found.loc[shown].astype(float) if shown else found


def learning_rate_audit(table: pd.DataFrame, best: pd.DataFrame) -> pd.DataFrame:
    """Whether each variant's best learning rate lies inside its grid: `edge` is "lowest", "highest", "none" or "not tuned".

    The grid is what the variant tried to the end at its best weight decay: a rate that diverged bounds the best one from
    above, a rate that failed or is unfinished says nothing. `add` is the rate to add beyond the edge, at the grid's own spacing.
    """
    tried: defaultdict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)  # of each variant: rates with weight decays
    ended = table[table["ended"]].dropna(subset=["learning_rate"])
    pairs = (ended[name].to_numpy(dtype=float, na_value=np.nan).tolist() for name in ("learning_rate", "weight_decay"))
    for variant, tuned, *setting in zip(ended["variant"], ended["tuned"].fillna(""), *pairs, strict=True):
        tried[variant, tuned].append((setting[0], setting[1]))
    rows = [_audit(row, tried[row.variant, tuned]) for row, tuned in zip(best.itertuples(), best["tuned"].fillna(""), strict=True)]
    return pd.DataFrame(rows, columns=["variant", "edge", "add"], index=best.index)


def _audit(best: pd.Series, tried: list[tuple[float, float]]) -> tuple[str, str, float]:
    rates = sorted({rate for rate, decay in tried if pd.isna(best.weight_decay) or decay == best.weight_decay})
    return (best.variant, *edge_of(best.learning_rate, rates))


def edge_of(best: float, rates: Sequence[float]) -> tuple[str, float]:
    """At which edge of the rates that were tried, in their order, the best one lies; and the rate to add, at the grid's own spacing."""
    if len(rates) < 2:
        return "not tuned", float("nan")
    if best == rates[0]:
        return "lowest", _rounded(rates[0] ** 2 / rates[1])
    if best == rates[-1]:
        return "highest", _rounded(rates[-1] ** 2 / rates[-2])
    return "none", float("nan")


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")


def at_common_rate(table: pd.DataFrame, best: pd.DataFrame) -> tuple[float, pd.Series]:
    """The learning rate of the lowest mean over all variants of `best`, and each one's loss there; NaN where they share no rate.

    Each rate counts at its best weight decay, and only where it counts for every variant.
    """
    at_rates = best_by_rate(table)
    shared = _losses_by_rate(at_rates, "choice").reindex(best["variant"]).dropna(axis="columns")
    if shared.empty or not len(shared.columns):
        return float("nan"), pd.Series(np.nan, index=best["variant"])
    rate = float(shared.mean().idxmin())
    return rate, at_rates[at_rates["learning_rate"] == rate].set_index("variant")["mean"].reindex(best["variant"])


def sensitivity(table: pd.DataFrame, best: pd.DataFrame, start: float) -> pd.Series:
    """Each variant's learning-rate sensitivity: the mean over its grid of min(loss, start) - smallest loss (Wortsman et al. 2023,
    arXiv 2309.14322), `start` being the loss before training, at which a rate that diverged counts. NaN where one rate was tried.
    """
    ended = table[table["ended"] & (table["complete"] | table["diverged"])]
    rows = ended.assign(loss=ended["mean"].where(ended["complete"], start).clip(upper=None if np.isnan(start) else start))
    losses = _losses_by_rate(rows, "loss").reindex(best["variant"])
    known = losses.where(losses.notna().sum(axis=1) > 1)
    unknown = rows[rows["loss"].isna()]["variant"].unique()
    return known.sub(known.min(axis=1), axis=0).mean(axis=1).mask(known.index.isin(unknown))


def _losses_by_rate(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """The smallest loss of each variant (rows) at each learning rate (columns), over weight decays."""
    known = rows.dropna(subset=["learning_rate"])
    return known.pivot_table(index="variant", columns="learning_rate", values=column, aggfunc="min", sort=False).astype(float)
