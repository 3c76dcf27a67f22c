"""A plan's trials in parts: as many as keep every slot busy, and those that other sweeps have finished already."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING

from archsweep.atomic import OTHER_RESULTS, must_be_writable
from archsweep.config import Replica
from archsweep.errors import RecordError
from archsweep.planning.plan import longest_first
from archsweep.planning.split import split
from archsweep.records.files import load_plan
from archsweep.records.schema import PLAN_FILE, TRIALS_FOLDER
from archsweep.running.recorder import finished_elsewhere

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from archsweep.planning.plan import Plan, Trial


def split_for(plan: Plan, trials: list[Trial], folder: Path, slots: int, gpu_bytes: int | None) -> list[Trial]:
    """The trials for so many slots, on GPUs of so many bytes where they have any, large ones in parts, as the folder's plan then says; once
    one has begun they stay as they are."""
    if plan.keeps_trials_whole or any((folder / TRIALS_FOLDER / trial.id).exists() for trial in trials):
        return trials
    parts = split(trials, slots, plan.corpus_id, gpu_bytes)
    _with_parts(plan, trials, parts, folder)
    return parts


def as_others_have_them(plan: Plan, trials: list[Trial], folder: Path) -> tuple[Plan, list[Trial]]:
    """The trials in the parts that other sweeps have finished of them, and the plan with those, as the folder then has it."""
    if plan.keeps_trials_whole or trials == (parts := _in_parts(trials, folder, plan.corpus_id)):
        return plan, trials
    return _with_parts(plan, trials, parts, folder), parts


def _with_parts(plan: Plan, trials: list[Trial], parts: list[Trial], folder: Path) -> Plan:
    """The plan with `parts` in place of `trials`, as the folder then has it."""
    whole = {trial.id for trial in trials}
    kept = [trial for trial in plan.trials if trial.id not in whole]
    grown = plan.model_copy(update={"trials": tuple(longest_first([*kept, *parts]))})
    with must_be_writable(folder, OTHER_RESULTS):
        grown.save(folder / PLAN_FILE)
    return grown


def _in_parts(trials: Sequence[Trial], folder: Path, corpus_id: str) -> list[Trial]:
    """`trials`, but in parts where other sweeps beside `folder` have finished parts of one: those, and what is left of it as one more.

    Sweeps split trials for their machines, and sweeps of fewer seeds or rates have trained a part of this one's replicas.
    """
    there = _planned_elsewhere(folder) if trials else {}
    found = []
    for trial in trials:
        left, parts = list(trial.replicas), []
        if not (folder / TRIALS_FOLDER / trial.id).exists() and finished_elsewhere(trial, folder) is None:
            for name, replicas in there.get(_sizes(trial.config.to_dict()), []):
                if 0 < len(replicas) < len(trial.replicas) and set(replicas) <= set(left):
                    part = trial.with_replicas(replicas, corpus_id)
                    if part.id == name and finished_elsewhere(part, folder):
                        parts.append(part)
                        left = [replica for replica in left if replica not in replicas]
        found += parts
        if left:
            found.append(trial.with_replicas(tuple(left), corpus_id) if parts else trial)
    return found


def _planned_elsewhere(folder: Path) -> dict[tuple[object, ...], list[tuple[str, tuple[Replica, ...]]]]:
    """The names and replicas of the trials of all sweeps beside `folder`, by their models' sizes."""
    found = defaultdict(list)
    for path in sorted(folder.parent.glob(f"*/{PLAN_FILE}")):
        if path.parent != folder:
            with suppress(RecordError, ValueError, KeyError):  # damaged, or another version's
                for trial in load_plan(path.parent)["trials"]:
                    replicas = tuple(Replica.model_validate(replica) for replica in trial["replicas"])
                    found[_sizes(trial["config"])].append((trial["id"], replicas))
    return found


def _sizes(config: Mapping[str, object]) -> tuple[object, ...]:
    return tuple(config.get(name) for name in ("family", "num_layers", "num_heads", "hidden_size", "ffn_size", "max_tokens"))
