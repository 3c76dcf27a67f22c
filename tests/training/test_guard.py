"""An overflow costs its own replica a step, a replica that is lost stays as it was, and nobody else notices."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archsweep.config import ExperimentConfig, Replica
from archsweep.training.guard import FIRST_SCALE, GROWTH_INTERVAL, Guard
from archsweep.training.optimizer import ReplicaAdamW
from archsweep.training.replicas import ReplicaStack

if TYPE_CHECKING:
    from .conftest import Train

CPU = torch.device("cpu")
REPLICAS = tuple(Replica(seed=seed, learning_rate=3e-3, weight_decay=0.1) for seed in range(3))


def guard(precision: str, replicas: int = 1, total_steps: int = 100) -> Guard:
    return Guard(replicas, precision, vocab_size=300, total_steps=total_steps, device=CPU)


def train_fp16(small: ExperimentConfig, overflow_at: int | None) -> tuple[ReplicaStack, ReplicaAdamW, list[torch.Tensor]]:
    """Ten steps of three replicas; at `overflow_at`, the middle one's gradient is given an infinity. The weights after each step."""
    config = small.copy(precision="fp16")
    stack = ReplicaStack(config, REPLICAS, CPU)
    optimizer = ReplicaAdamW(stack, config, total_steps=10)
    weights = []
    for step in range(10):
        windows = torch.randint(300, (3, 4, 17), generator=torch.Generator().manual_seed(step))
        losses = stack.compute_gradients(windows, scale=optimizer.guard.scale)
        if step == overflow_at:
            stack.gradients[1, 7] = math.inf
        optimizer.step(step, losses)
        weights.append(stack.weights.clone())
    return stack, optimizer, weights


def test_an_overflow_skips_its_own_replicas_step_and_changes_no_bit_of_the_others(small: ExperimentConfig) -> None:
    _, usual, without = train_fp16(small, None)
    _, optimizer, weights = train_fp16(small, 5)
    for step in range(10):
        for other in (0, 2):
            assert torch.equal(weights[step][other], without[step][other])
    assert torch.equal(weights[5][1], weights[4][1])  # skipped
    assert not torch.equal(weights[6][1], weights[5][1])  # and on it goes
    assert optimizer.guard.scale.tolist() == [FIRST_SCALE, FIRST_SCALE / 2, FIRST_SCALE]
    assert usual.guard.scale.tolist() == [FIRST_SCALE] * 3
    assert optimizer.guard.divergences() == [None] * 3
    assert optimizer.state()["steps"].tolist() == [[10, 10], [9, 9], [10, 10]]  # a skipped step does not age Adam's moments


def test_fp16_trains_to_nearly_the_same_loss(small: ExperimentConfig, train: Train) -> None:
    exact, run = (train(small.copy(precision=precision), REPLICAS) for precision in ("fp32", "fp16"))
    for index in range(3):
        assert run.column("val_loss", index) != exact.column("val_loss", index)
        assert run.column("val_loss", index) == pytest.approx(exact.column("val_loss", index), rel=0.01)


@given(finite=st.lists(st.booleans(), max_size=60))
def test_a_loss_scale_moves_like_that_of_torchs_gradient_scaler(finite: list[bool]) -> None:
    """torch._amp_update_scale_ is the kernel behind torch.amp.GradScaler."""
    ours = guard("fp16")
    theirs, tracker = torch.full((1,), FIRST_SCALE), torch.zeros(1, dtype=torch.int32)
    ours._clean_steps.fill_(GROWTH_INTERVAL - 10)
    tracker.fill_(GROWTH_INTERVAL - 10)
    for step, whole in enumerate(finite):
        if theirs.item() <= 1:
            return
        ours.skips(step, torch.zeros(1), torch.tensor([1.0 if whole else math.inf]))
        torch._amp_update_scale_(theirs, tracker, torch.tensor([float(not whole)]), 2.0, 0.5, GROWTH_INTERVAL)
        assert ours.scale.tolist() == theirs.tolist()


def test_fp16_gives_a_replica_up_when_its_scale_cannot_get_smaller() -> None:
    lost = guard("fp16")
    for step in range(30):
        assert lost.skips(step, torch.tensor([math.nan]), torch.tensor([math.nan])).all()
    (divergence,) = lost.divergences()
    assert divergence is not None
    assert divergence.step == 17  # 2**16 halves sixteen times to 1, and the next overflow is the model's
    assert divergence.reason == "the loss was no longer a finite number at step 17; there was no finite one before"


@pytest.mark.parametrize(
    ("loss", "norm", "cause"),
    [(math.nan, 1.0, "the loss was no longer a finite number"), (2.0, math.inf, "the gradient was no longer finite")],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_without_a_loss_scale_the_first_number_that_is_not_finite_is_the_end(precision: str, loss: float, norm: float, cause: str) -> None:
    lost = guard(precision)
    assert not lost.skips(0, torch.tensor([2.5]), torch.tensor([1.0])).any()
    assert lost.skips(1, torch.tensor([loss]), torch.tensor([norm])).all()
    assert lost.skips(2, torch.tensor([2.0]), torch.tensor([1.0])).all()  # for good
    (divergence,) = lost.divergences()
    assert divergence is not None
    assert divergence.reason == f"{cause} at step 2; the last one was {2 if math.isfinite(loss) else 2.5}"


def test_a_loss_that_stays_above_guessing_for_a_tenth_of_the_run_is_given_up() -> None:
    guessing = math.log(300)
    lost = guard("fp32", replicas=3, total_steps=400)
    for step in range(100):
        back_for_a_moment = 0.0 if step % 39 == 38 else 1.1
        lost.skips(step, torch.tensor([guessing + 1.1, guessing + back_for_a_moment, guessing + 0.9]), torch.ones(3))
    first, *others = lost.divergences()
    assert first is not None
    assert first.reason == "the loss stayed above that of guessing at step 40; the last one was 6.804"  # ln 300 = 5.7038
    assert others == [None, None]


def test_a_replica_that_is_lost_keeps_its_last_weights(small: ExperimentConfig) -> None:
    stack = ReplicaStack(small, REPLICAS, CPU)
    optimizer = ReplicaAdamW(stack, small, total_steps=10)
    before = stack.weights.clone()
    stack.gradients.normal_()
    stack.gradients[1].fill_(math.nan)
    optimizer.step(0, torch.tensor([5.0, math.nan, 5.0]))
    stack.gradients.normal_()
    optimizer.step(1, torch.tensor([5.0, 5.0, 5.0]))
    assert torch.equal(stack.weights[1], before[1])
    assert not (stack.weights[[0, 2]] == before[[0, 2]]).all(1).any()
    assert stack.weights.isfinite().all()
