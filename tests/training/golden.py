"""Twenty steps whose losses lie in golden.json, so that a change of what training computes is seen. `make golden` renews them."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from archsweep.config import ExperimentConfig, Replica
from archsweep.training.experiment import ArchitectureExperiment

LOSSES = Path(__file__).with_name("golden.json")
REPLICAS = tuple(Replica(seed=seed, learning_rate=rate, weight_decay=0.1) for seed, rate in ((0, 3e-3), (1, 1e-2)))


def run() -> list[list[float]]:
    """The training loss of each of the steps, for each replica: (2, 20)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with TemporaryDirectory() as folder:
            text = Path(folder) / "squares.txt"
            text.write_text("\n\n".join(f"The square of {number} is {number * number}." for number in range(500)))
            config = ExperimentConfig(
                num_layers=2, num_heads=2, head_dim=8, context_length=32, dataset=f"text:{text}", vocab_size=300, batch_size=8, warmup=5,
                max_tokens=20 * 8 * 32, num_evaluations=20, eval_tokens=256, precision="fp32", device="cpu",
            )  # fmt: skip
            experiment = ArchitectureExperiment(config, REPLICAS, cache_dir=Path(folder) / "cache", stack_size=2)
            experiment.setup()
            evaluations = list(experiment.evaluations())
    finally:
        torch.set_num_threads(threads)
    return [[float(str(rows[replica]["train_loss"])) for rows in evaluations] for replica in range(2)]


if __name__ == "__main__":
    LOSSES.write_text(json.dumps(run(), indent=1) + "\n")
