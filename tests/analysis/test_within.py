"""Questions whose variants are not all of one kind: several budgets, learning rates over shapes, alphabets, metrics of one's own."""

from __future__ import annotations

import json
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

import archsweep
from archsweep.analysis.compare import compare_experiments
from archsweep.analysis.report import generate_summary_report
from archsweep.analysis.statistics import all_pairs, fit_layout
from archsweep.analysis.transfer import transfer
from archsweep.errors import RecordError
from tests.sweep_folder import write_sweep

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NOISE = {0: (0.004, -0.003, -0.001), 1: (-0.002, 0.005, -0.003), 2: (0.001, -0.004, 0.003), 3: (-0.003, 0.002, 0.001)}


def noisy(index: int, seed: int) -> float:
    return NOISE[index % 4][seed] + 0.01 * seed


# Several budgets.

BUDGETS = (1.8432e11, 3.6864e11)  # 6 FLOPs x 100,000 or 200,000 weights x 307,200 tokens
WIDTHS = (16, 32, 64)


def two_budgets(folder: Path) -> Path:
    """At the small budget 32 is the best by .1, at the large one 64."""
    losses = {
        (BUDGETS[0], 16): 3.3,
        (BUDGETS[0], 32): 3.2,
        (BUDGETS[0], 64): 3.4,
        (BUDGETS[1], 16): 3.2,
        (BUDGETS[1], 32): 3.1,
        (BUDGETS[1], 64): 3.0,
    }
    return write_sweep(
        folder,
        [{"budget.flops": budget, "hidden_size": width} for budget, width in product(BUDGETS, WIDTHS)],
        lambda variant, rate, seed: (
            losses[variant["budget.flops"], variant["hidden_size"]] + noisy(WIDTHS.index(variant["hidden_size"]), seed) + (rate != 3e-3)
        ),
        parameters=lambda variant: round(variant["budget.flops"] / 1_843_200),
    )


def test_variants_are_compared_at_their_own_budget_alone(tmp_path: Path) -> None:
    comparison = compare_experiments(two_budgets(tmp_path / "s"))
    verdicts = comparison.table.set_index("variant")["verdict"]
    best = {"flops=1.8432e+11 hidden_size=32", "flops=3.6864e+11 hidden_size=64"}
    assert set(verdicts.index[verdicts == "BEST"]) == best
    assert set(verdicts.drop(list(best))) == {"BETTER"}
    assert "At 1.843e+11 FLOPs: hidden_size=32 beats every other variant: 3.210 nats/token" in comparison.verdict
    assert "At 3.686e+11 FLOPs: hidden_size=64 beats every other variant: 3.010 nats/token" in comparison.verdict
    assert len(comparison.pairs) == 2 * 3


def test_each_budget_is_a_family_of_its_own(tmp_path: Path) -> None:
    comparison = compare_experiments(two_budgets(tmp_path / "s"))
    rows = comparison.source.results
    small = rows[(rows["budget.flops"] == BUDGETS[0]) & (rows["learning_rate"] == 3e-3)]
    alone = all_pairs(fit_layout(small.pivot(index="variant", columns="seed", values="val_loss").astype(float)))
    p = {frozenset(pair): holm for *pair, holm in alone[["first", "second", "holm_p"]].itertuples(index=False)}
    found = {frozenset(pair): holm for *pair, holm in comparison.pairs[["first", "second", "holm_p"]].itertuples(index=False)}
    for pair, holm in p.items():
        assert found[pair] == pytest.approx(holm)


@pytest.mark.parametrize(
    ("gap", "told"),
    [
        (-0.1, "Curves still cross: in the last half of training, the order against {best} has changed for {other}."),
        (0.5, "The ranking is moving: as in the last half of training, twice as long would close the gap of {other} to {best}."),
    ],
)
def test_curves_are_held_against_the_best_one_of_their_own_budget(gap: float, told: str, tmp_path: Path) -> None:
    folder = two_budgets(tmp_path / "s")
    best, other = "flops=1.8432e+11 hidden_size=32", "flops=1.8432e+11 hidden_size=64"
    # At two thirds of the training the small budget's 64, which ends .2 behind its best, has this gap to it. All others keep their gaps
    # to the best of their own budget, and all of the small budget were ahead of the large one's best.
    for trial in json.loads((folder / "plan.json").read_text())["trials"]:
        variant, path = trial["variant"], folder / "trials" / trial["id"] / "records.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in (row for row in rows if row["step"] == 200):
            row["val_loss"] += 1.0 if variant["budget.flops"] == BUDGETS[1] else 0.0
            row["val_loss"] += gap - 0.2 if (variant["budget.flops"], variant["hidden_size"]) == (BUDGETS[0], 64) else 0.0
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [caveat for caveat in compare_experiments(folder).caveats if "in the last half of training" in caveat]
    assert found == [told.format(best=best, other=other)]


def test_the_page_of_several_budgets_says_so(tmp_path: Path) -> None:
    folder = two_budgets(tmp_path / "s")
    generate_summary_report(folder)
    markdown = (folder / "report.md").read_text()
    assert "the pairs of each size of the budget of FLOPs (6 in all), each size a family of its own" in markdown
    assert "figures/differences.png" not in markdown
    assert "1.843e+11 FLOPs, within 1.0% (3 variants)" in markdown


# Learning rates over shapes.

RATES = (1e-3, 2e-3, 4e-3)


def rates_over_widths(folder: Path, losses: Mapping[int, tuple[float, float, float]]) -> Path:
    """A sweep whose compared rates have these losses at each width."""
    return write_sweep(
        folder,
        [{"hidden_size": width, "learning_rate": rate} for width, rate in product(losses, RATES)],
        lambda variant, rate, seed: (
            losses[variant["hidden_size"]][RATES.index(variant["learning_rate"])] + noisy(RATES.index(variant["learning_rate"]), seed)
        ),
        rates=(1e-3,),
        parameters=lambda variant: 500 * variant["hidden_size"],
    )


def set_rates(folder: Path) -> Path:
    """Replicas have the rate of their variant, as a plan that compares rates writes them."""
    plan = json.loads((folder / "plan.json").read_text())
    plan["tune"] = []
    for trial in plan["trials"]:
        for replica in trial["replicas"]:
            replica["learning_rate"] = trial["variant"]["learning_rate"]
        path = folder / "trials" / trial["id"] / "records.jsonl"
        rows = [json.loads(line) | {"learning_rate": trial["variant"]["learning_rate"]} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


@pytest.mark.parametrize(
    ("wide", "said"),
    [
        ((3.3, 3.4, 3.6), "No verdict for hidden_size=64 (add 0.0005): the best rate there is at the edge of those tried."),
        ((3.5, 3.3, 3.4), "The learning rate carries over: of those tried, 0.002 is the best for every hidden size."),
        ((3.30, 3.30, 3.299), "No verdict for hidden_size=64 (add 0.008)"),
    ],
)
def test_a_rate_carries_over_or_ends_at_the_edge(wide: tuple[float, float, float], said: str, tmp_path: Path) -> None:
    folder = set_rates(rates_over_widths(tmp_path / "s", {16: (3.6, 3.5, 3.7), 64: wide}))
    assert said in compare_experiments(folder).verdict


def test_what_the_carried_rate_costs_is_a_tested_difference(tmp_path: Path) -> None:
    losses = {16: (3.7, 3.6, 3.5, 3.8), 64: (3.5, 3.3, 3.4, 3.6)}
    rates = (1e-3, 2e-3, 4e-3, 8e-3)
    folder = write_sweep(
        tmp_path / "s",
        [{"hidden_size": width, "learning_rate": rate} for width, rate in product(losses, rates)],
        lambda variant, rate, seed: (
            losses[variant["hidden_size"]][rates.index(variant["learning_rate"])] + noisy(rates.index(variant["learning_rate"]), seed)
        ),
        rates=(1e-3,),
        parameters=lambda variant: 500 * variant["hidden_size"],
    )
    comparison = compare_experiments(set_rates(folder))
    # 64 has 3.3 at its own .002 and 3.4 at 16's .004: .1 by hand, and the means of the planted noise are nothing
    assert (
        "The learning rate does not carry over: hidden_size=16's best learning rate, 0.004, costs hidden_size=64 0.100 ± "
        in comparison.verdict
    )
    assert "Best rates: 0.004 at hidden_size=16, 0.002 at hidden_size=64." in comparison.verdict
    generate_summary_report(folder)
    markdown = (folder / "report.md").read_text()
    assert "Does the learning rate carry over?" in markdown
    assert "| hidden\\_size=64" in markdown or "| hidden_size=64" in markdown
    assert "figures/transfer.png" in markdown


def diverging(folder: Path, at: set[tuple[int, float]]) -> Path:
    """Four rates; 16 is best at .004, 64 at .002 of those it finishes; replicas of (width, rate) in `at` diverge."""
    losses = {16: (3.7, 3.6, 3.5, 3.8), 64: (3.5, 3.3, 3.4, 3.6)}
    rates = (1e-3, 2e-3, 4e-3, 8e-3)

    def loss(variant: Mapping[str, Any], rate: float, seed: int) -> float | None:
        width, own = variant["hidden_size"], variant["learning_rate"]
        return None if (width, own) in at else losses[width][rates.index(own)] + noisy(rates.index(own), seed)

    variants = [{"hidden_size": width, "learning_rate": rate} for width, rate in product(losses, rates)]
    return set_rates(write_sweep(folder, variants, loss, rates=(1e-3,), parameters=lambda variant: 500 * variant["hidden_size"]))


def test_a_carried_rate_that_diverges_does_not_carry_over(tmp_path: Path) -> None:
    verdict = compare_experiments(diverging(tmp_path / "s", {(64, 4e-3), (64, 8e-3)})).verdict
    assert "does not carry over: hidden_size=16's best learning rate, 0.004, diverges at hidden_size=64." in verdict
    assert "No verdict" not in verdict  # the rates that diverged bound its best one, .002, from above
    assert "nan" not in verdict


def tuned_decays(folder: Path, wide: Mapping[float, tuple[float | None, ...]]) -> Path:
    """Three rates at two weight decays, .1 listed first; 16 is best at .002 and 0. `wide` has the losses of 64 at each decay."""
    losses = {16: {0.1: (3.9, 3.8, 4.0), 0.0: (3.6, 3.5, 3.7)}, 64: wide}

    def loss(variant: Mapping[str, Any], decay: float, seed: int) -> float | None:
        at = RATES.index(variant["learning_rate"])
        planted = losses[variant["hidden_size"]][decay][at]
        return None if planted is None else planted + noisy(at, seed)

    variants = [{"hidden_size": width, "learning_rate": rate} for width, rate in product(losses, RATES)]
    write_sweep(folder, variants, loss, rates=(0.1, 0.0), parameters=lambda variant: 500 * variant["hidden_size"])
    plan = json.loads((folder / "plan.json").read_text())
    for trial in plan["trials"]:
        trial["replicas"] = [replica | {"weight_decay": replica["learning_rate"]} for replica in trial["replicas"]]
        path = folder / "trials" / trial["id"] / "records.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row | {"weight_decay": row["learning_rate"]}) + "\n" for row in rows))
    (folder / "plan.json").write_text(json.dumps(plan))
    plan = json.loads((set_rates(folder) / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(plan | {"tune": ["weight_decay"]}))
    return folder


def test_a_rate_that_diverges_at_one_weight_decay_is_judged_at_the_best_one(tmp_path: Path) -> None:
    folder = tuned_decays(tmp_path / "s", {0.1: (3.8, None, 3.9), 0.0: (3.5, 3.3, 3.4)})
    verdict = compare_experiments(folder).verdict
    assert verdict.startswith("The learning rate carries over: of those tried, 0.002 is the best for every hidden size.")


def test_a_rate_that_diverges_at_each_weight_decay_does_not_carry_over(tmp_path: Path) -> None:
    folder = tuned_decays(tmp_path / "s", {0.1: (3.8, None, None), 0.0: (3.3, None, None)})
    assert "0.002, diverges at hidden_size=64." in compare_experiments(folder).verdict


def test_a_rate_that_was_given_up_at_one_weight_decay_did_not_diverge(tmp_path: Path) -> None:
    folder = tuned_decays(tmp_path / "s", {0.1: (3.8, None, 3.9), 0.0: (3.5, 3.3, 3.4)})
    for path in folder.glob("trials/*/records.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        if any(row["status"] == "diverged" for row in rows):
            rows = [row | {"status": "pruned"} if row["weight_decay"] == 0 else row for row in rows]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    verdict = compare_experiments(folder).verdict
    assert "Best rates: 0.002 at hidden_size=16, 0.004 at hidden_size=64." in verdict
    assert "diverges" not in verdict


def test_each_rate_has_the_loss_of_its_best_weight_decay(tmp_path: Path) -> None:
    found = transfer(compare_experiments(tuned_decays(tmp_path / "s", {0.1: (3.8, 3.4, 3.2), 0.0: (3.5, 3.3, 3.9)})))
    assert found is not None
    wide = found.shapes[1]
    # The planted noise is nothing in the mean over the seeds 0, 1 and 2, but for .01 of each seed.
    assert wide.rates == RATES
    assert wide.losses == pytest.approx((3.51, 3.31, 3.21))
    assert wide.carried_loss == pytest.approx(3.31)
    assert wide.cost == pytest.approx(0.1)
    assert wide.sensitivity == pytest.approx((0.3 + 0.1 + 0) / 3)


def test_a_report_on_rates_while_they_train_says_so_far(tmp_path: Path) -> None:
    folder = diverging(tmp_path / "s", set())
    last = json.loads((folder / "plan.json").read_text())["trials"][0]["id"]
    (folder / "trials" / last / "records.jsonl").unlink()
    (folder / "trials" / last / "results.json").unlink()
    assert compare_experiments(folder).verdict.startswith("So far: The learning rate does not carry over")


def test_rates_of_a_dataframe_without_sizes_are_compared_like_anything_else() -> None:
    rows = [
        {"optimizer": name, "learning_rate": rate, "seed": seed, "val_loss": 3 + rate + 0.01 * seed + noisy(seed, seed)}
        for name, rate, seed in product(("adam", "sgd"), (0.1, 0.2), range(3))
    ]
    verdict = compare_experiments(pd.DataFrame(rows), compare=["optimizer", "learning_rate"]).verdict
    assert "carry over" not in verdict


# Alphabets.


def test_alphabets_are_compared_by_bits_per_byte(tmp_path: Path) -> None:
    folder = write_sweep(
        tmp_path / "s",
        [{"vocab_size": size, "model_overrides.tie_word_embeddings": tied} for size, tied in product((300, 512), (True, False))],
        lambda variant, rate, seed: (
            3 + variant["vocab_size"] / 1000 + noisy(int(variant["model_overrides.tie_word_embeddings"]), seed) + (rate != 3e-3)
        ),
        outcomes={index: {"status": "finished", "reason": None, "corpus_id": f"corpus{index // 2}"} for index in range(4)},
    )
    with pytest.raises(RecordError, match="must come from one corpus"):
        compare_experiments(folder)
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(plan | {"metric": "bits_per_byte"}))
    comparison = compare_experiments(folder)
    best = comparison.table.iloc[0]
    assert best["variant"].startswith("vocab_size=300 tie_word_embeddings=")
    assert best["mean"] == pytest.approx((3.3 + 0.01) / 2, abs=1e-3)  # the helper records half of the loss as bits
    assert "bits/byte" in comparison.verdict
    assert "nats/token" not in comparison.verdict
    generate_summary_report(folder)
    assert "bits per byte" in (folder / "report.md").read_text()
    assert set(archsweep.load(folder)["vocab_size"]) == {300, 512}


# Metrics of one's own.


def test_metrics_of_ones_own_stand_in_the_report(tmp_path: Path) -> None:
    folder = write_sweep(
        tmp_path / "s", [{"num_layers": 1}, {"num_layers": 2}], lambda variant, rate, seed: 3 + noisy(variant["num_layers"], seed)
    )
    for path in folder.glob("trials/*/records.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            row["user_metrics"] = {"loss_by_position 1-4": 4.0 + 0.1 * row["seed"], "accuracy": 0.25}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    generate_summary_report(folder)
    markdown = (folder / "report.md").read_text()
    assert "Further metrics" in markdown
    assert f"4.100 ± {np.std([4.0, 4.1, 4.2], ddof=1):.3f}" in markdown
    assert "| variant | loss by position 1-4 | accuracy |" in markdown
