"""What a worker does with one trial, whichever process it is in: train it and report. The one file here that imports torch."""

from __future__ import annotations

import platform
import socket
from contextlib import closing
from importlib.metadata import version
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from archsweep.errors import MachineError
from archsweep.imports import without_collector
from archsweep.planning.memory import CUDA_CONTEXT_BYTES, SCRATCH_BYTES, calibration, largest_micro_batch, largest_stack, stack_memory_bytes
from archsweep.records.schema import CHECKPOINT_FOLDER, MODEL_FOLDER, MODELS_FOLDER
from archsweep.running.trackers import replica_name
from archsweep.training.best import best_replica, best_setting_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from pathlib import Path

    import torch

    from archsweep.planning.plan import Trial
    from archsweep.training.experiment import ArchitectureExperiment

# rows, step, tokens, val_loss, trial_seconds, hostname, …: what Ray brings to the driver, and Tune's frame
Report = dict[str, Any]
KeepModels = Literal["best", "all", "none"]  # of a finished trial: the best replica's, every one that finished, or no model

HEARTBEAT_SECONDS = 2.0  # between reports without rows: what moves the bar, and lets a trial be stopped


def are_last(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a trial ends with these rows of a report: there are some, and none of their replicas goes on."""
    return bool(rows) and all(row["status"] != "running" for row in rows)


class Storage(NamedTuple):
    """Where a trial's tokens come from (None: the user's cache), how often it saves itself, and which models stay."""

    cache_dir: Path | None
    checkpoint_seconds: float
    keep_models: KeepModels


def corpus_folder(corpus_id: str, storage: Storage) -> Path:
    """Where this machine's cache holds the corpus, or would hold it."""
    from archsweep.training.data import default_cache_dir

    return (storage.cache_dir or default_cache_dir()) / corpus_id


def receive_corpus(corpus_id: str, storage: Storage, files: Callable[[str], Mapping[str, memoryview]]) -> None:
    """Put the corpus's `files` into this machine's cache, if they are not there. Raises MachineError where it cannot be written."""
    from archsweep.training.data import prepared, receive

    if prepared(corpus_id, storage.cache_dir) is None:
        receive(corpus_id, files(corpus_id), storage.cache_dir)


def train_trial(
    trial: Trial, corpus_id: str, storage: Storage, threads: int, folder: Path, gpu_share: float = 0.0
) -> Generator[Report, None, None]:
    """Train all replicas of `trial`, from the checkpoint in its `folder` on where there is one.

    Yields after each evaluation, and in between with no rows. The last report's rows are finished or diverged. Closing the iterator saves
    the trial.

    Raises MachineError where this machine's cache does not hold the corpus.
    """
    with without_collector():
        import torch

        from archsweep.training.allocator import keep_freed_memory
        from archsweep.training.hardware import EnergyMeter
        from archsweep.training.precision import precision_used

    started = perf_counter()
    torch.set_num_threads(threads)
    keep_freed_memory()
    warnings: list[str] = []
    experiment = _experiment(trial, corpus_id, storage, folder, gpu_share, warnings.append)
    precision = precision_used(trial.config, experiment.device)
    constant = {
        **_circumstances(experiment, precision),
        "training_memory_bytes": trial.training_memory_bytes,
        "gpu_share": gpu_share,
        "warnings": warnings,
    }
    last: dict[str, Any] = {"step": experiment.resumed_at, "tokens": 0, "val_loss": float("inf")}
    largest = max(len(running.stack) for running in experiment.stacks)  # replicas that are given up later were there at the peak
    waiting = len(experiment.replicas) - largest
    reported = perf_counter()
    with EnergyMeter(experiment.device) as energy, closing(experiment.training()) as training:
        for rows in training:
            if rows is None and perf_counter() - reported < HEARTBEAT_SECONDS:
                continue
            reported = perf_counter()
            ends = {}
            if rows is not None:
                micro = max(running.micro_batch_size for running in experiment.stacks)
                peak = stack_memory_bytes(trial.config, largest, precision=precision, micro_batch=micro, waiting=waiting).total
                rows = [row | {"predicted_memory_bytes": peak} for row in rows]
                last = {"tokens": rows[0]["tokens"], "val_loss": best_setting_loss(rows)}
                if are_last(rows):
                    ends = _keep(experiment, rows, folder, storage.keep_models) | {"device_energy_joules": energy.joules()}
            told = {"rows": rows or [], "step": experiment.steps_done, "trial_seconds": perf_counter() - started}
            yield {**constant, **last, **ends, **told}


def _experiment(
    trial: Trial, corpus_id: str, storage: Storage, folder: Path, gpu_share: float, warn: Callable[[str], object]
) -> ArchitectureExperiment:
    """The trial's training, set up, from its checkpoint on where there is one. Raises MachineError where the corpus is not here."""
    with without_collector():
        from archsweep.training.data import prepared
        from archsweep.training.experiment import ArchitectureExperiment
        from archsweep.training.precision import resolve_device

    corpus = prepared(corpus_id, storage.cache_dir)
    if corpus is None:
        raise MachineError(
            f"{corpus_folder(corpus_id, storage)} on {socket.gethostname()} must hold the tokenized corpus, and does not: it was removed "
            "while the sweep ran. Run the same command again."
        )

    experiment = ArchitectureExperiment(
        trial.config,
        trial.replicas,
        corpus=corpus,
        checkpoint_dir=folder / CHECKPOINT_FOLDER,
        checkpoint_seconds=storage.checkpoint_seconds,
        prune_tune=trial.prune_tune,
        earlier_parts=trial.earlier_parts,
        warn=warn,
        **_fit(trial, resolve_device(trial.config), gpu_share, storage.cache_dir),
    )
    experiment.setup()
    return experiment


def _circumstances(experiment: ArchitectureExperiment, precision: str) -> dict[str, Any]:
    """Where, with what and on which text the trial trains, and from which step on."""
    from archsweep.training.precision import device_name

    corpus = experiment.data.corpus
    return {
        "hostname": socket.gethostname(),
        "device_name": device_name(experiment.device),
        "precision_used": precision,
        "software": software(),
        "corpus_id": corpus.id,
        "corpus_tokens": corpus.train_tokens,
        "resumed_at": experiment.resumed_at,
    }


def _fit(trial: Trial, device: torch.device, gpu_share: float, cache_dir: Path | None) -> dict[str, Any]:
    """How the trial fits its share of a GPU: replicas to a stack, windows to the first micro-batch, and whether running out of memory
    makes those smaller. It does so only on a whole GPU: a smaller share is given back for a larger one. On a CPU: nothing to fit.
    """
    import torch

    from archsweep.training.data import default_cache_dir
    from archsweep.training.precision import device_name, resolve_precision

    if device.type != "cuda":
        return {"shrinks": not 0 < gpu_share < 1}
    part = min(1.0, gpu_share or 1.0)
    whole = torch.cuda.get_device_properties(device).total_memory
    free = max(0, int(whole * part) - CUDA_CONTEXT_BYTES)
    # Ray's share is bookkeeping: this holds the trial to it. By the index, None for the current one: "cuda" alone is refused here.
    torch.cuda.set_per_process_memory_fraction(free / whole, device.index)
    precision = resolve_precision(trial.config, device)
    measured = calibration(cache_dir or default_cache_dir(), device_name(device))
    room, replicas = free - SCRATCH_BYTES, len(trial.replicas)
    stack_size = largest_stack(trial.config, replicas, room, precision=precision, calibration=measured)
    waiting = replicas - stack_size
    first = largest_micro_batch(trial.config, stack_size, room, precision=precision, calibration=measured, waiting=waiting)
    return {"stack_size": stack_size, "micro_batch_size": first, "shrinks": part == 1.0}


def _keep(experiment: ArchitectureExperiment, rows: list[dict[str, Any]], folder: Path, keep_models: KeepModels) -> dict[str, Any]:
    """Save the models that are kept in the trial's folder; what the best one does in inference. Nothing where every replica diverged."""
    from archsweep.training.metrics import MetricsCalculator

    if (best := best_replica(rows)) is None:
        return {}
    if keep_models != "none":
        (folder / MODEL_FOLDER).mkdir(exist_ok=True)  # an error where the trial's folder is no longer there
        experiment.save_model(folder / MODEL_FOLDER, best)
    if keep_models == "all":
        for index, row in enumerate(rows):
            if row["status"] == "finished":
                experiment.save_model(folder / MODELS_FOLDER / replica_name(row), index)
    return MetricsCalculator.calculate_inference_speed(experiment.model(best))


def software() -> str:
    """The versions that decide what a config trains to."""
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in ("torch", "transformers", "numpy"))])
