"""Cross-entropy from hidden states, a chunk of tokens at a time: the full logits of a stack are never there at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Logits of all replicas that are held at once: 64 MiB in float32, and in training on a GPU 256, whose products are slower in small pieces.
LOSS_CHUNK, GPU_LOSS_CHUNK = 2**24, 2**26


def losses_and_gradients(
    hidden: Tensor, head: Tensor, targets: Tensor, weight: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """hidden (K, N, D), head (K, V, D), targets (K, N), weight (K,) -> (K, N) losses in nats, and the gradients of their sum, each times
    its replica's weight, by `hidden` and `head`. Products are computed in `dtype`, the softmax in float32.

    The gradients come with the losses, while a chunk's logits are there, so nothing is computed twice.
    """
    low_head = head.to(dtype)
    head_gradient: Tensor | None = None
    losses, hidden_gradients = [], []
    most = GPU_LOSS_CHUNK if hidden.device.type == "cuda" else LOSS_CHUNK
    for low_hidden, picked in _chunks(hidden, targets, head, dtype, most):
        found, probabilities = _cross_entropy(low_hidden, low_head, picked)
        losses.append(found)
        # d(cross-entropy)/d(logits) = softmax - one-hot; weighted before it loses range to a low precision
        gradient = probabilities.scatter_add_(-1, picked, torch.full_like(picked, -1, dtype=torch.float32))
        low_gradient = gradient.mul_(weight[:, None, None]).to(dtype)
        hidden_gradients.append((low_gradient @ low_head).to(hidden.dtype))
        of_chunk = low_gradient.mT @ low_hidden
        head_gradient = of_chunk.to(head.dtype) if head_gradient is None else head_gradient.add_(of_chunk)
    assert head_gradient is not None
    return _join(losses), _join(hidden_gradients), head_gradient


def losses(hidden: Tensor, head: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
    """The (K, N) losses alone."""
    low_head = head.to(dtype)
    chunks = _chunks(hidden, targets, head, dtype, LOSS_CHUNK)
    return _join([_cross_entropy(low_hidden, low_head, picked)[0] for low_hidden, picked in chunks])


def _chunks(hidden: Tensor, targets: Tensor, head: Tensor, dtype: torch.dtype, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """A chunk's hidden states in `dtype` (K, n, D), and its targets (K, n, 1); `most` logits at once."""
    replicas, vocabulary, _ = head.shape
    size = max(1, most // (replicas * vocabulary))
    for part, picked in zip(torch.split(hidden, size, dim=1), torch.split(targets, size, dim=1), strict=True):
        yield part.to(dtype), picked[..., None]


def _cross_entropy(hidden: Tensor, head: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """-> the (K, n) losses and the (K, n, V) probabilities, both float32."""
    logits = (hidden @ head.mT).float()
    probabilities = torch.softmax(logits, dim=-1)
    # The largest probability is 1 / sum(exp(logits - largest)). Against the log of the target's own, nothing underflows; against
    # log_softmax and its exponential, a pass over the logits is saved.
    distance = logits.amax(-1) - logits.gather(-1, targets).squeeze(-1)
    return distance - probabilities.amax(-1).log(), probabilities


def _join(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)
