"""A trial's request: one processor, and the share of a GPU that its memory needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsweep.device import Gpu
from archsweep.errors import MachineError
from archsweep.planning.memory import CUDA_CONTEXT_BYTES, DEFAULT_CALIBRATION, SCRATCH_BYTES
from archsweep.running import machine
from archsweep.running.machine import Machine
from archsweep.running.resources import (
    Resources,
    check_some_gpu_holds,
    fitting,
    largest_request,
    request,
    share,
)

if TYPE_CHECKING:
    from archsweep.planning.plan import Plan

BESIDE = CUDA_CONTEXT_BYTES + SCRATCH_BYTES
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
    small, large = (request(each, use_gpu=True, gpu_bytes=16 * GB).gpus for each in (trial, many))
    assert (small, large) == (0.125, share(BESIDE + round(1.1 * many.memory_bytes), 16 * GB))
    assert large > small


def test_as_many_trials_run_side_by_side_as_processors_and_the_largest_share_allow(tiny_plan: Plan) -> None:
    trials = tiny_plan.trials
    assert fitting(largest_request(trials, use_gpu=False), {"CPU": 3}) == 3
    needed = max(trial.memory_bytes for trial in trials)
    two_fit = 2 * (BESIDE + round(DEFAULT_CALIBRATION * needed)) + 1
    assert fitting(largest_request(trials, True, two_fit), {"CPU": 16, "GPU": 2}) == 4
    assert fitting(largest_request(trials, True, two_fit), {"CPU": 3, "GPU": 2}) == 3
    assert fitting(largest_request(trials, True, 1), {"CPU": 16, "GPU": 1}) == 1


def test_a_model_whose_weights_no_gpu_could_hold_is_refused(tiny_plan: Plan) -> None:
    bytes_each = 4 + 4 + 8  # float32 weights, gradients, and AdamW's two moments
    needed = bytes_each * max(trial.cost.parameters for trial in tiny_plan.trials)
    check_some_gpu_holds(tiny_plan.trials, [1, needed])
    check_some_gpu_holds(tiny_plan.trials, [])  # trained on processors
    with pytest.raises(MachineError, match=r"num_layers=2 needs .* GB of a GPU for the weights, .* of one replica alone"):
        check_some_gpu_holds(tiny_plan.trials, [1, needed - 1])


def test_trials_that_stay_whole_are_refused_by_all_their_replicas(tiny_plan: Plan) -> None:
    replicas = len(tiny_plan.trials[0].replicas)
    needed = replicas * 16 * max(trial.cost.parameters for trial in tiny_plan.trials)
    check_some_gpu_holds(tiny_plan.trials, [needed], whole=True)
    check_some_gpu_holds(tiny_plan.trials, [needed - 1])  # in parts
    with pytest.raises(MachineError, match=rf"of {replicas} replicas, which stay together, alone"):
        check_some_gpu_holds(tiny_plan.trials, [needed - 1], whole=True)


def test_a_gpu_that_this_machine_lacks_is_refused_beside_one_that_it_has(tiny_plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: [Gpu("NVIDIA A10", 24 * GB)])

    def on(device: str) -> Plan:
        trials = [trial.model_copy(update={"config": trial.config.copy(device=device)}) for trial in tiny_plan.trials]
        return tiny_plan.model_copy(update={"trials": tuple(trials)})

    assert machine.circumstances(on("cuda:0"), Machine(), None).on_gpu
    with pytest.raises(MachineError, match=r"cuda:63 is not there: torch sees"):
        machine.circumstances(on("cuda:63"), Machine(), None)
