"""What one trial asks of a machine: its processors, and the share of a GPU that its memory needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from archsweep.planning.plan import Trial

CUDA_CONTEXT_BYTES = 600_000_000  # what a process holds on a GPU before its first tensor
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
    needed = CUDA_CONTEXT_BYTES + len(trial.replicas) * trial.cost.memory_bytes
    tiles = max(1, min(MOST_TRIALS_PER_GPU, gpu_bytes // needed))
    return Resources(1, int(10_000 / tiles) / 10_000)  # Ray counts GPUs in ten-thousandths; rounded down, n shares always fit
