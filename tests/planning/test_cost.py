"""Cost: the closed formulas against published numbers, and against what Hugging Face's models hold and PyTorch counts and keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from archsweep.config import ExperimentConfig
from archsweep.planning import cost

# L, d, h; all weights with tied head; 12 L d^2; blocks and final norm (the released models' own counts).
PUBLISHED = [
    (12, 768, 12, 124_439_808, 84_934_656, 85_056_000),
    (24, 1024, 16, 354_823_168, 301_989_888, 302_311_424),
    (36, 1280, 20, 774_030_080, 707_788_800, 708_390_400),
    (48, 1600, 25, 1_557_611_200, 1_474_560_000, 1_475_561_600),
]


def published_config(layers: int, width: int, heads: int) -> ExperimentConfig:
    return ExperimentConfig(
        num_layers=layers, hidden_size=width, num_heads=heads, context_length=1024, vocab_size=50_257, tokenizer="hf:gpt2"
    )


def real_model(config: ExperimentConfig, device: str = "meta", attention: str = "eager") -> Any:
    arguments = {"bos_token_id": 0, "eos_token_id": 0, "use_cache": False} | config.get_model_config_dict()
    model_config = AutoConfig.for_model(config.family, **arguments)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(model_config, attn_implementation=attention)


configs = st.builds(
    lambda **fields: ExperimentConfig(**fields),
    family=st.sampled_from(["gpt2", "llama", "gpt_neox"]),
    num_layers=st.integers(1, 4),
    num_heads=st.integers(1, 6),
    head_dim=st.integers(1, 16).map(lambda half: 2 * half),
    ffn_size=st.integers(1, 300),
    context_length=st.integers(2, 64),
    vocab_size=st.integers(257, 700),
    model_overrides=st.sampled_from([{}, {"tie_word_embeddings": True}, {"tie_word_embeddings": False}]),
)


@pytest.mark.parametrize(("layers", "width", "heads", "total", "kaplan", "blocks"), PUBLISHED)
def test_the_published_sizes_are_exact_in_all_three_conventions(
    layers: int, width: int, heads: int, total: int, kaplan: int, blocks: int
) -> None:
    price = cost.cost(published_config(layers, width, heads))
    assert (price.parameters, price.kaplan_parameters, price.non_embedding_parameters) == (total, kaplan, blocks)


def test_pythia_70m_has_the_published_number_of_weights() -> None:
    """The table in EleutherAI/pythia's README."""
    config = ExperimentConfig(
        family="gpt_neox", num_layers=6, num_heads=8, hidden_size=512, context_length=2048, vocab_size=50_304, tokenizer="hf:pythia"
    )
    assert (cost.parameters(config), cost.non_embedding_parameters(config)) == (70_426_624, 18_915_328)


def test_one_sequence_of_gpt2_takes_the_published_flops() -> None:
    assert 1024 * cost.flops_per_token(published_config(12, 768, 12)) == 874_944_921_600


@settings(deadline=None, max_examples=40)
@given(configs)
def test_the_formula_counts_what_a_real_model_holds(config: ExperimentConfig) -> None:
    model = real_model(config)
    assert cost.parameters(config) == sum(weight.numel() for weight in model.parameters())
    outside = {"wte", "wpe", "embed_tokens", "lm_head", "embed_in", "embed_out"}
    blocks = sum(weight.numel() for name, weight in model.named_parameters() if not outside & set(name.split(".")))
    assert cost.non_embedding_parameters(config) == blocks


@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("gpt2", {"n_layer": 3, "n_inner": None}),
        ("gpt2", {"n_embd": 32, "n_positions": 17, "vocab_size": 300}),
        ("llama", {"num_key_value_heads": 2}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"head_dim": 10, "num_hidden_layers": 1}),
        ("gpt_neox", {"attention_bias": False, "num_hidden_layers": 3}),
        ("llama", {"head_dim": None, "num_key_value_heads": None}),
    ],
)
def test_overrides_count_as_they_train(family: str, overrides: dict[str, Any]) -> None:
    config = ExperimentConfig(family=family, num_layers=2, num_heads=4, head_dim=16, model_overrides=overrides)
    assert cost.parameters(config) == sum(weight.numel() for weight in real_model(config).parameters())


@pytest.mark.parametrize("overrides", [{}, {"tie_word_embeddings": True}])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_flops_are_those_that_pytorch_counts_with_eager_attention(family: str, overrides: dict[str, Any]) -> None:
    config = ExperimentConfig(
        family=family, num_layers=3, num_heads=4, hidden_size=48, ffn_size=100, context_length=32, vocab_size=300, model_overrides=overrides
    )
    model = real_model(config, device="cpu")
    tokens = torch.zeros(2, config.context_length, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        loss: Any = torch.nn.functional.cross_entropy(model(input_ids=tokens).logits.flatten(0, 1), tokens.flatten())
        loss.backward()
    assert counter.get_total_flops() == 2 * config.context_length * cost.flops_per_token(config)


def test_training_tokens_are_whole_steps() -> None:
    config = ExperimentConfig(batch_size=2, context_length=64, gradient_accumulation_steps=3, max_tokens=1000)
    price = cost.cost(config)
    assert price.train_tokens == 768
    assert price.flops == 768 * price.flops_per_token
