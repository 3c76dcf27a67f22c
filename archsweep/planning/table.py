"""The plan as a table for people: what each variant is, and what its trial costs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from pydantic import JsonValue

    from archsweep.planning.plan import Plan

ABSENT = "\N{EN DASH}"  # a field that this variant does not compare
FEW_TOKENS_PER_PARAMETER = 5  # below it the answer holds for this budget alone; twenty is compute-optimal (Hoffmann 2022, arXiv 2203.15556)


def table(plan: Plan) -> Table:
    """A row per trial, in the plan's order."""
    columns = [*plan.compare, "hidden_size", "ffn_size", "parameters", "non-embedding", "replicas", "tokens", "FLOPs", "memory", "trial"]
    shown = Table(box=box.SIMPLE_HEAD, title=_title(plan), title_justify="left", caption=_caption(plan), caption_justify="left")
    for column in dict.fromkeys(columns):
        shown.add_column(column, justify="left" if column == "trial" else "right", no_wrap=True)
    for trial in sorted(plan.trials, key=lambda trial: [_sort_key(trial.variant.get(name)) for name in plan.compare]):
        cost = trial.cost
        cells = {
            **{name: str(trial.variant.get(name, ABSENT)) for name in plan.compare},
            "hidden_size": str(trial.config.hidden_size),
            "ffn_size": str(trial.config.ffn_size),
            "parameters": f"{cost.parameters:,}",
            "non-embedding": f"{cost.non_embedding_parameters:,}",
            "replicas": str(len(trial.replicas)),
            "tokens": f"{cost.train_tokens:,}",
            "FLOPs": f"{cost.flops * len(trial.replicas):.2e}",
            "memory": f"{trial.memory_bytes / 1e6:,.0f} MB",
            "trial": trial.id,
        }
        shown.add_row(*(cells[column] for column in dict.fromkeys(columns)))
    return shown


def _sort_key(value: JsonValue) -> tuple[bool, float, str]:
    """Numbers by size, then everything else by its text."""
    number = isinstance(value, (int, float))
    return (not number, float(value) if isinstance(value, (int, float)) else 0.0, json.dumps(value))


def _title(plan: Plan) -> str:
    replicas = sum(len(trial.replicas) for trial in plan.trials)
    budget = f", each within {plan.budget.tolerance:.0%} of {plan.budget.target:,} {plan.budget.kind}" if plan.budget else ""
    if plan.method is None:
        return f"{plan.name}: {len(plan.trials)} trials, {replicas} replicas{budget}"
    goal = " and ".join(plan.method.objectives)
    chosen = "\n".join(f"  {name}: {values}" for name, values in plan.ranges.items())
    first = f"The first {len(plan.trials)}, which depend on no result:"
    each = f"{plan.size} trials of {replicas // len(plan.trials)} replicas{budget}"
    return f"{plan.name}: {each}, chosen by {plan.method.sampler} to minimise {goal}, from\n{chosen}\n{first}"


def _caption(plan: Plan) -> str:
    flops = sum(trial.cost.flops * len(trial.replicas) for trial in plan.trials)
    thinnest = min(trial.cost.train_tokens / trial.cost.parameters for trial in plan.trials)
    warning = " Under 5: the answer is about this budget, not about longer training." if thinnest < FEW_TOKENS_PER_PARAMETER else ""
    if plan.size > len(plan.trials):
        return (
            f"{flops:.2e} FLOPs for these, {flops * plan.size / len(plan.trials):.2e} for all {plan.size} if the others cost as much; "
            f"{thinnest:.1f} tokens per parameter at least.{warning}"
        )
    return f"{flops:.2e} FLOPs in all; {thinnest:.1f} tokens per parameter at least.{warning}"
