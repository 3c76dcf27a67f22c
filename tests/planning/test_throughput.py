"""The throughput cache: whole lines whoever writes, and predictions that follow what was measured."""

from __future__ import annotations

from math import exp, log
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np
import pytest

from archsweep.config import ExperimentConfig
from archsweep.planning import throughput
from archsweep.planning.cost import work_per_token

if TYPE_CHECKING:
    from pathlib import Path

BASE = ExperimentConfig(num_layers=2, num_heads=4, head_dim=16, context_length=64)


def line(config: ExperimentConfig = BASE, seconds: float = 1e-5, by: str = "trial", **facts: object) -> throughput.Measured:
    known = {"device_name": "a processor", "precision": "fp32", "replicas": 3, "stack_size": 3, "seconds_per_token": seconds}
    return throughput.measured(config, by, **(known | facts))  # type: ignore[arg-type]


def write_many(folder: Path, count: int) -> None:
    for index in range(count):
        throughput.append(folder, line(seconds=1e-5 * (index + 1)))


def test_lines_that_processes_write_at_once_are_all_whole(tmp_path: Path) -> None:
    processes = [get_context("spawn").Process(target=write_many, args=(tmp_path, 100)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(each.seconds_per_token for each in throughput.load(tmp_path)) == pytest.approx(
        [1e-5 * (index + 1) for index in range(100) for _ in range(2)]
    )


def test_a_torn_line_and_another_trainers_line_are_left_out(tmp_path: Path) -> None:
    throughput.append(tmp_path, line(trainer_version=1))
    with open(tmp_path / throughput.THROUGHPUT_FILE, "a") as file:
        file.write('{"by": "trial", "device')
    throughput.append(tmp_path, line(seconds=2e-5))
    assert [each.seconds_per_token for each in throughput.load(tmp_path)] == [2e-5]
    assert throughput.load(tmp_path / "nowhere") == []


def test_a_shape_that_was_measured_counts_alone_and_its_rate_does_not_depend_on_how_it_is_taught() -> None:
    known = [line(seconds=seconds) for seconds in (1e-5, 3e-5, 2e-5)] + [line(BASE.copy(num_layers=4), seconds=9e-5)]
    found = throughput.Rates(known).of(BASE.copy(learning_rate=0.5, max_tokens=10**6, experiment_name="other"))
    assert found is not None
    assert found.exact
    assert found.seconds_per_token == pytest.approx(2e-5)
    assert found.spread == pytest.approx(np.std(np.log([1e-5, 3e-5, 2e-5]), ddof=1))


def test_other_shapes_follow_the_power_of_work_that_was_measured() -> None:
    configs = [BASE.copy(num_layers=layers) for layers in (1, 2, 4, 8)]
    known = [line(config, seconds=1e-9 * work_per_token(config) ** 0.7) for config in configs]
    wanted = BASE.copy(num_layers=3)
    found = throughput.Rates(known).of(wanted)
    assert found is not None
    assert not found.exact
    assert found.seconds_per_token == pytest.approx(1e-9 * work_per_token(wanted) ** 0.7)
    assert found.spread == throughput.LEAST_SPREAD
    far = throughput.Rates(known).of(BASE.copy(num_layers=80))
    assert far is not None
    assert far.spread > found.spread, "beyond what was measured less is known"


def test_the_slope_and_the_spread_are_those_of_least_squares() -> None:
    configs = [BASE.copy(num_layers=layers) for layers in (1, 2, 3, 5, 8)]
    noise = [0.1, -0.2, 0.05, 0.15, -0.1]
    known = [line(config, seconds=exp(0.8 * log(work_per_token(config)) - 20 + off)) for config, off in zip(configs, noise, strict=True)]
    wanted = BASE.copy(num_layers=4)
    found = throughput.Rates(known).of(wanted)
    xs, ys = ([log(value(each)) for each in known] for value in (lambda each: each.work_per_token, lambda each: each.seconds_per_token))
    slope = np.polyfit(xs, ys, 1)[0]
    rest = np.array(ys) - slope * np.array(xs)
    assert found is not None
    assert log(found.seconds_per_token) == pytest.approx(slope * log(work_per_token(wanted)) + np.median(rest))
    assert found.spread == pytest.approx(rest.std(ddof=1))


def test_one_measurement_scales_with_work_and_says_how_little_that_is() -> None:
    found = throughput.Rates([line(seconds=1e-5)]).of(BASE.copy(num_layers=4))
    assert found is not None
    assert found.seconds_per_token == pytest.approx(1e-5 * work_per_token(BASE.copy(num_layers=4)) / work_per_token(BASE))
    assert found.spread > throughput.OTHER_SHAPE
    assert throughput.Rates([]).of(BASE) is None
    assert throughput.Rates([line()]).of(BASE.copy(precision="bf16")) is None, "another precision says nothing"


def test_a_plan_rests_on_the_first_measurement_whatever_comes_after_it() -> None:
    known = [line(seconds=9e-5), line(seconds=1e-5, by="measurement"), line(seconds=2e-5, by="measurement")]
    assert throughput.first_measurements("a processor", known) == {throughput.shape_key(BASE): 1e-5}
    assert throughput.first_measurements("another", known) == {}
    assert throughput.shape_key(BASE.copy(num_layers=3)) != throughput.shape_key(BASE)


def test_set_up_is_what_training_and_evaluation_leave() -> None:
    # 3,000 evaluated tokens at a third of 1 ms are 1 s of the 5.
    assert throughput.set_up_seconds([line(seconds=1e-3, evaluated_tokens=3000, other_seconds=5.0)]) == pytest.approx(4.0)
    assert throughput.set_up_seconds([line()]) == 0
