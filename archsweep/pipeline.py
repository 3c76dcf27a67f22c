"""Read this first. A question is planned, the plan is run, the run's records are collected, the records are reported."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import socket
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from archsweep.atomic import must_be_writable
from archsweep.config import FAMILIES, NAME_PATTERN, label
from archsweep.errors import ConfigError, MachineError, RecordError, SpaceError, nearest
from archsweep.planning import find
from archsweep.planning.plan import Plan, make_plan, make_single_plan
from archsweep.records.schema import CONFIG_FILE, JOURNAL_FILE, MODEL_FOLDER, PLAN_FILE, TRIALS_FOLDER
from archsweep.training.corpus import identify

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import pandas as pd
    from rich.console import Console

    from archsweep.analysis.compare import Comparison
    from archsweep.config import ExperimentConfig
    from archsweep.planning.plan import Trial
    from archsweep.planning.search import Search
    from archsweep.running.early_stopping import EarlyStopping


LOCK_FILE = ".lock"
OTHER_RESULTS = "Give another place with --results."


@dataclass(frozen=True)
class Question:
    """What to ask: a search space by name or file, and what differs from the way it is written."""

    space: str
    name: str | None = None
    base: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    smoke: bool = False

    @property
    def command(self) -> str:
        """The command line that asks it."""
        words = ["python", "-m", "archsweep", self.space]
        words += [word for option, value in (("--name", self.name), ("--base", self.base)) if value for word in (option, value)]
        words += [word for name, value in self.settings.items() for word in ("--set", f"{name}={value}")]
        return shlex.join([*words, *(["--smoke"] if self.smoke else [])])


@dataclass(frozen=True)
class Machine:
    """Where to run: a Ray of our own sized by `num_cpus` and `num_gpus`, the cluster at `address`, or this process."""

    num_cpus: int | None = None
    num_gpus: int | None = None
    address: str | None = None
    serial: bool = False
    cache_dir: Path | None = None


def plan(question: Question) -> Plan:
    """Every trial that answers the question, priced, before anything runs. Imports neither torch nor ray nor pandas."""
    found = find.find(question.space)
    space = found.space
    if question.base is not None:
        space = find.rebase(space, find.base(question.base))
    if question.smoke:
        space = space.smoke()
    space = find.override(space, question.settings)
    name = question.name or "-".join(filter(None, (found.name, question.base, "smoke" if question.smoke else None)))
    return make_plan(name, found.question, space, identify(space.base.dataset, space.base.tokenizer), question.command)


def plan_one(config: ExperimentConfig, cache_dir: Path | None = None, command: str = "") -> Plan:
    """The plan of one config as it is: one trial of one replica; a length in epochs becomes one in tokens."""
    from archsweep.training.data import LanguageModelDataset

    if config.max_tokens is None:
        config = config.copy(max_tokens=LanguageModelDataset(config, cache_dir).steps() * config.tokens_per_step)
    return make_single_plan(config, identify(config.dataset, config.tokenizer), command)


def run(plan: Plan, folder: Path, machine: Machine, console: Console) -> None:
    """Train every trial of the plan that `folder` does not hold yet; records grow as trials report."""
    from archsweep.running.recorder import unfinished

    _check_overrides(plan)
    with _opened(folder, plan) as plan:
        trials = unfinished(plan, folder)
        if skipped := len(plan.trials) - len(trials):
            console.print(f"{skipped} of {len(plan.trials)} trials are finished and stay as they are", highlight=False)
        if trials or len(plan.trials) < plan.size:
            _train(plan, trials, folder, machine, console)


def _train(plan: Plan, trials: list[Trial], folder: Path, machine: Machine, console: Console) -> None:
    from archsweep.running import ray_tune, serial
    from archsweep.running.progress import Progress
    from archsweep.running.recorder import Recorder
    from archsweep.running.stop import stop_requests
    from archsweep.training.data import prepare

    corpus_ids = {
        trial.id: prepare(trial.config, machine.cache_dir).id for trial in trials or plan.trials[:1]
    }  # before any worker starts: what is wrong with the data shows here
    if plan.method:  # the texts of a search's later trials are those of its first
        (corpus_id,) = set(corpus_ids.values())
        corpus_ids = defaultdict(lambda: corpus_id, corpus_ids)
    progress = Progress(trials, console, more=plan.size - len(plan.trials))
    search = _search(plan, folder)
    recorder = Recorder(folder, progress, search, _early_stopping(plan, folder))
    with progress.shown(), stop_requests(progress.say) as stop:
        if machine.serial:
            serial.run(search.trials(trials) if search else trials, corpus_ids, recorder, stop, machine.cache_dir)
        else:
            ray_tune.run(
                trials,
                corpus_ids,
                recorder,
                stop,
                num_cpus=machine.num_cpus,
                num_gpus=machine.num_gpus,
                address=machine.address,
                cache_dir=machine.cache_dir,
                search=search,
            )
    if stop.is_set():
        raise KeyboardInterrupt
    if search and search.exhausted:
        console.print(f"{plan.name}: the search found {len(search.plan.trials)} different variants to train and no more", highlight=False)


def _search(plan: Plan, folder: Path) -> Search | None:
    """The search as its records say, each of its suggestions kept in plan.json before it trains; None for a grid."""
    if plan.method is None:
        return None
    from archsweep.planning.search import Search
    from archsweep.running.recorder import recorded_result

    known = {trial.id: recorded_result(folder / TRIALS_FOLDER / trial.id) for trial in plan.trials}
    results = {trial: result for trial, result in known.items() if result}
    return Search(plan, results, lambda grown: grown.save(folder / PLAN_FILE), folder / JOURNAL_FILE)


def _early_stopping(plan: Plan, folder: Path) -> EarlyStopping | None:
    if plan.space is None or plan.space.early_stopping is None:
        return None
    from archsweep.running.early_stopping import EarlyStopping

    return EarlyStopping(plan.space.early_stopping, plan.trials, folder)


def collect(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The records as results.parquet (a row per replica) and curves.parquet (a row per replica and evaluation)."""
    from archsweep.records import read

    with must_be_writable(folder, OTHER_RESULTS):
        return read.collect(folder)


def report(folder: Path) -> tuple[Comparison, Path]:
    """The records' answer: the comparison with its verdict, and the path of report.html."""
    from archsweep.analysis.compare import compare_experiments
    from archsweep.analysis.report import generate_summary_report

    comparison = compare_experiments(folder)
    with must_be_writable(folder, OTHER_RESULTS):
        return comparison, generate_summary_report(comparison)


def export(folder: Path, variant: str, target: Path) -> Path:
    """Copy the best model of a variant, named as its `label` is, to `target`: a folder that Hugging Face's Auto classes open.

    Raises RecordError for a variant that is not there or has no model, ConfigError where `target` exists.
    """
    from archsweep.records import read

    trials = {label(trial["variant"]): trial["id"] for trial in read.load_plan(folder)["trials"]}
    if variant not in trials:
        raise RecordError(f"{folder} has no variant {variant!r}: {nearest(variant, trials)}")
    trial = folder / TRIALS_FOLDER / trials[variant]
    if not (trial / MODEL_FOLDER).is_dir():
        raise RecordError(f"{variant} has no model yet: it is written when its trial has finished. Run the sweep again.")
    if target.exists():
        raise ConfigError(f"{target} must not exist yet, so that nothing in it is lost. Give another folder with --to.")
    with must_be_writable(target, "Give another folder with --to."):
        shutil.copytree(trial / MODEL_FOLDER, target)
        shutil.copy(trial / CONFIG_FILE, target / "experiment.json")
    return target


def sweep_folder(results: Path, name: str) -> Path:
    """The folder of a sweep. Raises ConfigError for a name that would leave the results."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigError(
            f"a sweep's name must be 1 to 64 letters, digits, '.', '_' or '-', and begin with a letter or digit, got {name!r}. "
            "It names a folder in --results."
        )
    return results.resolve() / name


def is_sweep(folder: Path) -> bool:
    """Whether the folder holds a plan."""
    return (folder / PLAN_FILE).exists()


@contextmanager
def _opened(folder: Path, plan: Plan) -> Iterator[Plan]:
    """The sweep's folder, for this process alone, with the plan that it then holds: a folder's report answers one question."""
    with must_be_writable(folder, OTHER_RESULTS):
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / LOCK_FILE, "a+")  # noqa: SIM115  # closed below, which is what gives the lock back
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise MachineError(f"{folder} is being run by {lock.read().strip() or 'another process'}. Wait for it, or stop it.") from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        plan = _going_on(folder / PLAN_FILE, plan)
        with must_be_writable(folder, OTHER_RESULTS):
            plan.save(folder / PLAN_FILE)
        yield plan


def _going_on(path: Path, plan: Plan) -> Plan:
    """The plan, a search's with the points that `path` holds of it. Raises SpaceError where `path` holds a plan of other trials."""
    if not path.exists():
        return plan
    try:
        recorded = Plan.load(path)
    except RecordError:
        raise SpaceError(
            f"{path} must be a plan and cannot be read. Remove it: the trials beside it stay, and are not trained again."
        ) from None
    if plan.search_id is not None and recorded.search_id == plan.search_id:
        return plan.goes_on(recorded)
    if plan.search_id or recorded.search_id or {trial.id for trial in recorded.trials} != {trial.id for trial in plan.trials}:
        raise SpaceError(
            f"{path.parent} holds another plan than this one: its search space, base, settings or text were different. "
            "Give this sweep a name of its own with --name, or delete the folder."
        )
    return plan


def _check_overrides(plan: Plan) -> None:
    """Raises ConfigError for a model option that does not exist, before any worker starts."""
    if any(set(trial.config.model_overrides) - {"initializer_range"} for trial in plan.trials):  # transformers takes seconds to import
        from archsweep.training.model import hugging_face_config

        for trial in plan.trials:
            if trial.config.family in FAMILIES:
                hugging_face_config(trial.config)
