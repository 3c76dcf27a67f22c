"""AdamW with a learning rate and a weight decay per replica, gradient clipping per replica, and the schedule that all share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from archsweep.training.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Callable

    from archsweep.config import ExperimentConfig, Replica
    from archsweep.training.replicas import ReplicaStack


class _Part(NamedTuple):
    """One replica's matrices or its other weights."""

    buffers: list[list[Tensor]]  # weights, gradients, first and second moments as lists of one, as `adamw` takes them; all are views
    steps: list[Tensor]
    row: int
    learning_rate: float
    weight_decay: float


class ReplicaAdamW:
    """torch's fused AdamW over a stack: each replica's row is two parameters (decayed or not) with its own settings.

    The kernel itself unscales, clips, and leaves out who must not step, each replica by its own numbers, without a pass over the gradients
    and without waiting for the device.
    """

    def __init__(self, stack: ReplicaStack, config: ExperimentConfig, total_steps: int) -> None:
        self._stack, self._config = stack, config
        self._schedule = schedule(config, total_steps)
        self.guard = Guard(len(stack), stack.precision, config.vocab_size, total_steps, stack.device)
        self._first, self._second = torch.zeros_like(stack.weights), torch.zeros_like(stack.weights)
        self._steps = torch.zeros((len(stack), 2), device=stack.device)
        self._parts = [part for row, replica in enumerate(stack.replicas) for part in self._split(row, replica)]

    def _split(self, row: int, replica: Replica) -> list[_Part]:
        buffers = (self._stack.weights, self._stack.gradients, self._first, self._second)
        parts = ((slice(0, self._stack.decayed), replica.weight_decay), (slice(self._stack.decayed, None), 0.0))
        return [
            _Part([[buffer[row, part]] for buffer in buffers], [self._steps[row, index]], row, replica.learning_rate, decay)
            for index, (part, decay) in enumerate(parts)
        ]

    @torch.no_grad()
    def step(self, index: int, losses: Tensor | None = None) -> None:
        """Take optimizer step `index` (from 0) with the gradients that are there.

        `losses` (K,) tell which replicas have diverged; left out, only their gradients do. The gradients are those of the losses times
        `guard.scale`.
        """
        scale = self.guard.scale
        norms = torch.linalg.vector_norm(self._stack.gradients, dim=1) / scale  # (K,)
        skips = self.guard.skips(index, torch.zeros_like(norms) if losses is None else losses, norms).to(torch.float32)
        divisors = scale
        if self._config.grad_clip:  # as torch.nn.utils.clip_grad_norm_, a replica at a time
            divisors = scale / (self._config.grad_clip / (norms + 1e-6)).clamp(max=1.0)
        factor = self._schedule(index)
        beta1, beta2 = self._config.betas
        for part in self._parts:
            weights, gradients, first, second = part.buffers
            adamw(
                weights, gradients, first, second, [], part.steps,
                lr=part.learning_rate * factor, weight_decay=part.weight_decay, beta1=beta1, beta2=beta2, eps=1e-8,
                grad_scale=divisors[part.row], found_inf=skips[part.row], fused=True, amsgrad=False, maximize=False,
            )  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs to know."""
        return {"first_moments": self._first, "second_moments": self._second, "steps": self._steps, **self.guard.state()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` returned."""
        self._first.copy_(state["first_moments"])
        self._second.copy_(state["second_moments"])
        self._steps.copy_(state["steps"])
        self.guard.load(state)


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
