"""One replica: ArchitectureExperiment against a plain PyTorch loop over the same Hugging Face model, batches and optimizer."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from archsweep.config import ExperimentConfig
from archsweep.training.experiment import ArchitectureExperiment
from archsweep.training.model import CustomGPT2Model
from benchmarks.timing import alternate, header, ratios

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STEPS, ROUNDS = 8, 15
SIZES: dict[str, dict[str, Any]] = {
    "2 layers x 64": {"num_layers": 2, "num_heads": 2, "hidden_size": 64, "context_length": 64},
    "4 layers x 128": {"num_layers": 4, "num_heads": 4, "hidden_size": 128, "context_length": 128},
    "6 layers x 320": {"num_layers": 6, "num_heads": 5, "hidden_size": 320, "context_length": 128},
}


def main() -> None:
    """Print the speed ratio for each size."""
    torch.set_num_threads(1)
    print(header("One replica: archsweep's speed over a plain loop's (smallest, median, largest of the rounds)", 1))
    for name, size in SIZES.items():
        experiment = ArchitectureExperiment(ExperimentConfig(**size, batch_size=8, max_tokens=10**9))
        experiment.setup()
        seconds = alternate({"ours": _ours(experiment), "plain": _plain(experiment)}, ROUNDS)
        low, middle, high = ratios(seconds, "ours", "plain")
        print(f"{name:>16}: {low:.2f} {middle:.2f} {high:.2f}", flush=True)


def _ours(experiment: ArchitectureExperiment) -> Callable[[], object]:
    """A function that takes the next STEPS steps."""
    starts, (running,) = itertools.count(step=STEPS), experiment.stacks

    def train() -> None:
        start = next(starts)
        running.train(start, start + STEPS)

    return train


def _plain(experiment: ArchitectureExperiment) -> Callable[[], object]:
    """The same by `plain_loop`."""
    losses = plain_loop(experiment)
    return lambda: list(itertools.islice(losses, STEPS))


def plain_loop(experiment: ArchitectureExperiment) -> Iterator[torch.Tensor]:
    """The training loop as one would write it without archsweep: one optimizer step per loss."""
    config = experiment.config
    model = CustomGPT2Model.from_config(config, seed=config.seed).model
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )
    windows = experiment.data.train_windows(config.seed)
    for step in itertools.count():
        batch = torch.from_numpy(windows.batch(step))
        logits = model(batch[:, :-1]).logits
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        yield loss.detach()


if __name__ == "__main__":
    main()
