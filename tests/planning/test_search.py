"""Search: the same suggestions for the same seed, also after a kill; refused and repeated points cost no training; a mirror to watch."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import TYPE_CHECKING, Any, get_args

import optuna
import pytest

from archsweep.config import ExperimentConfig
from archsweep.errors import SpaceError
from archsweep.planning.memory import stack_memory_bytes
from archsweep.planning.plan import Plan, Trial, make_plan
from archsweep.planning.search import FIRST, Result, Search, gone_on
from archsweep.space import ASHA, Choice, IntRange, LogUniform, Optuna, Space, Uniform, When
from archsweep.vocabulary import Sampler

if TYPE_CHECKING:
    from pathlib import Path

BASE = ExperimentConfig(num_layers=2, num_heads=2, head_dim=8, context_length=16, batch_size=4, max_tokens=384, eval_tokens=256)
COMPARE = {"num_layers": IntRange(1, 8), "num_heads": Choice(1, 2, 4), "learning_rate": LogUniform(1e-3, 1e-1)}


def plan(trials: int = 14, compare: Any = None, objectives: Any = ("val_loss",), sampler: Any = "tpe", **more: Any) -> Plan:
    method = Optuna(trials, sampler=sampler, objectives=objectives)
    return make_plan("sweep", "How deep?", Space(base=BASE, compare=compare or COMPARE, method=method, **more), "corpus")


def result(trial: Trial) -> Result:
    """A loss that is lowest at three layers and a rate of .01, as an evaluation half-way and at the end say."""
    loss = (trial.config.num_layers - 3) ** 2 + abs(math.log10(trial.config.learning_rate) + 2)
    return Result("finished", loss, decode_tokens_per_second=1000 / trial.config.num_layers, losses={3: loss + 1, 6: loss})


def train(search: Search, unfinished: list[Trial], most: int = 1000) -> dict[str, Result]:
    """Let the search go on to its end, or to `most` trials, one trial at a time; what became of each."""
    results: dict[str, Result] = {}
    for trial in search.trials(unfinished):
        if len(results) == most:
            break
        for step, loss in result(trial).losses.items():
            search.report(trial, step, loss)
        results[trial.id] = result(trial)
        search.tell(trial, results[trial.id])
    return results


def points(search: Search) -> list[dict[str, Any]]:
    return [point.params for point in search.plan.points]


@pytest.mark.parametrize("sampler", get_args(Sampler))
def test_one_seed_gives_one_sequence_also_after_a_kill_and_from_what_plan_and_results_say(sampler: str, tmp_path: Path) -> None:
    made = plan(sampler=sampler)
    whole = Search(made)
    train(whole, list(made.trials))
    assert len(whole.plan.trials) == 14

    killed = Search(made, keep=lambda grown: grown.save(tmp_path / "plan.json"))
    results = train(killed, list(made.trials), most=12)
    goes_on = gone_on(made, Plan.load(tmp_path / "plan.json"))
    again = Search(goes_on, results)
    train(again, [trial for trial in goes_on.trials if trial.id not in results])
    assert points(again) == points(whole)
    assert again.plan.trials == whole.plan.trials

    other = make_plan("sweep", "", Space(base=BASE, compare=COMPARE, method=Optuna(14, sampler=sampler, seed=1)), "corpus")  # type: ignore[arg-type]
    assert points(Search(other))[0] != points(whole)[0]


def test_the_first_trials_are_known_before_anything_runs_and_the_others_follow_from_results() -> None:
    made = plan()
    assert len(made.trials) == FIRST
    assert made.size == 14
    good, bad = Search(made), Search(made)
    train(good, list(made.trials))
    for trial in bad.trials(list(made.trials)):
        bad.tell(trial, Result("finished", -result(trial).val_loss))
    assert points(good)[:FIRST] == points(bad)[:FIRST]
    assert points(good) != points(bad)


def test_a_search_finds_the_depth_that_it_was_shown_to_be_best() -> None:
    made = plan(40, compare={"num_layers": IntRange(1, 100), "learning_rate": LogUniform(1e-3, 1e-1)})
    search = Search(made)
    results = train(search, list(made.trials))
    later = [trial.config.num_layers for trial in search.plan.trials[FIRST:]]
    first = [trial.config.num_layers for trial in made.trials]
    assert sum(abs(layers - 3) for layers in later) / len(later) < sum(abs(layers - 3) for layers in first) / len(first) / 2
    assert len(results) == 40


def test_a_point_that_constrain_or_derive_refuses_is_recorded_with_its_reason_and_is_no_trial() -> None:
    def even(config: ExperimentConfig) -> str | None:
        return f"{config.num_layers} layers are odd" if config.num_layers % 2 else None

    made = plan(constrain=even)
    search = Search(made)
    results = train(search, list(made.trials))
    assert len(results) == len(search.plan.trials) == 14
    assert all(trial.config.num_layers % 2 == 0 for trial in search.plan.trials)
    reasons = [point.refused for point in search.plan.points if point.refused]
    assert reasons
    assert reasons == [f"{refusal.variant['num_layers']} layers are odd" for refusal in search.plan.refused]
    assert all(point.trial is None for point in search.plan.points if point.refused)


def test_a_grid_is_constrained_too() -> None:
    space = Space(base=BASE, compare={"num_layers": Choice(1, 2, 3)}, constrain=lambda config: "two" if config.num_layers == 2 else None)
    made = make_plan("grid", "", space, "corpus")
    assert [trial.variant["num_layers"] for trial in made.trials] == [3, 1]
    assert [(refusal.variant, refusal.reason) for refusal in made.refused] == [({"num_layers": 2}, "two")]


def test_a_point_that_was_trained_before_gets_its_result_again_and_a_space_without_more_ends_the_search() -> None:
    made = plan(10, compare={"num_layers": Choice(1, 2), "num_heads": Choice(1, 2)})
    assert len(made.trials) == 4
    search = Search(made)
    results = train(search, list(made.trials))
    assert len(results) == 4
    assert search.exhausted
    repeated = [point for point in search.plan.points if point.duplicate]
    assert {point.trial for point in repeated} <= set(results)
    assert len(repeated) == len(search.plan.points) - 4


def test_the_study_has_a_trials_value_at_every_point_that_suggested_it_before_its_result_or_after(tmp_path: Path) -> None:
    made = plan(12, compare={"num_layers": Choice(*range(1, 7)), "num_heads": Choice(1, 2)})
    search = Search(made, journal=tmp_path / "journal")
    results = train(search, list(made.trials))
    assert any(point.duplicate for point in made.points)  # which waited for the result
    assert any(point.duplicate for point in search.plan.points[len(made.points) :])  # whose trial had it
    told = [(state, values, losses) for state, values, _, losses in watched(tmp_path / "journal")]
    expected = [results[point.trial or ""] for point in search.plan.points]
    assert told == [("COMPLETE", [each.val_loss], {str(step): loss for step, loss in each.losses.items()}) for each in expected]


def test_a_suggestion_that_somebody_trained_gives_its_result_and_is_a_trial_that_is_not_trained(tmp_path: Path) -> None:
    made = plan()
    whole = Search(made)
    results = train(whole, list(made.trials))
    *_, eleventh, twelfth, thirteenth, last = results
    theirs = {trial: results[trial] for trial in (eleventh, thirteenth, last)}
    search = Search(made, journal=tmp_path / "journal", recorded=lambda trial: theirs.get(trial.id))
    trained = train(search, list(made.trials))
    assert set(trained) == set(results) - set(theirs)
    assert twelfth in trained
    assert search.plan == whole.plan  # what follows does not know who trained it
    losses = {str(step): loss for step, loss in theirs[last].losses.items()}
    assert watched(tmp_path / "journal")[-1] == ["COMPLETE", [theirs[last].val_loss], points(whole)[-1], losses]


def watched(journal: Path) -> list[list[Any]]:
    """What another process reads of the study: state, values, parameters and intermediate values of each trial."""
    script = (
        "import json, sys, optuna\n"
        "optuna.logging.set_verbosity(optuna.logging.ERROR)\n"
        "storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(sys.argv[1]))\n"
        "study = optuna.load_study(study_name='sweep', storage=storage)\n"
        "print(json.dumps([[t.state.name, t.values, t.params, t.intermediate_values] for t in study.trials]))\n"
    )
    said = subprocess.run([sys.executable, "-c", script, str(journal)], capture_output=True, text=True, check=True).stdout
    found: list[list[Any]] = json.loads(said)
    return found


def test_another_process_watches_the_search_in_its_journal(tmp_path: Path) -> None:
    made = plan(12, compare={"num_layers": Choice(*range(1, 13))})
    journal = tmp_path / "optuna.journal"
    search = Search(made, journal=journal)
    first, second, third, fourth, *_ = made.trials
    search.report(first, 3, 5.5)
    search.tell(first, Result("finished", 5.0))
    search.tell(second, Result("failed"))
    search.tell(third, Result("finished", float("nan")))
    search.report(fourth, 3, 6.5)
    seen = {params["num_layers"]: (state, values, losses) for state, values, params, losses in watched(journal)}
    assert [seen[trial.config.num_layers] for trial in (first, second, third, fourth)] == [
        ("COMPLETE", [5.0], {"3": 5.5}),
        ("FAIL", None, {}),
        ("PRUNED", None, {}),
        ("RUNNING", None, {"3": 6.5}),
    ]


def study(journal: Path) -> optuna.Study:
    """The study as one who opens the journal now sees it, and goes on seeing it."""
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    return optuna.load_study(study_name="sweep", storage=storage)


@pytest.mark.parametrize(("sampler", "objectives"), [("tpe", ("val_loss",)), ("nsga2", ("val_loss", "decode_latency"))])
def test_who_has_the_journal_open_sees_the_search_go_on_after_a_restart(sampler: str, objectives: Any, tmp_path: Path) -> None:
    made = plan(sampler=sampler, objectives=objectives, compare={"num_layers": IntRange(1, 4), "num_heads": Choice(1, 2, 4)}, trials=12)
    journal, first = tmp_path / "journal", made.trials[0]
    killed = Search(made, journal=journal)
    stopped = Result("stopped", 9.0, losses={3: 9.0})
    killed.report(first, 3, 9.0)
    killed.tell(first, stopped)
    results = {first.id: stopped} | train(killed, list(made.trials[1:]), most=9)
    trains, ended = killed.plan.trials[10], result(killed.plan.trials[10])
    killed.report(trains, 3, ended.losses[3])
    seen, before = study(journal), journal.read_bytes()
    again = Search(killed.plan, results | {trains.id: ended}, journal=journal)  # it ended, and that was not told any more
    results |= {trains.id: ended} | train(again, [])
    assert len(again.plan.trials) == 12
    assert journal.read_bytes().startswith(before)
    Search(again.plan, results, journal=tmp_path / "new")
    assert watched(journal) == watched(tmp_path / "new")
    assert [trial.values for trial in seen.trials] == [values for _, values, *_ in watched(journal)]


@pytest.mark.parametrize("other", ["torn", "foreign", "failed", "longer", "objectives"])
def test_a_journal_that_does_not_hold_the_search_is_written_anew(other: str, tmp_path: Path) -> None:
    made, journal = plan(), tmp_path / "journal"
    first = Search(plan(objectives=("val_loss", "parameters")) if other == "objectives" else made, journal=journal)
    if other == "torn":
        journal.write_bytes(journal.read_bytes()[:-1])
    elif other == "foreign":
        journal.write_text('{"op_code": "none"}\n')
    elif other == "failed":
        first.tell(made.trials[0], Result("failed"))  # which the search then trains again
    elif other == "longer":
        first.suggest()
    Search(made, journal=journal)
    Search(made, journal=tmp_path / "new")
    assert watched(journal) == watched(tmp_path / "new")
    assert study(journal).metric_names == ["val_loss"]


@pytest.mark.parametrize(
    ("told", "state"),
    [
        (Result("failed"), "FAIL"),
        (Result("finished", float("inf"), 100.0), "PRUNED"),
        (Result("finished", float("nan"), 100.0), "PRUNED"),
        (Result("finished", 1.0, None), "PRUNED"),
        (Result("finished", 1.0, 100.0), "COMPLETE"),
    ],
)
def test_whatever_becomes_of_a_trial_none_of_its_points_stays_running(told: Result, state: str, tmp_path: Path) -> None:
    made = plan(objectives=("val_loss", "decode_latency"))
    search = Search(made, journal=tmp_path / "journal")
    for trial in made.trials:
        search.tell(trial, told)
    assert {ended for ended, *_ in watched(tmp_path / "journal")} == {state}
    before = (tmp_path / "journal").read_bytes()
    Search(search.plan, {trial.id: told for trial in made.trials}, journal=tmp_path / "journal")
    assert (tmp_path / "journal").read_bytes() == before  # which held all of it
    rebuilt = Search(search.plan, {trial.id: told for trial in made.trials}, journal=tmp_path / "rebuilt")
    assert {ended for ended, *_ in watched(tmp_path / "rebuilt")} == {state}
    assert rebuilt.plan == search.plan


def test_objectives_are_the_trials_own_numbers(tmp_path: Path) -> None:
    objectives = ("val_loss", "parameters", "non_embedding_parameters", "flops", "decode_latency", "memory")
    made = plan(objectives=objectives, sampler="random")
    search = Search(made, journal=tmp_path / "journal")
    trial = made.trials[0]
    search.tell(trial, Result("finished", 2.5, decode_tokens_per_second=200.0))
    cost, memory = trial.cost, stack_memory_bytes(trial.config, 1).total  # of one model, however its replicas are trained
    expected = [2.5, cost.parameters, cost.non_embedding_parameters, cost.flops, 0.005, memory]
    assert watched(tmp_path / "journal")[0][1] == pytest.approx(expected)


def test_a_trial_that_succeeds_after_it_had_failed_is_known_by_its_result(tmp_path: Path) -> None:
    made = plan()
    search = Search(made, journal=tmp_path / "journal")
    search.tell(made.trials[0], Result("failed"))
    search.tell(made.trials[0], Result("finished", 2.0))
    states = [state for state, *_ in watched(tmp_path / "journal")]
    assert states.count("FAIL") == states.count("COMPLETE") == 1
    train(search, list(made.trials[1:]))
    assert len(search.plan.trials) == 14


def test_a_trial_that_failed_goes_on_with_its_evaluations_when_it_is_trained_again(tmp_path: Path) -> None:
    made = plan()
    search = Search(made, {made.trials[0].id: Result("failed")}, journal=tmp_path / "journal")
    train(search, list(made.trials))
    states = [state for state, *_ in watched(tmp_path / "journal")]
    assert (states.count("FAIL"), states.count("COMPLETE")) == (1, 14)


def test_a_conditional_field_is_part_of_a_variant_only_where_its_condition_holds() -> None:
    compare = {"family": Choice("gpt2", "llama"), "ffn_size": When(IntRange(16, 64, 16), family="llama"), "dropout": Uniform(0, 0.5)}
    for trial in plan(compare=compare).trials:
        assert ("ffn_size" in trial.variant) == (trial.variant["family"] == "llama")
        assert trial.config.ffn_size == trial.variant.get("ffn_size", 64)
        assert float(f"{trial.variant['dropout']:.4g}") == trial.variant["dropout"]  # a name that can be read


def test_a_conditional_field_of_a_grid_multiplies_only_the_variants_that_have_it() -> None:
    compare = {"family": Choice("gpt2", "llama"), "ffn_size": When(Choice(16, 32), family="llama"), "num_layers": Choice(1, 2)}
    made = make_plan("grid", "", Space(base=BASE, compare=compare), "corpus")
    assert len(made.trials) == 2 + 4
    assert sum("ffn_size" in trial.variant for trial in made.trials) == 4


def test_a_value_that_is_a_list_or_an_object_is_suggested_as_it_was_written() -> None:
    compare = {"betas": Choice((0.9, 0.95), (0.8, 0.9)), "model_overrides": Choice({}, {"initializer_range": 0.1})}
    made = plan(4, compare=compare)
    assert {trial.config.betas for trial in made.trials} == {(0.9, 0.95), (0.8, 0.9)}
    assert {str(trial.config.model_overrides) for trial in made.trials} == {"{}", "{'initializer_range': 0.1}"}


def test_another_question_is_another_search_and_more_trials_are_the_same() -> None:
    assert plan(14).search_id == plan(20).search_id
    others = [plan(sampler="random"), plan(repeat=2), plan(early_stopping=ASHA()), plan(compare={"num_layers": IntRange(1, 9)})]
    assert len({plan().search_id, *(other.search_id for other in others)}) == 5


def test_a_plan_that_was_read_from_a_file_does_not_know_how_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="Plan it again"):
        Search(Plan.load(plan().save(tmp_path / "plan.json")))


def test_optuna_itself_takes_the_journal_for_a_study_with_the_objectives_names(tmp_path: Path) -> None:
    Search(plan(objectives=("val_loss", "parameters")), journal=tmp_path / "journal")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal")))
    study = optuna.load_study(study_name="sweep", storage=storage)
    assert study.metric_names == ["val_loss", "parameters"]
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MINIMIZE"]
