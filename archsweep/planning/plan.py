"""Plan and Trial: which models will be trained, each trial named by the hash of its content and priced, before anything runs."""

from __future__ import annotations

from itertools import product, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, JsonValue, ValidationError

from archsweep.atomic import write_atomically
from archsweep.config import CURVE_PARTS, DECISION_PARTS, DEFAULT_MARGIN, RECORDED_OTHERWISE, TUNABLE, ExperimentConfig, Replica, label
from archsweep.errors import ArchsweepError, RecordError, SpaceError
from archsweep.planning.budget import solve
from archsweep.planning.cost import Cost, amount, cost
from archsweep.planning.grid import Refusal, Variant, grid, plain
from archsweep.planning.length import Speed, solve_length
from archsweep.planning.memory import stack_memory_bytes
from archsweep.space import Space
from archsweep.vocabulary import Budget, Metric, Optuna, as_budgets, varied_budget

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from archsweep.vocabulary import Value

__all__ = ["Cost", "Plan", "Point", "Refusal", "Replica", "Trial", "make_plan"]

FIRST = 10  # trials of a search that depend on no result (optuna's own number), and the size of NSGA-II's generations
MOST_FRUITLESS = 200  # suggestions in a row that train nothing before a search's space is taken for exhausted


class Trial(BaseModel):
    """One variant with its replicas, or a part of them: the unit that is scheduled, retried and recorded. `cost` is one replica's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    variant: dict[str, JsonValue]
    config: ExperimentConfig
    replicas: tuple[Replica, ...]
    cost: Cost
    prune_tune: bool = False
    early_stopping: bool = False  # of its variant

    @property
    def label(self) -> str:
        """The variant in words, as "num_layers=2 num_heads=4"."""
        return label(self.variant)

    @property
    def work(self) -> int:
        """Relative time of all its replicas."""
        return self.cost.work * len(self.replicas)

    @property
    def steps(self) -> int:
        """Optimizer steps of each replica."""
        return self.cost.train_tokens // self.config.tokens_per_step

    @property
    def evaluations(self) -> int:
        """Evaluations of each replica: a step has at most one."""
        return min(self.config.num_evaluations, self.steps)

    @property
    def earlier_parts(self) -> int:
        """An evaluation before the last reads one window in so many."""
        return DECISION_PARTS if self.prune_tune or self.early_stopping else CURVE_PARTS

    @property
    def evaluated_tokens(self) -> int:
        """Tokens that all evaluations of one replica read."""
        return self.config.eval_tokens + (self.evaluations - 1) * (self.config.eval_tokens // self.earlier_parts)

    def with_replicas(self, replicas: tuple[Replica, ...], corpus_id: str) -> Trial:
        """The same variant with these replicas: a trial of another name."""
        content = [replica.model_dump(mode="json") for replica in replicas]
        how = [name for name in RECORDED_OTHERWISE if getattr(self, name)]
        return self.model_copy(update={"id": self.config.content_id(content, corpus_id, *how), "replicas": replicas})

    @property
    def memory_bytes(self) -> int:
        """The predicted peak on a GPU, where it trains whole batches in the largest stacks that gain from it."""
        size = self.config.gpu_stack_size(len(self.replicas))
        return stack_memory_bytes(self.config, size, waiting=len(self.replicas) - size).total

    @property
    def training_memory_bytes(self) -> int:
        """The predicted peak on a GPU of training one such model: the architecture's own, however its replicas are trained."""
        return stack_memory_bytes(self.config, 1).total


class Point(BaseModel):
    """A search's suggestion, in its sampler's words: the trial that has its result (where `duplicate`, an earlier point's), or why none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    params: dict[str, JsonValue]
    attributes: dict[str, JsonValue] = {}  # what the sampler noted of it
    trial: str | None = None
    duplicate: bool = False
    refused: str | None = None


def fruitless(points: Sequence[Point]) -> int:
    """How many of a search's last points in a row trained nothing."""
    return sum(1 for _ in takewhile(lambda point: point.trial is None or point.duplicate, reversed(points)))


def unchosen(trials: int, known: int, points: Sequence[Point]) -> int:
    """How many of its `trials` a search has yet to choose; none where it finds nothing new any more."""
    return 0 if fruitless(points) >= MOST_FRUITLESS else max(0, trials - known)


class Plan(BaseModel):
    """Every trial that will run, those that take longest first, and every variant that will not, with the reason.

    A search's plan grows: its first trials are known before anything runs, and each suggestion adds to `points` and `trials`, in order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    question: str
    command: str = ""  # that runs this plan
    compare: tuple[str, ...]
    tune: tuple[str, ...]
    repeat: int
    budget: Budget | tuple[Budget, ...] | None
    corpus_id: str
    trials: tuple[Trial, ...]
    refused: tuple[Refusal, ...]
    early_stopping: str | None = None
    method: Optuna | None = None
    search_id: str | None = None  # names what a search asks, whatever its number of trials
    reference: dict[str, JsonValue] | None = None  # the variant that all others are tested against; None: every pair is tested
    margin: float = DEFAULT_MARGIN  # the part of the loss below which two variants count as equal
    metric: Metric = "val_loss"  # what is compared
    ranges: dict[str, str] = {}  # of a search: what it may choose for each compared field
    points: tuple[Point, ...] = ()
    space: InstanceOf[Space] | None = Field(None, exclude=True, repr=False)  # what made the plan; one that was read from a file has none

    @property
    def size(self) -> int:
        """The trials that will have run at the end."""
        return max(len(self.trials), self.method.trials) if self.method else len(self.trials)

    @property
    def is_of_one_config(self) -> bool:
        """Whether `make_single_plan` made it: no space compares names."""
        return self.compare == ("experiment_name",)

    @property
    def unchosen(self) -> int:
        """The trials that its search has yet to choose."""
        return unchosen(self.method.trials, len(self.trials), self.points) if self.method else 0

    @property
    def keeps_trials_whole(self) -> bool:
        """Whether something looks at whole trials before their end: then none is trained in parts."""
        return bool(self.method or self.early_stopping or any(trial.prune_tune for trial in self.trials))

    def reading(self, config: ExperimentConfig) -> ExperimentConfig:
        """The config with the length by which all of the plan read the same text: that of its longest trial, as how much of a hub's dataset
        is read follows from it; in a search of its first ones', since that must stay as it is."""
        known = self.trials[:FIRST] if self.method else self.trials
        return config.copy(max_tokens=max((trial.config.max_tokens or 0 for trial in known), default=config.max_tokens))

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """Every budget that its variants share."""
        return as_budgets(self.budget)

    def save(self, path: str | Path) -> Path:
        """Write the plan as JSON to `path`, whole or not at all; returns the path."""
        return write_atomically(path, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a plan that `save` wrote. Raises RecordError where there is none."""
        try:
            return cls.model_validate_json(Path(path).read_text())
        except (OSError, UnicodeDecodeError, ValidationError, ArchsweepError) as error:
            raise RecordError(f"{path} must be a plan, as every run writes it: {error}") from None


def make_plan(name: str, question: str, space: Space, corpus_id: str, command: str = "", speed: Speed | None = None) -> Plan:
    """The plan of the sweep `name`; `command` is what runs it, for the report; `speed` is what a budget of seconds is solved with.

    Raises SpaceError where no variant is left, ConfigError where the name cannot name a folder.
    """
    plan = Plan(
        name=name,
        question=question,
        command=command,
        compare=tuple(space.compare),
        tune=tuple(space.tune),
        repeat=space.repeat,
        budget=space.budget,
        corpus_id=corpus_id,
        trials=(),
        refused=(),
        early_stopping=space.early_stopping and repr(space.early_stopping),
        margin=space.margin,
        metric=space.metric,
        space=space if space.method or space.early_stopping else None,
    )
    plan = _first_points(plan, space) if space.method else plan.model_copy(update=_whole_grid(plan, space, speed))
    if not plan.trials:
        reasons = "\n".join(f"  - {label(refusal.variant)}: {refusal.reason}" for refusal in plan.refused)
        raise SpaceError(f"{name}: none of the {len(plan.refused)} variants can be trained\n{reasons}")
    return plan if space.reference is None else plan.model_copy(update={"reference": _reference(plan, space.reference)})


def _reference(plan: Plan, values: Mapping[str, Value]) -> dict[str, JsonValue]:
    """The variant with these values. Raises SpaceError where no trial has it, before anything trains for tests that could not be made."""
    wanted = {name: plain(value) for name, value in values.items()}
    found = next((trial.variant for trial in plan.trials if trial.variant == wanted), None)
    if found is None:
        refused = next((f"it is refused: {refusal.reason}" for refusal in plan.refused if refusal.variant == wanted), None)
        raise SpaceError(
            f"{plan.name}: the reference must be one of the variants that are trained, got {label(wanted)}: "
            f"{refused or 'no variant has exactly these values'}. Choose another reference, or leave it out."
        )
    return found


def _first_points(plan: Plan, space: Space) -> Plan:
    from archsweep.planning.search import Search  # optuna takes a second to import

    method, ranges = space.method, {name: repr(values) for name, values in space.compare.items()}
    assert method is not None
    roles = [ranges, repr(space.tune), space.repeat, repr(space.budget), plan.early_stopping, plan.corpus_id]
    search_id = space.base.content_id(*roles, [method.sampler, method.seed, method.objectives])
    return Search(plan.model_copy(update={"method": method, "search_id": search_id, "ranges": ranges})).begin()


def _whole_grid(plan: Plan, space: Space, speed: Speed | None) -> dict[str, object]:
    variants = settled(space, grid(space), speed)
    trials = [trial_of(plan, space, variant) for variant in variants if isinstance(variant, Variant)]
    first: dict[str, Trial] = {}
    for trial in trials:
        if (same := first.setdefault(trial.id, trial)) is not trial:
            raise SpaceError(
                f"{plan.name}: {same.label} and {trial.label} must be different models, and they are one: what is compared is changed by "
                "nothing else than its name, as derive, the budget or an override has the last word. Compare another field."
            )
    return {
        "trials": tuple(in_order(trials, plan.early_stopping)),
        "refused": tuple(variant for variant in variants if isinstance(variant, Refusal)),
    }


def in_order(trials: Iterable[Trial], early_stopping: str | None) -> list[Trial]:
    """The order in which trials begin: the longest first; with early stopping, which depends on who comes first, one that tells nothing."""
    return sorted(trials, key=lambda trial: trial.id) if early_stopping else longest_first(trials)


def settled(space: Space, variants: list[Variant | Refusal], speed: Speed | None = None) -> list[Variant | Refusal]:
    """The variants as they would train, in the same order: with sizes and length as the budgets have them, and refused where these or
    `constrain` forbid them."""
    return [_constrained(space, variant) for variant in _long_enough(space, _sized(space, variants), speed)]


def _constrained(space: Space, variant: Variant | Refusal) -> Variant | Refusal:
    if space.constrain is None or isinstance(variant, Refusal):
        return variant
    try:
        reason = space.constrain(variant.config)
    except Exception as error:
        told = f"it raised {type(error).__name__}: {error} for {variant.values}"
        raise SpaceError(f"constrain must return a reason or None, {told}.") from error
    if reason is not None and not isinstance(reason, str):
        raise SpaceError(f"constrain must return a reason as text or None, got {reason!r} for {variant.values}.")
    return variant if reason is None else Refusal(variant=variant.values, reason=reason or "constrain refuses it")


def longest_first(trials: Iterable[Trial]) -> list[Trial]:
    """The order in which trials begin: those that take longest first, so that none of them is the last to end."""
    return sorted(trials, key=lambda trial: -trial.work)


def make_single_plan(config: ExperimentConfig, corpus_id: str, command: str = "") -> Plan:
    """The plan of one config as it is, whose length must be given by max_tokens: a sweep of one trial with one replica."""
    price, content = cost(config), [config.replica.model_dump(mode="json")]
    variant: dict[str, JsonValue] = {"experiment_name": config.experiment_name}
    trial = Trial(id=config.content_id(content, corpus_id), variant=variant, config=config, replicas=(config.replica,), cost=price)
    return Plan(
        name=config.experiment_name,
        question=f"How well does {config.experiment_name} train?",
        command=command,
        compare=tuple(variant),
        tune=(),
        repeat=1,
        budget=None,
        corpus_id=corpus_id,
        trials=(trial,),
        refused=(),
    )


def sized(space: Space) -> list[Variant | Refusal]:
    """Every variant in listed order, its sizes solved and its length still to be; a Refusal where no sizes meet the budget."""
    return _sized(space, grid(space))


def _sized(space: Space, variants: list[Variant | Refusal]) -> list[Variant | Refusal]:
    if space.size_budget is None:
        return variants
    open_variants = [variant for variant in variants if isinstance(variant, Variant)]
    sizes = [name for name in space.solved if name != "max_tokens"]
    solutions = iter(solve([variant.config for variant in open_variants], space.size_budget, sizes))
    return [variant if isinstance(variant, Refusal) else _settled(variant, next(solutions)) for variant in variants]


def _long_enough(space: Space, variants: list[Variant | Refusal], speed: Speed | None) -> list[Variant | Refusal]:
    """The variants with their lengths solved."""
    return [variant if isinstance(variant, Refusal) else _with_length(space, variant, speed) for variant in variants]


def _with_length(space: Space, variant: Variant, speed: Speed | None) -> Variant | Refusal:
    """The variant at the length that the space's budget, or its own where budgets are compared, has it train for."""
    budget = space.length_budget or varied_budget(variant.values)
    return variant if budget is None else _settled(variant, solve_length(variant.config, budget, speed))


def _settled(variant: Variant, solution: ExperimentConfig | str) -> Variant | Refusal:
    if isinstance(solution, str):
        return Refusal(variant=variant.values, reason=solution)
    return Variant(variant.values, solution)


def trial_of(plan: Plan, space: Space, variant: Variant) -> Trial:
    """The variant with all its replicas, as a trial of this plan."""
    config = variant.config.copy(experiment_name=plan.name)
    price = cost(config)
    for budget in filter(None, (*space.budgets, varied_budget(variant.values))):
        audited = amount(config, budget.kind)
        assert audited is None or budget.allows(audited), f"solved to {audited} for {budget}"
    how = {"prune_tune": space.prune_tune, "early_stopping": space.early_stopping is not None}
    trial = Trial(id="", variant=variant.values, config=config, replicas=(), cost=price, **how)
    return trial.with_replicas(replicas_of(space, config), plan.corpus_id)


def replicas_of(space: Space, config: ExperimentConfig) -> tuple[Replica, ...]:
    """Every tuned setting with every seed; what is not tuned has the config's value."""
    settings = product(*(space.tune[name].values if name in space.tune else (getattr(config, name),) for name in TUNABLE))
    return tuple(
        Replica.model_validate({"seed": seed, **dict(zip(TUNABLE, setting, strict=True))}) for setting in settings for seed in space.seeds
    )
