"""What commands that plan have in common: the question as it is asked, the plan as it is shown, and the yes to it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

from archsweep.errors import SpaceError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from archsweep.pipeline import Machine, Question
    from archsweep.planning.forecast import Forecast
    from archsweep.planning.plan import Plan


def question_of(space: str, name: str | None, base: str | None, settings: list[str] | None, smoke: bool) -> Question:
    """The question as the command line puts it. Raises SpaceError for a setting that is none."""
    from archsweep.pipeline import Question

    return Question(space=space, name=name, base=base, settings=parse_settings(settings), smoke=smoke)


def parse_settings(settings: list[str] | None) -> dict[str, str]:
    """Fields and values of --set. Raises SpaceError for what is not FIELD=VALUE."""
    pairs = [setting.partition("=") for setting in settings or []]
    if bad := [field for field, equals, _ in pairs if not equals]:
        raise SpaceError(f"--set takes FIELD=VALUE, got {bad[0]!r}. For example: --set max_tokens=500000.")
    return {field.strip(): value.strip() for field, _, value in pairs}


def planned_for(
    question: Question, machine: Machine, results: Path, measure: bool, price: float | None, detect: str | None
) -> tuple[Plan, Forecast]:
    """The plan and what it takes, with what planning has to say on stderr. Raises SpaceError for an effect or a price that is none."""
    from archsweep import pipeline
    from archsweep.running import mirror

    effect = None if detect is None else pipeline.Effect.parse(detect)
    if price is not None and not 0 <= price < float("inf"):
        raise SpaceError(f"--price-per-gpu-hour must be an amount of money, at least 0, got {price}.")

    def note(line: str) -> None:
        say(line, sys.stderr)

    planned = pipeline.plan(question, machine, note)
    if measure:
        pipeline.measure(planned, machine, note)
    mirror.refresh(pipeline.sweep_folder(results, planned.name))  # what a store has of it is not left to train
    return planned, pipeline.forecast(planned, machine, results, price, effect)


def check_checkpoint_seconds(seconds: float) -> None:
    """Raises SpaceError for a time between two checkpoints that is none, as NaN is."""
    if not seconds >= 0:
        raise SpaceError(f"--checkpoint-seconds must be a time of at least 0 seconds, got {seconds}. Leave it out for a minute.")


def agreed(forecast: Forecast) -> bool:
    """Whether the person at the terminal wants a large sweep; nobody is asked about a small one, nor where there is no terminal."""
    from archsweep.planning.forecast import is_large
    from archsweep.planning.table import spending

    if not (is_large(forecast) and sys.stdin.isatty() and sys.stdout.isatty()):
        return True
    return says_yes(f"This takes {spending(forecast)}. Go on?")


def says_yes(question: str) -> bool:
    """Whether the person at the terminal answers with a yes; Ctrl-D is none."""
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        say("")  # what is said next begins a line
        return False


def print_plan(planned: Plan, forecast: Forecast, console: Console, json: bool) -> None:
    """As a table with its facts, or as JSON and nothing else."""
    from archsweep.config import label
    from archsweep.planning.table import as_json, facts, table

    if json:
        say(as_json(planned, forecast))
        return
    console.print(planned.question, highlight=False, markup=False)
    console.print(table(planned, forecast), soft_wrap=True)  # a narrow terminal wraps lines rather than losing digits
    for refusal in planned.refused:
        console.print(f"refused {label(refusal.variant)}: {refusal.reason}", highlight=False, markup=False)
    for fact in facts(planned, forecast):
        console.print(fact, highlight=False, markup=False)


def terminal() -> Console:
    """Where tables go; lines stay whole."""
    from rich.console import Console

    return Console(soft_wrap=True)


def say(line: str, file: TextIO | None = None, end: str = "\n") -> None:
    """Print it at once."""
    print(line, file=file, end=end, flush=True)
