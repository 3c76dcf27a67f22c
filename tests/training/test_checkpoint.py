"""A killed run goes on and ends with the bits of one that was never killed; a damaged checkpoint is noticed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from archsweep.config import CURVE_PARTS, ExperimentConfig, Replica
from archsweep.records.schema import CHECKPOINT_FOLDER
from archsweep.training.best import saved_best, write_best
from archsweep.training.checkpoint import KEPT, Checkpoints
from archsweep.training.experiment import ArchitectureExperiment

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Train

REPLICAS = (
    Replica(seed=0, learning_rate=3e-3, weight_decay=0.1),
    Replica(seed=1, learning_rate=1e-3, weight_decay=0.0),
    Replica(seed=1, learning_rate=1e4, weight_decay=0.0),  # diverges
)
MEASURED_ANEW = ("train_seconds", "step_seconds", "tokens_per_second", "peak_memory_bytes")


def stable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a resumed run must repeat: everything but the clock and the process's memory."""
    return [{name: value for name, value in row.items() if name not in MEASURED_ANEW} for row in rows]


# Files.


def saved(folder: Path, count: int) -> Checkpoints:
    checkpoints = Checkpoints(folder, "this run")
    for number in range(1, count + 1):
        checkpoints.save({"weights": torch.full((4, 5), float(number))}, {"step": number})
    return checkpoints


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    tensors, facts = saved(tmp_path, 1).load(pytest.fail) or pytest.fail("nothing was saved")
    torch.testing.assert_close(tensors, {"weights": torch.ones(4, 5)}, rtol=0, atol=0)
    assert facts == {"step": 1}


def test_only_the_newest_are_kept_and_nothing_beside_them(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{number:06}.{kind}" for number in range(6 - KEPT, 6) for kind in ("json", "safetensors")
    )


def test_where_nothing_was_saved_there_is_nothing_to_load(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none", "this run").load(pytest.fail) is None


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_of_a_damaged_checkpoint_the_one_before_is_used_with_a_warning(tmp_path: Path, kind: str, damage: Callable[[Path], object]) -> None:
    checkpoints = saved(tmp_path, 3)
    damage(tmp_path / f"000003.{kind}")
    warnings: list[str] = []
    _, facts = checkpoints.load(warnings.append) or pytest.fail("the one before is whole")
    assert facts == {"step": 2}
    if (kind, damage) != ("json", Path.unlink):  # which is a checkpoint that was never completed
        assert len(warnings) == 1
        assert "000003.json is damaged and is left out" in warnings[0]


def test_a_checkpoint_of_another_run_is_not_taken(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    warnings: list[str] = []
    assert Checkpoints(tmp_path, "another run").load(warnings.append) is None
    assert "belongs to another run" in warnings[0]


# Runs.


def test_what_another_version_has_kept_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archsweep.training.checkpoint.FORMAT", 1)
    Checkpoints(tmp_path, "this run").save({}, {"step": 1})
    monkeypatch.undo()
    warnings: list[str] = []
    assert Checkpoints(tmp_path, "this run").load(warnings.append) is None
    assert "other config, replicas, corpus or version" in warnings[0]


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.1}, {"gradient_accumulation_steps": 2, "batch_size": 4}, {"precision": "bf16"}])
def test_a_run_that_is_stopped_anywhere_ends_with_the_same_bits(
    small: ExperimentConfig, train: Train, corpora: Path, tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at every third step's end, and begun again each time by a new experiment."""
    config = small.copy(max_tokens=12 * 128, **changes)
    whole = train(config, REPLICAS, stack_size=2)
    monkeypatch.setattr("archsweep.training.experiment.HEARTBEAT_SECONDS", 0.0)  # a beat is a step
    monkeypatch.setattr("archsweep.training.replicas.RECORDED_STEPS", 1)
    starts, rows, ended = [], [], False
    while not ended:
        experiment = ArchitectureExperiment(config, REPLICAS, cache_dir=corpora, checkpoint_dir=tmp_path, stack_size=2)
        experiment.setup()
        starts.append(experiment.steps_done)
        training, rows = experiment.training(), []
        for beat in range(9):
            found = next(training, "end")
            if ended := found == "end":
                break
            rows += [found] if found else []
            assert beat < 9
        training.close()
    assert starts == sorted(set(starts))
    assert len(starts) > 3
    assert [stable(each) for each in rows] == [stable(each) for each in whole.evaluations]
    for index in range(3):
        theirs = dict(whole.experiment.model(index).named_parameters())
        assert all(torch.equal(parameter, theirs[name]) for name, parameter in experiment.model(index).named_parameters())


def test_a_checkpoint_holds_the_best_model_so_far_beside_the_last(small: ExperimentConfig, corpora: Path, tmp_path: Path) -> None:
    """A rate that warms up until nothing is learned any more: the best evaluation is not the last one before the stop."""
    config = small.copy(num_evaluations=6, warmup=20)
    replicas = [Replica(seed=seed, learning_rate=rate, weight_decay=0.0) for seed in (0, 1) for rate in (0.5, 2.0)]
    experiment = ArchitectureExperiment(config, replicas, cache_dir=corpora, checkpoint_dir=tmp_path / "kept", stack_size=2)
    experiment.setup()
    training = experiment.training()
    evaluations: list[list[dict[str, Any]]] = []
    while len(evaluations) < 4:
        evaluations += filter(None, [next(training)])
    training.close()

    def setting_mean(rows: list[dict[str, Any]], rate: float) -> float:
        return fmean(row["val_loss"] for row in rows if row["learning_rate"] == rate)

    best_of_each = []
    for rows in evaluations:
        ahead = min((0.5, 2.0), key=lambda rate: setting_mean(rows, rate))
        best_of_each.append(min(row["val_loss"] for row in rows if row["learning_rate"] == ahead))
    at = best_of_each.index(min(best_of_each))
    assert at < 3

    best = saved_best(tmp_path / "kept", pytest.fail) or pytest.fail("nothing was saved")
    assert (best.row["step"], best.row["val_loss"]) == (evaluations[at][0]["step"], best_of_each[at])
    write_best(best, config, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert AutoTokenizer.from_pretrained(tmp_path / "model").model_max_length == config.context_length
    windows = torch.from_numpy(experiment.data.evaluation_windows())[::CURVE_PARTS]
    with torch.no_grad():
        logits = model(windows[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    assert loss.item() == pytest.approx(best_of_each[at], rel=1e-5)


def test_the_best_model_so_far_outlives_a_stop_after_it(small: ExperimentConfig, corpora: Path, tmp_path: Path) -> None:
    config = small.copy(num_evaluations=6, warmup=20, learning_rate=2.0)
    written = []
    for evaluations in (1, 3, 5):
        experiment = ArchitectureExperiment(config, [config.replica], cache_dir=corpora, checkpoint_dir=tmp_path / "kept")
        experiment.setup()
        training = experiment.training()
        losses: dict[float, int] = {}
        while len(losses) < evaluations:  # those of before the stop come again
            losses |= {row["val_loss"]: row["step"] for row in next(training) or ()}
        training.close()
        best = saved_best(tmp_path / "kept", pytest.fail) or pytest.fail("nothing was saved")
        written.append(best.row["step"])
        assert written[-1] == losses[min(losses)]
    assert written == [4, 8, 8]


def test_before_the_first_evaluation_there_is_no_best_model(small: ExperimentConfig, corpora: Path, tmp_path: Path) -> None:
    experiment = ArchitectureExperiment(small, [small.replica], cache_dir=corpora, checkpoint_dir=tmp_path / "kept")
    experiment.setup()
    training = experiment.training()
    assert next(training) is None
    training.close()
    assert list((tmp_path / "kept").glob("*.safetensors"))
    assert saved_best(tmp_path / "kept", pytest.fail) is None


SWEEP = """\
import sys
from pathlib import Path
from rich.console import Console
from archsweep import pipeline
from archsweep.planning.plan import Plan
from archsweep.running import worker
from archsweep.training import experiment

experiment.HEARTBEAT_SECONDS = worker.HEARTBEAT_SECONDS = 0.0
plan, folder, cache = sys.argv[1:]
console = Console(file=sys.stdout, width=300)
pipeline.run(Plan.load(plan), Path(folder), pipeline.Machine(serial=True, cache_dir=Path(cache), checkpoint_seconds=0.0), console)
"""
PLAN = """\
import sys
from pathlib import Path
from archsweep.config import ExperimentConfig
from archsweep.planning.plan import make_plan
from archsweep.space import Choice, Space

config = ExperimentConfig.load(sys.argv[1])
space = Space(base=config, compare={"num_layers": Choice(1, 2)}, tune={"learning_rate": Choice(1e-3, 3e-3)}, repeat=2)
make_plan("killed", "Does it go on?", space, "corpus").save(sys.argv[2])
"""


def records(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Every trial's rows, as they lie in its records."""
    return {
        path.parent.name: [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(folder.glob("trials/*/records.jsonl"))
    }


def weights(folder: Path) -> dict[str, bytes]:
    return {path.parent.parent.name: path.read_bytes() for path in sorted(folder.glob("trials/*/model/model.safetensors"))}


@pytest.fixture(scope="module")
def sweep(small: ExperimentConfig, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, float | None], bool]:
    """Runs a sweep of two trials in a process of its own, killed so many seconds after a trial began; whether it came to its end."""
    home = tmp_path_factory.mktemp("sweep")
    config = small.copy(max_tokens=60 * 128).save(home / "config.json")
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[2]}", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", PLAN, config, home / "plan.json"], check=True, env=environment)

    def run(folder: Path, seconds: float | None) -> bool:
        command = [sys.executable, "-c", SWEEP, home / "plan.json", folder, home / "cache"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        assert process.stdout is not None
        next((line for line in process.stdout if b"replicas began" in line), None)
        try:
            return process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return False
        finally:
            process.stdout.close()

    return run


@pytest.fixture(scope="module")
def whole(sweep: Callable[[Path, float | None], bool], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep that nobody killed."""
    folder = tmp_path_factory.mktemp("whole") / "killed"
    assert sweep(folder, None)
    assert len(weights(folder)) == 2
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(
    max_examples=2, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(kills=st.lists(st.floats(0, 3), min_size=1, max_size=3))
def test_a_sweep_that_is_killed_anywhere_ends_with_the_records_and_weights_of_one_that_is_not(
    sweep: Callable[[Path, float | None], bool], whole: Path, tmp_path_factory: pytest.TempPathFactory, kills: list[float]
) -> None:
    killed = tmp_path_factory.mktemp("pieces") / "killed"
    ends = [sweep(killed, seconds) for seconds in kills]
    event("killed before its end" if not all(ends) else "came to its end before every kill")
    assert sweep(killed, None)
    assert {trial: stable(rows) for trial, rows in records(killed).items()} == {
        trial: stable(rows) for trial, rows in records(whole).items()
    }
    assert weights(killed) == weights(whole)
    assert not list(killed.glob(f"trials/*/{CHECKPOINT_FOLDER}"))
