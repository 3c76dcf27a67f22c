"""A user's own functions, named "package.module:function" in a config."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from archsweep.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from archsweep.config import ExperimentConfig


def load(name: str) -> Callable[..., Any]:
    """The function that `name` names. Raises ConfigError where the module, or the function in it, is not there, or the module raises."""
    module_name, _, function_name = name.partition(":")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"{name}: its module must be importable, and is not: {error}. Start in the folder that holds it, or add that to PYTHONPATH."
        ) from error
    except Exception as error:  # the module is the user's
        raise ConfigError(
            f"{name}: its module must be importable, and raises {type(error).__name__}: {error}. "
            f"Mend it; python -c 'import {module_name}' says where."
        ) from error
    found = getattr(module, function_name, None)
    if not callable(found):
        functions = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        raise ConfigError(f"{name}: {module_name} has no function {function_name}: {nearest(function_name, functions)}")
    function: Callable[..., Any] = found
    return function


class Counts(NamedTuple):
    """The weights of a model by their use, tied ones once."""

    total: int
    non_embedding: int  # neither embeddings nor head
    matrices: int  # in matrix products, the head's among them


def count(config: ExperimentConfig) -> Counts:
    """The weights of the config's own family, built without memory on torch's meta device."""
    import torch
    from torch.overrides import TorchFunctionMode

    class Unfilled(TorchFunctionMode):
        """Random numbers are left out: there is nothing to fill on the meta device, and PyTorch takes 10 ms for each try."""

        def __torch_function__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
            named = named or {}
            if getattr(function, "__name__", "") in {"normal_", "uniform_", "trunc_normal_", "random_", "bernoulli_", "exponential_"}:
                return given[0] if given else named["tensor"]
            return function(*given, **named)

    with torch.device("meta"), Unfilled():
        return count_weights(load(config.family)(config), config.vocab_size)


def count_weights(model: nn.Module, vocab_size: int) -> Counts:
    """The weights of any module: embeddings are its `nn.Embedding`s; its head is the `nn.Linear` with `vocab_size` outputs that is tied to
    one of them, or else the last one. A feed-forward of that width is none."""
    from torch import nn

    weights = {id(weight): weight.numel() for weight in model.parameters()}
    matrices = {id(weight) for weight in model.parameters() if weight.ndim >= 2}
    embeddings = {id(weight) for module in model.modules() if isinstance(module, nn.Embedding) for weight in module.parameters()}
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    wide = [module for module in linears if module.out_features == vocab_size]
    heads = [module for module in wide if id(module.weight) in embeddings] or wide[-1:]
    outside = embeddings | {id(weight) for head in heads for weight in head.parameters()}
    products = (matrices - embeddings) | {id(head.weight) for head in heads}
    return Counts(
        total=sum(weights.values()),
        non_embedding=sum(size for name, size in weights.items() if name not in outside),
        matrices=sum(weights[name] for name in products),
    )


def user_metrics(config: ExperimentConfig) -> dict[str, Callable[..., Any]]:
    """The config's own metrics, by the functions' names. Raises ConfigError for two of one name."""
    names = [name.partition(":")[2] for name in config.metrics]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"metrics must have different function names, got {', '.join(sorted(twice))} twice. Rename one of the functions.")
    return {name: load(path) for name, path in zip(names, config.metrics, strict=True)}
