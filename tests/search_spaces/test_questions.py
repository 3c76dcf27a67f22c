"""The shipped questions: each is planned, fair by an independent count, and trains."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from rich.console import Console

from archsweep.analysis.compare import compare_experiments
from archsweep.errors import DataError
from archsweep.pipeline import Ledger, Machine, Question, plan, run
from archsweep.planning.find import find, shipped
from archsweep.planning.plan import make_plan
from archsweep.training.model import CustomGPT2Model

if TYPE_CHECKING:
    from pathlib import Path

    from archsweep.config import ExperimentConfig
    from archsweep.planning.plan import Plan

# Variants, and what they share: a budget of weights, of compute, or none.
EXPECTED = {
    "heads_vs_layers": (9, "non_embedding"),
    "heads": (5, "non_embedding"),
    "layers_vs_width": (4, "non_embedding"),
    "mlp_ratio": (6, "non_embedding"),
    "context_length": (5, "flops"),
    "isoflop": (12, "flops"),
    "kv_heads": (4, "non_embedding"),
    "vocab_tying": (6, "total"),
    "activation": (3, "non_embedding"),
    "norm_position": (8, "non_embedding"),
    "lr_transfer": (36, ""),
}


def planned(name: str, **changes: Any) -> Plan:
    found = find(name)
    return make_plan(name, found.question, replace(found.space, **changes), "corpus")


def weights(config: ExperimentConfig, kind: str) -> int:
    """Those of the module that trains, counted one by one."""
    with torch.device("meta"):
        return CustomGPT2Model(config).count_parameters()[kind]


def test_every_shipped_question_is_expected_here() -> None:
    assert {*EXPECTED, "pareto"} == set(shipped())


@pytest.mark.parametrize("name", EXPECTED)
def test_a_question_has_its_variants_and_they_share_its_budget(name: str) -> None:
    made, (variants, shared) = planned(name), EXPECTED[name]
    assert not made.refused
    assert len(made.trials) == variants
    if shared == "flops":
        for trial in made.trials:
            target = trial.variant.get("budget.flops") or made.budgets[0].target
            tokens = (trial.config.max_tokens or 0) // trial.config.tokens_per_step * trial.config.tokens_per_step
            assert tokens * trial.cost.flops_per_token == pytest.approx(target, rel=0.01)
            assert trial.config.tokens_per_step == 512
    elif shared:
        counts = [weights(trial.config, shared) for trial in made.trials]
        assert counts == pytest.approx([made.budgets[0].target] * variants, rel=made.budgets[0].tolerance)


def test_heads_change_no_weight_and_no_width() -> None:
    configs = [trial.config for trial in planned("heads").trials]
    assert len({weights(config, "total") for config in configs}) == 1
    assert {(config.hidden_size, config.ffn_size) for config in configs} == {(48, 158)}


def test_keys_are_shared_at_one_width_and_the_feed_forward_gets_their_weights() -> None:
    configs = {trial.config.num_kv_heads: trial.config for trial in planned("kv_heads").trials}
    assert {config.hidden_size for config in configs.values()} == {64}
    assert configs[8].ffn_size < configs[4].ffn_size < configs[2].ffn_size < configs[1].ffn_size
    cached = {trial.config.num_kv_heads: trial.cost.kv_bytes_per_token for trial in planned("kv_heads").trials}
    assert cached == {8: 512, 4: 256, 2: 128, 1: 64}  # 2 layers x (keys and values) x heads x 8 x 2 bytes


def test_the_gate_has_two_thirds_of_the_width() -> None:
    sizes = {trial.config.model_overrides["activation"]: trial.config for trial in planned("activation").trials}
    assert sizes["gelu"].ffn_size / sizes["gelu"].hidden_size == pytest.approx(4, rel=0.1)
    assert sizes["swiglu"].ffn_size / sizes["swiglu"].hidden_size == pytest.approx(8 / 3, rel=0.1)


def test_alphabets_that_would_be_measured_on_unlike_texts_are_refused(tmp_path: Path) -> None:
    made = plan(Question("vocab_tying", smoke=True, settings={"validation_fraction": "0.1"}))
    with pytest.raises(DataError, match="eval_tokens must hold all of the validation text"):
        run(made, tmp_path / made.name, Machine(serial=True), Console(quiet=True), Ledger())


@pytest.mark.parametrize("name", [*EXPECTED, "pareto"])
def test_every_base_has_a_plan_of_the_question(name: str) -> None:
    for base in ("small", "gpt2"):
        assert plan(Question(name, base=base)).trials


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [*EXPECTED, "pareto"])
def test_a_question_trains_for_two_steps_and_is_reported(name: str, tmp_path: Path) -> None:
    settings = {"num_evaluations": "1", "max_tokens": "1024"} | ({} if name == "vocab_tying" else {"eval_tokens": "2048"})
    question = Question(name, smoke=True, settings=settings)
    made = plan(question)
    folder = tmp_path / made.name
    run(made, folder, Machine(serial=True), Console(quiet=True), Ledger())
    comparison = compare_experiments(folder)
    assert set(comparison.source.results["status"]) == {"finished"}
    assert (comparison.source.results["step"] == 2).all()
    assert comparison.verdict
