"""Which tuned settings of a trial are given up half-way, so that the others train faster. Off unless a space asks for it."""

from __future__ import annotations

import math
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from archsweep.training.best import by_setting, loss

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PART = 0.5  # of the steps, before which nothing is given up
MARGIN = 0.1  # nats/token: more than what a high rate still gains on a low one when it decays, in most cases but not in all


class Hopeless(NamedTuple):
    """A tuned setting that is given up, and why."""

    learning_rate: float
    weight_decay: float
    reason: str


def hopeless(rows: Sequence[dict[str, Any]]) -> Iterator[Hopeless]:
    """The settings, of one evaluation's rows, whose best seed is behind the worst seed of the best setting, by more than MARGIN and more
    than that setting's seeds are apart; and those that lost a seed, which no longer count. None where no setting has all its seeds."""
    settings = {setting: [loss(row) for row in own] for setting, own in by_setting(rows).items()}
    best = min(settings.values(), key=fmean)
    if not math.isfinite(max(best)):
        return
    margin = max(MARGIN, max(best) - min(best))
    for (learning_rate, weight_decay), losses in settings.items():
        if not math.isfinite(max(losses)):
            yield Hopeless(learning_rate, weight_decay, "another seed of this setting diverged, so it no longer counts")
        elif min(losses) - max(best) > margin:
            gap = f"its best seed, {min(losses):.4f}, is {min(losses) - max(best):.4f} above the worst of the best setting"
            yield Hopeless(learning_rate, weight_decay, gap)
