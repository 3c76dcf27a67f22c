"""A plan against the one that its folder holds: whether they ask for the same models, and both together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archsweep.config import ANY_TIME, BUDGET, NOT_CONTENT, OVERRIDE, ExperimentConfig, Replica, label
from archsweep.errors import SpaceError
from archsweep.planning.plan import Plan, Trial, in_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pydantic import JsonValue

Model = tuple[str, Replica]  # what is trained: everything but the replica by its content id, and the replica

_SIZES = {"num_heads", "num_kv_heads", "head_dim", "hidden_size", "ffn_size"}  # each follows from others, or from the budget
_ROLES = ("compare", "tune", "budget", "corpus_id", "metric")


def reconcile(recorded: Plan, planned: Plan, *, extend: bool) -> Plan:
    """The plan to run where `recorded` is there already: itself where both ask for the same models; with `extend` itself and what is new.

    A variant's new replicas become a trial of their own, so that none is trained twice. Raises SpaceError where they may not be joined.
    """
    naming = "--set experiment_name=NAME" if planned.is_of_one_config else "--name"
    if (recorded.reference, recorded.margin) != (planned.reference, planned.margin):
        raise SpaceError(
            f"{planned.name} fixed what is tested before it ran: {_family(recorded)}. The space now says {_family(planned)}; chosen after "
            f"seeing losses, it would make the p-values untrue. Restore it, or give this sweep a name of its own with {naming}."
        )
    if planned.search_id is not None and planned.search_id == recorded.search_id:
        from archsweep.planning.search import gone_on  # optuna takes a second to import

        return gone_on(planned, recorded)
    if planned.search_id == recorded.search_id and {trial.id for trial in planned.trials} == {trial.id for trial in recorded.trials}:
        return _joined(recorded, planned, planned.trials)  # an id names all of a trial's content: there is nothing to compare
    there = _models(recorded)
    same = there == _models(planned) and not _is_outdated(recorded) and planned.search_id == recorded.search_id
    if not same and not extend:
        adding = "" if planned.is_of_one_config else "Add what is new with --extend. "
        raise SpaceError(
            f"{planned.name} holds another plan than this one: its search space, base, settings or text were different. "
            f"{adding}To keep both, give this sweep a name of its own with {naming}."
        )
    if not same and (faults := list(_obstacles(recorded, planned))):
        raise SpaceError(f"{planned.name} cannot be extended: {'; '.join(faults)}. Give this sweep a name of its own with {naming}.")
    added = [trial for each in planned.trials if (trial := _missing(each, there, planned.corpus_id))]
    return _joined(recorded, planned, in_order([*_as_planned(recorded, planned), *added], planned.early_stopping))


def _joined(recorded: Plan, planned: Plan, trials: Iterable[Trial]) -> Plan:
    """The planned sweep with `trials`, and with what the recorded one had refused and repeated."""
    refused = {label(refusal.variant): refusal for refusal in (*recorded.refused, *planned.refused)}
    return planned.model_copy(
        update={"trials": tuple(trials), "refused": tuple(refused.values()), "repeat": max(recorded.repeat, planned.repeat)}
    )


def _family(plan: Plan) -> str:
    tested = "every pair" if plan.reference is None else f"all against {label(plan.reference)}"
    return f"{tested}, with a margin of {plan.margin:.2%}"


def _as_planned(recorded: Plan, planned: Plan) -> Iterator[Trial]:
    """The recorded trials, with the settings of now that decide nothing about their models, as the device."""
    now = {_architecture(trial.config, planned.corpus_id): trial.config for trial in planned.trials}
    for trial in recorded.trials:
        config = now.get(_architecture(trial.config, recorded.corpus_id), trial.config)
        yield trial.model_copy(update={"config": trial.config.copy(**{name: getattr(config, name) for name in ANY_TIME})})


def _is_outdated(plan: Plan) -> bool:
    """Whether its trials were named by another version of the trainer."""
    return any(trial.id != trial.with_replicas(trial.replicas, plan.corpus_id).id for trial in plan.trials)


def _models(plan: Plan) -> set[Model]:
    architectures = [_architecture(trial.config, plan.corpus_id) for trial in plan.trials]
    return {(name, replica) for name, trial in zip(architectures, plan.trials, strict=True) for replica in trial.replicas}


def _architecture(config: ExperimentConfig, corpus_id: str) -> str:
    """Names everything that decides a model but its replica."""
    return config.copy(seed=0, learning_rate=1.0, weight_decay=0.0).content_id(corpus_id)


def _missing(trial: Trial, there: set[Model], corpus_id: str) -> Trial | None:
    """The trial with those of its replicas that are not there yet; None where all are."""
    architecture = _architecture(trial.config, corpus_id)
    replicas = tuple(replica for replica in trial.replicas if (architecture, replica) not in there)
    return trial.with_replicas(replicas, corpus_id) if replicas else None


def _obstacles(recorded: Plan, planned: Plan) -> Iterator[str]:
    """Why the two are not one question."""
    if planned.search_id or recorded.search_id:
        yield "what a search has chosen from belongs to it"
    for role in _ROLES:
        before, now = getattr(recorded, role), getattr(planned, role)
        if before != now:
            yield f"its {role} was {before}, and is {now} now"
    if _is_outdated(recorded):
        yield "another version of the trainer made it"
    variants = {trial.label: _architecture(trial.config, recorded.corpus_id) for trial in recorded.trials}
    for trial in planned.trials:
        if variants.get(trial.label, _architecture(trial.config, planned.corpus_id)) != _architecture(trial.config, planned.corpus_id):
            yield f"{trial.label} was another architecture, or trained otherwise"
            return
    before, now = _shared(recorded), _shared(planned)
    for name in before.keys() & now.keys():
        if before[name] != now[name]:
            yield f"{name} was {before[name]} in all of it, and is {now[name]} now"


def _shared(plan: Plan) -> Mapping[str, JsonValue]:
    """The fields that all its variants have the same of, by the question's own choice."""
    apart = {*plan.compare, *plan.tune, "seed", *NOT_CONTENT}
    if plan.budgets or _SIZES & set(plan.compare):
        apart |= _SIZES
    if any(budget.solves_length for budget in plan.budgets) or any(name.startswith(BUDGET) for name in plan.compare):
        apart |= {"max_tokens"}
    if any(name.startswith(OVERRIDE) for name in plan.compare):
        apart |= {"model_overrides"}
    if "context_length" in plan.compare:  # a batch that was stated in tokens
        apart |= {"batch_size"}
    first, *others = (trial.config.to_dict() for trial in plan.trials)
    return {name: value for name, value in first.items() if name not in apart and all(config[name] == value for config in others)}
