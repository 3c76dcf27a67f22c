"""Which setting and which replica of a trial are ahead, by the rows of one evaluation; and the best model so far, from its checkpoint."""

from __future__ import annotations

import math
from collections import defaultdict
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from torch import Tensor

    from archsweep.config import ExperimentConfig

TOKENIZER_FILE = "tokenizer.json"  # as a corpus names it, and beside a run's checkpoints

Setting = tuple[float, float]  # learning rate, weight decay


class Best(NamedTuple):
    """The best replica's row so far, its weights, (P,) float32 on the CPU, and its tokenizer.json."""

    row: dict[str, Any]
    weights: Tensor
    tokenizer: bytes


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


def saved_best(checkpoints: Path, warn: Callable[[str], object]) -> Best | None:
    """What the newest whole checkpoint in the folder holds; None where there is none, it is from before the first evaluation, or its
    tokenizer is not there (yet, or any more: a trial that ends takes its checkpoints with it)."""
    from archsweep.training.checkpoint import Checkpoints

    saved = Checkpoints(checkpoints, identity=None).load(warn)
    if saved is None or "best" not in saved[1]:
        return None
    try:
        return Best(saved[1]["best"], saved[0]["best"], (checkpoints / TOKENIZER_FILE).read_bytes())
    except FileNotFoundError:
        return None


def write_best(best: Best, config: ExperimentConfig, folder: Path) -> None:
    """Write the model and its tokenizer as a folder that Hugging Face's Auto classes open."""
    import torch

    from archsweep.training.replicas import ReplicaStack
    from archsweep.training.tokenizer import save_tokenizer

    stack = ReplicaStack(config, [config.replica], torch.device("cpu"))
    stack.weights[0] = best.weights
    stack.extract(0).save_pretrained(folder)
    (folder / TOKENIZER_FILE).write_bytes(best.tokenizer)
    save_tokenizer(folder / TOKENIZER_FILE, config.context_length, folder)
