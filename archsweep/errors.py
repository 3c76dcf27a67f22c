"""What can go wrong, by whose move it is. Every message names the rule, the value and the way out."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable


class ArchsweepError(Exception):
    """A mistake that the user can mend. `exit_code` is what the command line ends with."""

    exit_code: ClassVar[int] = 2


class ConfigError(ArchsweepError):
    """An ExperimentConfig that cannot be trained."""


class SpaceError(ArchsweepError):
    """A search space that does not state a question, or that holds a variant its budget cannot reach."""


class DataError(ArchsweepError):
    """A corpus that is missing, unreadable or too short."""


class RecordError(ArchsweepError):
    """A results folder without the records that were asked for."""


class MachineError(ArchsweepError):
    """The machine's move, not the configuration's: no permission, no hub, no Ray."""

    exit_code = 3


def nearest(name: str, valid: Iterable[str]) -> str:
    """The way out of a misspelt name: "did you mean …?", or the list where nothing is near."""
    options = sorted(valid)
    close = get_close_matches(name, options, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else f"choose from {', '.join(options)}."
