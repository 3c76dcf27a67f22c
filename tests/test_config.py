"""ExperimentConfig: what it refuses and how it says so, sizes that follow, and the name that its content gives it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archsweep.config import ExperimentConfig
from archsweep.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

# Another valid value of every field that decides what is trained.
OTHER_VALUES: dict[str, Any] = {
    "family": "gpt_neox",
    "num_layers": 5,
    "num_heads": 2,
    "head_dim": 32,
    "hidden_size": 128,
    "ffn_size": 100,
    "num_kv_heads": 2,
    "context_length": 64,
    "dropout": 0.1,
    "model_overrides": {"tie_word_embeddings": False},
    "dataset": "text:*.txt",
    "tokenizer": "hf:gpt2",
    "vocab_size": 1024,
    "validation_fraction": 0.2,
    "learning_rate": 2e-3,
    "weight_decay": 0.0,
    "betas": (0.9, 0.99),
    "grad_clip": 0.0,
    "batch_size": 8,
    "gradient_accumulation_steps": 2,
    "warmup": 10,
    "lr_scheduler_type": "cosine",
    "num_epochs": 2,
    "max_tokens": 200_000,
    "seed": 1,
    "num_evaluations": 5,
    "eval_tokens": 65_536,
    "metrics": ("my.module:metric",),
    "precision": "bf16",
    "allow_tf32": False,
    "gradient_checkpointing": True,
    "compile": True,
}
NAMES_ONLY = {"experiment_name", "device", "micro_batch_size"}
BY_WAY_OF_OTHERS = {"ffn_ratio", "batch_tokens"}  # each by the size that follows from it

sizes = st.builds(
    lambda heads, head_dim, layers, ffn: ExperimentConfig(num_layers=layers, num_heads=heads, head_dim=2 * head_dim, ffn_size=ffn),
    st.integers(1, 16),
    st.integers(1, 64),
    st.integers(1, 48),
    st.integers(1, 5000),
)


def test_the_original_example_derives_its_width_from_heads_of_64() -> None:
    config = ExperimentConfig(experiment_name="test", num_heads=5, num_layers=6)
    assert (config.hidden_size, config.ffn_size) == (320, 1280)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        ExperimentConfig(num_layers=0, dropout=1.5, learning_rate=-1.0, dataset="imagenet", lerning_rate=1)
    message = str(caught.value)
    assert "5 faults" in message
    for part in (
        "num_layers:",
        "dropout:",
        "learning_rate:",
        "dataset: must be stdlib",
        "lerning_rate is not a field",
        "did you mean learning_rate",
    ):
        assert part in message


def test_a_width_that_the_heads_do_not_divide_is_refused_with_the_heads_that_do() -> None:
    with pytest.raises(ConfigError, match=r"divisible by num_heads, got 64 and 5\. .* num_heads in \[1, 2, 4, 8, 16, 32, 64\]"):
        ExperimentConfig(hidden_size=64, num_heads=5)


def test_a_width_that_contradicts_the_head_size_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"hidden_size must be num_heads \* head_dim, got 64 and 4 \* 8"):
        ExperimentConfig(hidden_size=64, num_heads=4, head_dim=8)


def test_rotary_positions_need_an_even_head_size() -> None:
    with pytest.raises(ConfigError, match="head_dim must be even"):
        ExperimentConfig(family="llama", num_heads=4, head_dim=7)


@pytest.mark.parametrize("field", ["learning_rate", "weight_decay", "dropout", "warmup", "grad_clip"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_number_is_nan_or_infinite(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        ExperimentConfig(**{field: value})


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"max_tokens": 100}, "max_tokens must hold one step"),
        ({"eval_tokens": 100}, "eval_tokens must hold one window"),
        ({"vocab_size": 256}, "vocab_size must be at least 257"),
        ({"warmup": 1.5}, "warmup must be a fraction"),
        ({"experiment_name": "../x"}, "names a folder"),
        ({"betas": (0.9, 1.0)}, "below 1"),
        ({"device": "tpu"}, "must be auto, cpu"),
        ({"tokenizer": "words"}, "must be bpe"),
    ],
)
def test_each_rule_is_named_where_it_is_broken(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        ExperimentConfig(**changes)


def test_a_config_cannot_be_changed_in_place() -> None:
    config = ExperimentConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.__setattr__("num_layers", 3)


def test_a_copy_derives_the_sizes_that_nobody_wrote_down() -> None:
    assert ExperimentConfig(num_heads=4, head_dim=16).copy(num_heads=2).hidden_size == 32
    assert ExperimentConfig(hidden_size=64, num_heads=4).copy(num_heads=2).head_dim == 32
    assert ExperimentConfig(hidden_size=64).copy(hidden_size=128).ffn_size == 512
    assert ExperimentConfig(hidden_size=64, ffn_size=99).copy(hidden_size=128).ffn_size == 99
    assert ExperimentConfig(hidden_size=64, num_heads=4).copy(head_dim=8).hidden_size == 32


@settings(deadline=None, max_examples=50)
@given(sizes)
def test_every_config_that_exists_is_complete(config: ExperimentConfig) -> None:
    assert config.hidden_size == config.num_heads * config.head_dim
    assert config.copy().to_dict() == config.to_dict()


@settings(deadline=None, max_examples=50)
@given(sizes)
def test_what_is_saved_is_loaded(tmp_path_factory: pytest.TempPathFactory, config: ExperimentConfig) -> None:
    path = config.save(tmp_path_factory.mktemp("config") / "deeper" / "config.json")
    assert ExperimentConfig.load(path) == config
    assert ExperimentConfig.load(path).content_id() == config.content_id()


@pytest.mark.parametrize("content", [None, "{", "[1]", '{"num_layer": 2}', '{"learning_rate": NaN}'])
def test_loading_anything_but_a_config_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError):
        ExperimentConfig.load(path)


@settings(deadline=None, max_examples=50)
@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True), st.sampled_from(["auto", "cpu", "cuda", "cuda:3"]))
def test_neither_name_nor_device_nor_micro_batch_is_part_of_the_content(name: str, device: str) -> None:
    config = ExperimentConfig(experiment_name=name, device=device, micro_batch_size=2)
    assert config.content_id() == ExperimentConfig().content_id()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("micro_batch_size", 0, "must be auto or at least 1, got 0"),
        ("micro_batch_size", "x", r": 1 fault in the config\n  - micro_batch_size: .* integer, or 'auto', got 'x'\.$"),
        ("compile", "maybe", r": 1 fault in the config\n  - compile: .* boolean, .* or 'auto', got 'maybe'\.$"),
        ("micro_batch_size", 17, "must be at most batch_size, 16, got 17"),
        ("num_kv_heads", 3, "num_kv_heads must divide num_heads = 4, got 3. Use one of "),
        ("num_kv_heads", 2, "num_kv_heads must be num_heads in the family gpt2, got 2"),
        ("ffn_ratio", 0, "ffn_ratio: input should be greater than 0, got 0"),
        ("batch_tokens", 100, "batch_tokens must be batch_size . context_length, got 100 and 1 . 128"),
        ("metrics", ["repetition"], "each must be package.module:function"),
        ("precision", "fp8", "'auto', 'fp32', 'bf16' or 'fp16', got 'fp8'"),
    ],
)
def test_a_bad_value_is_refused_with_its_rule(field: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ExperimentConfig(**{field: value})


def test_the_other_values_cover_every_field_that_trains() -> None:
    assert set(OTHER_VALUES) | NAMES_ONLY | BY_WAY_OF_OTHERS == set(ExperimentConfig.model_fields)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.sampled_from(sorted(OTHER_VALUES)), min_size=1, max_size=3, unique=True).filter(
        lambda names: not any(apart <= set(names) for apart in ({"hidden_size", "head_dim"}, {"family", "num_kv_heads"}))
    )
)
def test_any_field_that_trains_changes_the_content_id(names: list[str]) -> None:
    base = ExperimentConfig(family="llama")
    assert base.copy(**{name: OTHER_VALUES[name] for name in names}).content_id() != base.content_id()


def test_what_follows_from_a_ratio_or_from_tokens_is_the_config_that_states_it() -> None:
    by_ratio = ExperimentConfig(num_heads=4, head_dim=12, ffn_ratio=8 / 3)
    assert (by_ratio.ffn_size, by_ratio.copy(num_heads=2).ffn_size, by_ratio.copy(ffn_ratio=0.5).ffn_size) == (128, 64, 24)
    assert by_ratio.content_id() == ExperimentConfig(num_heads=4, head_dim=12, ffn_size=128).content_id()
    by_tokens = ExperimentConfig(context_length=64, batch_tokens=512)
    assert (by_tokens.batch_size, by_tokens.copy(context_length=256).batch_size) == (8, 2)
    assert by_tokens.content_id() == ExperimentConfig(context_length=64, batch_size=8).content_id()
    assert by_tokens.copy(batch_size=4).batch_tokens is None
    assert {by_tokens.copy(context_length=length).tokens_per_step for length in (16, 32, 128, 512)} == {512}


def test_a_config_that_was_saved_derives_its_sizes_anew_as_before(tmp_path: Path) -> None:
    config = ExperimentConfig(family="llama", num_heads=4, head_dim=16, context_length=64, batch_tokens=512)
    loaded = ExperimentConfig.load(config.save(tmp_path / "config.json"))
    assert loaded.copy(context_length=32).batch_size == config.copy(context_length=32).batch_size == 16
    assert loaded.copy(num_heads=2, hidden_size=64).num_kv_heads == 2


def test_one_entry_of_the_overrides_is_changed_by_its_name() -> None:
    config = ExperimentConfig(model_overrides={"initializer_range": 0.06})
    assert config.copy(**{"model_overrides.layer_norm_epsilon": 1e-6}).model_overrides == {
        "initializer_range": 0.06,
        "layer_norm_epsilon": 1e-6,
    }
    assert config.model_overrides == {"initializer_range": 0.06}


def test_a_llama_s_heads_of_keys_are_its_own_and_count() -> None:
    config = ExperimentConfig(family="llama", num_heads=8, head_dim=8, num_kv_heads=2)
    assert config.get_model_config_dict()["num_key_value_heads"] == 2
    assert config.copy(num_kv_heads=8).content_id() == ExperimentConfig(family="llama", num_heads=8, head_dim=8).content_id()


def test_the_content_id_is_the_same_in_every_process_and_for_every_way_to_say_it() -> None:
    config = ExperimentConfig(num_heads=4, head_dim=64)
    assert config.content_id() == ExperimentConfig(hidden_size=256, betas=[0.9, 0.95]).content_id()
    assert config.content_id("corpus") != config.content_id()
    assert len(config.content_id()) == 12


def test_the_model_arguments_end_with_the_overrides() -> None:
    arguments = ExperimentConfig(num_layers=3, model_overrides={"n_layer": 7, "layer_norm_epsilon": 1e-6}).get_model_config_dict()
    assert (arguments["n_layer"], arguments["layer_norm_epsilon"], arguments["n_embd"]) == (7, 1e-6, 256)


@settings(deadline=None, max_examples=50)
@given(sizes)
def test_to_dict_is_plain_json(config: ExperimentConfig) -> None:
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()
