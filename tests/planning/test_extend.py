"""A plan against the one in its folder: the same question goes on, a larger one adds what is new, another one is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsweep.config import ExperimentConfig
from archsweep.errors import SpaceError
from archsweep.planning.extend import reconcile
from archsweep.planning.plan import Plan, make_plan
from archsweep.space import Budget, Choice, IntRange, LogUniform, Optuna, Space

if TYPE_CHECKING:
    from pathlib import Path

    from archsweep.config import Replica

BASE = ExperimentConfig(hidden_size=64, num_heads=4, context_length=64)
RATES = {"learning_rate": Choice(1e-3, 3e-3)}


def plan(layers: tuple[int, ...] = (1, 2), rates: tuple[float, ...] = (1e-3, 3e-3), **changes: Any) -> Plan:
    tune = {"learning_rate": Choice(*rates)} if rates else {}
    roles: dict[str, Any] = {"base": BASE, "compare": {"num_layers": Choice(*layers)}, "tune": tune, "repeat": 2} | changes
    return make_plan("sweep", "Why?", Space(**roles), "corpus")


def models(plan: Plan) -> list[tuple[str, Replica]]:
    return [(trial.label, replica) for trial in plan.trials for replica in trial.replicas]


def test_the_same_question_is_the_recorded_plan_even_where_it_was_split() -> None:
    recorded = plan()
    first, *others = recorded.trials
    halves = [first.with_replicas(first.replicas[:1], "corpus"), first.with_replicas(first.replicas[1:], "corpus")]
    split = recorded.model_copy(update={"trials": (*halves, *others)})
    ids = sorted(trial.id for trial in split.trials)
    assert sorted(trial.id for trial in reconcile(split, plan(), extend=False).trials) == ids


def test_what_decides_nothing_about_a_model_is_as_it_is_asked_for_now() -> None:
    mended = reconcile(plan(base=BASE.copy(device="cuda:7")), plan(base=BASE.copy(device="cpu")), extend=False)
    assert {trial.config.device for trial in mended.trials} == {"cpu"}


@pytest.mark.parametrize("base", [BASE.copy(batch_size=4, ffn_size=100), BASE.copy(batch_tokens=512, ffn_ratio=2)])
def test_a_trial_that_goes_on_is_the_model_that_its_name_says(base: ExperimentConfig, tmp_path: Path) -> None:
    recorded = plan(base=base)
    first, *others = recorded.trials
    halves = [first.with_replicas(first.replicas[:1], "corpus"), first.with_replicas(first.replicas[1:], "corpus")]
    split = Plan.load(recorded.model_copy(update={"trials": (*halves, *others)}).save(tmp_path / "plan.json"))
    for extend in (False, True):
        for trial in reconcile(split, plan(base=base.copy(device="cpu"), repeat=3 if extend else 2), extend=extend).trials:
            assert trial.id == trial.with_replicas(trial.replicas, "corpus").id
            assert (trial.config.batch_size, trial.config.ffn_size) == (base.batch_size, base.ffn_size)


def test_another_question_is_refused_with_two_ways_out() -> None:
    with pytest.raises(SpaceError, match=r"holds another plan than this one.*--extend.*--name"):
        reconcile(plan(), plan(repeat=3), extend=False)


def searched(trials: int = 12, base: ExperimentConfig = BASE, **roles: Any) -> Plan:
    roles = {"compare": {"num_layers": IntRange(1, 8), "learning_rate": LogUniform(1e-3, 1e-1)}} | roles
    return make_plan("search", "How deep?", Space(base=base, method=Optuna(trials), **roles), "corpus")


def test_a_search_goes_on_with_its_points_as_it_is_asked_for_now() -> None:
    recorded = searched(4)
    assert len(recorded.trials) == 4
    goes_on = reconcile(recorded, searched(20, BASE.copy(device="cpu")), extend=False)
    assert (goes_on.points, goes_on.size) == (recorded.points, 20)
    assert [trial.id for trial in goes_on.trials] == [trial.id for trial in recorded.trials]
    assert {trial.config.device for trial in goes_on.trials} == {"cpu"}


def smaller_batches(config: ExperimentConfig) -> ExperimentConfig:
    return config.copy(batch_size=2)


def shallow(config: ExperimentConfig) -> str | None:
    return "too deep" if config.num_layers > 4 else None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"derive": smaller_batches}, r"num_layers=\d learning_rate=\S+ was something else: its derive, constrain or prune_tune"),
        ({"constrain": shallow}, "was something else"),
        ({"prune_tune": True, "tune": RATES, "compare": {"num_layers": IntRange(1, 8)}}, "was something else"),
        ({"margin": 0.2}, "fixed what is tested before it ran"),
    ],
    ids=lambda each: next(iter(each)) if isinstance(each, dict) else "",
)
def test_a_search_whose_points_or_margin_would_be_others_now_is_refused(changes: dict[str, Any], said: str) -> None:
    same = {name: changes[name] for name in ("tune", "compare") if name in changes}
    for before, now in ((same, changes), (changes, same)):
        with pytest.raises(SpaceError, match=said):
            reconcile(searched(**before), searched(**now), extend=False)


@pytest.mark.parametrize(
    ("larger", "expected"),
    [
        ({"layers": (1, 2, 4)}, [(4, 4)]),  # a new variant with all its replicas
        ({"repeat": 3}, [(1, 2), (2, 2)]),  # one more seed at two rates, for each of both
        ({"rates": (1e-3, 3e-3, 9e-3)}, [(1, 2), (2, 2)]),  # two seeds at one more rate
        ({"layers": (2, 3), "repeat": 3}, [(2, 2), (3, 6)]),
    ],
)
def test_an_extension_trains_what_is_new_and_keeps_every_trial(larger: dict[str, Any], expected: list[tuple[int, int]]) -> None:
    recorded = plan()
    joined = reconcile(recorded, plan(**larger), extend=True)
    added = [trial for trial in joined.trials if trial not in recorded.trials]
    assert sorted((trial.config.num_layers, len(trial.replicas)) for trial in added) == expected
    assert all(trial in joined.trials for trial in recorded.trials)


@given(
    before=st.tuples(st.sets(st.integers(1, 4), min_size=1), st.sets(st.sampled_from([1e-3, 2e-3, 4e-3]), min_size=1), st.integers(1, 3)),
    after=st.tuples(st.sets(st.integers(1, 4), min_size=1), st.sets(st.sampled_from([1e-3, 2e-3, 4e-3]), min_size=1), st.integers(1, 3)),
)
def test_joined_plans_hold_every_model_of_both_once(before: Any, after: Any) -> None:
    recorded, planned = (plan(tuple(sorted(layers)), tuple(sorted(rates)), repeat=repeat) for layers, rates, repeat in (before, after))
    joined = reconcile(recorded, planned, extend=True)
    assert len(models(joined)) == len(set(models(joined)))
    assert set(models(joined)) == set(models(recorded)) | set(models(planned))
    assert len({trial.id for trial in joined.trials}) == len(joined.trials)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"base": BASE.copy(max_tokens=100_000)}, "num_layers=2 was another architecture, or trained otherwise"),
        ({"base": BASE.copy(dropout=0.1), "layers": (3, 4)}, "dropout was 0.0 in all of it, and is 0.1 now"),
        ({"rates": (), "base": BASE.copy(learning_rate=5e-3)}, "its tune was"),
        ({"compare": {"num_heads": Choice(2, 4)}}, "its compare was"),
        ({"budget": Budget("non_embedding_parameters", 300_000)}, "its budget was None"),
    ],
)
def test_what_is_not_one_question_is_never_joined(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(SpaceError, match=f"cannot be extended: {told}.*--name"):
        reconcile(plan(), plan(**changes), extend=True)


def test_trials_that_another_trainer_made_are_neither_taken_for_these_nor_joined() -> None:
    old = plan()
    old = old.model_copy(update={"trials": tuple(trial.model_copy(update={"id": f"old{trial.id}"}) for trial in old.trials)})
    with pytest.raises(SpaceError, match="holds another plan"):
        reconcile(old, plan(), extend=False)
    with pytest.raises(SpaceError, match="another version of the trainer made it"):
        reconcile(old, plan(repeat=3), extend=True)


def test_a_length_that_a_budget_has_solved_may_differ_between_variants_of_one_question() -> None:
    budget = Budget("flops", 10**11, tolerance=0.02)
    joined = reconcile(plan((1,), budget=budget), plan((1, 2), budget=budget), extend=True)
    lengths = {trial.config.num_layers: trial.config.max_tokens for trial in joined.trials}
    assert sorted(lengths) == [1, 2]
    assert lengths[1] != lengths[2]
    reconcile(plan((1,), budget=budget), plan((2,), budget=budget), extend=True)


@pytest.mark.parametrize("changes", [{"reference": {"num_layers": 1}}, {"margin": 0.01}])
@pytest.mark.parametrize("extend", [False, True])
def test_what_is_tested_cannot_be_chosen_after_the_losses_are_known(changes: dict[str, Any], extend: bool) -> None:
    with pytest.raises(SpaceError, match="fixed what is tested before it ran: every pair"):
        reconcile(plan(), plan(**changes), extend=extend)
