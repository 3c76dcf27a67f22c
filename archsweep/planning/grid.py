"""Variants: combinations of what a space compares (a grid has all of them), each as a config that the budget has yet to size."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict, JsonValue

from archsweep.config import BUDGET, OVERRIDE, ExperimentConfig
from archsweep.errors import ConfigError, SpaceError
from archsweep.vocabulary import ALPHABET, STEP_FIELDS, TEXT_FIELDS, Choice, When, values_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from archsweep.space import Space
    from archsweep.vocabulary import Value, Values


class Refusal(BaseModel):
    """A variant that will not be trained, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: dict[str, JsonValue]
    reason: str


class Variant(NamedTuple):
    """One combination of the compared values, and the config that has them."""

    values: dict[str, JsonValue]
    config: ExperimentConfig


def grid(space: Space) -> list[Variant | Refusal]:
    """Every variant in listed order; a Refusal stands where the values make no config. Raises SpaceError where `derive` is at fault."""
    return [variant_of(space, dict(row)) for row in _rows(space, {})]


def _rows(space: Space, values: dict[str, JsonValue]) -> Iterator[dict[str, JsonValue]]:
    """Every way to go on from the values of the first fields, the last field varying fastest."""
    if (name := _next_field(space, values)) is None:
        yield values
        return
    choice = values_of(space.compare[name])
    assert isinstance(choice, Choice)
    for value in choice.values:
        yield from _rows(space, {**values, name: plain(value)})


def _next_field(space: Space, values: dict[str, JsonValue]) -> str | None:
    """The field to choose after those that have a value: the next one listed whose condition holds."""
    last = next(reversed(values), None)
    names = list(space.compare)
    for name in names[names.index(last) + 1 if last else 0 :]:
        compared = space.compare[name]
        if not isinstance(compared, When) or compared.holds(values):
            return name
    return None


def chosen(space: Space, choose: Callable[[str, Values], JsonValue]) -> dict[str, JsonValue]:
    """One variant's values, each chosen in turn by `choose(name, values)`; fields whose condition does not hold are left out."""
    values: dict[str, JsonValue] = {}
    while (name := _next_field(space, values)) is not None:
        values[name] = choose(name, values_of(space.compare[name]))
    return values


def plain(value: Value) -> JsonValue:
    """The value as JSON gives it back, which has lists and no tuples."""
    return list(value) if isinstance(value, tuple) else value


def variant_of(space: Space, values: dict[str, JsonValue]) -> Variant | Refusal:
    """The variant that has these values, or why none can have them."""
    fields = {name: value for name, value in values.items() if not name.startswith(BUDGET)}
    try:
        changes = fields | ({"max_tokens": _room(space.base, values)} if "max_tokens" in space.solved else {})
        config = _sized_for_budget(space, changes) if space.size_budget else space.base.copy(**changes)
        if space.derive is not None:
            config = _derived(space, fields, config)
    except ConfigError as error:
        return Refusal(variant=values, reason=str(error))
    return Variant(values, config)


def _room(base: ExperimentConfig, values: dict[str, JsonValue]) -> int:
    """A max_tokens with which the variant can exist until the budget sets it: at least a step in each of its epochs."""
    stated = None if "batch_size" in values else values.get("batch_tokens", base.batch_tokens)
    names = STEP_FIELDS if stated is None else ("batch_tokens", "gradient_accumulation_steps")
    factors = (values.get(name, getattr(base, name)) for name in ("num_epochs", *names))
    tokens = prod(factor for factor in factors if isinstance(factor, int))
    return max(base.max_tokens or tokens, tokens)


def _sized_for_budget(space: Space, values: dict[str, JsonValue]) -> ExperimentConfig:
    """The variant in the proportions that the budget keeps; sizes that it will solve need not divide yet."""
    base, changes = space.base, dict(values)
    if "hidden_size" in space.solved:  # as near the base's width as whole heads allow, of an even size for rotary positions
        heads = values.get("num_heads", base.num_heads)
        assert isinstance(heads, int)
        changes["head_dim"] = 2 * max(1, round(base.hidden_size / heads / 2))
    config = base.copy(**changes)
    if "ffn_size" in space.solved and "ffn_size" in base.model_fields_set and "ffn_ratio" not in values:
        config = config.copy(ffn_size=max(1, round(config.hidden_size * base.ffn_size / base.hidden_size)))
    return config


def _derived(space: Space, values: dict[str, JsonValue], config: ExperimentConfig) -> ExperimentConfig:
    assert space.derive is not None
    try:
        derived = space.derive(config)
    except ConfigError:
        raise
    except Exception as error:
        raise SpaceError(f"derive must return an ExperimentConfig, it raised {type(error).__name__}: {error} for {values}.") from error
    if not isinstance(derived, ExperimentConfig):
        raise SpaceError(f"derive must return an ExperimentConfig, got {derived!r} for {values}. End it with `return config.copy(...)`.")
    changed = [name for name in values if _value(derived, name) != _value(config, name)]
    if changed:
        raise SpaceError(f"derive must leave alone what is compared, it changed {', '.join(changed)} of {values}. Set other fields.")
    text = [name for name in TEXT_FIELDS if not (name in ALPHABET and name in values)]
    if any(getattr(derived, name) != getattr(space.base, name) for name in text):
        raise SpaceError(f"derive must leave {', '.join(TEXT_FIELDS)} alone, so that losses stay comparable; it changed them for {values}.")
    if derived.max_tokens is None:
        raise SpaceError(f"derive must leave max_tokens a number of tokens, it made it None for {values}.")
    return derived


def _value(config: ExperimentConfig, name: str) -> object:
    """What a compared name is in a config."""
    return config.model_overrides.get(name.removeprefix(OVERRIDE)) if name.startswith(OVERRIDE) else getattr(config, name)
