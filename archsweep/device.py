"""What this machine trains on, asked without torch: its processors and its GPUs, by the names that records give them."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

_ASK = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]  # memory in MiB


class Gpu(NamedTuple):
    """A GPU by its driver's name for it, with its memory in bytes."""

    name: str
    memory: int


class Node(NamedTuple):
    """A machine that trials run on: its processors, by their name, and its GPUs."""

    processor_name: str
    processors: int
    gpus: tuple[Gpu, ...]


def gpus(*, hidden: bool = False) -> list[Gpu]:
    """The GPUs that torch would see: those of the driver, less what CUDA_VISIBLE_DEVICES hides, unless `hidden` ones count too; none for a
    CPU build of torch."""
    with suppress(PackageNotFoundError):
        if version("torch").endswith("+cpu"):
            return []
    try:
        lines = subprocess.run(_ASK, capture_output=True, text=True, check=True, timeout=10).stdout.splitlines()
        found = [Gpu(name.strip(), _bytes(memory.strip())) for name, memory in (line.rsplit(",", 1) for line in lines)]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or hidden:
        return found
    chosen = []
    for word in map(str.strip, visible.split(",")):
        number = int(word) if word.isdigit() else 0 if word.startswith(("GPU-", "MIG-")) else len(found)
        if number >= len(found):
            break  # what is no GPU hides all that follow
        chosen.append(found[number])
    return chosen


def _bytes(memory: str) -> int:
    """From the driver's MiB; of a GPU that has none of its own, the machine's."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if memory == "[N/A]" else int(memory) * 2**20


def processor_name() -> str:
    """What the processor calls itself."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def processors() -> int:
    """Those that this process may use; a batch system often gives fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
