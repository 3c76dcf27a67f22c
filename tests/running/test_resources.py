"""A trial's request: one processor, and the share of a GPU that its memory needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsweep.running.resources import CUDA_CONTEXT_BYTES, Resources, request

if TYPE_CHECKING:
    from archsweep.planning.plan import Plan, Trial

GB = 10**9


def needing(plan: Plan, memory_bytes: int) -> Trial:
    """A trial of one replica that needs so much beside what every process holds."""
    trial = plan.trials[0]
    cost = trial.cost.model_copy(update={"memory_bytes": memory_bytes - CUDA_CONTEXT_BYTES})
    return trial.model_copy(update={"cost": cost, "replicas": trial.replicas[:1]})


def test_without_a_gpu_a_trial_takes_one_processor(tiny_plan: Plan) -> None:
    assert request(tiny_plan.trials[0], use_gpu=False) == Resources(1, 0)


@pytest.mark.parametrize(
    ("needed", "share"), [(1 * GB, 0.125), (3 * GB, 0.2), (5 * GB, 0.3333), (6 * GB, 0.5), (9 * GB, 1.0), (40 * GB, 1.0)]
)
def test_the_share_is_the_largest_that_tiles_a_16_gb_device(tiny_plan: Plan, needed: int, share: float) -> None:
    assert request(needing(tiny_plan, needed), use_gpu=True, gpu_bytes=16 * GB).gpus == share


@given(needed=st.integers(1 * GB, 80 * GB), gpu=st.integers(8 * GB, 80 * GB))
def test_trials_that_tile_a_device_fit_its_memory(tiny_plan: Plan, needed: int, gpu: int) -> None:
    share = request(needing(tiny_plan, needed), use_gpu=True, gpu_bytes=gpu).gpus
    side_by_side = int(1 / share + 1e-9)
    assert share * side_by_side <= 1
    assert side_by_side == 1 or side_by_side * needed <= gpu


def test_more_replicas_need_a_larger_share(tiny_plan: Plan) -> None:
    trial = needing(tiny_plan, 3 * GB)
    many = trial.model_copy(update={"replicas": trial.replicas * 4})
    assert request(many, use_gpu=True).gpus > request(trial, use_gpu=True).gpus
