"""The command line: `python -m archsweep heads_vs_layers` plans, runs, collects and reports."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

from cyclopts import App, CycloptsError, Parameter

from archsweep.errors import ArchsweepError, SpaceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from archsweep.pipeline import Ledger, Machine, Question
    from archsweep.planning.plan import Plan

# Each command imports what it needs when it runs, so that --help answers at once.

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

app = App(
    name="archsweep",
    help="Architecture questions about GPT-2, answered with evidence.",
    help_format="plaintext",
    version_flags=[],
)

SpaceName = Annotated[str, Parameter(help="a shipped search space (see `archsweep spaces`), or the path of your own .py file")]
SweepName = Annotated[str | None, Parameter(help="name of the results folder; the search space's by default")]
Results = Annotated[Path, Parameter(help="where sweeps are kept")]
Settings = Annotated[
    list[str] | None,
    Parameter(name="--set", negative="", consume_multiple=False, help="a field of the base as FIELD=VALUE; may be repeated"),
]
Base = Annotated[Literal["tiny", "small", "gpt2"] | None, Parameter(help="ask the same question of another base; the budget follows")]
Cache = Annotated[Path | None, Parameter(env_var="ARCHSWEEP_CACHE", help="where tokenized corpora are kept [default: ~/.cache/archsweep]")]
Smoke = Annotated[bool, Parameter(negative="", help="the same path, small: see in under a minute that it works")]


@app.default
def sweep(
    space: SpaceName | None = None,
    *,
    name: SweepName = None,
    results: Results = Path("results"),
    base: Base = None,
    settings: Settings = None,
    smoke: Smoke = False,
    dry_run: Annotated[bool, Parameter(negative="", help="print the plan and stop")] = False,
    num_cpus: Annotated[int | None, Parameter(help="processors to use; each trial takes one")] = None,
    num_gpus: Annotated[int | None, Parameter(help="GPUs to use; trials share them")] = None,
    address: Annotated[str | None, Parameter(help="a running Ray cluster, as HOST:PORT or auto")] = None,
    serial: Annotated[bool, Parameter(negative="", help="train in this process, without Ray")] = False,
    extend: Annotated[bool, Parameter(negative="", help="add to the sweep's folder what this plan asks for beyond it")] = False,
    retry_failed: Annotated[bool, Parameter(help="train again what failed")] = True,
    fresh: Annotated[bool, Parameter(negative="", help="train also what another sweep of the same results has finished")] = False,
    cache: Cache = None,
) -> int:
    """Answer a search space's question: plan, run, collect, report. The same command again goes on where it stopped."""
    from archsweep import pipeline
    from archsweep.planning import find

    if space is None:
        names = ", ".join(find.shipped())
        raise SpaceError(f"name a search space: {names}, or the path of your own .py file. See python -m archsweep --help.")
    console = _console()
    planned = pipeline.plan(_question(space, name, base, settings, smoke))
    _print_plan(planned, console)
    if dry_run:
        return 0
    machine = pipeline.Machine(num_cpus, num_gpus, address, serial, cache)
    return _run(planned, pipeline.sweep_folder(results, planned.name), machine, console, pipeline.Ledger(extend, retry_failed, fresh))


@app.command
def plan(space: SpaceName, *, name: SweepName = None, base: Base = None, settings: Settings = None, smoke: Smoke = False) -> int:
    """Print every trial that a sweep would run, with its cost; train nothing."""
    from archsweep import pipeline

    _print_plan(pipeline.plan(_question(space, name, base, settings, smoke)), _console())
    return 0


@app.command
def report(sweep: Annotated[str, Parameter(help="the sweep's name, or its folder")], *, results: Results = Path("results")) -> int:
    """Write a sweep's report from its records, whether it has ended or not."""
    from archsweep import pipeline

    folder = _sweep_at(sweep, results)
    pipeline.collect(folder)
    _print_answer(folder, _console())
    return 0


@app.command
def export(
    sweep: Annotated[str, Parameter(help="the sweep's name, or its folder")],
    variant: Annotated[str, Parameter(help="the variant as the report names it, in quotes: 'num_layers=2 num_heads=4'")],
    *,
    to: Annotated[Path | None, Parameter(help="the new folder [default: ./SWEEP-VARIANT]")] = None,
    results: Results = Path("results"),
) -> int:
    """Write a variant's best model as a Hugging Face folder: config, safetensors, tokenizer."""
    from archsweep import pipeline

    folder = _sweep_at(sweep, results)
    _say(f"model: {pipeline.export(folder, variant, to or Path('-'.join([folder.name, *variant.split()])))}")
    return 0


@app.command
def train(
    config: Annotated[Path, Parameter(help="an ExperimentConfig in JSON")],
    *,
    settings: Settings = None,
    results: Results = Path("results"),
    cache: Cache = None,
) -> int:
    """Train one config in this process, as a sweep of one trial: the same command again goes on where it stopped."""
    from archsweep import pipeline
    from archsweep.config import ExperimentConfig
    from archsweep.planning import find

    experiment = find.with_settings(ExperimentConfig.load(config), _parse(settings))
    options = [word for setting in settings or [] for word in ("--set", setting)]
    planned = pipeline.plan_one(experiment, cache, shlex.join(["python", "-m", "archsweep", "train", str(config), *options]))
    folder = pipeline.sweep_folder(results, planned.name)
    return _run(planned, folder, pipeline.Machine(serial=True, cache_dir=cache), _console())


@app.command
def spaces() -> int:
    """List the shipped search spaces and their questions."""
    from archsweep.planning import find

    shipped = find.shipped()
    width = max(map(len, shipped))
    for name, question in shipped.items():
        _say(f"{name:<{width}}  {question}")
    return 0


def _run(planned: Plan, folder: Path, machine: Machine, console: Console, ledger: Ledger | None = None) -> int:
    """Run, collect, report; what the command ends with."""
    from archsweep import pipeline

    try:
        pipeline.run(planned, folder, machine, console, ledger)
        rows, _ = pipeline.collect(folder)
        _print_answer(folder, console)
    except KeyboardInterrupt:
        if pipeline.is_sweep(folder):
            pipeline.collect(folder)
        _say(f"Interrupted. What was recorded is in {folder}; the same command goes on from there.", sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_FAILED if (rows["status"] == "failed").any() else 0


def _sweep_at(sweep: str, results: Path) -> Path:
    from archsweep import pipeline

    return Path(sweep).resolve() if Path(sweep).is_dir() else pipeline.sweep_folder(results, sweep)


def _question(space: str, name: str | None, base: str | None, settings: list[str] | None, smoke: bool) -> Question:
    from archsweep.pipeline import Question

    return Question(space=space, name=name, base=base, settings=_parse(settings), smoke=smoke)


def _parse(settings: list[str] | None) -> dict[str, str]:
    pairs = [setting.partition("=") for setting in settings or []]
    if bad := [field for field, equals, _ in pairs if not equals]:
        raise SpaceError(f"--set takes FIELD=VALUE, got {bad[0]!r}. For example: --set max_tokens=500000.")
    return {field.strip(): value.strip() for field, _, value in pairs}


def _print_plan(planned: Plan, console: Console) -> None:
    from archsweep.planning.table import table

    shown = table(planned)
    widest = console.measure(shown, options=console.options.update(max_width=1000, width=1000)).maximum
    console.print(planned.question, highlight=False, markup=False)
    _console(width=max(console.width, widest)).print(shown)  # a narrow terminal wraps lines rather than losing digits
    for refusal in planned.refused:
        console.print(f"refused {refusal.variant}: {refusal.reason}", highlight=False, markup=False)


def _print_answer(folder: Path, console: Console) -> None:
    from archsweep import pipeline

    comparison, page = pipeline.report(folder)
    console.print(str(comparison), highlight=False, markup=False)
    console.print(f"\nreport: {page}", highlight=False, markup=False)


def _console(width: int | None = None) -> Console:
    from rich.console import Console

    return Console(soft_wrap=True, width=width)


def _say(line: str, file: TextIO | None = None) -> None:
    print(line, file=file, flush=True)


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
    return result if isinstance(result, int) else 0
