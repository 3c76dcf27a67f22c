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
_BOARD = re.compile(r"GPU \d+: (?P<name>.*) \(UUID: (?P<uuid>[^)]+)\)")
_SLICE = re.compile(r"\s*MIG (?P<profile>\S+?(?P<gigabytes>\d+)gb\S*)\s.*\(UUID: (?P<uuid>[^)]+)\)")
_SLICE_GIGABYTE = 95 * 10**7  # of a profile's name, at the least: an H200's 1g.18gb has 17.2e9 bytes, an A100's 3g.20gb 20.9e9


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
    CPU build of torch. A board that is cut into MIG devices is its first one, unless another one is named."""
    with suppress(PackageNotFoundError):
        if version("torch").endswith("+cpu"):
            return []
    try:
        boards, slices = _boards(), _slices()
        whole = {uuid: next(iter(slices.get(uuid, {}).values()), None) or Gpu(name, _bytes(size)) for uuid, (name, size) in boards.items()}
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or hidden:
        return list(whole.values())
    return _named(visible, whole, {uuid: gpu for own in slices.values() for uuid, gpu in own.items()})


def _named(visible: str, boards: dict[str, Gpu], slices: dict[str, Gpu]) -> list[Gpu]:
    """Those that CUDA_VISIBLE_DEVICES names, as torch reads it: all by their numbers, all by their UUIDs or the beginnings of these, or all
    by MIG devices' UUIDs. What names none hides all that follow, and one that is named twice hides all."""
    named = {"GPU-": boards, "MIG-": slices}.get(visible.strip()[:4])
    chosen: dict[str, Gpu] = {}
    for word in map(str.strip, visible.split(",")):
        if named is None:
            found = list(boards.items())[int(word) : int(word) + 1] if word.isdigit() else []
        else:
            found = [(uuid, gpu) for uuid, gpu in named.items() if len(word) > 4 and uuid.startswith(word)]
        if len(found) != 1:
            break
        if found[0][0] in chosen:
            return []
        chosen |= found
    return list(chosen.values())


def _boards() -> dict[str, tuple[str, str]]:
    """The driver's boards by their UUIDs, in its order: their names, and what it says of their memory."""
    rows = [[part.strip() for part in line.split(",")] for line in _said(_BOARDS)]
    return {uuid: (name, memory) for uuid, name, memory in rows}


def _slices() -> dict[str, dict[str, Gpu]]:
    """The MIG devices by their UUIDs, for each board that is cut into some; named as CUDA names them."""
    found: dict[str, dict[str, Gpu]] = {}
    name = uuid = ""
    for line in _said(_SLICES):
        if board := _BOARD.match(line):
            name, uuid = board["name"], board["uuid"]
        elif cut := _SLICE.match(line):
            memory = int(cut["gigabytes"]) * _SLICE_GIGABYTE
            found.setdefault(uuid, {})[cut["uuid"]] = Gpu(f"{name} MIG {cut['profile']}", memory)
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
