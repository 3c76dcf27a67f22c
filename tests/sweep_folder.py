"""Sweep folders with planted losses, as a run leaves them, without training anything."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from archsweep.config import ExperimentConfig

if TYPE_CHECKING:
    from pathlib import Path

STEPS = (100, 200, 300)
TOKENS_PER_STEP = 1024

Loss = Callable[[Mapping[str, Any], float, int], float | None]  # of a variant at a learning rate and a seed


def write_sweep(
    folder: Path,
    variants: Sequence[Mapping[str, Any]],
    loss: Loss,
    *,
    rates: Sequence[float] = (1e-3, 3e-3, 1e-2),
    seeds: Sequence[int] = (0, 1, 2),
    question: str = "Heads or layers?",
    name: str = "heads_or_layers",
    budget: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    parameters: Callable[[Mapping[str, Any]], int] = lambda variant: 30_000,
    refused: Sequence[Mapping[str, Any]] = (),
    outcomes: Mapping[int, Mapping[str, Any] | None] | None = None,
    records: Mapping[int, float] | None = None,
) -> Path:
    """A sweep of `variants`, each at every rate and seed; a loss of None is a replica that diverged.

    `outcomes` gives results.json of the trial at an index (None: it has none); `records` the part of its evaluations that was written.
    """
    trials = [_trial(dict(variant), rates, seeds, name, parameters(variant)) for variant in variants]
    plan = {
        "name": name,
        "question": question,
        "compare": list(variants[0]),
        "tune": ["learning_rate"],
        "repeat": len(seeds),
        "budget": budget,
        "corpus_id": "c0ffee",
        "trials": trials,
        "refused": list(refused),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(plan))
    for index, trial in enumerate(trials):
        outcome = (outcomes or {}).get(index, {"status": "finished", "reason": None})
        _write_trial(folder / "trials" / trial["id"], trial, loss, (records or {}).get(index, 1.0), outcome)
    return folder


def _trial(variant: dict[str, Any], rates: Sequence[float], seeds: Sequence[int], name: str, parameters: int) -> dict[str, Any]:
    fields = {key: value for key, value in variant.items() if key in ExperimentConfig.model_fields}
    width = {} if "hidden_size" in fields else {"head_dim": 16}
    config = ExperimentConfig(**({"experiment_name": name, "num_layers": 2, "num_heads": 2, "context_length": 64} | width | fields))
    replicas = [{"seed": seed, "learning_rate": rate, "weight_decay": 0.1} for rate, seed in product(rates, seeds)]
    cost = {
        "parameters": parameters,
        "non_embedding_parameters": parameters - 10_000,
        "kaplan_parameters": parameters - 12_000,
        "flops_per_token": 6 * parameters,
        "train_tokens": STEPS[-1] * TOKENS_PER_STEP,
        "flops": 6 * parameters * STEPS[-1] * TOKENS_PER_STEP,
        "work": 1,
    }
    content = config.content_id(replicas, "c0ffee", variant)
    return {"id": content, "variant": variant, "config": config.to_dict(), "replicas": replicas, "cost": cost}


def _write_trial(folder: Path, trial: dict[str, Any], loss: Loss, part: float, outcome: Mapping[str, Any] | None) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(trial["config"]))
    lines = [
        json.dumps(record(replica, step, loss(trial["variant"], replica["learning_rate"], replica["seed"])))
        for replica in trial["replicas"]
        for step in STEPS[: round(part * len(STEPS))]
    ]
    if lines:
        (folder / "records.jsonl").write_text("\n".join(lines) + "\n")
    if outcome is not None:
        machine = {"trial_seconds": 12.5, "hostname": "node-1", "device_name": "a processor", "corpus_id": "c0ffee"}
        (folder / "results.json").write_text(json.dumps(machine | dict(outcome)))


def record(replica: Mapping[str, Any], step: int, final_loss: float | None) -> dict[str, Any]:
    """One line of records.jsonl: the loss falls towards `final_loss`, or is null in a replica that diverged."""
    val_loss = None if final_loss is None else final_loss + 0.5 * (STEPS[-1] / step - 1)
    last = "finished" if step == STEPS[-1] else "running"
    return {
        **replica,
        "status": "diverged" if final_loss is None else last,
        "reason": f"the loss was no number at step {step}" if final_loss is None else None,
        "step": step,
        "tokens": step * TOKENS_PER_STEP,
        "train_loss": val_loss,
        "val_loss": val_loss,
        "perplexity": None,
        "bits_per_byte": None if val_loss is None else val_loss / 2,
        "train_seconds": step / 40,
        "tokens_per_second": 40_960.0,
        "peak_memory_bytes": 3 * 2**28,
        "stack_size": 9,
    }
