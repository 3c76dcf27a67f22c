"""The command that writes: a search space to begin with."""

from __future__ import annotations

import re
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from archsweep.cli.asking import say
from archsweep.config import NAME_PATTERN
from archsweep.errors import MachineError, SpaceError

TEMPLATE = Path(__file__).with_name("new_space.py.txt")


def new(name: Annotated[str, Parameter(help="of the question: its file is NAME.py, its results are in results/NAME")]) -> int:
    """Write a search space of your own into the current folder, commented, that runs as it is."""
    stem = name.removesuffix(".py")
    _refuse_bad_name(stem, name)
    path, text = Path(f"{stem}.py"), TEMPLATE.read_text(encoding="utf-8")
    try:
        with path.open("x", encoding="utf-8") as file:  # never over a file that is there
            file.write(text)
    except FileExistsError:
        raise SpaceError(f"{path} must not exist yet, so that nothing in it is lost. Give another name, or move the file.") from None
    except OSError as error:
        raise MachineError(f"{Path.cwd()} must be writable: {error}. Go to a folder of your own.") from error
    say(f"{path} is a search space that runs as it is. Write your question into it. Then:")
    say(f"python -m archsweep {path} --smoke  # in under a minute: does it run?")
    say(f"python -m archsweep {path}  # the answer")
    return 0


def _refuse_bad_name(stem: str, given: str) -> None:
    """Raise SpaceError for a name that can name no folder of results, has a shipped question's, or hides a module from Python."""
    if not re.fullmatch(NAME_PATTERN, stem):
        raise SpaceError(
            f"a question's name must be 1 to 64 letters, digits, '.', '_' or '-', and begin with a letter or digit, got {given!r}. "
            "It names a file here and a folder in the results."
        )
    from archsweep.planning import find

    if stem in find.shipped():
        raise SpaceError(f"{stem} is a shipped question, which keeps its results in that folder. Give another name, as my_{stem}.")
    if _is_module(stem):
        raise SpaceError(f"{stem} is a Python module, which {stem}.py would hide from every command here. Give another name, as my_{stem}.")


def _is_module(stem: str) -> bool:
    """Whether Python knows a module of this name elsewhere than in the current folder, where it looks first; nothing is imported."""
    here = Path.cwd()
    elsewhere = [entry for entry in sys.path if entry and Path(entry).resolve() != here]
    found = None if "." in stem else PathFinder.find_spec(stem, elsewhere)
    return stem in sys.stdlib_module_names or (found is not None and found.origin is not None)  # without an origin: any folder
