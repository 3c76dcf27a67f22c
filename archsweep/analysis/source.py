"""What an analysis is given, in one form: the results, the curves, and the roles that the plan stated (question, compare, tune, budget)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pandas as pd

from archsweep.analysis.frames import ResultGrid, Roles, grid_frame, read_frame
from archsweep.analysis.joined import join
from archsweep.analysis.metric import LOSS, UNIT
from archsweep.analysis.words import one_kind, words
from archsweep.config import BUDGET, DEFAULT_MARGIN, bare_name, fault_of_margin, label
from archsweep.errors import RecordError, nearest
from archsweep.records import read
from archsweep.records.files import load_plan
from archsweep.records.results import ExperimentResults
from archsweep.records.schema import COST, CURVES, RESULTS

Given: TypeAlias = str | Path | pd.DataFrame | ResultGrid | Sequence[ExperimentResults] | Sequence[str | Path]
NO_ROLES = Roles()
VARIED_TOLERANCE = 0.01  # how near each variant is to its own budget, where budgets are compared


class BudgetRule(NamedTuple):
    """What every variant must share: a column of the comparison's table, its target, and the part of it that a variant may be off.

    Of joined sweeps with different budgets, `variants` are those that it was stated for; None is all.
    """

    kind: str
    target: float
    tolerance: float
    variants: frozenset[str] | None = None

    def concerns(self, *variants: str) -> bool:
        """Whether it was stated for one of them."""
        return self.variants is None or not self.variants.isdisjoint(variants)


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
    metric: str = LOSS  # what val_loss holds, in words
    unit: str = UNIT  # of it; "" for a number without one
    notes: tuple[str, ...] = ()  # what a reader must know of where the results came from
    reference: str | None = None  # the variant that all others are tested against; None: every pair is tested
    margin: float = DEFAULT_MARGIN  # the part of the loss below which two variants count as equal
    several_alphabets: bool = False  # of one text, whose losses are in val_loss by the byte
    within: str | None = None  # the compared budget, at each of whose values variants are tested against each other


def read_source(given: Given, roles: Roles = NO_ROLES, reference: str | None = None, margin: float | None = None) -> Source:
    """A sweep's folder, several to be joined, a list of ExperimentResults, or, by the `roles` of its columns, a dataframe or ResultGrid.

    What is tested, all against `reference` or every pair, and the `margin` below which losses count as equal: a sweep's plan says both.
    Raises RecordError where there is nothing to read, and where rows come from different corpora: their losses are not comparable.
    """
    if isinstance(given, (pd.DataFrame, ResultGrid)):
        source = _from_frame(given if isinstance(given, pd.DataFrame) else grid_frame(given), roles)
    elif roles != NO_ROLES:
        raise RecordError(
            "compare=, tune=, repeat=, metric= and mode= are for a dataframe or Ray's ResultGrid; a sweep's plan and the names of "
            "experiments already say what is compared."
        )
    elif isinstance(given, (str, Path)):
        source = read_sweep(Path(given))
    else:
        source = _from_list(given)
    if (reference, margin) != (None, None):
        source = _with_family(source, reference, margin)
    _refuse_different_corpora(source)
    return source


def _with_family(source: Source, reference: str | None, margin: float | None) -> Source:
    if source.folder is not None:
        raise RecordError("reference= and margin= are for results without a plan; a sweep's plan fixed both before it ran.")
    variants = source.results["variant"].unique()
    if reference is not None and reference not in variants:
        raise RecordError(f"The reference must be one of the variants, got {reference!r}: {nearest(reference, variants)}")
    margin = DEFAULT_MARGIN if margin is None else margin
    if (fault := fault_of_margin(margin)) is not None:
        raise RecordError(fault)
    return replace(source, reference=reference, margin=margin)


def _from_list(given: Sequence[ExperimentResults] | Sequence[str | Path]) -> Source:
    folders = [Path(each) for each in given if isinstance(each, (str, Path))]
    experiments = [each for each in given if isinstance(each, ExperimentResults)]
    if not given or len(given) not in (len(folders), len(experiments)):
        kinds = ", ".join(sorted({type(each).__name__ for each in given})) or "an empty list"
        raise RecordError(f"A list to compare must hold at least one ExperimentResults, or the folders of two sweeps or more, got {kinds}.")
    return join([read_sweep(folder) for folder in folders]) if folders else _from_experiments(experiments)


def read_sweep(folder: Path) -> Source:
    """A sweep's folder, with the roles that its plan states."""
    plan = load_plan(folder)
    stated = plan.get("budget") or []
    budgets = stated if isinstance(stated, list) else [stated]
    results, curves = read.load_both(folder)
    values = {label(trial["variant"]): trial["variant"] for trial in plan["trials"]}
    metric = plan.get("metric", "val_loss")
    if metric != "val_loss":
        results, curves = (each.assign(val_loss=each[metric]) for each in (results, curves))
    within = next((name for name in plan["compare"] if name.startswith(BUDGET)), None)
    rules = [BudgetRule(_column(budget["kind"]), budget["target"], budget["tolerance"]) for budget in budgets]
    return Source(
        name=plan["name"],
        question=plan.get("question") or "",
        compare=tuple(plan["compare"]),
        budgets=(*rules, *_varied_rules(within, values)),
        refused=tuple((label(refusal["variant"]), refusal["reason"]) for refusal in plan.get("refused", ())),
        results=_with_compared(results, plan["compare"], values),
        curves=curves,
        folder=folder,
        command=plan.get("command") or "",
        search=_search_rule(plan),
        early_stopping=plan.get("early_stopping") or "",
        reference=label(plan["reference"]) if plan.get("reference") else None,
        margin=plan.get("margin", DEFAULT_MARGIN),
        metric=LOSS if metric == "val_loss" else words(metric),
        unit=_UNITS[metric],
        several_alphabets=metric == "bits_per_byte",
        within=within,
    )


def _with_compared(results: pd.DataFrame, compare: Sequence[str], values: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """The results with a column for what is compared and is no field of a config: an override, a budget."""
    own = [name for name in compare if name not in results]
    return results.assign(**{name: results["variant"].map(_levels(name, values)) for name in own})


def _levels(name: str, values: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What each variant has of a compared field; under a condition of a search not every one has it."""
    known = {variant: value[name] for variant, value in values.items() if name in value}
    return dict(zip(known, one_kind(known.values()), strict=True))


def _varied_rules(within: str | None, values: dict[str, dict[str, Any]]) -> list[BudgetRule]:
    """A rule for each value of the compared budget, for the variants that have it."""
    sharing: dict[float, set[str]] = {}
    for variant, value in values.items():
        if within is not None:
            sharing.setdefault(value[within], set()).add(variant)
    kind = bare_name(within or "")
    return [BudgetRule(_column(kind), target, VARIED_TOLERANCE, frozenset(variants)) for target, variants in sharing.items()]


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
    results, curves = read.from_experiments(experiments)
    name = experiments[0].config.experiment_name if len(experiments) == 1 else "experiments"
    return Source(name, "", ("variant",), (), (), results, curves)


def _from_frame(given: pd.DataFrame, roles: Roles) -> Source:
    framed = read_frame(given, roles)
    sweeps = framed.results["sweep"].dropna().unique()
    metric = LOSS if framed.metric == "val_loss" else framed.metric
    return Source(
        name=sweeps[0] if len(sweeps) == 1 else "results",
        question="",
        compare=framed.compare,
        budgets=(),
        refused=(),
        results=framed.results,
        curves=read.frame([], CURVES),
        metric=f"negative {metric}" if roles.mode == "max" else metric,
        unit=_UNITS.get(framed.metric, ""),
        notes=framed.notes,
    )


_UNITS = {column.name: column.unit for column in RESULTS}


def _refuse_different_corpora(source: Source) -> None:
    if source.several_alphabets:
        return
    corpora = sorted(source.results["corpus_id"].dropna().unique())
    if len(corpora) > 1:
        raise RecordError(
            f"{source.name}: results of one comparison must come from one corpus, got corpus_id {', '.join(corpora)}. "
            "Losses on different texts are not comparable: run the sweep again on one of them, or compare the rows of each by itself."
        )
