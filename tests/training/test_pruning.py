"""prune_tune: which settings are given up, by hand; the others keep their bits, and a run that was stopped goes on without them."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from archsweep.config import Replica
from archsweep.training.experiment import ArchitectureExperiment, StackInTraining
from archsweep.training.pruning import hopeless

if TYPE_CHECKING:
    from pathlib import Path

    from archsweep.config import ExperimentConfig
    from tests.training.conftest import Train

REPLICAS = [Replica(seed=seed, learning_rate=rate, weight_decay=0.1) for rate in (1e-2, 1e-6, 9e-3) for seed in (0, 1)]
TIMES = ("train_seconds", "step_seconds", "tokens_per_second", "peak_memory_bytes", "stack_size", "model_flops_utilisation")


def rows(**losses: tuple[float | None, ...]) -> list[dict[str, Any]]:
    """An evaluation of settings r1, r2 ... by the losses of their seeds."""
    return [
        {"learning_rate": float(name.removeprefix("r")), "weight_decay": 0.1, "val_loss": loss}
        for name, seeds in losses.items()
        for loss in seeds
    ]


@pytest.mark.parametrize(
    ("losses", "given_up"),
    [
        ({"r1": (4.0, 4.05), "r2": (4.16, 4.5)}, [2.0]),  # 4.16 - 4.05 is more than .1
        ({"r1": (4.0, 4.05), "r2": (4.14, 4.5)}, []),  # 4.14 - 4.05 is less
        ({"r1": (4.0, 4.3), "r2": (4.55, 4.7)}, []),  # the best one's seeds are .3 apart, and .25 is less
        ({"r1": (4.0, 4.3), "r2": (4.65, 4.7), "r3": (9.0, 9.0)}, [2.0, 3.0]),
        ({"r1": (4.0, 4.0), "r2": (3.0, None)}, [2.0]),  # a setting counts only with all its seeds
        ({"r1": (4.0, None), "r2": (9.0, None)}, []),  # none has all of them, so none is the best
    ],
)
def test_a_setting_is_given_up_where_its_best_seed_is_far_behind_the_worst_of_the_best(losses: Any, given_up: list[float]) -> None:
    assert [setting.learning_rate for setting in hopeless(rows(**losses))] == given_up


def alike(evaluation: list[dict[str, Any]], rate: float) -> list[dict[str, Any]]:
    """The rows of one rate without what a clock says."""
    return [{name: value for name, value in row.items() if name not in TIMES} for row in evaluation if row["learning_rate"] == rate]


@pytest.fixture(scope="module")
def config(small: ExperimentConfig) -> ExperimentConfig:
    return small.copy(max_tokens=48 * 128)


@pytest.mark.parametrize("stack_size", [6, 3, 1])
def test_the_hopeless_setting_ends_half_way_and_the_others_keep_their_bits(config: ExperimentConfig, train: Train, stack_size: int) -> None:
    whole = train(config, REPLICAS, stack_size=stack_size).evaluations
    pruned = train(config, REPLICAS, stack_size=stack_size, prune_tune=True).evaluations
    for with_all, with_fewer in zip(whole, pruned, strict=True):
        for rate in (1e-2, 9e-3):
            assert alike(with_fewer, rate) == alike(with_all, rate)
    ended = [row for evaluation in pruned for row in evaluation if row["status"] == "pruned"]
    assert {(row["step"], row["seed"]) for row in ended} == {(24, 0), (24, 1)}
    assert all(row["reason"].startswith("given up at step 24 of 48: its best seed, ") for row in ended)
    assert {row["learning_rate"] for row in ended} == {1e-6}
    assert [len(evaluation) for evaluation in pruned] == [6, 6, 4, 4]


def test_what_a_model_took_is_its_part_of_the_time_among_as_many_as_trained(
    config: ExperimentConfig, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[float] = []
    steps = StackInTraining.train

    def noted(running: StackInTraining, first: int, last: int) -> None:
        before = running.seconds
        steps(running, first, last)
        parts.append((running.seconds - before) / len(running.stack))

    monkeypatch.setattr(StackInTraining, "train", noted)
    *_, last = train(config, REPLICAS, stack_size=6, prune_tune=True).evaluations
    assert {row["stack_size"] for row in last} == {4}
    for row in last:
        assert row["tokens"] / row["tokens_per_second"] == pytest.approx(sum(parts))


def test_nothing_is_given_up_that_would_leave_a_replica_alone_or_draw_other_dropout_masks(config: ExperimentConfig, train: Train) -> None:
    lonely = train(config, REPLICAS[:4][1:], stack_size=3, prune_tune=True)
    assert {row["status"] for row in lonely.evaluations[-1]} == {"finished"}
    drawing = train(config.copy(dropout=0.1), REPLICAS, stack_size=6, prune_tune=True)
    assert len(drawing.evaluations[-1]) == 6


def test_a_run_that_was_stopped_after_a_setting_was_given_up_goes_on_without_it(
    config: ExperimentConfig, train: Train, corpora: Path, tmp_path: Path
) -> None:
    expected = train(config, REPLICAS, stack_size=6, prune_tune=True).evaluations

    def experiment() -> ArchitectureExperiment:
        made = ArchitectureExperiment(config, REPLICAS, cache_dir=corpora, checkpoint_dir=tmp_path, stack_size=6, prune_tune=True)
        made.setup()
        return made

    with closing(experiment().training()) as training:
        evaluations = (rows for rows in training if rows is not None)
        assert [len(next(evaluations)) for _ in range(3)] == [6, 6, 4]
    resumed = experiment()
    assert resumed.resumed_at == 36
    assert len(resumed.replicas) == 4
    for one, other in zip(resumed.evaluations(), expected, strict=True):
        for rate in (1e-2, 1e-6, 9e-3):
            assert alike(one, rate) == alike(other, rate)
    best = min(range(len(resumed.replicas)), key=lambda index: expected[-1][index]["val_loss"])
    assert resumed.model(best).config == config
