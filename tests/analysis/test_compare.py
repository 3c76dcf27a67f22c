from __future__ import annotations

import csv
import json
import re
from math import log
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from archsweep.analysis.audits import audits
from archsweep.analysis.compare import compare_experiments
from archsweep.analysis.compute import Exponent
from archsweep.analysis.detect import detectable_effect, seeds_needed
from archsweep.analysis.export import export_table
from archsweep.analysis.plots import plot_heat_map
from archsweep.config import ExperimentConfig
from archsweep.errors import RecordError
from archsweep.records import read
from archsweep.records.results import ExperimentResults
from archsweep.records.schema import RESULTS
from tests.sweep_folder import write_sweep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

LAYERS = [{"num_layers": layers} for layers in (1, 2, 4)]
NOISE = {1: (0.004, -0.009, 0.005), 2: (-0.007, 0.001, 0.009), 4: (0.008, 0.003, -0.01)}  # of each num_layers, by seed


def planted(means: Mapping[int, float], best_rate: float = 3e-3) -> Any:
    """The loss of a variant with `means[num_layers]` at its best rate, rising away from it, with fixed noise over seeds."""

    def loss(variant: Mapping[str, Any], rate: float, seed: int) -> float:
        layers = variant["num_layers"]
        return means[layers] + 0.2 * abs(log(rate / best_rate)) + NOISE[layers][seed] + 0.05 * seed

    return loss


def sweep(folder: Path, means: Mapping[int, float], best_rate: float = 3e-3, **more: Any) -> Path:
    return write_sweep(folder / "demo", LAYERS, planted(means, best_rate), **more)


def verdicts(comparison: Any) -> dict[str, str]:
    return dict(zip(comparison.table["variant"], comparison.table["verdict"], strict=True))


def test_a_planted_large_difference_is_found(tmp_path: Path) -> None:
    comparison = compare_experiments(sweep(tmp_path, {1: 3.8, 2: 3.5, 4: 4.1}))
    assert verdicts(comparison) == {"num_layers=2": "BEST", "num_layers=1": "BETTER", "num_layers=4": "BETTER"}
    assert comparison.verdict.startswith("num_layers=2 beats every other variant: 3.551 nats/token, 0.299 ± ")
    assert comparison.table["n"].tolist() == [3, 3, 3]
    assert comparison.table["learning_rate"].tolist() == [3e-3] * 3


def test_equal_variants_are_undecided_with_the_seeds_it_would_take(tmp_path: Path) -> None:
    comparison = compare_experiments(sweep(tmp_path, {1: 3.5, 2: 3.505, 4: 3.51}))
    assert sorted(verdicts(comparison).values()) == ["BEST", "UNDECIDED", "UNDECIDED"]
    assert comparison.verdict.startswith("Undecided between num_layers=1 and 2 others (num_layers=2, num_layers=4): ")
    needed = comparison.table["seeds_needed"].iloc[1]
    assert needed > 3
    assert f"would need about {needed} seeds" in comparison.verdict


def test_a_best_rate_at_the_edge_confounds_the_verdict(tmp_path: Path) -> None:
    comparison = compare_experiments(sweep(tmp_path, {1: 3.8, 2: 3.5, 4: 4.1}, best_rate=1e-2))
    assert verdicts(comparison) == {"num_layers=2": "BEST", "num_layers=1": "LR-CONFOUNDED", "num_layers=4": "LR-CONFOUNDED"}
    assert comparison.verdict.startswith("No verdict for num_layers=2")
    assert "Add 0.033." in comparison.verdict
    assert any("at the edge" in caveat for caveat in comparison.caveats)


def test_only_the_variant_at_the_edge_is_confounded(tmp_path: Path) -> None:
    def loss(variant: Mapping[str, Any], rate: float, seed: int) -> float:
        edge = 1e-2 if variant["num_layers"] == 4 else 3e-3
        return float(planted({1: 3.8, 2: 3.5, 4: 4.1}, edge)(variant, rate, seed))

    comparison = compare_experiments(write_sweep(tmp_path / "demo", LAYERS, loss))
    assert verdicts(comparison) == {"num_layers=2": "BEST", "num_layers=1": "BETTER", "num_layers=4": "LR-CONFOUNDED"}
    assert "num_layers=2 beats num_layers=1" in comparison.verdict


def test_a_variant_off_the_budget_is_a_mismatch_and_no_result(tmp_path: Path) -> None:
    budget = {"kind": "non_embedding_parameters", "target": 20_000, "tolerance": 0.01}
    sizes = {1: 30_000, 2: 30_000, 4: 30_500}
    folder = sweep(tmp_path, {1: 3.8, 2: 3.5, 4: 4.1}, budget=budget, parameters=lambda variant: sizes[variant["num_layers"]])
    comparison = compare_experiments(folder)
    assert verdicts(comparison) == {"num_layers=2": "BEST", "num_layers=1": "BETTER", "num_layers=4": "BUDGET-MISMATCH"}
    assert "Off the budget of 20,000 non-embedding parameters ± 1.0%: num_layers=4 (20,500)." in comparison.caveats


def change_records(folder: Path, layers: int, **changes: Any) -> None:
    """What was recorded of the variant with so many layers, changed."""
    for path in folder.glob("trials/*"):
        if json.loads((path / "config.json").read_text())["num_layers"] == layers:
            rows = [json.loads(line) | changes for line in (path / "records.jsonl").read_text().splitlines()]
            (path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("budget", "changes", "told"),
    [
        # 300 steps of 1,024 tokens of a model that takes 6 * 30,000 FLOPs each.
        ({"kind": "flops", "target": 307_200 * 180_000, "tolerance": 0.01}, {"tokens": 300_000}, "num_layers=4 (5.4e+10)"),
        ({"kind": "tokens", "target": 307_200, "tolerance": 0.01}, {"tokens": 300_000}, "num_layers=4 (300,000)"),
        # 307,200 tokens of a stack's 40,960 a second.
        ({"kind": "train_seconds", "target": 7.5, "tolerance": 0.1}, {"tokens_per_second": 25_600.0}, "± 10.0%: num_layers=4 (12)"),
    ],
)  # fmt: skip
def test_what_was_trained_is_held_against_a_budget_of_length(
    tmp_path: Path, budget: dict[str, Any], changes: dict[str, Any], told: str
) -> None:
    sizes = {"kind": "parameters", "target": 30_000, "tolerance": 0.01}
    folder = sweep(tmp_path, {1: 3.8, 2: 3.5, 4: 4.1}, budget=[sizes, budget])
    before = compare_experiments(folder)
    assert "BUDGET-MISMATCH" not in set(before.table["verdict"])
    change_records(folder, 4, **changes)
    comparison = compare_experiments(folder)
    assert dict(zip(comparison.table["variant"], comparison.table["verdict"], strict=True))["num_layers=4"] == "BUDGET-MISMATCH"
    assert any(told in caveat for caveat in comparison.caveats if caveat.startswith("Off the budget"))


def test_two_variants_within_the_tolerance_on_both_sides_of_the_target_share_the_budget(tmp_path: Path) -> None:
    budget = {"kind": "parameters", "target": 30_000, "tolerance": 0.01}
    sizes = {1: 29_710, 2: 30_290, 4: 30_000}
    folder = sweep(tmp_path, {1: 3.8, 2: 3.5, 4: 4.1}, budget=budget, parameters=lambda variant: sizes[variant["num_layers"]])
    assert "BUDGET-MISMATCH" not in set(compare_experiments(folder).table["verdict"])


def test_a_variant_that_diverged_everywhere_is_listed_without_a_loss(tmp_path: Path) -> None:
    def loss(variant: Mapping[str, Any], rate: float, seed: int) -> float | None:
        return None if variant["num_layers"] == 4 and seed == 1 else float(planted({1: 3.8, 2: 3.5, 4: 3.0})(variant, rate, seed))

    comparison = compare_experiments(write_sweep(tmp_path / "demo", LAYERS, loss))
    assert verdicts(comparison) == {"num_layers=2": "BEST", "num_layers=1": "BETTER", "num_layers=4": "DIVERGED"}
    assert comparison.verdict.startswith("num_layers=2 beats every other variant that has a result")
    assert any(caveat.startswith("Of 27 replicas, 3 diverged") for caveat in comparison.caveats)


def test_failed_and_unfinished_variants_say_so(tmp_path: Path) -> None:
    outcomes = {0: {"status": "failed", "reason": "out of memory"}, 2: None}
    comparison = compare_experiments(sweep(tmp_path, {1: 3.8, 2: 3.5, 4: 4.1}, outcomes=outcomes, records={0: 0, 2: 0.4}))
    assert verdicts(comparison) == {"num_layers=2": "BEST", "num_layers=1": "FAILED", "num_layers=4": "UNFINISHED"}
    assert comparison.verdict.startswith("So far: Nothing to compare yet")
    assert comparison.caveats[0].startswith("This sweep is partial: 9 of 27 replicas are unfinished")


def test_a_variant_that_trains_on_is_unfinished_though_one_of_its_rates_has_diverged(tmp_path: Path) -> None:
    def loss(variant: Mapping[str, Any], rate: float, seed: int) -> float | None:
        return None if rate == 1e-2 and seed < 2 else float(planted({1: 3.8, 2: 3.5, 4: 4.1})(variant, rate, seed))

    folder = write_sweep(tmp_path / "demo", LAYERS, loss, outcomes={2: None}, records={2: 1 / 3})
    assert verdicts(compare_experiments(folder)) == {"num_layers=2": "BEST", "num_layers=1": "BETTER", "num_layers=4": "UNFINISHED"}


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [
        (("diverged", "unfinished", "unfinished", "unfinished"), "UNFINISHED"),  # the second rate may still count, the first never
        (("diverged", "unfinished", "finished", "failed"), "FAILED"),
        (("failed", "stopped", "stopped", "stopped"), "STOPPED"),
        (("finished", "diverged", "diverged", "finished"), "DIVERGED"),
    ],
)
def test_a_variant_without_a_result_is_as_its_most_hopeful_setting(statuses: tuple[str, ...], verdict: str) -> None:
    """Of two rates with two seeds each."""
    settings = [{"variant": "b", "learning_rate": rate, "seed": seed, "val_loss": 3.0} for rate in (1e-3, 3e-3) for seed in (0, 1)]
    rows = pd.DataFrame([{**row, "status": status} for row, status in zip(settings, statuses, strict=True)])
    with_best = pd.concat([rows, rows.assign(variant="a", status="finished")], ignore_index=True)
    assert verdicts(compare_experiments(with_best))["b"] == verdict


def test_a_sweep_without_any_result_has_no_verdict(tmp_path: Path) -> None:
    outcomes = {trial: {"status": "failed", "reason": "no disk"} for trial in range(3)}
    comparison = compare_experiments(sweep(tmp_path, {1: 3.8, 2: 3.5, 4: 4.1}, outcomes=outcomes, records=dict.fromkeys(range(3), 0)))
    assert comparison.verdict == "No verdict: no variant has finished all its seeds at any setting."
    assert "FAILED" in str(comparison)


def test_one_variant_is_nothing_to_compare() -> None:
    frame = pd.DataFrame({"variant": ["a", "a"], "seed": [0, 1], "val_loss": [3.0, 3.1]})
    assert compare_experiments(frame).verdict == "Nothing to compare: there is one variant, a, with 3.050 nats/token."


def test_a_dataframe_is_compared_by_the_columns_that_are_named() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        [{"depth": depth, "seed": seed, "val_loss": 3 + depth + 0.01 * rng.normal()} for depth in (1, 2, 3) for seed in range(3)]
    )
    comparison = compare_experiments(frame, compare=["depth"])
    assert comparison.table["depth"].tolist() == [1, 2, 3]
    assert comparison.verdict.startswith("depth=1 beats every other variant")


def grid_of(name: str, values: Sequence[Any]) -> pd.DataFrame:
    """The values of a column beside two widths, three seeds of each; the loss grows by a tenth from value to value."""
    return pd.DataFrame(
        [
            {name: value, "width": width, "seed": seed, "val_loss": 3 + 0.1 * rank + 0.05 * width + 0.01 * seed + 0.002 * (seed == width)}
            for rank, value in enumerate(values)
            for width in (1, 2)
            for seed in range(3)
        ]
    )


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *((cost, (1000, 2000)) for cost in ("parameters", "non_embedding_parameters", "tokens", "flops")),
        *((cost, (10.5, 20.5)) for cost in ("tokens_per_second", "train_seconds")),
        ("learning_rate", (0.001, 0.002)),
        ("num_layers", ("2L", "4L")),
        ("dropout", ("none", 0.1)),
        ("allow_tf32", (2, 3)),
        ("text", ("a", "b")),
    ],
)
def test_a_compared_column_may_be_called_as_one_of_ours(name: str, values: tuple[Any, ...]) -> None:
    rows = grid_of(name, values)
    rows.loc[(rows[name] == values[1]) & (rows["width"] == 2), "val_loss"] = float("nan")
    comparison = compare_experiments(rows, compare=[name, "width"])
    assert [str(value) for value in comparison.table[name]] == [str(values[index]) for index in (0, 0, 1, 1)]
    assert len(plot_heat_map(comparison).axes[0].get_xticklabels()) == 2
    for form in ("csv", "parquet", "markdown"):
        assert export_table(comparison, "ranking", form)
        assert export_table(comparison, "results", form)


def test_a_rate_that_is_compared_beside_sizes_has_its_best_at_each() -> None:
    rows = grid_of("learning_rate", (0.001, 0.002, 0.004)).rename(columns={"width": "parameters"})
    verdict = compare_experiments(rows, compare=["parameters", "learning_rate"]).verdict
    assert verdict.startswith("Best rates: 0.001 at parameters=1, 0.001 at parameters=2.")


def test_a_compared_column_is_not_called_like_one_that_the_report_makes() -> None:
    made = set(compare_experiments(grid_of("layers", (1, 2)), compare=["layers", "width"]).table.columns)
    made -= {"variant", "layers", "width", *(column.name for column in RESULTS)}
    assert {"n", "mean", "sd", "error", "verdict"} <= made
    for name in sorted(made | {"seed", "status", "tuned"}):
        rows = grid_of("layers", (1, 2)).assign(**{name: lambda frame: frame["layers"]})
        with pytest.raises(RecordError, match=rf"must not be called like .*, got {name}\. Rename it"):
            compare_experiments(rows, compare=[name, "width"])


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("parameters", ("small", "large"), "parameters must hold whole numbers, .* got small, large. Rename"),
        ("tokens", (0.5, 1.0), "tokens must hold whole numbers, .* got 0.5, 1.0. Rename"),
        ("vocab_size", ("small", "large"), "vocab_size must hold whole numbers"),
        ("learning_rate", ("low", 0.1), "learning_rate must hold numbers, .* got low, 0.1. Rename"),
    ],
)
def test_what_the_report_computes_with_must_be_numbers(name: str, values: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        compare_experiments(grid_of(name, values), compare=[name, "width"])


def test_a_misspelt_column_is_answered_with_the_nearest() -> None:
    frame = pd.DataFrame({"num_layers": [1], "val_loss": [3.0]})
    with pytest.raises(RecordError, match="num_layer: did you mean num_layers"):
        compare_experiments(frame, compare=["num_layer"])


def test_results_of_different_corpora_are_refused() -> None:
    frame = pd.DataFrame({"variant": ["a", "b"], "seed": [0, 0], "val_loss": [3.0, 3.1], "corpus_id": ["one", "two"]})
    with pytest.raises(RecordError, match=r"corpus_id one, two.*not comparable"):
        compare_experiments(frame)


def test_experiments_are_compared_by_their_names() -> None:
    experiments = [
        ExperimentResults(
            config=ExperimentConfig(experiment_name=name, seed=seed),
            metrics=[{"epoch": 0, "train": {"loss": loss}, "validation": {"loss": loss + 0.001 * seed}}],
            performance_stats={"parameters": 10},
        )
        for name, loss in (("wide", 3.5), ("deep", 4.5))
        for seed in (0, 1, 2)
    ]
    comparison = compare_experiments(experiments)
    assert comparison.verdict.startswith("wide beats deep: 3.501 nats/token, 1.000 ± 0.000 nats/token less than deep, as much as ")
    assert any("learning rate was not tuned" in caveat for caveat in comparison.caveats)


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(RecordError, match="at least one ExperimentResults"):
        compare_experiments([])


def test_few_tokens_per_parameter_are_a_caveat(tmp_path: Path) -> None:
    folder = sweep(tmp_path, {1: 3.8, 2: 3.5, 4: 4.1}, parameters=lambda variant: 102_400)
    assert any(caveat.startswith("Under-trained: 3 tokens per parameter") for caveat in compare_experiments(folder).caveats)


def test_choosing_the_rate_on_the_tested_seeds_is_a_caveat(tmp_path: Path) -> None:
    assert any("same seeds" in caveat for caveat in compare_experiments(sweep(tmp_path, {1: 3.8, 2: 3.5, 4: 4.1})).caveats)


def test_the_text_opens_with_question_and_verdict(tmp_path: Path) -> None:
    comparison = compare_experiments(sweep(tmp_path, {1: 3.8, 2: 3.5, 4: 4.1}, question="How deep?"))
    assert str(comparison).startswith(f"How deep?\n\n{comparison.verdict}\n\n")
    assert all(variant in str(comparison) for variant in ("num_layers=1", "num_layers=2", "num_layers=4"))


def test_a_comparison_is_the_same_from_the_folder_and_from_its_dataframe(tmp_path: Path) -> None:
    folder = sweep(tmp_path, {1: 3.8, 2: 3.5, 4: 4.1})
    from_frame = compare_experiments(read.load(folder), compare=["num_layers"])
    pd.testing.assert_frame_equal(compare_experiments(folder).table, from_frame.table)


def test_a_comparison_leaves_its_text_and_table_and_no_formulas(tmp_path: Path) -> None:
    frame = pd.DataFrame({"variant": ["=1+1", "b"], "seed": [0, 0], "val_loss": [3.0, 3.1]})
    comparison = compare_experiments(frame, tmp_path)
    assert (tmp_path / "comparison.txt").read_text() == f"{comparison}\n"
    with (tmp_path / "comparison.csv").open() as file:
        assert [row["variant"] for row in csv.DictReader(file)] == ["'=1+1", "b"]


def test_trials_of_unlike_precision_are_told(tmp_path: Path) -> None:
    means = {1: 3.8, 2: 3.5, 4: 4.1}
    used = dict(enumerate({"status": "finished", "precision_used": precision} for precision in ("bf16", "fp32", "fp32")))
    assert any(
        "different precisions, bf16 and fp32" in caveat for caveat in compare_experiments(sweep(tmp_path, means, outcomes=used)).caveats
    )
    alike = compare_experiments(sweep(tmp_path / "alike", means, outcomes=dict.fromkeys(range(3), used[1])))
    assert not any("precision" in caveat for caveat in alike.caveats)


def test_variants_that_were_stopped_are_counted_once_each_with_the_step_where_it_is_known() -> None:
    rows = frame({"a": 4.0, "b": 4.1, "c": 4.2, "d": 4.3}, seeds=3)
    rows["trial_id"] = [f"t{number}" for number in range(12)]
    rows["status"] = rows["variant"].map({"a": "finished", "b": "finished", "c": "stopped", "d": "stopped"})
    rows["step"] = rows["variant"].map({"a": 100, "b": 100, "c": 30})
    caveats = compare_experiments(rows).caveats
    assert "Early stopping stopped 2 variants: c at step 30; d. No verdict counts them." in caveats


def test_the_variants_whose_rate_was_not_tuned_are_counted() -> None:
    tuned = [{"variant": "a", "seed": seed, "learning_rate": rate, "val_loss": 3.0} for rate in (1e-3, 3e-3) for seed in range(3)]
    fixed = [{"variant": "b", "seed": seed, "learning_rate": 1e-3, "val_loss": 3.1} for seed in range(3)]
    caveats = compare_experiments(pd.DataFrame(tuned + fixed)).caveats
    assert any(caveat.startswith("The learning rate of 1 variant was not tuned: ") for caveat in caveats)


def test_a_rate_that_is_compared_is_not_said_to_be_untuned() -> None:
    rows = [{"learning_rate": rate, "seed": seed, "val_loss": 3.0 + rate + 0.01 * seed} for rate in (1e-3, 3e-3) for seed in range(3)]
    comparison = compare_experiments(pd.DataFrame(rows), compare=["learning_rate"])
    assert not any("not tuned" in caveat for caveat in comparison.caveats)
    assert ("learning rate", "what is compared, so nothing chooses it", True) in audits(comparison)


# --------------------------------------------------------------------------------------------------------------- the verdicts


def frame(means: Mapping[str, float], spread: float = 0.001, seeds: int = 5) -> pd.DataFrame:
    """Untuned variants with these means, each with the same spread over seeds in an order of its own."""
    noise = spread * (np.arange(seeds) - (seeds - 1) / 2)
    return pd.DataFrame(
        [
            {"variant": name, "seed": seed, "val_loss": mean + np.roll(noise, 2 * row)[seed]}
            for row, (name, mean) in enumerate(means.items())
            for seed in range(seeds)
        ]
    )


def test_a_significant_difference_below_the_margin_is_better_but_small() -> None:
    comparison = compare_experiments(frame({"a": 4.0, "b": 4.01, "c": 4.1}), margin=0.005)  # the margin is .02
    assert verdicts(comparison) == {"a": "BEST", "b": "BETTER BUT SMALL", "c": "BETTER"}
    assert "a is better than b, but little: by 0.0100 ± 0.00" in comparison.verdict
    assert comparison.verdict.endswith("below the margin of 0.5% of the loss.")


def test_variants_that_cannot_differ_by_the_margin_are_equivalent() -> None:
    comparison = compare_experiments(frame({"a": 4.0, "b": 4.0005}), margin=0.005)
    assert verdicts(comparison) == {"a": "BEST", "b": "EQUIVALENT"}
    assert comparison.verdict.startswith("a and b are equivalent: they differ by 0.0005 ± 0.00")
    assert comparison.verdict.endswith("within the margin of 0.5% of the loss.")


def test_variants_that_might_differ_by_the_margin_are_undecided_and_never_the_same() -> None:
    comparison = compare_experiments(frame({"a": 4.0, "b": 4.0005}, spread=0.02), margin=0.005)
    assert verdicts(comparison) == {"a": "BEST", "b": "UNDECIDED"}
    assert not re.search(r"\b(same|equal|no difference|equivalent)\b", comparison.verdict)
    found = comparison.table["detectable"].iloc[1]
    assert f"; these 5 find {found:.3f} or more." in comparison.verdict


def unequal(seeds: Mapping[str, int], **means: float) -> pd.DataFrame:
    """Untuned variants with so many seeds each, all of which spread by a standard deviation of .1."""
    return pd.DataFrame(
        [
            {"variant": name, "seed": seed, "val_loss": means[name] + shift}
            for name, count in seeds.items()
            for seed, shift in enumerate(0.1 * stats.zscore(np.arange(count), ddof=1) if count > 1 else [0.0])
        ]
    )


def test_what_is_found_and_what_it_takes_follow_from_the_seeds_of_the_pair() -> None:
    comparison = compare_experiments(unequal({"a": 10, "b": 10, "c": 3}, a=4.0, b=4.05, c=4.06))
    table = comparison.table.set_index("variant")
    assert verdicts(comparison) == {"a": "BEST", "b": "UNDECIDED", "c": "UNDECIDED"}
    # The pooled sd is .1, so a difference at one seed each has .1 * 2^.5; ten and three seeds are worth 2 / (1/10 + 1/3) = 60/13 of both.
    sd, level = 0.1 * 2**0.5, 0.05 / 3
    assert table.loc["b", "detectable"] == pytest.approx(sd * detectable_effect(10, 3, level))
    assert table.loc["c", "detectable"] == pytest.approx(sd * detectable_effect(60 / 13, 3, level))
    assert table["seeds_needed"].tolist()[1:] == seeds_needed([0.05 / sd, 0.06 / sd], 3, level).tolist()


def test_a_variant_of_one_seed_is_told_and_finds_nothing_that_can_be_named() -> None:
    comparison = compare_experiments(unequal({"a": 10, "b": 10, "c": 1}, a=4.0, b=4.05, c=4.06))
    assert "How small a difference would be found is not known for a single seed: repeat c with at least 3 seeds." in comparison.caveats
    assert comparison.table["detectable"].notna().tolist() == [False, True, False]  # of the best, b and c
    assert not re.search(r"\b(inf|nan)\b", str(comparison))
    alone = compare_experiments(unequal({"a": 10, "c": 1}, a=4.0, c=4.06))
    assert alone.verdict.startswith("Undecided between a and c: they differ by 0.060 ± ")
    assert re.search(r"would need about \d+ seeds\.$", alone.verdict)


def test_against_a_reference_variants_are_better_worse_or_neither() -> None:
    means = {"ref": 4.0, "low": 3.9, "high": 4.2, "near": 4.0003, "little": 3.99}
    comparison = compare_experiments(frame(means), reference="ref")
    assert verdicts(comparison) == {
        "low": "BETTER",
        "little": "BETTER BUT SMALL",
        "ref": "REFERENCE",
        "near": "EQUIVALENT",
        "high": "WORSE",
    }
    assert len(comparison.pairs) == 4
    assert comparison.verdict.startswith("Against ref, the reference with 4.000 nats/token: low is better (\N{MINUS SIGN}0.1000 ± 0.00")
    # (4 / 3.9)^20 is 1.66.
    assert "as much as 66% more compute would bring (Kaplan's exponent))" in comparison.verdict
    assert "near is equivalent within the margin of 0.5% of the loss" in comparison.verdict
    assert "high is worse (+0.200" in comparison.verdict
    assert "to the reference" in str(comparison)


def test_a_sweeps_plan_names_the_reference_and_nothing_else_can(tmp_path: Path) -> None:
    folder = sweep(tmp_path, {1: 3.8, 2: 3.5, 4: 4.1})
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(plan | {"reference": {"num_layers": 1}, "margin": 0.2}))
    comparison = compare_experiments(folder)
    assert verdicts(comparison) == {"num_layers=2": "BETTER BUT SMALL", "num_layers=1": "REFERENCE", "num_layers=4": "WORSE BUT SMALL"}
    with pytest.raises(RecordError, match="a sweep's plan fixed both"):
        compare_experiments(folder, reference="num_layers=2")


def test_a_reference_without_a_result_leaves_no_verdict(tmp_path: Path) -> None:
    def loss(variant: Mapping[str, Any], rate: float, seed: int) -> float | None:
        return None if variant["num_layers"] == 1 else float(planted({1: 3.8, 2: 3.5, 4: 3.0})(variant, rate, seed))

    folder = write_sweep(tmp_path / "demo", LAYERS, loss)
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(plan | {"reference": {"num_layers": 1}}))
    comparison = compare_experiments(folder)
    assert verdicts(comparison) == {"num_layers=4": "NO-REFERENCE", "num_layers=2": "NO-REFERENCE", "num_layers=1": "DIVERGED"}
    assert comparison.verdict == "No verdict: num_layers=1, the reference, has no result to compare with."


def test_a_misspelt_reference_is_answered_with_the_nearest() -> None:
    with pytest.raises(RecordError, match=r"got 'wade': did you mean wide\?"):
        compare_experiments(frame({"wide": 4.0, "deep": 4.1}), reference="wade")


def test_the_table_says_what_the_rate_does_and_what_a_difference_is_worth(tmp_path: Path) -> None:
    table = compare_experiments(sweep(tmp_path, {1: 3.8, 2: 3.5, 4: 4.1})).table.set_index("variant")
    assert table["at_common_rate"].tolist() == pytest.approx(table["mean"].tolist())  # 3e-3 is everyone's best
    # .2 nats for each e-fold of the rate, over the three rates.
    assert table["learning_rate_sensitivity"].tolist() == pytest.approx([0.2 * (log(3) + 0 + log(10 / 3)) / 3] * 3)
    assert table.loc["num_layers=1", "compute_ratio"] == pytest.approx((table["mean"].iloc[1] / table["mean"].iloc[0]) ** 20)
    assert table["seeds_better"].tolist()[1:] == [1, 1]


def test_an_exponent_of_the_sweeps_own_replaces_kaplans() -> None:
    comparison = compare_experiments(frame({"a": 4.0, "b": 4.4}), exponent=Exponent(0.1, "this sweep's own fit"))
    assert "as much as 2.6 times the compute would bring (this sweep's own fit)" in comparison.verdict  # 1.1^10


def test_eight_seeds_choose_on_some_and_test_on_the_others(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(scale=0.01, size=(5, 8))

    def loss(variant: Mapping[str, Any], rate: float, seed: int) -> float:
        return {1: 3.8, 2: 3.5, 4: 4.1}[variant["num_layers"]] + 0.2 * abs(log(rate / 3e-3)) + float(noise[variant["num_layers"], seed])

    comparison = compare_experiments(write_sweep(tmp_path / "demo", LAYERS, loss, seeds=range(8)))
    assert comparison.table["n"].tolist() == [6, 6, 6]
    assert comparison.table["mean"].iloc[0] == pytest.approx(3.5 + noise[2, 2:].mean())
    assert not any("same seeds" in caveat for caveat in comparison.caveats)
    assert comparison.table["signs_p"].iloc[1] == pytest.approx(2 / 2**6)


# ------------------------------------------------------------------------------------------------------------------- the trend


def with_curves(folder: Path, curve: Any) -> Path:
    """The sweep's records with the loss at each step replaced by curve(num_layers, step, last loss)."""
    for path in folder.glob("trials/*"):
        layers = json.loads((path / "config.json").read_text())["num_layers"]
        rows = [json.loads(line) for line in (path / "records.jsonl").read_text().splitlines()]
        last = {(row["seed"], row["learning_rate"]): row["val_loss"] for row in rows}
        for row in rows:
            row["val_loss"] = curve(layers, row["step"], last[row["seed"], row["learning_rate"]])
        (path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize(
    ("early", "told"),
    [
        (-0.5, "Curves still cross: in the last half of training, the order against num_layers=2 has changed for num_layers=4."),
        (0.8, "The ranking is moving: as in the last half of training, twice as long would close the gap of num_layers=4 to num_layers=2."),
        (0.1, None),
    ],
)  # fmt: skip
def test_a_ranking_that_is_still_moving_is_a_caveat(tmp_path: Path, early: float, told: str | None) -> None:
    # At step 200 of 300 the four layers' gap to the best is larger or smaller by `early` than the .6 of the end.
    folder = with_curves(
        sweep(tmp_path, {1: 3.8, 2: 3.5, 4: 4.1}),
        lambda layers, step, last: last + (0 if step == 300 else 0.3 + (early + (-0.2 if early < 0 else 0)) * (layers == 4)),
    )
    found = [caveat for caveat in compare_experiments(folder).caveats if "in the last half of training" in caveat]
    assert found == ([told] if told else [])


def test_text_that_is_read_again_is_a_caveat(tmp_path: Path) -> None:
    outcomes = {trial: {"status": "finished", "corpus_tokens": 307_200 // 6} for trial in range(3)}
    caveats = compare_experiments(sweep(tmp_path, {1: 3.8, 2: 3.5, 4: 4.1}, outcomes=outcomes)).caveats
    assert "The training text was read up to 6 times. More than 4 teach less and less (Muennighoff et al. 2023)." in caveats
