"""A metric: the loss by how much text a model has seen before it predicts, `metrics=("search_spaces.positions:loss_by_position",)`."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EDGES = (0, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
WINDOWS_AT_ONCE = 256


def loss_by_position(model: nn.Module, windows: Tensor) -> dict[str, float]:
    """Mean loss (nats/token) of each octave of positions in the windows, (windows, time + 1) token ids."""
    losses = torch.cat([_losses(model, part) for part in torch.split(windows, WINDOWS_AT_ONCE)]).mean(0)
    spans = [(first, min(last, len(losses))) for first, last in pairwise(EDGES) if first < len(losses)]
    return {f"{first + 1}-{last}": float(losses[first:last].mean()) for first, last in spans}


def _losses(model: nn.Module, windows: Tensor) -> Tensor:
    """(windows, time)"""
    output = model(windows[:, :-1])
    logits = output if isinstance(output, Tensor) else output.logits
    return F.cross_entropy(logits.transpose(1, 2), windows[:, 1:], reduction="none")
