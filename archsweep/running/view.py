"""A run's Snapshot as people see it: three lines and a row per running trial."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from archsweep.running.snapshot import time_left

if TYPE_CHECKING:
    from rich.console import RenderableType

    from archsweep.running.snapshot import RunningTrial, Snapshot

BAR_WIDTH = 20
OTHER_LINES = 8  # the three lines, the table's head and frame, and what is not shown of it


def view(snapshot: Snapshot, height: int | None = None) -> RenderableType:
    """The snapshot in at most `height` lines, if it is given: rows that do not fit are counted."""
    fitting = len(snapshot.running) if height is None else max(1, height - OTHER_LINES)
    parts: list[RenderableType] = [_line(str(snapshot.counts)), _line(f"best so far {snapshot.best or 'unknown'}"), _pace(snapshot)]
    if snapshot.running:
        parts.append(running_table(snapshot.running[:fitting]))
    if more := snapshot.running[fitting:]:
        parts.append(_line(f"… and {len(more)} more running"))
    return Group(*parts)


def _pace(snapshot: Snapshot) -> Table:
    row = Table.grid(padding=(0, 1))
    for _ in range(2):
        row.add_column(no_wrap=True)
    words = [f"{snapshot.share_done:.0%}", _rate(snapshot.tokens_per_second), time_left(snapshot.seconds_left)]
    words.append(f"{timedelta(seconds=round(snapshot.elapsed_seconds))} so far")
    row.add_row(ProgressBar(total=1.0, completed=snapshot.share_done, width=BAR_WIDTH), _line(", ".join(filter(None, words))))
    return row


def running_table(running: tuple[RunningTrial, ...], ids: bool = False) -> Table:
    """A row for each, with its id where that is asked for."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("running")  # may be narrowed, before any number is
    if ids:
        table.add_column("trial", no_wrap=True)
    for name in ("step", "val_loss", "tokens/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for trial in running:
        loss = "" if trial.val_loss is None else f"{trial.val_loss:.4f}"
        names = (_line(trial.label), trial.id) if ids else (_line(trial.label),)
        table.add_row(*names, f"{trial.step:,.0f} of {trial.steps:,}", loss, _rate(trial.tokens_per_second, unit=""))
    return table


def _rate(tokens_per_second: float | None, unit: str = " tokens/s") -> str:
    return "" if tokens_per_second is None else f"{tokens_per_second:,.0f}{unit}"


def _line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")
