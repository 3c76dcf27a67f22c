"""The command line: `python -m archsweep heads_vs_layers` plans, runs, collects and reports."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

from cyclopts import App, CycloptsError, Parameter

from archsweep.errors import ArchsweepError, MachineError, SpaceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from archsweep.analysis.compare import Comparison
    from archsweep.pipeline import Leavings, Ledger, Machine, Question
    from archsweep.planning.forecast import Forecast
    from archsweep.planning.plan import Plan
    from archsweep.submitting.head import Head
    from archsweep.submitting.jobs import Job

# Each command imports what it needs when it runs, so that --help answers at once.

EXIT_FAILED, EXIT_USAGE, EXIT_ENVIRONMENT, EXIT_INTERRUPTED = 1, 2, 3, 130
LAST_LINES = 5  # of a submitted sweep's log, in its status

app = App(
    name="archsweep",
    help="Architecture questions about GPT-2, answered with evidence.",
    help_format="plaintext",
    version_flags=[],
)

SpaceName = Annotated[str, Parameter(help="a shipped search space (see `archsweep spaces`), or the path of your own .py file")]
SweepName = Annotated[str | None, Parameter(help="name of the results folder; the search space's by default")]
Results = Annotated[str, Parameter(help="where sweeps are kept: a folder, or a store's URI as s3://BUCKET/PATH")]
Settings = Annotated[
    list[str] | None,
    Parameter(name="--set", negative="", consume_multiple=False, help="a field of the base as FIELD=VALUE; may be repeated"),
]
Base = Annotated[Literal["tiny", "small", "gpt2"] | None, Parameter(help="ask the same question of another base; the budget follows")]
Cache = Annotated[Path | None, Parameter(env_var="ARCHSWEEP_CACHE", help="where tokenized corpora are kept [default: ~/.cache/archsweep]")]
KeepModels = Annotated[
    Literal["best", "all", "none"], Parameter(help="of each finished trial: the best replica's model, every replica's, or no model")
]
Track = Annotated[
    list[Literal["wandb", "mlflow"]] | None,
    Parameter(negative="", consume_multiple=False, help="tell it too, beside TensorBoard's files; may be repeated"),
]
Sweep = Annotated[str, Parameter(help="the sweep's name, or its folder")]
Smoke = Annotated[bool, Parameter(negative="", help="the same path, small: see in under a minute that it works")]
Processors = Annotated[int | None, Parameter(help="processors to use; each trial takes one")]
Gpus = Annotated[int | None, Parameter(help="GPUs to use; trials share them")]
Address = Annotated[str | None, Parameter(help="a running Ray cluster, as HOST:PORT or auto")]
Dashboard = Annotated[str, Parameter(help="the cluster's dashboard, as http://127.0.0.1:8265 or https://HOST")]
SubmittedTo = Annotated[str | None, Parameter(help="of a submitted sweep: the cluster's dashboard, as http://127.0.0.1:8265")]
Insecure = Annotated[bool, Parameter(name="--insecure-no-auth", negative="", help="let in a cluster that answers without a token")]
Serial = Annotated[bool, Parameter(negative="", help="train in this process, without Ray")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="print the plan as JSON and nothing else")]
Price = Annotated[float | None, Parameter(help="of a GPU (without one: a processor) for an hour; the plan then tells what the sweep costs")]
Detect = Annotated[str | None, Parameter(help="a difference that matters, as 0.5% of the loss or 0.02 nats/token: are there seeds enough?")]
Measure = Annotated[bool, Parameter(negative="", help="train each shape for a few seconds first, so that the plan can tell the time")]
Yes = Annotated[bool, Parameter(name=["--yes", "-y"], negative="", help="do not ask before more than an hour, or more money than 10")]
Extend = Annotated[bool, Parameter(negative="", help="add to the sweep's folder what this plan asks for beyond it")]
RetryFailed = Annotated[bool, Parameter(help="train again what failed")]
Fresh = Annotated[bool, Parameter(negative="", help="train also what another sweep of the same results has finished")]
CheckpointSeconds = Annotated[float, Parameter(help="how often a trial saves itself")]
CHECKPOINT_SECONDS = 60.0


@app.default
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
    console = _console()
    machine = pipeline.Machine(num_cpus, num_gpus, address, serial, cache, checkpoint_seconds)
    root = pipeline.results_root(results)
    planned, forecast = _planned(_question(space, name, base, settings, smoke), machine, root, measure, price_per_gpu_hour, detect)
    _print_plan(planned, forecast, console, json)
    if dry_run:
        return 0
    if not (yes or agreed(forecast)):
        _say("Nothing was run.", sys.stderr)
        return EXIT_INTERRUPTED
    ledger = pipeline.Ledger(extend, retry_failed, fresh)
    leavings = pipeline.Leavings(keep_models, tuple(dict.fromkeys(track or ())))
    return _run(planned, pipeline.sweep_folder(root, planned.name), machine, console, ledger, leavings)


@app.command
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

    machine = pipeline.Machine(num_cpus, num_gpus, address, serial, cache)
    root = pipeline.results_root(results)
    planned, forecast = _planned(_question(space, name, base, settings, smoke), machine, root, measure, price_per_gpu_hour, detect)
    _print_plan(planned, forecast, _console(), json)
    return 0


@app.command
def report(sweep: Sweep, *, results: Results = "results") -> int:
    """Write a sweep's report from its records, whether it has ended or not."""
    from archsweep import pipeline
    from archsweep.records.remote import push

    folder = _sweep_at(sweep, results)
    pipeline.collect(folder)
    _print_comparison(*pipeline.report(folder), _console())
    push(folder)
    return 0


@app.command
def compare(
    *sweeps: Annotated[str, Parameter(help="the sweeps' names, or their folders: two or more")],
    output: Annotated[Path | None, Parameter(name=["--output", "-o"], help="the report's folder [default: summary in --results]")] = None,
    results: Results = "results",
) -> int:
    """Answer what several sweeps of one corpus, tokenizer and evaluation say together, whether they have ended or not."""
    from archsweep import pipeline
    from archsweep.records.remote import push

    if len(sweeps) < 2:
        raise SpaceError(f"compare joins two sweeps or more, got {len(sweeps)}. The report of one is python -m archsweep report SWEEP.")
    folder = output or pipeline.results_root(results) / "summary"
    _print_comparison(*pipeline.compare([_sweep_at(sweep, results) for sweep in sweeps], folder), _console())
    push(folder)
    return 0


@app.command
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
    """Write a variant's best model as a Hugging Face folder: config, safetensors, tokenizer. Or, with --format, one of the tables."""
    from archsweep import pipeline

    if (variant is None) == (form is None):
        raise SpaceError("export takes a variant, to write its model, or --format, to write a table: one of the two.")
    folder = _sweep_at(sweep, results, large=variant is not None)
    if variant is not None:
        _say(f"model: {pipeline.export(folder, variant, to or Path('-'.join([folder.name, *variant.split()])))}")
    elif form is not None:
        _say(f"table: {pipeline.export_table(folder, table, form, to)}")
    return 0


@app.command
def columns() -> int:
    """Print, as Markdown, what every column of a sweep's results and curves says; docs/columns.md is made by it."""
    from archsweep.records.describe import describe

    _say(describe(), end="")
    return 0


@app.command
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

    experiment = find.with_settings(ExperimentConfig.load(config), _parse(settings))
    options = [word for setting in settings or [] for word in ("--set", setting)]
    planned = pipeline.plan_one(experiment, cache, shlex.join(["python", "-m", "archsweep", "train", str(config), *options]))
    folder = pipeline.sweep_folder(pipeline.results_root(results), planned.name)
    return _run(planned, folder, pipeline.Machine(serial=True, cache_dir=cache), _console())


@app.command
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
    from archsweep.running import watch

    if address is not None:
        return _tell_jobs(_head(address, insecure), sweep, json)
    if sweep is None:
        for line in watch.list_sweeps(pipeline.results_root(results), json) or [f"no sweeps in {results}"]:
            _say(line)
        return 0
    found = watch.read_status(_sweep_at(sweep, results))
    if json:
        _say(found.model_dump_json(indent=2))
        return 0
    for line in watch.status_lines(found):
        _say(line)
    if found.trials:
        from archsweep.running.view import running_table

        _console().print(running_table(found.trials, ids=True))
    return 0


@app.command
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
        return _job_logs(_head(address, insecure), sweep, follow, trial)
    folder = _sweep_at(sweep, results)
    with mirror.pulled(folder, _say):
        for line in watch.log_lines(folder, follow, trial):
            _say(line)
    return 0


@app.command
def stop(sweep: Sweep, *, results: Results = "results", address: SubmittedTo = None, insecure: Insecure = False) -> int:
    """Ask a running sweep, on this machine or another, to save its trials and stop; wait until it has."""
    from archsweep.running import mirror, watch

    if address is not None:
        from archsweep.submitting import jobs

        head = _head(address, insecure)
        jobs.stop(head, jobs.find_job(head, sweep), _say)
        return 0
    folder = _sweep_at(sweep, results)
    with mirror.pulled(folder, _say):
        watch.stop(folder, _say)
    return 0


@app.command
def submit(
    space: SpaceName,
    *,
    address: Dashboard,
    name: SweepName = None,
    results: Annotated[str, Parameter(help="where sweeps are kept on the cluster: a path there, or a URI")] = "~/archsweep/results",
    base: Base = None,
    settings: Settings = None,
    smoke: Smoke = False,
    yes: Yes = False,
    keep_models: KeepModels = "best",
    track: Track = None,
    extend: Extend = False,
    retry_failed: RetryFailed = True,
    fresh: Fresh = False,
    checkpoint_seconds: CheckpointSeconds = CHECKPOINT_SECONDS,
    no_follow: Annotated[bool, Parameter(negative="", help="return when it is sent")] = False,
    insecure: Insecure = False,
    cache: Cache = None,
) -> int:
    """Send a sweep, with the current folder's code, to a Ray cluster and follow it there. The same command again goes on from there."""
    from archsweep import pipeline
    from archsweep.submitting import client, jobs, package
    from archsweep.submitting.door import parse_address

    parse_address(address)
    jobs.check_results(results)
    asked = _question(space, name, base, settings, smoke)
    machine = pipeline.Machine(address=address, cache_dir=cache, checkpoint_seconds=checkpoint_seconds)
    with tempfile.TemporaryDirectory(prefix="archsweep-submit-") as scratch:
        planned, forecast = _planned(asked, machine, Path(scratch), False, None, None)
        _print_plan(planned, forecast, _console(), False)
        head = _head(address, insecure)
        submission_id = jobs.new_id(head, planned.name)
        chosen = package.choose(Path.cwd())
        there = replace(asked, space=package.relative_space(space, Path.cwd(), chosen))
        ledger, leavings = pipeline.Ledger(extend, retry_failed, fresh), pipeline.Leavings(keep_models, tuple(dict.fromkeys(track or ())))
        words = [*shlex.split(there.command)[3:], *_options(ledger, leavings, checkpoint_seconds)]  # less "python -m archsweep"
        request = jobs.sweep_request(words, planned.name, results, head.token is None)
        size = package.write(chosen, Path(scratch) / "package.zip", head.token)
        _say(f"to send: {chosen}; {size:,} packed")
        if not (yes or agreed(forecast)):
            _say("Nothing was sent.", sys.stderr)
            return EXIT_INTERRUPTED
        client.submit(head, request, Path(scratch) / "package.zip", submission_id)
    _say(f"sent as {submission_id}: {request.entrypoint}")
    if no_follow:
        _say(jobs.how_to_go_on(head, planned.name))
        return 0
    return _followed(head, jobs.read_job(head, submission_id))


@app.command
def jobs(*, address: Dashboard, insecure: Insecure = False) -> int:
    """List the sweeps that were submitted to a cluster, a line each."""
    return _tell_jobs(_head(address, insecure), None, False)


@app.command
def fetch(
    sweep: Annotated[str, Parameter(help="the sweep's name")],
    *,
    address: Dashboard,
    to: Annotated[Path, Parameter(help="where sweeps are kept here")] = Path("results"),
    results: Annotated[str | None, Parameter(help="where they are kept there [default: where its last job put it]")] = None,
    models: Annotated[bool, Parameter(help="the kept models too")] = True,
    insecure: Insecure = False,
) -> int:
    """Bring a submitted sweep's folder home, whether it has ended or not: plan, records, results, report and models, no checkpoints."""
    from archsweep import pipeline
    from archsweep.running.lock import owner
    from archsweep.submitting import fetch, jobs

    folder = pipeline.sweep_folder(to, sweep)
    if driver := owner(folder):
        raise MachineError(f"{folder} is being run by {driver}, here. Wait for it, or bring the cluster's elsewhere with --to.")
    head = _head(address, insecure)
    fetch.fetch(head, sweep, results or jobs.find_job(head, sweep).results, folder, models, _say)
    _say(f"{folder}; its report: python -m archsweep report {shlex.quote(str(folder))}")
    return 0


@app.command
def clean(
    sweep: Sweep,
    *,
    models: Annotated[bool, Parameter(negative="", help="the kept models too")] = False,
    yes: Annotated[bool, Parameter(name=["--yes", "-y"], negative="", help="remove without asking")] = False,
    results: Results = "results",
) -> int:
    """Show what a sweep's folder can do without, and remove it after a yes. Records, results and plan stay."""
    from archsweep.records.remote import push
    from archsweep.running.clean import removable, remove

    folder = _sweep_at(sweep, results, large=True)
    with removable(folder, models) as found:
        for each in found:
            _say(f"{each.size / 1e6:10,.3f} MB  {each.what}  {each.path}")
        _say(f"{sum(each.size for each in found) / 1e6:10,.3f} MB in all")
        if found and (yes or _agreed("Remove them?")):
            remove(found)
            _say("removed")
    push(folder)
    return 0


@app.command
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
        _say(str(finding))
    return 0 if all(finding.ok for finding in findings) else EXIT_ENVIRONMENT


@app.command
def spaces() -> int:
    """List the shipped search spaces and their questions."""
    from archsweep.planning import find

    shipped = find.shipped()
    width = max(map(len, shipped))
    for name, question in shipped.items():
        _say(f"{name:<{width}}  {question}")
    return 0


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
        with mirror.pushed(folder, _say):
            try:
                pipeline.run(planned, folder, machine, console, ledger, leavings)
            except KeyboardInterrupt:
                if pipeline.is_sweep(folder):
                    pipeline.collect(folder)
                raise
            rows, _ = pipeline.collect(folder)
            _print_comparison(*pipeline.report(folder, again=False), console)
    except KeyboardInterrupt:
        _say(f"Interrupted. What was recorded is in {remote.uri_of(folder) or folder}; the same command goes on from there.", sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_FAILED if (rows["status"] == "failed").any() else 0


def _head(address: str, insecure: bool) -> Head:
    from archsweep.submitting.head import enter

    return enter(address, insecure)


def _options(ledger: Ledger, leavings: Leavings, checkpoint_seconds: float) -> list[str]:
    """What of a sweep's command is not its question, as words; what is as it would be anyway is left out."""
    words = [] if leavings.keep_models == "best" else ["--keep-models", leavings.keep_models]
    words += [word for each in leavings.track for word in ("--track", each)]
    flags = {"--extend": ledger.extend, "--no-retry-failed": not ledger.retry_failed, "--fresh": ledger.fresh}
    words += [flag for flag, on in flags.items() if on]
    return words + ([] if checkpoint_seconds == CHECKPOINT_SECONDS else ["--checkpoint-seconds", str(checkpoint_seconds)])


def _tell_jobs(head: Head, sweep: str | None, json: bool) -> int:
    """A line for each submitted sweep; of one, what it said last too."""
    from archsweep.submitting import jobs

    found = jobs.list_jobs(head) if sweep is None else [jobs.find_job(head, sweep)]
    for job in found:
        _say(job.model_dump_json() if json else job.line)
    if not found:
        _say(f"no sweep was submitted to {head.address.url}")
    if sweep is not None and not json:
        _say("\n".join(jobs.read_log(head, found[0].submission_id).splitlines()[-LAST_LINES:]))
    return 0


def _job_logs(head: Head, sweep: str, follow: bool, trial: str | None) -> int:
    from archsweep.submitting import jobs

    if trial is not None:
        raise SpaceError("--trial reads a sweep's folder here: fetch it first. What the job said is printed without it.")
    job = jobs.find_job(head, sweep)
    if follow:
        _followed(head, job)
    else:
        _say(jobs.read_log(head, job.submission_id), end="")
    return 0


def _followed(head: Head, job: Job) -> int:
    """Print what a job says until it is over; what it ended with. Ctrl-C leaves it to itself."""
    from archsweep.submitting import jobs
    from archsweep.submitting.follow import follow

    try:
        ended = follow(head, job.submission_id, lambda text: _say(text, end=""), lambda line: _say(line, sys.stderr))
    except KeyboardInterrupt:
        _say(f"\n{job.submission_id} goes on without this terminal. {jobs.how_to_go_on(head, job.sweep or '')}", sys.stderr)
        return EXIT_INTERRUPTED
    _say(f"{ended.line}")
    if ended.driver_exit_code is None and ended.message:
        _say(ended.message, sys.stderr)
    return ended.exit_code


def _sweep_at(sweep: str, results: str, *, large: bool = False) -> Path:
    """The sweep's folder, as its store has it where its results are in one; checkpoints and models only where `large`."""
    from archsweep import pipeline
    from archsweep.records.remote import pull

    if Path(sweep).is_dir():
        return Path(sweep).resolve()
    folder = pipeline.sweep_folder(pipeline.results_root(results), sweep)
    pull(folder, large)
    return folder


def _question(space: str, name: str | None, base: str | None, settings: list[str] | None, smoke: bool) -> Question:
    from archsweep.pipeline import Question

    return Question(space=space, name=name, base=base, settings=_parse(settings), smoke=smoke)


def _parse(settings: list[str] | None) -> dict[str, str]:
    pairs = [setting.partition("=") for setting in settings or []]
    if bad := [field for field, equals, _ in pairs if not equals]:
        raise SpaceError(f"--set takes FIELD=VALUE, got {bad[0]!r}. For example: --set max_tokens=500000.")
    return {field.strip(): value.strip() for field, _, value in pairs}


def _planned(
    question: Question, machine: Machine, results: Path, measure: bool, price: float | None, detect: str | None
) -> tuple[Plan, Forecast]:
    from archsweep import pipeline

    effect = None if detect is None else pipeline.Effect.parse(detect)
    if price is not None and not 0 <= price < float("inf"):
        raise SpaceError(f"--price-per-gpu-hour must be an amount of money, at least 0, got {price}.")

    def say(line: str) -> None:
        _say(line, sys.stderr)

    planned = pipeline.plan(question, machine, say)
    if measure:
        pipeline.measure(planned, machine, say)
    return planned, pipeline.forecast(planned, machine, results, price, effect)


def agreed(forecast: Forecast) -> bool:
    """Whether the person at the terminal wants a large sweep; nobody is asked about a small one, nor where there is no terminal."""
    from archsweep.planning.forecast import is_large
    from archsweep.planning.table import spending

    if not (is_large(forecast) and sys.stdin.isatty() and sys.stdout.isatty()):
        return True
    return input(f"This takes {spending(forecast)}. Go on? [y/N] ").strip().lower() in ("y", "yes")


def _print_plan(planned: Plan, forecast: Forecast, console: Console, json: bool) -> None:
    from archsweep.config import label
    from archsweep.planning.table import as_json, facts, table

    if json:
        _say(as_json(planned, forecast))
        return
    console.print(planned.question, highlight=False, markup=False)
    console.print(table(planned, forecast), soft_wrap=True)  # a narrow terminal wraps lines rather than losing digits
    for refusal in planned.refused:
        console.print(f"refused {label(refusal.variant)}: {refusal.reason}", highlight=False, markup=False)
    for fact in facts(planned, forecast):
        console.print(fact, highlight=False, markup=False)


def _print_comparison(comparison: Comparison, page: Path, console: Console) -> None:
    console.print(str(comparison), highlight=False, markup=False)
    console.print(f"\nreport: {page}", highlight=False, markup=False)


def _agreed(question: str) -> bool:
    """Whether the person at the terminal says yes; nobody is there to be asked where there is none."""
    if not sys.stdin.isatty():
        _say("nothing is removed without a yes: add --yes")
        return False
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _console() -> Console:
    from rich.console import Console

    return Console(soft_wrap=True)


def _say(line: str, file: TextIO | None = None, end: str = "\n") -> None:
    print(line, file=file, end=end, flush=True)


def main(words: Sequence[str] | None = None) -> None:
    """Run `words` (default: the command line) and exit: 0 ok, 1 some trial failed, 2 usage, 3 environment, 130 interrupted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill ends a sweep like Ctrl-C
    sys.exit(_guarded(lambda: app(words, exit_on_error=False, print_error=False, result_action="return_value")))


def _guarded(command: Callable[[], object]) -> int:
    try:
        result = command()
    except ArchsweepError as error:
        _say(f"archsweep: {error}", sys.stderr)
        return error.exit_code
    except CycloptsError as error:
        _say(f"archsweep: {error}\nSee python -m archsweep --help.", sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        _say("Interrupted.", sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read us, as `head` does, has seen enough; Python would say so once more when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    return result if isinstance(result, int) else 0
