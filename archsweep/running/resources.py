"""What one trial asks of a machine: its processors, and the share of a GPU that its memory needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from archsweep.errors import MachineError
from archsweep.planning.memory import process_bytes, stack_memory_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from archsweep.planning.plan import Trial

MOST_TRIALS_PER_GPU = 8  # more of them wait for each other's kernels instead of filling gaps
ASSUMED_GPU_BYTES = 16_000_000_000  # where a GPU does not say how large it is


class Resources(NamedTuple):
    """A trial's request: whole processors, and a GPU's share (whole GPUs from 1 on)."""

    cpus: int
    gpus: float


def request(trial: Trial, use_gpu: bool, gpu_bytes: int = ASSUMED_GPU_BYTES) -> Resources:
    """One processor; with a GPU, the smallest share 1/n of which n such trials fit, so that they tile the device."""
    if not use_gpu or trial.config.device == "cpu":
        return Resources(1, 0)
    return Resources(1, share(process_bytes(trial.memory_bytes), gpu_bytes))


def larger(asked: Resources) -> Resources:
    """What a trial that ran out of its share of a GPU asks for next."""
    return asked._replace(gpus=min(1.0, 2 * asked.gpus))


def fitting(resources: Resources, node: Mapping[str, float]) -> int:
    """How many such requests a node, by its CPU and GPU counts, holds at once."""
    by_cpus = int(node.get("CPU", 0) // resources.cpus)
    if not resources.gpus:
        return by_cpus
    gpus = int(node.get("GPU", 0))
    by_gpus = gpus // int(resources.gpus) if resources.gpus >= 1 else gpus * int(1 / resources.gpus + 1e-9)
    return min(by_cpus, by_gpus)


def check_some_node_holds(resources: Resources, nodes: Sequence[Mapping[str, float]]) -> None:
    """Raises MachineError for a request that no node, by its CPU and GPU counts, could ever hold; Ray would wait forever for one."""
    if not any(fitting(resources, node) for node in nodes):
        largest = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
        raise MachineError(
            f"a trial needs {resources.cpus} CPUs and {resources.gpus:g} GPUs on one node, and the nodes have {largest}. "
            "Raise --num-cpus or --num-gpus, or name a larger cluster with --address."
        )


def check_some_gpu_holds(trials: Sequence[Trial], gpus: Sequence[int], *, whole: bool = False) -> None:
    """Raises MachineError for a model that no GPU (memories in bytes) could train, whatever its batch: nothing is predicted here. Where
    trials stay `whole`, all the replicas of one are there at once."""
    largest = max(trials, key=lambda trial: _resident(trial, whole))
    if gpus and (needed := _resident(largest, whole)) > max(gpus):
        replicas = f"{len(largest.replicas)} replicas, which stay together," if whole and len(largest.replicas) > 1 else "one replica"
        raise MachineError(
            f"{largest.label} needs {needed / 1e9:.1f} GB of a GPU for the weights, gradients and optimizer of {replicas} alone, and the "
            f"largest GPU has {max(gpus) / 1e9:.1f} GB. Ask about smaller models, or name a cluster with larger GPUs by --address."
        )


def _resident(trial: Trial, whole: bool) -> int:
    """Bytes that stay on the device from the first step to the last, in float32."""
    memory = stack_memory_bytes(trial.config, len(trial.replicas) if whole else 1, precision="fp32")
    return memory.weights + memory.gradients + memory.optimizer


def share(needed: int, gpu_bytes: int) -> float:
    """The smallest share 1/n of a GPU of which n such needs (bytes) fit into it."""
    tiles = max(1, min(MOST_TRIALS_PER_GPU, gpu_bytes // needed))
    return int(10_000 / tiles) / 10_000  # Ray counts GPUs in ten-thousandths; rounded down, n shares always fit


def largest_request(trials: Sequence[Trial], use_gpu: bool, gpu_bytes: int = ASSUMED_GPU_BYTES) -> Resources:
    """What the trial that asks for most asks for."""
    return max((request(trial, use_gpu, gpu_bytes) for trial in trials), key=lambda resources: (resources.gpus, resources.cpus))
