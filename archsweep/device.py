"""What this machine trains on, asked without torch: its processors and its GPUs, by the names that records give them."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

_BOARDS = ["nvidia-smi", "--query-gpu=uuid,name,memory.total", "--format=csv,noheader,nounits"]  # memory in MiB
_SLICES = ["nvidia-smi", "-L"]  # boards, and below each the MIG devices that it is cut into
_SLICE = re.compile(r"\s+MIG (?P<profile>\S+?(?P<gigabytes>\d+)gb\S*)\s.*\(UUID: (?P<uuid>MIG-[^)]+)\)")


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
    boards = _boards()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or hidden:
        return list(boards.values())
    chosen = []
    for word in map(str.strip, visible.split(",")):
        if (gpu := _named(word, boards)) is None:
            break  # what is no GPU hides all that follow
        chosen.append(gpu)
    return chosen


def _boards() -> dict[str, Gpu]:
    """The driver's GPUs by their UUIDs, in its order."""
    try:
        rows = [[part.strip() for part in line.split(",")] for line in _said(_BOARDS)]
        return {uuid: Gpu(name, _bytes(memory)) for uuid, name, memory in rows}
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}


def _named(word: str, boards: dict[str, Gpu]) -> Gpu | None:
    """The GPU that a word of CUDA_VISIBLE_DEVICES names: by its number, its UUID or the beginning of that, or a MIG device's UUID."""
    if word.isdigit():
        return dict(enumerate(boards.values())).get(int(word))
    named = _slices(boards) if word.startswith("MIG-") else boards if word.startswith("GPU-") else {}
    found = [gpu for uuid, gpu in named.items() if uuid.startswith(word)]
    return found[0] if len(found) == 1 else None


def _slices(boards: dict[str, Gpu]) -> dict[str, Gpu]:
    """The MIG devices by their UUIDs, named as CUDA names them; a profile's gigabytes are a little less than its memory."""
    found, board = {}, ""
    with suppress(OSError, subprocess.SubprocessError):
        for line in _said(_SLICES):
            board = next((gpu.name for uuid, gpu in boards.items() if uuid in line), board)
            if cut := _SLICE.match(line):
                found[cut["uuid"]] = Gpu(f"{board} MIG {cut['profile']}", int(cut["gigabytes"]) * 10**9)
    return found


def _said(command: list[str]) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.splitlines()


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
