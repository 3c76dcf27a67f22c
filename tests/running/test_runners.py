"""Both runners leave the same records: every claim here is made of each of them."""

from __future__ import annotations

import io
import json
import os
import threading
from contextlib import closing
from itertools import islice
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from archsweep import load, load_curves, pipeline
from archsweep.errors import ConfigError, DataError, MachineError
from archsweep.pipeline import Leavings, Ledger, Machine
from archsweep.planning.plan import make_plan
from archsweep.planning.split import split
from archsweep.records.schema import CURVES, RESULTS
from archsweep.running import ray_tune, serial
from archsweep.running.lock import locked
from archsweep.running.progress import Progress
from archsweep.running.recorder import Place, Recorder, reason_in, recorded_status
from archsweep.running.resources import Resources
from archsweep.running.trackers import Trackers
from archsweep.running.worker import Storage, train_trial
from archsweep.space import Choice, Space
from archsweep.training import corpus
from archsweep.training.data import prepare
from archsweep.training.experiment import ArchitectureExperiment
from archsweep.training.replicas import ReplicaStack

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from archsweep.config import ExperimentConfig
    from archsweep.planning.plan import Plan, Trial
    from archsweep.records.files import Row
    from archsweep.running.trackers import Tracker
    from archsweep.running.worker import KeepModels

# One slot, so that both train the plan as it is: for two, its trials would be split.
MACHINES = {"serial": Machine(serial=True), "ray": Machine(num_cpus=1, num_gpus=0)}


class Sweep(NamedTuple):
    """A plan that was run: its folder, and what the screen showed."""

    plan: Plan
    folder: Path
    machine: Machine
    said: str


def run(plan: Plan, folder: Path, machine: Machine, ledger: Ledger | None = None, leavings: Leavings | None = None) -> str:
    screen = io.StringIO()
    pipeline.run(plan, folder, machine, Console(file=screen, width=200), ledger, leavings)
    pipeline.collect(folder)
    return screen.getvalue()


def with_a_trial_that_fails(plan: Plan) -> Plan:
    """The first trial asks for a GPU that no machine has."""
    first, *others = plan.trials
    return plan.model_copy(update={"trials": (elsewhere(first, "cuda:63"), *others)})


def elsewhere(trial: Trial, device: str) -> Trial:
    return trial.model_copy(update={"config": trial.config.copy(device=device)})


@pytest.fixture(scope="module", params=["serial", pytest.param("ray", marks=pytest.mark.slow)])
def sweep(request: pytest.FixtureRequest, tiny_plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A sweep of two trials of which one fails, run once by each runner."""
    folder, machine = tmp_path_factory.mktemp("results") / "tiny", MACHINES[request.param]
    machine = Machine(
        num_cpus=machine.num_cpus, num_gpus=machine.num_gpus, serial=machine.serial, cache_dir=tmp_path_factory.mktemp("cache")
    )
    plan = with_a_trial_that_fails(tiny_plan)
    return Sweep(plan, folder, machine, run(plan, folder, machine))


def rows_of(trial: Trial, frame: Any) -> Any:
    return frame[frame.trial_id == trial.id]


def test_every_planned_replica_has_one_row(sweep: Sweep) -> None:
    results = load(sweep.folder)
    planned = [(trial.id, r.seed, r.learning_rate) for trial in sweep.plan.trials for r in trial.replicas]
    assert list(zip(results.trial_id, results.seed, results.learning_rate, strict=True)) == planned
    assert list(results.columns) == [column.name for column in RESULTS]


def test_a_trial_that_fails_is_recorded_with_its_reason_and_stops_no_other(sweep: Sweep) -> None:
    failed, finished = sweep.plan.trials
    results = load(sweep.folder)
    assert set(rows_of(failed, results).status) == {"failed"}
    assert all("cuda:63 is not there" in reason for reason in rows_of(failed, results).reason)
    assert rows_of(failed, results).val_loss.isna().all()
    assert set(rows_of(finished, results).status) == {"finished"}
    assert rows_of(finished, results).val_loss.notna().all()


def test_the_whole_traceback_of_a_failure_lies_in_its_trial_and_the_screen_says_where(sweep: Sweep) -> None:
    errors = sweep.folder / "trials" / sweep.plan.trials[0].id / "error.txt"
    assert "training/precision.py" in errors.read_text()  # where it was raised
    assert str(errors) in sweep.said


def test_every_evaluation_of_every_replica_is_a_row_of_the_curves(sweep: Sweep) -> None:
    curves = rows_of(sweep.plan.trials[1], load_curves(sweep.folder))
    assert sorted(curves.step.unique()) == [3, 6]  # six steps, two evaluations
    assert len(curves) == 2 * len(sweep.plan.trials[1].replicas)
    assert list(curves.columns) == [column.name for column in CURVES]


def test_a_trials_folder_is_named_by_its_content_and_holds_its_config(sweep: Sweep) -> None:
    for trial in sweep.plan.trials:
        config = json.loads((sweep.folder / "trials" / trial.id / "config.json").read_text())
        assert config["num_layers"] == trial.variant["num_layers"]


def test_the_same_command_again_trains_what_failed_and_leaves_what_is_finished(sweep: Sweep, tmp_path: Path) -> None:
    records = {trial.id: sweep.folder / "trials" / trial.id / "records.jsonl" for trial in sweep.plan.trials}
    failed, finished = sweep.plan.trials
    before = records[finished.id].read_bytes()
    mended = sweep.plan.model_copy(update={"trials": (elsewhere(failed, "cpu"), finished)})
    said = run(mended, sweep.folder, sweep.machine)
    assert "1 of 2 trials are finished and stay as they are" in said
    assert records[finished.id].read_bytes() == before
    assert set(load(sweep.folder).status) == {"finished"}


def with_seeds(plan: Plan, repeat: int) -> Plan:
    """The tiny plan with more seeds, or fewer."""
    space = Space(
        base=plan.trials[0].config, compare={"num_layers": Choice(1, 2)}, tune={"learning_rate": Choice(1e-3, 3e-3)}, repeat=repeat
    )
    return make_plan(plan.name, plan.question, space, plan.corpus_id)


def records(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in folder.glob("trials/*/records.jsonl")}


def test_an_extended_sweep_trains_the_new_seeds_alone_to_the_losses_of_one_sweep_of_them_all(tiny_plan: Plan, tmp_path: Path) -> None:
    few, many = (with_seeds(tiny_plan, repeat) for repeat in (1, 2))
    run(few, tmp_path / "tiny", MACHINES["serial"])
    before = records(tmp_path / "tiny")
    said = run(many, tmp_path / "tiny", MACHINES["serial"], Ledger(extend=True))
    assert "2 of 4 trials are finished" in said
    assert before.items() <= records(tmp_path / "tiny").items()
    run(many, tmp_path / "whole", MACHINES["serial"], Ledger(fresh=True))
    keys = ["variant", "learning_rate", "seed"]
    extended, whole = (load(tmp_path / name).sort_values(keys) for name in ("tiny", "whole"))
    assert extended[keys].values.tolist() == whole[keys].values.tolist()
    assert extended.val_loss.tolist() == pytest.approx(whole.val_loss.tolist(), rel=1e-5)  # in stacks of other sizes: to rounding


def test_a_trial_that_another_sweep_has_finished_is_taken_from_there_unless_a_fresh_one_is_asked_for(
    tiny_plan: Plan, tmp_path: Path
) -> None:
    run(tiny_plan, tmp_path / "first", MACHINES["serial"])
    said = run(tiny_plan.model_copy(update={"name": "second"}), tmp_path / "second", MACHINES["serial"])
    assert "2 trials are taken from other sweeps" in said
    assert "replicas began" not in said
    assert records(tmp_path / "first") == records(tmp_path / "second")
    assert set(load(tmp_path / "second").reused_from) == {"first"}
    assert load(tmp_path / "first").reused_from.isna().all()
    third = run(tiny_plan.model_copy(update={"name": "third"}), tmp_path / "third", MACHINES["serial"], Ledger(fresh=True))
    assert third.count("replicas began") == 2


@pytest.mark.parametrize(
    ("there", "here", "left"),
    [("all", "best", {"model"}), ("all", "none", set()), ("all", "all", {"model", "models"}), ("best", "all", {"model"})],
)
def test_of_a_trial_that_is_taken_over_those_models_are_kept_that_are_asked_for(
    there: KeepModels, here: KeepModels, left: set[str], tiny_plan: Plan, tmp_path: Path
) -> None:
    run(tiny_plan, tmp_path / "first", MACHINES["serial"], leavings=Leavings(there))
    for trial in tiny_plan.trials:
        (tmp_path / "first" / "trials" / trial.id / "checkpoint").mkdir()  # as in a sweep that is about to remove it
        (tmp_path / "second" / "trials" / f".{trial.id}.{os.getpid()}.tmp" / "half").mkdir(parents=True)  # as a kill leaves it
    said = run(tiny_plan.model_copy(update={"name": "second"}), tmp_path / "second", MACHINES["serial"], leavings=Leavings(here))
    assert ("2 of them have their best model alone" in said) == (there == "best")
    trials = list((tmp_path / "second" / "trials").iterdir())
    assert len(trials) == 2
    assert [{path.name for path in trial.iterdir() if path.is_dir()} for trial in trials] == [left | {"tensorboard"}] * 2


def test_all_lengths_of_a_sweep_read_one_text_of_a_dataset_of_which_longer_ones_read_more(
    tiny_plan: Plan, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "HUB_BYTES", 2_000)
    (tmp_path / "rows").mkdir()
    rows = "".join(json.dumps({"text": text}) + "\n" for text in tiny_text.read_text().split("\n\n"))
    (tmp_path / "rows" / "train.jsonl").write_text(rows)
    base = tiny_plan.trials[0].config.copy(dataset=f"hf:{tmp_path / 'rows'}")

    def lengths(name: str, *tokens: int) -> Plan:
        return make_plan(name, "How long?", Space(base=base, compare={"max_tokens": Choice(*tokens)}, repeat=1), "corpus")

    short, both, longer = lengths("short", 384), lengths("both", 384, 1536), lengths("both", 384, 1536, 6144)
    assert len({corpus.hub_bytes(trial.config) for trial in longer.trials}) == 3
    run(short, tmp_path / "short", MACHINES["serial"])
    assert "taken from other sweeps" not in run(both, tmp_path / "both", MACHINES["serial"])
    assert load(tmp_path / "both").corpus_id.nunique() == 1
    with pytest.raises(DataError, match=r"both must train all of it on one text, and max_tokens=\d+ read the tokens"):
        run(longer, tmp_path / "both", MACHINES["serial"], Ledger(extend=True))
    assert "1 trials are taken from other sweeps" in run(lengths("again", 1536), tmp_path / "again", MACHINES["serial"])


def test_parts_that_another_sweep_has_finished_are_taken_and_the_rest_is_trained(tiny_plan: Plan, tmp_path: Path) -> None:
    parts = split(tiny_plan.trials, 8, tiny_plan.corpus_id)  # as for a machine of eight processors
    fewer_seeds = with_seeds(tiny_plan, 1).trials
    keys = ["variant", "learning_rate", "seed"]
    for name, finished in (("split", parts[:3]), ("seeds", fewer_seeds)):
        home = tmp_path / name
        run(tiny_plan.model_copy(update={"trials": tuple(finished)}), home / "before", MACHINES["serial"])
        said = run(tiny_plan, home / "now", MACHINES["serial"])
        now = load(home / "now").sort_values(keys)
        assert len(now) == 2 * 2 * 2
        assert f"{len(finished)} trials are taken from other sweeps" in said
        assert (now.reused_from == "before").sum() == sum(len(trial.replicas) for trial in finished) < len(now)
        assert "replicas began" not in run(tiny_plan, home / "now", MACHINES["serial"])
        assert "replicas began" in run(tiny_plan, home / "fresh", MACHINES["serial"], Ledger(fresh=True))
        fresh = load(home / "fresh").sort_values(keys)
        assert fresh.reused_from.isna().all()
        assert now[keys].values.tolist() == fresh[keys].values.tolist()
        assert now.val_loss.tolist() == pytest.approx(fresh.val_loss.tolist(), rel=1e-5)  # in stacks of other sizes: to rounding


def test_of_a_variants_parts_the_best_model_so_far_is_exported(tiny_plan: Plan, tmp_path: Path) -> None:
    parts = split(tiny_plan.trials, 8, tiny_plan.corpus_id)
    tiny_plan.model_copy(update={"trials": tuple(parts)}).save(tmp_path / "plan.json")
    label, found = parts[0].label, []
    for part in (part for part in parts if part.label == label):
        checkpoints = tmp_path / "trials" / part.id / "checkpoint"
        experiment = ArchitectureExperiment(part.config, part.replicas, cache_dir=tmp_path / "cache", checkpoint_dir=checkpoints)
        experiment.setup()
        training = experiment.training()
        rows = next(filter(None, training))
        training.close()
        found += [(row["val_loss"], row, experiment.model(index).state_dict()) for index, row in enumerate(rows)]
    losses = [loss for loss, _, _ in found]
    assert len(losses) == 2 * 2 > len(parts[0].replicas)
    best = losses.index(min(losses))
    assert best >= len(parts[0].replicas), "it is in the first part, which is no test"
    said: list[str] = []
    pipeline.export(tmp_path, label, tmp_path / "model", said.append)
    _, row, weights = found[best]
    which = f"learning rate {row['learning_rate']}, seed {row['seed']}"
    assert said == [f"{label} has not finished: this is its best so far, of step 3, {which}"]
    for name, exported in AutoModelForCausalLM.from_pretrained(tmp_path / "model").named_parameters():
        assert torch.equal(exported, weights[f"model.{name}"])


def test_of_a_variant_of_which_a_part_has_finished_that_parts_model_is_exported_and_said_to_be_a_parts(
    tiny_plan: Plan, tmp_path: Path
) -> None:
    parts = tuple(split(tiny_plan.trials, 8, tiny_plan.corpus_id))
    folder, label = tmp_path / "tiny", parts[0].label
    pipeline.run(tiny_plan.model_copy(update={"trials": parts[:1]}), folder, MACHINES["serial"], Console(quiet=True))
    said: list[str] = []
    pipeline.export(folder, label, tmp_path / "alone", said.append)
    assert said == []
    tiny_plan.model_copy(update={"trials": parts}).save(folder / "plan.json")
    pipeline.export(folder, label, tmp_path / "model", said.append)
    assert said == [f"{label} has not finished: this is the best of its trials that have"]
    written = folder / "trials" / parts[0].id / "model" / "model.safetensors"
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == written.read_bytes()


def test_a_run_is_nearly_over_when_a_trial_ends_and_none_has_yet_to_begin(tiny_plan: Plan, tmp_path: Path) -> None:
    """So that a processor is idle from then on: after the second of two trials, though it fails."""
    first, second = tiny_plan.trials
    plan = tiny_plan.model_copy(update={"trials": (first, elsewhere(second, "cuda:63"))})
    seen: list[list[str]] = []

    def ended() -> list[str]:
        return [trial.id for trial in plan.trials if recorded_status(tmp_path / "trials" / trial.id)]

    train_serially(plan, tmp_path, threading.Event(), nearly_over=lambda: seen.append(ended()))
    assert seen == [[first.id, plan.trials[1].id]]


def train_serially(plan: Plan, folder: Path, stop: threading.Event, tracker: Tracker | None = None, **more: Any) -> None:
    """As `--serial` does, until `stop`, which the `tracker` may set; `more` is for the recorder."""
    corpus = prepare(plan.trials[0].config, folder / "cache")
    progress = Progress(plan, plan.trials, folder, Console(quiet=True))
    trackers = Trackers({"own": lambda: tracker} if tracker else {}, pytest.fail)
    with progress.shown(plan.trials):
        ids = {trial.id: corpus.id for trial in plan.trials}
        recorder = Recorder(Place(folder), progress, trackers, **more)
        serial.run(plan.trials, ids, recorder, stop, Storage(folder / "cache", 60.0, "none"))


class StopsAt:
    """A tracker that asks for a stop when it is told of rows of this status."""

    def __init__(self, status: str, stop: threading.Event) -> None:
        self._status, self._stop = status, stop

    def begin(self, trial: Trial, recorded: Sequence[Row]) -> None: ...

    def report(self, trial: Trial, rows: Sequence[Row]) -> None:
        if all(row["status"] == self._status for row in rows):
            self._stop.set()

    def end(self, trial: Trial, failed: bool) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize(("rows", "ended", "saved"), [("running", None, True), ("finished", "finished", False)])
def test_a_stop_saves_the_trial_that_trains_or_finishes_it_where_it_has_ended_and_begins_no_other(
    tiny_plan: Plan, tmp_path: Path, rows: str, ended: str | None, saved: bool
) -> None:
    stop = threading.Event()
    train_serially(tiny_plan, tmp_path, stop, StopsAt(rows, stop))
    first = tmp_path / "trials" / tiny_plan.trials[0].id
    assert (recorded_status(first), (first / "checkpoint").exists()) == (ended, saved)
    assert list((tmp_path / "trials").iterdir()) == [first]


def test_a_trial_of_two_stacks_goes_on_from_the_mean_of_their_steps(
    tiny_config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after two steps of the first stack and none of the second: work of before is not this run's, and the checkpoint is said."""
    monkeypatch.setattr("archsweep.training.experiment.HEARTBEAT_SECONDS", 0.0)  # a beat is a step
    monkeypatch.setattr("archsweep.running.worker.HEARTBEAT_SECONDS", 0.0)  # and a report
    space = Space(base=tiny_config, compare={"num_layers": Choice(1)}, tune={"learning_rate": Choice(1e-3, 2e-3, 3e-3)}, repeat=4)
    plan = make_plan("tiny", "?", space, prepare(tiny_config, tmp_path / "cache").id)
    [trial] = plan.trials
    recorder = Recorder(Place(tmp_path), Progress(plan, plan.trials, tmp_path, Console(quiet=True)), Trackers({}, pytest.fail))
    steps = []
    for count in (2, 1):
        recorder.begin(trial)
        storage = Storage(tmp_path / "cache", 60.0, "none")
        with closing(train_trial(trial, plan.corpus_id, storage, 1, recorder.trial_folder(trial))) as reports:
            for report in islice(reports, count):
                recorder.report(trial, report)
                steps.append((report["resumed_at"], report["step"]))
    assert steps == [(0, 0.5), (0, 1), (1, 1.5)]
    assert "goes on from its checkpoint at step 1\n" in (tmp_path / "sweep.log").read_text()


def test_what_failed_stays_failed_where_no_retry_is_wanted(tiny_plan: Plan, tmp_path: Path) -> None:
    run(with_a_trial_that_fails(tiny_plan), tmp_path / "tiny", MACHINES["serial"])
    said = run(tiny_plan, tmp_path / "tiny", MACHINES["serial"], Ledger(retry_failed=False))
    assert "2 of 2 trials are finished or failed" in said
    assert sorted(set(load(tmp_path / "tiny").status)) == ["failed", "finished"]


def test_two_drivers_do_not_run_one_sweep_at_once(tiny_plan: Plan, tmp_path: Path) -> None:
    refused = pytest.raises(MachineError, match=rf"is being run by process {os.getpid()} on {os.uname().nodename} since")
    with locked(tmp_path), refused:
        run(tiny_plan, tmp_path, MACHINES["serial"])


@pytest.mark.parametrize("evaluations", [2, 1], ids=["in the middle", "before its model is kept"])
def test_a_folder_that_goes_away_ends_the_run_and_is_not_made_anew(
    tiny_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluations: int
) -> None:
    """As a disk that is unmounted, at the first evaluation."""
    folder, evaluate = tmp_path / "results" / "tiny", ReplicaStack.evaluate

    def unmounted(*arguments: Any) -> Any:
        if folder.exists():
            folder.rename(tmp_path / "elsewhere")
        return evaluate(*arguments)

    monkeypatch.setattr(ReplicaStack, "evaluate", unmounted)
    first, *others = tiny_plan.trials
    plan = tiny_plan.model_copy(
        update={"trials": (first.model_copy(update={"config": first.config.copy(num_evaluations=evaluations)}), *others)}
    )
    with pytest.raises(MachineError, match=r"results/tiny must be writable: .*No such file or directory.*the same command goes on"):
        run(plan, folder, MACHINES["serial"])
    assert not list((tmp_path / "results").iterdir())


def test_an_option_that_the_model_does_not_have_is_refused_before_anything_runs(tiny_plan: Plan, tmp_path: Path) -> None:
    trial = tiny_plan.trials[0]
    misspelt = trial.model_copy(update={"config": trial.config.copy(model_overrides={"actvation_function": "relu"})})
    with pytest.raises(ConfigError, match="actvation_function is not an option of GPT2Config: did you mean activation_function"):
        run(tiny_plan.model_copy(update={"trials": (misspelt,)}), tmp_path / "tiny", MACHINES["serial"])
    assert not (tmp_path / "tiny").exists()


def test_a_reason_is_the_exception_with_all_its_lines() -> None:
    trace = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    g()\n'
    traceback = f"{trace}archsweep.errors.ConfigError: two faults\n  - one\n  - two\n"
    assert reason_in(traceback) == "archsweep.errors.ConfigError: two faults - one - two"


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        ("ray::ResourceTrainable.train() (pid=7, ip=127.0.0.1)\n  File ...\ntorch.OutOfMemoryError: no", False),
        ("The actor died because of an error raised in its creation task, ray::ReplicaTrial.__init__()\nDataError: no", False),
        ("The actor died unexpectedly before finishing this task.\n\tclass_name: ReplicaTrial", True),
        ("Task was killed due to the node running low on memory.\nPID MEM(GB) COMMAND\n7 9.1 ray::ReplicaTrial.train", True),
    ],
)
def test_a_lost_process_is_told_from_an_exception_of_the_trial(said: str, lost: bool) -> None:
    assert ray_tune._is_loss(f"Failure # 1 (occurred at 2026-01-01_00-00-00)\n{said}\n") == lost


@pytest.mark.parametrize(
    ("said", "again"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", True),
        ("torch.AcceleratorError: CUDA error: out of memory\nCUDA kernel errors might be reported later.\n", True),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("torch.AcceleratorError: CUDA error: an illegal memory access was encountered", False),
        ("ValueError: torch.OutOfMemoryError", False),
    ],
)
def test_a_trial_that_any_call_told_of_too_little_memory_gets_a_larger_share_of_the_gpu(said: str, again: bool) -> None:
    told: list[str] = []
    recorder = SimpleNamespace(retry=lambda *given: told.append(given[-1]), fail=lambda *given: told.append("failed"))
    trial = SimpleNamespace(id="a")
    work = ray_tune._Work(None, {}, recorder, None, None, None, requests={"a": Resources(1, 0.25)})  # type: ignore[arg-type]
    work.fail(trial, f"Failure # 1\nray::ReplicaTrial.train() (pid=7)\n  File ...\n{said}\n")  # type: ignore[arg-type]
    assert told == ["again with 0.5 of a GPU instead of 0.25" if again else "failed"]
    assert work.requests["a"].gpus == (0.5 if again else 0.25)


@pytest.mark.slow
def test_both_runners_find_the_same_losses_to_the_bit(tiny_plan: Plan, tmp_path: Path) -> None:
    for name, machine in MACHINES.items():
        assert "replicas began" in run(tiny_plan, tmp_path / name, machine, Ledger(fresh=True))
    serial, ray = (load_curves(tmp_path / name) for name in MACHINES)
    for column in ("trial_id", "seed", "learning_rate", "step", "train_loss", "val_loss"):
        assert serial[column].tolist() == ray[column].tolist(), column


def test_a_request_that_no_node_can_hold_is_refused_before_anything_runs(tiny_plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="needs 1 CPUs and 0 GPUs on one node, and the nodes have 0 CPUs and 0 GPUs"):
        run(tiny_plan, tmp_path / "tiny", Machine(num_cpus=0, num_gpus=0))
    assert not (tmp_path / "tiny" / "trials").exists()
