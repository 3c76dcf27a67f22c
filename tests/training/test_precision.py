"""The device and the number format are what the config and the machine say."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from archsweep.config import ExperimentConfig
from archsweep.errors import MachineError
from archsweep.training.precision import COMPILE_STEPS, autocast, device_name, resolve_compile, resolve_device, resolve_precision

CPU = torch.device("cpu")
NEEDS_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_auto_is_the_gpu_where_there_is_one_and_else_the_cpu() -> None:
    assert resolve_device(ExperimentConfig()).type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_named_device_is_taken() -> None:
    assert resolve_device(ExperimentConfig(device="cpu")) == CPU


def test_a_gpu_that_is_not_there_is_the_machines_problem() -> None:
    with pytest.raises(MachineError, match=rf"cuda:63 is not there: torch sees {torch.cuda.device_count()} GPUs"):
        resolve_device(ExperimentConfig(device="cuda:63"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_without_a_gpu_is_the_machines_problem() -> None:
    with pytest.raises(MachineError, match="device=auto or cpu"):
        resolve_device(ExperimentConfig(device="cuda"))


@pytest.mark.parametrize(("precision", "expected"), [("auto", "fp32"), ("fp32", "fp32"), ("bf16", "bf16")])
def test_a_cpu_trains_in_float32_unless_told_otherwise(precision: str, expected: str) -> None:
    assert resolve_precision(ExperimentConfig(precision=precision), CPU) == expected


@pytest.mark.gpu
@NEEDS_A_GPU
def test_a_gpu_with_bfloat16_units_trains_in_bf16() -> None:
    expected = "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp32"
    assert resolve_precision(ExperimentConfig(), torch.device("cuda")) == expected


@pytest.mark.parametrize(
    ("device", "steps", "found", "compiles"),
    [
        ("cuda", COMPILE_STEPS, ["gcc"], True),
        ("cuda", COMPILE_STEPS, ["clang"], True),
        ("cuda", COMPILE_STEPS, [], False),
        ("cuda", COMPILE_STEPS - 1, ["gcc"], False),
        ("cpu", COMPILE_STEPS, ["gcc"], False),
    ],
)
def test_a_long_run_on_a_gpu_is_compiled_where_that_can_be_done(
    monkeypatch: pytest.MonkeyPatch, device: str, steps: int, found: list[str], compiles: bool
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: name if name in found else None)
    config = ExperimentConfig(hidden_size=768, context_length=1024, batch_size=16)
    config = config.copy(max_tokens=steps * config.tokens_per_step)
    assert resolve_compile(config, torch.device(device)) == compiles
    idle = config.copy(batch_size=1)
    assert not resolve_compile(idle.copy(max_tokens=steps * idle.tokens_per_step), torch.device(device))
    assert resolve_compile(config.copy(compile=True), torch.device(device))


@pytest.mark.parametrize(("precision", "product"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_matrix_products_alone_are_computed_in_bfloat16(precision: str, product: torch.dtype) -> None:
    matrix = torch.ones(2, 2)
    with autocast(precision, CPU):
        assert (matrix @ matrix).dtype == product
        assert matrix.exp().dtype == torch.float32
    assert (matrix @ matrix).dtype == torch.float32


def test_the_cpu_has_a_name_of_one_line() -> None:
    name = device_name(CPU)
    assert name.strip()
    assert "\n" not in name


SETTINGS = """
import torch
from archsweep.config import ExperimentConfig
from archsweep.training.precision import matmul_precision
torch.backends.cuda.matmul.fp32_precision = "tf32"
try:
    torch.get_float32_matmul_precision()
except RuntimeError:
    print("torch does not say")
with matmul_precision(ExperimentConfig(), torch.device("cpu")):
    print(torch.get_float32_matmul_precision())
"""


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="a torch of before those settings")
def test_a_program_that_has_used_torchs_newer_settings_of_precision_trains_too() -> None:
    """In a process of its own: torch does not take such a setting back."""
    done = subprocess.run([sys.executable, "-c", SETTINGS], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["torch does not say", "highest"]
