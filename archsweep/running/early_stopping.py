"""EarlyStopping: which variants go on after an evaluation. Both runners ask it; it knows what the records say, after a restart too."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, isfinite
from statistics import median
from typing import TYPE_CHECKING, Any

from archsweep.records import write
from archsweep.records.schema import TRIALS_FOLDER
from archsweep.training.best import best_setting_loss
from archsweep.vocabulary import ASHA

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from archsweep.planning.plan import Trial
    from archsweep.vocabulary import MedianStopping

Rows = list[dict[str, Any]]


class EarlyStopping:
    """Compares variants by the loss that the report gives them, at the same part of each one's steps; `reasons` is why a trial was stopped.

    `trials` are those of the sweep in `folder`; others may come.
    """

    def __init__(self, rule: ASHA | MedianStopping, trials: Sequence[Trial], folder: Path) -> None:
        self.reasons: dict[str, str] = {}
        self._rule = rule
        self._parts: dict[str, set[str]] = {}  # of each variant, the trials that have its replicas
        self._rows: dict[Fraction, dict[str, dict[str, Rows]]] = {}  # by the part of the steps and variant, each trial's
        self._losses: dict[Fraction, dict[str, float]] = {}  # by that part, of each variant all of whose replicas were evaluated there
        self._stopped: dict[str, str] = {}  # by variant, why the first of its trials was stopped
        for trial in trials:
            self._expect(trial)
        for trial in trials:
            self.know(trial, folder)

    def know(self, trial: Trial, folder: Path) -> None:
        """Note what the sweep in `folder` has recorded of the trial."""
        self._expect(trial)
        for rows in write.recorded_evaluations(folder / TRIALS_FOLDER / trial.id).values():
            self._note(trial, rows)
        outcome = write.recorded_outcome(folder / TRIALS_FOLDER / trial.id)
        if outcome is not None and outcome.status == "stopped" and outcome.reason is not None:
            self._stopped.setdefault(trial.label, outcome.reason)

    def stops(self, trial: Trial, rows: Rows) -> bool:
        """Note an evaluation; whether the trial stops there. A run that repeats what it had reported is judged where it was last."""
        if trial.id in self.reasons or not rows:
            return trial.id in self.reasons
        self._expect(trial)
        part = self._note(trial, rows)
        been_beyond = any(at > part and trial.id in seen.get(trial.label, ()) for at, seen in self._rows.items())
        ended = all(row["status"] != "running" for row in rows)
        if been_beyond or ended or (why := self._why_it_stops(trial, part)) is None:
            return False
        self.reasons[trial.id] = f"stopped at step {rows[0]['step']} of {trial.steps}: {why}"
        self._stopped.setdefault(trial.label, self.reasons[trial.id])
        return True

    def _why_it_stops(self, trial: Trial, part: Fraction) -> str | None:
        """None where the trial goes on after the evaluation at this part of its steps."""
        if trial.label in self._stopped:  # without one of its trials the variant is compared with nobody
            return f"another trial of its variant was {self._stopped[trial.label]}"
        losses = self._losses.get(part, {})
        if part * trial.evaluations not in rungs(self._rule, trial.evaluations) or trial.label not in losses:
            return None  # there, other replicas of the variant are missing yet
        return reason_to_stop(self._rule, losses[trial.label], [loss for variant, loss in losses.items() if variant != trial.label])

    def _expect(self, trial: Trial) -> None:
        """A trial has replicas of its variant: where it has not been evaluated, the variant has no loss."""
        parts = self._parts.setdefault(trial.label, set())
        if trial.id not in parts:
            parts.add(trial.id)
            for losses in self._losses.values():
                losses.pop(trial.label, None)

    def _note(self, trial: Trial, rows: Rows) -> Fraction:
        """Keep the rows; the part of the steps that lie before their evaluation, of all that lie equally far apart."""
        part = Fraction(ceil(rows[0]["step"] * trial.evaluations / trial.steps), trial.evaluations)
        seen = self._rows.setdefault(part, {}).setdefault(trial.label, {})
        seen[trial.id] = rows
        if set(seen) == self._parts[trial.label]:
            self._losses.setdefault(part, {})[trial.label] = best_setting_loss([row for each in seen.values() for row in each])
        return part


def rungs(rule: ASHA | MedianStopping, evaluations: int) -> list[int]:
    """The numbers (from 1) of the evaluations at which the rule decides; never the last one, where nothing is left to save."""
    if not isinstance(rule, ASHA):
        return list(range(_first_at(rule.first, evaluations), evaluations))
    found, part = [], rule.first
    while (number := _first_at(part, evaluations)) < evaluations:
        found.append(number)
        part *= rule.reduction
    return list(dict.fromkeys(found))


def _first_at(part: float, evaluations: int) -> int:
    """The first evaluation after this part of the steps."""
    return max(1, ceil(part * evaluations - 1e-9))


def reason_to_stop(rule: ASHA | MedianStopping, loss: float, others: Sequence[float]) -> str | None:
    """Why a variant with this loss stops, among the losses of the others that have been there; None where it goes on."""
    if isinstance(rule, ASHA):
        kept = max(1, (len(others) + 1) // rule.reduction)
        rank = 1 + sum(other < loss for other in others)
        return None if rank <= kept else f"loss {_number(loss)} is number {rank} of {len(others) + 1} there, and the best {kept} go on"
    if len(others) < rule.fewest or not loss > median(others):
        return None
    return f"loss {_number(loss)} is above {_number(median(others))}, the median of the {len(others)} others there"


def _number(loss: float) -> str:
    return f"{loss:.4f}" if isfinite(loss) else "of a replica that diverged"
