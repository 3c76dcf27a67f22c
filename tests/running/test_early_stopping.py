"""Early stopping: the rungs and verdicts of a hand calculation, on variants and not on lucky replicas, the same after a restart."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsweep.config import ExperimentConfig
from archsweep.planning.plan import Trial, make_plan
from archsweep.records import write
from archsweep.running.early_stopping import EarlyStopping, reason_to_stop, rungs
from archsweep.space import ASHA, Choice, MedianStopping, Space

if TYPE_CHECKING:
    from pathlib import Path

BASE = ExperimentConfig(num_layers=2, num_heads=2, head_dim=8, context_length=16, batch_size=4, max_tokens=64 * 80, eval_tokens=256)


@pytest.fixture(scope="module")
def trials() -> tuple[Trial, ...]:
    """Eight variants of two rates and two seeds, of 80 steps, evaluated at 20, 40, 60 and 80."""
    space = Space(BASE, {"num_layers": Choice(*range(1, 9))}, tune={"learning_rate": Choice(1e-3, 2e-3)}, repeat=2)
    return make_plan("sweep", "", space, "corpus").trials


def rows(trial: Trial, step: int, loss: float | None, lucky: float | None = None) -> list[dict[str, Any]]:
    """An evaluation with `loss` in all replicas; `lucky` is the loss of one of them, whose neighbour of the same rate diverged."""
    losses = [loss] * 4 if lucky is None else [lucky, None, loss, loss]
    return [
        {**replica.model_dump(), "step": step, "status": "running" if own is not None else "diverged", "val_loss": own}
        for replica, own in zip(trial.replicas, losses, strict=True)
    ]


@pytest.mark.parametrize(
    ("rule", "evaluations", "expected"),
    [
        (ASHA(0.25, 2), 4, [1, 2]),  # after 1/4 and 1/2; the whole is no rung
        (ASHA(0.1, 3), 10, [1, 3, 9]),
        (ASHA(0.1, 2), 4, [1, 2, 4][:2]),  # .1 and .2 -> the 1st, .4 -> the 2nd, .8 -> the 4th, which is the last
        (ASHA(0.9, 2), 4, []),
        (MedianStopping(0.5), 4, [2, 3]),
    ],
)
def test_rungs_are_the_first_evaluations_after_each_part(rule: Any, evaluations: int, expected: list[int]) -> None:
    assert rungs(rule, evaluations) == expected


def test_asha_lets_the_best_half_of_those_that_came_go_on(trials: tuple[Trial, ...], tmp_path: Path) -> None:
    # By hand: of n that have been there the best max(1, n // 2) go on. 5 (1 of 1), 6 (2 of 2: out), 4 (1 of 3), 4.5 (2 of 4: stays),
    # 4.6 (3 of 5: out), 4.2 (2 of 6), 4.4 (3 of 7), 4.3 (3 of 8).
    stopping = EarlyStopping(ASHA(0.25, 2), trials, tmp_path)
    losses = (5, 6, 4, 4.5, 4.6, 4.2, 4.4, 4.3)
    stopped = [stopping.stops(trial, rows(trial, 20, loss)) for trial, loss in zip(trials, losses, strict=True)]
    assert stopped == [False, True, False, False, True, False, False, False]
    assert stopping.reasons == {
        trials[1].id: "stopped at step 20 of 80: loss 6.0000 is number 2 of 2 there, and the best 1 go on",
        trials[4].id: "stopped at step 20 of 80: loss 4.6000 is number 3 of 5 there, and the best 2 go on",
    }
    # At the next rung only those that get there count: 4.1 is first of one, 4.2 second of two.
    assert not stopping.stops(trials[0], rows(trials[0], 40, 4.1))
    assert stopping.stops(trials[2], rows(trials[2], 40, 4.2))


def test_a_variant_is_judged_by_its_best_setting_and_not_by_a_lucky_replica(trials: tuple[Trial, ...], tmp_path: Path) -> None:
    stopping = EarlyStopping(ASHA(0.25, 2), trials, tmp_path)
    assert not stopping.stops(trials[0], rows(trials[0], 20, 5.0))
    assert stopping.stops(trials[1], rows(trials[1], 20, 5.1, lucky=1.0))


def test_a_variant_that_lost_a_replica_at_every_setting_is_worse_than_any_number(trials: tuple[Trial, ...], tmp_path: Path) -> None:
    stopping = EarlyStopping(ASHA(0.25, 2), trials, tmp_path)
    stopping.stops(trials[0], rows(trials[0], 20, 9.0))
    lost = rows(trials[1], 20, 1.0)
    for row in lost[::2]:
        row.update(val_loss=None, status="diverged")
    assert stopping.stops(trials[1], lost)
    assert "diverged" in stopping.reasons[trials[1].id]


def test_the_last_evaluation_stops_nobody(trials: tuple[Trial, ...], tmp_path: Path) -> None:
    stopping = EarlyStopping(MedianStopping(0.1, 1), trials, tmp_path)
    for trial, loss in zip(trials, range(8), strict=True):
        assert not stopping.stops(trial, rows(trial, 80, loss))


def test_where_there_are_fewer_steps_than_evaluations_each_step_is_one(tmp_path: Path) -> None:
    """Of four steps half is the second; of ten evaluations it would be the fifth, which never comes."""
    space = Space(
        BASE.copy(max_tokens=64 * 4, num_evaluations=10), {"num_layers": Choice(1, 2)}, tune={"learning_rate": Choice(1e-3, 2e-3)}, repeat=2
    )
    first, second = make_plan("sweep", "", space, "corpus").trials
    stopping = EarlyStopping(ASHA(0.5, 2), [first, second], tmp_path)
    for step in (1, 2):
        assert not stopping.stops(first, rows(first, step, 5.0))
    assert not stopping.stops(second, rows(second, 1, 6.0))
    assert stopping.stops(second, rows(second, 2, 6.0))


def test_variants_of_unlike_numbers_of_steps_meet_at_the_same_part_of_them(tmp_path: Path) -> None:
    """Half of eight steps, the second of four evaluations; and of two steps, the first of two."""
    space = Space(BASE.copy(max_tokens=64 * 8), {"batch_size": Choice(4, 16)}, tune={"learning_rate": Choice(1e-3, 2e-3)}, repeat=2)
    many, few = make_plan("sweep", "", space, "corpus").trials
    assert [(trial.steps, trial.evaluations) for trial in (many, few)] == [(8, 4), (2, 2)]
    stopping = EarlyStopping(ASHA(0.5, 2), [many, few], tmp_path)
    assert not stopping.stops(few, rows(few, 1, 5.0))
    assert not stopping.stops(many, rows(many, 2, 9.0))
    assert stopping.stops(many, rows(many, 4, 6.0))


@pytest.mark.parametrize(
    ("loss", "others", "stops"),
    [(5.0, [4.0, 4.5, 6.0], True), (4.5, [4.0, 4.5, 6.0], False), (9.0, [1.0, 1.0], False), (5.0, [4.0, 4.5, 5.5, 6.0], False)],
)
def test_the_median_of_at_least_three_others_stops_what_is_above_it(loss: float, others: list[float], stops: bool) -> None:
    assert (reason_to_stop(MedianStopping(0.25, 3), loss, others) is not None) is stops


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.integers(2, 4))
def test_asha_never_stops_the_best_and_stops_the_only_worst_of_many(losses: list[float], reduction: int) -> None:
    rule = ASHA(0.25, reduction)
    assert reason_to_stop(rule, min(losses), losses) is None
    assert reason_to_stop(rule, float("inf"), losses) is not None


def record(trial: Trial, losses: dict[int, float], folder: Path) -> None:
    """The trial's losses by step, as a sweep in `folder` that was killed has recorded them."""
    (folder / "trials" / trial.id).mkdir(parents=True)
    lines = [json.dumps(row) for step, loss in losses.items() for row in rows(trial, step, loss)]
    (folder / "trials" / trial.id / "records.jsonl").write_text("\n".join(lines) + '\n{"torn')


def test_a_trial_that_is_taken_from_another_sweep_meanwhile_counts_from_then_on(trials: tuple[Trial, ...], tmp_path: Path) -> None:
    taken, first, second = trials[:3]
    stopping = EarlyStopping(ASHA(0.25, 2), [first], tmp_path)
    assert not stopping.stops(first, rows(first, 20, 5.0))
    record(taken, {20: 4.0, 40: 3.0}, tmp_path)
    stopping.know(taken, tmp_path)
    assert stopping.stops(second, rows(second, 20, 4.5))  # number 2 of 3, and the best 1 go on


def test_what_was_seen_before_a_restart_counts_after_it_and_is_judged_once(trials: tuple[Trial, ...], tmp_path: Path) -> None:
    first, second, third = trials[:3]
    for trial, losses in ((first, {20: 5.0, 40: 4.0}), (second, {20: 5.5, 40: 4.5})):
        record(trial, losses, tmp_path)
    stopping = EarlyStopping(ASHA(0.25, 2), trials, tmp_path)
    assert not stopping.stops(second, rows(second, 20, 5.5))  # it had passed there before
    assert stopping.stops(second, rows(second, 40, 4.5))  # and had not been judged here
    assert stopping.stops(third, rows(third, 20, 5.2))


def test_a_variant_in_several_trials_is_judged_when_all_of_them_are_there(trials: tuple[Trial, ...], tmp_path: Path) -> None:
    first, whole = trials[:2]
    parts = [whole.model_copy(update={"id": f"part{index}", "replicas": whole.replicas[index::2]}) for index in range(2)]
    stopping = EarlyStopping(ASHA(0.25, 2), [first, *parts], tmp_path)
    assert not stopping.stops(first, rows(first, 20, 5.0))
    both = rows(whole, 20, 6.0)
    assert not stopping.stops(parts[0], both[::2])
    assert stopping.stops(parts[1], both[1::2])


@pytest.mark.parametrize("restarted", [False, True])
def test_a_variant_of_which_one_part_was_stopped_is_stopped_in_the_others_too(
    trials: tuple[Trial, ...], tmp_path: Path, restarted: bool
) -> None:
    first, whole, third = trials[:3]
    parts = [whole.model_copy(update={"id": f"part{index}", "replicas": whole.replicas[index::2]}) for index in range(2)]
    stopping = EarlyStopping(ASHA(0.25, 2), [first, *parts, third], tmp_path)
    stopping.stops(first, rows(first, 20, 5.0))
    both = rows(whole, 20, 6.0)
    assert not stopping.stops(parts[0], both[::2])
    assert stopping.stops(parts[1], both[1::2])
    why = "stopped at step 20 of 80: loss 6.0000 is number 2 of 2 there, and the best 1 go on"
    assert stopping.reasons == {"part1": why}
    if restarted:
        for part, own in zip(parts, (both[::2], both[1::2]), strict=True):
            (tmp_path / "trials" / part.id).mkdir(parents=True)
            write.append(tmp_path / "trials" / part.id, own)
        write.finish(tmp_path / "trials" / "part1", write.Outcome(status="stopped", reason=why, stopped_step=20))
        stopping = EarlyStopping(ASHA(0.25, 2), [first, *parts, third], tmp_path)
    assert not stopping.stops(parts[0], [])
    assert stopping.stops(parts[0], rows(whole, 60, 5.5)[::2]), "it would train to its end, and be compared with nobody"
    assert stopping.reasons["part0"] == f"stopped at step 60 of 80: another trial of its variant was {why}"
    assert not stopping.stops(third, rows(third, 60, 9.0))


def test_a_part_that_has_ended_stays_finished_though_another_one_was_stopped(trials: tuple[Trial, ...], tmp_path: Path) -> None:
    first, whole = trials[:2]
    parts = [whole.model_copy(update={"id": f"part{index}", "replicas": whole.replicas[index::2]}) for index in range(2)]
    stopping = EarlyStopping(ASHA(0.25, 2), [first, *parts], tmp_path)
    stopping.stops(first, rows(first, 20, 5.0))
    stopping.stops(parts[0], rows(whole, 20, 6.0)[::2])
    assert stopping.stops(parts[1], rows(whole, 20, 6.0)[1::2])
    last = [row | {"status": "finished"} for row in rows(whole, 80, 6.0)[::2]]
    assert not stopping.stops(parts[0], last)


def test_a_variant_of_which_another_part_comes_is_no_longer_compared_with(trials: tuple[Trial, ...], tmp_path: Path) -> None:
    first, whole = trials[:2]
    parts = [whole.model_copy(update={"id": f"part{index}", "replicas": whole.replicas[index::2]}) for index in range(2)]
    stopping = EarlyStopping(ASHA(0.25, 2), [first, parts[0]], tmp_path)
    both = rows(whole, 40, 4.0)
    assert not stopping.stops(parts[0], both[::2])
    assert not stopping.stops(parts[1], rows(whole, 20, 4.0)[1::2])  # of the variant's evaluation at 40 a part is missing now
    assert not stopping.stops(first, rows(first, 40, 5.0))
