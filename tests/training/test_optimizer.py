"""One optimizer over a stack takes the steps that torch.optim.AdamW would take for each replica by itself."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from archsweep.config import ExperimentConfig, Replica
from archsweep.training.optimizer import ReplicaAdamW, schedule
from archsweep.training.replicas import ReplicaStack

REPLICAS = (
    Replica(seed=0, learning_rate=1e-3, weight_decay=0.1),
    Replica(seed=1, learning_rate=1e-2, weight_decay=0.0),
    Replica(seed=1, learning_rate=5e-3, weight_decay=3.0),
)
SHAPE: dict[str, Any] = {"num_layers": 1, "num_heads": 2, "head_dim": 4, "context_length": 8, "vocab_size": 257, "device": "cpu"}
CONSTANT = ExperimentConfig(warmup=0, lr_scheduler_type="constant", **SHAPE)


def stack_of(config: ExperimentConfig) -> ReplicaStack:
    return ReplicaStack(config, REPLICAS, torch.device("cpu"))


def fill_gradients(stack: ReplicaStack, step: int, scale: float = 1.0) -> None:
    stack.gradients.normal_(std=scale, generator=torch.Generator().manual_seed(step)).mul_(torch.tensor([[0.1], [1.0], [3.0]]))


# Steps.


@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.8, 0.999)])
@pytest.mark.parametrize("clip", [0.0, 1.0, 100.0])
def test_steps_are_those_of_torch_for_each_replica_alone(clip: float, betas: tuple[float, float]) -> None:
    config = CONSTANT.copy(grad_clip=clip, betas=betas)
    stack = stack_of(config)
    optimizer = ReplicaAdamW(stack, config, total_steps=20)
    initial, gradients = stack.weights.clone(), []
    for step in range(20):
        fill_gradients(stack, step, 1 + step % 3)  # norms of 5 to 16, 55 to 165 and 165 to 495: a clip of 100 is for some
        gradients.append(stack.gradients.clone())
        optimizer.step(step)
    for row, replica in enumerate(REPLICAS):
        matrices, vectors = (torch.nn.Parameter(part.clone()) for part in initial[row].tensor_split([stack.decayed]))
        groups = [{"params": [matrices], "weight_decay": replica.weight_decay}, {"params": [vectors], "weight_decay": 0.0}]
        alone = torch.optim.AdamW(groups, lr=replica.learning_rate, betas=betas, fused=False, foreach=False)
        for gradient in gradients:
            matrices.grad, vectors.grad = (part.clone() for part in gradient[row].tensor_split([stack.decayed]))
            if clip:
                torch.nn.utils.clip_grad_norm_([matrices, vectors], clip)
            alone.step()
        torch.testing.assert_close(stack.weights[row], torch.cat([matrices, vectors]).detach(), rtol=1e-4, atol=1e-6)


def test_weight_decay_shrinks_matrices_alone_by_learning_rate_times_decay() -> None:
    stack = stack_of(CONSTANT)
    before = [dict(stack.extract(row).named_parameters()) for row in range(3)]
    ReplicaAdamW(stack, CONSTANT, total_steps=10).step(0)  # with gradients of zero AdamW does nothing else
    for row, kept in enumerate((1 - 1e-3 * 0.1, 1.0, 1 - 5e-3 * 3.0)):
        for name, parameter in stack.extract(row).named_parameters():
            expected = before[row][name] * (kept if parameter.ndim == 2 else 1.0)
            torch.testing.assert_close(parameter, expected, rtol=1e-6, atol=0, msg=name)


def test_the_model_computes_with_the_weights_of_the_last_step() -> None:
    stack = stack_of(CONSTANT)
    optimizer = ReplicaAdamW(stack, CONSTANT, total_steps=10)
    windows = torch.randint(257, (4, 9))
    before = stack.evaluate(windows, 4)
    fill_gradients(stack, 0)
    optimizer.step(0)
    after = stack.evaluate(windows, 4)
    assert not torch.equal(before, after)
    for row in range(3):
        with torch.no_grad():
            logits = stack.extract(row)(windows[:, :-1])
        alone = torch.nn.functional.cross_entropy(logits.transpose(1, 2), windows[:, 1:], reduction="none").mean(1)
        torch.testing.assert_close(after[row], alone, rtol=1e-5, atol=0)


def test_micro_batches_add_up_to_the_gradient_of_the_whole_batch() -> None:
    whole, parts = stack_of(CONSTANT), stack_of(CONSTANT)
    windows = torch.randint(257, (3, 8, 9))
    parts.gradients.fill_(math.nan)  # of an earlier step
    losses = whole.compute_gradients(windows)
    halves = [parts.compute_gradients(half, share=0.5, add=index > 0) for index, half in enumerate(windows.split(4, dim=1))]
    torch.testing.assert_close(torch.stack(halves).mean(0), losses)
    torch.testing.assert_close(parts.gradients, whole.gradients, rtol=1e-4, atol=1e-7)


# The schedule.

STEPS = st.tuples(st.integers(1, 300), st.integers(1, 300)).map(sorted)  # warm-up, all


def torch_factor(make: Any, warmup: int, total: int) -> Any:
    """What transformers multiplies the learning rate by."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    return make(optimizer, num_warmup_steps=warmup, num_training_steps=total).lr_lambdas[0]


@pytest.mark.parametrize(("name", "make"), [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)])
@given(steps=STEPS)
def test_after_warm_up_schedules_are_those_of_transformers(name: str, make: Any, steps: list[int]) -> None:
    warmup, total = steps
    ours = schedule(CONSTANT.copy(warmup=warmup, lr_scheduler_type=name), total)
    theirs = torch_factor(make, warmup, total)
    assert [ours(step) for step in range(warmup, total)] == pytest.approx([theirs(step) for step in range(warmup, total)], abs=1e-12)


@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
@given(steps=STEPS)
def test_warm_up_rises_evenly_to_the_peak_at_its_last_step(name: str, steps: list[int]) -> None:
    warmup, total = steps
    factor = schedule(CONSTANT.copy(warmup=warmup, lr_scheduler_type=name), total)
    assert [factor(step) for step in range(warmup)] == pytest.approx([number / warmup for number in range(1, warmup + 1)])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]),
        ("cosine", [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447, 0.0]),  # (1 + cos(pi / 4)) / 2 = .853553
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_six_steps_and_what_comes_after_them_by_hand(name: str, expected: list[float]) -> None:
    factor = schedule(CONSTANT.copy(warmup=2, lr_scheduler_type=name), 6)
    assert [factor(step) for step in range(7)] == pytest.approx(expected, abs=1e-6)


def test_a_warm_up_below_one_is_a_share_of_the_steps() -> None:
    share, number = (schedule(CONSTANT.copy(warmup=warmup), 200) for warmup in (0.05, 10))
    assert [share(step) for step in range(200)] == [number(step) for step in range(200)]


def test_a_warm_up_longer_than_the_run_ends_at_the_peak() -> None:
    factor = schedule(CONSTANT.copy(warmup=1000), 4)
    assert [factor(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_first_step_takes_the_scheduled_share_of_the_learning_rate(name: str) -> None:
    """Adam's first step is the learning rate itself, whatever the size of the gradient."""
    config = CONSTANT.copy(warmup=4, lr_scheduler_type=name, grad_clip=0)
    stack = stack_of(config)
    before = stack.weights.clone()
    stack.gradients.fill_(1e3)
    ReplicaAdamW(stack, config, total_steps=10).step(0)
    moved = (before - stack.weights)[:, stack.decayed :].mean(1)
    torch.testing.assert_close(moved, torch.tensor([1e-3, 1e-2, 5e-3]) / 4, rtol=1e-3, atol=0)
