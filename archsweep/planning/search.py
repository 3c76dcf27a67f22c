"""Search: suggests the variants of an Optuna space one by one. The plan's points are its memory, optuna's journal a mirror of it.

A suggestion depends on the points before it, their results, and a sampler that is seeded by (seed, number): nothing else has to be saved.
"""

from __future__ import annotations

import json
import random
import warnings
from contextlib import nullcontext
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import BaseTrial, FixedTrial, FrozenTrial, TrialState, create_trial

from archsweep.config import label
from archsweep.errors import SpaceError
from archsweep.planning.grid import Refusal, chosen, plain, variant_of
from archsweep.planning.plan import FIRST, MOST_FRUITLESS, Plan, Point, Trial, fruitless, settled, trial_of
from archsweep.vocabulary import Choice, IntRange, LogUniform, Optuna, values_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pydantic import JsonValue

    from archsweep.space import Space
    from archsweep.vocabulary import Values

PATIENCE = 5  # suggestions in a row that train nothing before they are drawn at random
DIGITS = 4  # of a number from a range: what a variant's name can bear

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Result(NamedTuple):
    """How a trial ended: its loss (infinite where no tuned setting kept all its replicas), and its losses by step."""

    status: Literal["finished", "stopped", "failed"]
    val_loss: float = float("inf")
    decode_tokens_per_second: float | None = None
    losses: Mapping[int, float] = {}


def gone_on(planned: Plan, recorded: Plan) -> Plan:
    """The planned search with the points of the recorded one, which may have asked for another number of trials. Raises SpaceError where
    a point would train something else now."""
    space = _space(planned)
    asked = [FixedTrial(point.params) for point in recorded.points]
    variants = [variant_of(space, chosen(space, partial(_suggested, trial))) for trial in asked]
    trials: dict[str, Trial] = {}
    for point, variant in zip(recorded.points, settled(space, variants), strict=True):
        trial = None if isinstance(variant, Refusal) else trial_of(planned, space, variant)
        if point.trial != (trial and trial.id):
            values = variant.variant if isinstance(variant, Refusal) else variant.values
            raise SpaceError(
                f"{planned.name} holds a search in which {label(values)} was something else: its derive, constrain or prune_tune was "
                "different, or another version of the trainer made it. Restore it, or give this sweep a name of its own with --name."
            )
        if trial is not None:
            trials.setdefault(trial.id, trial)
    return planned.model_copy(update={"trials": tuple(trials.values()), "refused": recorded.refused, "points": recorded.points})


def _space(plan: Plan) -> Space:
    if plan.space is None or plan.method is None:
        raise SpaceError(f"{plan.name} must be planned from its search space to go on, and it was read from a file. Plan it again.")
    return plan.space


class Search:
    """Asks a sampler for points, refuses those that cannot be trained, and gives those it has trained before their result again.

    `results` are of the plan's trials by id, without those that will be trained again; `keep` gets the plan each time that it has grown;
    `journal` is the file in which optuna's own tools can watch the study; `opened` is around whatever either of them writes; `recorded` has
    the result of a suggestion that somebody trained.
    """

    def __init__(
        self,
        plan: Plan,
        results: Mapping[str, Result] | None = None,
        keep: Callable[[Plan], object] = lambda plan: None,
        journal: Path | None = None,
        opened: Callable[[], AbstractContextManager[object]] = nullcontext,
        recorded: Callable[[Trial], Result | None] = lambda trial: None,
    ) -> None:
        self._space = _space(plan)
        assert plan.method is not None
        self._method = plan.method
        self.plan = plan
        self.exhausted = False
        self._keep, self._opened, self._recorded = keep, opened, recorded
        self._several = len(plan.method.objectives) > 1
        self._numbers: list[int] = []  # of the points in the study
        self._mirror: _Mirror | None = None
        with _quiet():
            self._study = optuna.create_study(directions=["minimize"] * len(plan.method.objectives), study_name=plan.name)
            for point in plan.points:
                self._remember(point, (results or {}).get(point.trial or ""))
            if journal:
                with opened():
                    self._mirror = _Mirror(journal, self._study, plan.method)

    def begin(self) -> Plan:
        """Suggest the trials that depend on no result; the plan with them."""
        while len(self.plan.trials) < FIRST and self.suggest() is not None:
            pass
        return self.plan

    def trials(self, unfinished: list[Trial]) -> Iterator[Trial]:
        """The trials to train: those that are known, then one suggestion after another."""
        yield from unfinished
        while (trial := self.suggest()) is not None:
            yield trial

    def suggest(self) -> Trial | None:
        """The next variant to train; None where there are as many as there shall be, or where nothing new is found."""
        while len(self.plan.trials) < self._method.trials:
            if fruitless(self.plan.points) >= MOST_FRUITLESS:
                self.exhausted = True
                return None
            with _quiet():
                trial = self._suggest()
            if trial is not None and not self._ended_before(trial):
                return trial
        return None

    def _ended_before(self, trial: Trial) -> bool:
        """Whether a suggestion need not be trained; the study then has its result."""
        if (result := self._recorded(trial)) is None:
            return False
        for step, loss in result.losses.items():
            self.report(trial, step, loss)
        self.tell(trial, result)
        return True

    def report(self, trial: Trial, step: int, loss: float) -> None:
        """Note what an evaluation found; a point that has ended takes no more."""
        if self._several or not isfinite(loss):
            return
        for number in self._waiting_for(trial.id):
            if self._known(number).state.is_finished():
                continue
            self._study._storage.set_trial_intermediate_value(self._known(number)._trial_id, step, loss)
            self._mirrored(number)

    def tell(self, trial: Trial, result: Result) -> None:
        """Note how a trial ended; so ends every point that waits for it. One that had failed before has now this result beside it."""
        with _quiet():
            state, values = self._ending(trial, result)
            for number in self._waiting_for(trial.id):
                known = self._known(number)
                if known.state == TrialState.RUNNING:
                    self._study.tell(number, values, state)
                elif known.state == TrialState.FAIL and values is not None:
                    self._add(params=known.params, distributions=known.distributions, system_attrs=known.system_attrs, values=values)
                self._mirrored(number)

    def _suggest(self) -> Trial | None:
        """Ask once. The plan is kept before anything is trained, so that a kill forgets nothing."""
        self._study.sampler = self._sampler()
        asked = self._study.ask()
        values = chosen(self._space, partial(_suggested, asked))
        (variant,) = settled(self._space, [variant_of(self._space, values)])
        known = {trial.id: trial for trial in self.plan.trials}
        point = Point(params=asked.params, attributes=self._known(asked.number).system_attrs)
        self._numbers.append(asked.number)
        grown: dict[str, Any] = {}
        trial = None
        if isinstance(variant, Refusal):
            point = point.model_copy(update={"refused": variant.reason})
            grown["refused"] = (*self.plan.refused, variant)
            asked.set_user_attr("refused", variant.reason)
            self._study.tell(asked, state=TrialState.PRUNED)
        else:
            trial = trial_of(self.plan, self._space, variant)
            point = point.model_copy(update={"trial": trial.id, "duplicate": trial.id in known})
            asked.set_user_attr("trial", trial.id)
            if point.duplicate:
                self._take_over(asked.number, trial.id)
                trial = None
            else:
                grown["trials"] = (*self.plan.trials, trial)
        self.plan = self.plan.model_copy(update={**grown, "points": (*self.plan.points, point)})
        with self._opened():
            self._keep(self.plan)
        self._mirrored(asked.number)
        return trial

    def _take_over(self, number: int, trial_id: str) -> None:
        """Give a point the result that its trial has, if it has one by now."""
        ended = self._known(self._waiting_for(trial_id)[0])
        for step, loss in ended.intermediate_values.items():
            self._study._storage.set_trial_intermediate_value(self._known(number)._trial_id, step, loss)
        if ended.state.is_finished():
            self._study.tell(number, ended.values if ended.state == TrialState.COMPLETE else None, ended.state)

    def _remember(self, point: Point, result: Result | None) -> None:
        """Put a point of the plan back into the study, as it was when it was suggested, with what has become of it."""
        distributions = {name: _distribution(values_of(self._space.compare[name])) for name in point.params}
        trial = next((trial for trial in self.plan.trials if trial.id == point.trial), None)
        state, values = TrialState.RUNNING, None
        if point.refused is not None:
            state = TrialState.PRUNED
        elif trial is not None and result is not None:
            state, values = self._ending(trial, result)
        losses = {} if self._several or result is None else {step: loss for step, loss in result.losses.items() if isfinite(loss)}
        if state == TrialState.PRUNED and losses:
            values = [losses[max(losses)]]
        attributes = {"refused": point.refused} if point.refused else {"trial": point.trial}
        self._numbers.append(len(self._study.trials))
        self._add(
            state=state,
            values=values,
            params=point.params,
            distributions=distributions,
            user_attrs=attributes,
            system_attrs=dict(point.attributes),
            intermediate_values=losses,
        )

    def _add(self, **trial: Any) -> None:
        self._study.add_trial(create_trial(**trial))
        self._mirrored(len(self._study.trials) - 1)

    def _ending(self, trial: Trial, result: Result) -> tuple[TrialState, list[float] | None]:
        """A trial's last state and its objectives; what diverged or was stopped has none, and is no failure either."""
        if result.status == "failed":
            return TrialState.FAIL, None
        values = [_objective(name, trial, result) for name in self._method.objectives]
        if result.status == "stopped" or not all(isfinite(value) for value in values):
            return TrialState.PRUNED, None
        return TrialState.COMPLETE, values

    def _sampler(self) -> optuna.samplers.BaseSampler:
        """The sampler of the next point, seeded by the search's seed and the point's number alone."""
        seed = random.Random(f"{self._method.seed} {len(self.plan.points)}").getrandbits(32)
        kind = self._method.sampler
        if kind == "random" or fruitless(self.plan.points) >= PATIENCE:
            return optuna.samplers.RandomSampler(seed)
        if kind == "nsga2":
            return _Generations(population_size=FIRST, seed=seed)
        if len(self.plan.trials) < FIRST or not self._study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
            return optuna.samplers.RandomSampler(seed)
        if kind == "tpe":
            return optuna.samplers.TPESampler(n_startup_trials=1, seed=seed, warn_independent_sampling=False)
        return optuna.samplers.GPSampler(n_startup_trials=1, seed=seed, warn_independent_sampling=False)

    def _waiting_for(self, trial_id: str) -> list[int]:
        """The study's numbers of the points that get this trial's result."""
        return [number for number, point in zip(self._numbers, self.plan.points, strict=False) if point.trial == trial_id]

    def _known(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _mirrored(self, number: int) -> None:
        if self._mirror:
            with self._opened():
                self._mirror.show(self._known(number))


class _Generations(optuna.samplers.NSGAIISampler):
    """NSGA-II whose parents are in one order, whether it chooses them anew, as after a restart, or remembers them."""

    def select_parent(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        return sorted(super().select_parent(study, generation), key=lambda trial: trial.number)


class _Mirror:
    """The study once more, in a journal file. A file that holds it goes on, since others may have it open; any other is written anew."""

    def __init__(self, path: Path, study: optuna.Study, method: Optuna) -> None:
        path.with_name(f"{path.name}.lock").unlink(missing_ok=True)  # of a process that was killed while it wrote
        self._study = _held(path, study, method) or _begun(path, study, method)
        self._storage = self._study._storage
        self._ids: dict[int, int] = {}
        self._shown: dict[int, tuple[TrialState, set[int]]] = {}
        for trial in self._study.get_trials(deepcopy=False):
            self._ids[trial.number] = trial._trial_id
            self._shown[trial.number] = trial.state, set(trial.intermediate_values)
        for trial in study.get_trials(deepcopy=False):
            self.show(trial)

    def show(self, trial: FrozenTrial) -> None:
        """Bring the mirror up to this trial's state."""
        if trial.number not in self._ids:
            self._ids[trial.number] = self._storage.create_new_trial(self._study._study_id, template_trial=trial)
        else:
            (state, steps), own = self._shown[trial.number], self._ids[trial.number]
            for step in trial.intermediate_values.keys() - steps:
                self._storage.set_trial_intermediate_value(own, step, trial.intermediate_values[step])
            if trial.state != state:
                self._storage.set_trial_state_values(own, trial.state, trial.values)
        self._shown[trial.number] = trial.state, set(trial.intermediate_values)


def _begun(path: Path, study: optuna.Study, method: Optuna) -> optuna.Study:
    """The study in a new journal file, without its trials."""
    path.unlink(missing_ok=True)
    begun = optuna.create_study(storage=_journal(path), study_name=study.study_name, directions=study.directions)
    begun.set_metric_names(list(method.objectives))
    return begun


def _held(path: Path, study: optuna.Study, method: Optuna) -> optuna.Study | None:
    """The study as the journal file holds it; None where it holds another one, or none that can be read and go on."""
    if not path.exists() or not path.read_bytes().endswith(b"\n"):  # a kill tore its last line
        return None
    try:
        held = optuna.load_study(storage=_journal(path), study_name=study.study_name)
        trials = held.get_trials(deepcopy=False)
    except OSError:
        raise
    except Exception:  # whatever optuna makes of a file that it did not write
        return None
    ours = study.get_trials(deepcopy=False)
    same = (held.directions, held.metric_names) == (study.directions, list(method.objectives)) and len(trials) <= len(ours)
    return held if same and all(map(_becomes, trials, ours)) else None


def _journal(path: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(path)))


def _becomes(before: FrozenTrial, now: FrozenTrial) -> bool:
    """Whether a trial of a journal is this one of the study, or can become it by what is appended."""
    if (before.params, before.distributions, before.user_attrs) != (now.params, now.distributions, now.user_attrs):
        return False
    if TrialState.RUNNING == before.state == now.state:
        return True
    ended_alike = (before.state, before.values) == (now.state, now.values)
    return (ended_alike or before.state == TrialState.RUNNING) and before.intermediate_values.items() <= now.intermediate_values.items()


def _quiet() -> warnings.catch_warnings[None]:
    """Optuna warns of its newer parts, and of what a sampler cannot do that we do not ask of it."""
    return warnings.catch_warnings(action="ignore")


def _suggested(asked: BaseTrial, name: str, values: Values) -> JsonValue:
    """What the sampler chooses for one field."""
    if isinstance(values, Choice):
        words = _words(values)
        return plain(values.values[words.index(asked.suggest_categorical(name, words))])
    if isinstance(values, IntRange):
        return asked.suggest_int(name, values.low, values.high, step=values.step)
    found = asked.suggest_float(name, values.low, values.high, log=isinstance(values, LogUniform))
    return min(values.high, max(values.low, float(f"{found:.{DIGITS}g}")))


def _distribution(values: Values) -> BaseDistribution:
    if isinstance(values, Choice):
        return CategoricalDistribution(_words(values))
    if isinstance(values, IntRange):
        return IntDistribution(values.low, values.high, step=values.step)
    return FloatDistribution(values.low, values.high, log=isinstance(values, LogUniform))


def _words(choice: Choice) -> list[Any]:
    """The values as optuna takes them: plain ones as they are, lists and objects as JSON."""
    return [value if isinstance(value, (bool, int, float, str, type(None))) else json.dumps(plain(value)) for value in choice.values]


def _objective(name: str, trial: Trial, result: Result) -> float:
    if name == "val_loss":
        return result.val_loss
    if name == "decode_latency":
        return 1 / result.decode_tokens_per_second if result.decode_tokens_per_second else float("inf")
    return float(trial.training_memory_bytes if name == "memory" else getattr(trial.cost, name))
