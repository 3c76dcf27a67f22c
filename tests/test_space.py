"""Space: what a question must state, told all at once where it does not, and its small copy for a smoke test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archsweep.config import ExperimentConfig
from archsweep.errors import SpaceError
from archsweep.space import ASHA, Budget, Choice, IntRange, LogUniform, MedianStopping, Optuna, Space, Uniform, When

BASE = ExperimentConfig(num_layers=2, num_heads=4, head_dim=16, context_length=64, max_tokens=307_200, eval_tokens=65_536)


def space(**changes: Any) -> Space:
    fields: dict[str, Any] = {"base": BASE, "compare": {"num_layers": Choice(1, 2, 4)}}
    return Space(**(fields | changes))


def refused(**changes: Any) -> str:
    with pytest.raises(SpaceError) as caught:
        space(**changes)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"compare": {"num_layer": Choice(1, 2)}}, "num_layer is not a field of ExperimentConfig: did you mean num_layers?"),
        ({"compare": {"num_layers": [1, 2]}}, "num_layers must be a Choice, got [1, 2]. Write Choice(1, 2)."),
        (
            {"compare": {"num_layers": Choice([1, 2])}},
            "a Choice takes its values one after another, got Choice([1, 2]). Write Choice(1, 2).",
        ),
        ({"compare": {"num_layers": Choice()}}, "num_layers must have at least one value"),
        ({"compare": {"num_layers": Choice(1, 2, 1)}}, "num_layers must list every value once, got 1 again"),
        ({"compare": {"num_layers": Choice("2")}}, "num_layers: input should be a valid integer, got '2'"),
        ({"compare": {"num_layers": Choice(True)}}, "num_layers: input should be a valid integer, got True"),
        ({"compare": {"num_layers": Choice(0)}}, "num_layers: input should be greater than or equal to 1, got 0"),
        ({"compare": {"learning_rate": Choice(float("nan"))}}, "learning_rate"),
        ({"compare": {"max_tokens": Choice(None)}}, "max_tokens must be a number of tokens, got None"),
        ({"compare": {"dataset": Choice("stdlib", "text:a")}}, "dataset cannot be compared: losses on different texts"),
        (
            {"compare": {"vocab_size": Choice(512, 1024)}},
            'in different alphabets are not comparable; with metric="bits_per_byte" they are',
        ),
        ({"compare": {"precision": Choice("fp64")}}, "precision: input should be"),
        ({"compare": {"betas": Choice((0.9, 1.1))}}, "betas"),
        ({"compare": {}}, "compare must name at least one field"),
        ({"compare": Choice(1, 2)}, "compare must map fields to choices"),
        ({"compare": {"seed": Choice(1, 2)}}, "seed cannot be compared: `repeat` trains"),
        ({"compare": {"device": Choice("cpu", "cuda")}}, "device cannot be compared"),
        ({"tune": {"num_layers": Choice(3)}}, "num_layers is in compare and in tune"),
        ({"tune": {"batch_size": Choice(8, 16)}}, "batch_size cannot be tuned, only learning_rate and weight_decay can"),
        ({"tune": {"learning_rates": Choice(1e-3)}}, "did you mean learning_rate?"),
        ({"tune": {"learning_rate": 1e-3}}, "Write Choice(0.001)"),
        ({"repeat": 0}, "repeat must be a whole number of seeds, at least 1, got 0"),
        ({"repeat": 2.5}, "got 2.5"),
        ({"base": BASE.copy(max_tokens=None)}, "base.max_tokens must be a number of tokens"),
        ({"base": "tiny"}, "base must be an ExperimentConfig, got 'tiny'"),
        ({"budget": Budget("params", 1000)}, "params is not a kind of budget: did you mean parameters"),  # type: ignore[arg-type]
        ({"budget": Budget("parameters", 0)}, "target must be a whole number of parameters, at least 1, got 0"),
        ({"budget": Budget("parameters", 1e5)}, "target must be a whole number"),  # type: ignore[arg-type]
        ({"budget": Budget("parameters", 1000, tolerance=1)}, "tolerance must be a fraction above 0 and at most 0.5, got 1"),
        ({"budget": Budget("parameters", 1000, tolerance=float("nan"))}, "tolerance must be a fraction"),
        ({"budget": 100_000}, "budget must be a Budget, got 100000"),
        ({"budget": (Budget("parameters", 9), 5)}, "budget must be a Budget, got 5"),
        ({"budget": Budget("flops", -1e9)}, "target must be a number of FLOPs above 0, got -1000000000.0"),
        ({"budget": Budget("tokens", 1e6)}, "target must be a whole number of tokens, at least 1, got 1000000.0"),
        ({"method": Optuna(4), "budget": Budget("train_seconds", 60, 0.1)}, "a search cannot hold train_seconds"),
        ({"budget": Budget("train_seconds", 60)}, 'got 0.01. Write Budget("train_seconds", 60, tolerance=0.1)'),
        ({"budget": Budget("tokens", 1000, multiple_of=8)}, "multiple_of is for the widths, which tokens leaves alone, got 8"),
        ({"budget": Budget("parameters", 1000, multiple_of=0)}, "multiple_of must be a whole number, at least 1, got 0"),
        ({"budget": (Budget("tokens", 1000), Budget("flops", 1e9))}, "tokens and flops are both met by max_tokens, which can meet one"),
        (
            {"budget": Budget("flops", 1e9), "compare": {"max_tokens": Choice(1024, 2048)}},
            "max_tokens is what meets the budget of flops. Compare another field",
        ),
        ({"derive": 3}, "derive must be a function"),
        ({"prune_tune": "yes"}, "prune_tune must be True or False, got 'yes'"),
        ({"prune_tune": True}, "it needs tune, a repeat of at least 2, and several evaluations"),
        ({"constrain": 3}, "constrain must be a function from ExperimentConfig to a reason or None, got 3"),
        ({"compare": {"num_layers": IntRange(1, 4)}}, "num_layers must be a Choice in a grid, got IntRange(low=1, high=4, step=1)"),
        ({"tune": {"learning_rate": LogUniform(1e-3, 1e-2)}}, "learning_rate must be a Choice, got LogUniform(low=0.001, high=0.01)"),
        ({"method": 40}, "method must be Optuna, got 40. Write Optuna(trials=40)"),
        ({"method": Optuna(0)}, "trials must be a whole number of variants to train, at least 1, got 0"),
        ({"method": Optuna(9, sampler="tp")}, "tp is not a sampler: did you mean tpe"),  # type: ignore[arg-type]
        ({"method": Optuna(9, seed=0.5)}, "seed must be a whole number, got 0.5"),  # type: ignore[arg-type]
        ({"method": Optuna(9, objectives=("val_loss", "flop"))}, "flop is not an objective: did you mean flops"),  # type: ignore[arg-type]
        ({"method": Optuna(9, objectives="val_loss")}, "objectives must be a tuple of names, got 'val_loss'"),  # type: ignore[arg-type]
        ({"method": Optuna(9, objectives=("flops",))}, "objectives must hold"),
        ({"early_stopping": 3}, "early_stopping must be ASHA or MedianStopping, got 3"),
        ({"early_stopping": ASHA(first=1.0)}, "first must be a fraction of the steps above 0 and below 1, got 1.0"),
        ({"early_stopping": ASHA(reduction=1)}, "reduction must be a whole number, at least 2, got 1"),
        ({"early_stopping": MedianStopping(fewest=0)}, "fewest must be a whole number of variants, at least 1, got 0"),
        ({"early_stopping": ASHA(), "base": BASE.copy(num_evaluations=1)}, "base.num_evaluations is 1. Give the base 4 of them"),
        (
            {"early_stopping": ASHA(), "method": Optuna(9, objectives=("val_loss", "flops"))},
            "early_stopping decides by val_loss alone, and there are several objectives",
        ),
        (
            {"compare": {"num_layers": Choice(1, 2), "budget.flop": Choice(1e9)}},
            "budget.flop is not a budget that can be compared; budget.flops and budget.tokens are",
        ),
        ({"compare": {"num_layers": Choice(1, 2), "budget.train_seconds": Choice(9)}}, "State others as budget=Budget(...)"),
        ({"compare": {"num_layers": Choice(1, 2), "budget.flops": Choice(1e9, -1)}}, "budget.flops must be a number above 0, got -1"),
        ({"compare": {"num_layers": Choice(1, 2), "budget.flops": 1e9}}, "budget.flops must be a Choice of budgets, got 1000000000.0"),
        ({"compare": {"budget.flops": Choice(1e9, 2e9)}}, "budget.flops leaves one variant at each budget. Compare another field"),
        ({"compare": {"model_overrides.num_layers": Choice(1, 2), "num_layers": Choice(1, 2)}}, "num_layers would name two fields"),
        ({"compare": {"model_overrides.": Choice(1, 2)}}, "model_overrides. is not a field"),
        ({"compare": {5: Choice(1, 2)}}, "a field is named by a text, got 5"),
        ({"compare": {"ffn_ratio": Choice(1, 4), "ffn_size": Choice(8, 16)}}, "ffn_size leaves nothing of ffn_ratio"),
        (
            {"compare": {"ffn_ratio": Choice(1, 4)}, "budget": Budget("parameters", 50_000, solve=("ffn_size",))},
            "ffn_ratio needs a budget that solves both sizes, or none",
        ),
        (
            {"compare": {"num_layers": Choice(1, 2), "budget.flops": Choice(1e9)}, "budget": Budget("tokens", 9)},
            "budget.flops sets max_tokens, and is for a grid",
        ),
        (
            {"compare": {"num_layers": Choice(1, 2), "budget.flops": Choice(1e9)}, "method": Optuna(4)},
            "is for a grid without another budget of length",
        ),
        (
            {
                "compare": {"num_layers": Choice(1, 2), "budget.flops": Choice(1e9, 2e9)},
                "reference": {"num_layers": 1, "budget.flops": 1e9},
            },
            "variants are compared at their own budget.flops, where one reference is not",
        ),
        ({"compare": {"model_overrides.norm": Choice(object())}}, "model_overrides.norm must be a value that JSON has"),
        ({"tune": {"model_overrides.norm": Choice(1)}}, "model_overrides.norm is not a field of ExperimentConfig"),
        ({"metric": "bits_per_bite"}, "bits_per_bite is not what can be compared: did you mean bits_per_byte"),  # type: ignore[arg-type]
        ({"metric": "bits_per_byte", "early_stopping": ASHA()}, "method and early_stopping decide by val_loss"),
        (
            {"compare": {"dataset": Choice("stdlib", "text:a.txt")}, "metric": "bits_per_byte"},
            "losses on different texts are not comparable",
        ),
        ({"budget": Budget("parameters", 1000, solve=("width",))}, "solve must be a tuple of hidden_size and ffn_size"),
        ({"budget": Budget("parameters", 1000, solve="ffn_size")}, 'Write ("ffn_size",)'),  # type: ignore[arg-type]
        (
            {"budget": Budget("parameters", 1000, solve=("ffn_size",)), "compare": {"ffn_size": Choice(8, 9)}},
            "ffn_size leave the budget nothing to solve",
        ),
        ({"compare": {"num_layers": Choice(1, 2), "num_heads": When(Choice(2, 4))}}, "must have a condition"),
        ({"compare": {"num_layers": When(Choice(1, 2), num_heads=4)}}, "before it, got num_heads"),
        ({"compare": {"num_layers": Choice(1, 2), "num_heads": When(Choice(2), num_layer=1)}}, "did you mean num_layers"),
        ({"compare": {"num_layers": Choice(1, 2), "num_heads": When(Choice(2), num_layers=3)}}, "num_layers is never 3"),
    ],
)
def test_each_fault_is_told_with_its_rule_and_value(changes: dict[str, Any], told: str) -> None:
    message = refused(**changes)
    assert told in message
    assert message.startswith("1 fault in the search space")


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("num_layers", IntRange(4, 1), "num_layers must have a low below its high"),
        ("num_layers", IntRange(1, 8, 3), "in whole steps, got IntRange(low=1, high=8, step=3). Write IntRange(1, 7, 3)"),
        ("num_layers", IntRange(1, 2.5), "IntRange takes whole numbers"),  # type: ignore[arg-type]
        ("num_layers", IntRange(0, 3), "num_layers: input should be greater than or equal to 1, got 0"),
        ("num_layers", Uniform(1, 2.5), "num_layers: input should be a valid integer, got 2.5"),
        ("dropout", LogUniform(0.0, 0.5), "dropout must begin above 0 to be spread by factors"),
        ("dropout", Uniform(0.0, float("nan")), "Uniform takes finite numbers"),
        ("dropout", Uniform(0.0, 1.0), "dropout: input should be less than 1, got 1.0"),
    ],
)
def test_each_fault_of_a_range_is_told(name: str, values: Any, told: str) -> None:
    assert told in refused(compare={name: values}, method=Optuna(9))


def test_smoke_of_a_search_searches_less_for_the_same() -> None:
    compare = {
        "num_layers": IntRange(1, 12),
        "max_tokens": IntRange(100_000, 400_000),
        "num_heads": When(Choice(1, 2), num_layers=Choice(1, 2)),
    }
    small = space(compare=compare, method=Optuna(40), tune={"learning_rate": Choice(1e-3, 2e-3, 4e-3)}).smoke()
    assert small.method == Optuna(3)
    assert small.compare == compare | {"max_tokens": IntRange(5_120, 20_480)}
    grid = space(compare={"num_layers": Choice(1, 2, 4), "num_heads": When(Choice(1, 2, 4), num_layers=4)}).smoke()
    assert grid.compare == {"num_layers": Choice(1, 4), "num_heads": When(Choice(1, 4), num_layers=4)}


def test_all_faults_are_told_at_once() -> None:
    message = refused(
        compare={"num_layer": Choice(1), "num_heads": Choice(0)}, tune={"dropout": Choice(0.1)}, repeat=-1, budget=Budget("parameters", -5)
    )
    assert message.startswith("5 faults")


@pytest.mark.parametrize("width", ["hidden_size", "head_dim"])
def test_a_budget_needs_a_size_to_solve(width: str) -> None:
    budget = Budget("parameters", 100_000)
    assert space(budget=budget).solved == ("hidden_size", "ffn_size")
    assert space(budget=budget, compare={width: Choice(32, 64)}).solved == ("ffn_size",)
    assert space(budget=budget, compare={"ffn_size": Choice(32, 64)}).solved == ("hidden_size",)
    assert "leave the budget nothing to solve" in refused(budget=budget, compare={width: Choice(64), "ffn_size": Choice(64)})
    assert space(compare={width: Choice(64), "ffn_size": Choice(64)}).solved == ()
    assert space(compare={width: Choice(64), "ffn_size": Choice(64)}, budget=Budget("flops", 1e9)).solved == ("max_tokens",)


def test_a_value_is_not_refused_because_another_field_does_not_divide() -> None:
    explicit = ExperimentConfig(hidden_size=64, num_heads=4)
    assert Space(base=explicit, compare={"num_heads": Choice(3, 5)}).compare["num_heads"].values == (3, 5)


def test_seeds_count_from_the_base() -> None:
    assert space(base=BASE.copy(seed=10), repeat=3).seeds == (10, 11, 12)


def test_a_whole_number_is_a_valid_rate() -> None:
    assert space(tune={"learning_rate": Choice(1), "weight_decay": Choice(0, 0.1)}).tune["weight_decay"].values == (0, 0.1)


def test_smoke_keeps_the_question_and_shortens_the_answer() -> None:
    small = space(
        compare={"num_layers": Choice(1, 2, 4), "num_heads": Choice(1, 2, 4), "dropout": Choice(0.0, 0.1)},
        tune={"learning_rate": Choice(1e-3, 2e-3, 4e-3)},
        budget=Budget("parameters", 150_000),
        repeat=5,
    ).smoke()
    assert [choice.values for choice in small.compare.values()] == [(1, 4), (1, 4), (0.0,)]
    assert small.tune["learning_rate"].values == (1e-3, 4e-3)
    assert small.budget == Budget("parameters", 150_000)
    assert (small.repeat, small.base.max_tokens, small.base.eval_tokens, small.base.num_evaluations) == (2, 20 * 1024, 8192, 2)


def test_smoke_keeps_a_budget_of_sizes_and_lets_one_of_length_go() -> None:
    sizes, length = Budget("parameters", 150_000), Budget("flops", 1e12)
    assert space(budget=(sizes, length)).smoke().budget == sizes
    assert space(budget=length).smoke().budget is None


def test_smoke_never_makes_a_short_run_longer() -> None:
    short = BASE.copy(max_tokens=2048, eval_tokens=64, num_evaluations=1)
    small = space(base=short).smoke().base
    assert (small.max_tokens, small.eval_tokens, small.num_evaluations) == (2048, 64, 1)


def test_smoke_holds_a_step_and_a_window_of_the_largest_variant() -> None:
    long = BASE.copy(max_tokens=10_000_000)
    small = space(base=long, compare={"context_length": Choice(64, 16_384), "batch_size": Choice(2, 8)}).smoke()
    assert small.base.max_tokens == 20 * 16_384 * 8
    assert small.base.eval_tokens == 16_384


def test_smoke_scales_compared_tokens_and_caps_derived_ones() -> None:
    compared = space(compare={"max_tokens": Choice(100_000, 400_000)}).smoke()
    assert compared.compare["max_tokens"].values == (5_120, 20_480)
    derived = space(derive=lambda config: config.copy(max_tokens=10**9)).smoke()
    assert derived.derive is not None
    assert derived.derive(BASE).max_tokens == 20 * 1024


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(1, 64), min_size=1, max_size=5, unique=True), min_size=1, max_size=5))
def test_smoke_has_at_most_four_variants_of_the_ends(values: list[list[int]]) -> None:
    names = ["num_layers", "num_heads", "head_dim", "ffn_size", "num_epochs"]
    whole = space(compare={name: Choice(*row) for name, row in zip(names, values, strict=False)})
    variants = 1
    for name, choice in whole.smoke().compare.items():
        assert set(choice.values) <= {whole.compare[name].values[0], whole.compare[name].values[-1]}
        variants *= len(choice.values)
    assert variants <= 4


def test_a_changed_space_is_checked_again() -> None:
    with pytest.raises(SpaceError, match="repeat"):
        replace(space(), repeat=0)


GRID = {"num_layers": Choice(1, 2, 4), "num_heads": Choice(2, 4)}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"reference": {"num_layer": 1, "num_heads": 2}}, "reference: num_layer is not compared: did you mean num_layers?"),
        ({"reference": {"num_layers": 3, "num_heads": 2}}, "reference: num_layers is never 3: it is one of Choice(1, 2, 4)."),
        ({"reference": {"num_layers": 1}}, "leaves open num_heads"),
        ({"reference": 2}, "reference must map compared fields to the values of one variant"),
        ({"reference": {"num_layers": 1, "num_heads": 2}, "method": Optuna(3)}, "reference is for a grid"),
        ({"margin": 0}, "margin must be a part of the loss above 0"),
        ({"margin": 5}, "Half a percent is 0.005"),
    ],
)
def test_what_is_tested_is_one_variant_and_a_part_of_the_loss(changes: dict[str, Any], told: str) -> None:
    assert told in refused(compare=GRID, **changes)


def test_a_smoke_test_keeps_a_reference_that_it_still_has() -> None:
    ends = {"num_layers": 1, "num_heads": 2}
    assert space(compare=GRID, reference=ends).smoke().reference == ends
    assert space(compare=GRID, reference={"num_layers": 2, "num_heads": 2}).smoke().reference is None
