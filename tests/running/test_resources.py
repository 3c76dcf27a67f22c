"""A trial's request: one processor, and the share of a GPU that its memory needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsweep.planning.memory import DEFAULT_CALIBRATION
from archsweep.running.resources import CUDA_CONTEXT_BYTES, Resources, request, share, slots

if TYPE_CHECKING:
    from archsweep.planning.plan import Plan

GB = 10**9


def test_without_a_gpu_a_trial_takes_one_processor(tiny_plan: Plan) -> None:
    assert request(tiny_plan.trials[0], use_gpu=False) == Resources(1, 0)


@pytest.mark.parametrize(
    ("needed", "expected"), [(1 * GB, 0.125), (3 * GB, 0.2), (5 * GB, 0.3333), (6 * GB, 0.5), (9 * GB, 1.0), (40 * GB, 1.0)]
)
def test_the_share_is_the_largest_that_tiles_a_16_gb_device(needed: int, expected: float) -> None:
    assert share(needed, 16 * GB) == expected


@given(needed=st.integers(1 * GB, 80 * GB), gpu=st.integers(8 * GB, 80 * GB))
def test_trials_that_tile_a_device_fit_its_memory(needed: int, gpu: int) -> None:
    found = share(needed, gpu)
    side_by_side = int(1 / found + 1e-9)
    assert found * side_by_side <= 1
    assert side_by_side == 1 or side_by_side * needed <= gpu


def test_more_replicas_need_a_larger_share(tiny_plan: Plan) -> None:
    trial = tiny_plan.trials[0]
    many = trial.model_copy(update={"replicas": trial.replicas * 2000})
    small, large = (request(each, use_gpu=True, gpu_bytes=8 * GB).gpus for each in (trial, many))
    assert (small, large) == (0.125, share(CUDA_CONTEXT_BYTES + round(1.1 * many.memory_bytes), 8 * GB))
    assert large > small


def test_as_many_trials_run_side_by_side_as_processors_and_the_largest_share_allow(tiny_plan: Plan) -> None:
    trials = tiny_plan.trials
    assert slots(trials, processors=3, gpus=[]) == 3
    context, needed = CUDA_CONTEXT_BYTES, max(trial.memory_bytes for trial in trials)
    two_fit = 2 * (context + round(DEFAULT_CALIBRATION * needed)) + 1
    assert slots(trials, processors=16, gpus=[two_fit, two_fit]) == 4
    assert slots(trials, processors=3, gpus=[two_fit, two_fit]) == 3
    assert slots(trials, processors=16, gpus=[1]) == 1
