"""What this machine trains on, named without torch as torch names it."""

from __future__ import annotations

import os
import re
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


BOARDS = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6, NVIDIA A10, 23028\nGPU-8f3a11c2-0c5e-77aa-91d4-5b5d0f6e2a10, Tesla T4, 15360\n"


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A driver that answers with `stdout`, and with `cut` to `nvidia-smi -L`, below a torch that is built for it."""
    answer = SimpleNamespace(stdout=BOARDS, cut="")
    monkeypatch.setattr(device, "version", lambda package: "2.13.0+cu130")
    monkeypatch.setattr(
        subprocess, "run", lambda command, **options: SimpleNamespace(stdout=answer.cut if command[1:] == ["-L"] else answer.stdout)
    )
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
        ("GPU-8f3a", [T4]),  # the beginning is enough, where it is of one
        ("GPU-8f3a,GPU-8932", [T4, A10]),
        ("GPU-8", []),
        ("GPU-", []),
        ("0,GPU-8f3a", [A10]),  # torch stops at a word of another kind
        ("GPU-8f3a,0", [T4]),
        ("1,1", []),  # and a GPU that is named twice leaves none
        ("GPU-8f3a,GPU-8f3a11", []),
        ("GPU-00000000", []),
    ],
)
def test_gpus_are_those_that_the_environment_leaves_visible_to_cuda(
    driver: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: list[device.Gpu]
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device.gpus() == expected
    assert device.gpus(hidden=True) == [A10, T4]


# As the driver prints it; the slices of the second board are of two kinds.
CUT = """GPU 0: NVIDIA A10 (UUID: GPU-8932f937-d72c-4106-c12f-20bd9faed9f6)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 1c.3g.20gb  Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
  MIG 1g.5gb+me   Device  2: (UUID: MIG-1e3624e9-6ab1-5a49-8ab5-97ddf0e8ba8c)
"""


A100 = "NVIDIA A100-SXM4-40GB"
FIRST, SECOND, THIRD = (f"MIG-{uuid}" for uuid in re.findall(r"MIG-([^)]+)", CUT))


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["NVIDIA A10", f"{A100} MIG 3g.20gb"]),  # of a board that is cut a process has the first part
        ("1", [f"{A100} MIG 3g.20gb"]),
        ("GPU-5d5b", [f"{A100} MIG 3g.20gb"]),
        (SECOND, [f"{A100} MIG 1c.3g.20gb"]),
        (f"{THIRD},{FIRST}", [f"{A100} MIG 1g.5gb+me", f"{A100} MIG 3g.20gb"]),
        ("MIG-00000000-0000-0000-0000-000000000000", []),
    ],
)
@pytest.mark.parametrize("memory", ["40960", "[Insufficient Permissions]"])  # as in a container
def test_a_part_of_a_board_has_its_own_name_and_memory(
    driver: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: list[str], memory: str
) -> None:
    driver.stdout = f"{BOARDS.splitlines()[0]}\nGPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77, {A100}, {memory}\n"
    driver.cut = CUT
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = device.gpus()
    assert [gpu.name for gpu in found] == expected
    # NVIDIA's figures for the three: never more than there is, and most of it.
    there = {"3g.20gb": 19968, "1c.3g.20gb": 19968, "1g.5gb+me": 4864}
    for gpu in found:
        if " MIG " in gpu.name:
            assert 0.85 < gpu.memory / (there[gpu.name.rpartition(" ")[2]] * 2**20) <= 1


def test_a_gpu_without_memory_of_its_own_has_the_machines(driver: SimpleNamespace) -> None:
    driver.stdout = "GPU-11111111-2222-3333-4444-555555555555, NVIDIA GB10, [N/A]\n"
    assert device.gpus() == [device.Gpu("NVIDIA GB10", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]


@pytest.mark.parametrize("said", ["", "No devices were found\n", BOARDS.replace("15360", "[Unknown Error]")])
def test_a_driver_that_names_no_gpu_has_none(driver: SimpleNamespace, said: str) -> None:
    driver.stdout = said
    assert device.gpus() == []
