"""A GPT-2 of exchangeable parts, for questions that no Hugging Face family can be asked: `family="search_spaces.parts:build"`.

Its parts are named by `model_overrides`; without any it is GPT-2: `norm` ("layer", "rms"), `norm_position` ("pre", "post"),
`positions` ("learned", "rotary"), `activation` ("gelu", "relu2", "swiglu"), `initializer_range` (.02).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archsweep.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from archsweep.config import ExperimentConfig

NORMS = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "relu2": lambda x: F.relu(x).square(),
    "swiglu": F.silu,
}
OPTIONS = {"norm": tuple(NORMS), "norm_position": ("pre", "post"), "positions": ("learned", "rotary"), "activation": tuple(ACTIVATIONS)}
DEFAULTS: dict[str, Any] = {name: values[0] for name, values in OPTIONS.items()} | {"initializer_range": 0.02}
ROTARY_BASE = 10_000.0


def build(config: ExperimentConfig) -> nn.Module:
    """The model of a config. Raises ConfigError for a part that is not there."""
    for name, value in config.model_overrides.items():
        if name not in DEFAULTS:
            raise ConfigError(f"model_overrides: {name} is not a part of search_spaces.parts: {nearest(name, DEFAULTS)}")
        if name in OPTIONS and value not in OPTIONS[name]:
            raise ConfigError(f"model_overrides: {name} must be one of {', '.join(OPTIONS[name])}, got {value!r}.")
    for name, must_be in {"num_kv_heads": config.num_heads, "dropout": 0.0}.items():  # what it would not heed
        if getattr(config, name) != must_be:
            raise ConfigError(f"{name} must be {must_be} in search_spaces.parts, got {getattr(config, name)}. Leave it out.")
    parts = DEFAULTS | config.model_overrides
    if parts["positions"] == "rotary" and config.head_dim % 2:
        raise ConfigError(f"head_dim must be even for rotary positions, got {config.head_dim}. Use {config.head_dim + 1}.")
    return Transformer(config, parts)


class Transformer(nn.Module):
    """Token ids (B, T) to logits (B, T, vocab_size), the head tied to the embedding."""

    def __init__(self, config: ExperimentConfig, parts: dict[str, Any]) -> None:
        super().__init__()
        width, norm = config.hidden_size, NORMS[parts["norm"]]
        self.tokens = nn.Embedding(config.vocab_size, width)
        self.positions = nn.Embedding(config.context_length, width) if parts["positions"] == "learned" else None
        self.blocks = nn.ModuleList(Block(config, parts) for _ in range(config.num_layers))
        self.norm = norm(width, eps=1e-5) if parts["norm_position"] == "pre" else nn.Identity()  # a block after which it stands has its own
        self.head = nn.Linear(width, config.vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        self._initialise(parts["initializer_range"], config.num_layers)

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.tokens(input_ids)
        if self.positions is not None:
            hidden = hidden + self.positions.weight[: input_ids.shape[1]]
        for block in self.blocks:
            hidden = block(hidden)
        logits: Tensor = self.head(self.norm(hidden))
        return logits

    def _initialise(self, spread: float, num_layers: int) -> None:
        """As GPT-2: normal weights, no biases, and what writes into the residual stream smaller by the root of how often that is done."""
        for name, weight in self.named_parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=spread / (2 * num_layers) ** 0.5 if name.endswith("out.weight") else spread)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)


class Block(nn.Module):
    """Attention and feed-forward, each added to the residual stream, with its norm before it or after the sum."""

    def __init__(self, config: ExperimentConfig, parts: dict[str, Any]) -> None:
        super().__init__()
        norm = NORMS[parts["norm"]]
        self.attention, self.feed_forward = Attention(config, parts), FeedForward(config, parts)
        self.norms = nn.ModuleList(norm(config.hidden_size, eps=1e-5) for _ in range(2))
        self.is_pre = parts["norm_position"] == "pre"

    def forward(self, hidden: Tensor) -> Tensor:
        for part, norm in zip((self.attention, self.feed_forward), self.norms, strict=True):
            hidden = hidden + part(norm(hidden)) if self.is_pre else norm(hidden + part(hidden))
        return hidden


class Attention(nn.Module):
    """Causal attention; positions are turned into the queries and keys where they are rotary (Su et al. 2021)."""

    def __init__(self, config: ExperimentConfig, parts: dict[str, Any]) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads, self.is_rotary = config.num_heads, parts["positions"] == "rotary"
        self.inwards, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        batch, time, width = hidden.shape
        query, key, value = self.inwards(hidden).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        if self.is_rotary:
            query, key = rotated(query), rotated(key)
        future = torch.ones(time, time, dtype=torch.bool, device=hidden.device).triu(1)
        scores = (query @ key.mT / query.shape[-1] ** 0.5).masked_fill(future, float("-inf"))
        mixed = scores.softmax(-1) @ value
        output: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, time, width))
        return output


class FeedForward(nn.Module):
    """Out(f(in)); where it is gated, out(f(gate) * in) (Shazeer 2020): a third matrix, so 2/3 of the width has as many weights."""

    def __init__(self, config: ExperimentConfig, parts: dict[str, Any]) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.ffn_size
        self.inwards, self.out = nn.Linear(width, inner), nn.Linear(inner, width)
        self.gate = nn.Linear(width, inner) if parts["activation"] == "swiglu" else None
        self.activation = ACTIVATIONS[parts["activation"]]

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.inwards(hidden)
        inner = self.activation(inner) if self.gate is None else self.activation(self.gate(hidden)) * inner
        output: Tensor = self.out(inner)
        return output


def rotated(heads: Tensor) -> Tensor:
    """(B, H, T, D): each pair (i, i + D/2) of position t turned by t / 10000^(2i / D)."""
    time, size = heads.shape[-2:]
    speeds = ROTARY_BASE ** (-torch.arange(0, size, 2, device=heads.device) / size)
    angles = torch.arange(time, device=heads.device)[:, None] * speeds
    first, second = torch.chunk(heads, 2, dim=-1)
    cos, sin = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
