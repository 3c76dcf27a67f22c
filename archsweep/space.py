"""Space: a question about architectures, stated by what each field is for: compared, held equal, tuned or repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from pydantic import JsonValue, TypeAdapter, ValidationError

from archsweep.config import TUNABLE, ExperimentConfig
from archsweep.errors import ConfigError, SpaceError, nearest

SizeKind = Literal["parameters", "non_embedding_parameters"]  # met by the sizes
LengthKind = Literal["flops", "tokens", "train_seconds"]  # met by max_tokens
BudgetKind = Literal[SizeKind, LengthKind]
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
SECONDS_TOLERANCE = 0.05  # two runs of one shape on one machine differ by up to so much
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
    """What every variant must have the same of: the quantity named by `kind`, of each replica, within `tolerance` (relative) of `target`.

    "parameters" and "non_embedding_parameters" are met by the widths, which are then multiples of `multiple_of`; "flops", "tokens" and
    "train_seconds" by whole steps of max_tokens. Seconds are a replica's part of its stack's training time on the machine that plans.
    """

    kind: BudgetKind
    target: int | float
    tolerance: float = 0.01
    multiple_of: int = 1

    @property
    def solves_length(self) -> bool:
        """Whether max_tokens meets it, not the sizes."""
        return self.kind in get_args(LengthKind)

    def allows(self, count: float) -> bool:
        """Whether `count` is within the tolerance."""
        return abs(count - self.target) <= self.tolerance * self.target

    def amount(self, count: float) -> str:
        """`count` as it is printed: whole numbers, FLOPs to four digits, seconds with their unit."""
        if self.kind == "train_seconds":
            return f"{count:,.4g} s"
        return f"{count:.4g}" if self.kind == "flops" else f"{count:,.0f}"

    def __str__(self) -> str:
        return f"within {self.tolerance:.2%} of {self.amount(self.target)} {self.kind}"


@dataclass(frozen=True)
class Space:
    """One question: `compare` is asked, `budget` held equal, `tune` adjusted by each variant for itself, `repeat` the seeds of each.

    `derive` may set further fields of a variant from the compared ones; it comes before the budget. A budget of sizes and one of length
    go together, as a pair. Raises SpaceError, all faults at once.
    """

    base: ExperimentConfig
    compare: dict[str, Choice]
    budget: Budget | tuple[Budget, ...] | None = None
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
    def budgets(self) -> tuple[Budget, ...]:
        """Every budget: none, one, or one that the sizes meet and one that the length meets."""
        return as_budgets(self.budget)

    @property
    def size_budget(self) -> Budget | None:
        """The budget that the sizes meet."""
        return next((budget for budget in self.budgets if not budget.solves_length), None)

    @property
    def length_budget(self) -> Budget | None:
        """The budget that max_tokens meets."""
        return next((budget for budget in self.budgets if budget.solves_length), None)

    @property
    def solved(self) -> tuple[str, ...]:
        """What the budgets choose: width and feed-forward width, except what is compared, and the length."""
        sizes = tuple(size for size, names in _SETS.items() if not names & set(self.compare)) if self.size_budget else ()
        return (*sizes, "max_tokens") if self.length_budget else sizes

    def smoke(self) -> Space:
        """The same question, small enough to see in a minute that it runs: few variants, few steps, too few for a budget of length."""
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
        derive = _shortened(self.derive, tokens)
        return replace(self, base=base, compare=compare, tune=tune, repeat=2, derive=derive, budget=self.size_budget)


def as_budgets(budget: Budget | tuple[Budget, ...] | None) -> tuple[Budget, ...]:
    """The budgets that a space or a plan states, as a tuple."""
    if budget is None:
        return ()
    return budget if isinstance(budget, tuple) else (budget,)


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
    for budget in space.budgets:
        yield from _faults_of_budget(budget)
    if all(isinstance(budget, Budget) for budget in space.budgets):
        yield from _faults_between_budgets(space)
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


def _faults_of_budget(budget: object) -> Iterator[str]:
    if not isinstance(budget, Budget):
        yield f'budget must be a Budget, got {budget!r}. Write Budget("non_embedding_parameters", 100_000).'
        return
    if budget.kind not in get_args(BudgetKind):
        yield f"budget: {budget.kind} is not a kind of budget: {nearest(str(budget.kind), get_args(BudgetKind))}"
    yield from _faults_of_target(budget)
    if not isinstance(budget.tolerance, (int, float)) or not 0 < budget.tolerance <= 0.5:
        yield f"budget: tolerance must be a fraction above 0 and at most 0.5, got {budget.tolerance!r}. 1 % is 0.01."
    elif budget.kind == "train_seconds" and budget.tolerance < SECONDS_TOLERANCE:
        yield (
            f"budget: tolerance of train_seconds must be at least {SECONDS_TOLERANCE}, for two runs of one shape differ by so much, "
            f'got {budget.tolerance!r}. Write Budget("train_seconds", {budget.target!r}, tolerance=0.1).'
        )
    if not isinstance(budget.multiple_of, int) or isinstance(budget.multiple_of, bool) or budget.multiple_of < 1:
        yield f"budget: multiple_of must be a whole number, at least 1, got {budget.multiple_of!r}."
    elif budget.multiple_of > 1 and budget.solves_length:
        yield f"budget: multiple_of is for the widths, which {budget.kind} leaves alone, got {budget.multiple_of}. Leave it out."


def _faults_of_target(budget: Budget) -> Iterator[str]:
    target, unit = budget.target, {"flops": "FLOPs", "train_seconds": "seconds", "tokens": "tokens"}.get(budget.kind, "parameters")
    if unit in ("FLOPs", "seconds"):
        if not isinstance(target, (int, float)) or isinstance(target, bool) or not 0 < target < float("inf"):
            yield f"budget: target must be a number of {unit} above 0, got {target!r}."
    elif not isinstance(target, int) or isinstance(target, bool) or target < 1:
        yield f"budget: target must be a whole number of {unit}, at least 1, got {target!r}."


def _faults_between_budgets(space: Space) -> Iterator[str]:
    for kinds, what in ((get_args(SizeKind), "the sizes"), (get_args(LengthKind), "max_tokens")):
        alike = [budget.kind for budget in space.budgets if budget.kind in kinds]
        if len(alike) > 1:
            yield f"budget: {' and '.join(alike)} are both met by {what}, which can meet one of them. Leave out the others."
    if not isinstance(space.compare, Mapping):
        return
    if space.size_budget is not None and not any(size in space.solved for size in _SETS):
        both = ", ".join(name for name in space.compare if any(name in names for names in _SETS.values()))
        yield f"compare: {both} leave the budget nothing to solve. Compare only one of hidden_size and ffn_size, or leave the budget out."
    if space.length_budget is not None and "max_tokens" in space.compare:
        kind = space.length_budget.kind
        yield f"compare: max_tokens is what meets the budget of {kind}. Compare another field, or leave that budget out."


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
