"""The budgets of length: whole steps within the tolerance of FLOPs, tokens or seconds, or a refusal with the nearest that steps reach."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archsweep.config import ExperimentConfig
from archsweep.planning.length import solve_length
from archsweep.planning.plan import make_plan
from archsweep.space import Budget, Choice, Space

BASE = ExperimentConfig(num_layers=2, num_heads=4, head_dim=16, context_length=64)


def gpt2_flops_per_token(config: ExperimentConfig) -> int:
    """By hand: three times two per weight of a matrix, tied head included, and attention over the whole window."""
    d, f, layers = config.hidden_size, config.ffn_size, config.num_layers
    weights = layers * (4 * d * d + 2 * d * f) + d * config.vocab_size
    return 6 * weights + 12 * layers * d * config.context_length


shapes = st.builds(
    lambda **fields: ExperimentConfig(**fields),
    num_layers=st.integers(1, 5),
    num_heads=st.integers(1, 4),
    head_dim=st.integers(1, 16),
    context_length=st.integers(2, 80),
    vocab_size=st.integers(257, 600),
    batch_size=st.integers(1, 20),
    gradient_accumulation_steps=st.integers(1, 3),
    num_epochs=st.integers(1, 3),
    max_tokens=st.just(100_000),
)


@settings(deadline=None, max_examples=150)
@given(
    config=shapes,
    kind=st.sampled_from(["flops", "tokens", "train_seconds"]),
    size=st.floats(0.05, 300),
    tolerance=st.sampled_from([0.001, 0.01, 0.1]),
    seconds=st.floats(1e-7, 1e-2),
)
def test_whole_steps_are_within_the_tolerance_or_the_nearest_that_they_reach_is_told(
    config: ExperimentConfig, kind: Any, size: float, tolerance: float, seconds: float
) -> None:
    step_tokens = config.batch_size * config.gradient_accumulation_steps * config.context_length
    step = step_tokens * {"flops": gpt2_flops_per_token(config), "tokens": 1, "train_seconds": seconds}[kind]
    target = max(1, int(size * step)) if kind == "tokens" else size * step
    solved = solve_length(config, Budget(kind, target, tolerance), lambda config: seconds)
    misses = {steps: abs(steps * step - target) / target for steps in range(1, 302)}
    least = min(misses.values())
    if isinstance(solved, str):
        told = re.search(r"with (\d+) steps?\. Take that for the target", solved)
        if told is None:
            assert "num_epochs must be at most" in solved
            return
        assert least > tolerance - 1e-9
        assert misses[int(told[1])] == pytest.approx(least)
        return
    assert solved.max_tokens is not None
    assert solved.max_tokens % step_tokens == 0
    assert abs(solved.max_tokens // step_tokens * step - target) <= tolerance * target * (1 + 1e-9)
    assert solved == config.copy(max_tokens=solved.max_tokens), "the shape stays as it was given"


def test_equal_flops_give_the_smaller_model_more_tokens() -> None:
    space = Space(base=BASE, compare={"num_layers": Choice(1, 4)}, budget=Budget("flops", 1e12))
    one, four = sorted(make_plan("sweep", "", space, "corpus").trials, key=lambda trial: trial.config.num_layers)
    assert one.cost.train_tokens > 2 * four.cost.train_tokens
    for trial in (one, four):
        assert trial.config.hidden_size == 64
        assert gpt2_flops_per_token(trial.config) * trial.cost.train_tokens == pytest.approx(1e12, rel=0.01)


def test_equal_tokens_are_whole_steps_of_every_batch_and_context() -> None:
    compare = {"batch_size": Choice(8, 12, 100_000), "context_length": Choice(64, 96)}
    made = make_plan("sweep", "", Space(base=BASE, compare=compare, budget=Budget("tokens", 400_000, 0.02)), "corpus")
    assert len(made.trials) == 4
    for trial in made.trials:
        assert trial.cost.train_tokens == trial.config.max_tokens == pytest.approx(400_000, rel=0.02)
    assert [refusal.variant["batch_size"] for refusal in made.refused] == [100_000, 100_000]
    assert "the nearest that whole steps of 6,400,000 each reach is 6,400,000, with 1 step. Take that" in made.refused[0].reason


def test_seconds_are_solved_from_what_a_token_takes() -> None:
    budget = Budget("train_seconds", 30, tolerance=0.1)
    [slow] = make_plan("s", "", Space(base=BASE, compare={"num_layers": Choice(2)}, budget=budget), "c", speed=lambda config: 1e-4).trials
    # 30 s at 0.1 ms a token are 300,000 tokens: 293 steps of 16 * 64.
    assert slow.config.max_tokens == 293 * 1024


def test_a_budget_of_sizes_and_one_of_length_are_met_together() -> None:
    budget = (Budget("non_embedding_parameters", 50_000), Budget("flops", 5e11))
    made = make_plan("sweep", "", Space(base=BASE, compare={"num_layers": Choice(1, 2, 4)}, budget=budget), "corpus")
    assert len(made.trials) == 3
    assert made.budgets == budget
    for trial in made.trials:
        assert trial.cost.non_embedding_parameters == pytest.approx(50_000, rel=0.01)
        assert gpt2_flops_per_token(trial.config) * trial.cost.train_tokens == pytest.approx(5e11, rel=0.01)
