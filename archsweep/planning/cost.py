"""Cost: what one replica of a config takes, by closed formulas: parameters, FLOPs, tokens and relative time.

The formulas read the arguments of the Hugging Face config class (`get_model_config_dict`), so `model_overrides` count as they train.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from archsweep.extensions import Counts
from archsweep.extensions import count as count_own

if TYPE_CHECKING:
    from archsweep.config import ExperimentConfig
    from archsweep.vocabulary import BudgetKind, SizeKind

FLOPS_PER_BYTE = 200  # products that take as long as moving a byte of activations: fitted to 1, 2 and 4 layers of one size on one core
LOGIT_BYTES = 12  # per logit, in float32: itself, its log-softmax and its gradient


class Cost(BaseModel):
    """What one replica takes; the columns of the same names in results.parquet say what each number counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: int
    non_embedding_parameters: int
    kaplan_parameters: int
    flops_per_token: int
    train_tokens: int
    flops: int
    kv_bytes_per_token: int | None = None  # a plan of before it was counted has none
    work: int  # relative time: what orders trials and tells how much of a sweep is left


class _Layer(NamedTuple):
    """The weights of one block by their use, and the elements per token that its backward pass needs again."""

    matrices: int
    others: int  # biases and norms
    attention_width: int
    kept_full: int  # activations that stay in float32 under autocast
    kept_low: int  # activations in the precision of training


class _Sizes(NamedTuple):
    """The sizes that decide what a model costs."""

    num_layers: int
    hidden: int
    vocab: int
    positions: int  # learned position embeddings
    final_norm: int
    tied: bool
    layer: _Layer


def cost(config: ExperimentConfig) -> Cost:
    """The cost of one replica of `config`, whose length must be given by max_tokens."""
    sizes = _sizes(config)
    tokens, per_token = train_tokens(config), flops_per_token(config)
    return Cost(
        parameters=parameters(config),
        non_embedding_parameters=non_embedding_parameters(config),
        kaplan_parameters=12 * sizes.num_layers * sizes.hidden**2,
        flops_per_token=per_token,
        train_tokens=tokens,
        flops=per_token * tokens,
        kv_bytes_per_token=_kv_bytes_per_token(config),
        work=tokens * work_per_token(config),
    )


def _kv_bytes_per_token(config: ExperimentConfig) -> int:
    """Keys and values of every layer, in 16 bits."""
    model = config.get_model_config_dict()
    heads: int = model.get("num_key_value_heads", config.num_kv_heads)
    return 2 * 2 * config.num_layers * heads * config.head_dim


def work_per_token(config: ExperimentConfig) -> int:
    """Relative time of one training token: its FLOPs, and the bytes that it moves."""
    return flops_per_token(config) + FLOPS_PER_BYTE * _activation_bytes_per_token(config)


def parameters(config: ExperimentConfig) -> int:
    """All trained weights, tied ones once."""
    return _counts(config).total


def non_embedding_parameters(config: ExperimentConfig) -> int:
    """Weights of the blocks and the final norm: neither token nor position embeddings nor head."""
    return _counts(config).non_embedding


def amount(config: ExperimentConfig, kind: BudgetKind) -> int | None:
    """What a budget of this `kind` counts of one replica of `config`; None for seconds, which only a machine can tell."""
    if kind == "parameters" or kind == "non_embedding_parameters":  # which tells the type checker what remains
        return count(config, kind)
    if kind == "train_seconds":
        return None
    return train_tokens(config) * (flops_per_token(config) if kind == "flops" else 1)


def count(config: ExperimentConfig, kind: SizeKind) -> int:
    """The parameters of `config` that a budget of sizes counts."""
    return parameters(config) if kind == "parameters" else non_embedding_parameters(config)


def train_tokens(config: ExperimentConfig) -> int:
    """The tokens that `config` trains on: whole steps of max_tokens."""
    return (config.max_tokens or 0) // config.tokens_per_step * config.tokens_per_step


def flops_per_token(config: ExperimentConfig) -> int:
    """FLOPs of the matrix products of one token, forward and backward (three times forward).

    The head counts, embedding look-ups do not. Attention counts over the whole window, as if it had no causal mask.
    """
    sizes = _sizes(config)
    attention = 4 * sizes.num_layers * config.context_length * sizes.layer.attention_width  # scores, and their product with the values
    return 3 * (2 * _counts(config).matrices + attention)


def _activation_bytes_per_token(config: ExperimentConfig) -> int:
    """What the backward pass needs again, and the logits."""
    sizes = _sizes(config)
    low = 2 if config.precision == "bf16" else 4
    layer = 4 * sizes.layer.kept_full + low * sizes.layer.kept_low
    # With checkpointing: every block's input, and all of the one block that is computed again.
    activations = layer + 4 * sizes.num_layers * sizes.hidden if config.gradient_checkpointing else sizes.num_layers * layer
    return activations + LOGIT_BYTES * sizes.vocab


def _counts(config: ExperimentConfig) -> Counts:
    if config.family not in _FAMILIES:
        return count_own(config)
    sizes = _sizes(config)
    blocks = sizes.num_layers * (sizes.layer.matrices + sizes.layer.others) + sizes.final_norm
    vocabulary = sizes.vocab * sizes.hidden
    embeddings = (1 if sizes.tied else 2) * vocabulary + sizes.positions * sizes.hidden
    return Counts(blocks + embeddings, blocks, sizes.num_layers * sizes.layer.matrices + vocabulary)


def _sizes(config: ExperimentConfig) -> _Sizes:
    """A family of one's own has its weights counted; its activations are taken for those of a GPT-2 of its sizes."""
    if config.family in _FAMILIES:
        return _FAMILIES[config.family](config.get_model_config_dict())
    return _gpt2(config.copy(family="gpt2", model_overrides={}, num_kv_heads=config.num_heads).get_model_config_dict())


def _gpt2(model: dict[str, Any]) -> _Sizes:
    """GPT2LMHeadModel: biases everywhere, LayerNorm, learned positions."""
    d = model["n_embd"]
    f = model["n_inner"] or 4 * d
    layer = _Layer(
        matrices=4 * d * d + 2 * d * f,
        others=4 * d + (f + d) + 4 * d,  # biases of attention (3d + d) and of the MLP, two norms of 2d
        attention_width=d,
        kept_full=2 * d,
        kept_low=6 * d + 2 * f,
    )
    return _Sizes(model["n_layer"], d, model["vocab_size"], model["n_positions"], 2 * d, model.get("tie_word_embeddings", True), layer)


def _llama(model: dict[str, Any]) -> _Sizes:
    """LlamaForCausalLM: gated MLP, RMSNorm, rotary positions; biases only where an override asks for them."""
    d, f, heads = model["hidden_size"], model["intermediate_size"], model["num_attention_heads"]
    head_dim = model["head_dim"] or d // heads
    queries, keys = heads * head_dim, (model["num_key_value_heads"] or heads) * head_dim
    biases = (queries + 2 * keys + d) * bool(model.get("attention_bias")) + (2 * f + d) * bool(model.get("mlp_bias"))
    layer = _Layer(
        matrices=2 * d * queries + 2 * d * keys + 3 * d * f,
        others=2 * d + biases,
        attention_width=queries,
        kept_full=7 * d,
        kept_low=3 * d + 4 * f,
    )
    return _Sizes(model["num_hidden_layers"], d, model["vocab_size"], 0, d, model["tie_word_embeddings"], layer)


def _gpt_neox(model: dict[str, Any]) -> _Sizes:
    """GPTNeoXForCausalLM: biases everywhere (of attention unless an override leaves them out), LayerNorm, rotary positions."""
    d, f = model["hidden_size"], model["intermediate_size"]
    layer = _Layer(
        matrices=4 * d * d + 2 * d * f,
        others=4 * d * bool(model.get("attention_bias", True)) + (f + d) + 4 * d,
        attention_width=d,
        kept_full=2 * d,
        kept_low=9 * d + 2 * f,
    )
    return _Sizes(model["num_hidden_layers"], d, model["vocab_size"], 0, 2 * d, model["tie_word_embeddings"], layer)


_FAMILIES = {"gpt2": _gpt2, "llama": _llama, "gpt_neox": _gpt_neox}
