"""What an analysis is given, in one form: the results, the curves, and the roles that the plan stated (question, compare, tune, budget)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pandas as pd

from archsweep.config import label
from archsweep.errors import RecordError, nearest
from archsweep.records import read
from archsweep.records.files import load_plan
from archsweep.records.results import ExperimentResults
from archsweep.records.schema import COST, CURVES, RESULTS

Given: TypeAlias = str | Path | pd.DataFrame | Sequence[ExperimentResults]


class BudgetRule(NamedTuple):
    """What every variant must share: a column of the comparison's table, its target, and the part of it that a variant may be off."""

    kind: str
    target: float
    tolerance: float


class SearchRule(NamedTuple):
    """How the variants were chosen, where they were searched: what was to become small, and the suggestions that trained nothing."""

    sampler: str
    trials: int
    objectives: tuple[str, ...]
    refused: int
    duplicates: int


@dataclass(frozen=True, eq=False)
class Source:
    """Results and curves with the roles of their columns; `folder` is the sweep's, or None."""

    name: str
    question: str
    compare: tuple[str, ...]
    budgets: tuple[BudgetRule, ...]
    refused: tuple[tuple[str, str], ...]
    results: pd.DataFrame
    curves: pd.DataFrame
    folder: Path | None = None
    command: str = ""  # that ran the sweep
    search: SearchRule | None = None
    early_stopping: str = ""  # the rule that stopped trials


def read_source(given: Given, compare: Sequence[str] | None = None) -> Source:
    """A sweep's folder, a results dataframe (`compare` names the columns that make a variant) or a list of ExperimentResults.

    Raises RecordError where there is nothing to read, and where rows come from different corpora: their losses are not comparable.
    """
    if compare is not None and not isinstance(given, pd.DataFrame):
        raise RecordError("compare= is for a results dataframe; a sweep's plan and the names of experiments already say what is compared.")
    if isinstance(given, pd.DataFrame):
        source = _from_frame(given, tuple(compare or ("variant",)))
    elif isinstance(given, (str, Path)):
        source = _from_folder(Path(given))
    else:
        source = _from_experiments(given)
    _refuse_different_corpora(source)
    return source


def _from_folder(folder: Path) -> Source:
    plan = load_plan(folder)
    stated = plan.get("budget") or []
    budgets = stated if isinstance(stated, list) else [stated]
    results, curves = read.load_both(folder)
    return Source(
        name=plan["name"],
        question=plan.get("question") or "",
        compare=tuple(plan["compare"]),
        budgets=tuple(BudgetRule(_column(budget["kind"]), budget["target"], budget["tolerance"]) for budget in budgets),
        refused=tuple((label(refusal["variant"]), refusal["reason"]) for refusal in plan.get("refused", ())),
        results=results,
        curves=curves,
        folder=folder,
        command=plan.get("command") or "",
        search=_search_rule(plan),
        early_stopping=plan.get("early_stopping") or "",
    )


def _search_rule(plan: dict[str, Any]) -> SearchRule | None:
    if not (method := plan.get("method")):
        return None
    points = plan.get("points", ())
    refused, duplicates = (sum(bool(point.get(name)) for point in points) for name in ("refused", "duplicate"))
    return SearchRule(method["sampler"], method["trials"], tuple(method["objectives"]), refused, duplicates)


def _column(kind: str) -> str:
    columns = [*(column.name for column in COST), "tokens", "train_seconds"]
    if kind not in columns:
        raise RecordError(f"The plan's budget must be a count that every trial records, got {kind}: {nearest(kind, columns)}")
    return kind


def _from_experiments(experiments: Sequence[ExperimentResults]) -> Source:
    if not experiments:
        raise RecordError("There must be at least one ExperimentResults to compare, got an empty list.")
    results, curves = read.from_experiments(experiments)
    name = experiments[0].config.experiment_name if len(experiments) == 1 else "experiments"
    return Source(name, "", ("variant",), (), (), results, curves)


def _from_frame(given: pd.DataFrame, compare: tuple[str, ...]) -> Source:
    if given.empty:
        raise RecordError("The results must have a row per replica, got an empty dataframe.")
    for name in (*compare, "val_loss"):
        if name not in given.columns:
            raise RecordError(f"The results have no column {name}: {nearest(name, map(str, given.columns))}")
    rows = given.astype(object).where(given.notna(), None).to_dict("records")
    for number, row in enumerate(rows):
        row["variant"] = label({name: row[name] for name in compare}) if compare != ("variant",) else str(row["variant"])
        row.setdefault("seed", number)  # without a seed nothing pairs the rows: each is a seed of its own
        row.setdefault("status", "finished" if row["val_loss"] is not None and isfinite(row["val_loss"]) else "diverged")
    results = read.frame(rows, RESULTS)
    extra = {name: given[name].to_numpy() for name in compare if name not in results.columns}
    sweeps = results["sweep"].dropna().unique()
    return Source(sweeps[0] if len(sweeps) == 1 else "results", "", compare, (), (), results.assign(**extra), read.frame([], CURVES))


def _refuse_different_corpora(source: Source) -> None:
    corpora = sorted(source.results["corpus_id"].dropna().unique())
    if len(corpora) > 1:
        raise RecordError(
            f"{source.name}: results of one comparison must come from one corpus, got corpus_id {', '.join(corpora)}. "
            "Losses on different texts are not comparable: run the sweep again on one of them, or compare the rows of each by itself."
        )
