"""Read this first. A question is planned, the plan is run, the run's records are collected, the records are reported."""

from __future__ import annotations

import re
import shlex
import shutil
from collections import defaultdict
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from archsweep import extensions
from archsweep.atomic import OTHER_RESULTS, must_be_writable, write_atomically
from archsweep.config import FAMILIES, NAME_PATTERN, ExperimentConfig, Replica, label
from archsweep.errors import ConfigError, MachineError, RecordError, SpaceError, nearest
from archsweep.imports import import_meanwhile
from archsweep.planning import find, throughput
from archsweep.planning.extend import reconcile
from archsweep.planning.forecast import Forecast
from archsweep.planning.forecast import forecast as make_forecast
from archsweep.planning.grid import Variant
from archsweep.planning.plan import Plan, make_plan, make_single_plan, replicas_of, sized
from archsweep.records import remote
from archsweep.records.schema import CHECKPOINT_FOLDER, CONFIG_FILE, JOURNAL_FILE, MODELS_FOLDER, PLAN_FILE, TRIALS_FOLDER
from archsweep.running.machine import Machine as Machine
from archsweep.running.machine import circumstances, device_name
from archsweep.training.corpus import default_cache_dir, identify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pandas as pd
    from rich.console import Console

    from archsweep.analysis.compare import Comparison
    from archsweep.analysis.export import Format, Which
    from archsweep.planning.length import Speed
    from archsweep.planning.plan import Trial
    from archsweep.planning.search import Result, Search
    from archsweep.running.early_stopping import EarlyStopping
    from archsweep.running.progress import Progress
    from archsweep.running.recorder import Place, Recorder
    from archsweep.running.worker import KeepModels, Storage
    from archsweep.space import Space


# What makes a report, and what it imports only as it goes.
_REPORTING = ("archsweep.analysis.report", "statsmodels.formula.api", "matplotlib.backends.backend_pdf")


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


class Effect(NamedTuple):
    """A difference worth finding: in nats/token, or as a part of the loss."""

    size: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> Effect:
        """From "0.02" (nats/token) or "0.5%" (of the loss). Raises SpaceError."""
        with suppress(ValueError):
            size = float(text.removesuffix("%"))
            if 0 < size < float("inf"):
                return cls(size / 100, relative=True) if text.endswith("%") else cls(size, relative=False)
        raise SpaceError(f"--detect takes a difference in nats/token, as 0.02, or a part of the loss, as 0.5%, got {text!r}.")


@dataclass(frozen=True)
class Leavings:
    """What a run leaves beside its records: models, and its numbers in trackers. Neither is part of what a trial is."""

    keep_models: KeepModels = "best"
    track: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ledger:
    """What is done with what is recorded already. Finished trials are never trained again, half-done ones go on."""

    extend: bool = False  # let a plan that asks for more be joined with the folder's
    retry_failed: bool = True
    fresh: bool = False  # train what another sweep of the same results has finished


def plan(question: Question, machine: Machine | None = None, say: Callable[[str], object] = print) -> Plan:
    """Every trial that answers the question, priced, before anything runs. Imports neither torch nor ray nor pandas.

    A budget of seconds needs to know what training takes on `machine`: shapes that were not measured there are, which `say` is told.
    """
    machine = machine or Machine()
    found = find.find(question.space)
    space = found.space
    if question.base is not None:
        space = find.rebase(space, find.base(question.base))
    if question.smoke:
        space = space.smoke()
    space = find.override(space, question.settings)
    name = question.name or "-".join(filter(None, (found.name, question.base, "smoke" if question.smoke else None)))
    corpus_id = identify(space.base.dataset, space.base.tokenizer)
    return make_plan(name, found.question, space, corpus_id, question.command, _speed(space, machine, say))


def _speed(space: Space, machine: Machine, say: Callable[[str], object]) -> Speed | None:
    """What a token of each variant takes on the machine, by its first measurement; None where no budget asks, or none of them can be
    trained. Raises MachineError for a machine that is not of one kind."""
    if space.length_budget is None or space.length_budget.kind != "train_seconds":
        return None
    here = replace(machine, address=None, is_unknown=False)
    names = (here if machine.is_unknown else machine).device_names(space.base)
    if len(names) != 1:
        has = " and ".join(names) or "nodes that are not there yet"
        raise MachineError(f'a budget of train_seconds is for one kind of device, and the cluster has {has}. Take Budget("flops", ...).')
    configs = [variant.config for variant in sized(space) if isinstance(variant, Variant)]
    if not configs:
        return None
    _measure([(config, replicas_of(space, config)) for config in configs], names, here, say)
    known = throughput.first_measurements(names[0], throughput.load(machine.cache))
    return lambda config: known[throughput.shape_key(config)]


def measure(plan: Plan, machine: Machine, say: Callable[[str], object]) -> None:
    """Train each of the plan's shapes that was not measured on the machine for a few seconds, so that `forecast` can tell the time.

    Raises MachineError for shapes that were not measured on devices of a cluster that this machine has not.
    """
    names = machine.device_names(plan.trials[0].config)
    if not names:
        raise MachineError("--measure must know the devices, and the cluster's show only when it runs. Leave it out.")
    length = plan.reading(plan.trials[0].config).max_tokens  # on the text that they will train on
    work = [(trial.config.copy(max_tokens=length), trial.replicas) for trial in plan.trials]
    _measure(work, names, replace(machine, address=None), say)


def _measure(
    work: Sequence[tuple[ExperimentConfig, Sequence[Replica]]], device_names: Sequence[str], here: Machine, say: Callable[[str], object]
) -> None:
    from archsweep.running.measure import measure

    config = work[0][0]
    (node,) = here.used(config)
    for name in device_names:
        measure(work, name, device_name(node), here.cache, 1 if node.gpus else node.processors, say)


def forecast(
    plan: Plan, machine: Machine, results: Path | None = None, price: float | None = None, detect: Effect | None = None
) -> Forecast:
    """What the plan takes on the machine, from what was measured there, with what speaks against it; with `results`, what is left of it.

    `price` is of a device for an hour; `detect` is the difference that the user wants to find. Without it nothing heavy is imported.
    """
    where = circumstances(plan, machine, price)
    if results is None:
        return make_forecast(plan, where)
    folder = sweep_folder(results, plan.name)
    left, unchosen = _left(plan, folder)
    if detect is None:
        return make_forecast(plan, where, left, unchosen)
    from archsweep.analysis.power import power_of, recorded_spread
    from archsweep.analysis.statistics import ALL_PAIRS, REFERENCE

    others = sorted(path.parent for path in results.resolve().glob(f"*/{PLAN_FILE}"))
    spread = recorded_spread(folder, others, plan.trials[0].cost.flops)
    variants = max(plan.size if plan.method else 0, len({trial.label for trial in plan.trials}))
    family = REFERENCE if plan.reference else ALL_PAIRS
    power = power_of(detect.size, detect.relative, plan.repeat, variants, spread, family, tuned=bool(plan.tune))
    return make_forecast(plan, where, left, unchosen, power.found, [power.warning] if power.warning else [])


def _left(plan: Plan, folder: Path) -> tuple[list[Trial], int]:
    """What a run would train of the plan, with what its folder holds, and how many trials its search would then have yet to choose; all of
    it where the folder holds another plan."""
    from archsweep.running.recorder import to_train

    try:
        settled = _settled(folder / PLAN_FILE, plan, extend=True)
    except SpaceError:
        return list(plan.trials), plan.unchosen
    return to_train(settled.trials, folder), settled.unchosen


def plan_one(config: ExperimentConfig, cache_dir: Path | None = None, command: str = "") -> Plan:
    """The plan of one config as it is: one trial of one replica; a length in epochs becomes one in tokens."""
    from archsweep.training.data import LanguageModelDataset

    if config.max_tokens is None:
        config = config.copy(max_tokens=LanguageModelDataset(config, cache_dir).steps() * config.tokens_per_step)
    return make_single_plan(config, identify(config.dataset, config.tokenizer), command)


def run(
    plan: Plan, folder: Path, machine: Machine, console: Console, ledger: Ledger | None = None, leavings: Leavings | None = None
) -> None:
    """Train every trial of the plan that neither `folder` nor a sweep beside it holds yet; records grow as trials report."""
    from archsweep.running import parts, recorder, texts, trackers
    from archsweep.running.progress import Progress
    from archsweep.running.worker import Storage

    ledger, leavings = ledger or Ledger(), leavings or Leavings()
    trackers.check(leavings.track)
    _check_names(plan)
    _runner(machine)
    with _opened(folder, plan, partial(console.print, markup=False, highlight=False), extend=ledger.extend) as settled:
        left = recorder.to_train(settled.trials, folder, retry_failed=ledger.retry_failed)
        if not ledger.fresh:
            settled, left = parts.as_others_have_them(settled, left, folder)
        text_id = texts.text_ids(settled)
        if left:
            texts.check_text(settled, folder, text_id)
        reused = [] if ledger.fresh else recorder.reuse(left, folder, leavings.keep_models, text_id)
        trials = [trial for trial in left if trial not in reused]
        progress = Progress(settled, trials, folder, console)
        with progress.written():
            if skipped := len(settled.trials) - len(left):
                ended = "finished" if ledger.retry_failed else "finished or failed"
                progress.say(f"{skipped} of {len(settled.trials)} trials are {ended} and stay as they are")
            if reused:
                progress.say(f"{len(reused)} trials are taken from other sweeps in {folder.parent}; --fresh trains them")
                lacking = sum(not (folder / TRIALS_FOLDER / trial.id / MODELS_FOLDER).is_dir() for trial in reused)
                if leavings.keep_models == "all" and lacking:
                    progress.say(f"{lacking} of them have their best model alone, as it was kept there; --fresh trains them and keeps all")
            if trials or len(settled.trials) < settled.size:
                with trackers.opened(settled, folder, leavings.track, progress.say) as told:
                    storage = Storage(machine.cache_dir, machine.checkpoint_seconds, leavings.keep_models)
                    place, stopping = recorder.Place(folder), _early_stopping(settled, folder)
                    search = _search(settled, trials, place, ledger, progress, stopping, leavings.keep_models)
                    # A processor is idle while the last trials train.
                    prepare_report = partial(import_meanwhile, *_REPORTING)
                    watched = recorder.Recorder(place, progress, told, machine.cache, search, stopping, prepare_report)
                    _train(settled, trials, folder, machine, storage, watched, progress, search)


def _train(
    plan: Plan,
    trials: list[Trial],
    folder: Path,
    machine: Machine,
    storage: Storage,
    recorder: Recorder,
    progress: Progress,
    search: Search | None,
) -> None:
    """Let a runner train the trials, with its reports recorded and shown; a stop that was asked for becomes a KeyboardInterrupt."""
    from archsweep.running import ray_tune
    from archsweep.running.parts import split_for
    from archsweep.running.stop import stop_requests
    from archsweep.running.texts import text_of, tokenized

    train = _runner(machine)
    with ray_tune.prepared(machine.num_gpus, machine.address) if train is None else nullcontext() as python:
        # Before any worker starts: what is wrong with the data shows here.
        corpora = tokenized(plan, trials or list(plan.trials), machine.cache_dir)

        def watched(trials: list[Trial], train: Callable[..., object]) -> None:
            corpus_ids = {trial.id: corpora[text_of(trial.config)] for trial in trials}
            if search:  # the texts of its later trials are those of its first
                corpus_ids = defaultdict(lambda: next(iter(corpora.values())), corpus_ids)
            with progress.shown(trials), stop_requests(folder, progress.say) as stop:
                train(trials, corpus_ids, recorder, stop, storage, search)
            if stop.is_set():
                raise KeyboardInterrupt

        if train is not None:
            watched(trials, train)
        else:
            with ray_tune.started(machine.num_cpus, machine.num_gpus, machine.address, python) as cluster:
                gpu_bytes = cluster.gpu_bytes if any(trial.config.device != "cpu" for trial in trials) else None
                pieces = split_for(plan, trials, folder, cluster.slots(trials or plan.trials), gpu_bytes)
                if len(pieces) > len(trials):
                    devices = "processors are" if gpu_bytes is None else "GPUs hold them and are"
                    progress.say(f"{len(trials)} trials run as {len(pieces)}, so that all {devices} busy to the end")
                watched(pieces, cluster.run)
    if search and search.exhausted:
        progress.say(f"the search found {len(search.plan.trials)} different variants to train and no more")


def _runner(machine: Machine) -> Callable[..., object] | None:
    """What trains without Ray, where that is asked for. Raises ConfigError for a runner that is not there."""
    if machine.runner is not None:
        return extensions.load(machine.runner)
    if machine.serial:
        from archsweep.running import serial

        return serial.run
    return None


def _search(
    plan: Plan,
    trials: list[Trial],
    place: Place,
    ledger: Ledger,
    progress: Progress,
    early_stopping: EarlyStopping | None,
    keep_models: KeepModels,
) -> Search | None:
    """The search as its records say, each of its suggestions kept in plan.json before it trains; None for a grid. Those of `trials`, which
    are to train, that failed before have not ended."""
    if plan.method is None:
        return None
    from archsweep.planning.search import Search
    from archsweep.running.recorder import recorded_result, reuse, to_train
    from archsweep.running.texts import text_ids

    text_id = text_ids(plan)

    def recorded(trial: Trial) -> Result | None:
        """The result of a suggestion that is not trained, for the reasons for which those that are known at the start are not."""
        with place.opened() as folder:
            ended = not to_train([trial], folder, retry_failed=ledger.retry_failed)
            if not ended and (ledger.fresh or not reuse([trial], folder, keep_models, text_id)):
                return None
            if early_stopping:
                early_stopping.know(trial, folder)
            taken = f"taken from another sweep in {folder.parent}; --fresh trains it"
            progress.trial_recorded(trial, "ended before and stays as it is" if ended else taken)
            return recorded_result(folder / TRIALS_FOLDER / trial.id)

    again = {trial.id for trial in trials}
    home = place.folder / TRIALS_FOLDER
    known = {trial.id: recorded_result(home / trial.id) for trial in plan.trials if trial.id not in again}
    results = {trial: result for trial, result in known.items() if result}
    keep, journal = (lambda grown: grown.save(place.folder / PLAN_FILE)), place.folder / JOURNAL_FILE
    return Search(plan, results, keep, journal, place.opened, recorded)


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


def report(folder: Path, *, again: bool = True) -> tuple[Comparison, Path]:
    """The records' answer: the comparison with its verdict, and the path of report.html, made `again` though nothing has changed."""
    from archsweep.analysis.compare import compare_experiments
    from archsweep.analysis.report import REPORT_HTML, generate_summary_report, is_current

    comparison = compare_experiments(folder)
    if not again and is_current(folder):
        return comparison, folder / REPORT_HTML
    with must_be_writable(folder, OTHER_RESULTS):
        return comparison, generate_summary_report(comparison)


def compare(folders: Sequence[Path], target: Path) -> tuple[Comparison, Path]:
    """The answer of several sweeps together, in whatever state they are: the comparison, and the path of its report in `target`.

    Raises RecordError where their losses are not comparable.
    """
    from archsweep.analysis.compare import compare_experiments
    from archsweep.analysis.report import generate_summary_report

    comparison = compare_experiments(folders)
    with must_be_writable(target, "Give another folder with -o."):
        return comparison, generate_summary_report(comparison, target)


def export_table(folder: Path, which: Which, form: Format, target: Path | None = None) -> Path:
    """Write one of a sweep's tables to the file `target` (./SWEEP-TABLE.ENDING), in place of what was there; returns its path."""
    from archsweep.analysis.compare import compare_experiments
    from archsweep.analysis.export import ENDINGS, export_table

    content = export_table(compare_experiments(folder), which, form)
    target = target or Path(f"{folder.name}-{which}.{ENDINGS[form]}")
    with must_be_writable(target, "Give another file with --to."):
        return write_atomically(target, content)


def export(folder: Path, variant: str, target: Path, say: Callable[[str], object] = print) -> Path:
    """Copy the best model of a variant, named as its `label` is, to `target`: a folder that Hugging Face's Auto classes open. Of a variant
    that has not finished it is the best so far, and where the best replica has left none, as each trial leaves its own best alone, the best
    that has; `say` is told.

    Raises RecordError for a variant that is not there or has no model, ConfigError where `target` exists.
    """
    from archsweep.records import read
    from archsweep.records.files import load_plan
    from archsweep.running.recorder import kept_models
    from archsweep.running.trackers import replica_name

    variants = {label(trial["variant"]) for trial in load_plan(folder)["trials"]}
    if variant not in variants:
        raise RecordError(f"{folder} has no variant {variant!r}: {nearest(variant, variants)}")
    if target.exists():
        raise ConfigError(f"{target} must not exist yet, so that nothing in it is lost. Give another folder with --to.")
    finished, is_of_a_part = read.best_replicas(folder, variant)
    homes = {trial: folder / TRIALS_FOLDER / trial for trial, _ in finished}
    kept = {trial: kept_models(home) for trial, home in homes.items()}
    if found := next(((trial, replica) for trial, replica in finished if replica_name(replica.model_dump()) in kept[trial]), None):
        trial, replica = found
        config = ExperimentConfig.load(homes[trial] / CONFIG_FILE).copy(**replica.model_dump())
        with must_be_writable(target, "Give another folder with --to."):
            shutil.copytree(kept[trial][replica_name(replica.model_dump())], target)
            config.save(target / "experiment.json")
        if found != finished[0]:
            say(f"of {variant}, {label(finished[0][1].model_dump())} is best and has left no model: this is {label(replica.model_dump())}")
        if is_of_a_part:
            say(f"{variant} has not finished: this is the best of its trials that have")
    elif finished or not _export_best_so_far(folder, variant, target, say):
        raise RecordError(
            f"{variant} has no model: a trial leaves one when it has finished, unless --keep-models is none, and its best so far each time "
            "that it saves itself; one that was stopped early or diverged leaves none. Run the sweep again, if it has not ended."
        )
    return target


def _export_best_so_far(folder: Path, variant: str, target: Path, say: Callable[[str], object]) -> bool:
    """Write the best model that the variant's checkpoints hold; whether they hold one."""
    from archsweep.running.recorder import ENDED, recorded_status
    from archsweep.training.best import loss, saved_best, write_best

    trials = [trial for trial in Plan.load(folder / PLAN_FILE).trials if trial.label == variant]
    homes = [(trial.config, folder / TRIALS_FOLDER / trial.id) for trial in trials]
    left = [(config, home) for config, home in homes if recorded_status(home) not in ENDED and (home / CHECKPOINT_FOLDER).is_dir()]
    found = [(best, config) for config, home in left if (best := saved_best(home / CHECKPOINT_FOLDER, say))]
    if not found:
        return False
    best, config = min(found, key=lambda each: loss(each[0].row))
    with must_be_writable(target, "Give another folder with --to."):
        write_best(best, config, target)
        config.save(target / "experiment.json")
    which = f"of step {best.row['step']}, learning rate {best.row['learning_rate']:g}, seed {best.row['seed']}"
    say(f"{variant} has not finished: this is its best so far, {which}")
    return True


def results_root(results: str) -> Path:
    """The folder of all sweeps: `results` itself, or what this machine keeps of a store. Raises ConfigError for the URI of no store."""
    return remote.local_root(results, default_cache_dir()) if remote.is_uri(results) else Path(results)


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
def _opened(folder: Path, plan: Plan, say: Callable[[str], object], *, extend: bool) -> Iterator[Plan]:
    """The sweep's folder, for this process alone, with the plan that it then holds: a folder answers one question."""
    from archsweep.running.lock import locked

    with locked(folder, say):
        settled = _settled(folder / PLAN_FILE, plan, extend)
        with must_be_writable(folder, OTHER_RESULTS):
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


def _check_names(plan: Plan) -> None:
    """Raises ConfigError for a metric or a model option that does not exist, before any worker starts."""
    for trial in plan.trials:
        extensions.user_metrics(trial.config)
    if any(set(trial.config.model_overrides) - {"initializer_range"} for trial in plan.trials):  # transformers takes seconds to import
        from archsweep.training.model import hugging_face_config

        for trial in plan.trials:
            if trial.config.family in FAMILIES:
                hugging_face_config(trial.config)
