"""A plan for a machine: large trials in parts, so that no slot waits for the last of them."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from archsweep.planning.memory import may_train_on
from archsweep.planning.plan import longest_first

if TYPE_CHECKING:
    from collections.abc import Sequence

    from archsweep.planning.plan import Trial

WASTE = 0.05  # of the slots' time; every part sets up for itself, so less than this is let be


def split(trials: Sequence[Trial], slots: int, corpus_id: str, gpu_bytes: int | None = None) -> list[Trial]:
    """`trials` for `slots` that run side by side, the longest first, as few in parts as keep the slots from waiting for the last ones; and
    where they run on GPUs of `gpu_bytes`, as keep each one's replicas within a GPU's memory.

    A setting's seeds stay together as long as there are several settings. Where no parts keep them from it, those that end soonest.
    """
    if gpu_bytes is not None:
        trials = [part for trial in trials for part in _held(trial, corpus_id, gpu_bytes)]
    parts = best = longest_first(trials)
    shortest = max(sum(trial.work for trial in trials) / slots, *(trial.cost.work for trial in trials))  # no parts are faster than this
    least = _makespan_of(parts, slots)
    while least > (1 + WASTE) * shortest:
        longest = next((trial for trial in parts if len(trial.replicas) > 1), None)
        if longest is None:
            break
        parts = longest_first([*(trial for trial in parts if trial is not longest), *_halves(longest, corpus_id)])
        if (needed := _makespan_of(parts, slots)) < least:
            best, least = parts, needed
    return best


def _held(trial: Trial, corpus_id: str, gpu_bytes: int) -> list[Trial]:
    """The trial, in as many parts as a GPU needs to hold each; one replica that it does not hold is a part too."""
    if len(trial.replicas) == 1 or may_train_on(trial.config, len(trial.replicas), gpu_bytes):
        return [trial]
    return [part for half in _halves(trial, corpus_id) for part in _held(half, corpus_id, gpu_bytes)]


def _makespan_of(trials: Sequence[Trial], slots: int) -> float:
    return makespan([trial.work for trial in trials], slots)


def makespan(works: Sequence[float], slots: int) -> float:
    """When the last of `works` ends, each in turn begun by the slot that is free first."""
    ends = [0.0] * slots
    for work in works:
        heapq.heapreplace(ends, ends[0] + work)
    return max(ends)


def _halves(trial: Trial, corpus_id: str) -> list[Trial]:
    settings = list(dict.fromkeys((replica.learning_rate, replica.weight_decay) for replica in trial.replicas))
    if len(settings) > 1:
        first = settings[: len(settings) // 2]
        chosen = [(replica.learning_rate, replica.weight_decay) in first for replica in trial.replicas]
    else:
        chosen = [index < len(trial.replicas) // 2 for index in range(len(trial.replicas))]
    return [
        trial.with_replicas(tuple(replica for replica, mine in zip(trial.replicas, chosen, strict=True) if mine == half), corpus_id)
        for half in (True, False)
    ]
