"""What this machine trains on, named without torch as torch names it."""

from __future__ import annotations

import os
import subprocess
from types import SimpleNamespace

import pytest
import torch

from archsweep import device
from archsweep.training.precision import device_name


def test_the_device_is_named_as_records_name_it() -> None:
    assert device.processor_name() == device_name(torch.device("cpu"))
    assert [gpu.name for gpu in device.gpus()] == [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    assert device.processors() >= 1


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A driver that answers with `stdout`, below a torch that is built for it."""
    answer = SimpleNamespace(stdout="NVIDIA A10, 23028\nTesla T4, 15360\n")
    monkeypatch.setattr(device, "version", lambda package: "2.13.0+cu130")
    monkeypatch.setattr(subprocess, "run", lambda *command, **options: answer)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return answer


A10, T4 = device.Gpu("NVIDIA A10", 23028 * 2**20), device.Gpu("Tesla T4", 15360 * 2**20)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [A10, T4]),
        ("1", [T4]),
        ("1, 0", [T4, A10]),
        ("", []),
        ("-1", []),
        ("0,-1,1", [A10]),
        ("1,2,0", [T4]),
        ("NoDevFiles", []),
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", [A10]),
    ],
)
def test_gpus_are_those_that_the_environment_leaves_visible_to_cuda(
    driver: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: list[device.Gpu]
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device.gpus() == expected
    assert device.gpus(hidden=True) == [A10, T4]


def test_a_gpu_without_memory_of_its_own_has_the_machines(driver: SimpleNamespace) -> None:
    driver.stdout = "NVIDIA GB10, [N/A]\n"
    assert device.gpus() == [device.Gpu("NVIDIA GB10", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]


@pytest.mark.parametrize("said", ["", "No devices were found\n", "NVIDIA A10, [Unknown Error]\n"])
def test_a_driver_that_names_no_gpu_has_none(driver: SimpleNamespace, said: str) -> None:
    driver.stdout = said
    assert device.gpus() == []
