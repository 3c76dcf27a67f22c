"""config -> trained GPT-2: the loop over stacks of replicas. It knows a config and a function to report to, nothing else."""

from __future__ import annotations

import gc
import math
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import JsonValue

from archsweep.config import BUSY_GPU, CURVE_PARTS, FAMILIES
from archsweep.errors import ConfigError
from archsweep.extensions import user_metrics
from archsweep.training.best import best_replica, loss
from archsweep.training.checkpoint import Checkpoints
from archsweep.training.data import LanguageModelDataset, TokenWindows
from archsweep.training.hardware import peak_flops
from archsweep.training.metrics import MetricsCalculator, model_flops_utilisation, peak_memory_bytes, reset_peak_memory, synchronize
from archsweep.training.optimizer import ReplicaAdamW
from archsweep.training.precision import device_name, matmul_precision, precision_used, resolve_device
from archsweep.training.pruning import PART, hopeless
from archsweep.training.replicas import ReplicaStack, choose_stack_size
from archsweep.training.tokenizer import save_tokenizer

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from archsweep.config import ExperimentConfig, Replica
    from archsweep.training.data import Corpus
    from archsweep.training.guard import Divergence
    from archsweep.training.model import CustomGPT2Model

Row = dict[str, JsonValue]
Report = Callable[[list[Row]], object]

MODEL_FOLDER = "model"
CHECKPOINT_SECONDS = 60.0
HEARTBEAT_SECONDS = 0.5  # of training between two moments at which a run can be stopped or saved
EVALUATION_BLOCKS = 32  # the evaluation tokens in so many equal parts, the same for every batch size


class ArchitectureExperiment:
    """Trains one config, or all `replicas` of it together.

    A single experiment leaves its model in `output_dir` (default `results/<experiment_name>`) after its last step; replicas leave nothing
    unless `output_dir` is given. The text is the `corpus`, by default the config's own, tokenized in `cache_dir`. With `checkpoint_dir`,
    the run is saved there every `checkpoint_seconds` and when it is stopped, and goes on from there; `warn` is told of a checkpoint that
    is damaged. `stack_size` replicas train at once; by default as many as the device gains from. `micro_batch_size` is where
    micro_batch_size="auto" begins: by default a whole batch; it becomes smaller where memory runs out, unless `shrinks` is False. With
    `prune_tune`, tuned settings that are far behind after half of the steps are given up: their last rows say so, and the others' bits do
    not change on a CPU. Evaluations before the last read one window in `earlier_parts`.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        replicas: Sequence[Replica] | None = None,
        *,
        output_dir: str | Path | None = None,
        cache_dir: Path | None = None,
        corpus: Corpus | None = None,
        checkpoint_dir: Path | None = None,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        stack_size: int | None = None,
        micro_batch_size: int | None = None,
        shrinks: bool = True,
        prune_tune: bool = False,
        earlier_parts: int = CURVE_PARTS,
        warn: Callable[[str], object] = warnings.warn,
    ) -> None:
        self.config = config
        self.replicas = tuple(replicas or (config.replica,))
        self.output_dir = Path(output_dir or f"results/{config.experiment_name}") if output_dir or replicas is None else None
        self.resumed_at = 0.0  # `steps_done` of the checkpoint from which this run went on
        self._cache_dir, self._corpus = cache_dir, corpus
        self._checkpoint_dir, self._checkpoint_seconds = checkpoint_dir, checkpoint_seconds
        self._stack_size, self._micro_batch_size, self._shrinks, self._warn = stack_size, micro_batch_size, shrinks, warn
        self._planned, self._prune_tune, self._earlier_parts = self.replicas, prune_tune, earlier_parts
        self._step = 0
        self._evaluated: list[list[Row]] = []
        self._best: tuple[Row, torch.Tensor] | None = None  # the best replica's row so far, and its weights (P,), on the CPU

    def setup(self) -> None:
        """Load the data, build the models, and take over the checkpoint where there is one.

        Raises DataError or MachineError before anything trains.
        """
        self.device = resolve_device(self.config)
        self.data = LanguageModelDataset(self.config, self._cache_dir, self._corpus)
        self.metrics = MetricsCalculator(self.data.corpus.validation_bytes_per_token)
        self.total_steps = self.data.steps()
        self._user_metrics = user_metrics(self.config)
        self._peak_flops = peak_flops(device_name(self.device), precision_used(self.config, self.device))
        reset_peak_memory(self.device)
        if self.config.trains_alone and (self._stack_size or 1) > 1:
            cause = "gradient_checkpointing" if self.config.gradient_checkpointing else "compile=true"
            raise ConfigError(f"{cause} works on one replica at a time, got stack_size {self._stack_size}. Leave stack_size out.")
        saved = self._open_checkpoints()
        size = self._stack_size or choose_stack_size(self.config, len(self.replicas), self.device)
        stacks = [list(self.replicas[start : start + size]) for start in range(0, len(self.replicas), size)]
        if saved is not None:
            stacks = [[self._planned[index] for index in stack["replicas"]] for stack in saved[1]["stacks"]]
        self.replicas = tuple(replica for stack in stacks for replica in stack)
        self.stacks = [self._prepare(stack) for stack in stacks]
        self._windows = torch.from_numpy(np.array(self.data.evaluation_windows(), dtype=np.int64)).to(self.device)  # (N, T + 1)
        if saved is not None:
            self._restore(*saved)

    def _prepare(self, replicas: Sequence[Replica]) -> StackInTraining:
        stack = ReplicaStack(self.config, replicas, self.device)
        windows = {replica.seed: self.data.train_windows(replica.seed) for replica in replicas}
        given, largest = self.config.micro_batch_size, self.config.batch_size
        micro_batch_size = min(self._micro_batch_size or largest, largest) if given == "auto" else given
        shrinks = self._shrinks and given == "auto"
        return StackInTraining(self.config, stack, ReplicaAdamW(stack, self.config, self.total_steps), windows, micro_batch_size, shrinks)

    # Checkpoints.

    def _open_checkpoints(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        self._checkpoints, self._saved_at = None, perf_counter()
        if self._checkpoint_dir is None:
            return None
        content = [replica.model_dump(mode="json") for replica in self._planned]
        self._checkpoints = Checkpoints(self._checkpoint_dir, self.config.content_id(content, self.data.corpus.id))
        return self._checkpoints.load(self._warn)

    def _save(self) -> None:
        if self._checkpoints is None:
            return
        tensors = {f"{index}.{name}": tensor for index, running in enumerate(self.stacks) for name, tensor in running.state().items()}
        facts = {"step": self._step, "stacks": [self._facts(running) for running in self.stacks], "evaluated": self._evaluated}
        if self._best is not None:
            facts["best"], tensors["best"] = self._best
        self._checkpoints.save(tensors, facts, beside=[self.data.corpus.tokenizer_path])
        self._saved_at = perf_counter()

    def _facts(self, running: StackInTraining) -> dict[str, JsonValue]:
        return {"replicas": [self._planned.index(replica) for replica in running.stack.replicas], **running.facts()}

    def _restore(self, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        for index, (running, own) in enumerate(zip(self.stacks, facts["stacks"], strict=True)):
            prefix = f"{index}."
            running.load({name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}, own)
        self._step, self._evaluated = facts["step"], facts["evaluated"]
        self._best = (facts["best"], tensors["best"]) if "best" in facts else None
        self.resumed_at = self.steps_done

    def _remember_the_best(self, rows: list[Row]) -> None:
        """Keep the weights of the best replica for the next checkpoint, where no evaluation before had a better one. After the last step no
        checkpoint follows."""
        if self._checkpoints is None or self._step == self.total_steps or (index := best_replica(rows)) is None:
            return
        if self._best is None or loss(rows[index]) < loss(self._best[0]):
            stack, own = self._home(index)
            self._best = rows[index], stack.weights[own].to("cpu", copy=True)

    # Training.

    def train_epoch(self, epoch: int) -> dict[str, int | float | str | None]:
        """Train the `epoch`-th of `num_epochs` equal parts of the run; the mean over replicas of what was measured."""
        for _ in self._train_until(self.total_steps * (epoch + 1) // self.config.num_epochs):
            pass
        if self._step == self.total_steps and self.output_dir is not None:
            self.save_model(self.output_dir / MODEL_FOLDER)
        losses = [loss for running in self.stacks for loss in running.take_losses()]
        return self.metrics.calculate_metrics(float(np.mean(losses))) | self.performance_stats

    def evaluate(self) -> dict[str, float]:
        """Loss, perplexity and bits per byte on the evaluation tokens: the mean over replicas."""
        return self.metrics.calculate_metrics(float(self.evaluation_losses().mean()))

    def evaluation_losses(self) -> torch.Tensor:
        """(replicas, evaluation windows) loss of each window in nats per token, float64, on the CPU."""
        return self._losses_on(self._windows)

    def _losses_on(self, windows: torch.Tensor) -> torch.Tensor:
        return torch.cat([running.evaluate(windows) for running in self.stacks]).cpu().double()

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
        return (rows for rows in self.training() if rows is not None)

    def training(self) -> Generator[list[Row] | None, None, None]:
        """Train to the end; yields the rows of each evaluation, those of before a checkpoint again, and None about twice a second.

        Closing the iterator stops the run at a step's end, and saves it where it has not ended.
        """
        yield from self._evaluated
        count = min(self.config.num_evaluations, self.total_steps)
        try:
            for number in range(len(self._evaluated) + 1, count + 1):
                if self._has_diverged():
                    return
                for _ in self._train_until(self.total_steps * number // count):
                    if perf_counter() - self._saved_at >= self._checkpoint_seconds:
                        self._save()
                    yield None
                self._evaluated.append(self._rows())
                self._remember_the_best(self._evaluated[-1])
                if self._prune_tune and PART * self.total_steps <= self._step < self.total_steps:
                    self._prune(self._evaluated[-1])
                yield self._evaluated[-1]
        except GeneratorExit:
            if len(self._evaluated) < count and not self._has_diverged():
                self._save()
            raise

    def _has_diverged(self) -> bool:
        return bool(self._evaluated) and all(row["status"] == "diverged" for row in self._evaluated[-1])

    def _train_until(self, step: int) -> Iterator[None]:
        """Train every stack up to `step`; yields at steps' ends."""
        # Stack after stack, each over all the steps at once: a stack's weights stay in the cache.
        for running in self.stacks:
            while running.step < step:
                running.train(running.step, min(step, running.step + running.steps_in(HEARTBEAT_SECONDS)))
                yield
            if len(self.stacks) > 1:
                running.stack.forget_recordings()  # the next one needs the memory
        self._step = max(self._step, step)  # what was trained is not trained again

    # Rows.

    def _rows(self) -> list[Row]:
        homes = [running for running in self.stacks for _ in running.stack.replicas]
        divergences = [divergence for running in self.stacks for divergence in running.optimizer.guard.divergences()]
        if all(divergences):  # frozen since: whatever was computed after it is not part of the run
            self._step = max(divergence.step for divergence in divergences if divergence)
        train_losses = [loss for running in self.stacks for loss in running.take_losses()]
        # Spread over all documents: the first ones alone were half a nat easier than the rest.
        windows = self._windows if self._step == self.total_steps else self._windows[:: self._earlier_parts]
        measured = zip(homes, self.replicas, divergences, train_losses, self._losses_on(windows), strict=True)
        return [self._row(*each, partial(self._measure, index, windows)) for index, each in enumerate(measured)]

    def _row(
        self,
        running: StackInTraining,
        replica: Replica,
        divergence: Divergence | None,
        train_loss: float,
        losses: torch.Tensor,
        measure: Callable[[], dict[str, JsonValue]],
    ) -> Row:
        tokens = self._step * self.config.tokens_per_step
        val_loss = float(losses.mean())
        reason = divergence.reason if divergence else None
        if not (reason or math.isfinite(val_loss)):
            reason = f"the validation loss was no longer a finite number at step {self._step}"
        units = dict.fromkeys(("loss", "perplexity", "bits_per_byte")) if reason else self.metrics.calculate_metrics(val_loss)
        blocks = [float(block.mean()) for block in losses.tensor_split(min(EVALUATION_BLOCKS, len(losses)))]
        return {
            **replica.model_dump(),
            "status": "diverged" if reason else "finished" if self._step == self.total_steps else "running",
            "reason": reason,
            "step": self._step,
            "tokens": tokens,
            "train_loss": train_loss if math.isfinite(train_loss) else None,
            "val_loss": units["loss"],
            "perplexity": units["perplexity"] if math.isfinite(units["perplexity"] or 0) else None,  # JSON has no infinity
            "bits_per_byte": units["bits_per_byte"],
            "val_block_losses": None if reason else blocks,
            "user_metrics": None if reason else measure() or None,  # which may raise for weights that are lost, and fail the others too
            "diverged_step": divergence.step if divergence else None,
            "last_loss": divergence.last_loss if divergence else None,
            "train_seconds": running.seconds,
            "step_seconds": running.seconds / running.step,
            "tokens_per_second": tokens / running.replica_seconds,
            "model_flops_utilisation": self._utilisation(running, tokens / running.replica_seconds),
            "peak_memory_bytes": peak_memory_bytes(self.device),
            "stack_size": len(running.stack),
            "micro_batch": running.micro_batch_size,
        }

    def _prune(self, rows: list[Row]) -> None:
        """Give up the settings that are hopeless by these rows, which then say so; stacks go on without them."""
        for learning_rate, weight_decay, reason in hopeless(rows):
            setting = {"learning_rate": learning_rate, "weight_decay": weight_decay}
            kept = [
                [index for index, replica in enumerate(running.stack.replicas) if not setting.items() <= dict(replica).items()]
                for running in self.stacks
            ]
            if not all(running.shrinks_to(len(rest)) for running, rest in zip(self.stacks, kept, strict=True)):
                continue
            for row in rows:
                if setting.items() <= row.items() and row["status"] == "running":
                    row.update(status="pruned", reason=f"given up at step {self._step} of {self.total_steps}: {reason}")
            self.stacks = [self._shrunk(running, rest) for running, rest in zip(self.stacks, kept, strict=True) if rest]
            self.replicas = tuple(replica for running in self.stacks for replica in running.stack.replicas)

    def _shrunk(self, running: StackInTraining, kept: list[int]) -> StackInTraining:
        """The stack with only the replicas at the indices `kept`, where they are in their training."""
        if len(kept) == len(running.stack):
            return running
        smaller = self._prepare([running.stack.replicas[index] for index in kept])
        smaller.load({name: tensor[kept] for name, tensor in running.state().items()}, running.facts())
        return smaller

    @torch.no_grad()
    def _measure(self, index: int, windows: torch.Tensor) -> dict[str, JsonValue]:
        """What the config's own metrics say of replica `index` on these evaluation windows."""
        if not self._user_metrics:
            return {}
        model, given = self.model(index), windows.cpu()
        measured = {name: metric(model, given) for name, metric in self._user_metrics.items()}
        several = {name: value if isinstance(value, Mapping) else {"": value} for name, value in measured.items()}
        return {f"{name} {part}".strip(): float(number) for name, values in several.items() for part, number in values.items()}

    def _utilisation(self, running: StackInTraining, tokens_per_second: float) -> float | None:
        config = self.config
        parameters = running.stack.model.count_parameters()["non_embedding"] + config.vocab_size * config.hidden_size  # with the head
        shape = (config.num_layers, config.num_heads, config.head_dim, config.context_length)
        return model_flops_utilisation(tokens_per_second, parameters, *shape, self._peak_flops)

    @property
    def steps_done(self) -> float:
        """Optimizer steps so far, in the mean over replicas: stacks train one after another."""
        return sum(running.step * len(running.stack) for running in self.stacks) / len(self.replicas)

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
        stack, own = self._home(index)
        return stack.extract(own)

    def _home(self, index: int) -> tuple[ReplicaStack, int]:
        """The stack of replica `index`, and its index there."""
        for running in self.stacks:
            if index < len(running.stack):
                return running.stack, index
            index -= len(running.stack)
        raise IndexError(f"there are {len(self.replicas)} replicas")

    def save_model(self, folder: Path, index: int = 0) -> None:
        """Write replica `index` and the tokenizer as a folder that Hugging Face's `AutoModelForCausalLM` and `AutoTokenizer` open."""
        self.model(index).save_pretrained(folder)
        save_tokenizer(self.data.corpus.tokenizer_path, self.config.context_length, folder)


@dataclass
class StackInTraining:
    """One stack with its optimizer, its data, and what it has measured."""

    config: ExperimentConfig
    stack: ReplicaStack
    optimizer: ReplicaAdamW
    windows: dict[int, TokenWindows]  # by seed: replicas of one seed read the same batches
    micro_batch_size: int
    shrinks: bool  # the micro-batch, where memory runs out
    step: int = 0
    seconds: float = 0.0
    replica_seconds: float = 0.0  # a replica's part of them, among as many as trained at the time
    _seconds_of_last_step: float = math.inf
    _loss_sums: torch.Tensor = field(init=False)  # (K,) of the steps with a finite loss since it was last asked, left on the device
    _loss_counts: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._loss_sums = torch.zeros(len(self.stack), dtype=torch.float64, device=self.stack.device)
        self._loss_counts = torch.zeros_like(self._loss_sums)

    def shrinks_to(self, size: int) -> bool:
        """Whether `size` of its replicas go on with the same bits: not one alone, whose products are computed in another order, and none
        where dropout masks are drawn for the stack as a whole."""
        return size in (0, len(self.stack)) or (size > 1 and not self.stack.draws)

    def steps_in(self, seconds: float) -> int:
        """About how many steps take so long, by the last ones; at least one."""
        return max(1, int(seconds / self._seconds_of_last_step))

    def train(self, first: int, last: int) -> None:
        """Take optimizer steps `first` up to `last`, without waiting for the device in between."""
        started = perf_counter()
        with self._random_numbers(), matmul_precision(self.config, self.stack.device):
            batch = self._batch(first)
            for step in range(first, last):
                following = self._batch(step + 1) if step + 1 < last else batch  # on its way while this step computes
                self._take(step, batch)
                batch = following
        synchronize(self.stack.device)
        seconds = perf_counter() - started
        self.step, self._seconds_of_last_step = last, seconds / max(1, last - first)
        self.seconds += seconds
        self.replica_seconds += seconds / len(self.stack)

    def evaluate(self, windows: torch.Tensor) -> torch.Tensor:
        """As the stack's `evaluate`, in micro-batches; on a GPU in more windows at once where those leave it idle and there is memory."""
        with matmul_precision(self.config, self.stack.device):
            if (busy := self._busy_batch()) > self.micro_batch_size:
                with suppress(torch.OutOfMemoryError):
                    return self.stack.evaluate(windows, busy)
            return self._fitting(lambda: self.stack.evaluate(windows, self.micro_batch_size))

    def _busy_batch(self) -> int:
        """Windows of an evaluation that keep a GPU busy; none on a CPU, nor of a module of one's own, all of whose logits are held."""
        if self.stack.device.type != "cuda" or self.config.family not in FAMILIES:
            return 0
        return BUSY_GPU // (len(self.stack) * self.config.context_length * self.config.hidden_size)

    def _take(self, step: int, batch: torch.Tensor) -> None:
        losses = self._fitting(lambda: self._accumulate(step, batch))
        self._count(losses)
        self.optimizer.step(step, losses)

    def _fitting(self, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What `compute` returns; where memory runs out, with half of the micro-batch, and half of that."""
        while True:
            try:
                return compute()
            except torch.OutOfMemoryError:
                if not self.shrinks or self.micro_batch_size == 1:
                    raise
            # Only after the block is the exception gone, whose frames hold the tensors of what failed; a recording's are in cycles besides.
            self.stack.forget_recordings()
            gc.collect()
            torch.cuda.empty_cache()
            self.micro_batch_size = -(-self.micro_batch_size // 2)

    def _accumulate(self, step: int, batch: torch.Tensor) -> torch.Tensor:
        """The (K,) mean losses of a step's windows (K, W, T + 1), their gradients added micro-batch by micro-batch."""
        losses = torch.zeros(len(self.stack), device=self.stack.device)
        for index, part in enumerate(torch.split(batch, self.micro_batch_size, dim=1)):
            if self.stack.draws:
                # The dropout masks: a function of the step. Torch's seeds have 64 bits.
                torch.manual_seed(((self.stack.replicas[0].seed << 40) + (step << 16) + index) % 2**64)
            share = part.shape[1] / batch.shape[1]
            losses += self.stack.compute_gradients(part, share, self.optimizer.guard.scale, add=index > 0) * share
        return losses

    def _random_numbers(self) -> AbstractContextManager[None]:
        """Torch's generators as they were, after the block."""
        devices = [self.stack.device] if self.stack.device.type == "cuda" else []
        return torch.random.fork_rng(devices, enabled=self.stack.draws)

    def _count(self, losses: torch.Tensor) -> None:
        counts = torch.isfinite(losses) & self.optimizer.guard.alive
        self._loss_sums += torch.where(counts, losses, 0)
        self._loss_counts += counts

    def _batch(self, step: int) -> torch.Tensor:
        """The windows of a step for every replica: (K, W, T + 1)."""
        parts = range(step * self.config.gradient_accumulation_steps, (step + 1) * self.config.gradient_accumulation_steps)
        by_seed = {seed: np.concatenate([windows.batch(part) for part in parts]) for seed, windows in self.windows.items()}
        batch = torch.from_numpy(np.stack([by_seed[replica.seed] for replica in self.stack.replicas]))
        return batch.pin_memory().to(self.stack.device, non_blocking=True) if self.stack.device.type == "cuda" else batch

    def take_losses(self) -> list[float]:
        """Each replica's mean training loss since this was last asked; NaN where no step had a finite one."""
        losses: list[float] = (self._loss_sums / self._loss_counts).tolist()
        self._loss_sums.zero_()
        self._loss_counts.zero_()
        return losses

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors that a resumed run needs."""
        return {"weights": self.stack.weights, "loss_sums": self._loss_sums, "loss_counts": self._loss_counts, **self.optimizer.state()}

    def facts(self) -> dict[str, JsonValue]:
        """The rest of what it needs, in JSON's types."""
        times = {"seconds": self.seconds, "replica_seconds": self.replica_seconds}
        return {"step": self.step, **times, "micro_batch_size": self.micro_batch_size}

    @torch.no_grad()
    def load(self, state: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Take over what `state` and `facts` returned."""
        self.stack.weights.copy_(state["weights"])
        self._loss_sums.copy_(state["loss_sums"])
        self._loss_counts.copy_(state["loss_counts"])
        self.optimizer.load(state)
        self.step, self.seconds = facts["step"], facts["seconds"]
        self.replica_seconds = facts.get("replica_seconds", self.seconds / len(self.stack))  # older checkpoints do not tell
        if self.config.micro_batch_size == "auto":
            self.micro_batch_size = facts["micro_batch_size"]
