"""The chunked cross-entropy is PyTorch's, in its losses, its gradients and its precision, and never holds all logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from archsweep.training import loss

REPLICAS, TOKENS, WIDTH, VOCABULARY = 3, 50, 16, 300


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(REPLICAS, TOKENS, WIDTH, generator=draw, requires_grad=True)
    head = torch.randn(REPLICAS, VOCABULARY, WIDTH, generator=draw, requires_grad=True)
    return hidden, head, torch.randint(VOCABULARY, (REPLICAS, TOKENS), generator=draw), torch.tensor([1.0, 0.5, 2.0]) / TOKENS


def plain(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = torch.einsum("knd,kvd->knv", hidden, head)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


@pytest.mark.parametrize("chunk", [1, 7 * REPLICAS * VOCABULARY, 2**24])
def test_losses_and_gradients_are_those_of_pytorch(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(loss, "LOSS_CHUNK", chunk)
    hidden, head, targets, weight = inputs()
    expected = plain(hidden, head, targets)
    gradients = torch.autograd.grad((expected * weight[:, None]).sum(), (hidden, head))
    with torch.no_grad():
        losses, *found = loss.losses_and_gradients(hidden, head, targets, weight, torch.float32)
        alone = loss.losses(hidden, head, targets, torch.float32)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, list(gradients), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone, losses)


def test_a_loss_beyond_the_range_of_a_probability_is_as_large_as_it_is() -> None:
    """exp(-300) is 0 in float32."""
    hidden, head = torch.tensor([[[1.0], [1.0]]]), torch.tensor([[[0.0], [-300.0], [-1.0]]])
    found = loss.losses(hidden, head, torch.tensor([[1, 0]]), torch.float32)
    torch.testing.assert_close(found, torch.log(1 + torch.exp(torch.tensor(-1.0))) + torch.tensor([[300.0, 0.0]]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_products_round_and_the_softmax_does_not(dtype: torch.dtype) -> None:
    hidden, head, targets, weight = inputs()
    losses, *_ = loss.losses_and_gradients(hidden.detach(), head.detach(), targets, weight, dtype)
    expected = plain(hidden.to(dtype).float(), head.to(dtype).float(), targets)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, expected, rtol=0.02, atol=0.2)  # logits of some 4, rounded to 8 or 11 bits


def test_a_scaled_loss_keeps_gradients_that_fp16_alone_would_lose() -> None:
    hidden, head, targets, _ = inputs()
    tiny = torch.full((REPLICAS,), 1e-9)
    expected = torch.autograd.grad((plain(hidden, head, targets) * tiny[:, None]).sum(), hidden)[0]
    with torch.no_grad():
        lost, kept = (loss.losses_and_gradients(hidden, head, targets, tiny * scale, torch.float16)[1] / scale for scale in (1.0, 2.0**24))
    assert not lost.any()
    torch.testing.assert_close(kept, expected, rtol=0.05, atol=1e-10)


def test_all_logits_are_never_there_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            outputs = function(*args, **(kwargs or {}))
            self.elements = max(self.elements, outputs.numel() if isinstance(outputs, torch.Tensor) else 0)
            return outputs

    def largest(chunk: int) -> int:
        monkeypatch.setattr(loss, "LOSS_CHUNK", chunk)
        hidden, head, targets, weight = inputs()
        with Largest() as mode:
            loss.losses_and_gradients(hidden.detach(), head.detach(), targets, weight, torch.float32)
        return mode.elements

    assert largest(2**24) == REPLICAS * TOKENS * VOCABULARY
    assert largest(2 * REPLICAS * VOCABULARY) == REPLICAS * VOCABULARY * WIDTH  # the head's gradient, and no more
