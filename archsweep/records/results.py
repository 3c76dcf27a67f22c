"""ExperimentResults and MetricsTracker: what one experiment, run by hand, leaves behind."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self, SupportsFloat, TypedDict

from archsweep.atomic import write_atomically
from archsweep.config import ExperimentConfig
from archsweep.errors import RecordError
from archsweep.records.schema import CONFIG_FILE, OUTCOME_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping

Metric = int | float | str | None


class EpochMetrics(TypedDict):
    """What was measured in one epoch, in training and on the validation tokens."""

    epoch: int
    train: dict[str, Metric]
    validation: dict[str, Metric]


class MetricsTracker:
    """Collects the metrics of an experiment, an epoch at a time."""

    def __init__(self) -> None:
        self._epochs: list[EpochMetrics] = []

    def add_metrics(self, train_metrics: Mapping[str, object], val_metrics: Mapping[str, object]) -> None:
        """Add the next epoch's metrics; one-element tensors and numpy numbers become plain numbers."""
        epoch = EpochMetrics(epoch=len(self._epochs), train=_plain(train_metrics), validation=_plain(val_metrics))
        self._epochs.append(epoch)

    def get_all_metrics(self) -> list[EpochMetrics]:
        """Every epoch so far: [{"epoch": 0, "train": {...}, "validation": {...}}, ...]; a copy."""
        return deepcopy(self._epochs)


@dataclass(frozen=True)
class ExperimentResults:
    """One experiment: its config, its metrics by epoch, and flat numbers such as `tokens_per_second` and `parameters`."""

    config: ExperimentConfig
    metrics: list[EpochMetrics]
    performance_stats: dict[str, Metric]

    def save(self, folder: str | Path | None = None) -> Path:
        """Write config.json and results.json into `folder` (left out: results/<experiment_name>); returns the folder."""
        folder = Path(folder) if folder is not None else Path("results") / self.config.experiment_name
        self.config.save(folder / CONFIG_FILE)
        content = {"metrics": self.metrics, "performance_stats": _plain(self.performance_stats)}
        write_atomically(folder / OUTCOME_FILE, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote; a loss that was no number comes back as None. Raises RecordError, or ConfigError for its config."""
        path = Path(folder) / OUTCOME_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            metrics, performance = content["metrics"], content["performance_stats"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecordError(
                f"{path} must hold the metrics and performance_stats of one experiment: {type(error).__name__}: {error}. "
                "Give the folder that ExperimentResults.save returned; a sweep's folder is read by archsweep.records.read.load."
            ) from None
        return cls(config=ExperimentConfig.load(Path(folder) / CONFIG_FILE), metrics=metrics, performance_stats=performance)


def _plain(metrics: Mapping[str, object]) -> dict[str, Metric]:
    return {name: _number(name, value) for name, value in metrics.items()}


def _number(name: str, value: object) -> Metric:
    if value is None or isinstance(value, (int, float, str)):
        return value
    if isinstance(value, SupportsFloat):
        return float(value)
    raise RecordError(f"{name} must be one number, a text or None, got {type(value).__name__}. Leave it out of the metrics.")


def _finite(value: object) -> object:
    """The same value with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
