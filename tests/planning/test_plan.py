"""The plan: every variant once or refused with its reason, named by content, priced, longest first, saved whole."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archsweep.config import ExperimentConfig
from archsweep.errors import ConfigError, RecordError, SpaceError
from archsweep.planning.find import find, shipped
from archsweep.planning.grid import Refusal, grid
from archsweep.planning.plan import Plan, make_plan
from archsweep.space import ASHA, Budget, Choice, Space

if TYPE_CHECKING:
    from pathlib import Path

BASE = ExperimentConfig(num_layers=2, num_heads=4, head_dim=16, context_length=64, learning_rate=5e-4, weight_decay=0.05, seed=3)


def plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {"base": BASE, "compare": {"num_layers": Choice(1, 2)}}
    return make_plan("sweep", "Why?", Space(**(fields | changes)), "corpus")


def test_a_grid_lists_every_combination_once_in_the_order_written() -> None:
    space = Space(base=BASE, compare={"num_layers": Choice(4, 1), "dropout": Choice(0.0, 0.1)})
    assert [variant[0] if isinstance(variant, tuple) else variant for variant in grid(space)] == [
        {"num_layers": 4, "dropout": 0.0},
        {"num_layers": 4, "dropout": 0.1},
        {"num_layers": 1, "dropout": 0.0},
        {"num_layers": 1, "dropout": 0.1},
    ]


def test_a_trial_holds_every_setting_with_every_seed() -> None:
    [trial] = plan(
        compare={"num_layers": Choice(1)}, tune={"learning_rate": Choice(1e-3, 2e-3), "weight_decay": Choice(0, 0.1)}, repeat=2
    ).trials
    found = {(replica.learning_rate, replica.weight_decay, replica.seed) for replica in trial.replicas}
    assert found == {(rate, decay, seed) for rate in (1e-3, 2e-3) for decay in (0.0, 0.1) for seed in (3, 4)}
    assert len(trial.replicas) == 8


def test_what_is_not_tuned_has_the_configs_value() -> None:
    [trial] = plan(compare={"num_layers": Choice(1)}, repeat=1).trials
    assert [replica.model_dump() for replica in trial.replicas] == [{"seed": 3, "learning_rate": 5e-4, "weight_decay": 0.05}]


def test_a_compared_learning_rate_reaches_the_replicas() -> None:
    trials = plan(compare={"learning_rate": Choice(1e-3, 2e-3)}, repeat=2).trials
    assert {trial.label: {replica.learning_rate for replica in trial.replicas} for trial in trials} == {
        "learning_rate=0.001": {1e-3},
        "learning_rate=0.002": {2e-3},
    }


def test_labels_say_the_variant_in_words() -> None:
    labels = {
        trial.label for trial in plan(compare={"family": Choice("llama"), "num_heads": Choice(2), "betas": Choice((0.9, 0.99))}).trials
    }
    assert labels == {"family=llama num_heads=2 betas=[0.9, 0.99]"}


def test_the_longest_trials_come_first() -> None:
    trials = plan(compare={"num_layers": Choice(1, 8, 2, 4)}).trials
    assert [trial.config.num_layers for trial in trials] == [8, 4, 2, 1]


def test_a_trial_is_named_by_its_content() -> None:
    first, again = plan(), plan()
    assert [trial.id for trial in first.trials] == [trial.id for trial in again.trials]
    assert {trial.config.experiment_name for trial in first.trials} == {"sweep"}
    names = {trial.id for trial in first.trials}
    renamed = make_plan("other", "", Space(base=BASE, compare={"num_layers": Choice(1, 2)}), "corpus")
    assert {trial.id for trial in renamed.trials} == names
    assert not names & {trial.id for trial in plan(repeat=2).trials}
    assert not names & {trial.id for trial in plan(tune={"learning_rate": Choice(1e-3)}).trials}
    other_corpus = make_plan("sweep", "Why?", Space(base=BASE, compare={"num_layers": Choice(1, 2)}), "another")
    assert not names & {trial.id for trial in other_corpus.trials}


def test_evaluations_that_decide_something_read_twice_as_much_as_those_that_draw_a_curve() -> None:
    """By hand: of four evaluations the last reads 32,768 tokens, the others an eighth or a quarter of them."""
    several = {"tune": {"learning_rate": Choice(1e-3, 2e-3)}, "repeat": 2}
    curves, stopped, pruned = (plan(**several, **changes).trials for changes in ({}, {"early_stopping": ASHA()}, {"prune_tune": True}))
    assert (curves[0].config.eval_tokens, curves[0].evaluations) == (32_768, 4)
    for trials, parts, tokens in ((curves, 8, 4_096), (stopped, 4, 8_192), (pruned, 4, 8_192)):
        assert {(trial.earlier_parts, trial.evaluated_tokens) for trial in trials} == {(parts, 32_768 + 3 * tokens)}
    names = [{trial.id for trial in trials} for trials in (curves, stopped, pruned)]
    assert len(set.union(*names)) == sum(map(len, names)), "none takes another's records: its losses on the way are of other tokens"


def test_a_variant_that_makes_no_config_is_refused_with_the_reason() -> None:
    made = plan(base=ExperimentConfig(hidden_size=64), compare={"num_heads": Choice(4, 5)})
    assert [trial.label for trial in made.trials] == ["num_heads=4"]
    assert [refusal.variant for refusal in made.refused] == [{"num_heads": 5}]
    assert "divisible by num_heads, got 64 and 5" in made.refused[0].reason


def test_a_variant_that_the_budget_cannot_reach_is_refused() -> None:
    made = plan(compare={"num_heads": Choice(4, 512)}, budget=Budget("non_embedding_parameters", 100_000))
    assert [trial.label for trial in made.trials] == ["num_heads=4"]
    assert "must be within 1.00% of 100,000" in made.refused[0].reason


def test_a_plan_without_a_trial_is_an_error_with_every_reason() -> None:
    with pytest.raises(SpaceError) as caught:
        plan(compare={"num_heads": Choice(256, 512)}, budget=Budget("non_embedding_parameters", 1000))
    message = str(caught.value)
    assert "none of the 2 variants" in message
    assert "num_heads=256: non_embedding_parameters must be" in message
    assert "num_heads=512: non_embedding_parameters must be" in message


def test_no_two_trials_share_a_name() -> None:
    made = plan(compare={"ffn_size": Choice(64, 256), "model_overrides": Choice({}, {"n_inner": 64}), "weight_decay": Choice(0, 0.1)})
    assert len({trial.id for trial in made.trials}) == 8


def test_derive_sets_what_follows_from_the_question() -> None:
    made = plan(derive=lambda config: config.copy(batch_size=4 * config.num_layers))
    assert {trial.config.num_layers: trial.config.batch_size for trial in made.trials} == {1: 4, 2: 8}


def test_the_budget_keeps_the_proportion_that_derive_sets() -> None:
    made = plan(derive=lambda config: config.copy(ffn_size=2 * config.hidden_size), budget=Budget("non_embedding_parameters", 500_000))
    assert [trial.config.ffn_size / trial.config.hidden_size for trial in made.trials] == pytest.approx([2, 2], rel=0.1)


def test_the_budget_keeps_the_proportion_of_the_base_for_any_heads() -> None:
    base = ExperimentConfig(hidden_size=64, num_heads=4, ffn_size=170, context_length=64)
    made = plan(base=base, compare={"num_heads": Choice(1, 3, 4)}, budget=Budget("non_embedding_parameters", 400_000))
    assert not made.refused
    assert len({(trial.config.hidden_size, trial.config.ffn_size) for trial in made.trials}) == 1
    assert made.trials[0].config.ffn_size / made.trials[0].config.hidden_size == pytest.approx(170 / 64, rel=0.1)


def fails(config: ExperimentConfig) -> ExperimentConfig:
    raise ZeroDivisionError("oh")


@pytest.mark.parametrize(
    ("derive", "told"),
    [
        (lambda config: None, "derive must return an ExperimentConfig, got None"),
        (fails, "it raised ZeroDivisionError: oh"),
        (lambda config: config.copy(num_layers=7), "it changed num_layers"),
        (lambda config: config.copy(max_tokens=None), "made it None"),
    ],
)
def test_a_derive_that_breaks_the_question_is_an_error(derive: Any, told: str) -> None:
    with pytest.raises(SpaceError, match=told):
        plan(derive=derive)


def test_a_derive_that_makes_no_config_refuses_that_variant() -> None:
    made = plan(derive=lambda config: config.copy(dropout=0.6 * config.num_layers))
    assert [refusal.variant for refusal in made.refused] == [{"num_layers": 2}]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"compare": {"betas": Choice((0.9, 0.95), (0.9, 0.99)), "family": Choice("gpt2", "llama")}},
        {"compare": {"num_heads": Choice(4, 512)}, "budget": Budget("parameters", 150_000), "tune": {"learning_rate": Choice(1e-3)}},
    ],
)
def test_a_saved_plan_is_loaded_as_it_was(tmp_path: Path, changes: dict[str, Any]) -> None:
    made = plan(**changes)
    path = made.save(tmp_path / "results" / "plan.json")
    loaded = Plan.load(path)
    assert loaded == made
    assert loaded.model_dump_json() == made.model_dump_json()
    assert [trial.config.content_id() for trial in loaded.trials] == [trial.config.content_id() for trial in made.trials]
    assert json.loads(path.read_text())["name"] == "sweep"
    assert [entry.name for entry in path.parent.iterdir()] == ["plan.json"]


@pytest.mark.parametrize("content", [None, "{", "{}", '{"name": 1}', "\xff"])
def test_loading_anything_but_a_plan_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "plan.json"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(RecordError, match="must be a plan"):
        Plan.load(path)


def test_a_plan_with_a_broken_config_is_refused(tmp_path: Path) -> None:
    path = plan().save(tmp_path / "plan.json")
    path.write_text(path.read_text().replace('"num_layers": 1,', '"num_layers": 0,'))
    with pytest.raises(RecordError, match="num_layers"):
        Plan.load(path)


def test_a_sweep_name_must_name_a_folder() -> None:
    with pytest.raises(ConfigError, match="names a folder"):
        make_plan("../x", "", Space(base=BASE, compare={"num_layers": Choice(1)}), "corpus")


@settings(deadline=None, max_examples=30)
@given(
    layers=st.lists(st.integers(1, 6), min_size=1, max_size=3, unique=True),
    heads=st.lists(st.integers(1, 40), min_size=1, max_size=3, unique=True),
    target=st.integers(2_000, 200_000),
)
def test_no_variant_vanishes(layers: list[int], heads: list[int], target: int) -> None:
    space = Space(
        base=BASE, compare={"num_layers": Choice(*layers), "num_heads": Choice(*heads)}, budget=Budget("non_embedding_parameters", target)
    )
    try:
        made = make_plan("sweep", "", space, "corpus")
    except SpaceError as error:
        assert str(error).count("must be within") == len(layers) * len(heads)  # noqa: PT017  # either outcome is right, each with its own count
        return
    planned = [trial.variant for trial in made.trials] + [refusal.variant for refusal in made.refused]
    assert sorted(map(str, planned)) == sorted(str({"num_layers": layer, "num_heads": head}) for layer in layers for head in heads)
    assert all(abs(trial.cost.non_embedding_parameters - target) <= 0.01 * target for trial in made.trials)


def test_planning_takes_a_moment() -> None:
    space = find("heads_vs_layers").space
    start = time.perf_counter()
    make_plan("sweep", "", space, "corpus")
    assert time.perf_counter() - start < 0.3


@pytest.mark.parametrize("name", [name for name in sorted(shipped()) if find(name).space.method is None])
def test_every_shipped_grid_is_planned_fair(name: str) -> None:
    space = find(name).space
    made = make_plan(name, "", space, "corpus")
    variants = 1
    for choice in space.compare.values():
        variants *= len(choice.values)
    assert not made.refused
    assert len(made.trials) == variants
    if space.length_budget is None and not space.varied_budgets:
        assert len({trial.cost.train_tokens for trial in made.trials}) == 1
    for trial in made.trials:
        assert len({replica.seed for replica in trial.replicas}) >= 3
        for budget in space.budgets:
            counted = getattr(trial.cost, budget.kind)
            assert abs(counted - budget.target) <= budget.tolerance * budget.target
    smoke = make_plan(name, "", space.smoke(), "corpus")
    assert 1 <= len(smoke.trials) <= 4


def test_heads_vs_layers_compares_nine_shapes_at_three_rates_and_only_the_heads_differ() -> None:
    made = make_plan("heads_vs_layers", "", find("heads_vs_layers").space, "corpus")
    assert len(made.trials) >= 9
    for trial in made.trials:
        assert len({replica.learning_rate for replica in trial.replicas}) >= 3
        assert len({replica.seed for replica in trial.replicas}) >= 3
    for layers in (1, 2, 4):
        alike = [trial.config for trial in made.trials if trial.config.num_layers == layers]
        assert len({(config.hidden_size, config.ffn_size) for config in alike}) == 1
        assert {config.num_heads for config in alike} == {1, 2, 4}


def test_refusals_can_be_read_from_the_file(tmp_path: Path) -> None:
    made = plan(base=ExperimentConfig(hidden_size=64), compare={"num_heads": Choice(4, 5)})
    assert Plan.load(made.save(tmp_path / "plan.json")).refused == (Refusal(variant={"num_heads": 5}, reason=made.refused[0].reason),)


def test_a_budget_with_a_compared_width_solves_the_feed_forward_width() -> None:
    space = Space(base=BASE, compare={"hidden_size": Choice(48, 64)}, budget=Budget("non_embedding_parameters", 100_000))
    made = make_plan("sweep", "", space, "corpus")
    assert sorted(trial.config.hidden_size for trial in made.trials) == [48, 64]
    assert make_plan("sweep", "", replace(space, compare={"head_dim": Choice(12, 16)}), "corpus").trials[0].cost == made.trials[0].cost


COMPARE = {"num_layers": Choice(1, 2), "num_heads": Choice(2, 4)}


def test_the_plan_says_what_is_tested_in_the_order_of_the_question(tmp_path: Path) -> None:
    made = plan(compare=COMPARE, reference={"num_heads": 4, "num_layers": 1}, margin=0.01)
    read = Plan.load(made.save(tmp_path / "plan.json"))
    assert read.reference is not None
    assert list(read.reference.items()) == [("num_layers", 1), ("num_heads", 4)]
    assert (read.margin, plan().margin, plan().reference) == (0.01, 0.005, None)


def test_a_reference_that_is_not_trained_is_refused_before_anything_is() -> None:
    with pytest.raises(SpaceError, match=r"must be one of the variants that are trained, got num_layers=2 .*it is refused: too deep"):
        plan(
            compare=COMPARE,
            reference={"num_layers": 2, "num_heads": 4},
            constrain=lambda config: "too deep" if config.num_layers == 2 else None,
        )


def test_one_model_under_two_names_is_refused() -> None:
    one = Space(base=BASE, compare={"ffn_ratio": Choice(2, 4)}, derive=lambda config: config.copy(ffn_size=64, ffn_ratio=config.ffn_ratio))
    with pytest.raises(SpaceError, match="ffn_ratio=2 and ffn_ratio=4 must be different models, and they are one"):
        make_plan("one", "", one, "corpus")
