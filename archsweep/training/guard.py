"""Who takes the next step: fp16's loss scale for each replica, and the replicas that have diverged."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# torch.amp.GradScaler's own defaults.
FIRST_SCALE, GROWTH, BACKOFF, GROWTH_INTERVAL = 2.0**16, 2.0, 0.5, 2000
SMALLEST_SCALE = 1.0  # below it an overflow is the model's, not the format's

MARGIN = 1.0  # nats above the loss of guessing
SHORTEST_PATIENCE, PATIENCE_SHARE = 20, 0.1  # steps in a row that a loss may stay there, and their share of the run

_CAUSES = ("", "the loss was no longer a finite number", "the gradient was no longer finite", "the loss stayed above that of guessing")


class Divergence(NamedTuple):
    """When a replica was frozen (counted from step 1), its last finite training loss, and why."""

    step: int
    last_loss: float | None
    cause: str

    @property
    def reason(self) -> str:
        last = "there was no finite one before" if self.last_loss is None else f"the last one was {self.last_loss:.4g}"
        return f"{self.cause} at step {self.step}; {last}"


class Guard:
    """State of K replicas, all of it on the device: a step asks and updates it without waiting for the device.

    A replica diverges where its loss or gradient is not finite (with fp16: and its loss scale cannot get smaller), or where its loss stays
    more than MARGIN above ln(vocab_size) for a tenth of the run. From then on it takes no step: its weights stay as they are.
    """

    def __init__(self, replicas: int, precision: str, vocab_size: int, total_steps: int, device: torch.device) -> None:
        self._fp16 = precision == "fp16"
        self._limit = math.log(vocab_size) + MARGIN
        self._patience = max(SHORTEST_PATIENCE, round(PATIENCE_SHARE * total_steps))
        self.scale = torch.full((replicas,), FIRST_SCALE if self._fp16 else 1.0, device=device)
        self._clean_steps = torch.zeros(replicas, dtype=torch.int64, device=device)
        self._steps_above = torch.zeros_like(self._clean_steps)
        self._diverged_at = torch.zeros_like(self._clean_steps)  # 0: not
        self._cause = torch.zeros_like(self._clean_steps)
        self._last_loss = torch.full((replicas,), math.nan, device=device)

    def skips(self, step: int, losses: Tensor, norms: Tensor) -> Tensor:
        """Which replicas must not take step `step` (from 0), of which these (K,) losses and gradient norms are: (K,) bool.

        Updates the loss scales, so the gradients must have been unscaled by `scale` before.
        """
        finite_loss = torch.isfinite(losses)
        finite = finite_loss & torch.isfinite(norms)
        self._steps_above = torch.where(losses > self._limit, self._steps_above + 1, self._steps_above * ~finite_loss)
        lost = ~finite & (self.scale <= SMALLEST_SCALE) if self._fp16 else ~finite
        hopeless = self._steps_above >= self._patience
        alive = self._diverged_at == 0
        now = alive & (lost | hopeless)
        self._diverged_at = torch.where(now, step + 1, self._diverged_at)
        self._cause = torch.where(now, torch.where(lost, torch.where(finite_loss, 2, 1), 3), self._cause)
        self._last_loss = torch.where(alive & finite_loss, losses, self._last_loss)
        if self._fp16:
            self._rescale(finite)
        return ~finite | (self._diverged_at > 0)

    def _rescale(self, finite: Tensor) -> None:
        """GradScaler's rule, replica by replica: half after an overflow, twice after GROWTH_INTERVAL steps without one."""
        self._clean_steps = torch.where(finite, self._clean_steps + 1, 0)
        grows = self._clean_steps >= GROWTH_INTERVAL
        self.scale = torch.where(finite, torch.where(grows, self.scale * GROWTH, self.scale), self.scale * BACKOFF)
        self._clean_steps = torch.where(grows, 0, self._clean_steps)

    @property
    def alive(self) -> Tensor:
        """(K,) bool: the replicas that have not diverged."""
        return self._diverged_at == 0

    def divergences(self) -> list[Divergence | None]:
        """Each replica's divergence, None where it has none. Waits for the device."""
        steps, causes, losses = self._diverged_at.tolist(), self._cause.tolist(), self._last_loss.tolist()
        return [
            Divergence(step, loss if math.isfinite(loss) else None, _CAUSES[cause]) if step else None
            for step, cause, loss in zip(steps, causes, losses, strict=True)
        ]

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs to know."""
        return {name: getattr(self, name) for name in _STATE}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` returned."""
        for name in _STATE:
            setattr(self, name, state[name].to(self.scale.device))


_STATE = ("scale", "_clean_steps", "_steps_above", "_diverged_at", "_cause", "_last_loss")
