"""Alternating measurements: contenders take turns within one run, so that a noisy machine is noisy for all of them."""

from __future__ import annotations

import os
import platform
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def alternate(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in each of `rounds` rounds, after one round that is thrown away."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            started = perf_counter()
            contender()
            if number:
                seconds[name].append(perf_counter() - started)
    return seconds


def ratios(seconds: Mapping[str, list[float]], ours: str, peer: str) -> tuple[float, float, float]:
    """How many times faster `ours` is than `peer`, round by round: smallest, median, largest."""
    each = [theirs / own for theirs, own in zip(seconds[peer], seconds[ours], strict=True)]
    return min(each), median(each), max(each)


def header(title: str, threads: int) -> str:
    """What was measured, and on what."""
    cpu = next((line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    return f"\n{title}\n{cpu}, {os.cpu_count()} cores, {threads} thread(s), torch {torch.__version__}, Python {platform.python_version()}"


def _cpuinfo() -> list[str]:
    try:
        with open("/proc/cpuinfo") as file:
            return file.read().splitlines()
    except OSError:
        return []
