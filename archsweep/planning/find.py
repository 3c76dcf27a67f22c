"""From what the user typed to a Space: a shipped name or a file, another base, single fields set."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archsweep.config import NAME_PATTERN, ExperimentConfig
from archsweep.errors import ArchsweepError, SpaceError, nearest
from archsweep.planning.cost import amount
from archsweep.space import Space
from archsweep.vocabulary import Choice, values_of, with_values

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType

    from archsweep.vocabulary import Budget, Values

SHIPPED_PACKAGE = "search_spaces"
BASES_MODULE = "bases"


@dataclass(frozen=True)
class SpaceFile:
    """A search space that was found: its file's stem, the first line of the file's docstring, and what it states."""

    name: str
    question: str
    space: Space


def shipped() -> dict[str, str]:
    """The shipped names with their questions, read without importing them."""
    files = sorted(path for path in _shipped_folder().glob("*.py") if path.stem not in ("__init__", BASES_MODULE))
    return {path.stem: _first_line(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))) for path in files}


def find(name_or_path: str) -> SpaceFile:
    """The search space of a shipped name or of a .py file. Raises SpaceError."""
    path = Path(name_or_path)
    if path.suffix == ".py":
        if not path.is_file():
            raise SpaceError(f"{name_or_path} must be an existing file, there is none in {path.parent.resolve()}.")
        return _load(path.resolve())
    if not re.fullmatch(r"[\w-]+", name_or_path):
        names = ", ".join(shipped())
        raise SpaceError(f"A search space must be a shipped name ({names}) or the path of an existing .py file, got {name_or_path!r}.")
    if name_or_path not in shipped():
        way_out = nearest(name_or_path, shipped())
        raise SpaceError(f"{name_or_path} is not a shipped search space: {way_out} A file of your own is given by its path, ending in .py.")
    return _load(_shipped_folder() / f"{name_or_path}.py")


def bases() -> dict[str, ExperimentConfig]:
    """The shipped bases by name."""
    found: dict[str, ExperimentConfig] = importlib.import_module(f"{SHIPPED_PACKAGE}.{BASES_MODULE}").BASES
    return found


def base(name: str) -> ExperimentConfig:
    """The shipped base of this name. Raises SpaceError."""
    if name not in bases():
        raise SpaceError(f"{name} is not a base: {nearest(name, bases())}")
    return bases()[name]


def rebase(space: Space, base: ExperimentConfig) -> Space:
    """The same question asked of another base, with the budget and the learning rates that suit it.

    A budget becomes the base's own count, and rates are scaled with the base's own, both rounded to two significant figures. Seconds stay.
    """
    budgets = tuple(_rebudget(budget, base) for budget in space.budgets)
    budget = budgets if len(budgets) > 1 else next(iter(budgets), None)
    ratio = base.learning_rate / space.base.learning_rate
    compare, tune = (_rates_scaled(choices, ratio) for choices in (space.compare, space.tune))
    reference = _reference_scaled(space.reference, ratio)
    return replace(space, base=base, budget=budget, compare=compare, tune=tune, reference=reference)


def _rebudget(budget: Budget, base: ExperimentConfig) -> Budget:
    counted = amount(base, budget.kind)
    return budget if counted is None else replace(budget, target=int(_two_figures(counted)))


def override(space: Space, settings: Mapping[str, str]) -> Space:
    """The space with fields of its base, or `repeat`, set; each value is JSON, or text where it is none. Raises SpaceError, ConfigError."""
    if faults := list(_faults_of_settings(space, settings)):
        title = f"{len(faults)} fault{'s' if len(faults) > 1 else ''} in what is set"
        raise SpaceError(title + "\n" + "\n".join(f"  - {fault}" for fault in faults))
    fields = {name: text for name, text in settings.items() if name != "repeat"}
    repeat = _parsed("repeat", settings["repeat"]) if "repeat" in settings else space.repeat
    return replace(space, base=with_settings(space.base, fields), repeat=repeat)


def with_settings(config: ExperimentConfig, settings: Mapping[str, str]) -> ExperimentConfig:
    """The config with fields set; each value is JSON, or text where it is none. Raises ConfigError."""
    return config.copy(**{name: _parsed(name, text) for name, text in settings.items()})


def _faults_of_settings(space: Space, settings: Mapping[str, str]) -> Iterator[str]:
    for name, text in settings.items():
        if name == "experiment_name":
            yield "experiment_name is the sweep's name and cannot be set as a field."
        elif name not in (*ExperimentConfig.model_fields, "repeat"):
            yield f"{name} is not a field of ExperimentConfig: {nearest(name, [*ExperimentConfig.model_fields, 'repeat'])}"
        elif name in space.compare or name in space.tune:
            role = "compared" if name in space.compare else "tuned"
            yield f"{name} is {role} by this search space; setting it to {text} would change nothing. Write a space of your own."
        elif {"head_dim": "hidden_size"}.get(name, name) in {"hidden_size", "max_tokens"} & set(space.solved):
            yield f"{name} follows from the budget; setting it to {text} would change nothing. Write a space of your own."


def _parsed(name: str, text: str) -> Any:
    field = ExperimentConfig.model_fields.get(name)
    if field is not None and field.annotation is str:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _rates_scaled(compared: Mapping[str, Any], ratio: float) -> dict[str, Any]:
    if ratio == 1 or "learning_rate" not in compared:
        return dict(compared)
    values = values_of(compared["learning_rate"])
    if isinstance(values, Choice):
        rates = (rate for rate in values.values if isinstance(rate, (int, float)))
        scaled: Values = Choice(*(_two_figures(rate * ratio) for rate in rates))
    else:
        ends: dict[str, Any] = {"low": _two_figures(values.low * ratio), "high": _two_figures(values.high * ratio)}
        scaled = replace(values, **ends)
    return {**compared, "learning_rate": with_values(compared["learning_rate"], scaled)}


def _reference_scaled(reference: Mapping[str, Any] | None, ratio: float) -> Mapping[str, Any] | None:
    if reference is None or ratio == 1 or "learning_rate" not in reference:
        return reference
    return {**reference, "learning_rate": _two_figures(reference["learning_rate"] * ratio)}


def _two_figures(number: float) -> float:
    return round(number, 1 - floor(log10(number)))


def _shipped_folder() -> Path:
    """The folder of the shipped spaces, in a checkout and where the package is installed."""
    package = importlib.util.find_spec(SHIPPED_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise SpaceError(f"The package {SHIPPED_PACKAGE} must be importable, it is not on Python's path. Install archsweep again.")
    return Path(package.submodule_search_locations[0])


def _load(path: Path) -> SpaceFile:
    if not re.fullmatch(NAME_PATTERN, path.stem):
        raise SpaceError(f"{path.name}: a file's name names the results folder, so it must match {NAME_PATTERN}. Rename the file.")
    module = _executed(path)
    space = getattr(module, "space", None)
    if not isinstance(space, Space):
        got = "there is none" if space is None else f"it is a {type(space).__name__}"
        raise SpaceError(f"{path} must define `space = Space(...)`, {got}.")
    return SpaceFile(path.stem, _first_line(module.__doc__) or path.stem, space)


def _executed(path: Path) -> ModuleType:
    """The file's module. Raises SpaceError with the line that failed."""
    spec = importlib.util.spec_from_file_location(f"_space_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        with _siblings_importable(path.parent):
            spec.loader.exec_module(module)
    except Exception as error:
        kind = "" if isinstance(error, ArchsweepError) else f"{type(error).__name__}: "
        raise SpaceError(f"{path}, line {_line(error, path)}: {kind}{error}") from error
    return module


@contextmanager
def _siblings_importable(folder: Path) -> Iterator[None]:
    """Let a file import its neighbours, as if it were run, and forget them again: another folder may have some of the same names."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            origin = getattr(sys.modules[name], "__file__", None)
            if origin and Path(origin).parent == folder:
                del sys.modules[name]


def _line(error: BaseException, path: Path) -> int | str:
    """The line of the file that was executed when the error came."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or "?"
    lines = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return lines[-1] if lines else "?"


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().split("\n", 1)[0]
