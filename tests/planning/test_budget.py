"""The budget solver: what it returns is within the tolerance by an independent count, or it is refused with the nearest count."""

from __future__ import annotations

import re
from math import lcm
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from archsweep.config import ExperimentConfig
from archsweep.planning.budget import solve
from archsweep.space import Budget

BOTH = ("hidden_size", "ffn_size")


def real_count(config: ExperimentConfig, kind: str) -> int:
    """The parameters of the Hugging Face model itself, built without memory."""
    arguments = {"bos_token_id": 0, "eos_token_id": 0} | config.get_model_config_dict()
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.family, **arguments))
    outside = {"wte", "wpe", "embed_tokens", "lm_head", "embed_in", "embed_out"} if kind == "non_embedding_parameters" else set()
    return sum(weight.numel() for name, weight in model.named_parameters() if not outside & set(name.split(".")))


def config(**changes: Any) -> ExperimentConfig:
    fields: dict[str, Any] = {"num_layers": 2, "num_heads": 4, "head_dim": 16, "context_length": 64}
    return ExperimentConfig(**(fields | changes))


def solved(configs: list[ExperimentConfig], budget: Budget, sizes: tuple[str, ...] = BOTH) -> list[ExperimentConfig]:
    results = solve(configs, budget, sizes)
    assert not [result for result in results if isinstance(result, str)]
    return [result for result in results if isinstance(result, ExperimentConfig)]


@settings(deadline=None, max_examples=60)
@given(
    family=st.sampled_from(["gpt2", "llama", "gpt_neox"]),
    kind=st.sampled_from(["parameters", "non_embedding_parameters"]),
    target=st.integers(1_000, 3_000_000),
    tolerance=st.sampled_from([0.001, 0.01, 0.05]),
    layers=st.integers(1, 8),
    heads=st.lists(st.integers(1, 12), min_size=1, max_size=3, unique=True),
    ffn=st.sampled_from([None, 32, 200]),
    sizes=st.sampled_from([BOTH, ("hidden_size",), ("ffn_size",)]),
    multiple=st.sampled_from([1, 1, 8, 64]),
)
def test_every_variant_is_within_the_tolerance_or_refused(
    family: str,
    kind: Any,
    target: int,
    tolerance: float,
    layers: int,
    heads: list[int],
    ffn: int | None,
    sizes: tuple[str, ...],
    multiple: int,
) -> None:
    given_sizes = {} if ffn is None else {"ffn_size": ffn}
    configs = [config(family=family, num_layers=layers, num_heads=count, **given_sizes) for count in heads]
    budget = Budget(kind, target, tolerance, multiple)
    for before, result in zip(configs, solve(configs, budget, sizes), strict=True):
        if isinstance(result, str):
            nearest = re.search(r"is ([\d,]+), with hidden_size", result)
            assert nearest is not None
            assert abs(int(nearest[1].replace(",", "")) - target) > tolerance * target
            continue
        assert abs(real_count(result, kind) - target) <= tolerance * target
        assert (result.num_heads, result.num_layers, result.family) == (before.num_heads, layers, family)
        assert family == "gpt2" or result.head_dim % 2 == 0
        assert all(getattr(result, size) % multiple == 0 for size in sizes)
        if sizes == BOTH and ffn is None and multiple == 1:
            assert 2 - 1e-9 <= result.ffn_size / result.hidden_size <= 8 + 1e-9
        for size in {"hidden_size", "ffn_size"} - set(sizes):
            assert getattr(result, size) == getattr(before, size)


@settings(deadline=None, max_examples=15)
@given(
    layers=st.integers(1, 3),
    heads=st.integers(1, 4),
    target=st.integers(500, 20_000),
    tolerance=st.sampled_from([0.002, 0.01, 0.05]),
    multiple=st.sampled_from([1, 1, 4]),
)
def test_no_refused_variant_could_have_been_solved_and_no_other_size_is_nearer_the_wanted_proportion(
    layers: int, heads: int, target: int, tolerance: float, multiple: int
) -> None:
    def count(d: int, f: int) -> int:  # GPT-2's blocks by hand: attention, feed-forward, biases and norms
        return layers * (4 * d * d + 4 * d + 2 * d * f + f + d + 4 * d) + 2 * d

    step = lcm(heads, multiple)
    every_size = [
        (d, f)
        for d in range(step, 80, step)
        for f in range(2 * d, 8 * d + 1)
        if f % multiple == 0 and abs(count(d, f) - target) <= tolerance * target
    ]
    budget = Budget("non_embedding_parameters", target, tolerance, multiple)
    [result] = solve([config(num_layers=layers, num_heads=heads)], budget, BOTH)
    assert isinstance(result, ExperimentConfig) == bool(every_size)
    if isinstance(result, ExperimentConfig):
        nearest_width = min(every_size, key=lambda size: max(size[1] / (4 * size[0]), 4 * size[0] / size[1]))[0]
        # At a width the ffn_size nearest the target is taken: the play of the tolerance can make the next width nearer in proportion.
        assert abs(result.hidden_size - nearest_width) <= step


def test_variants_that_differ_only_in_heads_share_their_sizes() -> None:
    for family in ("gpt2", "llama"):
        results = solved([config(family=family, num_heads=heads) for heads in (1, 2, 3, 4)], Budget("non_embedding_parameters", 400_000))
        assert len({(result.hidden_size, result.ffn_size) for result in results}) == 1
        assert results[0].hidden_size % 12 == 0


def test_a_head_count_that_suits_no_common_width_is_solved_alone() -> None:
    few_one, few_two, many = solved([config(num_heads=heads) for heads in (1, 2, 63)], Budget("non_embedding_parameters", 100_000))
    assert few_one.hidden_size == few_two.hidden_size == 64
    assert many.hidden_size == 63


def test_layers_do_not_share_a_width() -> None:
    one, four = solved([config(num_layers=layers) for layers in (1, 4)], Budget("non_embedding_parameters", 100_000))
    assert one.hidden_size > four.hidden_size


def test_the_width_is_that_of_the_known_architecture() -> None:
    gpt2 = config(num_layers=12, num_heads=12, context_length=1024, vocab_size=50_257, tokenizer="hf:gpt2")
    for budget in (Budget("parameters", 124_439_808, 1e-6), Budget("non_embedding_parameters", 85_056_000, 1e-6)):
        [result] = solved([gpt2], budget)
        assert (result.hidden_size, result.ffn_size) == (768, 3072)


def test_a_wanted_proportion_is_kept() -> None:
    [result] = solved([config(hidden_size=64, head_dim=16, ffn_size=96)], Budget("non_embedding_parameters", 1_000_000))
    assert result.ffn_size / result.hidden_size == pytest.approx(1.5, rel=0.1)


def test_rounded_proportions_of_different_heads_are_one_proportion() -> None:
    # 8/3 of 63 and of 64, as a grid with a given ffn_size rounds them.
    configs = [config(num_heads=3, head_dim=21, ffn_size=168), config(num_heads=4, head_dim=16, ffn_size=171)]
    three, four = solved(configs, Budget("non_embedding_parameters", 400_000))
    assert (three.hidden_size, three.ffn_size) == (four.hidden_size, four.ffn_size)


def test_a_refusal_gives_the_target_the_nearest_count_and_the_way_out() -> None:
    wide = config(num_layers=1, num_heads=64)
    [reason] = solve([wide], Budget("non_embedding_parameters", 20_000), BOTH)
    # Width 64 is the least; with half the wanted feed-forward width (128) the blocks and the final norm hold 33,600 parameters.
    assert reason == (
        "non_embedding_parameters must be within 1.00% of 20,000; the nearest that hidden_size and ffn_size can reach "
        "(hidden_size must be a multiple of 64) is 33,600, with hidden_size 64 and ffn_size 128. "
        "Raise the tolerance, raise the target, or compare other values."
    )


@pytest.mark.parametrize("overrides", [{"n_inner": 200}, {"n_embd": 64}])
def test_a_size_that_an_override_holds_is_counted_as_it_trains(overrides: dict[str, Any]) -> None:
    [result] = solved([config(model_overrides=overrides)], Budget("non_embedding_parameters", 110_000))
    assert abs(real_count(result, "non_embedding_parameters") - 110_000) <= 1_100


def test_nothing_can_be_solved_where_overrides_hold_both_sizes() -> None:
    [reason] = solve([config(model_overrides={"n_embd": 64, "n_inner": 200})], Budget("non_embedding_parameters", 110_000), BOTH)
    # 2 * (4 * 64**2 + 2 * 64 * 200 + 9 * 64 + 200) + 2 * 64, whatever the config says.
    assert "is 85,648, with" in str(reason)


def test_a_target_beyond_any_model_is_refused_in_a_moment() -> None:
    [reason] = solve([config()], Budget("parameters", 10**18), BOTH)
    assert "lower the target" in str(reason)
