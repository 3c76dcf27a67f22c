"""Memory: the predicted peak of a stack against what torch allocates on this GPU; leaves the ratio where planning reads it."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from archsweep.atomic import write_atomically
from archsweep.planning.memory import CALIBRATION_FILE, stack_memory_bytes
from archsweep.training.data import default_cache_dir
from archsweep.training.experiment import ArchitectureExperiment
from archsweep.training.metrics import peak_memory_bytes, reset_peak_memory
from archsweep.training.precision import device_name
from search_spaces.bases import GPT2, SMALL, TINY

if TYPE_CHECKING:
    from archsweep.config import ExperimentConfig

STEPS = 3
CASES: dict[str, tuple[ExperimentConfig, int]] = {
    "TINY, a stack of 8, bf16": (TINY.copy(precision="bf16"), 8),
    "SMALL, bf16": (SMALL, 1),
    "SMALL, a stack of 8, bf16": (SMALL, 8),
    "GPT2, bf16": (GPT2, 1),
    "GPT2, bf16, checkpointing": (GPT2.copy(gradient_checkpointing=True), 1),
    "GPT2, fp32": (GPT2.copy(precision="fp32"), 1),
    "SMALL as llama, bf16": (SMALL.copy(family="llama"), 1),
}


def main(cache_dir: Path | None = None) -> None:
    """Print predicted and measured peak of each case that fits this GPU, and keep the largest ratio."""
    print("\nMemory: predicted peak of a stack against the one that torch allocated")
    if not torch.cuda.is_available():
        print("This needs a CUDA device, and torch sees none: nothing was measured, and predictions keep their default margin.")
        return
    device = torch.device("cuda")
    name = device_name(device)
    print(f"{name}, torch {torch.__version__}")
    measure(*CASES["SMALL, bf16"], cache_dir)  # thrown away: cuBLAS keeps the workspace of its first product, which belongs to no stack
    ratios = []
    for case, (config, replicas) in CASES.items():
        free, _ = torch.cuda.mem_get_info(device)
        if stack_memory_bytes(config, replicas).total > 0.9 * free:
            print(f"{case:>28}: left out, {free / 1e9:.1f} GB are free")
            continue
        predicted, measured = measure(config, replicas, cache_dir)
        ratios.append(measured / predicted)
        print(f"{case:>28}: {predicted / 1e6:9,.0f} MB predicted {measured / 1e6:9,.0f} MB measured, ratio {ratios[-1]:.2f}", flush=True)
    _keep(cache_dir or Path(os.environ.get("ARCHSWEEP_CACHE") or default_cache_dir()), name, max(ratios))


def measure(config: ExperimentConfig, replicas: int, cache_dir: Path | None = None) -> tuple[int, int]:
    """(predicted, measured) bytes of `replicas` replicas that train STEPS steps as one stack on the current GPU."""
    config = config.copy(
        dataset="stdlib",
        tokenizer="bpe",
        num_evaluations=1,
        gradient_accumulation_steps=1,
        max_tokens=STEPS * config.batch_size * config.context_length,
        eval_tokens=config.context_length,
        micro_batch_size=config.batch_size,
    )
    seeds = [config.replica.model_copy(update={"seed": seed}) for seed in range(replicas)]
    device = torch.device("cuda")
    reset_peak_memory(device)  # and what earlier cases left is gone
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    experiment = ArchitectureExperiment(config, seeds, cache_dir=cache_dir, stack_size=replicas)
    experiment.setup()
    reset_peak_memory(device)
    for running in experiment.stacks:
        running.train(0, STEPS)
    return stack_memory_bytes(config, replicas).total, peak_memory_bytes(device) - before


def _keep(cache_dir: Path, device: str, ratio: float) -> None:
    """Write the ratio of `device` beside those of others."""
    path, ratios = cache_dir / CALIBRATION_FILE, {}
    with suppress(OSError, ValueError):
        ratios = json.loads(path.read_text())
    write_atomically(path, json.dumps({**ratios, device: round(ratio, 3)}, indent=2) + "\n")


if __name__ == "__main__":
    main()
