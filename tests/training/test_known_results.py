"""What is known to be true of language models, found again: induction needs two layers, and no model beats its source's entropy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from archsweep.config import ExperimentConfig, Replica
from archsweep.training.optimizer import ReplicaAdamW
from archsweep.training.replicas import ReplicaStack

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


# A Markov source.

SYMBOLS = 16


def transitions() -> np.ndarray:
    """(from, to) probabilities: each symbol is followed by a few others most of the time."""
    return np.random.default_rng(0).dirichlet(np.full(SYMBOLS, 0.3), size=SYMBOLS)


def entropy_rate(matrix: np.ndarray) -> float:
    """Nats per symbol of the stationary chain: the sum of pi_i P_ij ln(1 / P_ij) (Cover and Thomas, theorem 4.2.4)."""
    values, vectors = np.linalg.eig(matrix.T)
    stationary = np.real(vectors[:, np.argmax(np.real(values))])
    stationary /= stationary.sum()
    return float(-(stationary[:, None] * matrix * np.log(matrix, where=matrix > 0, out=np.zeros_like(matrix))).sum())


def chain(matrix: np.ndarray, length: int, seed: int) -> list[int]:
    draw = np.random.default_rng(seed)
    cumulative, state, states = matrix.cumsum(1), 0, []
    for uniform in draw.random(length):
        state = min(int(np.searchsorted(cumulative[state], uniform)), SYMBOLS - 1)
        states.append(state)
    return states


def test_no_model_goes_under_the_entropy_of_its_source_and_a_good_one_comes_near(tmp_path: Path, train: Train) -> None:
    matrix = transitions()
    documents = [" ".join(f"s{state}" for state in chain(matrix, 1000, seed)) for seed in range(300)]
    (tmp_path / "chain.txt").write_text("\n\n".join(documents))
    words = {"<|endoftext|>": SYMBOLS} | {f"s{symbol}": symbol for symbol in range(SYMBOLS)}
    tokenizer = Tokenizer(models.WordLevel(words))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = ExperimentConfig(
        num_layers=1, num_heads=2, head_dim=16, context_length=32, dataset=f"text:{tmp_path / 'chain.txt'}", vocab_size=SYMBOLS + 1,
        tokenizer=str(tmp_path / "tokenizer.json"), batch_size=16, warmup=0.1, max_tokens=800 * 16 * 32, eval_tokens=24_000,
        num_evaluations=8, precision="fp32", device="cpu",
    )  # fmt: skip
    replicas = tuple(Replica(seed=seed, learning_rate=rate, weight_decay=0.0) for seed in range(2) for rate in (3e-3, 1e-2))
    run = train(config, replicas)
    entropy = entropy_rate(matrix)
    assert entropy < 0.8 * math.log(SYMBOLS)  # there is something to learn
    # Of 24,000 predictions: some sd of a symbol's surprise over the root of their number.
    tolerance = 3 * 1.2 / math.sqrt(24_000)
    for index in range(len(replicas)):
        losses = run.column("val_loss", index)
        assert min(losses) > entropy - tolerance
        assert losses[-1] < 1.03 * entropy + tolerance


# Associative recall.

KEYS, VALUES, PAIRS, STEPS = 8, 8, 4, 1500


def recall_batch(step: int, replicas: int, size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """(replicas, size, T + 1) tokens: pairs of a key and its value, then the keys again in another order, each followed by its value; and
    where in the T predictions the answers are."""
    draw = np.random.default_rng([step, 7])
    rows = []
    for _ in range(size):
        keys = draw.permutation(KEYS)[:PAIRS]
        values = KEYS + draw.integers(VALUES, size=PAIRS)
        again = draw.permutation(PAIRS)
        rows.append(np.concatenate([np.stack([keys, values], 1).ravel(), np.stack([keys[again], values[again]], 1).ravel()]))
    tokens = torch.from_numpy(np.stack(rows))
    answers = torch.arange(2 * PAIRS, 4 * PAIRS - 1, 2)  # the prediction made at each repeated key
    return tokens.expand(replicas, *tokens.shape), answers


def recall_accuracy(layers: int, steps: int) -> list[float]:
    """The share of right answers on new sequences, after training on all tokens of 64 sequences a step."""
    config = ExperimentConfig(
        num_layers=layers, num_heads=1, head_dim=32, context_length=4 * PAIRS - 1, vocab_size=KEYS + VALUES, tokenizer="hf:none",
        model_overrides={"initializer_range": 0.15},
        batch_size=64, max_tokens=None, warmup=0.1, precision="fp32", device="cpu",
    )  # fmt: skip
    replicas = tuple(Replica(seed=seed, learning_rate=3e-3, weight_decay=0.0) for seed in range(2))
    stack = ReplicaStack(config, replicas, torch.device("cpu"))
    optimizer = ReplicaAdamW(stack, config, steps)
    for step in range(steps):
        windows, _ = recall_batch(step, len(stack))
        optimizer.step(step, stack.compute_gradients(windows))
    windows, answers = recall_batch(10**9, 1, size=200)
    found = []
    for index in range(len(stack)):
        with torch.no_grad():
            predicted = stack.extract(index)(windows[0, :, :-1]).argmax(-1)
        found.append(float((predicted[:, answers] == windows[0, :, 1:][:, answers]).float().mean()))
    return found


def test_two_layers_solve_associative_recall_and_one_does_not() -> None:
    """Zoology (arXiv 2312.04927): a repeated key is answered by what followed it before. One layer marks each value with the key before it,
    and another finds it."""
    one, two = recall_accuracy(1, STEPS), recall_accuracy(2, STEPS)
    assert max(two) > 0.95
    assert max(one) < 0.6
