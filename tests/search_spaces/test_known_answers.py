"""Shipped questions, run whole, whose answer is known beforehand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from rich.console import Console
from tokenizers import Tokenizer, models, pre_tokenizers

from archsweep.analysis.compare import compare_experiments
from archsweep.pipeline import Machine, collect, report, run
from archsweep.planning.find import find
from archsweep.planning.plan import make_plan
from archsweep.space import Choice
from archsweep.training.corpus import identify

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from archsweep.analysis.compare import Comparison
    from archsweep.space import Space

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def answered(space: Space, name: str, folder: Path) -> Comparison:
    """The whole way of the question: planned, trained, collected, reported."""
    plan = make_plan(name, find(name).question, space, identify(space.base.dataset, space.base.tokenizer))
    run(plan, folder / name, Machine(serial=True), Console(quiet=True))
    collect(folder / name)
    _, page = report(folder / name)
    assert page.is_file()
    return compare_experiments(folder / name)


def words_file(path: Path, words: Sequence[str]) -> None:
    """A tokenizer.json of these words and the end of a text."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(["<|endoftext|>", *words])}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(path))


def test_heads_change_no_parameter_and_no_compute(tmp_path: Path) -> None:
    """2 * (4 d^2 + 4 d + 2 d f + d + f + 4 d) + 2 d weights of blocks at d = 48, f = 158, whatever the heads: 50,044."""
    asked = find("heads").space
    base = asked.base.copy(max_tokens=10_240, eval_tokens=4_096)
    comparison = answered(replace(asked, base=base, tune={"learning_rate": Choice(5e-3, 1e-2)}, repeat=2), "heads", tmp_path)
    rows = comparison.source.results
    assert sorted(rows["num_heads"].unique()) == [1, 2, 3, 4, 6]
    assert set(rows["status"]) == {"finished"}
    assert set(rows["non_embedding_parameters"]) == {2 * (4 * 48**2 + 4 * 48 + 2 * 48 * 158 + 48 + 158 + 4 * 48) + 2 * 48} == {50_044}
    for column in ("parameters", "kaplan_parameters", "flops", "tokens"):
        assert rows[column].nunique() == 1
    assert rows["val_loss"].nunique() == len(rows), "the heads do change what is learnt"


# Associative recall: pairs of a key and its value, then the keys again in another order, each followed by its value.

KEYS, VALUES, PAIRS = 8, 8, 4
RECALL_TOKENS = 4 * PAIRS + 1  # of a document, with its end
# Nothing else can be told beforehand: four of eight keys in order, four values, and the order in which the keys come again.
RECALL_ENTROPY = (math.log(8 * 7 * 6 * 5) + PAIRS * math.log(VALUES) + math.log(math.factorial(PAIRS))) / RECALL_TOKENS


def recall_documents(count: int) -> list[str]:
    draw = np.random.default_rng(7)
    documents = []
    for _ in range(count):
        keys, values, again = draw.permutation(KEYS)[:PAIRS], draw.integers(VALUES, size=PAIRS), draw.permutation(PAIRS)
        pairs = [f"k{keys[pair]} v{values[pair]}" for pair in (*range(PAIRS), *again)]
        documents.append(" ".join(pairs))
    return documents


def test_one_layer_fails_associative_recall_and_none_goes_under_its_entropy(tmp_path: Path) -> None:
    """Zoology (arXiv 2312.04927): one layer marks each value with the key before it, and another finds it. One layer alone is left with a
    guess among the values that were there."""
    documents = recall_documents(40_000)
    (tmp_path / "recall.txt").write_text("\n\n".join(documents))
    words = [*(f"k{key}" for key in range(KEYS)), *(f"v{value}" for value in range(VALUES))]
    words_file(tmp_path / "tokenizer.json", words)
    asked = find("layers_vs_width").space
    base = asked.base.copy(
        dataset=f"text:{tmp_path / 'recall.txt'}", tokenizer=str(tmp_path / "tokenizer.json"), vocab_size=len(words) + 1,
        context_length=RECALL_TOKENS, batch_tokens=64 * RECALL_TOKENS, max_tokens=1500 * 64 * RECALL_TOKENS, num_heads=1, warmup=0.1,
        eval_tokens=30_000, weight_decay=0.0, model_overrides={"initializer_range": 0.15},
    )  # fmt: skip
    budget = replace(asked.size_budget, target=25_000)  # type: ignore[type-var]
    space = replace(asked, base=base, compare={"num_layers": Choice(1, 2)}, tune={}, repeat=2, budget=budget)
    comparison = answered(replace(space, base=base.copy(learning_rate=3e-3)), "layers_vs_width", tmp_path)
    losses = comparison.source.results.groupby("num_layers")["val_loss"]
    assert losses.min().min() > RECALL_ENTROPY - 3 * 1.2 / math.sqrt(30_000)
    assert losses.min()[2] < RECALL_ENTROPY + 0.03
    assert losses.min()[1] > RECALL_ENTROPY + 0.1
    assert comparison.table.iloc[0]["num_layers"] == 2


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


def test_no_feed_forward_goes_under_the_entropy_of_its_source_and_all_come_near(tmp_path: Path) -> None:
    matrix = transitions()
    documents = [" ".join(f"s{state}" for state in chain(matrix, 1000, seed)) for seed in range(300)]
    (tmp_path / "chain.txt").write_text("\n\n".join(documents))
    words_file(tmp_path / "tokenizer.json", [f"s{symbol}" for symbol in range(SYMBOLS)])
    asked = find("mlp_ratio").space
    base = asked.base.copy(
        dataset=f"text:{tmp_path / 'chain.txt'}", tokenizer=str(tmp_path / "tokenizer.json"), vocab_size=SYMBOLS + 1,
        eval_tokens=24_000, num_evaluations=2, max_tokens=61_440, warmup=0.1, learning_rate=1e-2,
    )  # fmt: skip
    comparison = answered(replace(asked, base=base, tune={}, repeat=2), "mlp_ratio", tmp_path)
    entropy = entropy_rate(matrix)
    assert entropy < 0.8 * math.log(SYMBOLS)  # there is something to learn
    # Of 24,000 predictions: some sd of a symbol's surprise over the root of their number.
    tolerance = 3 * 1.2 / math.sqrt(24_000)
    losses = comparison.source.curves["val_loss"].astype(float)
    assert losses.min() > entropy - tolerance
    assert comparison.source.results["val_loss"].max() < 1.05 * entropy + tolerance
