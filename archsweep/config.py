"""ExperimentConfig: everything that decides what a GPT-2 trains to, in flat fields with the field's usual names."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from archsweep.atomic import write_atomically
from archsweep.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

# Part of every trial's identity. Raise it when a change alters what a config trains to: recorded trials are then trained again.
TRAINER_VERSION = 3

# The part of the loss below which two variants count as equal, where nobody says another.
DEFAULT_MARGIN = 0.005

# An evaluation before the last reads every so many-th window of the evaluation tokens: it draws a curve, or early stopping decides by it.
CURVE_PARTS, DECISION_PARTS = 8, 4

# What of a trial, beside its config and replicas, changes what is recorded of it, and so its name.
RECORDED_OTHERWISE = ("prune_tune", "early_stopping")

# Elements of one layer's activations from which on a GPU is busy: `benchmarks/fused.py` has stacks gain up to 1 million, and lose at 6.
BUSY_GPU = 2**21

FUNCTION_PATTERN = r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*"
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
DATASET_PATTERN = r"stdlib|text:.+|hf:[^:\s]+(:[^:\s]+){0,2}"
OVERRIDE = "model_overrides."  # before a name: that one entry of model_overrides
BUDGET = "budget."  # before a kind of length: a compared budget, which the length of each of its variants meets
ANY_TIME = ("experiment_name", "device", "micro_batch_size")  # none changes what a config trains to, but for rounding
NOT_CONTENT = {*ANY_TIME, "ffn_ratio", "batch_tokens"}  # the last two do by way of ffn_size and batch_size alone
TUNABLE = ("learning_rate", "weight_decay")  # neither changes a tensor's shape, so all their values train as one stack


class Replica(BaseModel):
    """One trained model of a variant: a setting of what is tuned, and a seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    learning_rate: float
    weight_decay: float


class ExperimentConfig(BaseModel):
    """One architecture and how it is trained; frozen, checked as a whole, JSON both ways.

    Sizes that are left out follow from the others: `hidden_size` is `num_heads * head_dim`, `ffn_size` is `ffn_ratio * hidden_size`,
    and `num_kv_heads`, the heads of keys and values that groups of query heads share, is `num_heads`. Where `batch_tokens` is given, the
    tokens of a gradient, `batch_size` is as many windows as that holds.
    Training lasts `max_tokens` tokens, in `num_epochs` parts; or, where `max_tokens` is None, `num_epochs` passes over the training split.
    `warmup` is a fraction of the steps below 1, a number of steps from 1 on; `grad_clip` 0 clips nothing.
    A step reads `batch_size * gradient_accumulation_steps` windows, `micro_batch_size` of them at a time: at most `batch_size`, and with
    "auto" as many of those as the device's memory holds. `allow_tf32` lets float32 products on a GPU round to TF32's 10 bits.
    Raises ConfigError with every fault at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    experiment_name: str = "experiment"

    # The architecture.
    family: str = "gpt2"
    num_layers: int = Field(6, ge=1)
    num_heads: int = Field(4, ge=1)
    head_dim: int = Field(64, ge=1)
    hidden_size: int = Field(0, ge=1)
    ffn_size: int = Field(0, ge=1)
    ffn_ratio: float = Field(4.0, gt=0)
    num_kv_heads: int = Field(0, ge=1)
    context_length: int = Field(128, ge=2)
    dropout: float = Field(0.0, ge=0, lt=1)
    model_overrides: dict[str, JsonValue] = Field(default_factory=dict)

    # The text and its alphabet.
    dataset: str = "stdlib"
    tokenizer: str = "bpe"
    vocab_size: int = Field(512, ge=2)
    validation_fraction: float = Field(0.1, gt=0, lt=1)

    # The optimisation.
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    grad_clip: float = Field(1.0, ge=0)
    batch_size: int = Field(16, ge=1)
    batch_tokens: int | None = Field(None, ge=1)
    gradient_accumulation_steps: int = Field(1, ge=1)
    warmup: float = Field(0.05, ge=0)
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"
    num_epochs: int = Field(1, ge=1)
    max_tokens: int | None = Field(50_000, ge=1)
    seed: int = Field(0, ge=0, lt=2**31)

    # What is measured.
    num_evaluations: int = Field(4, ge=1)
    eval_tokens: int = Field(32_768, ge=1)
    metrics: tuple[str, ...] = ()

    # The hardware.
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    allow_tf32: bool = True
    micro_batch_size: int | Literal["auto"] = Field("auto")
    gradient_checkpointing: bool = False
    compile: bool | Literal["auto"] = "auto"

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise ConfigError(_explain(error, fields)) from None

    @model_validator(mode="before")
    @classmethod
    def _derive_sizes(cls, fields: Any) -> Any:
        """Fill in the sizes that were left out, so that every config that exists is complete."""
        if isinstance(fields, cls):
            return fields
        sizes = dict(fields)
        tokens, window = sizes.get("batch_tokens"), sizes.get("context_length", cls.model_fields["context_length"].default)
        if isinstance(tokens, int) and isinstance(window, int) and window > 0:
            sizes.setdefault("batch_size", max(1, tokens // window))
        heads = sizes.get("num_heads", cls.model_fields["num_heads"].default)
        given = all(isinstance(sizes.get(name, 1), int) for name in ("num_heads", "head_dim", "hidden_size"))
        if not given or not isinstance(heads, int) or heads < 1:
            return sizes  # the fields' own checks say what is wrong
        if "hidden_size" not in sizes:
            sizes["hidden_size"] = heads * sizes.get("head_dim", cls.model_fields["head_dim"].default)
        elif "head_dim" not in sizes:
            sizes["head_dim"] = max(1, sizes["hidden_size"] // heads)
        sizes.setdefault("num_kv_heads", heads)
        ratio = sizes.get("ffn_ratio", cls.model_fields["ffn_ratio"].default)
        if "ffn_size" not in sizes and isinstance(ratio, (int, float)):
            sizes["ffn_size"] = max(1, round(ratio * sizes["hidden_size"]))
        return sizes

    @model_validator(mode="wrap")
    @classmethod
    def _remember_what_was_given(cls, fields: Any, build: Any) -> Self:
        """`copy` derives the sizes anew, so a config must know which of them its author wrote down."""
        if isinstance(fields, cls):
            return fields
        config: Self = build(fields)
        object.__setattr__(config, "__pydantic_fields_set__", set(fields) & set(cls.model_fields))
        return config

    @field_validator("experiment_name")
    @classmethod
    def _name_is_a_plain_file_name(cls, name: str) -> str:
        if not re.fullmatch(NAME_PATTERN, name):
            raise ValueError("must be 1 to 64 letters, digits, '.', '_' or '-', and begin with a letter or digit; it names a folder")
        return name

    @field_validator("family")
    @classmethod
    def _family_is_known_or_a_function(cls, family: str) -> str:
        if family not in FAMILIES and not re.fullmatch(FUNCTION_PATTERN, family):
            raise ValueError(f"must be {', '.join(FAMILIES)} or package.module:function, which builds the model")
        return family

    @field_validator("dataset")
    @classmethod
    def _dataset_has_a_known_form(cls, dataset: str) -> str:
        if not re.fullmatch(f"{DATASET_PATTERN}|{FUNCTION_PATTERN}", dataset):
            raise ValueError("must be stdlib, text:PATH_OR_GLOB, hf:NAME[:CONFIG[:SPLIT]] or package.module:function, giving the texts")
        return dataset

    @field_validator("tokenizer")
    @classmethod
    def _tokenizer_has_a_known_form(cls, tokenizer: str) -> str:
        if tokenizer != "bpe" and not tokenizer.startswith("hf:") and not tokenizer.endswith(".json"):
            raise ValueError("must be bpe (trained on the corpus), hf:NAME or the path of a tokenizer.json")
        return tokenizer

    @field_validator("micro_batch_size")
    @classmethod
    def _micro_batch_holds_a_window(cls, size: int | Literal["auto"]) -> int | Literal["auto"]:
        if size != "auto" and size < 1:
            raise ValueError("must be auto or at least 1")
        return size

    @field_validator("metrics")
    @classmethod
    def _metrics_name_functions(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        if not all(re.fullmatch(FUNCTION_PATTERN, name) for name in metrics):
            raise ValueError("each must be package.module:function, called with a model and windows of tokens")
        return metrics

    @field_validator("betas")
    @classmethod
    def _betas_are_decay_rates(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("both must be at least 0 and below 1")
        return betas

    @field_validator("device")
    @classmethod
    def _device_has_a_known_form(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise ValueError("must be auto, cpu, cuda or cuda:N")
        return device

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if faults := list(self._misfits()):
            raise ValueError("\n".join(faults))
        return self

    def _misfits(self) -> Any:
        """Yield every rule between fields that is broken, each as one line."""
        if self.hidden_size % self.num_heads:
            divisors = [n for n in range(1, min(self.hidden_size, 64) + 1) if self.hidden_size % n == 0]
            yield (
                f"hidden_size must be divisible by num_heads, got {self.hidden_size} and {self.num_heads}. "
                f"Leave hidden_size out and give head_dim, or use num_heads in {divisors}."
            )
        elif self.hidden_size != self.num_heads * self.head_dim:
            yield (
                f"hidden_size must be num_heads * head_dim, got {self.hidden_size} and {self.num_heads} * {self.head_dim}. "
                "Leave one of hidden_size and head_dim out."
            )
        elif self.family in ROTARY and self.head_dim % 2:
            yield f"head_dim must be even for rotary positions (family {self.family}), got {self.head_dim}. Use {self.head_dim + 1}."
        if self.num_heads % self.num_kv_heads:
            divisors = [n for n in range(1, self.num_heads + 1) if self.num_heads % n == 0]
            yield f"num_kv_heads must divide num_heads = {self.num_heads}, got {self.num_kv_heads}. Use one of {divisors}."
        elif self.num_kv_heads != self.num_heads and self.family in FAMILIES and self.family != "llama":
            way_out = 'Leave it out, or use family="llama"'
            yield f"num_kv_heads must be num_heads in the family {self.family}, got {self.num_kv_heads}. {way_out}."
        if self.gradient_checkpointing and self.family not in FAMILIES:
            yield f"gradient_checkpointing needs one of the families {', '.join(FAMILIES)}, got {self.family}. Leave it out."
        if self.batch_tokens is not None and self.batch_tokens != self.batch_size * self.context_length:
            yield (
                f"batch_tokens must be batch_size * context_length, got {self.batch_tokens} and {self.batch_size} * {self.context_length}. "
                "Leave one of batch_tokens and batch_size out, and let context_length divide batch_tokens."
            )
        if self.max_tokens is not None and self.num_epochs > max(1, self.max_tokens // self.tokens_per_step):
            steps = self.max_tokens // self.tokens_per_step
            yield f"num_epochs must be at most the steps that max_tokens makes, {steps}, got {self.num_epochs}: each is a part of them."
        if self.tokenizer == "bpe" and self.vocab_size < 257:
            yield f"vocab_size must be at least 257 for a byte-level tokenizer (256 bytes and the end of text), got {self.vocab_size}."
        if self.warmup >= 1 and self.warmup != int(self.warmup):
            yield f"warmup must be a fraction of the steps below 1 or a whole number of steps, got {self.warmup}."
        if self.max_tokens is not None and self.max_tokens < self.tokens_per_step:
            yield (
                f"max_tokens must hold one step of batch_size * gradient_accumulation_steps * context_length = {self.tokens_per_step} "
                f"tokens, got {self.max_tokens}. Raise it, or make the batch smaller."
            )
        if self.micro_batch_size != "auto" and self.micro_batch_size > self.batch_size:
            yield f"micro_batch_size must be at most batch_size, {self.batch_size}, got {self.micro_batch_size}."
        if self.eval_tokens < self.context_length:
            yield f"eval_tokens must hold one window of context_length = {self.context_length} tokens, got {self.eval_tokens}."

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step."""
        return self.batch_size * self.gradient_accumulation_steps * self.context_length

    @property
    def layer_elements(self) -> int:
        """Elements of one layer's activations, of what one model computes at once."""
        windows = self.batch_size if self.micro_batch_size == "auto" else self.micro_batch_size
        return windows * self.context_length * self.hidden_size

    @property
    def keeps_a_gpu_busy(self) -> bool:
        """Whether the operations of one model of this config are large enough to fill a GPU."""
        return self.layer_elements > BUSY_GPU

    @property
    def trains_alone(self) -> bool:
        """Whether replicas cannot train as one stack: neither recomputing activations nor, on a GPU, a compiler works inside `vmap`."""
        return self.gradient_checkpointing or self.compile is True

    def gpu_stack_size(self, replicas: int) -> int:
        """How many of `replicas` to train as one stack on a GPU: all, or one where it is busy with one, for a stack's kernels do more."""
        return 1 if self.trains_alone or self.keeps_a_gpu_busy else replicas

    @property
    def replica(self) -> Replica:
        """The one model that this config describes by itself."""
        return Replica(seed=self.seed, learning_rate=self.learning_rate, weight_decay=self.weight_decay)

    def copy(self, **changes: Any) -> Self:
        """The same config with `changes`; sizes that nobody wrote down are derived anew.

        A change of "model_overrides.NAME" sets that one entry and keeps the others.
        """
        given = {name: getattr(self, name) for name in self.model_fields_set}
        if overrides := {name.removeprefix(OVERRIDE): changes.pop(name) for name in list(changes) if name.startswith(OVERRIDE)}:
            changes["model_overrides"] = changes.get("model_overrides", self.model_overrides) | overrides
        for size, follows in (("ffn_size", "ffn_ratio"), ("batch_size", "batch_tokens")):
            if changes.get(follows) is not None and size not in changes:
                given.pop(size, None)
        if "batch_size" in changes and "batch_tokens" not in changes:
            given.pop("batch_tokens", None)
        if "head_dim" not in changes and ("hidden_size" in given or "hidden_size" in changes):
            given.pop("head_dim", None)
        if "head_dim" in changes and "hidden_size" not in changes:
            given.pop("hidden_size", None)
        return type(self)(**(given | changes))

    def to_dict(self) -> dict[str, Any]:
        """Every field, in JSON's own types."""
        return self.model_dump(mode="json")

    def content_id(self, *more: Any) -> str:
        """Twelve hex digits that name what this config, its trainer and `more` (JSON values) decide; its name is not part of it."""
        content = {key: value for key, value in self.to_dict().items() if key not in NOT_CONTENT}
        if self.num_kv_heads == self.num_heads:  # as for every config before there were others
            del content["num_kv_heads"]
        text = json.dumps([TRAINER_VERSION, content, *more], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def save(self, path: str | Path) -> Path:
        """Write this config as JSON to `path`; returns the path."""
        return write_atomically(path, json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a config that `save` wrote. Raises ConfigError where there is none."""
        try:
            fields = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} must be a config in JSON, as ExperimentConfig.save writes it: {error}") from None
        if not isinstance(fields, dict):
            raise ConfigError(f"{path} must hold one JSON object of config fields, got {type(fields).__name__}.")
        config = cls(**fields)
        as_derived = {"ffn_size": max(1, round(config.ffn_ratio * config.hidden_size)), "num_kv_heads": config.num_heads}
        if config.batch_tokens is not None:
            as_derived["batch_size"] = config.batch_tokens // config.context_length
        for name, size in as_derived.items():  # a copy of other heads derives it anew
            if getattr(config, name) == size:
                config.__pydantic_fields_set__.discard(name)
        return config

    def get_model_config_dict(self) -> dict[str, Any]:
        """The arguments of the family's Hugging Face config class; `model_overrides` have the last word.

        A family of one's own gets the overrides alone.
        """
        names = _HUGGING_FACE_NAMES.get(self.family, {})
        sizes = {argument: getattr(self, field) for field, arguments in names.items() for argument in arguments}
        return sizes | _CONSTANTS.get(self.family, {}) | self.model_overrides


def fault_of_margin(margin: object) -> str | None:
    """What is wrong with a margin of equivalence; None for one that serves."""
    if isinstance(margin, (int, float)) and 0 < margin <= 0.5:
        return None
    return f"margin must be a part of the loss above 0 and at most 0.5, got {margin!r}. Half a percent is 0.005."


def label(variant: Mapping[str, Any]) -> str:
    """A variant in words: field=value, in the order of the question."""
    return " ".join(f"{bare_name(name)}={value_text(value)}" for name, value in variant.items())


def value_text(value: Any) -> str:
    """A compared value in a variant's name: text as it is, all else as JSON has it, large numbers as 1e+11."""
    if isinstance(value, str):
        return value
    is_large = isinstance(value, float) and abs(value) >= 1e6
    return f"{value:g}" if is_large and float(f"{value:g}") == value else json.dumps(value)


def bare_name(name: str) -> str:
    """A compared name without the role before its dot: "norm" of "model_overrides.norm"."""
    return name.rpartition(".")[2]


# Our field -> the argument, or arguments, of the family's Hugging Face config class.
_HUGGING_FACE_NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "gpt2": {
        "num_layers": ("n_layer",),
        "num_heads": ("n_head",),
        "hidden_size": ("n_embd",),
        "ffn_size": ("n_inner",),
        "context_length": ("n_positions",),
        "vocab_size": ("vocab_size",),
        "dropout": ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    },
    "llama": {
        "num_layers": ("num_hidden_layers",),
        "num_heads": ("num_attention_heads",),
        "num_kv_heads": ("num_key_value_heads",),
        "head_dim": ("head_dim",),
        "hidden_size": ("hidden_size",),
        "ffn_size": ("intermediate_size",),
        "context_length": ("max_position_embeddings",),
        "vocab_size": ("vocab_size",),
        "dropout": ("attention_dropout",),
    },
    "gpt_neox": {
        "num_layers": ("num_hidden_layers",),
        "num_heads": ("num_attention_heads",),
        "hidden_size": ("hidden_size",),
        "ffn_size": ("intermediate_size",),
        "context_length": ("max_position_embeddings",),
        "vocab_size": ("vocab_size",),
        "dropout": ("attention_dropout", "hidden_dropout"),
    },
}
FAMILIES = tuple(_HUGGING_FACE_NAMES)
ROTARY = ("llama", "gpt_neox")  # families whose heads have an even size, for their positions
_CONSTANTS: dict[str, dict[str, Any]] = {
    # GPT-2's GELU by its tanh approximation, in one kernel instead of the eight of "gelu_new".
    "gpt2": {"activation_function": "gelu_pytorch_tanh"},
    "llama": {"tie_word_embeddings": False},
    # A quarter of a small head would be too little to tell positions by.
    "gpt_neox": {
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0},
    },
}


_AUTO = ("literal['auto']",)  # where pydantic puts that a value is not "auto", for a field that may be


def _explain(error: ValidationError, fields: dict[str, Any]) -> str:
    """All faults of a config, a line each: the rule, the value and the way out."""
    lines = []
    faults = error.errors(include_url=False)
    or_auto = {fault["loc"][0] for fault in faults if fault["loc"][1:] == _AUTO}  # faulty in two ways, of which one is enough to tell
    for fault in (each for each in faults if each["loc"][1:] != _AUTO):
        name = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        if fault["loc"] and fault["loc"][0] in or_auto:
            name, message = str(fault["loc"][0]), f"{message}, or 'auto'"
        if fault["type"] == "extra_forbidden":
            lines.append(f"{name} is not a field of ExperimentConfig: {nearest(name, ExperimentConfig.model_fields)}")
        elif name:
            lines.append(f"{name}: {message[:1].lower()}{message[1:].rstrip('.')}, got {fault['input']!r}.")
        else:
            lines.extend(message.splitlines())
    title = fields.get("experiment_name", "config")
    return f"{title}: {len(lines)} fault{'s' if len(lines) > 1 else ''} in the config\n" + "\n".join(f"  - {line}" for line in lines)
