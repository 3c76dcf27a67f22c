"""config -> Hugging Face's own GPT-2 or Llama, and an attention that a stack of replicas can share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_model
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from archsweep.errors import ConfigError, nearest
from archsweep.extensions import count_weights, load

if TYPE_CHECKING:
    from pathlib import Path

    from archsweep.config import ExperimentConfig

transformers.utils.logging.disable_progress_bar()  # a bar per saved model says nothing and breaks our own

FOLDED_ATTENTION = "archsweep_folded"

_CLASSES = {
    "gpt2": (transformers.GPT2Config, transformers.GPT2LMHeadModel),
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "gpt_neox": (transformers.GPTNeoXConfig, transformers.GPTNeoXForCausalLM),
}


class CustomGPT2Model(nn.Module):
    """The Hugging Face model of a config, or its own family's module, in `.model`; `forward` maps (B, T) token ids to (B, T, vocab_size)
    logits."""

    def __init__(self, config: ExperimentConfig) -> None:
        super().__init__()
        self.config = config
        self.model: Any  # a transformers.PreTrainedModel, or whatever module a function of the user's has built
        if config.family not in _CLASSES:
            self.model = load(config.family)(config)
            return
        _, build = _CLASSES[config.family]
        self.model = build(hugging_face_config(config))
        self.model.config.use_cache = False

    @classmethod
    def from_config(cls, config: ExperimentConfig, seed: int | None = None) -> Self:
        """Build the model; with `seed`, its initial weights are a function of the seed and the caller's generator is left alone."""
        if seed is None:
            return cls(config)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return cls(config)

    def forward(self, input_ids: Tensor) -> Tensor:
        output = self.model(input_ids)
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits

    def count_parameters(self) -> dict[str, int]:
        """Trained weights, tied ones once: "total", and "non_embedding" (blocks and final norm; no embeddings, no head)."""
        if not isinstance(self.model, transformers.PreTrainedModel):
            counts = count_weights(self.model, self.config.vocab_size)
            return {"total": counts.total, "non_embedding": counts.non_embedding}
        total = sum(parameter.numel() for parameter in self.parameters())
        embeddings = {id(parameter): parameter.numel() for module in self._embeddings() for parameter in module.parameters()}
        return {"total": total, "non_embedding": total - sum(embeddings.values())}

    def _embeddings(self) -> list[nn.Module]:
        modules: list[nn.Module] = [self.model.get_input_embeddings()]
        modules += [module for name, module in self.model.named_modules() if name.endswith("wpe")]  # GPT-2's learned positions
        if (head := self.model.get_output_embeddings()) is not None:
            modules.append(head)
        return modules

    def get_model_info(self) -> dict[str, Any]:
        """Name, shape and size of the model, in JSON's own types."""
        shape = ("family", "num_layers", "num_heads", "num_kv_heads", "head_dim", "hidden_size", "ffn_size", "context_length", "vocab_size")
        counts = self.count_parameters()
        return {
            "architecture": type(self.model).__name__,
            **{name: getattr(self.config, name) for name in shape},
            "parameters": counts["total"],
            "non_embedding_parameters": counts["non_embedding"],
            "weight_bytes": sum(parameter.numel() * parameter.element_size() for parameter in self.parameters()),
        }

    def save_pretrained(self, folder: Path) -> None:
        """Write the weights (safetensors) and config, for a Hugging Face model so that its class opens them."""
        if isinstance(self.model, transformers.PreTrainedModel):
            self.model.save_pretrained(folder)
            return
        self.config.save(folder / "config.json")
        save_model(self.model, str(folder / "model.safetensors"))


def hugging_face_config(config: ExperimentConfig) -> transformers.PreTrainedConfig:
    """The built-in family's own config. Raises ConfigError for an override that it does not know."""
    config_class, _ = _CLASSES[config.family]
    known = set(config_class().to_dict())
    for name in config.model_overrides:
        if name not in known:
            raise ConfigError(f"model_overrides: {name} is not an option of {config_class.__name__}: {nearest(name, known)}")
    # Token ids of no special meaning: a small vocabulary has none of GPT-2's, and transformers warns of each.
    special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return config_class(**(special | config.get_model_config_dict()))


class _FoldReplicas(torch.autograd.Function):
    """Causal attention whose `vmap` rule folds the replicas into the batch.

    PyTorch has no `vmap` rule for attention on CPU and falls back to a loop over the replicas. The rule below is all that is used of
    this class: it runs beneath `vmap`, where autograd sees the plain attention and differentiates it by itself.
    """

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, dropout: float, scale: float | None) -> Tensor:
        return _attend(query, key, value, dropout, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing to keep: autograd never differentiates this function itself."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        *tensors, dropout, scale = inputs
        query, key, value = (_fold(tensor, dim, info.batch_size) for tensor, dim in zip(tensors, in_dims[:3], strict=True))
        folded = _attend(query, key, value, dropout, scale)
        return folded.view(info.batch_size, -1, *folded.shape[1:]), 0


def _fold(tensor: Tensor, dim: int | None, replicas: int) -> Tensor:
    """(replicas, B, H, T, D) with the replicas at `dim`, or shared -> (replicas * B, H, T, D)."""
    stacked = tensor.expand(replicas, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return stacked.flatten(0, 1)


def _attend(query: Tensor, key: Tensor, value: Tensor, dropout: float, scale: float | None) -> Tensor:
    if torch.is_autocast_enabled(kind := query.device.type):  # as it would cast them itself, but not beneath a vmap that is compiled
        query, key, value = (tensor.to(torch.get_autocast_dtype(kind)) for tensor in (query, key, value))
    shared_keys = query.shape[-3] != key.shape[-3]
    return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True, scale=scale, enable_gqa=shared_keys)


def _folded_attention(
    module: nn.Module,
    query: Tensor,  # (B, H, T, D)
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    # A compiler reads through the rule to the plain attention, and a GPU's kernels have rules of their own.
    folds = not torch.compiler.is_dynamo_compiling() and torch._C._functorch.peek_interpreter_stack() is not None
    attend = _FoldReplicas.apply if folds else _attend
    output = attend(query, key, value, dropout if module.training else 0.0, scaling)
    return output.transpose(1, 2), None  # (B, T, H, D), as transformers expects


ALL_ATTENTION_FUNCTIONS.register(FOLDED_ATTENTION, _folded_attention)
