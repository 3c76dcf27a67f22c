"""Memory: the peak of a stack in training, by closed formulas; `benchmarks/memory.py` measures what a device needs of it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from archsweep.planning import cost

if TYPE_CHECKING:
    from pathlib import Path

    from archsweep.config import ExperimentConfig

LOSS_CHUNK = 2**26  # logits of all replicas that the loss holds at once, as training/loss.py does on a GPU
WHOLE_LOGIT_BYTES = 16  # of a family of one's own, whose head the loss does not know: the logits, their log-softmax, and both gradients
CUDA_CONTEXT_BYTES = 600_000_000  # what a process holds on a GPU before its first tensor
SCRATCH_BYTES = 500_000_000  # what torch holds there beside a stack: cuBLAS's workspaces, what an evaluation computes with
CALIBRATION_FILE = "memory_calibration.json"
DEFAULT_CALIBRATION = 1.1  # where no device was measured: the allocator's rounding, and what a block's backward pass needs for itself

Attention = Literal["flash", "math"]


class Memory(NamedTuple):
    """Bytes of a stack at its peak, by their use, all replicas together."""

    weights: int  # in float32, and the blocks' copies in 16 bits that autocast keeps for the backward pass
    gradients: int
    optimizer: int  # AdamW's two moments
    activations: int  # what the backward pass needs again
    logits: int  # the loss and its gradients by the hidden states and the head

    @property
    def total(self) -> int:
        """The peak."""
        return sum(self)


class _Kept(NamedTuple):
    """Elements per token that a model keeps for its backward pass, by one block unless they say otherwise."""

    layers: int
    hidden: int
    vocab: int
    heads: int
    full: int  # float32 in every precision: the residual stream, what norms keep
    low: int  # in the precision of the products
    casts: int  # autocast copies an input once for each of its products; these are the copies beyond the first
    fused: int  # what only fused attention keeps: projections that the values are a view of, and its output in another layout
    biased: int  # sums with a bias and what follows: a stack's biases are float32, so in a stack these are too
    normed: int  # a stack multiplies by a LayerNorm's weights in a step of its own, which keeps the normalised values
    dropout_in_attention: bool
    ends: int  # outside the blocks, in float32
    ends_normed: int


def stack_memory_bytes(
    config: ExperimentConfig,
    replicas: int,
    *,
    precision: str | None = None,
    micro_batch: int | None = None,
    attention: Attention = "flash",
    waiting: int = 0,
) -> Memory:
    """The peak of `replicas` models of `config` that train as one stack, while `waiting` others are on the device, in stacks whose turn it
    is not.

    `precision` and `micro_batch` (windows) are the config's unless given; "auto" counts as fp32 and as a whole batch, the larger ones.
    `attention`: "flash" is any fused kernel, "math" holds every score of a window. A family of one's own counts as a GPT-2 of its sizes.
    """
    kept = _kept(config)
    low = 2 if (precision or config.precision) in {"bf16", "fp16"} else 4
    configured = config.batch_size if config.micro_batch_size == "auto" else config.micro_batch_size
    tokens = replicas * (micro_batch or configured) * config.context_length
    block = _block_bytes(kept, config.context_length, low, attention, stacked=replicas > 1)
    ends = 4 * (kept.ends + (kept.ends_normed if replicas > 1 else 0))
    # With checkpointing: every block's input, and all of the one block that is computed again.
    blocks = block + 4 * kept.layers * kept.hidden if config.gradient_checkpointing else kept.layers * block
    held = (replicas + waiting) * cost.parameters(config)
    copies = replicas * cost.non_embedding_parameters(config) if low < 4 else 0
    loss = _loss_bytes(tokens * kept.vocab, tokens * kept.hidden, replicas * kept.vocab * kept.hidden, low)
    if config.family not in _FAMILIES:
        loss = WHOLE_LOGIT_BYTES * tokens * kept.vocab
    return Memory(
        weights=4 * held + low * copies,
        gradients=4 * held,
        optimizer=8 * held,
        activations=tokens * (blocks + ends),
        logits=loss,
    )


def largest_micro_batch(
    config: ExperimentConfig,
    replicas: int,
    free_bytes: int,
    *,
    precision: str | None = None,
    attention: Attention = "flash",
    waiting: int = 0,
    calibration: float = DEFAULT_CALIBRATION,
) -> int:
    """The largest of `batch_size`, its half (rounded up), … whose predicted peak times `calibration` fits `free_bytes`, the device's memory
    before any stack is built; 1 where none does, for a prediction alone proves nothing.
    """
    size = config.batch_size
    while size > 1:
        peak = stack_memory_bytes(config, replicas, precision=precision, micro_batch=size, attention=attention, waiting=waiting).total
        if peak * calibration <= free_bytes:
            break
        size = -(-size // 2)
    return size


def process_bytes(stack_bytes: int) -> int:
    """What a process asks of a GPU whose stacks are predicted to take `stack_bytes` of it, where no device was measured."""
    return CUDA_CONTEXT_BYTES + SCRATCH_BYTES + round(DEFAULT_CALIBRATION * stack_bytes)


def may_train_on(config: ExperimentConfig, replicas: int, gpu_bytes: int) -> bool:
    """Whether a GPU holds so many replicas, of which one computes with one window, or with the micro-batch where one is given: then it
    trains them, in pieces."""
    micro_batch = 1 if config.micro_batch_size == "auto" else config.micro_batch_size
    least = stack_memory_bytes(config, 1, micro_batch=micro_batch, waiting=replicas - 1).total
    return process_bytes(least) <= gpu_bytes


def largest_stack(
    config: ExperimentConfig, replicas: int, free_bytes: int, *, precision: str | None = None, calibration: float = DEFAULT_CALIBRATION
) -> int:
    """How many of `replicas` to train as one stack on a GPU: as many as it gains from, or the largest of equal stacks whose predicted peak
    times `calibration` fits `free_bytes` with whole batches; 1 where none does.
    """
    for stacks in range(-(-replicas // config.gpu_stack_size(replicas)), replicas + 1):
        size = -(-replicas // stacks)
        if stack_memory_bytes(config, size, precision=precision, waiting=replicas - size).total * calibration <= free_bytes:
            return size
    return 1


def calibration(cache_dir: Path, device_name: str) -> float:
    """Measured over predicted peak on `device_name`, as `python -m benchmarks.memory` left it; the default where it did not run."""
    with suppress(OSError, ValueError, KeyError, TypeError):  # a cache: what cannot be read there is as good as missing
        return float(json.loads((cache_dir / CALIBRATION_FILE).read_text())[device_name])
    return DEFAULT_CALIBRATION


def _block_bytes(kept: _Kept, context: int, low: int, attention: Attention, *, stacked: bool) -> int:
    """What one block keeps per token."""
    full = kept.full + (kept.normed if stacked else 0)
    products = kept.low + (kept.casts if low < 4 else 0) + (kept.fused if attention == "flash" else 0)
    own = 4 * full + low * products + (4 if stacked else low) * kept.biased
    if attention == "flash":
        return own + 4 * kept.heads  # the logarithm of each row's sum
    # The softmax is float32; beside it lie the probabilities that multiply the values where they are others, and the dropout's mask.
    others = low * ((low < 4 or kept.dropout_in_attention) + kept.dropout_in_attention)
    return own + kept.heads * context * (4 + others)


def _loss_bytes(logits: int, hidden: int, head: int, low: int) -> int:
    """The larger of the loss's forward peak, with a chunk of the logits, and its backward one; all sizes in elements."""
    copy = low if low < 4 else 0
    whole = logits <= LOSS_CHUNK
    per_logit = 8 if whole else 12 + copy  # float32 logits and their log-softmax; of the chunk before, the gradient and its copy
    forward = per_logit * min(logits, LOSS_CHUNK) + 4 * hidden + (4 + low + copy) * head
    return max(forward, 2 * 4 * (hidden + head))


def _kept(config: ExperimentConfig) -> _Kept:
    if config.family in _FAMILIES:
        return _FAMILIES[config.family](config.get_model_config_dict())
    return _gpt2(config.copy(family="gpt2", model_overrides={}, num_kv_heads=config.num_heads).get_model_config_dict())


def _gpt2(model: dict[str, Any]) -> _Kept:
    d = model["n_embd"]
    f = model["n_inner"] or 4 * d
    return _Kept(
        layers=model["n_layer"],
        hidden=d,
        vocab=model["vocab_size"],
        heads=model["n_head"],
        full=2 * d + 4,  # the residual stream before each norm, with its mean and deviation
        low=6 * d + f,  # both norms' outputs, q, k, v, attention's output; GELU's output
        casts=0,
        fused=0,
        biased=f + (2 * d if model["resid_pdrop"] else 0),  # GELU's input; two masks
        normed=2 * d,
        dropout_in_attention=bool(model["attn_pdrop"]),
        ends=2 * d + (d if model["embd_pdrop"] else 0),  # the last residual stream, the hidden states that leave; a mask
        ends_normed=d,
    )


def _llama(model: dict[str, Any]) -> _Kept:
    d, f, heads = model["hidden_size"], model["intermediate_size"], model["num_attention_heads"]
    head_dim = model["head_dim"] or d // heads
    keys = head_dim * (model["num_key_value_heads"] or heads)
    return _Kept(
        layers=model["num_hidden_layers"],
        hidden=d,
        vocab=model["vocab_size"],
        heads=heads,
        full=4 * d + 2,  # the residual stream before each norm, and normalised; the inverse of its size
        low=2 * d + 2 * heads * head_dim + 2 * keys + 4 * f,  # the norms' outputs, q, attention's output, k, v; gate, SiLU, up, product
        casts=3 * d,  # q, k and v read one input, gate and up another
        fused=0,
        biased=0,
        normed=0,
        dropout_in_attention=bool(model["attention_dropout"]),
        ends=3 * d,  # the last residual stream, normalised, and the hidden states that leave
        ends_normed=0,
    )


def _gpt_neox(model: dict[str, Any]) -> _Kept:
    d, f, dropped = model["hidden_size"], model["intermediate_size"], bool(model.get("hidden_dropout"))
    return _Kept(
        layers=model["num_hidden_layers"],
        hidden=d,
        vocab=model["vocab_size"],
        heads=model["num_attention_heads"],
        full=(1 if model.get("use_parallel_residual", True) else 2) * d + 4,
        low=6 * d + f,
        casts=0,
        fused=3 * d,
        biased=f + (2 * d if dropped else 0),
        normed=2 * d,
        dropout_in_attention=bool(model.get("attention_dropout")),
        ends=2 * d + (d if dropped else 0),
        ends_normed=d,
    )


_FAMILIES = {"gpt2": _gpt2, "llama": _llama, "gpt_neox": _gpt_neox}
