"""A short real measurement: how many seconds a token of a config takes on this machine, trained as its trial would train it."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from archsweep.config import ExperimentConfig, Replica

MEASURED_SECONDS = 3.0


class Probe(NamedTuple):
    """What was measured: seconds per token of one replica, where, and in what."""

    device_name: str
    precision: str
    stack_size: int
    seconds_per_token: float


def probe(work: Sequence[tuple[ExperimentConfig, Sequence[Replica]]], cache_dir: Path | None, workers: int) -> Iterator[Probe]:
    """Measure each config with its replicas, `workers` of them at a time as a sweep would run them, each in a process of its own.

    What a device's memory held is given back when it ends. Raises DataError and MachineError as training does.
    """
    with ProcessPoolExecutor(max(1, min(workers, len(work))), mp_context=get_context("spawn")) as pool:
        yield from pool.map(_probe, *zip(*((config, replicas, cache_dir) for config, replicas in work), strict=True))


def _probe(config: ExperimentConfig, replicas: Sequence[Replica], cache_dir: Path | None) -> Probe:
    """The first stack's median over half-second pieces, the only one that is there; its first two steps, which compile, fill caches and
    record, are not counted."""
    import torch

    from archsweep.training.allocator import keep_freed_memory
    from archsweep.training.experiment import HEARTBEAT_SECONDS, ArchitectureExperiment
    from archsweep.training.precision import device_name, precision_used, resolve_device
    from archsweep.training.replicas import choose_stack_size

    torch.set_num_threads(1)  # as a trial, which is granted one processor
    keep_freed_memory()
    size = choose_stack_size(config, len(replicas), resolve_device(config))
    experiment = ArchitectureExperiment(config, replicas[:size], cache_dir=cache_dir)
    experiment.setup()
    stack = experiment.stacks[0]
    stack.train(0, min(2, experiment.total_steps))
    rates: list[float] = []
    spent = 0.0
    while spent < MEASURED_SECONDS:
        steps, before = min(stack.steps_in(HEARTBEAT_SECONDS), experiment.total_steps), stack.seconds
        stack.train(0, steps)
        spent += stack.seconds - before
        rates.append((stack.seconds - before) / (steps * config.tokens_per_step * len(stack.stack)))
    device = experiment.device
    return Probe(device_name(device), precision_used(config, device), len(stack.stack), median(rates))
