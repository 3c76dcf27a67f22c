"""One model: ArchitectureExperiment against a plain loop over the same Hugging Face model, a loop as nanoGPT's, and the Trainer."""

from __future__ import annotations

import itertools
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import nn

from archsweep.config import ExperimentConfig
from archsweep.training.experiment import ArchitectureExperiment
from archsweep.training.hardware import peak_flops
from archsweep.training.metrics import model_flops_utilisation, synchronize
from archsweep.training.model import CustomGPT2Model
from archsweep.training.precision import autocast, device_name, resolve_compile
from benchmarks.timing import alternate, header, ratios

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZES: dict[str, dict[str, Any]] = {
    "2 x 64": {"num_layers": 2, "num_heads": 2, "hidden_size": 64, "context_length": 64, "batch_size": 8},
    "4 x 128": {"num_layers": 4, "num_heads": 4, "hidden_size": 128, "context_length": 128, "batch_size": 8},
    "6 x 320": {"num_layers": 6, "num_heads": 5, "hidden_size": 320, "context_length": 128, "batch_size": 8},
}
ON_A_GPU: dict[str, dict[str, Any]] = {
    "12 x 768 (124M)": {
        "num_layers": 12,
        "num_heads": 12,
        "hidden_size": 768,
        "context_length": 1024,
        "vocab_size": 50_304,
        "batch_size": 16,
    }
}


def main() -> None:
    """Print the speed ratio to each peer, for each size; on a GPU for GPT-2's own in bf16 with tokens/s and MFU, and once more compiled."""
    gpu = torch.cuda.is_available()
    torch.set_num_threads(2)
    print(header("One model: archsweep's speed over a peer's (smallest, median, largest of the rounds)", 2))
    steps, rounds = (10, 5) if gpu else (24, 9)
    for (name, size), compiled in itertools.product((ON_A_GPU if gpu else SIZES).items(), (False, True) if gpu else (False,)):
        config = ExperimentConfig(
            **size, max_tokens=None, warmup=0, lr_scheduler_type="constant", precision="bf16" if gpu else "fp32",
            compile=True if compiled else "auto",
        )  # fmt: skip
        config = config.copy(max_tokens=2_000 * config.tokens_per_step)  # long enough to be recorded, too short to be compiled by itself
        experiment = ArchitectureExperiment(config)
        experiment.setup()
        contenders: dict[str, Callable[[], object]] = {"ours": _ours(experiment, steps)}
        contenders["nanoGPT-style"] = _steps_of(nano_loop(experiment), steps, experiment.device)
        if not compiled:  # Trainer compiles anew each time that it is started
            contenders["plain"] = _steps_of(plain_loop(experiment), steps, experiment.device)
            contenders["Trainer"] = _trainer(experiment, steps)
        seconds = alternate(contenders, rounds)
        label = f"{name}, compiled" if compiled else name
        for peer in list(contenders)[1:]:
            low, middle, high = ratios(seconds, "ours", peer)
            print(f"{label:>26} {peer:>14}: {low:.2f} {middle:.2f} {high:.2f}", flush=True)
        if gpu:
            _print_utilisation(experiment, sorted(seconds["ours"])[rounds // 2] / steps)


def _print_utilisation(experiment: ArchitectureExperiment, step_seconds: float) -> None:
    config, speed = experiment.config, experiment.config.tokens_per_step / step_seconds
    parameters = experiment.model().count_parameters()["non_embedding"] + config.vocab_size * config.hidden_size
    shape = (config.num_layers, config.num_heads, config.head_dim, config.context_length)
    share = model_flops_utilisation(speed, parameters, *shape, peak_flops(device_name(experiment.device), "bf16"))
    print(f"{device_name(experiment.device)}: {speed:,.0f} tokens/s, MFU {'unknown' if share is None else f'{share:.1%}'}")


def _ours(experiment: ArchitectureExperiment, steps: int) -> Callable[[], object]:
    """A function that takes the next steps."""
    starts, (running,) = itertools.count(step=steps), experiment.stacks

    def train() -> None:
        start = next(starts)
        running.train(start, start + steps)

    return train


def _steps_of(loop: Iterator[torch.Tensor], steps: int, device: torch.device) -> Callable[[], object]:
    def train() -> None:
        for _ in itertools.islice(loop, steps):
            pass
        synchronize(device)

    return train


def plain_loop(experiment: ArchitectureExperiment) -> Iterator[torch.Tensor]:
    """The training loop as one would write it without archsweep: one optimizer step per loss."""
    config, device = experiment.config, experiment.device
    model = CustomGPT2Model.from_config(config, seed=config.seed).model.to(device)
    windows = experiment.data.train_windows(config.seed)
    batches = (torch.from_numpy(windows.batch(step)).to(device) for step in itertools.count())
    return _train(experiment, model, lambda inputs: model(inputs).logits, batches)


def nano_loop(experiment: ArchitectureExperiment) -> Iterator[torch.Tensor]:
    """The loop of nanoGPT's design: a small model of its own, windows at random offsets of memory-mapped tokens, everything else plain."""
    config, device = experiment.config, experiment.device
    model = NanoGPT(config).to(device)
    forward = torch.compile(model) if resolve_compile(config, device) else model
    tokens, draw = experiment.data.corpus.train, np.random.default_rng(0)

    def batches() -> Iterator[torch.Tensor]:
        while True:
            starts = draw.integers(len(tokens) - config.context_length - 1, size=config.batch_size)
            windows = np.stack([tokens[start : start + config.context_length + 1].astype(np.int64) for start in starts])
            batch = torch.from_numpy(windows)
            yield batch.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else batch

    return _train(experiment, model, forward, batches())


def _train(
    experiment: ArchitectureExperiment, model: nn.Module, forward: Callable[[torch.Tensor], torch.Tensor], batches: Iterator[torch.Tensor]
) -> Iterator[torch.Tensor]:
    config = experiment.config
    precision = "bf16" if config.precision == "bf16" else "fp32"
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )
    for batch in batches:
        with autocast(precision, experiment.device):
            logits = forward(batch[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        yield loss.detach()


class NanoGPT(nn.Module):
    """GPT-2 in the fewest modules: one product for queries, keys and values, fused attention, tied head."""

    def __init__(self, config: ExperimentConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.context_length, config.hidden_size)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.head.weight = self.tokens.weight

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        hidden = self.tokens(input_ids) + self.positions(torch.arange(input_ids.shape[1], device=input_ids.device))
        for block in self.blocks:
            hidden = block(hidden)
        logits: torch.Tensor = self.head(self.norm(hidden))
        return logits


class _Block(nn.Module):
    def __init__(self, config: ExperimentConfig) -> None:
        super().__init__()
        width, self.heads = config.hidden_size, config.num_heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.read, self.write = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, config.ffn_size), nn.Linear(config.ffn_size, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        batch, time, width = hidden.shape
        query, key, value = self.read(self.attention_norm(hidden)).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.write(attended.transpose(1, 2).reshape(batch, time, width))
        mixed: torch.Tensor = hidden + self.narrow(F.gelu(self.widen(self.mlp_norm(hidden)), approximate="tanh"))
        return mixed


def _trainer(experiment: ArchitectureExperiment, steps: int) -> Callable[[], object]:
    """A function that lets transformers.Trainer take so many steps; it is built before the clock starts."""
    config = experiment.config
    windows = experiment.data.train_windows(config.seed)
    rows = [row for step in range(steps) for row in windows.batch(step)]
    data = [{"input_ids": row[:-1], "labels": row[:-1]} for row in map(torch.from_numpy, rows)]  # the model shifts the labels itself
    model = CustomGPT2Model.from_config(config, seed=config.seed).model
    folder = TemporaryDirectory()
    arguments = transformers.TrainingArguments(
        output_dir=folder.name, max_steps=steps, per_device_train_batch_size=config.batch_size, learning_rate=config.learning_rate,
        lr_scheduler_type="constant", weight_decay=config.weight_decay, adam_beta1=config.betas[0], adam_beta2=config.betas[1],
        max_grad_norm=config.grad_clip, optim="adamw_torch_fused", bf16=config.precision == "bf16",
        logging_strategy="no", save_strategy="no", eval_strategy="no", report_to=[], disable_tqdm=True,
        use_cpu=experiment.device.type == "cpu",
    )  # fmt: skip
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=data)
    trainer.remove_callback(transformers.PrinterCallback)

    def train() -> None:
        trainer.train()
        assert folder  # kept as long as the trainer

    return train


if __name__ == "__main__":
    main()
