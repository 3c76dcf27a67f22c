"""What a worker does with one trial, whichever process it is in: train it and report. The one file here that imports training."""

from __future__ import annotations

import platform
import socket
from collections import defaultdict
from importlib.metadata import version
from statistics import fmean
from time import perf_counter
from typing import TYPE_CHECKING, Any

from archsweep.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from archsweep.planning.plan import Trial

# rows, step, tokens, val_loss, trial_seconds, hostname, device_name, software, corpus_id: what Ray brings to the driver, and Tune's frame
Report = dict[str, Any]


def train_trial(trial: Trial, corpus_id: str, cache_dir: Path | None, threads: int) -> Iterator[Report]:
    """Train all replicas of `trial`; yields after each evaluation. The last report's rows are finished or diverged.

    Raises DataError where this machine's corpus is not the driver's.
    """
    import torch

    from archsweep.training.experiment import ArchitectureExperiment
    from archsweep.training.precision import device_name, resolve_precision

    started = perf_counter()
    torch.set_num_threads(threads)
    experiment = ArchitectureExperiment(trial.config, trial.replicas, cache_dir=cache_dir)
    experiment.setup()
    if experiment.data.corpus.id != corpus_id:
        raise DataError(
            f"the corpus {trial.config.dataset} differs between machines: {experiment.data.corpus.id} on {socket.gethostname()}, "
            f"{corpus_id} where the sweep was started. Use the same Python version on both, or dataset=text: with the same files."
        )
    for rows in experiment.evaluations():
        yield {
            "rows": rows,
            "step": rows[0]["step"],
            "tokens": rows[0]["tokens"],
            "val_loss": best_setting_loss(rows),
            "trial_seconds": perf_counter() - started,
            "hostname": socket.gethostname(),
            "device_name": device_name(experiment.device),
            "precision_used": resolve_precision(trial.config, experiment.device),
            "software": software(),
            "corpus_id": corpus_id,
        }


def software() -> str:
    """The versions that decide what a config trains to."""
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in ("torch", "transformers", "numpy"))])


def best_setting_loss(rows: list[dict[str, Any]]) -> float:
    """The trial's one number: the lowest mean over seeds among the tuned settings; infinite where every setting lost a replica."""
    by_setting = defaultdict(list)
    for row in rows:
        by_setting[row["learning_rate"], row["weight_decay"]].append(float("inf") if row["val_loss"] is None else row["val_loss"])
    return min(fmean(losses) for losses in by_setting.values())
