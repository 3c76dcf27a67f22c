"""config -> trained GPT-2: the loop over stacks of replicas. It knows a config and a function to report to, nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import JsonValue

from archsweep.errors import ConfigError, DataError
from archsweep.training.data import LanguageModelDataset, TokenWindows
from archsweep.training.metrics import MetricsCalculator, peak_memory_bytes, reset_peak_memory, synchronize
from archsweep.training.optimizer import ReplicaAdamW
from archsweep.training.precision import resolve_device
from archsweep.training.replicas import ReplicaStack, choose_stack_size

if TYPE_CHECKING:
    from archsweep.config import ExperimentConfig, Replica
    from archsweep.training.model import CustomGPT2Model

Row = dict[str, JsonValue]
Report = Callable[[list[Row]], object]

MODEL_FOLDER = "model"


class ArchitectureExperiment:
    """Trains one config, or all `replicas` of it together.

    A single experiment leaves its model in `output_dir` (default `results/<experiment_name>`) after its last step; replicas leave nothing
    unless `output_dir` is given. `stack_size` replicas train at once; by default as many as the device gains from.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        replicas: Sequence[Replica] | None = None,
        *,
        output_dir: str | Path | None = None,
        cache_dir: Path | None = None,
        stack_size: int | None = None,
    ) -> None:
        self.config = config
        self.replicas = tuple(replicas or (config.replica,))
        self.output_dir = Path(output_dir or f"results/{config.experiment_name}") if output_dir or replicas is None else None
        self._cache_dir = cache_dir
        self._stack_size = stack_size
        self._step = 0

    def setup(self) -> None:
        """Load the data and build the models. Raises DataError or MachineError before anything trains."""
        self.device = resolve_device(self.config)
        self.data = LanguageModelDataset(self.config, self._cache_dir)
        self.metrics = MetricsCalculator(self.data.corpus.validation_bytes_per_token)
        self.total_steps = self._count_steps()
        reset_peak_memory(self.device)
        torch.manual_seed(self.replicas[0].seed)  # the dropout masks
        if self.config.gradient_checkpointing and (self._stack_size or 1) > 1:
            raise ConfigError(
                f"gradient_checkpointing works on one replica at a time, got stack_size {self._stack_size}. Leave stack_size out."
            )
        size = self._stack_size or choose_stack_size(self.config, len(self.replicas), self.device)
        chunks = [self.replicas[start : start + size] for start in range(0, len(self.replicas), size)]
        self.stacks = [self._prepare(chunk) for chunk in chunks]
        self._windows = torch.from_numpy(np.array(self.data.evaluation_windows(), dtype=np.int64)).to(self.device)  # (N, T + 1)

    def _count_steps(self) -> int:
        """Optimizer steps of the whole run."""
        if self.config.max_tokens is not None:
            return self.config.max_tokens // self.config.tokens_per_step
        steps = self.config.num_epochs * len(self.data.train_windows(self.config.seed)) // self.config.gradient_accumulation_steps
        if not steps:
            raise DataError(
                f"{self.config.dataset}: {self.config.num_epochs} passes over {self.data.corpus.train_tokens} training tokens make no step "
                f"of {self.config.tokens_per_step} tokens. Give more text, a smaller batch_size, or max_tokens."
            )
        return steps

    def _prepare(self, replicas: Sequence[Replica]) -> StackInTraining:
        stack = ReplicaStack(self.config, replicas, self.device)
        windows = {replica.seed: self.data.train_windows(replica.seed) for replica in replicas}
        return StackInTraining(self.config, stack, ReplicaAdamW(stack, self.config, self.total_steps), windows)

    def train_epoch(self, epoch: int) -> dict[str, int | float | str | None]:
        """Train the `epoch`-th of `num_epochs` equal parts of the run; the mean over replicas of what was measured."""
        self._train_until(self.total_steps * (epoch + 1) // self.config.num_epochs)
        if self._step == self.total_steps and self.output_dir is not None:
            self.save_model(self.output_dir / MODEL_FOLDER)
        losses = [loss for running in self.stacks for loss in running.take_losses()]
        return self.metrics.calculate_metrics(float(np.mean(losses))) | self.performance_stats

    def evaluate(self) -> dict[str, float]:
        """Loss, perplexity and bits per byte on the evaluation tokens: the mean over replicas."""
        return self.metrics.calculate_metrics(float(self.evaluation_losses().mean()))

    def evaluation_losses(self) -> torch.Tensor:
        """(replicas, evaluation windows) loss of each window in nats per token, float64, on the CPU."""
        return torch.cat([running.stack.evaluate(self._windows, self.config.batch_size) for running in self.stacks]).cpu().double()

    def run(self, report: Report | None = None) -> list[Row]:
        """Set up, train and evaluate to the end; `report` gets every evaluation's rows, one per replica. Returns the last ones."""
        self.setup()
        rows: list[Row] = []
        for rows in self.evaluations():
            if report is not None:
                report(rows)
        if self.output_dir is not None:
            self.save_model(self.output_dir / MODEL_FOLDER)
        return rows

    def evaluations(self) -> Iterator[list[Row]]:
        """Train from evaluation to evaluation, and yield each one's rows; ends early where every replica has diverged."""
        count = min(self.config.num_evaluations, self.total_steps)
        for number in range(1, count + 1):
            self._train_until(self.total_steps * number // count)
            rows = self._rows()
            yield rows
            if all(row["status"] == "diverged" for row in rows):
                return

    def _train_until(self, step: int) -> None:
        # Stack after stack, each over all the steps at once: a stack's weights stay in the cache.
        for running in self.stacks:
            running.train(self._step, step)
        self._step = max(self._step, step)  # what was trained is not trained again

    def _rows(self) -> list[Row]:
        homes = [running for running in self.stacks for _ in running.stack.replicas]
        train_losses = [loss for running in self.stacks for loss in running.take_losses()]
        val_losses = self.evaluation_losses().mean(1).tolist()
        return [self._row(*each) for each in zip(homes, self.replicas, train_losses, val_losses, strict=True)]

    def _row(self, running: StackInTraining, replica: Replica, train_loss: float, val_loss: float) -> Row:
        tokens = self._step * self.config.tokens_per_step
        finite = math.isfinite(train_loss) and math.isfinite(val_loss)
        units = self.metrics.calculate_metrics(val_loss) if finite else dict.fromkeys(("loss", "perplexity", "bits_per_byte"))
        return {
            **replica.model_dump(),
            "status": "diverged" if not finite else "finished" if self._step == self.total_steps else "running",
            "reason": None if finite else f"the loss was no longer a finite number at step {self._step}",
            "step": self._step,
            "tokens": tokens,
            "train_loss": train_loss if math.isfinite(train_loss) else None,
            "val_loss": units["loss"],
            "perplexity": units["perplexity"] if math.isfinite(units["perplexity"] or 0) else None,  # JSON has no infinity
            "bits_per_byte": units["bits_per_byte"],
            "train_seconds": running.seconds,
            "tokens_per_second": len(running.stack) * tokens / running.seconds,
            "peak_memory_bytes": peak_memory_bytes(self.device),
            "stack_size": len(running.stack),
        }

    @property
    def performance_stats(self) -> dict[str, int | float | str | None]:
        """What the training so far cost: seconds, tokens per second of all replicas together, bytes, and the model's size."""
        seconds = sum(running.seconds for running in self.stacks)
        tokens = self._step * self.config.tokens_per_step * len(self.replicas)
        counts = self.stacks[0].stack.model.count_parameters()
        return {
            "train_seconds": seconds,
            "tokens_per_second": tokens / seconds if seconds else 0.0,
            "peak_memory_bytes": peak_memory_bytes(self.device),
            "parameters": counts["total"],
            "non_embedding_parameters": counts["non_embedding"],
        }

    def model(self, index: int = 0) -> CustomGPT2Model:
        """Replica `index` as it is now, as a model of its own on the CPU."""
        for running in self.stacks:
            if index < len(running.stack):
                return running.stack.extract(index)
            index -= len(running.stack)
        raise IndexError(f"there are {len(self.replicas)} replicas")

    def save_model(self, folder: Path, index: int = 0) -> None:
        """Write replica `index` and the tokenizer as a folder that Hugging Face's `from_pretrained` opens."""
        self.model(index).save_pretrained(folder)
        (folder / "tokenizer.json").write_bytes(self.data.corpus.tokenizer_path.read_bytes())


@dataclass
class StackInTraining:
    """One stack with its optimizer, its data, and what it has measured."""

    config: ExperimentConfig
    stack: ReplicaStack
    optimizer: ReplicaAdamW
    windows: dict[int, TokenWindows]  # by seed: replicas of one seed read the same batches
    seconds: float = 0.0
    _losses: list[torch.Tensor] = field(default_factory=list)  # (K,) per step, left on the device

    def train(self, first: int, last: int) -> None:
        """Take optimizer steps `first` up to `last`, without waiting for the device in between."""
        micro_batches = self.config.gradient_accumulation_steps
        started = perf_counter()
        for step in range(first, last):
            losses = torch.zeros(len(self.stack), device=self.stack.device)
            for index in range(step * micro_batches, (step + 1) * micro_batches):
                losses += self.stack.accumulate_gradients(self._batch(index), micro_batches) / micro_batches
            self.optimizer.step(step)
            self._losses.append(losses)
        synchronize(self.stack.device)
        self.seconds += perf_counter() - started

    def _batch(self, index: int) -> torch.Tensor:
        """Micro-batch `index` of every replica: (K, B, T + 1)."""
        by_seed = {seed: windows.batch(index) for seed, windows in self.windows.items()}
        batch = torch.from_numpy(np.stack([by_seed[replica.seed] for replica in self.stack.replicas]))
        return batch.to(self.stack.device, non_blocking=True)

    def take_losses(self) -> list[float]:
        """Each replica's mean training loss since this was last asked."""
        losses: list[float] = torch.stack(self._losses).mean(0).tolist() if self._losses else [math.nan] * len(self.stack)
        self._losses.clear()
        return losses
