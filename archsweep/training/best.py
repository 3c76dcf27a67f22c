"""Which setting and which replica of a trial are ahead, from the rows of one evaluation."""

from __future__ import annotations

import math
from collections import defaultdict
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Setting = tuple[float, float]  # learning rate, weight decay


def best_setting_loss(rows: Sequence[dict[str, Any]]) -> float:
    """The trial's one number: the lowest mean over seeds among the tuned settings; infinite where every setting lost a replica."""
    return min(map(_mean, by_setting(rows).values()))


def best_replica(rows: Sequence[dict[str, Any]]) -> int | None:
    """The index of the lowest loss within the best setting, or where every setting lost a replica, of all; None where all diverged."""
    best = min(by_setting(rows).values(), key=_mean)
    candidates = best if math.isfinite(_mean(best)) else rows
    row = min(candidates, key=loss)
    return rows.index(row) if row["val_loss"] is not None else None


def by_setting(rows: Iterable[dict[str, Any]]) -> dict[Setting, list[dict[str, Any]]]:
    """The rows of each tuned setting, one per seed."""
    settings = defaultdict(list)
    for row in rows:
        settings[row["learning_rate"], row["weight_decay"]].append(row)
    return dict(settings)


def loss(row: dict[str, Any]) -> float:
    """A replica's validation loss, infinite where it diverged."""
    return math.inf if row["val_loss"] is None else float(row["val_loss"])


def _mean(setting: Sequence[dict[str, Any]]) -> float:
    return fmean(loss(row) for row in setting)
