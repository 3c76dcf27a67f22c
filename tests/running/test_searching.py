"""Searches as they run: through both runners, after a kill, and with variants that are stopped early."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from rich.console import Console

import archsweep
from archsweep import ASHA, Choice, IntRange, LogUniform, Optuna, Space, load, pipeline
from archsweep.analysis.compare import compare_experiments
from archsweep.analysis.search import objective
from archsweep.errors import MachineError
from archsweep.pipeline import Ledger, Machine
from archsweep.planning.plan import Plan, make_plan
from archsweep.planning.search import Result, Search
from archsweep.records.write import recorded_outcome
from archsweep.running.recorder import Place, recorded_result
from archsweep.running.snapshot import Snapshot

if TYPE_CHECKING:
    from archsweep.config import ExperimentConfig

REPOSITORY = Path(archsweep.__file__).parent.parent
SERIAL, RAY = Machine(serial=True), Machine(num_cpus=2, num_gpus=0)


def run(plan: Plan, folder: Path, machine: Machine = SERIAL, ledger: Ledger | None = None) -> str:
    screen = io.StringIO()
    pipeline.run(plan, folder, machine, Console(file=screen, width=300), ledger)
    pipeline.collect(folder)
    return screen.getvalue()


def search(config: ExperimentConfig, trials: int = 12, **more: Any) -> Plan:
    compare = {"num_layers": IntRange(1, 2), "ffn_size": IntRange(16, 64, 8), "dropout": LogUniform(0.01, 0.3)}
    return make_plan("search", "Which?", Space(config, compare, repeat=1, method=Optuna(trials), **more), "corpus")


def watched(folder: Path) -> list[optuna.trial.FrozenTrial]:
    """The search's points, as optuna's own tools see them."""
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "optuna.journal")))
    return optuna.load_study(study_name="search", storage=storage).trials


def states(folder: Path) -> list[str]:
    return [trial.state.name for trial in watched(folder)]


def test_a_search_by_memory_is_told_what_the_records_say(tiny_config: ExperimentConfig, folder: Path) -> None:
    compare = {"num_layers": IntRange(1, 2), "ffn_size": IntRange(16, 64, 8)}
    space = Space(tiny_config, compare, repeat=2, method=Optuna(4, objectives=("val_loss", "memory")))
    run(make_plan("search", "Which?", space, "corpus"), folder)
    rows = load(folder)
    told = {trial.values[1] for trial in watched(folder)}
    assert told == set(rows.training_memory_bytes.astype(float))
    assert len(told) == rows.variant.nunique() > 1
    comparison = compare_experiments(folder)
    assert set(objective("memory", comparison, list(rows.variant.unique()))) == told


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep's folder with no other sweeps beside it, whose trials it could take."""
    return tmp_path / "sweep"


@pytest.fixture
def stopping_plan(tiny_config: ExperimentConfig) -> Plan:
    """A grid of five depths, the best first, so that ASHA stops some after the first of two evaluations."""
    space = Space(tiny_config, {"num_layers": Choice(1, 2, 3, 4, 5)}, repeat=2, early_stopping=ASHA(0.5, 2))
    plan = make_plan("stopping", "How deep?", space, "corpus")
    return plan.model_copy(update={"trials": tuple(sorted(plan.trials, key=lambda trial: -trial.config.num_layers))})


def test_a_search_trains_its_trials_keeps_its_points_and_knows_how_each_ended(tiny_config: ExperimentConfig, folder: Path) -> None:
    run(search(tiny_config), folder)
    plan = Plan.load(folder / "plan.json")
    assert len(plan.trials) == 12
    assert set(load(folder).status) == {"finished"}
    assert load(folder).variant.nunique() == 12
    assert set(states(folder)) == {"COMPLETE"}
    assert "are finished and stay as they are" in run(search(tiny_config), folder)
    before = (folder / "optuna.journal").read_bytes()
    run(search(tiny_config, trials=13), folder)  # a search goes on where it is given more trials
    assert (folder / "optuna.journal").read_bytes().startswith(before)  # and so does what watches it
    assert Plan.load(folder / "plan.json").trials[:12] == plan.trials
    assert len(Plan.load(folder / "plan.json").trials) == 13


def test_a_trial_that_fails_is_told_as_failed_and_the_search_goes_on(tiny_config: ExperimentConfig, folder: Path) -> None:
    plan = search(tiny_config)
    broken = plan.trials[0].model_copy(update={"config": plan.trials[0].config.copy(device="cuda:63")})
    run(plan.model_copy(update={"trials": (broken, *plan.trials[1:])}), folder)
    assert states(folder)[0] == "FAIL"
    assert states(folder).count("COMPLETE") == 11


def test_a_trial_that_failed_is_trained_again_and_the_search_has_its_result(tiny_config: ExperimentConfig, folder: Path) -> None:
    plan = search(tiny_config, trials=10)
    broken = plan.trials[0].model_copy(update={"config": plan.trials[0].config.copy(device="cuda:63")})
    run(plan.model_copy(update={"trials": (broken, *plan.trials[1:])}), folder)
    assert states(folder)[0] == "FAIL"
    Plan.load(folder / "plan.json").model_copy(update={"trials": plan.trials}).save(folder / "plan.json")
    run(plan, folder, ledger=Ledger(retry_failed=False))
    assert states(folder)[0] == "FAIL"
    run(plan, folder)
    assert set(load(folder).status) == {"finished"}
    assert states(folder) == ["COMPLETE"] * 10  # each point once, as if none had failed


def test_a_suggestion_that_another_sweep_has_finished_is_taken_from_there_unless_a_fresh_one_is_asked_for(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    run(search(tiny_config, trials=11), tmp_path / "first")
    said = run(search(tiny_config, trials=12), tmp_path / "second")
    assert "10 trials are taken from other sweeps" in said
    assert said.count(f"taken from another sweep in {tmp_path}; --fresh trains it") == 1
    assert said.count("replicas began") == 1
    first, second = load(tmp_path / "first"), load(tmp_path / "second")
    assert second.val_loss.tolist()[:11] == first.val_loss.tolist()
    assert second.reused_from.fillna("").tolist() == ["first"] * 11 + [""]
    assert states(tmp_path / "second") == ["COMPLETE"] * 12
    seen = Snapshot.model_validate_json((tmp_path / "second" / "progress.json").read_bytes())
    assert str(seen.counts) == "12 of 12 trials finished"
    assert seen.best is not None
    assert seen.best.val_loss == second.val_loss.min()
    fresh = Ledger(fresh=True)
    assert run(search(tiny_config, trials=11), tmp_path / "third", ledger=fresh).count("replicas began") == 11


class Remover(io.StringIO):
    """A screen on which a line that holds `part`, said for the `times`th time, lets the folder vanish."""

    def __init__(self, folder: Path, part: str, times: int) -> None:
        super().__init__()
        self.folder, self.part, self.times = folder, part, times

    def write(self, text: str) -> int:
        self.times -= text.count(self.part)
        if self.times <= 0 and self.folder.exists():
            self.folder.rename(self.folder.with_name("moved"))
        return super().write(text)


def test_a_search_suggests_nothing_into_the_place_where_its_folder_was(tiny_config: ExperimentConfig, folder: Path) -> None:
    screen = Remover(folder, "finished, validation loss", times=10)  # then comes the first suggestion
    with pytest.raises(MachineError, match="No such file or directory"):
        pipeline.run(search(tiny_config, trials=11), folder, SERIAL, Console(file=screen, width=300))
    assert not folder.exists()
    folder.with_name("moved").rename(folder)
    run(search(tiny_config, trials=11), folder)
    assert states(folder) == ["COMPLETE"] * 11


def test_a_search_writes_nothing_where_its_folder_was(tiny_config: ExperimentConfig, folder: Path) -> None:
    folder.mkdir()
    plan, place = search(tiny_config), Place(folder)
    ours = Search(plan, keep=lambda grown: grown.save(folder / "plan.json"), journal=folder / "optuna.journal", opened=place.opened)
    folder.rename(folder.with_name("moved"))
    for is_there_again, trial in zip((False, True), plan.trials, strict=False):
        if is_there_again:
            folder.mkdir()
        for write in (
            lambda trial=trial: ours.report(trial, 3, 5.0),
            lambda trial=trial: ours.tell(trial, Result("finished", 5.0)),
            ours.suggest,
            lambda: Search(plan, journal=folder / "optuna.journal", opened=place.opened),
        ):
            with pytest.raises(MachineError, match="the same command goes on"):
                write()
        assert folder.exists() == is_there_again
    assert not list(folder.iterdir())


def test_a_search_whose_plan_was_removed_trains_none_of_its_trials_again(tiny_config: ExperimentConfig, folder: Path) -> None:
    run(search(tiny_config, trials=11), folder)
    before = load(folder)
    (folder / "plan.json").unlink()
    said = run(search(tiny_config, trials=11), folder, ledger=Ledger(fresh=True))
    assert "ended before and stays as it is" in said
    assert "replicas began" not in said
    assert load(folder).equals(before)


@pytest.mark.slow
def test_both_runners_train_the_first_suggestions_to_the_same_losses_and_ray_goes_beyond(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    run(search(tiny_config, trials=10), tmp_path / "serial" / "sweep")
    run(search(tiny_config, trials=12), tmp_path / "ray" / "sweep", RAY)
    serial, ray = load(tmp_path / "serial" / "sweep"), load(tmp_path / "ray" / "sweep")
    assert ray.variant.nunique() == 12
    assert serial.variant.tolist() == ray.variant.tolist()[:10]
    assert serial.val_loss.tolist() == ray.val_loss.tolist()[:10]
    assert states(tmp_path / "ray" / "sweep").count("COMPLETE") >= 12
    assert "RUNNING" not in states(tmp_path / "ray" / "sweep")


SPACE = """
from archsweep import Choice, IntRange, LogUniform, Optuna, Space, ExperimentConfig
base = ExperimentConfig(num_layers=1, num_heads=2, head_dim=8, context_length=16, batch_size=4, max_tokens=64 * 12, eval_tokens=256,
                        num_evaluations=4, vocab_size=300, dataset="text:{text}")
space = Space(base, {{"num_layers": IntRange(1, 2), "ffn_size": IntRange(16, 64, 8), "dropout": LogUniform(.01, .3)}}, repeat=1,
              method=Optuna(14))
"""


@pytest.mark.slow
def test_a_search_that_was_killed_ends_like_one_that_was_not(tiny_text: Path, tmp_path: Path) -> None:
    (tmp_path / "kills.py").write_text(SPACE.format(text=tiny_text))
    command = [sys.executable, "-m", "archsweep", str(tmp_path / "kills.py"), "--serial", "--results"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run([*command, str(tmp_path / "whole")], check=True, cwd=tmp_path, env=environment, capture_output=True)
    process = subprocess.Popen([*command, str(tmp_path / "killed")], stdout=subprocess.PIPE, cwd=tmp_path, env=environment, text=True)
    assert process.stdout is not None
    assert any("began" in line and _ended(tmp_path) >= 11 for line in process.stdout)
    process.kill()
    process.communicate()
    subprocess.run([*command, str(tmp_path / "killed")], check=True, cwd=tmp_path, env=environment, capture_output=True)
    plans = [json.loads((tmp_path / name / "kills" / "plan.json").read_text()) for name in ("whole", "killed")]
    assert plans[0]["points"] == plans[1]["points"]
    assert len(plans[0]["trials"]) == 14
    whole, killed = (load(tmp_path / name / "kills") for name in ("whole", "killed"))
    assert whole.val_loss.tolist() == killed.val_loss.tolist()
    assert set(killed.status) == {"finished"}


def _ended(folder: Path) -> int:
    return len(list((folder / "killed" / "kills" / "trials").glob("*/results.json")))


def test_a_stopped_trial_has_its_records_its_step_and_its_reason_and_is_not_run_again(stopping_plan: Plan, folder: Path) -> None:
    said = run(stopping_plan, folder)
    results = load(folder)
    stopped = results[results.status == "stopped"]
    assert 0 < stopped.variant.nunique() < 5
    assert set(stopped.step) == {3}
    assert all(reason.startswith("stopped at step 3 of 6: loss ") for reason in stopped.reason)
    assert stopped.val_loss.notna().all()
    assert stopped.reason.iloc[0] in said
    outcome = recorded_outcome(folder / "trials" / stopped.trial_id.iloc[0])
    assert outcome is not None
    assert (outcome.status, outcome.stopped_step) == ("stopped", 3)
    assert not list(folder.rglob("checkpoint"))
    assert "5 of 5 trials are finished and stay as they are" in run(stopping_plan, folder)


@pytest.mark.slow
def test_both_runners_stop_the_same_where_trials_come_one_after_another(stopping_plan: Plan, tmp_path: Path) -> None:
    for name, machine in (("serial", SERIAL), ("ray", Machine(num_cpus=1, num_gpus=0))):
        run(stopping_plan, tmp_path / name / "sweep", machine)
    serial, ray = load(tmp_path / "serial" / "sweep"), load(tmp_path / "ray" / "sweep")
    for column in ("trial_id", "status", "reason", "step", "val_loss"):
        assert serial[column].tolist() == ray[column].tolist(), column


def test_a_setting_that_was_given_up_is_a_row_with_its_step_and_the_report_says_what_it_saved(
    tiny_config: ExperimentConfig, folder: Path
) -> None:
    config = tiny_config.copy(max_tokens=64 * 40, num_evaluations=4, warmup=2)
    space = Space(
        config,
        {"num_layers": Choice(1, 2)},
        tune={"learning_rate": Choice(1e-6, 2e-2)},
        repeat=2,
        prune_tune=True,
        early_stopping=ASHA(0.75),
    )
    plan = make_plan("pruned", "Deep?", space, "corpus")
    run(plan, folder)
    results = load(folder)
    low = results[results.learning_rate == 1e-6]
    assert set(low.status) == {"pruned"}
    assert set(low.step) == {20}
    assert all(reason.startswith("given up at step 20 of 40") for reason in low.reason)
    assert set(results[results.learning_rate == 2e-2].status) <= {"finished", "stopped"}
    comparison, page = pipeline.report(folder)
    assert "prune_tune gave up 2 tuned settings half-way or later, which saved" in " ".join(comparison.caveats)
    assert "4 pruned" in page.read_text()
    whole = make_plan("pruned", "Deep?", replace(space, prune_tune=False), "corpus")
    assert {trial.id for trial in plan.trials}.isdisjoint(trial.id for trial in whole.trials)
    read = [recorded_result(folder / "trials" / trial.id) for trial in plan.trials]
    assert [10, 20, 30, 40] in [sorted(result.losses) for result in read if result]
