"""CUDA graphs: a training step whose kernels are started one by one, against one that is recorded and replayed."""

from __future__ import annotations

import itertools
from statistics import median
from typing import TYPE_CHECKING

import torch

from archsweep.training.experiment import ArchitectureExperiment
from archsweep.training.precision import device_name
from benchmarks.timing import alternate, header, ratios
from search_spaces.bases import SMALL, TINY

if TYPE_CHECKING:
    from collections.abc import Callable

    from archsweep.config import ExperimentConfig

STEPS, ROUNDS = 20, 5
LARGER = TINY.copy(num_heads=4, num_layers=4, head_dim=32, context_length=128, batch_tokens=1024)
CASES = {
    "TINY": (TINY, 1),
    "TINY, a stack of 8": (TINY, 8),
    "TINY, a stack of 24": (TINY, 24),
    "4 x 128, a stack of 8": (LARGER, 8),
    "SMALL": (SMALL, 1),
}


def main() -> None:
    """Print a step's milliseconds both ways and their ratio, for models of several sizes."""
    print(header(f"CUDA graphs: how many times faster a replayed step is (smallest, median, largest of {ROUNDS} rounds)", 1))
    if not torch.cuda.is_available():
        print("This needs a CUDA device, and torch sees none: nothing was measured.")
        return
    print(device_name(torch.device("cuda")))
    for name, (config, replicas) in CASES.items():
        seconds = alternate({"replayed": _trainer(config, replicas, True), "one by one": _trainer(config, replicas, False)}, ROUNDS)
        low, middle, high = ratios(seconds, "replayed", "one by one")
        replayed, started = (1e3 * median(times) / STEPS for times in seconds.values())
        print(f"{name:>22}: {started:6.2f} ms, replayed {replayed:6.2f} ms, {low:.2f} {middle:.2f} {high:.2f}", flush=True)


def _trainer(config: ExperimentConfig, replicas: int, replays: bool) -> Callable[[], object]:
    """A function that takes the next steps of a stack."""
    config = config.copy(max_tokens=1_000 * config.tokens_per_step)  # too short to be compiled
    stack = [config.replica.model_copy(update={"seed": seed}) for seed in range(replicas)]
    experiment = ArchitectureExperiment(config, stack, stack_size=replicas)
    experiment.setup()
    (running,) = experiment.stacks
    if not replays:
        running.stack._replays = None
    starts = itertools.count(step=STEPS)

    def train() -> None:
        first = next(starts)
        running.train(first, first + STEPS)

    return train


if __name__ == "__main__":
    main()
