"""K fused replicas against the same K one after another, on one core: where a stack should stop."""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING

import torch

from archsweep.config import ExperimentConfig, Replica
from archsweep.training.experiment import ArchitectureExperiment
from archsweep.training.replicas import choose_stack_size
from benchmarks.timing import alternate, header, ratios

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS, ROUNDS = 4, 9
REPLICAS = 6
STACKS = (2, 3, 6)
# Shapes of about TINY's size, and a larger one; TINY's batch has 8 windows of 64 tokens.
SHAPES = {"1 x 92": (1, 92, 352), "2 x 64": (2, 64, 256), "4 x 44": (4, 44, 189), "4 x 128": (4, 128, 512)}


def main(batch_sizes: tuple[int, ...] = (4, 8, 16)) -> None:
    """Print, for each shape, how many times faster six replicas train in stacks of K than one by one."""
    torch.set_num_threads(1)
    print(header(f"{REPLICAS} replicas in stacks of K: speed over the same in sequence (median of {ROUNDS} rounds)", 1))
    print(f"{'layers x width':>16} {'tokens/step':>12}  " + "  ".join(f"K={size:<4}" for size in STACKS) + "  chosen K")
    for (name, (layers, hidden, ffn)), batch_size in itertools.product(SHAPES.items(), batch_sizes):
        config = ExperimentConfig(
            num_layers=layers, num_heads=2, hidden_size=hidden, ffn_size=ffn, context_length=64, batch_size=batch_size, max_tokens=10**9
        )
        chosen = choose_stack_size(config, REPLICAS, torch.device("cpu"))
        contenders = {size: _trainer(config, size) for size in (1, *STACKS)}
        seconds = alternate({str(size): train for size, train in contenders.items()}, ROUNDS)
        medians = {size: ratios(seconds, str(size), "1")[1] for size in STACKS}
        cells = "  ".join(f"{ratio:<6.2f}" for ratio in medians.values())
        print(f"{name:>16} {batch_size * 64:>12}  {cells}  {chosen}", flush=True)


def _trainer(config: ExperimentConfig, stack_size: int) -> Callable[[], object]:
    """A function that trains all replicas for the next few steps, in stacks of `stack_size`."""
    replicas = [Replica(seed=seed, learning_rate=1e-3, weight_decay=0.1) for seed in range(REPLICAS)]
    experiment = ArchitectureExperiment(config, replicas, stack_size=stack_size)
    experiment.setup()
    steps = itertools.count(step=STEPS)

    def train() -> None:
        first = next(steps)
        for running in experiment.stacks:
            running.train(first, first + STEPS)

    return train


if __name__ == "__main__":
    main(tuple(int(size) for size in sys.argv[1:]) or (4, 8, 16))
