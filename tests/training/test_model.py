"""The model is Hugging Face's own, of the published sizes, and the attention of a stack is the usual one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.func import functional_call, stack_module_state
from transformers import AutoModelForCausalLM, GPT2LMHeadModel, LlamaForCausalLM

from archsweep.config import ExperimentConfig
from archsweep.errors import ConfigError
from archsweep.training.model import FOLDED_ATTENTION, CustomGPT2Model

if TYPE_CHECKING:
    from pathlib import Path

GPT2: dict[str, Any] = {"head_dim": 64, "context_length": 1024, "vocab_size": 50_257, "tokenizer": "hf:gpt2"}
LLAMA: dict[str, Any] = {"family": "llama", "vocab_size": 32_000, "tokenizer": "hf:llama", "context_length": 2048}
SMALL: dict[str, Any] = {"num_layers": 2, "num_heads": 4, "head_dim": 8, "context_length": 16, "vocab_size": 300}


def on_meta(config: ExperimentConfig) -> CustomGPT2Model:
    """The model without memory for its weights."""
    with torch.device("meta"):
        return CustomGPT2Model.from_config(config)


# Sizes.


@pytest.mark.parametrize(
    ("layers", "heads", "total", "non_embedding"),
    [
        (12, 12, 124_439_808, 85_056_000),
        (24, 16, 354_823_168, 302_311_424),
        (36, 20, 774_030_080, 708_390_400),
        (48, 25, 1_557_611_200, 1_475_561_600),
    ],
    ids=["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"],
)
def test_the_published_gpt2_sizes_are_counted_exactly(layers: int, heads: int, total: int, non_embedding: int) -> None:
    model = on_meta(ExperimentConfig(num_layers=layers, num_heads=heads, **GPT2))
    assert model.count_parameters() == {"total": total, "non_embedding": non_embedding}


def test_the_published_llama_2_7b_is_counted_exactly() -> None:
    model = on_meta(ExperimentConfig(num_layers=32, num_heads=32, head_dim=128, ffn_size=11_008, **LLAMA))
    assert model.count_parameters() == {"total": 6_738_415_616, "non_embedding": 6_738_415_616 - 2 * 32_000 * 4096}


def test_overrides_reach_the_model_and_its_count() -> None:
    """TinyLlama 1.1B: 32 heads share 4 heads of keys and values."""
    config = ExperimentConfig(num_layers=22, num_heads=32, head_dim=64, ffn_size=5632, model_overrides={"num_key_value_heads": 4}, **LLAMA)
    assert on_meta(config).count_parameters() == {"total": 1_100_048_384, "non_embedding": 1_100_048_384 - 2 * 32_000 * 2048}


def test_a_tied_head_is_counted_once() -> None:
    untied = on_meta(ExperimentConfig(family="llama", **SMALL)).count_parameters()
    tied = on_meta(ExperimentConfig(family="llama", model_overrides={"tie_word_embeddings": True}, **SMALL)).count_parameters()
    assert untied["total"] - tied["total"] == 300 * 32
    assert untied["non_embedding"] == tied["non_embedding"]


def test_the_model_says_what_it_is_in_json() -> None:
    info = on_meta(ExperimentConfig(num_layers=12, num_heads=12, **GPT2)).get_model_info()
    assert json.loads(json.dumps(info)) == {
        "architecture": "GPT2LMHeadModel",
        "family": "gpt2",
        "num_layers": 12,
        "num_heads": 12,
        "num_kv_heads": 12,
        "head_dim": 64,
        "hidden_size": 768,
        "ffn_size": 3072,
        "context_length": 1024,
        "vocab_size": 50_257,
        "parameters": 124_439_808,
        "non_embedding_parameters": 85_056_000,
        "weight_bytes": 4 * 124_439_808,
    }


# Weights.


@pytest.mark.parametrize(("family", "reader"), [("gpt2", GPT2LMHeadModel), ("llama", LlamaForCausalLM), ("llama", AutoModelForCausalLM)])
def test_a_saved_model_opens_in_transformers_with_the_same_logits(tmp_path: Path, family: str, reader: Any) -> None:
    model = CustomGPT2Model.from_config(ExperimentConfig(family=family, **SMALL), seed=3).eval()
    model.save_pretrained(tmp_path)
    opened = reader.from_pretrained(tmp_path)
    tokens = torch.randint(300, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(opened(tokens).logits, model(tokens))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_seed_decides_the_weights_and_leaves_the_callers_generator_alone(family: str) -> None:
    config = ExperimentConfig(family=family, **SMALL)
    torch.manual_seed(99)
    expected = torch.rand(3)
    torch.manual_seed(99)
    first, again, other = (CustomGPT2Model.from_config(config, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.lm_head.weight"], other["model.lm_head.weight"])


def test_a_misspelt_override_is_refused_with_the_nearest() -> None:
    config = ExperimentConfig(family="llama", model_overrides={"num_key_value_head": 2}, **SMALL)
    with pytest.raises(ConfigError, match=r"num_key_value_head is not an option of LlamaConfig: did you mean num_key_value_heads"):
        CustomGPT2Model.from_config(config)


# Attention.

ATTENTIONS = [
    pytest.param("gpt2", {}, id="gpt2"),
    pytest.param("gpt2", {"scale_attn_by_inverse_layer_idx": True}, id="gpt2, scaled by layer"),
    pytest.param("gpt2", {"scale_attn_weights": False}, id="gpt2, not scaled"),
    pytest.param("llama", {}, id="llama"),
    pytest.param("llama", {"num_key_value_heads": 2}, id="llama, shared keys"),
    pytest.param("llama", {"num_key_value_heads": 1}, id="llama, one key"),
]


def models(family: str, overrides: dict[str, Any], attention: str) -> list[CustomGPT2Model]:
    """Three replicas whose attention is sharp enough for its mistakes to be seen."""
    replicas = [CustomGPT2Model.from_config(ExperimentConfig(family=family, model_overrides=overrides, **SMALL), seed) for seed in range(3)]
    for model in replicas:
        model.model.set_attn_implementation(attention)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.mul_(10)
    return replicas


def batches() -> torch.Tensor:
    return torch.randint(300, (3, 2, 16), generator=torch.Generator().manual_seed(1))  # (K, B, T)


def logits_and_gradients(replicas: list[CustomGPT2Model]) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    """Each model by itself, as any PyTorch program would run it."""
    logits = torch.stack([model(tokens) for model, tokens in zip(replicas, batches(), strict=True)])
    logits.logsumexp(-1).sum().backward()
    return logits.detach(), [{name: p.grad for name, p in model.named_parameters() if p.grad is not None} for model in replicas]


@pytest.mark.parametrize("reference", ["eager", "sdpa"])
@pytest.mark.parametrize(("family", "overrides"), ATTENTIONS)
def test_folded_attention_is_the_usual_attention(family: str, overrides: dict[str, Any], reference: str) -> None:
    expected, expected_gradients = logits_and_gradients(models(family, overrides, reference))
    found, gradients = logits_and_gradients(models(family, overrides, FOLDED_ATTENTION))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("family", "overrides"), ATTENTIONS)
def test_folded_attention_under_vmap_is_the_usual_attention_of_each_replica(family: str, overrides: dict[str, Any]) -> None:
    expected, expected_gradients = logits_and_gradients(models(family, overrides, "eager"))
    replicas = models(family, overrides, FOLDED_ATTENTION)
    stacked, _ = stack_module_state(replicas)  # type: ignore[arg-type]
    found = torch.vmap(lambda weights, tokens: functional_call(replicas[0], weights, (tokens,)))(stacked, batches())
    found.logsumexp(-1).sum().backward()
    torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-4)
    for index, gradients in enumerate(expected_gradients):
        of_replica = {name: stacked[name].grad[index] for name in gradients}
        torch.testing.assert_close(of_replica, gradients, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_no_position_sees_a_later_token(family: str) -> None:
    model, *_ = models(family, {}, FOLDED_ATTENTION)
    tokens = batches()[0]
    changed = tokens.clone()
    changed[:, 10] = (changed[:, 10] + 1) % 300
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :10], after[:, :10])
    assert not torch.equal(before[:, 10:], after[:, 10:])
