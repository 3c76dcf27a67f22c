"""What is wrong with a space, every fault a sentence with the rule, the value and the way out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any, get_args

from pydantic import TypeAdapter, ValidationError

from archsweep.config import BUDGET, OVERRIDE, TUNABLE, ExperimentConfig, bare_name, fault_of_margin
from archsweep.errors import ConfigError, nearest
from archsweep.vocabulary import (
    ALPHABET,
    ASHA,
    NOT_COMPARABLE,
    SECONDS_TOLERANCE,
    SOLVABLE,
    VARIED_BUDGETS,
    Budget,
    BudgetKind,
    Choice,
    IntRange,
    LengthKind,
    LogUniform,
    MedianStopping,
    Metric,
    Objective,
    Optuna,
    Sampler,
    SizeKind,
    Uniform,
    When,
    values_of,
)

if TYPE_CHECKING:
    from archsweep.space import Space
    from archsweep.vocabulary import Values


def faults_of(space: Space) -> Iterator[str]:
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
    if (fault := fault_of_margin(space.margin)) is not None:
        yield fault
    if space.metric not in get_args(Metric):
        yield f"metric: {space.metric} is not what can be compared: {nearest(str(space.metric), get_args(Metric))}"
    elif space.metric != "val_loss" and (space.method or space.early_stopping):
        yield f"metric={space.metric!r} is for a grid: method and early_stopping decide by val_loss. Leave those out."
    if isinstance(space.compare, Mapping):
        yield from faults_of_reference(space.reference, space)


def faults_of_reference(reference: object, space: Space) -> Iterator[str]:
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
        if not isinstance(name, str):
            yield f"{role}: a field is named by a text, got {name!r}."
            continue
        if name.startswith(BUDGET) and role == "compare":
            yield from (f"compare: {fault}" for fault in _faults_of_varied_budget(name, choice))
            continue
        if name not in ExperimentConfig.model_fields and not (role == "compare" and name.startswith(OVERRIDE) and name != OVERRIDE):
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


def _faults_of_varied_budget(name: str, choice: object) -> Iterator[str]:
    kind = bare_name(name)
    if kind not in VARIED_BUDGETS:
        kinds = " and ".join(BUDGET + each for each in VARIED_BUDGETS)
        yield f"{name} is not a budget that can be compared; {kinds} are. State others as budget=Budget(...)."
    elif not isinstance(choice, Choice) or not choice.values:
        yield f"{name} must be a Choice of budgets, got {choice!r}. Write Choice(1e11, 2e11)."
    else:
        if repeated := _repeated(choice.values):
            yield f"{name} must list every value once, got {', '.join(map(repr, repeated))} again in {choice!r}."
        for value in choice.values:
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < float("inf"):
                yield f"{name} must be a number above 0, got {value!r}."


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
    if name.startswith(OVERRIDE):
        if not isinstance(value, (str, int, float, bool, list, dict, type(None))):
            yield f"{name} must be a value that JSON has, got {value!r}."
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
        if name in space.compare and not (name in ALPHABET and space.metric == "bits_per_byte"):
            yield f"compare: {name} cannot be compared: {why}."
    bare = [bare_name(str(name)) for name in space.compare]
    if twice := {name for name in bare if bare.count(name) > 1}:
        yield f"compare: {', '.join(sorted(twice))} would name two fields in every table. Compare one of them, or set the other by derive."
    if space.varied_budgets and set(space.compare) == set(space.varied_budgets):
        yield f"compare: {space.varied_budgets[0]} leaves one variant at each budget. Compare another field beside it, or max_tokens alone."
    if {"ffn_ratio", "ffn_size"} <= set(space.compare):
        yield "compare: ffn_size leaves nothing of ffn_ratio. Compare one of them."
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
    elif not _can_be_solved(budget.solve):
        yield f'budget: solve must be a tuple of {" and ".join(SOLVABLE)}, or one of them, got {budget.solve!r}. Write ("ffn_size",).'
    elif budget.multiple_of > 1 and budget.solves_length:
        yield f"budget: multiple_of is for the widths, which {budget.kind} leaves alone, got {budget.multiple_of}. Leave it out."


def _can_be_solved(sizes: object) -> bool:
    """Whether they are sizes that a budget can choose, one at least; anything may be written there."""
    return isinstance(sizes, tuple) and bool(sizes) and all(size in list(SOLVABLE) for size in sizes)


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
    known = space.size_budget is not None and _can_be_solved(space.size_budget.solve)
    if known and "ffn_ratio" in space.compare and not set(SOLVABLE) <= set(space.solved):
        yield "compare: ffn_ratio needs a budget that solves both sizes, or none: else it is no ratio any more. Leave out solve."
    if known and not any(size in space.solved for size in SOLVABLE):
        both = ", ".join(name for name in space.compare if any(name in names for names in SOLVABLE.values()))
        yield f"compare: {both} leave the budget nothing to solve. Compare only one of hidden_size and ffn_size, or leave the budget out."
    length = [*([space.length_budget.kind] if space.length_budget else []), *space.varied_budgets]
    if space.varied_budgets and (len(length) > 1 or "max_tokens" in space.compare or space.method):
        yield (
            f"compare: {space.varied_budgets[0]} sets max_tokens, and is for a grid without another budget of length. "
            "Leave out max_tokens, method and the other budget."
        )
    if space.varied_budgets and space.reference is not None:
        yield f"reference: variants are compared at their own {space.varied_budgets[0]}, where one reference is not. Leave it out."
    if space.length_budget is not None and "max_tokens" in space.compare:
        kind = space.length_budget.kind
        yield f"compare: max_tokens is what meets the budget of {kind}. Compare another field, or leave that budget out."
    if space.method is not None and any(budget.kind == "train_seconds" for budget in space.budgets):
        yield "budget: a search cannot hold train_seconds, for which shapes are measured beforehand. Use flops, or leave method out."


def _written_as_choice(value: object) -> str:
    values = value if isinstance(value, (list, tuple, set, range)) else (value,)
    return f"Choice({', '.join(map(repr, values))})"
