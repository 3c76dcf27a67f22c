"""The commands of sweeps whose results are here, or in a store."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from archsweep.cli.asking import (
    agreed,
    check_checkpoint_seconds,
    parse_settings,
    planned_for,
    print_plan,
    question_of,
    say,
    says_yes,
    terminal,
)
from archsweep.cli.cluster import head_at, print_log, tell_jobs
from archsweep.cli.options import (
    CHECKPOINT_SECONDS,
    EXIT_ENVIRONMENT,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    Address,
    Base,
    Cache,
    CheckpointSeconds,
    Detect,
    Extend,
    Fresh,
    Gpus,
    Insecure,
    Json,
    KeepModels,
    Measure,
    Price,
    Processors,
    Results,
    RetryFailed,
    Runner,
    Serial,
    Settings,
    Smoke,
    SpaceName,
    SubmittedTo,
    Sweep,
    SweepName,
    Track,
    Yes,
)
from archsweep.errors import SpaceError

if TYPE_CHECKING:
    from rich.console import Console

    from archsweep.analysis.compare import Comparison
    from archsweep.pipeline import Leavings, Ledger, Machine
    from archsweep.planning.plan import Plan

# Each command imports what it needs when it runs, so that --help answers at once.


def sweep(
    space: SpaceName | None = None,
    *,
    name: SweepName = None,
    results: Results = "results",
    base: Base = None,
    settings: Settings = None,
    smoke: Smoke = False,
    dry_run: Annotated[bool, Parameter(negative="", help="print the plan and stop")] = False,
    json: Json = False,
    measure: Measure = False,
    price_per_gpu_hour: Price = None,
    detect: Detect = None,
    yes: Yes = False,
    num_cpus: Processors = None,
    num_gpus: Gpus = None,
    address: Address = None,
    serial: Serial = False,
    runner: Runner = None,
    keep_models: KeepModels = "best",
    track: Track = None,
    extend: Extend = False,
    retry_failed: RetryFailed = True,
    fresh: Fresh = False,
    checkpoint_seconds: CheckpointSeconds = CHECKPOINT_SECONDS,
    cache: Cache = None,
) -> int:
    """Answer a search space's question: plan, run, collect, report. The same command again goes on where it stopped."""
    from archsweep import pipeline
    from archsweep.planning import find

    if space is None:
        names = ", ".join(find.shipped())
        raise SpaceError(f"name a search space: {names}, or the path of your own .py file. See python -m archsweep --help.")
    if json and not dry_run:
        raise SpaceError("--json prints the plan alone, so it goes with --dry-run or the command plan.")
    console = terminal()
    machine = _machine(num_cpus, num_gpus, address, serial, cache, checkpoint_seconds, runner)
    root = pipeline.results_root(results)
    planned, forecast = planned_for(question_of(space, name, base, settings, smoke), machine, root, measure, price_per_gpu_hour, detect)
    print_plan(planned, forecast, console, json)
    if dry_run:
        return 0
    if not (yes or agreed(forecast)):
        say("Nothing was run.", sys.stderr)
        return EXIT_INTERRUPTED
    ledger = pipeline.Ledger(extend, retry_failed, fresh)
    leavings = pipeline.Leavings(keep_models, tuple(dict.fromkeys(track or ())))
    return _run(planned, pipeline.sweep_folder(root, planned.name), machine, console, ledger, leavings)


def plan(
    space: SpaceName,
    *,
    name: SweepName = None,
    results: Results = "results",
    base: Base = None,
    settings: Settings = None,
    smoke: Smoke = False,
    json: Json = False,
    measure: Measure = False,
    price_per_gpu_hour: Price = None,
    detect: Detect = None,
    num_cpus: Processors = None,
    num_gpus: Gpus = None,
    address: Address = None,
    serial: Serial = False,
    cache: Cache = None,
) -> int:
    """Print every variant that a sweep would train, with its cost and the sweep's: time, device-hours, money, disk. Trains nothing, unless
    it must measure."""
    from archsweep import pipeline

    machine = _machine(num_cpus, num_gpus, address, serial, cache)
    root = pipeline.results_root(results)
    planned, forecast = planned_for(question_of(space, name, base, settings, smoke), machine, root, measure, price_per_gpu_hour, detect)
    print_plan(planned, forecast, terminal(), json)
    return 0


def report(sweep: Sweep, *, results: Results = "results") -> int:
    """Write a sweep's report from its records, whether it has ended or not."""
    from archsweep import pipeline
    from archsweep.running import mirror

    folder = _sweep_at(sweep, results)
    pipeline.collect(folder)
    _print_comparison(*pipeline.report(folder), terminal())
    mirror.share(folder)
    return 0


def compare(
    *sweeps: Annotated[str, Parameter(help="the sweeps' names, or their folders: two or more")],
    output: Annotated[Path | None, Parameter(name=["--output", "-o"], help="the report's folder [default: summary in --results]")] = None,
    results: Results = "results",
) -> int:
    """Answer what several sweeps of one corpus, tokenizer and evaluation say together, whether they have ended or not."""
    from archsweep import pipeline
    from archsweep.running import mirror

    if len(sweeps) < 2:
        raise SpaceError(f"compare joins two sweeps or more, got {len(sweeps)}. The report of one is python -m archsweep report SWEEP.")
    folder = output or pipeline.results_root(results) / "summary"
    _print_comparison(*pipeline.compare([_sweep_at(sweep, results) for sweep in sweeps], folder), terminal())
    mirror.share(folder)
    return 0


def export(
    sweep: Sweep,
    variant: Annotated[str | None, Parameter(help="the variant as the report names it, in quotes: 'num_layers=2 num_heads=4'")] = None,
    *,
    form: Annotated[Literal["csv", "parquet", "latex", "markdown"] | None, Parameter(name="--format", help="of a table")] = None,
    table: Annotated[Literal["ranking", "results", "curves", "pairs"], Parameter(help="which one goes with --format")] = "ranking",
    to: Annotated[
        Path | None, Parameter(help="the model's new folder, or the table's file [default: ./SWEEP-VARIANT, ./SWEEP-TABLE]")
    ] = None,
    results: Results = "results",
) -> int:
    """Write a variant's best model as a Hugging Face folder: config, safetensors, tokenizer. Or, with --format, one of the tables.

    Of a variant that has not finished it is the best model so far."""
    from archsweep import pipeline

    if (variant is None) == (form is None):
        raise SpaceError("export takes a variant, to write its model, or --format, to write a table: one of the two.")
    folder = _sweep_at(sweep, results, large=variant is not None)
    if variant is not None:
        say(f"model: {pipeline.export(folder, variant, to or Path('-'.join([folder.name, *variant.split()])), say)}")
    elif form is not None:
        say(f"table: {pipeline.export_table(folder, table, form, to)}")
    return 0


def columns() -> int:
    """Print, as Markdown, what every column of a sweep's results and curves says; docs/columns.md is made by it."""
    from archsweep.records.describe import describe

    say(describe(), end="")
    return 0


def train(
    config: Annotated[Path, Parameter(help="an ExperimentConfig in JSON")],
    *,
    settings: Settings = None,
    results: Results = "results",
    cache: Cache = None,
) -> int:
    """Train one config in this process, as a sweep of one trial: the same command again goes on where it stopped."""
    from archsweep import pipeline
    from archsweep.config import ExperimentConfig
    from archsweep.planning import find

    experiment = find.with_settings(ExperimentConfig.load(config), parse_settings(settings))
    options = [word for setting in settings or [] for word in ("--set", setting)]
    planned = pipeline.plan_one(experiment, cache, shlex.join(["python", "-m", "archsweep", "train", str(config), *options]))
    folder = pipeline.sweep_folder(pipeline.results_root(results), planned.name)
    return _run(planned, folder, pipeline.Machine(serial=True, cache_dir=cache), terminal())


def status(
    sweep: Annotated[str | None, Parameter(help="the sweep's name, or its folder; left out: a line for each sweep")] = None,
    *,
    json: Annotated[bool, Parameter(negative="", help="all of it as JSON")] = False,
    results: Results = "results",
    address: SubmittedTo = None,
    insecure: Insecure = False,
) -> int:
    """Tell how far a sweep is, also while it runs elsewhere."""
    from archsweep import pipeline
    from archsweep.records import remote
    from archsweep.running import mirror, watch

    if address is not None:
        return tell_jobs(head_at(address, insecure), sweep, json)
    if sweep is None:
        root = pipeline.results_root(results)
        for folder in remote.sweeps(root):
            mirror.refresh(folder)
        for line in watch.list_sweeps(root, json) or ([] if json else [f"no sweeps in {results}"]):
            say(line)
        return 0
    found = watch.read_status(_sweep_at(sweep, results))
    if json:
        say(found.model_dump_json(indent=2))
        return 0
    for line in watch.status_lines(found):
        say(line)
    if found.trials:
        from archsweep.running.view import running_table

        terminal().print(running_table(found.trials, ids=True))
    return 0


def logs(
    sweep: Sweep,
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="", help="go on with what is said, until the run ends")] = False,
    trial: Annotated[str | None, Parameter(help="of one trial, by its id, or of one variant, as 'num_layers=2 num_heads=4'")] = None,
    results: Results = "results",
    address: SubmittedTo = None,
    insecure: Insecure = False,
) -> int:
    """Print what a sweep has said."""
    from archsweep.running import mirror, watch

    if address is not None:
        return print_log(head_at(address, insecure), sweep, follow, trial)
    folder = _sweep_at(sweep, results)
    with mirror.pulled(folder, say):
        for line in watch.log_lines(folder, follow, trial):
            say(line)
    return 0


def stop(sweep: Sweep, *, results: Results = "results", address: SubmittedTo = None, insecure: Insecure = False) -> int:
    """Ask a running sweep, on this machine or another, to save its trials and stop; wait until it has."""
    from archsweep.running import mirror, watch

    if address is not None:
        from archsweep.submitting import jobs

        head = head_at(address, insecure)
        jobs.stop(head, jobs.find_job(head, sweep), say)
        return 0
    folder = _sweep_at(sweep, results)
    with mirror.pulled(folder, say):
        watch.stop(folder, say)
    return 0


def clean(
    sweep: Sweep,
    *,
    models: Annotated[bool, Parameter(negative="", help="the kept models too")] = False,
    yes: Annotated[bool, Parameter(name=["--yes", "-y"], negative="", help="remove without asking")] = False,
    results: Results = "results",
) -> int:
    """Show what a sweep's folder can do without, and remove it after a yes. Records, results and plan stay."""
    from archsweep.running import mirror
    from archsweep.running.clean import removable, remove

    folder = _sweep_at(sweep, results, large=True)
    with removable(folder, models) as found:
        for each in found:
            say(f"{each.size / 1e6:10,.3f} MB  {each.what}  {each.path}")
        say(f"{sum(each.size for each in found) / 1e6:10,.3f} MB in all")
        if found and (yes or _agreed("Remove them?")):
            remove(found)
            say("removed")
    mirror.share(folder, removes=True)
    return 0


def doctor(
    *,
    address: Annotated[str | None, Parameter(help="a running Ray cluster, as HOST:PORT")] = None,
    results: Results = "results",
    cache: Cache = None,
) -> int:
    """Check what a sweep needs of this machine: a line each, with the way out where something is amiss."""
    from archsweep import doctor

    findings = doctor.findings(results, cache, address)
    for finding in findings:
        say(str(finding))
    return 0 if all(finding.ok for finding in findings) else EXIT_ENVIRONMENT


def spaces(*, base: Base = None, cache: Cache = None) -> int:
    """List the shipped search spaces: each question, and what it takes on this machine."""
    from archsweep import pipeline
    from archsweep.planning import find
    from archsweep.planning.table import in_short

    machine = pipeline.Machine(cache_dir=cache)
    for name, question in find.shipped().items():
        planned = pipeline.plan(pipeline.Question(name, base=base), machine)
        whole = pipeline.forecast(planned, machine)
        say(f"{name}: {in_short(planned, whole)}\n  {question}")
    return 0


def _machine(
    num_cpus: int | None,
    num_gpus: int | None,
    address: str | None,
    serial: bool,
    cache: Path | None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    runner: str | None = None,
) -> Machine:
    """Raises SpaceError for options that contradict each other, and for numbers that are none of what they count."""
    from archsweep import pipeline

    if sum((serial, address is not None, runner is not None)) > 1:
        raise SpaceError("--runner, --serial and --address each say where trials run. Give one of them.")
    if address is not None and (num_cpus is not None or num_gpus is not None):
        raise SpaceError("--num-cpus and --num-gpus size the Ray that is started here, and --address names one that runs. Leave them out.")
    for option, number, least in (("--num-cpus", num_cpus, 1), ("--num-gpus", num_gpus, 0)):
        if number is not None and number < least:
            raise SpaceError(f"{option} must be at least {least}, got {number}. Leave it out to use all that this machine has.")
    check_checkpoint_seconds(checkpoint_seconds)
    return pipeline.Machine(num_cpus, num_gpus, address, serial, cache, checkpoint_seconds, runner)


def _run(
    planned: Plan,
    folder: Path,
    machine: Machine,
    console: Console,
    ledger: Ledger | None = None,
    leavings: Leavings | None = None,
) -> int:
    """Run, collect, report; what the command ends with."""
    from archsweep import pipeline
    from archsweep.records import remote
    from archsweep.running import mirror

    try:
        with mirror.pushed(folder, say):
            try:
                pipeline.run(planned, folder, machine, console, ledger, leavings)
            except KeyboardInterrupt:
                if pipeline.is_sweep(folder):
                    pipeline.collect(folder)
                raise
            rows, _ = pipeline.collect(folder)
            _print_comparison(*pipeline.report(folder, again=False), console)
    except KeyboardInterrupt:
        say(f"Interrupted. What was recorded is in {remote.uri_of(folder) or folder}; the same command goes on from there.", sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_FAILED if (rows["status"] == "failed").any() else 0


def _sweep_at(sweep: str, results: str, *, large: bool = False) -> Path:
    """The sweep's folder, as its store has it where its results are in one; checkpoints and models only where `large`."""
    from archsweep import pipeline
    from archsweep.running import mirror

    if Path(sweep).is_dir():
        return Path(sweep).resolve()
    folder = pipeline.sweep_folder(pipeline.results_root(results), sweep)
    mirror.refresh(folder, large)
    return folder


def _print_comparison(comparison: Comparison, page: Path, console: Console) -> None:
    console.print(str(comparison), highlight=False, markup=False)
    console.print(f"\nreport: {page}", highlight=False, markup=False)


def _agreed(question: str) -> bool:
    """Whether the person at the terminal says yes; nobody is there to be asked where there is none."""
    if not sys.stdin.isatty():
        say("nothing is removed without a yes: add --yes")
        return False
    return says_yes(question)
