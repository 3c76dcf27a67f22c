"""K replicas fused, against the same K one after another on one core, and against K processes at once: where a stack should stop."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import sys
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import torch

from archsweep.config import ExperimentConfig, Replica
from archsweep.training.experiment import ArchitectureExperiment
from archsweep.training.precision import device_name
from archsweep.training.replicas import choose_stack_size
from benchmarks.timing import alternate, header, ratios

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from multiprocessing.connection import Connection

STEPS, ROUNDS = (8 if torch.cuda.is_available() else 4), 7
STACKS = (1, 2, 4, 8, 16)


class Shape(NamedTuple):
    """A model's, with its windows' length."""

    layers: int
    hidden: int
    ffn: int
    context: int = 64


# Shapes of about TINY's size, and a larger one; TINY's batch has 8 windows of 64 tokens.
SHAPES = {"1 x 92": Shape(1, 92, 352), "2 x 64": Shape(2, 64, 256), "4 x 44": Shape(4, 44, 189), "4 x 128": Shape(4, 128, 512)}
ON_A_GPU = {
    "2 x 48": (Shape(2, 48, 192), 8),
    "4 x 128": (Shape(4, 128, 512, 128), 8),
    "4 x 128, longer": (Shape(4, 128, 512, 256), 16),
    "6 x 256": (Shape(6, 256, 1024, 256), 16),
    "6 x 384": (Shape(6, 384, 1536, 256), 64),
}


def main(batch_sizes: tuple[int, ...] = (4, 8, 16)) -> None:
    """Print, for each shape and batch, how many times faster K replicas train as one stack than one by one, and than as K processes."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(header(f"K replicas as one stack: speed over the same in sequence (median of {ROUNDS} rounds)", 1))
    by_shape = itertools.product(SHAPES.items(), batch_sizes)
    cases = list(ON_A_GPU.items()) if device.type == "cuda" else [(name, (shape, batch)) for (name, shape), batch in by_shape]
    if device.type == "cuda":
        print(device_name(device))
    print(f"{'layers x width':>16} {'tokens/step':>12}  {_cells(f'K={size}' for size in STACKS)}  chosen of 16   ms alone")
    for name, (shape, batch_size) in cases:
        config = _config(shape, batch_size)
        medians, alone = {}, 0.0
        for size in STACKS:
            seconds = alternate({"fused": _trainer(config, size, size), "sequence": _trainer(config, size, 1)}, ROUNDS)
            medians[size] = ratios(seconds, "fused", "sequence")[1]
            alone = alone or median(seconds["sequence"]) / STEPS
        chosen = choose_stack_size(config, max(STACKS), device)
        found = _cells(f"{ratio:.2f}" for ratio in medians.values())
        print(f"{name:>16} {batch_size * shape.context:>12}  {found}  {chosen:<12}  {1e3 * alone:6.2f}", flush=True)
    if device.type == "cpu":  # on a GPU see benchmarks/packing.py
        against_processes()


def against_processes() -> None:
    """Print, for each shape, how many times faster K replicas train as one stack in one process than as K processes at once."""
    torch.set_num_threads(1)
    print(header(f"K replicas as one stack in one process: speed over K processes at once (median of {ROUNDS} rounds)", 1))
    print(f"{'layers x width':>16} {'tokens/step':>12}  {_cells(f'K={size}' for size in STACKS)}")
    for name, shape in SHAPES.items():
        config = _config(shape, 8)
        found = [_against_processes(config, size) for size in STACKS]
        print(f"{name:>16} {8 * 64:>12}  {_cells(f'{ratio:.2f}' for ratio in found)}", flush=True)


def _cells(values: Iterable[str]) -> str:
    return "  ".join(f"{value:<6}" for value in values)


def _config(shape: Shape, batch_size: int) -> ExperimentConfig:
    return ExperimentConfig(
        num_layers=shape.layers, num_heads=2, hidden_size=shape.hidden, ffn_size=shape.ffn, context_length=shape.context,
        batch_size=batch_size, max_tokens=4_000 * batch_size * shape.context,  # long enough to be recorded, too short to be compiled
    )  # fmt: skip


def _trainer(config: ExperimentConfig, count: int, stack_size: int) -> Callable[[], object]:
    """A function that trains `count` replicas for the next few steps, in stacks of `stack_size`."""
    replicas = [Replica(seed=seed, learning_rate=1e-3, weight_decay=0.1) for seed in range(count)]
    experiment = ArchitectureExperiment(config, replicas, stack_size=stack_size)
    experiment.setup()
    steps = itertools.count(step=STEPS)

    def train() -> None:
        first = next(steps)
        for running in experiment.stacks:
            running.train(first, first + STEPS)

    return train


def _against_processes(config: ExperimentConfig, count: int) -> float:
    """Median speed of one stack of `count`, over `count` processes of one replica each that start together; the slowest one counts."""
    fused = _trainer(config, count, count)
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads
    pipes = [context.Pipe() for _ in range(count)]
    processes = [context.Process(target=_serve, args=(config, theirs), daemon=True) for _, theirs in pipes]
    for process in processes:
        process.start()
    for ours, _ in pipes:
        ours.recv()  # it is ready

    def together() -> None:
        for ours, _ in pipes:
            ours.send("train")
        for ours, _ in pipes:
            ours.recv()

    rounds: list[float] = []
    for number in range(ROUNDS + 1):
        started = perf_counter()
        fused()
        between = perf_counter()
        together()
        if number:
            rounds.append((perf_counter() - between) / (between - started))
    for (ours, _), process in zip(pipes, processes, strict=True):
        ours.send("stop")
        process.join()
    return median(rounds)


def _serve(config: ExperimentConfig, pipe: Connection) -> None:
    """One replica in a process of its own: trains a few steps whenever it is told to."""
    torch.set_num_threads(1)
    train = _trainer(config, 1, 1)
    train()
    pipe.send(os.getpid())
    while pipe.recv() == "train":
        train()
        pipe.send(os.getpid())


if __name__ == "__main__":
    main(tuple(int(size) for size in sys.argv[1:]) or (4, 8, 16))
