"""The words of a search space: values and where they apply, budgets, searches, rules of early stopping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import JsonValue

from archsweep.config import BUDGET

if TYPE_CHECKING:
    from collections.abc import Mapping

SizeKind = Literal["parameters", "non_embedding_parameters"]  # met by the sizes
LengthKind = Literal["flops", "tokens", "train_seconds"]  # met by max_tokens
BudgetKind = Literal[SizeKind, LengthKind]
Sampler = Literal["tpe", "gp", "nsga2", "random"]
Objective = Literal["val_loss", "parameters", "non_embedding_parameters", "flops", "decode_latency", "memory"]
Value = JsonValue | tuple[float, ...]  # `betas` is a pair

Metric = Literal["val_loss", "bits_per_byte"]

VARIED_BUDGETS = ("flops", "tokens")  # that can be compared; seconds differ between machines

TEXT_FIELDS = ("dataset", "tokenizer", "vocab_size", "validation_fraction")  # what decides the tokens

# What decides nothing about the trained model, or is a role of its own: comparing it would compare nothing.
NOT_COMPARABLE = {
    "experiment_name": "it is the sweep's name",
    "device": "it does not change what is trained",
    "seed": "`repeat` trains every variant with several seeds",
    **dict.fromkeys(("dataset", "validation_fraction"), "losses on different texts are not comparable"),
    **dict.fromkeys(("tokenizer", "vocab_size"), 'losses in different alphabets are not comparable; with metric="bits_per_byte" they are'),
}
ALPHABET = ("tokenizer", "vocab_size")  # what may be compared by bits per byte
# The sizes that a budget may solve, and the fields by which a space may set each of them itself.
SOLVABLE: dict[str, frozenset[str]] = {"hidden_size": frozenset({"hidden_size", "head_dim"}), "ffn_size": frozenset({"ffn_size"})}
STEP_FIELDS = ("batch_size", "gradient_accumulation_steps", "context_length")  # their product is the tokens of a step
SECONDS_TOLERANCE = 0.05  # two runs of one shape on one machine differ by up to so much


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

    "parameters" and "non_embedding_parameters" are met by the sizes in `solve`, in multiples of `multiple_of`; "flops", "tokens" and
    "train_seconds" by whole steps of max_tokens. Seconds are a replica's part of its stack's training time on the machine that plans.
    """

    kind: BudgetKind
    target: int | float
    tolerance: float = 0.01
    multiple_of: int = 1
    solve: tuple[str, ...] = ("hidden_size", "ffn_size")

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


def varied_budget(variant: Mapping[str, Value]) -> Budget | None:
    """The budget that is compared, as this variant has it; None where none is."""
    for name, target in variant.items():
        if name.startswith(BUDGET) and isinstance(target, (int, float)):
            kind: Any = name.removeprefix(BUDGET)
            return Budget(kind, target)
    return None


def as_budgets(budget: Budget | tuple[Budget, ...] | None) -> tuple[Budget, ...]:
    """The budgets that a space or a plan states, as a tuple."""
    if budget is None:
        return ()
    return budget if isinstance(budget, tuple) else (budget,)
