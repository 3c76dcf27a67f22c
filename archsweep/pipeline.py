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
from archsweep.planning.extend import reconcile
from archsweep.planning.plan import Plan, longest_first, make_plan, make_single_plan
from archsweep.planning.split import split
from archsweep.records.schema import CONFIG_FILE, JOURNAL_FILE, MODEL_FOLDER, PLAN_FILE, TRIALS_FOLDER
from archsweep.space import TEXT_FIELDS
from archsweep.training.corpus import identify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import pandas as pd
    from rich.console import Console

    from archsweep.analysis.compare import Comparison
    from archsweep.config import ExperimentConfig
    from archsweep.planning.plan import Trial
    from archsweep.planning.search import Search
    from archsweep.running.early_stopping import EarlyStopping


Text = tuple[object, ...]

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


@dataclass(frozen=True)
class Ledger:
    """What is done with what is recorded already. Finished trials are never trained again, half-done ones go on."""

    extend: bool = False  # let a plan that asks for more be joined with the folder's
    retry_failed: bool = True
    fresh: bool = False  # train what another sweep of the same results has finished


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


def run(plan: Plan, folder: Path, machine: Machine, console: Console, ledger: Ledger | None = None) -> None:
    """Train every trial of the plan that neither `folder` nor a sweep beside it holds yet; records grow as trials report."""
    from archsweep.running import recorder

    _check_overrides(plan)
    ledger = ledger or Ledger()
    with _opened(folder, plan, extend=ledger.extend) as settled:
        trials = recorder.to_train(settled.trials, folder, retry_failed=ledger.retry_failed)
        if skipped := len(settled.trials) - len(trials):
            ended = "finished" if ledger.retry_failed else "finished or failed"
            console.print(f"{skipped} of {len(settled.trials)} trials are {ended} and stay as they are", highlight=False)
        if not ledger.fresh and (reused := recorder.reuse(trials, folder)):
            trials = [trial for trial in trials if trial not in reused]
            console.print(f"{len(reused)} trials are taken from other sweeps in {folder.parent}; --fresh trains them", highlight=False)
        if trials or len(settled.trials) < settled.size:
            _train(settled, trials, folder, machine, console)


def _train(plan: Plan, trials: list[Trial], folder: Path, machine: Machine, console: Console) -> None:
    from archsweep.running import ray_tune, serial

    texts = _tokenized(trials or list(plan.trials), machine.cache_dir)  # before any worker starts: what is wrong with the data shows here
    if machine.serial:
        _watched(plan, trials, texts, folder, machine, console, serial.run)
        return
    with ray_tune.started(machine.num_cpus, machine.num_gpus, machine.address) as cluster:
        parts = _split(plan, trials, folder, cluster.slots(trials or plan.trials))
        _watched(plan, parts, texts, folder, machine, console, cluster.run)


def _watched(
    plan: Plan,
    trials: list[Trial],
    texts: Mapping[Text, str],
    folder: Path,
    machine: Machine,
    console: Console,
    train: Callable[..., object],
) -> None:
    """Let a runner train the trials, with its reports recorded and shown; a stop that was asked for becomes a KeyboardInterrupt."""
    from archsweep.running.progress import Progress
    from archsweep.running.recorder import Recorder
    from archsweep.running.stop import stop_requests

    progress = Progress(trials, console, more=plan.size - len(plan.trials))
    search = _search(plan, folder)
    corpus_ids = {trial.id: texts[_text(trial.config)] for trial in trials}
    if search:  # the texts of its later trials are those of its first
        corpus_ids = defaultdict(lambda: next(iter(texts.values())), corpus_ids)
    recorder = Recorder(folder, progress, search, _early_stopping(plan, folder))
    with progress.shown(), stop_requests(progress.say) as stop:
        train(trials, corpus_ids, recorder, stop, machine.cache_dir, search)
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


def _tokenized(trials: list[Trial], cache_dir: Path | None) -> dict[Text, str]:
    """The id of each tokenized corpus that the trials read, each made once."""
    from archsweep.training.data import prepare

    return {text: prepare(config, cache_dir).id for text, config in {_text(trial.config): trial.config for trial in trials}.items()}


def _text(config: ExperimentConfig) -> Text:
    """What decides a config's tokens, and how many there must be."""
    return tuple(getattr(config, name) for name in (*TEXT_FIELDS, "context_length", "max_tokens"))


def _split(plan: Plan, trials: list[Trial], folder: Path, slots: int) -> list[Trial]:
    """The trials for so many slots, large ones in parts, as the folder's plan then says; once one has begun they stay as they are."""
    is_compared_while_it_trains = plan.method or plan.early_stopping or any(trial.prune_tune for trial in trials)
    if is_compared_while_it_trains or any((folder / TRIALS_FOLDER / trial.id).exists() for trial in trials):
        return trials
    parts = split(trials, slots, plan.corpus_id)
    kept = [trial for trial in plan.trials if trial not in trials]
    plan.model_copy(update={"trials": tuple(longest_first([*kept, *parts]))}).save(folder / PLAN_FILE)
    return parts


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

    variants = {label(trial["variant"]) for trial in read.load_plan(folder)["trials"]}
    if variant not in variants:
        raise RecordError(f"{folder} has no variant {variant!r}: {nearest(variant, variants)}")
    best = read.best_trial(folder, variant)
    trial = folder / TRIALS_FOLDER / (best or "")
    if best is None or not (trial / MODEL_FOLDER).is_dir():
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
def _opened(folder: Path, plan: Plan, *, extend: bool = False) -> Iterator[Plan]:
    """The sweep's folder, for this process alone, with the plan that it then holds: a folder answers one question."""
    with must_be_writable(folder, OTHER_RESULTS):
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / LOCK_FILE, "a+")  # noqa: SIM115  # closed below, which is what gives the lock back
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise MachineError(f"{folder} is being run by {lock.read().strip() or 'another process'}. Wait for it, or stop it.") from None
        settled = _settled(folder / PLAN_FILE, plan, extend)
        with must_be_writable(folder, OTHER_RESULTS):
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            lock.flush()
            settled.save(folder / PLAN_FILE)
        yield settled


def _settled(path: Path, plan: Plan, extend: bool) -> Plan:
    """What is run: `plan`, or what `path` holds of it. Raises SpaceError where that is a plan of other trials."""
    if not path.exists():
        return plan
    try:
        recorded = Plan.load(path)
    except RecordError:
        raise SpaceError(
            f"{path} must be a plan and cannot be read. Remove it: the trials beside it stay, and are not trained again."
        ) from None
    return reconcile(recorded, plan, extend=extend)


def _check_overrides(plan: Plan) -> None:
    """Raises ConfigError for a model option that does not exist, before any worker starts."""
    if any(set(trial.config.model_overrides) - {"initializer_range"} for trial in plan.trials):  # transformers takes seconds to import
        from archsweep.training.model import hugging_face_config

        for trial in plan.trials:
            if trial.config.family in FAMILIES:
                hugging_face_config(trial.config)
