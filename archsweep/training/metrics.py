"""What is measured of a model: loss in its several units, memory, speed."""

from __future__ import annotations

import gc
import math
import resource
import sys
from contextlib import suppress
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import torch
import transformers

from archsweep.training.allocator import return_freed_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from archsweep.training.model import CustomGPT2Model

DECODED_TOKENS = 32  # what decoding is timed over: enough for a median, little beside a sweep's other work


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
    def calculate_inference_speed(model: CustomGPT2Model, repeats: int = 3) -> dict[str, float]:
        """Tokens per second at batch 1, each the median of `repeats` after one that is thrown away: "prefill" reads a full window at once,
        "decode" writes up to 32 tokens greedily after half a window, through the KV cache. `model` is an exported one.
        """
        window = torch.zeros((1, model.config.context_length), dtype=torch.long, device=next(model.parameters()).device)
        prompt = window[:, : model.config.context_length // 2]
        new_tokens = min(DECODED_TOKENS, window.shape[1] - prompt.shape[1])
        with torch.inference_mode():
            rounds = [(_seconds(window, lambda: model(window)), _decoding_seconds(model, prompt, new_tokens)) for _ in range(repeats + 1)]
        prefill, decode = (median(seconds) for seconds in zip(*rounds[1:], strict=True))
        return {"prefill_tokens_per_second": window.shape[1] / prefill, "decode_tokens_per_second": new_tokens / decode}


def model_flops_utilisation(
    tokens_per_second: float, parameters: int, num_layers: int, num_heads: int, head_dim: int, context_length: int, peak: float | None
) -> float | None:
    """The share of `peak` FLOP/s that training's tokens need, by PaLM's formula (arXiv 2204.02311, appendix B): 6 N + 12 L H Q T FLOPs per
    token. The paper leaves out what a backward pass computes again; None where the peak is not known.
    """
    return None if peak is None else tokens_per_second * (6 * parameters + 12 * num_layers * num_heads * head_dim * context_length) / peak


def greedy_tokens(model: CustomGPT2Model, prompt: torch.Tensor) -> Iterator[torch.Tensor]:
    """(1, T) token ids -> the likeliest next token (1, 1), and the next after that, without end.

    A transformers model reads the prompt once and then one token at a time, through its KV cache; any other module reads all of it again.
    """
    tokens, cache = prompt, None
    while True:
        if isinstance(model.model, transformers.PreTrainedModel):
            output = model.model(tokens, past_key_values=cache, use_cache=True)
            logits, cache = output.logits, output.past_key_values
            tokens = following = logits[:, -1:].argmax(-1)
        else:
            following = model(tokens)[:, -1:].argmax(-1)
            tokens = torch.cat([tokens, following], dim=1)
        yield following


def _decoding_seconds(model: CustomGPT2Model, prompt: torch.Tensor, new_tokens: int) -> float:
    """Seconds of `new_tokens` tokens after the one that reading the prompt gives."""
    tokens = greedy_tokens(model, prompt)
    next(tokens)
    return _seconds(prompt, lambda: [next(tokens) for _ in range(new_tokens)])


def _seconds(on_device: torch.Tensor, compute: Callable[[], object]) -> float:
    synchronize(on_device.device)
    start = perf_counter()
    compute()
    synchronize(on_device.device)
    return perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait for what was asked of a GPU, so that a clock read next tells its time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new peak, without what an earlier trial of this process left: it would count as this one's, and on a GPU take its room."""
    if device.type == "cuda":
        gc.collect()  # a compiled stack is in a cycle; a fifth of a second, which would be most of what a trial of few steps takes on a CPU
        torch.cuda.reset_peak_memory_stats(device)
    else:
        return_freed_memory()
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
