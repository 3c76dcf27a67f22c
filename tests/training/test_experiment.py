"""A config is trained to the end that it states, and every evaluation says what the records want to know."""

from __future__ import annotations

import gc
import json
import math
import os
import re
import subprocess
import sys
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tokenizers import Tokenizer
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2LMHeadModel

import archsweep
from archsweep.config import ExperimentConfig, Replica
from archsweep.errors import DataError
from archsweep.records import schema
from archsweep.training.experiment import ArchitectureExperiment
from archsweep.training.replicas import ReplicaStack

if TYPE_CHECKING:
    from .conftest import Run, Train

REPLICAS = (
    Replica(seed=0, learning_rate=3e-3, weight_decay=0.1),
    Replica(seed=1, learning_rate=1e-3, weight_decay=0.0),
    Replica(seed=1, learning_rate=3e-3, weight_decay=0.0),
)
ABSURD = Replica(seed=2, learning_rate=1e4, weight_decay=0.1)


@pytest.fixture(scope="module")
def run(small: ExperimentConfig, train: Train) -> Run:
    """Three replicas in stacks of two and one."""
    return train(small, REPLICAS, stack_size=2)


# Rows.


def test_a_row_has_the_columns_of_the_records(run: Run) -> None:
    columns = {column.name for column in (*schema.REPLICA, *schema.MEASURED)} | {"status", "reason"}
    columns -= {"predicted_memory_bytes"}  # the worker's, which knows the plan
    assert all(set(row) == columns for rows in run.evaluations for row in rows)


def test_each_evaluation_has_a_row_for_each_replica_in_order(run: Run) -> None:
    for rows in run.evaluations:
        assert [(row["seed"], row["learning_rate"], row["weight_decay"]) for row in rows] == [
            (0, 3e-3, 0.1),
            (1, 1e-3, 0.0),
            (1, 3e-3, 0.0),
        ]
        assert [row["stack_size"] for row in rows] == [2, 2, 1]


def test_a_row_survives_json_unchanged(run: Run) -> None:
    assert json.loads(json.dumps(run.evaluations, allow_nan=False)) == run.evaluations


def test_the_last_row_alone_is_finished(run: Run) -> None:
    for replica in range(3):
        assert run.column("status", replica) == ["running", "running", "running", "finished"]
        assert run.column("reason", replica) == [None] * 4


def test_training_lowers_the_loss_of_every_replica(run: Run) -> None:
    for replica in range(3):
        for name in ("train_loss", "val_loss", "perplexity", "bits_per_byte"):
            losses = run.column(name, replica)
            assert losses == sorted(losses, reverse=True)


def test_units_of_a_loss_agree_with_the_corpus(run: Run) -> None:
    facts = json.loads((run.experiment.data.corpus.folder / "corpus.json").read_text())["validation"]
    for row in run.evaluations[-1]:
        assert row["perplexity"] == pytest.approx(math.e ** row["val_loss"])
        assert row["bits_per_byte"] == pytest.approx(row["val_loss"] * math.log2(math.e) * facts["tokens"] / facts["bytes"])


def test_time_and_memory_are_measured(run: Run) -> None:
    for replica, stack in enumerate((2, 2, 1)):
        seconds = run.column("train_seconds", replica)
        assert 0 < seconds[0] < seconds[1] < seconds[2] < seconds[3]
        speeds = [stack * tokens / time for tokens, time in zip(run.column("tokens", replica), seconds, strict=True)]
        assert run.column("tokens_per_second", replica) == pytest.approx(speeds)
        assert min(run.column("peak_memory_bytes", replica)) > 2**20
    assert run.column("train_seconds", 0) == run.column("train_seconds", 1)  # one stack


def test_an_experiment_reports_as_it_goes_and_returns_its_last_rows(small: ExperimentConfig, corpora: Path) -> None:
    reports: list[list[dict[str, Any]]] = []
    last = ArchitectureExperiment(small, REPLICAS[:1], cache_dir=corpora).run(reports.append)
    assert [rows[0]["step"] for rows in reports] == [6, 12, 18, 24]
    assert last == reports[-1]


# How long, and when.


@pytest.mark.parametrize(
    ("evaluations", "tokens", "steps"),
    [
        (4, 8 * 128, [2, 4, 6, 8]),
        (1, 8 * 128, [8]),
        (3, 8 * 128, [2, 5, 8]),
        (10, 3 * 128, [1, 2, 3]),  # no more evaluations than steps
        (2, 5 * 128 - 1, [2, 4]),  # whole steps only
    ],
)
def test_evaluations_are_evenly_spaced_and_end_at_the_last_step(
    small: ExperimentConfig, train: Train, evaluations: int, tokens: int, steps: list[int]
) -> None:
    run = train(small.copy(num_evaluations=evaluations, max_tokens=tokens))
    assert run.column("step") == steps
    assert run.column("tokens") == [step * 128 for step in steps]
    assert run.column("status")[-1] == "finished"


def test_tokens_count_every_micro_batch(small: ExperimentConfig, train: Train) -> None:
    run = train(small.copy(batch_size=4, gradient_accumulation_steps=3, max_tokens=2 * 192))
    assert run.column("tokens") == [192, 384]


@pytest.mark.parametrize(("epochs", "accumulation"), [(1, 1), (3, 2)])
def test_without_a_token_budget_training_is_passes_over_the_text(
    small: ExperimentConfig, train: Train, epochs: int, accumulation: int
) -> None:
    config = small.copy(max_tokens=None, num_epochs=epochs, batch_size=32, gradient_accumulation_steps=accumulation, num_evaluations=1)
    run = train(config)
    windows = (run.experiment.data.corpus.train_tokens - 1) // 16
    assert run.column("step") == [epochs * (windows // 32) // accumulation]


def test_a_text_shorter_than_a_step_is_refused_with_the_way_out(small: ExperimentConfig, corpora: Path) -> None:
    experiment = ArchitectureExperiment(small.copy(max_tokens=None, batch_size=100_000), cache_dir=corpora)
    with pytest.raises(DataError, match=r"1 passes over \d+ training tokens make no step of 1600000 tokens.*smaller batch_size"):
        experiment.setup()


# What must not matter.


def test_before_training_the_loss_is_that_of_guessing(small: ExperimentConfig, corpora: Path) -> None:
    experiment = ArchitectureExperiment(small, REPLICAS, cache_dir=corpora)
    experiment.setup()
    metrics = experiment.evaluate()
    assert metrics["loss"] == pytest.approx(math.log(300), rel=0.01)
    assert metrics["perplexity"] == pytest.approx(300, rel=0.05)


def test_the_same_config_trains_to_the_same_bits(small: ExperimentConfig, train: Train) -> None:
    config = small.copy(dropout=0.1, max_tokens=10 * 128)
    first, again = (train(config, REPLICAS) for _ in range(2))
    for replica in range(3):
        assert first.column("val_loss", replica) == again.column("val_loss", replica)


def test_accumulated_batches_are_one_large_batch(small: ExperimentConfig, train: Train) -> None:
    whole, halves = train(small, REPLICAS), train(small.copy(batch_size=4, gradient_accumulation_steps=2), REPLICAS)
    for replica in range(3):
        for name in ("train_loss", "val_loss"):
            assert halves.column(name, replica) == pytest.approx(whole.column(name, replica), rel=1e-5)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_micro_batch_of_any_size_leaves_the_same_curve(small: ExperimentConfig, train: Train, size: int) -> None:
    whole, parts = train(small, REPLICAS), train(small.copy(micro_batch_size=size), REPLICAS)
    for replica in range(3):
        for name in ("train_loss", "val_loss"):
            assert parts.column(name, replica) == pytest.approx(whole.column(name, replica), rel=1e-5)


def test_where_memory_runs_out_the_micro_batch_gets_smaller_and_the_curve_stays(
    small: ExperimentConfig, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that holds three windows of a replica at once, found in the middle of a step."""
    whole, compute = train(small, REPLICAS), ReplicaStack.compute_gradients

    def cramped(stack: ReplicaStack, windows: torch.Tensor, *more: Any, **options: Any) -> torch.Tensor:
        losses = compute(stack, windows, *more, **options)  # gradients are there already when it fails
        if windows.shape[1] > 3:
            raise torch.OutOfMemoryError("injected")
        return losses

    monkeypatch.setattr(ReplicaStack, "compute_gradients", cramped)
    run = train(small, REPLICAS)
    assert run.column("micro_batch") == [2] * 4  # 8, 4, 2
    for replica in range(3):
        assert run.column("train_loss", replica) == pytest.approx(whole.column("train_loss", replica), rel=1e-5)
    with pytest.raises(torch.OutOfMemoryError):
        train(small.copy(micro_batch_size=4), REPLICAS)


@pytest.mark.parametrize(("family", "runs_out", "expected"), [("gpt2", False, [512]), ("gpt2", True, [512, 8]), ("own", False, [8])])
def test_a_gpu_evaluates_more_windows_at_once_while_there_is_memory(
    small: ExperimentConfig, corpora: Path, monkeypatch: pytest.MonkeyPatch, family: str, runs_out: bool, expected: list[int]
) -> None:
    """Of the GPU only its name is there: 2^21 elements are 512 windows of 16 tokens and 256 numbers each."""
    config = small.copy(hidden_size=256, batch_size=8, max_tokens=8 * 16, allow_tf32=False)
    experiment = ArchitectureExperiment(config, REPLICAS[:1], cache_dir=corpora)
    experiment.setup()
    (running,) = experiment.stacks
    found: list[int] = []

    def evaluate(windows: torch.Tensor, batch_size: int) -> torch.Tensor:
        found.append(batch_size)
        if runs_out and batch_size > 8:
            raise torch.OutOfMemoryError("injected")
        return windows

    monkeypatch.setattr(running.stack, "evaluate", evaluate)
    monkeypatch.setattr(running.stack, "device", torch.device("cuda"))
    if family == "own":
        running.config = config.model_copy(update={"family": "module:build"})
    running.evaluate(experiment._windows)
    assert found == expected
    found.clear()
    monkeypatch.setattr(running.stack, "device", torch.device("cpu"))
    running.evaluate(experiment._windows)
    assert found == [8]


class Held:
    """Something large, in a cycle with itself, as what a recording leaves."""

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.parametrize("where", ["compute_gradients", "_evaluate"])
def test_nothing_of_what_ran_out_of_memory_is_alive_at_the_next_try(
    small: ExperimentConfig, train: Train, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    whole, compute = train(small, REPLICAS), getattr(ReplicaStack, where)
    held: list[weakref.ref[Held]] = []
    alive: list[bool] = []

    def cramped(stack: ReplicaStack, windows: torch.Tensor, *more: Any, **options: Any) -> torch.Tensor:
        alive.append(any(reference() is not None for reference in held))
        activations = Held()
        if windows.shape[1] > 3:
            held.append(weakref.ref(activations))
            raise torch.OutOfMemoryError("injected")
        return compute(stack, windows, *more, **options)

    monkeypatch.setattr(ReplicaStack, where, cramped)
    run = train(small, REPLICAS, stack_size=3)
    assert len(held) == 2  # 8, 4
    assert not any(alive)
    assert run.column("micro_batch") == [2] * 4
    for replica in range(3):
        assert run.column("val_loss", replica) == pytest.approx(whole.column("val_loss", replica), rel=1e-5)
    with pytest.raises(torch.OutOfMemoryError):
        train(small, REPLICAS, shrinks=False)


def test_training_never_waits_for_a_number_within_a_step(small: ExperimentConfig, corpora: Path) -> None:
    """`.item()`, `.tolist()` and `if tensor` all read a scalar from the device."""

    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            self.count += function is torch.ops.aten._local_scalar_dense.default
            return function(*args, **(kwargs or {}))

    experiment = ArchitectureExperiment(small.copy(precision="fp16"), REPLICAS, cache_dir=corpora)
    experiment.setup()
    with Reads() as reads:
        experiment.stacks[0].train(0, 3)
        assert reads.count == 0
        experiment.evaluation_losses().mean().item()
    assert reads.count == 1  # which is how it would have been noticed


def test_products_round_as_the_config_has_it_whoever_trains_the_stack(
    small: ExperimentConfig, corpora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("archsweep.training.precision.uses_tf32", lambda config, device: config.allow_tf32)
    forward, before = ReplicaStack._forward, torch.get_float32_matmul_precision()
    seen: list[str] = []
    monkeypatch.setattr(ReplicaStack, "_forward", lambda *given: seen.append(torch.get_float32_matmul_precision()) or forward(*given))
    for allowed, expected in ((True, "high"), (False, "highest")):
        experiment = ArchitectureExperiment(small.copy(allow_tf32=allowed), REPLICAS, cache_dir=corpora)
        experiment.setup()
        experiment.stacks[0].train(0, 2)  # as the measurement for a plan does
        experiment.evaluation_losses()
        assert set(seen) == {expected}
        seen.clear()
    assert torch.get_float32_matmul_precision() == before


def test_the_largest_seed_draws_dropout_too(small: ExperimentConfig, corpora: Path) -> None:
    config = small.copy(seed=2**31 - 1, dropout=0.1)
    experiment = ArchitectureExperiment(config, [config.replica], cache_dir=corpora)
    experiment.setup()
    experiment.stacks[0].train(0, 2)
    assert math.isfinite(experiment.evaluate()["loss"])


@pytest.mark.parametrize("recorded_steps", [1, 10**6])
def test_an_experiment_is_gone_when_the_next_one_of_its_process_begins(
    small: ExperimentConfig, corpora: Path, monkeypatch: pytest.MonkeyPatch, recorded_steps: int
) -> None:
    monkeypatch.setattr("archsweep.training.replicas.RECORDED_STEPS", recorded_steps)
    experiment = ArchitectureExperiment(small, REPLICAS, cache_dir=corpora)
    gc.collect()
    gc.disable()
    try:
        experiment.setup()
        experiment.stacks[0].train(0, 2)
        weights = weakref.ref(experiment.stacks[0].stack.weights)
        experiment = ArchitectureExperiment(small, REPLICAS, cache_dir=corpora)
        experiment.setup()
        assert weights() is None
    finally:
        gc.enable()


def test_the_losses_of_equal_parts_of_the_evaluation_are_kept(run: Run) -> None:
    for index, row in enumerate(run.evaluations[-1]):
        windows = run.experiment.evaluation_losses()[index]  # 32 of them: a part each
        assert row["val_block_losses"] == pytest.approx(windows.tolist())
        assert row["val_loss"] == pytest.approx(sum(row["val_block_losses"]) / 32)


def test_the_size_of_the_stacks_changes_rounding_alone(small: ExperimentConfig, train: Train, run: Run) -> None:
    whole = train(small, REPLICAS, stack_size=3)
    for replica in range(3):
        assert whole.column("val_loss", replica) == pytest.approx(run.column("val_loss", replica), rel=1e-5)


def test_evaluating_more_often_changes_no_bit(small: ExperimentConfig, train: Train, run: Run) -> None:
    often = train(small.copy(num_evaluations=24), REPLICAS, stack_size=2)
    for replica in range(3):
        assert often.column("val_loss", replica)[-1] == run.column("val_loss", replica)[-1]
        assert sum(often.column("train_loss", replica)[:6]) / 6 == pytest.approx(run.column("train_loss", replica)[0])


# Divergence.


def test_a_diverged_replica_is_a_row_with_its_reason_and_no_loss(small: ExperimentConfig, train: Train) -> None:
    run = train(small, (REPLICAS[0], ABSURD))
    assert run.column("status", 0)[-1] == "finished"
    row = run.evaluations[-1][1]
    assert row["status"] == "diverged"
    assert re.fullmatch(r"the (loss|gradient) was no longer( a)? finite( number)? at step [23]; the last one was \d.*", row["reason"])
    assert (row["step"], row["diverged_step"]) == (24, int(re.search(r"step (\d)", row["reason"])[1]))
    assert (row["val_loss"], row["perplexity"], row["bits_per_byte"]) == (None, None, None)
    json.dumps(run.evaluations, allow_nan=False)


def test_training_ends_where_every_replica_has_diverged(small: ExperimentConfig, train: Train) -> None:
    run = train(small.copy(num_evaluations=24), (ABSURD, ABSURD))
    for replica in range(2):
        assert run.column("status", replica)[-1] == "diverged"
        assert "diverged" not in run.column("status", replica)[:-1]
        assert run.column("diverged_step", replica)[-1] == run.column("step", replica)[-1] == len(run.evaluations)


def test_a_trial_that_is_lost_ends_at_the_step_that_lost_it_however_late_that_is_seen(small: ExperimentConfig, train: Train) -> None:
    seldom, often = (train(small.copy(num_evaluations=count), (ABSURD, ABSURD)) for count in (1, 24))
    assert seldom.column("step")[-1] == often.column("step")[-1] < 24
    assert seldom.column("last_loss")[-1] == often.column("last_loss")[-1]


# By hand, epoch after epoch.


def test_epochs_split_the_run_and_leave_the_model(small: ExperimentConfig, corpora: Path, tmp_path: Path, train: Train) -> None:
    config = small.copy(num_epochs=3, max_tokens=23 * 128)
    experiment = ArchitectureExperiment(config, cache_dir=corpora, output_dir=tmp_path)
    experiment.setup()
    tokens = []
    for epoch in range(3):
        assert not (tmp_path / "model").exists()
        metrics = experiment.train_epoch(epoch)
        tokens.append(metrics["tokens_per_second"] * metrics["train_seconds"])
    assert tokens == pytest.approx([7 * 128, 15 * 128, 23 * 128])
    whole = train(config)
    assert experiment.evaluate()["loss"] == whole.column("val_loss")[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_epoch_that_was_trained_is_not_trained_again(small: ExperimentConfig, corpora: Path, tmp_path: Path) -> None:
    experiment = ArchitectureExperiment(small.copy(num_epochs=2), cache_dir=corpora, output_dir=tmp_path)
    experiment.setup()
    losses = []
    for epoch in (0, 1, 0, 1):
        experiment.train_epoch(epoch)
        losses.append(experiment.evaluate()["loss"])
    assert losses[0] > losses[1]
    assert losses[1:] == [losses[1]] * 3


def test_what_an_epoch_measured_is_the_mean_over_its_steps(small: ExperimentConfig, corpora: Path, train: Train) -> None:
    experiment = ArchitectureExperiment(small.copy(num_epochs=2), REPLICAS, cache_dir=corpora, stack_size=2)
    experiment.setup()
    losses = [experiment.train_epoch(epoch)["loss"] for epoch in range(2)]
    run = train(small.copy(num_evaluations=2), REPLICAS, stack_size=2)
    expected = [sum(row["train_loss"] for row in rows) / 3 for rows in run.evaluations]
    assert losses == pytest.approx(expected)
    assert experiment.performance_stats["parameters"] == experiment.model().count_parameters()["total"]


# The model that stays.


def test_a_finished_experiment_leaves_a_model_that_transformers_opens(small: ExperimentConfig, corpora: Path, tmp_path: Path) -> None:
    experiment = ArchitectureExperiment(small, cache_dir=corpora, output_dir=tmp_path)
    rows = experiment.run()
    model = GPT2LMHeadModel.from_pretrained(tmp_path / "model")
    windows = torch.from_numpy(experiment.data.evaluation_windows())
    with torch.no_grad():
        logits = model(windows[:, :-1]).logits
    assert torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).item() == pytest.approx(
        rows[0]["val_loss"], rel=1e-5
    )
    tokenizer = Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode("bap beet").ids) == "bap beet"


def test_each_replica_can_be_had_as_a_model(run: Run) -> None:
    windows = torch.from_numpy(run.experiment.data.evaluation_windows())
    for replica in range(3):
        with torch.no_grad():
            logits = run.experiment.model(replica)(windows[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).item()
        assert loss == pytest.approx(run.column("val_loss", replica)[-1], rel=1e-5)
    with pytest.raises(IndexError, match="3 replicas"):
        run.experiment.model(3)


def test_replicas_leave_nothing_unless_a_folder_is_given(
    small: ExperimentConfig, corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = small.copy(max_tokens=128)
    ArchitectureExperiment(config, REPLICAS, cache_dir=corpora).run()
    assert not list(tmp_path.iterdir())
    ArchitectureExperiment(config, cache_dir=corpora).run()
    assert (tmp_path / "results" / "experiment" / "model" / "model.safetensors").is_file()


# The original example.

EXAMPLE = """\
from archsweep import ArchitectureExperiment, ExperimentConfig, ExperimentResults, MetricsTracker, compare_experiments

config = ExperimentConfig(experiment_name="test", num_heads=5, num_layers=6)
experiment = ArchitectureExperiment(config)
experiment.setup()
tracker = MetricsTracker()
for epoch in range(config.num_epochs):
    train_metrics = experiment.train_epoch(epoch)
    val_metrics = experiment.evaluate()
    tracker.add_metrics(train_metrics, val_metrics)
results = ExperimentResults(config=config, metrics=tracker.get_all_metrics(), performance_stats=experiment.performance_stats)
results.save()
compare_experiments([results])
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)  # two or three minutes on one core
def test_the_original_example_runs_as_written(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(archsweep.__file__).parents[1]), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    run = subprocess.run(
        [sys.executable, "-c", EXAMPLE], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1150, check=False
    )
    assert run.returncode == 0, run.stderr
    folder = tmp_path / "results" / "test"
    config = json.loads((folder / "config.json").read_text())
    assert (config["experiment_name"], config["num_heads"], config["num_layers"], config["hidden_size"]) == ("test", 5, 6, 320)
    results = json.loads((folder / "results.json").read_text())
    (epoch,) = results["metrics"]
    assert 2 < epoch["validation"]["loss"] < math.log(512) - 1  # it learned
    assert results["performance_stats"]["tokens_per_second"] > 0
    model = GPT2LMHeadModel.from_pretrained(folder / "model")
    assert (model.config.n_head, model.config.n_layer, model.config.n_embd) == (5, 6, 320)


@pytest.mark.parametrize(("given", "part"), [({}, 8), ({"earlier_parts": 4}, 4)])
def test_an_evaluation_before_the_last_reads_every_so_many_th_window(
    small: ExperimentConfig, corpora: Path, given: dict[str, int], part: int
) -> None:
    experiment = ArchitectureExperiment(small.copy(num_evaluations=2), REPLICAS[:1], cache_dir=corpora, **given)
    experiment.setup()
    evaluations = experiment.evaluations()
    for rows, step in zip(evaluations, (part, 1), strict=True):
        own = experiment.evaluation_losses()[0, ::step]  # of the same weights: the generator stands still
        assert rows[0]["val_loss"] == pytest.approx(float(own.mean()), rel=1e-6)
