"""The forecast: times, money and disk by hand, warnings where they are due, and a table that a terminal holds."""

from __future__ import annotations

import json
from io import StringIO
from math import exp
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from archsweep.config import ExperimentConfig
from archsweep.planning import throughput
from archsweep.planning.find import find
from archsweep.planning.forecast import SPREADS, Circumstances, Kind, forecast, is_large
from archsweep.planning.plan import Plan, make_plan
from archsweep.planning.table import as_json, duration, facts, spending, table
from archsweep.space import Budget, Choice, IntRange, Optuna, Space
from search_spaces.bases import GPT2

if TYPE_CHECKING:
    from collections.abc import Sequence

BASE = ExperimentConfig(num_layers=2, num_heads=4, head_dim=16, context_length=64, batch_size=16, max_tokens=102_400)


def plan(layers: tuple[int, ...] = (1, 2), **changes: Any) -> Plan:
    fields: dict[str, Any] = {"base": BASE, "compare": {"num_layers": Choice(*layers)}, "repeat": 2}
    return make_plan("sweep", "Why?", Space(**(fields | changes)), "corpus")


def where(known: Sequence[throughput.Measured] = (), slots: int = 2, **changes: Any) -> Circumstances:
    kinds = (Kind("a processor", slots, known if isinstance(known, tuple) else tuple(known)),)
    facts: dict[str, Any] = {"kinds": kinds, "devices": 2, "gpu_bytes": None, "corpus_tokens": None}
    return Circumstances(**(facts | changes))


def measured(plan: Plan, **seconds: float) -> list[throughput.Measured]:
    """A line for each trial, the seconds per token by its layers as l1, l2, …"""
    return [
        throughput.measured(
            trial.config, "trial", device_name="a processor", precision="fp32", replicas=2, stack_size=2,
            seconds_per_token=seconds[f"l{trial.config.num_layers}"],
        )
        for trial in plan.trials
    ]  # fmt: skip


def test_times_add_up_one_after_another_and_side_by_side() -> None:
    made = plan(layers=(1, 2, 4), repeat=1)
    told = forecast(made, where(measured(made, l1=1e-4, l2=2e-4, l4=5e-4), price=3.0))
    # Of each replica: 102,400 tokens, three evaluations of 4,096 and the last of 32,768 at a third.
    tokens = 102_400 + (3 * 4_096 + 32_768) / 3
    one, two, four = (tokens * rate for rate in (1e-4, 2e-4, 5e-4))
    assert told.seconds_in_sum is not None
    assert told.seconds is not None
    assert told.device_hours is not None
    assert told.money is not None
    assert told.seconds_in_sum.expected == pytest.approx(one + two + four)
    assert told.seconds.expected == pytest.approx(four), "the longest is begun first, the others beside it"
    assert told.device_hours.expected == pytest.approx(2 * four / 3600)
    assert told.money.expected == pytest.approx(3 * 2 * four / 3600)
    off = exp(SPREADS * throughput.SAME_SHAPE)
    assert (told.seconds.low, told.seconds.high) == pytest.approx((four / off, four * off))
    assert "which have the shapes of 3 of the 3 trials" in told.basis


class Counted(tuple[throughput.Measured, ...]):
    """Measurements that count how often they are gone through."""

    times = 0

    def __iter__(self) -> Any:
        self.times += 1
        return super().__iter__()


def test_what_was_measured_is_read_as_often_for_many_trials_as_for_two() -> None:
    lines = measured(plan(), l1=1e-4, l2=2e-4)
    few, many = Counted(lines), Counted(lines)
    forecast(plan(), where(few))
    forecast(plan(layers=tuple(range(1, 41))), where(many))
    assert few.times == many.times > 0


def test_only_what_is_left_takes_time() -> None:
    made = plan(repeat=1)
    known = measured(made, l1=1e-4, l2=2e-4)
    told = forecast(made, where(known), left=made.trials[1:])
    assert told.seconds == told.seconds_in_sum == told.trials[1].seconds
    none_left = forecast(made, where(known), left=[])
    assert none_left.seconds is not None
    assert none_left.seconds.high == 0
    assert next(facts(made, none_left)) == "time: nothing is left to train"


def test_a_trial_that_a_run_would_split_takes_the_slots_together() -> None:
    made = plan(layers=(1,), repeat=4)
    told = forecast(made, where(measured(made, l1=1e-4)))
    assert told.seconds is not None
    assert told.seconds_in_sum is not None
    assert told.seconds.expected == pytest.approx(told.seconds_in_sum.expected / 2)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "nothing was measured on a processor; --measure trains each shape for a few seconds"),
        ({"kinds": ()}, "the cluster's devices show only when it runs"),
        ({"is_here": False}, "nothing was measured on a processor; trials that run there measure it"),
    ],
)
def test_where_nothing_was_measured_no_time_is_told(changes: dict[str, Any], told: str) -> None:
    made = plan()
    found = forecast(made, where(**changes))
    assert (found.seconds, found.seconds_in_sum, found.device_hours, found.money) == (None, None, None, None)
    assert told in next(facts(made, found))


def test_a_cluster_of_several_kinds_takes_what_its_slots_do_together_between_the_fastest_and_the_slowest() -> None:
    made = plan(layers=(1,), repeat=1)
    slow, fast = (tuple(measured(made, l1=rate)) for rate in (4e-4, 1e-4))
    tokens = 102_400 + (3 * 4_096 + 32_768) / 3  # as above
    told = forecast(made, where(kinds=(Kind("old", 1, slow), Kind("new", 3, fast))))
    off = exp(SPREADS * throughput.SAME_SHAPE)
    assert told.seconds is not None
    assert told.seconds.expected == pytest.approx(tokens * 4 / (1 / 4e-4 + 3 / 1e-4))  # four slots, and their tokens per second added
    assert (told.seconds.low, told.seconds.high) == pytest.approx((tokens * 1e-4 / off, tokens * 4e-4 * off))
    assert (told.device_name, told.slots) == ("old and new", 4)
    half_known = forecast(made, where(kinds=(Kind("old", 1, slow), Kind("new", 3, ())), is_here=False))
    assert half_known.seconds is None
    assert "nothing was measured on new; trials that run there measure it" in next(facts(made, half_known))


def test_what_was_measured_alone_on_a_gpu_may_take_as_long_as_the_gpu_has_sharers() -> None:
    made = plan(layers=(1,), repeat=1)
    by_trials = measured(made, l1=1e-4)
    alone = [line.model_copy(update={"by": "measurement"}) for line in by_trials]
    shared, unknown = (forecast(made, where(known, slots=4, devices=1, gpu_bytes=24 * 10**9)).seconds for known in (by_trials, alone))
    assert shared is not None
    assert unknown is not None
    assert (unknown.low, unknown.expected, unknown.high) == pytest.approx((shared.low, 2 * shared.expected, 4 * shared.high))
    assert forecast(made, where(alone)).seconds == forecast(made, where(by_trials)).seconds, "processors are not shared"


def test_disk_is_checkpoints_of_what_runs_at_once_a_model_of_each_trial_and_the_records() -> None:
    made = plan()
    one, two = sorted(trial.cost.parameters for trial in made.trials)
    told = forecast(made, where(slots=1)).disk
    assert told.checkpoints == 3 * 4 * (2 * 3 + 1) * two  # three, of weights and two moments of two replicas, and the best's weights
    assert told.models == 4 * (one + two)
    assert 6_000_000 < told.records < 7_000_000


def test_epochs_and_tokens_per_parameter_are_told_and_warned_of() -> None:
    made = plan()
    parameters = max(trial.cost.parameters for trial in made.trials)
    few = forecast(made, where(corpus_tokens=20_000))
    assert [trial.epochs for trial in few.trials] == [5.12, 5.12]
    assert any(warning.startswith("5.1 passes over 20,000 training tokens, more than 4") for warning in few.warnings)
    assert any(warning.startswith(f"{102_400 / parameters:.2g} tokens per parameter") for warning in few.warnings)
    long = plan(base=BASE.copy(max_tokens=6 * 102_400 * 2))
    assert forecast(long, where(corpus_tokens=10**6)).warnings == ()
    assert forecast(made, where()).trials[0].epochs is None


def test_only_a_large_sweep_is_asked_about() -> None:
    made = plan()
    hour = measured(made, l1=0.05, l2=0.05)  # 243,030 tokens in sum at 50 ms
    minute = measured(made, l1=1e-4, l2=1e-4)
    assert is_large(forecast(made, where(hour)))
    assert not is_large(forecast(made, where(minute)))
    assert is_large(forecast(made, where(minute, price=10_000)))
    assert not is_large(forecast(made, where())), "which any processor trains in minutes"
    assert not forecast(made, where()).least_seconds > 60


def test_what_was_not_measured_is_asked_about_where_the_fastest_device_would_take_long() -> None:
    # The published GPT-2 at Chinchilla's 20 tokens per parameter: 6 N D = 6 * 124e6 * 2.5e9 = 1.9e18 FLOPs, and as much again per seed.
    made = plan(layers=(12,), base=GPT2.copy(num_layers=12), repeat=2)
    on_processors, on_gpus = forecast(made, where()), forecast(made, where(gpu_bytes=24 * 10**9))
    assert on_processors.seconds is None
    assert is_large(on_processors)
    assert 1.5e18 * 2 / (2 * 1e12) < on_processors.least_seconds < 3e18 * 2 / (2 * 1e11)
    assert on_gpus.least_seconds < 3600 < on_processors.least_seconds
    assert "at least" in spending(on_processors)


def test_a_search_is_asked_about_as_a_whole() -> None:
    fields = {"compare": {"num_layers": IntRange(1, 20)}, "method": Optuna(trials=1000), "budget": None}
    made = plan(**fields)
    assert len(made.trials) < 1000
    known = [
        throughput.measured(
            trial.config, "trial", device_name="a processor", precision="fp32", replicas=2, stack_size=2, seconds_per_token=1e-4
        )
        for trial in made.trials
    ]  # of some 22 s each
    found = forecast(made, where(known))
    known_alone, rest_alone = (forecast(made, where(known), left=left, unchosen=count) for left, count in ((made.trials, 0), ([], 600)))
    assert found.seconds_in_sum is not None
    assert known_alone.seconds_in_sum is not None
    assert rest_alone.seconds_in_sum is not None
    assert found.seconds_in_sum.expected == pytest.approx(known_alone.seconds_in_sum.expected * 1000 / len(made.trials))
    assert rest_alone.seconds_in_sum.expected == pytest.approx(known_alone.seconds_in_sum.expected * 600 / len(made.trials))
    assert found.least_seconds == pytest.approx(known_alone.least_seconds * 1000 / len(made.trials))
    assert found.seconds is not None
    assert duration(found.seconds.expected) in spending(found)
    assert is_large(found)
    assert is_large(rest_alone), "though nothing that is known is left"
    assert not is_large(known_alone)
    models = sum(4 * trial.cost.parameters for trial in made.trials)
    assert found.disk.models == pytest.approx(models * 1000 / len(made.trials), abs=1)


def shown(made: Plan, told: Any) -> list[str]:
    text = StringIO()
    Console(width=140, file=text).print(table(made, told))
    return text.getvalue().splitlines()


def test_the_default_plan_is_a_table_that_140_columns_hold() -> None:
    space = find("heads_vs_layers").space
    made = make_plan("heads_vs_layers", "", space, "corpus")
    known = [
        throughput.measured(
            trial.config, "trial", device_name="a processor", precision="fp32", replicas=12, stack_size=6, seconds_per_token=2e-5
        )
        for trial in made.trials
    ]
    lines = shown(made, forecast(made, where(known, corpus_tokens=4_000_000)))
    assert max(len(line.rstrip()) for line in lines) <= 120
    [row] = [line.split() for line in lines if line.split()[:2] == ["2", "4"]]
    # Width 44 and 189 within: parameters in the three conventions, by hand.
    d, f = 44, 189
    blocks = 2 * (4 * d * d + 2 * d * f + f + 9 * d) + 2 * d
    assert row[2:7] == ["44", "189", f"{blocks + (512 + 64) * d:,}", f"{blocks:,}", f"{12 * 2 * d * d:,}"]
    assert "every variant: 12 replicas, 102,400 tokens, 0.026 epochs" in "\n".join(lines)


def test_a_variant_of_several_trials_is_one_row_with_all_its_replicas() -> None:
    made = plan(layers=(1,), repeat=4)
    [trial] = made.trials
    parts = tuple(
        trial.model_copy(update={"id": name, "replicas": trial.replicas[half]}) for name, half in (("a", slice(2)), ("b", slice(2, 4)))
    )
    split = made.model_copy(update={"trials": parts})
    lines = shown(split, forecast(split, where(measured(made, l1=1e-4))))
    assert "every variant: 2 trials each, 4 replicas" in "\n".join(lines)
    # 4 replicas of 117,419 tokens' worth at 0.1 ms.
    assert any(line.split()[:1] == ["1"] and "47 s" in line for line in lines)


def test_json_holds_the_plan_and_its_forecast() -> None:
    made = plan(compare={"num_heads": Choice(4, 512)}, budget=Budget("non_embedding_parameters", 100_000))
    told = json.loads(as_json(made, forecast(made, where(corpus_tokens=10**6))))
    assert Plan.model_validate({name: value for name, value in told.items() if name != "forecast"}) == made
    assert told["refused"][0]["variant"] == {"num_heads": 512}
    [trial] = told["forecast"]["trials"]
    assert trial["id"] == told["trials"][0]["id"]
    assert trial["epochs"] == 0.1024
    assert trial["seconds"] is None


@pytest.mark.parametrize(
    ("seconds", "told"), [(3.21, "3.2 s"), (80, "80 s"), (150, "2.5 min"), (5400, "1.5 h"), (36_000, "10 h"), (864_000, "10.0 days")]
)
def test_a_time_is_told_in_the_unit_that_suits_it(seconds: float, told: str) -> None:
    assert duration(seconds) == told
