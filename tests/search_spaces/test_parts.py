"""The GPT-2 of exchangeable parts: without overrides it is Hugging Face's GPT-2, and each part is the published one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.models.llama.modeling_llama import LlamaConfig, LlamaMLP, LlamaRotaryEmbedding, apply_rotary_pos_emb

from archsweep.config import ExperimentConfig
from archsweep.errors import ConfigError
from search_spaces.parts import Transformer, build, rotated
from search_spaces.positions import loss_by_position

SIZES = {"num_layers": 2, "num_heads": 4, "head_dim": 8, "context_length": 16, "vocab_size": 300}


def built(**parts: object) -> Transformer:
    torch.manual_seed(0)
    model = build(ExperimentConfig(family="search_spaces.parts:build", model_overrides=parts, **SIZES))  # type: ignore[arg-type]
    assert isinstance(model, Transformer)
    return model


def test_without_overrides_it_is_hugging_faces_gpt2() -> None:
    ours = built()
    theirs = GPT2LMHeadModel(
        GPT2Config(
            n_layer=2, n_head=4, n_embd=32, n_positions=16, vocab_size=300, activation_function="gelu_pytorch_tanh", resid_pdrop=0,
            embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    names = {
        "transformer.wte": ours.tokens, "transformer.wpe": ours.positions, "transformer.ln_f": ours.norm,
    }  # fmt: skip
    for number, block in enumerate(ours.blocks):
        names |= {
            f"transformer.h.{number}.ln_1": block.norms[0], f"transformer.h.{number}.ln_2": block.norms[1],
            f"transformer.h.{number}.attn.c_attn": block.attention.inwards, f"transformer.h.{number}.attn.c_proj": block.attention.out,
            f"transformer.h.{number}.mlp.c_fc": block.feed_forward.inwards, f"transformer.h.{number}.mlp.c_proj": block.feed_forward.out,
        }  # fmt: skip
    with torch.no_grad():
        for name, module in names.items():
            theirs_module = theirs.get_submodule(name)
            transposed = "c_" in name  # GPT-2 keeps its products' weights the other way round
            module.weight.copy_(theirs_module.weight.T if transposed else theirs_module.weight)
            if getattr(theirs_module, "bias", None) is not None:
                torch.nn.init.normal_(theirs_module.bias)
                module.bias.copy_(theirs_module.bias)
    tokens = torch.randint(300, (3, 16))
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits)
    assert sum(weight.numel() for weight in ours.parameters()) == sum(weight.numel() for weight in theirs.parameters())


def test_initial_weights_spread_as_gpt2s() -> None:
    model = built(initializer_range=0.06)
    assert float(model.tokens.weight.detach().std()) == pytest.approx(0.06, rel=0.05)
    assert float(model.blocks[0].feed_forward.out.weight.detach().std()) == pytest.approx(0.06 / 2, rel=0.05)  # over sqrt(2 * 2 layers)


def test_rotary_positions_are_llamas() -> None:
    heads = torch.randn(2, 4, 16, 8)
    cos, sin = LlamaRotaryEmbedding(LlamaConfig(hidden_size=32, num_attention_heads=4))(heads, torch.arange(16)[None])
    torch.testing.assert_close(rotated(heads), apply_rotary_pos_emb(heads, heads, cos, sin)[0])


def test_the_gated_unit_is_llamas_with_biases() -> None:
    ours = built(activation="swiglu").blocks[0].feed_forward
    theirs = LlamaMLP(LlamaConfig(hidden_size=32, intermediate_size=128, mlp_bias=True))
    with torch.no_grad():
        for name, module in {"up_proj": ours.inwards, "gate_proj": ours.gate, "down_proj": ours.out}.items():
            module.weight.copy_(theirs.get_submodule(name).weight)
            module.bias.copy_(theirs.get_submodule(name).bias)
    hidden = torch.randn(2, 5, 32)
    torch.testing.assert_close(ours(hidden), theirs(hidden))


def test_relu2_is_the_square_of_relu() -> None:
    part = built(activation="relu2").blocks[0].feed_forward
    hidden = torch.randn(2, 5, 32)
    torch.testing.assert_close(part(hidden), part.out(F.relu(part.inwards(hidden)) ** 2))


def test_a_norm_after_the_sum_normalises_what_leaves_a_block() -> None:
    hidden = torch.randn(2, 5, 32) * 9
    left = built(norm_position="post", norm="rms").blocks[0](hidden)
    torch.testing.assert_close(left.square().mean(-1), torch.ones(2, 5), rtol=1e-3, atol=0)
    assert built(norm_position="pre").blocks[0](hidden).square().mean() > 9


def test_a_token_sees_nothing_after_it() -> None:
    model = built(positions="rotary")
    tokens = torch.randint(300, (1, 16))
    changed = tokens.clone()
    changed[0, 9:] = 7
    torch.testing.assert_close(model(tokens)[:, :9], model(changed)[:, :9])


@pytest.mark.parametrize(
    ("parts", "told"),
    [({"norms": "rms"}, "norms is not a part of search_spaces.parts: did you mean norm"), ({"norm": "batch"}, "must be one of layer, rms")],
)
def test_a_part_that_is_not_there_is_refused(parts: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        built(**parts)


@pytest.mark.parametrize(("field", "value"), [("num_kv_heads", 2), ("dropout", 0.1)])
def test_a_field_that_it_would_not_heed_is_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{field} must be"):
        build(ExperimentConfig(family="search_spaces.parts:build", **(SIZES | {field: value})))  # type: ignore[arg-type]


def test_loss_by_position_is_the_mean_loss_of_each_octave() -> None:
    model, windows = built(), torch.randint(300, (7, 17))
    with torch.no_grad():  # as metrics are called
        losses = F.cross_entropy(model(windows[:, :-1]).transpose(1, 2), windows[:, 1:], reduction="none").mean(0)
        found = loss_by_position(model, windows)
        shorter = loss_by_position(model, windows[:, :13])
    assert list(found) == ["1-4", "5-8", "9-16"]
    assert found["5-8"] == pytest.approx(float(losses[4:8].mean()), rel=1e-5)
    assert list(shorter) == ["1-4", "5-8", "9-12"]
