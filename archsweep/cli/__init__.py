"""The command line: `python -m archsweep heads_vs_layers` plans, runs, collects and reports."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from cyclopts import App, CycloptsError

from archsweep.cli import cluster, sweeps, writing
from archsweep.cli.asking import say
from archsweep.cli.options import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from archsweep.errors import ArchsweepError
from archsweep.imports import end_quickly

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

app = App(
    name="archsweep",
    help="Architecture questions about GPT-2, answered with evidence.",
    help_format="plaintext",
    version_flags=[],
)
app.default(sweeps.sweep)
for command in (
    sweeps.plan, sweeps.report, sweeps.compare, sweeps.export, sweeps.columns, sweeps.train, sweeps.status, sweeps.logs, sweeps.stop,
    cluster.submit, cluster.jobs, cluster.fetch, sweeps.clean, sweeps.doctor, sweeps.spaces,
    writing.new,
):  # fmt: skip
    app.command(command)


def main(words: Sequence[str] | None = None) -> None:
    """Run `words` (default: the command line) and exit: 0 ok, 1 some trial failed, 2 usage, 3 environment, 130 interrupted."""
    end_quickly()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill ends a sweep like Ctrl-C
    sys.exit(_guarded(lambda: app(words, exit_on_error=False, print_error=False, result_action="return_value")))


def _guarded(command: Callable[[], object]) -> int:
    try:
        result = command()
    except ArchsweepError as error:
        say(f"archsweep: {error}", sys.stderr)
        return error.exit_code
    except CycloptsError as error:
        say(f"archsweep: {error}\nSee python -m archsweep --help.", sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        say("Interrupted.", sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read us, as `head` does, has seen enough; Python would say so once more when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    return result if isinstance(result, int) else 0
