"""Peak FLOP/s by what devices call themselves, and the energy counter of NVML."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch

from archsweep.errors import MachineError
from archsweep.training.hardware import EnergyMeter, peak_flops

if TYPE_CHECKING:
    from archsweep.training.hardware import Products

CUDA = torch.device("cuda:1")
UUID = "9f7e1e2c-0f6e-4d3b-8f1d-2f8f6d1f0a11"


@pytest.fixture(autouse=True)
def _no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARCHSWEEP_PEAK_FLOPS", raising=False)


@pytest.mark.parametrize(
    ("name", "precision", "teraflops"),
    [
        ("Tesla V100-SXM2-16GB", "fp16", 125),
        ("Tesla V100-PCIE-16GB", "fp16", 112),
        ("Tesla V100S-PCIE-32GB", "fp16", 130),
        ("Tesla T4", "fp16", 65),
        ("Tesla T4", "tf32", 8.1),
        ("NVIDIA A10", "bf16", 125),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA A100 80GB PCIe", "tf32", 156),
        ("NVIDIA L4", "bf16", 121),
        ("NVIDIA L40S", "bf16", 362),
        ("NVIDIA GeForce RTX 3090", "bf16", 71),
        ("NVIDIA GeForce RTX 4090", "fp32", 82.6),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.5),
        ("NVIDIA H100 PCIe", "bf16", 756.5),
        ("NVIDIA H100 NVL", "bf16", 835.5),
        ("NVIDIA H200", "tf32", 494.5),
        ("NVIDIA H200 NVL", "fp32", 60),
        ("NVIDIA B200", "bf16", 2250),
    ],
)
def test_a_device_has_the_dense_peak_of_its_data_sheet(name: str, precision: Products, teraflops: float) -> None:
    assert peak_flops(name, precision) == pytest.approx(teraflops * 1e12)


@pytest.mark.parametrize(
    "name",
    [
        "AMD EPYC 7B13",
        "Intel(R) Xeon(R) CPU @ 2.80GHz",
        "NVIDIA A10G",
        "NVIDIA L40",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
        "NVIDIA GH200 480GB",
    ],
)
def test_a_cpu_and_another_chip_of_a_like_name_have_no_known_peak(name: str) -> None:
    assert peak_flops(name, "fp32") is None


def test_a_precision_that_a_device_does_not_compute_in_has_no_peak() -> None:
    assert peak_flops("Tesla V100-SXM2-16GB", "bf16") is None


def test_the_environment_has_the_last_word_on_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHSWEEP_PEAK_FLOPS", "312e12")
    assert peak_flops("Tesla T4", "fp16") == peak_flops("AMD EPYC 7B13", "fp32") == 312e12


@pytest.mark.parametrize("given", ["fast", "", "0", "-1e12", "inf", "nan"])
def test_a_peak_that_is_no_number_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("ARCHSWEEP_PEAK_FLOPS", given)
    with pytest.raises(MachineError, match=r"ARCHSWEEP_PEAK_FLOPS must be a number of FLOP/s above 0, got .*unset it"):
        peak_flops("Tesla T4", "fp16")


class NVMLError(Exception):
    """The stand-in's error."""


class Board:
    """A stand-in for NVML, which needs a driver: boards by UUID, each with a counter in millijoules."""

    def __init__(self, counters: dict[str, list[int]]) -> None:
        self.counters = counters
        self.open = 0

    def module(self) -> ModuleType:
        module = ModuleType("pynvml")
        module.NVMLError = NVMLError  # type: ignore[attr-defined]
        for name in ("nvmlInit", "nvmlShutdown", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetTotalEnergyConsumption"):
            setattr(module, name, getattr(self, name))
        return module

    def nvmlInit(self) -> None:  # noqa: N802
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid not in self.counters:
            raise NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        assert self.open
        if not self.counters[handle]:
            raise NVMLError("Not Supported")
        return self.counters[handle].pop(0)


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Board:
    """Two boards, of which torch's cuda:1 is the one with UUID."""
    board = Board({"GPU-0": [0, 0, 0], f"GPU-{UUID}": [1_000_000, 1_002_500, 1_007_250]})
    monkeypatch.setitem(sys.modules, "pynvml", board.module())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: {CUDA: SimpleNamespace(uuid=UUID)}[device])
    return board


def test_the_meter_reads_the_board_that_torch_computes_on_in_joules(board: Board) -> None:
    with EnergyMeter(CUDA) as meter:
        assert meter.joules() == pytest.approx(2.5)
    assert meter.joules() == pytest.approx(7.25)
    assert meter.joules() == pytest.approx(7.25)
    assert board.open == 0


@pytest.mark.parametrize("counters", [{}, {f"GPU-{UUID}": []}])
def test_a_board_that_nvml_does_not_know_or_count_gives_none(board: Board, counters: dict[str, list[int]]) -> None:
    board.counters = counters
    with EnergyMeter(CUDA) as meter:
        assert meter.joules() is None
    assert meter.joules() is None
    assert board.open == 0


def test_a_cpu_and_a_machine_without_nvml_give_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as Python marks a module that cannot be imported
    for device in (torch.device("cpu"), CUDA):
        with EnergyMeter(device) as meter:
            pass
        assert meter.joules() is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_this_gpu_draws_joules_while_it_multiplies() -> None:
    pytest.importorskip("pynvml")
    matrix = torch.ones((4096, 4096), device="cuda")
    with EnergyMeter(torch.device("cuda")) as meter:
        for _ in range(400):
            torch.mm(matrix, matrix)
        torch.cuda.synchronize()
    joules = meter.joules()
    assert joules is None or joules > 0
