"""What a device can do, and what it draws: peak FLOP/s from the data sheets, joules from its own counter."""

from __future__ import annotations

import math
import os
import re
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal, Self

import torch

from archsweep.errors import MachineError

if TYPE_CHECKING:
    from types import TracebackType

PEAK_FLOPS_VARIABLE = "ARCHSWEEP_PEAK_FLOPS"

Products = Literal["fp32", "tf32", "bf16", "fp16"]

# What a device calls itself -> TFLOP/s in fp32, tf32, bf16, fp16; the first that matches, so the variants of a chip come before it.
_PEAKS: tuple[tuple[str, tuple[float, float, float | None, float]], ...] = (
    (r"V100S", (16.4, 16.4, None, 130)),
    (r"V100.*PCIE", (14, 14, None, 112)),
    (r"V100", (15.7, 15.7, None, 125)),
    (r"T4", (8.1, 8.1, None, 65)),
    (r"A10", (31.2, 62.5, 125, 125)),
    (r"A100", (19.5, 156, 312, 312)),
    (r"L4", (30.3, 60, 121, 121)),
    (r"L40S", (91.6, 183, 362, 362)),
    (r"RTX 3090", (35.6, 35.6, 71, 71)),
    (r"RTX 4090", (82.6, 82.6, 165.2, 165.2)),
    (r"H100 PCIe", (51, 378, 756.5, 756.5)),
    (r"H[12]00 NVL", (60, 417.5, 835.5, 835.5)),
    (r"H[12]00", (67, 494.5, 989.5, 989.5)),
    (r"B200", (75, 1100, 2250, 2250)),
)
_OTHER_CHIPS = r"\b(Ti|D|Laptop|Max-Q|MIG)\b"  # of the same number, or a slice of one


def peak_flops(device_name: str, precision: Products) -> float | None:
    """FLOP/s of dense matrix products on the device that calls itself `device_name`; None where that is not known, as of every CPU.

    From NVIDIA's data sheets (V100, V100S, T4, A10, A100, L4, L40S, H100, H200, HGX B200) and white papers (Ampere GA102 and Ada for the
    RTX cards, with accumulation in float32); sheets that give a rate with sparsity are halved. A GPU without TF32 computes fp32 instead.
    ARCHSWEEP_PEAK_FLOPS, a number of FLOP/s, has the last word. Raises MachineError where it is none.
    """
    if (given := os.environ.get(PEAK_FLOPS_VARIABLE)) is not None:
        return _positive(given)
    for pattern, peaks in _PEAKS:
        if re.search(rf"\b{pattern}\b", device_name) and not re.search(_OTHER_CHIPS, device_name):
            peak = dict(zip(("fp32", "tf32", "bf16", "fp16"), peaks, strict=True))[precision]
            return None if peak is None else peak * 1e12
    return None


def _positive(given: str) -> float:
    try:
        peak = float(given)
    except ValueError:
        peak = math.nan
    if not 0 < peak < math.inf:
        raise MachineError(f"{PEAK_FLOPS_VARIABLE} must be a number of FLOP/s above 0, got {given!r}. Write it as 312e12, or unset it.")
    return peak


class EnergyMeter:
    """The joules that a GPU draws within a `with` block, by NVML's total energy counter: of the whole board, whoever uses it.

    The counter moves every 20 to 100 ms, on Volta and later. It counts nothing for a CPU, for a slice of a GPU (MIG), or where NVML or
    the package nvidia-ml-py is missing; `joules` is then None.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._nvml: Any = None
        self._handle: Any = None
        self._start: float | None = None
        self._end: float | None = None
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        self._end = None
        self._open()
        self._start = self._read()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end = self._read()
        self._handle = None
        self._exit.close()

    def joules(self) -> float | None:
        """Joules since the block was entered, up to now or to its end; None where nothing counts them."""
        end = self._read() if self._handle is not None else self._end
        return None if self._start is None or end is None else end - self._start

    def _open(self) -> None:
        """Find the board by its UUID, which names the same one whatever CUDA_VISIBLE_DEVICES makes of the order."""
        if self._device.type != "cuda":
            return
        try:
            import pynvml
        except ImportError:
            return
        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
            self._exit.callback(pynvml.nvmlShutdown)
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(self._device).uuid}")
        except pynvml.NVMLError:
            self._handle = None

    def _read(self) -> float | None:
        """The counter, in joules."""
        if self._handle is None:
            return None
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000
        except self._nvml.NVMLError:
            return None
