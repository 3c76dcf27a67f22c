"""AdamW with a learning rate and a weight decay per replica, gradient clipping per replica, and the schedule that all share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from archsweep.config import ExperimentConfig
    from archsweep.training.replicas import ReplicaStack


class ReplicaAdamW:
    """torch.optim.AdamW over a stack: each replica's row is two parameters (decayed or not) with its own settings."""

    def __init__(self, stack: ReplicaStack, config: ExperimentConfig, total_steps: int) -> None:
        self._stack = stack
        self._clip = config.grad_clip
        self._schedule = schedule(config, total_steps)
        groups = []
        for row, gradient, replica in zip(stack.weights, stack.gradients, stack.replicas, strict=True):
            for part, decay in ((slice(0, stack.decayed), replica.weight_decay), (slice(stack.decayed, None), 0.0)):
                parameter = torch.nn.Parameter(row[part])
                parameter.grad = gradient[part]
                groups.append({"params": [parameter], "weight_decay": decay, "lr": replica.learning_rate, "peak": replica.learning_rate})
        self._adamw = torch.optim.AdamW(groups, betas=config.betas, fused=True)

    @torch.no_grad()
    def step(self, index: int) -> None:
        """Take optimizer step `index` (from 0) with the gradients that are there, and clear them."""
        if self._clip:
            norms = torch.linalg.vector_norm(self._stack.gradients, dim=1, keepdim=True)  # (K, 1)
            self._stack.gradients.mul_((self._clip / (norms + 1e-6)).clamp(max=1.0))  # torch.nn.utils.clip_grad_norm_, a replica at a time
        factor = self._schedule(index)
        for group in self._adamw.param_groups:
            group["lr"] = group["peak"] * factor
        self._adamw.step()
        self._stack.gradients.zero_()


def schedule(config: ExperimentConfig, total_steps: int) -> Callable[[int], float]:
    """step (from 0) -> share of the peak learning rate: linear warm-up, then constant, or down to zero after the last step."""
    warmup = int(config.warmup) if config.warmup >= 1 else round(config.warmup * total_steps)
    warmup = min(warmup, total_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if config.lr_scheduler_type == "constant":
            return 1.0
        done = (step - warmup) / max(1, total_steps - warmup)
        return 1 - done if config.lr_scheduler_type == "linear" else 0.5 * (1 + math.cos(math.pi * done))

    return factor
