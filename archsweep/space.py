"""Space: a question about architectures, stated by what each field is for: compared, held equal, tuned or repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, Literal, get_args

from pydantic import JsonValue, TypeAdapter, ValidationError

from archsweep.config import TUNABLE, ExperimentConfig
from archsweep.errors import ConfigError, SpaceError, nearest

SizeKind = Literal["parameters", "non_embedding_parameters"]  # met by the sizes
LengthKind = Literal["flops", "tokens", "train_seconds"]  # met by max_tokens
BudgetKind = Literal[SizeKind, LengthKind]
Sampler = Literal["tpe", "gp", "nsga2", "random"]
Objective = Literal["val_loss", "parameters", "non_embedding_parameters", "flops", "decode_latency", "memory"]
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
SMOKE_STEPS, SMOKE_EVAL_TOKENS, SMOKE_VARIANTS, SMOKE_TRIALS = 20, 8192, 4, 3


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
class IntRange:
    """The whole numbers from `low` to `high`, both included, in steps of `step`; for a search."""

    low: int
    high: int
    step: int = 1


@dataclass(frozen=True)
class Uniform:
    """Any number from `low` to `high`; for a search."""

    low: float
    high: float


@dataclass(frozen=True)
class LogUniform:
    """Any number from `low` to `high`, each factor as likely as any other; for a search."""

    low: float
    high: float


Values = Choice | IntRange | Uniform | LogUniform


@dataclass(frozen=True, init=False)
class When:
    """Values of a field that is compared only where fields listed before it have the values `conditions`; elsewhere it is the base's.

    `When(IntRange(64, 256, 64), family="llama")`; one of several values is a Choice: `num_layers=Choice(2, 4)`.
    """

    values: Values
    conditions: tuple[tuple[str, Choice], ...]

    def __init__(self, values: Values, **conditions: Value | Choice) -> None:
        object.__setattr__(self, "values", values)
        pairs = ((name, value if isinstance(value, Choice) else Choice(value)) for name, value in conditions.items())
        object.__setattr__(self, "conditions", tuple(pairs))

    def __repr__(self) -> str:
        shown = (f"{name}={choice if len(choice.values) > 1 else choice.values[0]!r}" for name, choice in self.conditions)
        return f"When({', '.join([repr(self.values), *shown])})"

    def holds(self, variant: Mapping[str, Value]) -> bool:
        """Whether the field is compared in this variant, of which the fields listed before it are known."""
        return all(name in variant and variant[name] in choice.values for name, choice in self.conditions)


def values_of(compared: Values | When) -> Values:
    """The values by themselves, without the condition on them."""
    return compared.values if isinstance(compared, When) else compared


def with_values(compared: Values | When, values: Values) -> Values | When:
    """Other values under the same condition."""
    return When(values, **dict(compared.conditions)) if isinstance(compared, When) else values


@dataclass(frozen=True)
class Optuna:
    """Search `compare` instead of listing it: `trials` variants are trained, each suggested from the results before it, so that all
    `objectives` become small.

    `val_loss` is the report's: the mean over seeds at the best tuned setting. `decode_latency` is seconds per token, `memory` is predicted.
    """

    trials: int
    sampler: Sampler = "tpe"
    seed: int = 0
    objectives: tuple[Objective, ...] = ("val_loss",)


@dataclass(frozen=True)
class ASHA:
    """Stop a variant at the first evaluation after `first` of its steps, and after each `reduction` times as many, unless its loss is among
    the best 1 / `reduction` of those that have been there (Li et al. 2018, arXiv 1810.05934)."""

    first: float = 0.25
    reduction: int = 2


@dataclass(frozen=True)
class MedianStopping:
    """Stop a variant at an evaluation after `first` of its steps where its loss is above the median of at least `fewest` others' there."""

    first: float = 0.25
    fewest: int = 3


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
    go together, as a pair. `constrain` sees the config that would train, and returns the reason why it must not, or None. Without a
    `method` every combination is trained. `prune_tune` gives up tuned settings that are far behind after half of the steps: it saves
    time, and can give up one that would have won. With a `reference`, the compared values of one variant of a grid, every variant is tested
    against it; without one, each pair is. Two losses that differ by less than `margin` (a part of the loss) count as equal. Raises
    SpaceError, all faults at once.
    """

    base: ExperimentConfig
    compare: Mapping[str, Values | When]
    budget: Budget | tuple[Budget, ...] | None = None
    tune: dict[str, Choice] = field(default_factory=dict)
    repeat: int = 3
    derive: Callable[[ExperimentConfig], ExperimentConfig] | None = None
    constrain: Callable[[ExperimentConfig], str | None] | None = None
    method: Optuna | None = None
    early_stopping: ASHA | MedianStopping | None = None
    prune_tune: bool = False
    reference: Mapping[str, Value] | None = None
    margin: float = 0.005

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
        compare = dict(self.compare) if self.method else _few(self.compare)
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
        method = self.method and replace(self.method, trials=min(self.method.trials, SMOKE_TRIALS))
        derive = _shortened(self.derive, tokens)
        small = replace(
            self, base=base, compare=compare, tune=tune, repeat=2, derive=derive, method=method, budget=self.size_budget, reference=None
        )
        return replace(small, reference=self.reference) if not list(_faults_of_reference(self.reference, small)) else small


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
    yield from _faults_of_role("compare", space.compare, space.base, ranges=space.method is not None)
    yield from _faults_of_role("tune", space.tune, space.base, ranges=False)
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
    if space.constrain is not None and not callable(space.constrain):
        yield f"constrain must be a function from ExperimentConfig to a reason or None, got {space.constrain!r}."
    if space.method is not None:
        yield from _faults_of_method(space.method)
    if not isinstance(space.prune_tune, bool):
        yield f"prune_tune must be True or False, got {space.prune_tune!r}."
    elif space.prune_tune and (not space.tune or space.repeat == 1 or space.base.num_evaluations == 1):
        yield "prune_tune compares the seeds of tuned settings half-way: it needs tune, a repeat of at least 2, and several evaluations."
    if space.early_stopping is not None:
        yield from _faults_of_early_stopping(space)
    if not isinstance(space.margin, (int, float)) or not 0 < space.margin <= 0.5:
        yield f"margin must be a part of the loss above 0 and at most 0.5, got {space.margin!r}. Half a percent is 0.005."
    if isinstance(space.compare, Mapping):
        yield from _faults_of_reference(space.reference, space)


def _faults_of_reference(reference: object, space: Space) -> Iterator[str]:
    """Why it names no variant by itself; whether the conditions and the budget leave that variant shows in the plan."""
    if reference is None:
        return
    if space.method is not None:
        yield "reference is for a grid, since a search may never suggest it. Leave it out, or leave out method."
    if not isinstance(reference, Mapping) or not reference:
        yield f'reference must map compared fields to the values of one variant, as {{"num_layers": 2}}, got {reference!r}.'
        return
    for name, value in reference.items():
        if name not in space.compare:
            yield f"reference: {name} is not compared: {nearest(str(name), space.compare)}"
        elif isinstance(choice := values_of(space.compare[name]), Choice) and value not in choice.values:
            yield f"reference: {name} is never {value!r}: it is one of {choice!r}."
    if missing := [name for name, compared in space.compare.items() if name not in reference and not isinstance(compared, When)]:
        yield f"reference must name one variant, and leaves open {', '.join(missing)}. Give a value for each."


def _faults_of_role(role: str, choices: object, base: ExperimentConfig, *, ranges: bool) -> Iterator[str]:
    if not isinstance(choices, Mapping):
        yield f'{role} must map fields to choices, as {{"num_layers": Choice(1, 2)}}, got {choices!r}.'
        return
    for name, choice in choices.items():
        if name not in ExperimentConfig.model_fields:
            yield f"{role}: {name} is not a field of ExperimentConfig: {nearest(str(name), ExperimentConfig.model_fields)}"
            continue
        if role == "compare" and isinstance(choice, When):
            yield from (f"compare: {name}: {fault}" for fault in _faults_of_conditions(name, choice, choices))
            choice = choice.values
        if isinstance(choice, Choice):
            yield from (f"{role}: {fault}" for fault in _faults_of_choice(name, choice, base))
        elif not isinstance(choice, (IntRange, Uniform, LogUniform)):
            yield f"{role}: {name} must be a Choice, got {choice!r}. Write {_written_as_choice(choice)}."
        elif role == "tune":
            yield f"tune: {name} must be a Choice, got {choice!r}: every variant tries all of what it tunes. Write Choice({choice.low}, …)."
        elif not ranges:
            yield f"compare: {name} must be a Choice in a grid, got {choice!r}. List its values, or search: method=Optuna(trials=40)."
        else:
            yield from (f"compare: {fault}" for fault in _faults_of_range(name, choice, base))


def _faults_of_conditions(name: str, when: When, compare: Mapping[str, Values | When]) -> Iterator[str]:
    before = list(compare)[: list(compare).index(name)]
    if not when.conditions:
        yield f'{when!r} must have a condition. Write When({when.values!r}, family="llama"), or {when.values!r} alone.'
    for field_name, values in when.conditions:
        if field_name not in before:
            way_out = f"List {field_name} first." if field_name in compare else nearest(field_name, before) if before else "List one first."
            yield f"a condition must be on a field that compare lists before it, got {field_name}: {way_out}"
        elif isinstance(choice := values_of(compare[field_name]), Choice):
            for value in values.values:
                if value not in choice.values:
                    yield f"{field_name} is never {value!r}, so the condition never holds: {field_name} is one of {choice!r}."


def _faults_of_range(name: str, values: IntRange | Uniform | LogUniform, base: ExperimentConfig) -> Iterator[str]:
    kind = int if isinstance(values, IntRange) else (int, float)
    numbers = [values.low, values.high, *([values.step] if isinstance(values, IntRange) else [])]
    if not all(isinstance(number, kind) and not isinstance(number, bool) and isfinite(number) for number in numbers):
        yield f"{name}: {type(values).__name__} takes {'whole numbers' if kind is int else 'finite numbers'}, got {values!r}."
        return
    if values.low >= values.high:
        yield f"{name} must have a low below its high, got {values!r}. One value needs no search: set it in the base."
    if isinstance(values, IntRange) and (values.step < 1 or (values.high - values.low) % values.step):
        reached = values.high - (values.high - values.low) % max(1, values.step)
        yield f"{name} must reach its high in whole steps, got {values!r}. Write IntRange({values.low}, {reached}, {max(1, values.step)})."
    if isinstance(values, LogUniform) and values.low <= 0:
        yield f"{name} must begin above 0 to be spread by factors, got {values!r}. Write Uniform({values.low}, {values.high})."
    for end in (values.low, values.high):
        yield from _faults_of_value(name, end, base)


def _faults_of_method(method: object) -> Iterator[str]:
    if not isinstance(method, Optuna):
        yield f"method must be Optuna, got {method!r}. Write Optuna(trials=40), or leave it out for every combination."
        return
    if not _is_count(method.trials):
        yield f"method: trials must be a whole number of variants to train, at least 1, got {method.trials!r}."
    if not isinstance(method.seed, int) or isinstance(method.seed, bool):
        yield f"method: seed must be a whole number, got {method.seed!r}."
    if method.sampler not in get_args(Sampler):
        yield f"method: {method.sampler} is not a sampler: {nearest(str(method.sampler), get_args(Sampler))}"
    if not isinstance(method.objectives, tuple):
        yield f"method: objectives must be a tuple of names, got {method.objectives!r}. Write ({method.objectives!r},)."
        return
    for name in method.objectives:
        if name not in get_args(Objective):
            yield f"method: {name} is not an objective: {nearest(str(name), get_args(Objective))}"
    if "val_loss" not in method.objectives or len(set(method.objectives)) < len(method.objectives):
        yield f'method: objectives must hold "val_loss", and each once, got {method.objectives!r}.'


def _faults_of_early_stopping(space: Space) -> Iterator[str]:
    rule = space.early_stopping
    if not isinstance(rule, (ASHA, MedianStopping)):
        yield f"early_stopping must be ASHA or MedianStopping, got {rule!r}. Write ASHA(), or leave it out."
        return
    if not isinstance(rule.first, (int, float)) or not 0 < rule.first < 1:
        yield f"early_stopping: first must be a fraction of the steps above 0 and below 1, got {rule.first!r}."
    if isinstance(rule, ASHA) and (not _is_count(rule.reduction) or rule.reduction < 2):
        yield f"early_stopping: reduction must be a whole number, at least 2, got {rule.reduction!r}."
    if isinstance(rule, MedianStopping) and not _is_count(rule.fewest):
        yield f"early_stopping: fewest must be a whole number of variants, at least 1, got {rule.fewest!r}."
    if space.base.num_evaluations < 2 or "num_evaluations" in space.compare:
        yield (
            "early_stopping decides at evaluations that all variants share, and base.num_evaluations "
            f"{'is compared' if 'num_evaluations' in space.compare else 'is 1'}. Give the base 4 of them."
        )
    if isinstance(space.method, Optuna) and len(space.method.objectives) > 1:
        yield "early_stopping decides by val_loss alone, and there are several objectives. Leave it out, or search for val_loss only."


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _faults_of_choice(name: str, choice: Choice, base: ExperimentConfig) -> Iterator[str]:
    values = choice.values
    if not values:
        yield f"{name} must have at least one value, got Choice(). Write Choice(1, 2), or leave {name} out."
    elif len(values) == 1 and isinstance(values[0], (list, set, range)):
        yield f"{name}: a Choice takes its values one after another, got {choice!r}. Write {_written_as_choice(values[0])}."
    else:
        if repeated := _repeated(values):
            yield f"{name} must list every value once, got {', '.join(map(repr, repeated))} again in {choice!r}."
        for value in values:
            yield from _faults_of_value(name, value, base)


def _repeated(values: tuple[object, ...]) -> list[object]:
    """Those that equal one before them."""
    seen: set[object] = set()
    repeated = []
    for value in values:
        key = value if isinstance(value, (int, float, str)) else repr(value)
        if key in seen:
            repeated.append(value)
        seen.add(key)
    return repeated


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
    if space.method is not None and any(budget.kind == "train_seconds" for budget in space.budgets):
        yield "budget: a search cannot hold train_seconds, for which shapes are measured beforehand. Use flops, or leave method out."


def _written_as_choice(value: object) -> str:
    values = value if isinstance(value, (list, tuple, set, range)) else (value,)
    return f"Choice({', '.join(map(repr, values))})"


def _few(compare: Mapping[str, Values | When]) -> dict[str, Values | When]:
    """The ends of each choice of a grid, as long as they make few variants; then its first value."""
    few: dict[str, Values | When] = {}
    variants = 1
    for name, compared in compare.items():
        choice = values_of(compared)
        assert isinstance(choice, Choice)
        ends = choice.ends() if variants * len(choice.ends().values) <= SMOKE_VARIANTS else Choice(choice.values[0])
        variants *= len(ends.values)
        few[name] = with_values(compared, ends)
    return few


def _largest(base: ExperimentConfig, compare: Mapping[str, Values | When], *names: str) -> int:
    """The largest product of the fields `names` that any variant has."""
    product = 1
    for name in names:
        values = _whole_numbers(compare[name]) if name in compare else []
        if not values or isinstance(compare[name], When):
            values.append(getattr(base, name))
        product *= max(values)
    return product


def _whole_numbers(compared: Values | When) -> list[int]:
    """The values of a choice, or the ends of a range."""
    values = values_of(compared)
    listed = values.values if isinstance(values, Choice) else (values.low, values.high)
    return [value for value in listed if isinstance(value, int)]


def _scaled_down(compared: Values | When, largest: int) -> Values | When:
    """The token counts in their proportions, the largest being `largest` (and none below one step's worth of it)."""
    counts = _whole_numbers(compared)
    if max(counts) <= largest:
        return compared
    scaled = tuple(dict.fromkeys(max(largest // SMOKE_STEPS, count * largest // max(counts)) for count in counts))
    is_choice = isinstance(values_of(compared), Choice) or len(scaled) == 1
    return with_values(compared, Choice(*scaled) if is_choice else IntRange(scaled[0], scaled[-1]))


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
