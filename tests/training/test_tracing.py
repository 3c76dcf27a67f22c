"""What was recorded, of a model's forward pass or of a whole step, computes what the model computes, to the last bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from archsweep.config import ExperimentConfig, Replica
from archsweep.training.replicas import ReplicaStack
from archsweep.training.tracing import Replays, Traced

CPU = torch.device("cpu")
NEEDS_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
FAMILIES: list[dict[str, Any]] = [
    {},
    {"family": "gpt_neox"},
    {"family": "llama", "model_overrides": {"num_key_value_heads": 1, "tie_word_embeddings": True}},
]
REPLICAS = tuple(Replica(seed=seed, learning_rate=1e-3, weight_decay=0.1) for seed in range(2))


def losses_and_gradients(stack: ReplicaStack) -> list[torch.Tensor]:
    """Of three steps of two micro-batches, the second of another size; after each, the weights move along the gradient."""
    draw, found = torch.Generator().manual_seed(0), []
    torch.manual_seed(1)
    for _ in range(3):
        for size in (4, 3):
            windows = torch.randint(300, (len(stack), size, 17), generator=draw).to(stack.device)
            losses = stack.compute_gradients(windows, size / 7, torch.full_like(stack.weights[:, 0], 2.0**size), add=size == 3)
            found += [losses, stack.gradients.clone()]
        stack.weights.sub_(stack.gradients)
    return [*found, torch.rand(1, device=stack.device)]  # and the generator is where it was


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("changes", FAMILIES, ids=["gpt2", "gpt_neox", "llama"])
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


@pytest.mark.gpu
@NEEDS_A_GPU
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("changes", FAMILIES, ids=["gpt2", "gpt_neox", "llama"])
def test_a_gpu_replays_a_step_to_the_bit(
    small: ExperimentConfig, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], dropout: float, precision: str, replicas: int
) -> None:
    config = small.copy(precision=precision, dropout=dropout, **changes)
    found, expected = (ReplicaStack(config, REPLICAS[:replicas], torch.device("cuda")) for _ in range(2))
    expected._replays = None
    for one, other in zip(losses_and_gradients(found), losses_and_gradients(expected), strict=True):
        assert torch.equal(one, other)
    assert found._replays is not None
    assert len(found._replays._graphs) == 2


@pytest.mark.gpu
@NEEDS_A_GPU
def test_recordings_share_their_memory_and_give_it_back() -> None:
    def used() -> int:
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    def in_between(given: torch.Tensor) -> torch.Tensor:
        return (given.expand(64 * 2**20) + 0).mean()  # 256 MiB, for as long as it computes

    before, replays = used(), Replays()
    for number in range(5):
        for kind in ("one", "another"):
            assert replays(kind, in_between, torch.tensor(float(number), device="cuda")).item() == number
    assert 256 * 2**20 <= used() - before < 400 * 2**20
    replays.forget()
    assert used() - before < 100 * 2**20
    assert replays("one", in_between, torch.tensor(7.0, device="cuda")).item() == 7


@pytest.mark.parametrize(
    "changes",
    [
        {"gradient_checkpointing": True},
        {"compile": False},
        {"family": "llama", "model_overrides": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}},
    ],
    ids=["checkpointing", "compile=false", "frequencies by length"],
)
def test_what_may_compute_otherwise_each_time_is_not_recorded(
    small: ExperimentConfig, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr(Traced, "_record", lambda *given: pytest.fail("recorded"))
    config = small.copy(max_tokens=500 * small.tokens_per_step, **changes)
    ReplicaStack(config, REPLICAS[:1], CPU).compute_gradients(torch.randint(300, (1, 4, 17)))
