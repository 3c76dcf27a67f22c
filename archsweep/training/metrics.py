"""What is measured of a model: loss in its several units, memory, speed."""

from __future__ import annotations

import math
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from archsweep.training.model import CustomGPT2Model


class MetricsCalculator:
    """The units of a loss, for one tokenizer: `bytes_per_token` of the evaluation text turns nats per token into bits per byte."""

    def __init__(self, bytes_per_token: float) -> None:
        self.bytes_per_token = bytes_per_token

    @staticmethod
    def calculate_perplexity(loss: float) -> float:
        """exp(loss); infinite where that leaves float64's range."""
        return math.inf if loss > 709.78 else math.exp(loss)

    def calculate_metrics(self, loss: float) -> dict[str, float]:
        """`loss` in nats per token, its perplexity, and bits per byte, which compares between tokenizers."""
        return {
            "loss": loss,
            "perplexity": self.calculate_perplexity(loss),
            "bits_per_byte": loss / math.log(2) / self.bytes_per_token,
        }

    @staticmethod
    def get_gpu_memory_usage() -> dict[str, int]:
        """Bytes that torch holds on the current GPU, now and at the peak; zeros without one."""
        if not torch.cuda.is_available():
            return {"allocated": 0, "reserved": 0, "peak": 0}
        return {
            "allocated": torch.cuda.memory_allocated(),
            "reserved": torch.cuda.memory_reserved(),
            "peak": torch.cuda.max_memory_allocated(),
        }

    @staticmethod
    def calculate_inference_speed(model: CustomGPT2Model, repeats: int = 10) -> dict[str, float]:
        """Tokens per second of a forward pass over one full window at batch 1: the median of `repeats`."""
        device = next(model.parameters()).device
        window = torch.zeros((1, model.config.context_length), dtype=torch.long, device=device)
        seconds = sorted(_timed_forward(model, window) for _ in range(repeats + 1))
        return {"prefill_tokens_per_second": model.config.context_length / seconds[len(seconds) // 2]}


def _timed_forward(model: CustomGPT2Model, window: torch.Tensor) -> float:
    from time import perf_counter

    start = perf_counter()
    with torch.inference_mode():
        model(window)
    synchronize(window.device)
    return perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait for what was asked of a GPU, so that a clock read next tells its time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # Linux only, and not in every container; the peak is then the process's own
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: torch.device) -> int:
    """Peak since `reset_peak_memory`: torch's on a GPU, the process's resident set on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
