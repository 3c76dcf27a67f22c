"""Page faults: what a step costs while glibc returns freed memory to the system, and while it keeps it."""

from __future__ import annotations

import resource
import subprocess
import sys
from statistics import median
from time import perf_counter

import torch

from archsweep.config import ExperimentConfig, Replica
from archsweep.training.allocator import keep_freed_memory
from archsweep.training.experiment import ArchitectureExperiment
from benchmarks.timing import header

ROUNDS, PIECES, STEPS = 5, 9, 4
SHAPES = {"2 x 48, 6 replicas": (2, 4, 48, 64, 6), "4 x 128": (4, 4, 128, 128, 1), "6 x 320": (6, 5, 320, 128, 1)}


def main() -> None:
    """Print for each shape the ratio of a step's time by default to that with memory kept: processes take turns, the median of rounds."""
    print(header("Page faults: a step's time by default over that with freed memory kept", 1))
    for name in SHAPES:
        pairs = [[_process(name, kept) for kept in (False, True)] for _ in range(ROUNDS)]
        ratios = sorted(usual[0] / kept[0] for usual, kept in pairs)
        faults = [median(pair[side][1] for pair in pairs) for side in (0, 1)]
        print(
            f"{name:>20}: {ratios[0]:.2f} {median(ratios):.2f} {ratios[-1]:.2f}   page faults a step: {faults[0]:,.0f}, {faults[1]:,.0f}",
            flush=True,
        )


def _process(name: str, kept: bool) -> tuple[float, float]:
    """Median seconds and page faults of a step in a process of its own."""
    command = f"from benchmarks.allocator import measure; measure({name!r}, {kept})"
    done = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True, text=True)
    seconds, faults = map(float, done.stdout.split())
    return seconds, faults


def measure(name: str, kept: bool) -> None:
    """Print them."""
    torch.set_num_threads(1)
    if kept:
        keep_freed_memory()
    layers, heads, width, context, replicas = SHAPES[name]
    config = ExperimentConfig(
        num_layers=layers, num_heads=heads, hidden_size=width, context_length=context, vocab_size=512, batch_size=8, max_tokens=10**8
    )
    stack = [Replica(seed=seed, learning_rate=1e-3, weight_decay=0.1) for seed in range(replicas)]
    experiment = ArchitectureExperiment(config, stack, stack_size=replicas)
    experiment.setup()
    (running,) = experiment.stacks
    running.train(0, STEPS)
    before, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, []
    for piece in range(1, PIECES + 1):
        started = perf_counter()
        running.train(piece * STEPS, (piece + 1) * STEPS)
        seconds.append((perf_counter() - started) / STEPS)
    faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / (PIECES * STEPS)
    print(median(seconds), faults)


if __name__ == "__main__":
    main()
