"""A metric: the loss by how much text a model has seen before it predicts, `metrics=("search_spaces.positions:loss_by_position",)`."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIRST_OCTAVE, TOKENS_AT_ONCE = 4, 16_384


def loss_by_position(model: nn.Module, windows: Tensor) -> dict[str, float]:
    """Mean loss (nats/token) of each octave of positions in the windows, (windows, time + 1) token ids."""
    at_once = max(1, TOKENS_AT_ONCE // windows.shape[1])  # logits of a large vocabulary take gigabytes
    losses = torch.cat([_losses(model, part) for part in torch.split(windows, at_once)]).mean(0)
    edges = [0, *(edge for edge in (FIRST_OCTAVE * 2**n for n in range(32)) if edge < len(losses)), len(losses)]
    spans = list(pairwise(edges))
    return {f"{first + 1}-{last}": float(losses[first:last].mean()) for first, last in spans}


def _losses(model: nn.Module, windows: Tensor) -> Tensor:
    """(windows, time)"""
    output = model(windows[:, :-1])
    logits = output if isinstance(output, Tensor) else output.logits
    return F.cross_entropy(logits.transpose(1, 2), windows[:, 1:], reduction="none")
