"""A user's own functions, named "package.module:function" in a config."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from archsweep.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from archsweep.config import ExperimentConfig


def load(name: str) -> Callable[..., Any]:
    """The function that `name` names. Raises ConfigError where the module, or the function in it, is not there."""
    module_name, _, function_name = name.partition(":")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"{name}: its module must be importable, and is not: {error}. Start in the folder that holds it, or add that to PYTHONPATH."
        ) from error
    found = getattr(module, function_name, None)
    if not callable(found):
        functions = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        raise ConfigError(f"{name}: {module_name} has no function {function_name}: {nearest(function_name, functions)}")
    function: Callable[..., Any] = found
    return function


def user_metrics(config: ExperimentConfig) -> dict[str, Callable[..., Any]]:
    """The config's own metrics, by the functions' names. Raises ConfigError for two of one name."""
    names = [name.partition(":")[2] for name in config.metrics]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"metrics must have different function names, got {', '.join(sorted(twice))} twice. Rename one of the functions.")
    return {name: load(path) for name, path in zip(names, config.metrics, strict=True)}
