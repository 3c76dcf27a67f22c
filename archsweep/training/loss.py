"""Cross-entropy from hidden states, a chunk of tokens at a time: the full logits of a stack are never there at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LOSS_CHUNK = 2**24  # logits of all replicas that are held at once: 64 MiB in float32


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The head's gradients are computed with the losses, while a chunk's logits are there, so nothing is computed twice."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        low_head = head.to(dtype)
        hidden_gradient, head_gradient = torch.empty_like(hidden), torch.zeros_like(head)
        losses = []
        size = _tokens_per_chunk(head)
        for start in range(0, hidden.shape[1], size):
            chunk = slice(start, start + size)
            low_hidden = hidden[:, chunk].to(dtype)
            log_probabilities = _log_probabilities(low_hidden, low_head)
            picked = targets[:, chunk, None]
            losses.append(-log_probabilities.gather(-1, picked).squeeze(-1))
            # d(cross-entropy)/d(logits) = softmax - one-hot; weighted before it loses range to a low precision
            gradient = log_probabilities.exp_().scatter_add_(-1, picked, torch.full_like(picked, -1, dtype=torch.float32))
            low_gradient = gradient.mul_(weight[:, None, None]).to(dtype)
            hidden_gradient[:, chunk] = low_gradient @ low_head
            head_gradient += low_gradient.mT @ low_hidden
        ctx.save_for_backward(hidden_gradient, head_gradient)
        found = torch.cat(losses, dim=1)
        ctx.mark_non_differentiable(found)
        return (found * weight[:, None]).sum(), found

    @staticmethod
    def backward(ctx: Any, objective: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden_gradient, head_gradient = ctx.saved_tensors
        return hidden_gradient * objective, head_gradient * objective, None, None, None


def weighted_losses(hidden: Tensor, head: Tensor, targets: Tensor, weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """hidden (K, N, D), head (K, V, D), targets (K, N), weight (K,) -> (the sum of all losses, each times its replica's weight; (K, N)
    losses in nats). The first carries the gradient; products are computed in `dtype`, the softmax in float32.
    """
    found: tuple[Tensor, Tensor] = _ChunkedCrossEntropy.apply(hidden, head, targets, weight, dtype)  # type: ignore[no-untyped-call]
    return found


def losses(hidden: Tensor, head: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
    """The (K, N) losses alone, without a gradient."""
    low_head, size = head.to(dtype), _tokens_per_chunk(head)
    chunks = zip(torch.split(hidden, size, dim=1), torch.split(targets, size, dim=1), strict=True)
    found = [-_log_probabilities(part.to(dtype), low_head).gather(-1, picked[..., None]).squeeze(-1) for part, picked in chunks]
    return torch.cat(found, dim=1)


def _log_probabilities(hidden: Tensor, head: Tensor) -> Tensor:
    with torch.autocast(hidden.device.type, enabled=False):  # the caller has chosen the precision
        return torch.log_softmax((hidden @ head.mT).float(), dim=-1)


def _tokens_per_chunk(head: Tensor) -> int:
    replicas, vocabulary, _ = head.shape
    return max(1, LOSS_CHUNK // (replicas * vocabulary))
