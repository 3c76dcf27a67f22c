"""Space: a question about architectures, stated by what each field is for: compared, held equal, tuned or repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from pydantic import JsonValue, TypeAdapter, ValidationError

from archsweep.config import TUNABLE, ExperimentConfig
from archsweep.errors import ConfigError, SpaceError, nearest

BudgetKind = Literal["parameters", "non_embedding_parameters"]
Value = JsonValue | tuple[float, ...]  # `betas` is a pair

TEXT_FIELDS = ("dataset", "tokenizer", "vocab_size", "validation_fraction")  # what decides the tokens

# What decides nothing about the trained model, or is a role of its own: comparing it would compare nothing.
NOT_COMPARABLE = {
    "experiment_name": "it is the sweep's name",
    "device": "it does not change what is trained",
    "seed": "`repeat` trains every variant with several seeds",
    **dict.fromkeys(TEXT_FIELDS, "losses on different texts, or in different alphabets, are not comparable"),
}
STEP_FIELDS = ("batch_size", "gradient_accumulation_steps", "context_length")  # their product is the tokens of a step
SMOKE_STEPS, SMOKE_EVAL_TOKENS, SMOKE_VARIANTS = 20, 8192, 4


@dataclass(frozen=True, init=False)
class Choice:
    """The values that one field takes, in the order they were written."""

    values: tuple[Value, ...]

    def __init__(self, *values: Value) -> None:
        object.__setattr__(self, "values", values)

    def __repr__(self) -> str:
        return f"Choice({', '.join(map(repr, self.values))})"

    def ends(self) -> Choice:
        """The first and the last value."""
        return self if len(self.values) < 2 else Choice(self.values[0], self.values[-1])


@dataclass(frozen=True)
class Budget:
    """What every variant must have the same of: the count named by `kind`, within `tolerance` (relative) of `target`."""

    kind: BudgetKind
    target: int
    tolerance: float = 0.01

    def allows(self, count: int) -> bool:
        """Whether `count` is within the tolerance."""
        return abs(count - self.target) <= self.tolerance * self.target


@dataclass(frozen=True)
class Space:
    """One question: `compare` is asked, `budget` held equal, `tune` adjusted by each variant for itself, `repeat` the seeds of each.

    `derive` may set further fields of a variant from the compared ones; it comes before the budget. Raises SpaceError, all faults at once.
    """

    base: ExperimentConfig
    compare: dict[str, Choice]
    budget: Budget | None = None
    tune: dict[str, Choice] = field(default_factory=dict)
    repeat: int = 3
    derive: Callable[[ExperimentConfig], ExperimentConfig] | None = None

    def __post_init__(self) -> None:
        if faults := list(_faults(self)):
            title = f"{len(faults)} fault{'s' if len(faults) > 1 else ''} in the search space"
            raise SpaceError(title + "\n" + "\n".join(f"  - {fault}" for fault in faults))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that every variant trains with, at each of its settings."""
        return tuple(range(self.base.seed, self.base.seed + self.repeat))

    @property
    def solved(self) -> tuple[str, ...]:
        """The sizes that the budget chooses: width and feed-forward width, except what is compared."""
        if self.budget is None:
            return ()
        return tuple(size for size, names in _SETS.items() if not names & set(self.compare))

    def smoke(self) -> Space:
        """The same question, small enough to see in a minute that it runs: few variants, few steps."""
        compare: dict[str, Choice] = {}
        variants = 1
        for name, choice in self.compare.items():
            ends = choice.ends()
            compare[name] = ends if variants * len(ends.values) <= SMOKE_VARIANTS else Choice(ends.values[0])
            variants *= len(compare[name].values)
        tokens = SMOKE_STEPS * _largest(self.base, compare, *STEP_FIELDS)
        if "max_tokens" in compare:
            compare["max_tokens"] = _scaled_down(compare["max_tokens"], tokens)
        longest_window = _largest(self.base, compare, "context_length")
        base = self.base.copy(
            max_tokens=min(self.base.max_tokens or tokens, tokens),
            eval_tokens=max(longest_window, min(self.base.eval_tokens, SMOKE_EVAL_TOKENS)),
            num_evaluations=min(self.base.num_evaluations, 2),
        )
        tune = {name: choice.ends() for name, choice in self.tune.items()}
        return replace(self, base=base, compare=compare, tune=tune, repeat=2, derive=_shortened(self.derive, tokens))


# The sizes that a budget may solve, and the fields by which a space may set each of them itself.
_SETS: dict[str, frozenset[str]] = {"hidden_size": frozenset({"hidden_size", "head_dim"}), "ffn_size": frozenset({"ffn_size"})}


def _faults(space: Space) -> Iterator[str]:
    """Yield every rule that the space breaks, each as one line."""
    if not isinstance(space.base, ExperimentConfig):
        yield f"base must be an ExperimentConfig, got {space.base!r}."
        return
    yield from _faults_of_role("compare", space.compare, space.base)
    yield from _faults_of_role("tune", space.tune, space.base)
    if isinstance(space.compare, Mapping) and isinstance(space.tune, Mapping):
        yield from _faults_between_roles(space)
    if space.budget is not None:
        yield from _faults_of_budget(space.budget)
    if not isinstance(space.repeat, int) or isinstance(space.repeat, bool) or space.repeat < 1:
        yield f"repeat must be a whole number of seeds, at least 1, got {space.repeat!r}."
    if space.base.max_tokens is None:
        yield "base.max_tokens must be a number of tokens, so that every variant sees as many, got None. Give tokens instead of epochs."
    if space.derive is not None and not callable(space.derive):
        yield f"derive must be a function from ExperimentConfig to ExperimentConfig, got {space.derive!r}."


def _faults_of_role(role: str, choices: object, base: ExperimentConfig) -> Iterator[str]:
    if not isinstance(choices, Mapping):
        yield f'{role} must map fields to choices, as {{"num_layers": Choice(1, 2)}}, got {choices!r}.'
        return
    for name, choice in choices.items():
        if name not in ExperimentConfig.model_fields:
            yield f"{role}: {name} is not a field of ExperimentConfig: {nearest(str(name), ExperimentConfig.model_fields)}"
        elif not isinstance(choice, Choice):
            yield f"{role}: {name} must be a Choice, got {choice!r}. Write {_written_as_choice(choice)}."
        else:
            yield from (f"{role}: {fault}" for fault in _faults_of_choice(name, choice, base))


def _faults_of_choice(name: str, choice: Choice, base: ExperimentConfig) -> Iterator[str]:
    values = choice.values
    if not values:
        yield f"{name} must have at least one value, got Choice(). Write Choice(1, 2), or leave {name} out."
    elif len(values) == 1 and isinstance(values[0], (list, set, range)):
        yield f"{name}: a Choice takes its values one after another, got {choice!r}. Write {_written_as_choice(values[0])}."
    else:
        repeated = [value for position, value in enumerate(values) if value in values[:position]]
        if repeated:
            yield f"{name} must list every value once, got {', '.join(map(repr, repeated))} again in {choice!r}."
        for value in values:
            yield from _faults_of_value(name, value, base)


def _faults_of_value(name: str, value: object, base: ExperimentConfig) -> Iterator[str]:
    """What is wrong with `value` by itself; whether it fits the other fields shows once the budget has solved those."""
    if name == "max_tokens" and value is None:
        yield "max_tokens must be a number of tokens, got None. Give the tokens instead of epochs."
        return
    try:  # strictly, since a variant is shown as it was written: "2" and True are not the number of layers that they would become
        annotation: Any = ExperimentConfig.model_fields[name].annotation
        TypeAdapter(annotation).validate_python(value, strict=True)
    except ValidationError as error:
        yield f"{name}: {error.errors()[0]['msg'].lower()}, got {value!r}."
        return
    try:
        base.copy(**{name: value})
    except ConfigError as error:  # a fault of the field itself opens with the field's name and a colon, one between fields does not
        lines = (line.removeprefix("  - ") for line in str(error).splitlines())
        yield from (line for line in lines if line.startswith((f"{name}:", f"{name}.")))


def _faults_between_roles(space: Space) -> Iterator[str]:
    if not space.compare:
        yield 'compare must name at least one field, as {"num_layers": Choice(1, 2)}; it is the question.'
    for name, why in NOT_COMPARABLE.items():
        if name in space.compare:
            yield f"compare: {name} cannot be compared: {why}."
    for name in space.tune:
        if name in space.compare:
            yield f"{name} is in compare and in tune. Compare it if it is the question, tune it if every variant may choose its own."
        elif name in ExperimentConfig.model_fields and name not in TUNABLE:
            yield f"tune: {name} cannot be tuned, only {' and '.join(TUNABLE)} can, which change no tensor's shape. Compare it instead."
    if space.budget is not None and not space.solved:
        both = ", ".join(name for name in space.compare if any(name in names for names in _SETS.values()))
        yield f"compare: {both} leave the budget nothing to solve. Compare only one of hidden_size and ffn_size, or leave the budget out."


def _faults_of_budget(budget: object) -> Iterator[str]:
    if not isinstance(budget, Budget):
        yield f'budget must be a Budget, got {budget!r}. Write Budget("non_embedding_parameters", 100_000).'
        return
    if budget.kind not in get_args(BudgetKind):
        yield f"budget: {budget.kind} is not a kind of budget: {nearest(str(budget.kind), get_args(BudgetKind))}"
    if not isinstance(budget.target, int) or isinstance(budget.target, bool) or budget.target < 1:
        yield f"budget: target must be a whole number of parameters, at least 1, got {budget.target!r}."
    if not isinstance(budget.tolerance, (int, float)) or not 0 < budget.tolerance <= 0.5:
        yield f"budget: tolerance must be a fraction above 0 and at most 0.5, got {budget.tolerance!r}. 1 % is 0.01."


def _written_as_choice(value: object) -> str:
    values = value if isinstance(value, (list, tuple, set, range)) else (value,)
    return f"Choice({', '.join(map(repr, values))})"


def _largest(base: ExperimentConfig, compare: Mapping[str, Choice], *names: str) -> int:
    """The largest product of the fields `names` that any variant has."""
    product = 1
    for name in names:
        values = compare[name].values if name in compare else (getattr(base, name),)
        product *= max(value for value in values if isinstance(value, int))
    return product


def _scaled_down(choice: Choice, largest: int) -> Choice:
    """The token counts of `choice` in their proportions, the largest being `largest` (and none below one step's worth of it)."""
    counts = [value for value in choice.values if isinstance(value, int)]
    if max(counts) <= largest:
        return choice
    return Choice(*dict.fromkeys(max(largest // SMOKE_STEPS, count * largest // max(counts)) for count in counts))


def _shortened(
    derive: Callable[[ExperimentConfig], ExperimentConfig] | None, tokens: int
) -> Callable[[ExperimentConfig], ExperimentConfig] | None:
    """`derive`, which may set max_tokens, held to `tokens`."""
    if derive is None:
        return None

    def short(config: ExperimentConfig) -> ExperimentConfig:
        derived = derive(config)
        too_long = isinstance(derived, ExperimentConfig) and derived.max_tokens is not None and derived.max_tokens > tokens
        return derived.copy(max_tokens=tokens) if too_long else derived

    return short
