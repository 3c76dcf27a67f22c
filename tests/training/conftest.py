"""A text of small words, a model of a few thousand weights, and a training run that keeps what it reported."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pytest
import torch

from archsweep.config import ExperimentConfig, Replica
from archsweep.training.experiment import ArchitectureExperiment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class Run(NamedTuple):
    """A finished training run: the rows of each evaluation, in order."""

    experiment: ArchitectureExperiment
    evaluations: list[list[dict[str, Any]]]

    def column(self, name: str, replica: int = 0) -> list[Any]:
        return [rows[replica][name] for rows in self.evaluations]


class Train(Protocol):
    def __call__(self, config: ExperimentConfig, replicas: Sequence[Replica] | None = None, **options: Any) -> Run: ...


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache that all training tests share."""
    return tmp_path_factory.mktemp("corpora")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    """24 steps of 128 tokens on two blocks of width 16."""
    draw = random.Random(0)
    words = [f"{first}{rest}" for first in "bdfglmnprst" for rest in ("ap", "een", "ot", "us", "ill")]
    # The next word is one of three, so that there is something to learn.
    documents = []
    for _ in range(400):
        at = draw.randrange(len(words))
        chain = [at := (3 * at + draw.randrange(3)) % len(words) for _ in range(20)]
        documents.append(" ".join(words[index] for index in chain) + ".")
    text = tmp_path_factory.mktemp("text") / "words.txt"
    text.write_text("\n\n".join(documents))
    return ExperimentConfig(
        num_layers=2,
        num_heads=2,
        head_dim=8,
        context_length=16,
        dataset=f"text:{text}",
        vocab_size=300,
        learning_rate=3e-3,
        batch_size=8,
        warmup=3,
        max_tokens=24 * 128,
        eval_tokens=512,
        precision="fp32",
        device="cpu",
    )


@pytest.fixture(scope="session")
def train(corpora: Path) -> Train:
    """Trains to the end in this process; extra options are ArchitectureExperiment's."""

    def train(config: ExperimentConfig, replicas: Sequence[Replica] | None = None, **options: Any) -> Run:
        experiment = ArchitectureExperiment(config, replicas, cache_dir=corpora, **options)
        experiment.setup()
        return Run(experiment, list(experiment.evaluations()))

    return train
