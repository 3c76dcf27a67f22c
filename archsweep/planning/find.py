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
from typing import TYPE_CHECKING, Any, NamedTuple

from archsweep.config import BUDGET, NAME_PATTERN, OVERRIDE, ExperimentConfig, bare_name
from archsweep.errors import ArchsweepError, SpaceError, nearest
from archsweep.planning.cost import amount
from archsweep.space import Space
from archsweep.vocabulary import Choice, IntRange, Values, values_of, with_values

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType

    from archsweep.vocabulary import Budget

SHIPPED_PACKAGE = "search_spaces"
BASES_MODULE = "bases"
SCALED = ("hidden_size", "ffn_size", "context_length", "vocab_size", "max_tokens")  # compared values that grow with their base's own


@dataclass(frozen=True)
class SpaceFile:
    """A search space that was found: its file's stem, the first line of the file's docstring, and what it states."""

    name: str
    question: str
    space: Space


def shipped() -> dict[str, str]:
    """The shipped names with their questions, read without importing them: of the modules that state a space."""
    trees = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(_shipped_folder().glob("*.py"))}
    return {name: _first_line(ast.get_docstring(tree)) for name, tree in trees.items() if _states_a_space(tree)}


def _states_a_space(tree: ast.Module) -> bool:
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    return any(isinstance(target, ast.Name) and target.id == "space" for target in targets)


def find(name_or_path: str) -> SpaceFile:
    """The search space of a shipped name or of a .py file; `:NAME` behind it is another of its spaces. Raises SpaceError."""
    whole, colon, other = name_or_path.rpartition(":")
    if colon and other.isidentifier():
        name_or_path, attribute = whole, other
    else:
        attribute = "space"
    path = Path(name_or_path)
    if path.suffix == ".py":
        if not path.is_file():
            raise SpaceError(f"{name_or_path} must be an existing file, there is none in {path.parent.resolve()}.")
        return _load(path.resolve(), attribute)
    if not re.fullmatch(r"[\w-]+", name_or_path):
        names = ", ".join(shipped())
        raise SpaceError(f"A search space must be a shipped name ({names}) or the path of an existing .py file, got {name_or_path!r}.")
    if name_or_path not in shipped():
        way_out = nearest(name_or_path, shipped())
        raise SpaceError(f"{name_or_path} is not a shipped search space: {way_out} A file of your own is given by its path, ending in .py.")
    return _load(_shipped_folder() / f"{name_or_path}.py", attribute)


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

    A budget becomes the base's own count, and rates, sizes and compared budgets are scaled with the base's own, all rounded to two
    significant figures, sizes to whole parts of the base's own. Seconds, layers and heads stay.
    """
    own = _own_settings(space.base, base)
    base = base.copy(**own | ({"tokenizer": "bpe"} if "vocab_size" in space.compare else {}))  # whose size is what is compared
    budgets = tuple(_rebudget(budget, base) for budget in space.budgets)
    budget = budgets if len(budgets) > 1 else next(iter(budgets), None)
    scale = _Scale(space.base, base)
    compare, tune = ({name: scale.values(name, choice) for name, choice in role.items()} for role in (space.compare, space.tune))
    reference = space.reference and {name: scale.value(name, value) for name, value in space.reference.items()}
    return replace(space, base=base, budget=budget, compare=compare, tune=tune, reference=reference)


def _own_settings(asked: ExperimentConfig, base: ExperimentConfig) -> dict[str, Any]:
    """What a question sets beyond the shipped base that it is written with: its family, metrics, a size of its own."""
    written_with = next((each for each in bases().values() if each.experiment_name == asked.experiment_name), asked)
    scale = _Scale(written_with, base)
    also_there = {name: getattr(written_with, name) for name in written_with.model_fields_set}
    own = {name: getattr(asked, name) for name in asked.model_fields_set if getattr(asked, name) != also_there.get(name)}
    overrides = own.pop("model_overrides", {}).items()
    own |= {OVERRIDE + name: value for name, value in overrides if value != written_with.model_overrides.get(name)}
    if "eval_tokens" in own:  # longer windows need no fewer of them
        own["eval_tokens"] = max(own["eval_tokens"], base.eval_tokens)
    return {name: scale.value(name, value) for name, value in own.items()}


class _Scale(NamedTuple):
    """From values that suit one base to those that suit another."""

    old: ExperimentConfig
    new: ExperimentConfig

    def values(self, name: str, compared: Any) -> Any:
        """The values, range or condition of a compared or tuned field."""
        values = values_of(compared)
        if not self._changes(name):
            return compared
        if isinstance(values, Choice):
            scaled: Values = Choice(*(self.value(name, value) for value in values.values))
        else:
            ends: dict[str, Any] = {end: self.value(name, getattr(values, end)) for end in ("low", "high")}
            steps = {"step": self.value(name, values.step)} if isinstance(values, IntRange) else {}
            scaled = replace(values, **ends, **steps)
        return with_values(compared, scaled)

    def value(self, name: str, value: Any) -> Any:
        if not self._changes(name) or isinstance(value, bool) or not isinstance(value, (int, float)):
            return value
        if name in SCALED:  # whole parts of the base's own size stay whole parts
            return max(1, round(value * getattr(self.new, name) / getattr(self.old, name)))
        return _two_figures(value * self._ratio(name))

    def _changes(self, name: str) -> bool:
        return (name in (*SCALED, "learning_rate") or name.startswith(BUDGET)) and self._ratio(name) != 1

    def _ratio(self, name: str) -> float:
        """By how much the new base's own is larger."""
        if name.startswith(BUDGET):
            kind: Any = bare_name(name)
            old, new = amount(self.old, kind), amount(self.new, kind)
            return (new or 1) / (old or 1)
        old_value, new_value = (getattr(config, name) for config in self)
        return float(new_value / old_value) if old_value and new_value else 1.0


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
        elif name not in (*ExperimentConfig.model_fields, "repeat") and not name.startswith(OVERRIDE):
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


def _two_figures(number: float) -> float:
    return round(number, 1 - floor(log10(number)))


def _shipped_folder() -> Path:
    """The folder of the shipped spaces, in a checkout and where the package is installed."""
    package = importlib.util.find_spec(SHIPPED_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise SpaceError(f"The package {SHIPPED_PACKAGE} must be importable, it is not on Python's path. Install archsweep again.")
    return Path(package.submodule_search_locations[0])


def _load(path: Path, attribute: str) -> SpaceFile:
    if not re.fullmatch(NAME_PATTERN, path.stem):
        raise SpaceError(f"{path.name}: a file's name names the results folder, so it must match {NAME_PATTERN}. Rename the file.")
    module = _executed(path)
    space = getattr(module, attribute, None)
    if not isinstance(space, Space):
        got = "there is none" if space is None else f"it is a {type(space).__name__}"
        raise SpaceError(f"{path} must define `{attribute} = Space(...)`, {got}.")
    name = path.stem if attribute == "space" else f"{path.stem}-{attribute}"
    return SpaceFile(name, _first_line(module.__doc__) or path.stem, space)


def _executed(path: Path) -> ModuleType:
    """The file's module. Raises SpaceError with the line that failed."""
    spec = importlib.util.spec_from_file_location(f"_space_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        with _siblings_importable(path.parent):  # which forgets the file too
            sys.modules[spec.name] = module  # where a dataclass looks for what its annotations name
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
