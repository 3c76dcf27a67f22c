"""Space: a question about architectures, stated by what each field is for: compared, held equal, tuned or repeated."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from archsweep.config import BUDGET, DEFAULT_MARGIN, ExperimentConfig
from archsweep.errors import SpaceError
from archsweep.space_faults import faults_of, faults_of_reference
from archsweep.vocabulary import (
    ASHA,
    SOLVABLE,
    STEP_FIELDS,
    Budget,
    Choice,
    IntRange,
    LogUniform,
    MedianStopping,
    Metric,
    Optuna,
    Uniform,
    Value,
    Values,
    When,
    as_budgets,
    values_of,
    with_values,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["ASHA", "Budget", "Choice", "IntRange", "LogUniform", "MedianStopping", "Optuna", "Space", "Uniform", "When"]

SMOKE_STEPS, SMOKE_EVAL_TOKENS, SMOKE_VARIANTS, SMOKE_TRIALS = 20, 8192, 4, 3


@dataclass(frozen=True)
class Space:
    """One question: `compare` is asked, `budget` held equal, `tune` adjusted by each variant for itself, `repeat` the seeds of each.

    Compared are fields of ExperimentConfig; "model_overrides.NAME" is one entry of its overrides, and "budget.flops" or "budget.tokens" a
    budget of several sizes: within each size variants are tested against each other. With `metric="bits_per_byte"` the alphabet can be
    compared too, as `vocab_size`; the loss per token then tells nothing.

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
    margin: float = DEFAULT_MARGIN
    metric: Metric = "val_loss"

    def __post_init__(self) -> None:
        if faults := list(faults_of(self)):
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
        """What the budgets choose: width and feed-forward width, except what is compared or held, and the length."""
        held = self.size_budget
        sizes = tuple(size for size, names in SOLVABLE.items() if size in held.solve and not names & set(self.compare)) if held else ()
        return (*sizes, "max_tokens") if self.length_budget or self.varied_budgets else sizes

    @property
    def varied_budgets(self) -> tuple[str, ...]:
        """The budgets that are compared, by their names in `compare`."""
        return tuple(name for name in self.compare if str(name).startswith(BUDGET))

    def smoke(self) -> Space:
        """The same question, small enough to see in a minute that it runs: few variants, few steps, too few for a budget of length."""
        compared = {name: values for name, values in self.compare.items() if name not in self.varied_budgets}
        compare = dict(compared) if self.method else _few(compared)
        tokens = SMOKE_STEPS * _largest(self.base, compare, *STEP_FIELDS)
        if "max_tokens" in compare:
            compare["max_tokens"] = _scaled_down(compare["max_tokens"], tokens)
        few_tokens = max(_largest(self.base, compare, "context_length"), min(self.base.eval_tokens, SMOKE_EVAL_TOKENS))
        base = self.base.copy(
            max_tokens=min(self.base.max_tokens or tokens, tokens),
            eval_tokens=few_tokens if self.metric == "val_loss" else self.base.eval_tokens,  # alphabets share the whole text
            num_evaluations=min(self.base.num_evaluations, 2),
        )
        tune = {name: choice.ends() for name, choice in self.tune.items()}
        method = self.method and replace(self.method, trials=min(self.method.trials, SMOKE_TRIALS))
        derive = _shortened(self.derive, tokens)
        small = replace(
            self, base=base, compare=compare, tune=tune, repeat=2, derive=derive, method=method, budget=self.size_budget, reference=None
        )
        return small if any(faults_of_reference(self.reference, small)) else replace(small, reference=self.reference)


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
    stated = "batch_tokens" in compare or base.batch_tokens is not None
    if stated and {"batch_size", "context_length"} <= set(names) and "batch_size" not in compare:
        names = ("batch_tokens", *(set(names) - {"batch_size", "context_length"}))
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
