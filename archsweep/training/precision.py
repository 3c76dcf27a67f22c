"""The device and the number format a config trains with."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal

import torch

from archsweep.device import processor_name
from archsweep.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from archsweep.config import ExperimentConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
COMPILE_STEPS = 5_000  # gradients of a model that keeps a GPU busy, of some milliseconds saved each


def resolve_device(config: ExperimentConfig) -> torch.device:
    """`auto` is the first GPU where there is one. Raises MachineError for a GPU that is not there."""
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(config.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MachineError(f"device {config.device} is not there: torch sees {torch.cuda.device_count()} GPUs. Use device=auto or cpu.")
    return device


def resolve_precision(config: ExperimentConfig, device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """`auto` is bf16 on a GPU that computes in it, else fp32."""
    if config.precision != "auto":
        return config.precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Matrix products in 16 bits, the rest in float32; the weights stay float32."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=DTYPES[precision])


def uses_tf32(config: ExperimentConfig, device: torch.device) -> bool:
    """Whether float32 products round their factors to TF32: allowed, and the GPU (Ampere or later) has it."""
    return config.allow_tf32 and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


@contextmanager
def matmul_precision(config: ExperimentConfig, device: torch.device) -> Iterator[None]:
    """TF32 as the config has it, for the length of the block; after it the process's own setting comes back, or, where torch does not tell
    that, torch's default."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # torch does not say once a program has used its newer settings too, as transformers' Trainer does
        before = "highest"
    torch.set_float32_matmul_precision("high" if uses_tf32(config, device) else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def precision_used(config: ExperimentConfig, device: torch.device) -> Literal["fp32", "tf32", "bf16", "fp16"]:
    """What matrix products are computed in, for the record: fp32, tf32, bf16 or fp16."""
    precision = resolve_precision(config, device)
    return "tf32" if precision == "fp32" and uses_tf32(config, device) else precision


def resolve_compile(config: ExperimentConfig, device: torch.device) -> bool:
    """`auto` compiles a run on a GPU that is long enough to earn back the half minute or so that it takes; never on a CPU, nor a model that
    leaves the GPU idle, nor where Triton would not find the C compiler that it starts kernels with."""
    if config.compile != "auto":
        return config.compile
    compilers = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
    long_enough = lasts(config, -(-COMPILE_STEPS // config.gradient_accumulation_steps))
    return device.type == "cuda" and config.keeps_a_gpu_busy and long_enough and any(shutil.which(compiler) for compiler in compilers)


def lasts(config: ExperimentConfig, steps: int) -> bool:
    """Whether a run is known to make so many steps; one that is given in passes over its text is not."""
    return (config.max_tokens or 0) >= steps * config.tokens_per_step


def device_name(device: torch.device) -> str:
    """What the hardware calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor_name()
