"""A recorded forward pass is the model's own, to the last bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from archsweep.config import ExperimentConfig, Replica
from archsweep.training.replicas import ReplicaStack
from archsweep.training.tracing import Traced

CPU = torch.device("cpu")
REPLICAS = tuple(Replica(seed=seed, learning_rate=1e-3, weight_decay=0.1) for seed in range(2))


def losses_and_gradients(stack: ReplicaStack) -> list[torch.Tensor]:
    """Of three steps of two micro-batches, the second of another size; after each, the weights move along the gradient."""
    draw, found = torch.Generator().manual_seed(0), []
    torch.manual_seed(1)
    for _ in range(3):
        for size in (4, 3):
            losses = stack.compute_gradients(torch.randint(300, (len(stack), size, 17), generator=draw), add=size == 3)
            found += [losses, stack.gradients.clone()]
        stack.weights.sub_(stack.gradients)
    return [*found, torch.rand(1)]  # and the generator is where it was


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"family": "gpt_neox"},
        {"family": "llama", "model_overrides": {"num_key_value_heads": 1, "tie_word_embeddings": True}},
    ],
    ids=["gpt2", "gpt_neox", "llama"],
)
def test_losses_gradients_and_dropout_are_those_of_the_model_to_the_bit(
    small: ExperimentConfig, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], dropout: float, precision: str, replicas: int
) -> None:
    config = small.copy(precision=precision, dropout=dropout, max_tokens=499 * small.tokens_per_step, **changes)
    record = Traced._record
    recorded: list[torch.Size] = []
    monkeypatch.setattr(Traced, "_record", lambda self, inputs, *rest: recorded.append(inputs.shape) or record(self, inputs, *rest))
    expected = losses_and_gradients(ReplicaStack(config, REPLICAS[:replicas], CPU))
    assert not recorded  # a short run does not earn it back
    long = config.copy(max_tokens=500 * small.tokens_per_step)
    found = losses_and_gradients(ReplicaStack(long, REPLICAS[:replicas], CPU))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert recorded == [(replicas, 4, 16), (replicas, 3, 16)]


def test_a_record_computes_with_the_parameters_of_its_call() -> None:
    double = Traced(lambda inputs, weight: inputs * weight)
    weight = torch.tensor(2.0, requires_grad=True)
    assert double(torch.ones(3), weight).tolist() == [2.0, 2.0, 2.0]
    assert double(torch.ones(3), torch.tensor(5.0)).tolist() == [5.0, 5.0, 5.0]
    (gradient,) = torch.autograd.grad(double(torch.full((3,), 4.0), weight).sum(), weight)
    assert gradient == 12.0


def test_each_shape_is_recorded_once() -> None:
    calls = []
    once = Traced(lambda inputs: calls.append(1) or inputs + 1)  # type: ignore[func-returns-value]
    for _ in range(3):
        assert once(torch.zeros(2)).tolist() == [1.0, 1.0]
        assert once(torch.zeros(3)).tolist() == [1.0, 1.0, 1.0]
    assert len(calls) == 2
