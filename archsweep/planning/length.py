"""The budget solver of lengths: chooses max_tokens, in whole steps, so that every variant takes the budget's FLOPs, tokens or seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from archsweep.errors import ConfigError
from archsweep.planning import cost

if TYPE_CHECKING:
    from archsweep.config import ExperimentConfig
    from archsweep.vocabulary import Budget

Speed = Callable[["ExperimentConfig"], float]  # seconds that one training token of one replica takes


def solve_length(config: ExperimentConfig, budget: Budget, speed: Speed | None) -> ExperimentConfig | str:
    """`config` with the max_tokens nearest the budget, or the reason why no whole number of steps is within the tolerance.

    `speed` is what was measured on this machine, which a budget of seconds needs.
    """
    step = config.tokens_per_step * _per_token(config, budget, speed)
    steps = max(1, round(budget.target / step))
    if not budget.allows(steps * step):
        return _why_not(budget, step, steps)
    try:
        return config.copy(max_tokens=steps * config.tokens_per_step)
    except ConfigError as error:  # num_epochs needs more steps than the budget makes
        return str(error)


def _per_token(config: ExperimentConfig, budget: Budget, speed: Speed | None) -> float:
    """What one token of one replica adds to the budget's quantity."""
    if budget.kind == "train_seconds":
        assert speed is not None, "whoever plans seconds measures first"
        return speed(config)
    return cost.flops_per_token(config) if budget.kind == "flops" else 1


def _why_not(budget: Budget, step: float, steps: int) -> str:
    """One step too many or too few misses by more than the tolerance, so a step is what is too large."""
    reached = steps * step
    return (
        f"{budget.kind} must be {budget}; the nearest that whole steps of {budget.amount(step)} each reach is {budget.amount(reached)}, "
        f"with {steps} step{'s' if steps > 1 else ''}. Take that for the target, raise the tolerance, or make a step smaller by "
        "batch_size, gradient_accumulation_steps or context_length."
    )
