"""Loss in its several units, memory and speed."""

from __future__ import annotations

import math
import sys
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archsweep.config import ExperimentConfig
from archsweep.training.metrics import MetricsCalculator, greedy_tokens, model_flops_utilisation, peak_memory_bytes, reset_peak_memory
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
    slow, fast = (MetricsCalculator.calculate_inference_speed(model) for model in (deep, shallow))
    assert set(fast) == {"prefill_tokens_per_second", "decode_tokens_per_second"}
    assert all(fast[key] > slow[key] > 0 for key in fast)


def exported_model(family: str) -> CustomGPT2Model:
    """A model whose greedy tokens vary: its weights are far larger than usual."""
    config = ExperimentConfig(
        family=family,
        num_layers=2,
        num_heads=2,
        head_dim=8,
        context_length=24,
        vocab_size=257,
        model_overrides={"initializer_range": 0.5},
    )
    return CustomGPT2Model.from_config(config, seed=1).eval()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@torch.inference_mode()
def test_decoding_through_the_cache_reads_a_token_at_a_time_and_writes_what_recomputing_writes(family: str) -> None:
    model = exported_model(family)
    prompt = torch.arange(12).unsqueeze(0)
    written = prompt
    for _ in range(12):
        written = torch.cat([written, model(written)[:, -1:].argmax(-1)], dim=1)

    lengths: list[int] = []
    model.model.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    decoded = torch.cat(list(islice(greedy_tokens(model, prompt), 12)), dim=1)
    assert decoded.tolist() == written[:, 12:].tolist()
    assert len(decoded.unique()) > 3
    assert lengths == [12] + [1] * 11


class _Successor(torch.nn.Module):
    """Not a transformers model: the likeliest next token is the last one plus the number of tokens read."""

    def __init__(self, config: ExperimentConfig) -> None:
        super().__init__()
        self.config, self.model = config, torch.nn.Linear(1, 1)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        following = (input_ids + input_ids.shape[1]) % self.config.vocab_size
        return torch.nn.functional.one_hot(following, self.config.vocab_size).float()


def test_a_module_of_ones_own_decodes_without_a_cache() -> None:
    model: Any = _Successor(ExperimentConfig(context_length=8))
    tokens = torch.cat(list(islice(greedy_tokens(model, torch.tensor([[5, 6]])), 3)), dim=1)
    assert tokens.tolist() == [[8, 11, 15]]
    assert MetricsCalculator.calculate_inference_speed(model)["decode_tokens_per_second"] > 0


def test_palm_540b_used_the_published_share_of_its_chips() -> None:
    # arXiv 2204.02311, table 3 and appendix B: 238.3 thousand tokens/s on 6144 TPU v4 of 275 TFLOP/s are 46.2 %.
    used = model_flops_utilisation(238.3e3, 540_350_000_000, 118, 48, 256, 2048, peak=6144 * 275e12)
    assert used == pytest.approx(0.462, abs=0.0005)


def test_one_window_of_gpt2_needs_the_published_flops() -> None:
    # nanoGPT's transformer_sizing.ipynb, whose GPT-2 has no biases and leaves the position embeddings out: 123,551,232 parameters.
    assert model_flops_utilisation(1024, 123_551_232, 12, 12, 64, 1024, peak=1) == 875_062_886_400


def test_without_a_known_peak_there_is_no_utilisation() -> None:
    assert model_flops_utilisation(1024, 123_551_232, 12, 12, 64, 1024, peak=None) is None


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
