"""Loss in its several units, memory and speed."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archsweep.config import ExperimentConfig
from archsweep.training.metrics import MetricsCalculator, peak_memory_bytes, reset_peak_memory
from archsweep.training.model import CustomGPT2Model

CPU = torch.device("cpu")
MEBIBYTE = 2**20


def test_perplexity_is_the_number_of_equally_likely_tokens() -> None:
    assert MetricsCalculator.calculate_perplexity(0.0) == 1.0
    assert MetricsCalculator.calculate_perplexity(math.log(512)) == pytest.approx(512)
    assert MetricsCalculator.calculate_perplexity(3.2) == pytest.approx(24.532530)


def test_a_perplexity_that_no_float_can_hold_is_infinite() -> None:
    assert MetricsCalculator.calculate_perplexity(700) == pytest.approx(1.014232e304, rel=1e-6)
    assert MetricsCalculator.calculate_perplexity(1e6) == math.inf
    assert MetricsCalculator.calculate_perplexity(math.inf) == math.inf
    assert math.isnan(MetricsCalculator.calculate_perplexity(math.nan))


@pytest.mark.parametrize(
    ("loss", "bytes_per_token", "expected"),
    [
        (math.log(256), 1.0, 8.0),  # bytes drawn at random: 8 bits each
        (math.log(2), 1.0, 1.0),
        (2 * math.log(2), 4.0, 0.5),
        (3.2, 4.8, 0.961797),  # 3.2 / .693147 = 4.616624 bits a token
    ],
)
def test_bits_per_byte_by_hand(loss: float, bytes_per_token: float, expected: float) -> None:
    metrics = MetricsCalculator(bytes_per_token).calculate_metrics(loss)
    assert metrics["bits_per_byte"] == pytest.approx(expected, rel=1e-6)
    assert metrics["loss"] == loss
    assert set(metrics) == {"loss", "perplexity", "bits_per_byte"}


@given(loss=st.floats(0, 20), tokens=st.integers(1, 10**6), size=st.integers(1, 10**7))
def test_bits_per_byte_are_the_bits_of_the_whole_text_over_its_bytes(loss: float, tokens: int, size: int) -> None:
    metrics = MetricsCalculator(size / tokens).calculate_metrics(loss)
    assert metrics["bits_per_byte"] * size == pytest.approx(math.log2(math.e) * loss * tokens)
    assert metrics["perplexity"] == pytest.approx(2 ** (loss / math.log(2)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_its_memory_is_zero() -> None:
    assert MetricsCalculator.get_gpu_memory_usage() == {"allocated": 0, "reserved": 0, "peak": 0}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_memory_is_what_torch_holds() -> None:
    before = MetricsCalculator.get_gpu_memory_usage()
    held = torch.ones(64 * MEBIBYTE, dtype=torch.uint8, device="cuda")
    now = MetricsCalculator.get_gpu_memory_usage()
    assert now["allocated"] - before["allocated"] == held.numel()
    assert now["peak"] >= now["allocated"]
    assert now["reserved"] >= now["allocated"]


def test_inference_speed_falls_with_the_depth_of_the_model() -> None:
    shape = {"num_heads": 2, "head_dim": 8, "context_length": 32, "vocab_size": 257}
    shallow, deep = (CustomGPT2Model.from_config(ExperimentConfig(num_layers=layers, **shape)).eval() for layers in (1, 16))
    speeds = [MetricsCalculator.calculate_inference_speed(model, repeats=5)["prefill_tokens_per_second"] for model in (shallow, deep)]
    assert speeds[0] > speeds[1] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak is the process's own")
def test_the_peak_holds_what_was_freed_and_begins_anew() -> None:
    reset_peak_memory(CPU)
    before = peak_memory_bytes(CPU)
    big = torch.ones(256 * MEBIBYTE, dtype=torch.uint8)
    size = big.numel()
    del big
    peak = peak_memory_bytes(CPU)
    assert peak - before == pytest.approx(size, rel=0.2)
    reset_peak_memory(CPU)
    assert peak - peak_memory_bytes(CPU) == pytest.approx(size, rel=0.2)
