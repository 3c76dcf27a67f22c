"""What training took is kept: by every trial that lasts, and by a measurement that is made once."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from archsweep.errors import MachineError
from archsweep.planning import throughput
from archsweep.running.measure import measure
from archsweep.running.progress import Progress
from archsweep.running.recorder import Place, Recorder
from archsweep.running.trackers import Trackers

if TYPE_CHECKING:
    from pathlib import Path

    from archsweep.planning.plan import Plan


def report(seconds: float) -> dict[str, Any]:
    """The last report of a trial of four replicas in two stacks, the first twice as fast as the second."""
    row = {"status": "finished", "tokens": 1000, "val_loss": 3.0, "reason": None, "learning_rate": 1e-3, "weight_decay": 0.1, "seed": 0}
    rows = [row | {"stack_size": 2, "tokens_per_second": 2 * 1000 / (stack * seconds)} for stack in (1, 1, 2, 2)]
    constant = {"device_name": "a processor", "precision_used": "fp32", "resumed_at": 0, "warnings": []}
    return {"rows": rows, "tokens": 1000, "val_loss": 3.0, "trial_seconds": 3 * seconds + 1.5, **constant}


def test_a_trial_that_lasts_leaves_what_its_training_took_and_a_short_one_nothing(tmp_path: Path, tiny_plan: Plan) -> None:
    trial = tiny_plan.trials[0]
    progress = Progress(tiny_plan, [trial], tmp_path, Console(file=io.StringIO()))
    recorder = Recorder(Place(tmp_path), progress, Trackers({}, print), tmp_path / "cache")
    for seconds in (0.1, 10.0):
        recorder.begin(trial)
        recorder.finish(trial, report(seconds))
    [line] = throughput.load(tmp_path / "cache")
    assert (line.by, line.device_name, line.replicas, line.stack_size) == ("trial", "a processor", 4, 2)
    assert line.shape["num_layers"] == trial.config.num_layers
    # Stacks of 10 s and 20 s trained 1,000 tokens of each of four replicas.
    assert line.seconds_per_token == pytest.approx(30 / 4000)
    assert line.other_seconds == pytest.approx(1.5)
    assert line.evaluated_tokens == 4 * (32 + 256)  # an eighth, and the whole


def test_what_was_measured_is_not_measured_again(tmp_path: Path, tiny_plan: Plan) -> None:
    work = [(trial.config, trial.replicas) for trial in tiny_plan.trials]
    for config, replicas in work:
        facts = {"device_name": "a processor", "precision": "fp32", "stack_size": 1, "seconds_per_token": 1e-5}
        throughput.append(tmp_path, throughput.measured(config, "measurement", replicas=len(replicas), **facts))
    said: list[str] = []
    measure(work, "a processor", "another", tmp_path, 1, said.append)
    assert said == []
    assert len(throughput.load(tmp_path)) == len(work)


@pytest.mark.slow
def test_a_measurement_on_another_device_than_the_plans_is_refused(tmp_path: Path, tiny_plan: Plan) -> None:
    trial = tiny_plan.trials[0]
    with pytest.raises(MachineError, match="the plan is for a device of legend"):
        measure([(trial.config, trial.replicas)], *["a device of legend"] * 2, tmp_path, 1, lambda line: None)
    assert throughput.load(tmp_path) == []


def test_what_a_cluster_trains_on_is_not_measured_on_another_device(tmp_path: Path, tiny_plan: Plan) -> None:
    work = [(trial.config, trial.replicas) for trial in tiny_plan.trials]
    with pytest.raises(MachineError, match="2 shapes must be measured on theirs for this plan, and this machine trains on ours"):
        measure(work, "theirs", "ours", tmp_path, 1, lambda line: None)
