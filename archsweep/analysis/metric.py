"""What is compared, by its own name: texts and figures are written of a validation loss, and say what another metric is called instead."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from archsweep.analysis.source import Source

LOSS, UNIT = "validation loss", "nats/token"  # as Source.metric and Source.unit say it by default


def named(text: str, source: Source) -> str:
    """The text with the metric and unit of `source` where it says validation loss and nats/token; a text that is named stays as it is."""
    if (source.metric, source.unit) == (LOSS, UNIT):
        return text
    after = f" {source.unit}" if source.unit else ""
    bracketed = f" ({source.unit})" if source.unit else ""
    text = text.replace(f" ({UNIT})", bracketed).replace(f" {UNIT}", after)
    own = {source.metric, source.metric.removeprefix("negative ")} - _LOSSES  # which may have our words in them
    longest_first = "|".join(map(re.escape, sorted(own | _LOSSES, key=len, reverse=True)))
    return re.sub(rf"(?<!\w)({longest_first})(?!\w)", lambda found: found[0] if found[0] in own else source.metric, text)


_LOSSES = {LOSS, "val_loss", "val loss"}  # as our texts say it


def renamed(data: object, source: Source) -> object:
    """Lists and dicts, with every text in them as named() has it."""
    if isinstance(data, str):
        return named(data, source)
    if isinstance(data, dict):
        return {key: renamed(value, source) for key, value in data.items()}
    return [renamed(value, source) for value in data] if isinstance(data, (list, tuple)) else data


def rename_axes(figure: Figure, source: Source) -> None:
    """Let the axes of a figure say the metric's name and unit."""
    for axes in figure.axes:
        axes.set_xlabel(named(axes.get_xlabel(), source))
        axes.set_ylabel(named(axes.get_ylabel(), source))
