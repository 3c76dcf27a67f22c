"""What an analysis may be given: dataframes by the roles of their columns, Ray Tune's results, several sweeps together."""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO
from math import log
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from archsweep.analysis import design_plots, method, tables
from archsweep.analysis.compare import compare_experiments
from archsweep.analysis.compute import Exponent
from archsweep.analysis.export import export_table
from archsweep.analysis.factorial import effects
from archsweep.analysis.metric import named
from archsweep.analysis.report import generate_summary_report
from archsweep.errors import RecordError
from archsweep.records import read
from tests.sweep_folder import write_sweep

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NOISE = (0.004, -0.009, 0.005), (-0.007, 0.001, 0.009), (0.008, 0.003, -0.01)


def tunes(**changes: Any) -> pd.DataFrame:
    """A dataframe as ResultGrid.get_dataframe() makes it: two widths, each with three rates, two dropouts and three folds."""
    rows = [
        {
            "accuracy": 0.7 + 0.1 * (width == 64) - 0.02 * abs(log(rate / 1e-2)) - 0.1 * (dropout > 0) + NOISE[width == 64][fold],
            "training_iteration": 5, "done": True, "trial_id": f"{width}_{rate}_{dropout}_{fold}", "time_total_s": 2.5, "hostname": "node",
            "config/width": width, "config/optimizer/lr": rate, "config/dropout": dropout, "config/fold": fold,
        }
        for width in (32, 64) for rate in (1e-3, 1e-2, 1e-1) for dropout in (0.0, 0.5) for fold in range(3)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(**changes)


ROLES: dict[str, Any] = {
    "compare": ["width"],
    "tune": ["optimizer/lr", "dropout"],
    "repeat": "fold",
    "metric": "accuracy",
    "mode": "max",
}


def test_tunes_dataframe_is_compared_by_the_roles_that_its_columns_are_given() -> None:
    comparison = compare_experiments(tunes(), **ROLES)
    table = comparison.table
    assert table["variant"].tolist() == ["width=64", "width=32"]
    assert table["learning_rate"].tolist() == [1e-2, 1e-2]
    assert table["tuned"].tolist() == ["dropout=0.0", "dropout=0.0"]
    assert table["mean"].tolist() == pytest.approx([-0.8 - np.mean(NOISE[1]), -0.7 - np.mean(NOISE[0])])
    paired = stats.ttest_rel(-(0.7 + np.array(NOISE[0])), -(0.8 + np.array(NOISE[1])))
    assert table["holm_p"].iloc[1] == pytest.approx(paired.pvalue)
    assert comparison.source.results["trial_seconds"].tolist() == [2.5] * 36
    assert "A large number is good here: its negative is what is compared, and small as for a loss is best." in comparison.caveats


def test_a_prefix_that_is_written_out_means_the_same_and_the_order_of_rows_nothing() -> None:
    written = ROLES | {"compare": ["config/width"], "tune": ["config/optimizer/lr", "config/dropout"], "repeat": "config/fold"}
    shuffled = tunes().sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(compare_experiments(tunes(), **ROLES).table, compare_experiments(shuffled, **written).table)


def test_no_text_of_the_report_calls_an_accuracy_nats(tmp_path: Path) -> None:
    comparison = compare_experiments(tunes(), **ROLES)
    path = generate_summary_report(tunes(), tmp_path, **ROLES)
    assert (comparison.source.metric, comparison.source.unit) == ("negative accuracy", "")
    for text in (str(comparison), path.read_text(), (tmp_path / "report.md").read_text()):
        assert "nats" not in text
        assert "dropout=0.0" in text


def test_a_metric_that_the_schema_knows_keeps_its_unit() -> None:
    frame = pd.DataFrame({"variant": ["a", "b"] * 2, "seed": [0, 0, 1, 1], "val_loss": [3.0, 3.5] * 2, "bits_per_byte": [1.5, 1.75] * 2})
    source = compare_experiments(frame, metric="bits_per_byte").source
    assert (source.metric, source.unit, source.results["val_loss"].tolist()) == ("bits_per_byte", "bits/byte", [1.5, 1.75] * 2)
    assert compare_experiments(frame).source.unit == "nats/token"


def test_a_metric_with_our_own_words_in_its_name_is_named_once_everywhere(tmp_path: Path) -> None:
    frame = pd.DataFrame({"variant": ["a", "b"] * 2, "seed": [0, 0, 1, 1], "eval/val_loss": [3.0, 3.5, 3.1, float("nan")]})
    for mode, name in (("min", "eval/val_loss"), ("max", "negative eval/val_loss")):
        path = generate_summary_report(frame, tmp_path, metric="eval/val_loss", mode=mode)
        for text in (path.read_text().partition("</style>")[2], (tmp_path / "report.md").read_text()):
            assert f"lowest {name}?" in text
            assert "eval/val_loss is no number" in text  # whatever its sign
            assert "eval/eval" not in text
            assert "negative negative" not in text
            assert "eval/negative" not in text


@pytest.mark.parametrize(
    ("metric", "text", "expected"),
    [
        ("val", "the val loss, and its validation loss", "the val, and its val"),
        ("val_loss/mean", "val_loss in val_loss/mean", "val_loss/mean in val_loss/mean"),
        ("negative validation loss", "a validation loss", "a negative validation loss"),
        ("loss", "val_loss of my_val_loss", "loss of my_val_loss"),
    ],
)
def test_a_text_that_is_named_stays_as_it_is(metric: str, text: str, expected: str) -> None:
    source = replace(compare_experiments(pd.DataFrame({"variant": ["a"], "val_loss": [3.0]})).source, metric=metric)
    assert named(text, source) == expected
    assert named(expected, source) == expected


def test_rows_without_a_trial_are_one_trial_each() -> None:
    frame = pd.DataFrame(
        {"variant": ["a", "a", "b"], "seed": [0, 1, 0], "val_loss": [3.0, 3.1, float("nan")], "trial_seconds": [60.0, 120.0, 600.0]}
    )
    named = frame.assign(trial_id=["mine", None, "other"])
    comparison = compare_experiments(frame)
    assert comparison.source.results["trial_id"].tolist() == ["row 1", "row 2", "row 3"]
    assert compare_experiments(named).source.results["trial_id"].tolist() == ["mine", "row 2", "other"]
    listed = tables.trials(comparison)
    assert [row[listed.header.index("status")] for row in listed.rows] == ["1 finished", "1 finished", "1 diverged"]
    assert dict(method.reproduce(comparison))["training time"] == "13 min"


def test_rows_that_are_not_the_end_of_a_whole_trial_are_no_results() -> None:
    iteration, accuracy = [5] * 36, tunes()["accuracy"].tolist()
    iteration[0], accuracy[1] = 2, float("nan")
    results = compare_experiments(tunes(training_iteration=iteration, accuracy=accuracy), **ROLES).source.results
    assert results["status"].value_counts().to_dict() == {"finished": 34, "stopped": 1, "diverged": 1}
    assert results["reason"].tolist()[:2] == ["at training_iteration 2, others at 5", "accuracy is no number"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"compare": ["widht"]}, "no column widht: did you mean width"),
        ({"compare": None}, "Name the columns that make a variant, as compare="),
        ({"tune": ["optimizer/lr"]}, "width=32 has two results for fold 0 at one setting. dropout differs there: give it a role"),
        ({"tune": ["width"]}, "config/width was given two"),
        ({"mode": "maximum"}, "mode must be min.* got 'maximum'"),
        ({"metric": "hostname"}, "must be a number in every row, got hostname = 'node'"),
    ],
)
def test_roles_that_do_not_fit_are_refused_with_the_way_out(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        compare_experiments(tunes(), **(ROLES | changed))


def test_a_parameter_that_varies_without_a_role_is_told() -> None:
    frame = tunes()
    frame = frame[frame["config/dropout"] == 0.0].assign(**{"config/batch": list(range(18))})
    caveats = compare_experiments(frame, **(ROLES | {"tune": ["optimizer/lr"]})).caveats
    assert "batch varied between trials without a role here, so differences may be due to that." in caveats


@pytest.mark.parametrize("keywords", [{"reference": "width=32"}, {"margin": 0.01}, {"mode": "max"}, {"exponent": Exponent(0.1, "mine")}])
def test_what_is_compared_already_takes_no_further_roles(keywords: Any) -> None:
    comparison = compare_experiments(tunes(), **ROLES)
    assert compare_experiments(comparison) is comparison
    with pytest.raises(RecordError, match="A Comparison is made already"):
        compare_experiments(comparison, **keywords)


def test_a_report_takes_the_keywords_of_a_comparison(tmp_path: Path) -> None:
    generate_summary_report(tunes(), tmp_path, **ROLES, reference="width=32", margin=0.01, exponent=Exponent(0.1, "mine"))
    text = (tmp_path / "report.md").read_text()
    assert "the 1 pair with the reference, width=32" in text
    assert "below 1% of the loss" in text
    assert "by mine." in text


def test_roles_are_for_dataframes_alone(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "demo", [{"num_layers": 1}], lambda variant, rate, seed: 3.0)
    with pytest.raises(RecordError, match="already say what is compared"):
        compare_experiments(folder, metric="perplexity")


# ---------------------------------------------------------------------------------------------------------------------- Ray Tune


def train(config: dict[str, Any]) -> None:
    """A trainable of Tune's with known ends: two layers lose 0.1 more; three are too many; the second seed of rate 0.5 breaks."""
    from ray import tune

    if config["layers"] == 3:
        raise ValueError("three are too many")
    for step in range(3):
        if config["optimizer"]["lr"] == 0.5 and config["seed"] == 1 and step == 1:
            raise ValueError("it broke")
        loss = 2.0 + 0.1 * config["layers"] + config["optimizer"]["lr"] + 0.001 * config["seed"] * config["layers"] - 0.2 * step
        tune.report({"loss": loss, "eval": {"accuracy": 1 / loss}})


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What `Tuner.fit()` returned for three depths, two rates and two seeds."""
    from archsweep.running import ray_tune

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "0")  # Tune's own dataframe is read from what they write
        with ray_tune.started(num_cpus=2, num_gpus=0):
            from ray import tune

            space = {
                "layers": tune.grid_search([1, 2, 3]),
                "optimizer": {"lr": tune.grid_search([0.1, 0.5])},
                "seed": tune.grid_search([0, 1]),
            }
            run_config = tune.RunConfig(name="tried", storage_path=str(tmp_path_factory.mktemp("tune")), verbose=0)
            tune_config = tune.TuneConfig(reuse_actors=True)
            return tune.Tuner(train, param_space=space, tune_config=tune_config, run_config=run_config).fit()


TUNED: dict[str, Any] = {"compare": ["layers"], "tune": ["optimizer/lr"], "metric": "loss"}


@pytest.mark.slow
def test_a_result_grid_is_compared_with_the_trials_that_failed_and_why(grid: Any) -> None:
    comparison = compare_experiments(grid, **TUNED)
    results = comparison.source.results
    assert len(results) == 12
    assert results["status"].value_counts().to_dict() == {"finished": 6, "failed": 6}
    assert results.groupby("reason").size().to_dict() == {"ValueError: it broke": 2, "ValueError: three are too many": 4}
    assert comparison.table["variant"].tolist() == ["layers=1", "layers=2", "layers=3"]
    assert comparison.table["verdict"].iloc[2] == "FAILED"
    assert comparison.table["mean"].tolist()[:2] == pytest.approx([1.8005, 1.901])
    assert comparison.table["learning_rate"].tolist()[:2] == [0.1, 0.1]


@pytest.mark.slow
def test_tunes_own_dataframe_says_the_same_of_the_trials_that_it_has(grid: Any) -> None:
    frame = grid.get_dataframe()
    ours = compare_experiments(grid, **TUNED)
    theirs = compare_experiments(frame, **TUNED)
    assert theirs.source.results["status"].value_counts().to_dict() == {"finished": 6, "stopped": 2}
    columns = ["variant", "mean", "sd", "n", "learning_rate"]
    pd.testing.assert_frame_equal(ours.table[columns].head(2), theirs.table[columns].head(2))


@pytest.mark.slow
def test_a_nested_metric_and_a_report_come_from_a_result_grid(grid: Any, tmp_path: Path) -> None:
    roles = TUNED | {"metric": "eval/accuracy", "mode": "max"}
    page = generate_summary_report(grid, tmp_path, **roles).read_text()
    assert "ValueError: three are too many" in page
    assert compare_experiments(grid, **roles).table["mean"].tolist()[:2] == pytest.approx(
        [-(1 / 1.8 + 1 / 1.801) / 2, -(1 / 1.9 + 1 / 1.902) / 2]
    )


# ------------------------------------------------------------------------------------------------------------------------- joins

LAYERS = [{"num_layers": layers, "num_heads": 2} for layers in (1, 2)]
HEADS = [{"num_layers": 2, "num_heads": heads} for heads in (1, 2)]


def planted(variant: Mapping[str, Any], rate: float, seed: int) -> float:
    return 3.0 + 0.1 * variant["num_layers"] + 0.05 * variant["num_heads"] + 0.2 * abs(log(rate / 3e-3)) + 0.01 * seed


def sweep(folder: Path, name: str, variants: list[dict[str, Any]] = LAYERS, **more: Any) -> Path:
    return write_sweep(folder / name, variants, planted, name=name, **more)


def test_sweeps_are_joined_and_a_trial_of_both_counts_once(tmp_path: Path) -> None:
    layers, heads = sweep(tmp_path, "layers"), sweep(tmp_path, "heads", HEADS)
    comparison = compare_experiments([layers, heads])
    assert sorted(comparison.table["variant"]) == [f"num_layers={x} num_heads={y}" for x, y in ((1, 2), (2, 1), (2, 2))]
    assert len(comparison.source.results) == 27
    assert len(comparison.source.curves) == 81
    assert len(comparison.pairs) == 3
    assert (
        comparison.caveats[0]
        == "Joined from layers (2 variants) and heads (2 variants): all 3 variants are one family, tested and corrected together."
    )
    assert "9 replicas are in more than one of these sweeps and count once." in comparison.caveats


def test_a_joint_table_is_that_of_one_sweep_of_all_variants(tmp_path: Path) -> None:
    whole = sweep(tmp_path, "whole", [*LAYERS, *HEADS[:1]])
    parts = [sweep(tmp_path, "layers"), sweep(tmp_path, "heads", HEADS)]
    pd.testing.assert_frame_equal(compare_experiments(parts).table, compare_experiments(whole).table)


def test_fields_that_one_of_the_sweeps_compares_name_all_variants(tmp_path: Path) -> None:
    depths = [{"num_layers": layers} for layers in (1, 4)]  # at the two heads of write_sweep's configs
    narrow = write_sweep(tmp_path / "narrow", depths, lambda variant, rate, seed: 3.0 + 0.1 * variant["num_layers"], name="narrow")
    comparison = compare_experiments([narrow, sweep(tmp_path, "heads", HEADS)])
    assert comparison.source.compare == ("num_layers", "num_heads")
    assert set(comparison.table["variant"]) == {f"num_layers={x} num_heads={y}" for x, y in ((1, 2), (4, 2), (2, 1), (2, 2))}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (([3, 4], [1, 2]), ["[1, 2]", "[3, 4]"]),
        (({"b": 1}, {"a": [2]}), ['{"a": [2]}', '{"b": 1}']),
        (("a", 2, True), ["2", "a", "true"]),
        ((None, 64, 128), ["128", "64", "null"]),
        ((None, "rms"), ["null", "rms"]),
    ],
)
@pytest.mark.parametrize("depths", [(1,), (1, 2)])
def test_values_that_are_not_of_one_plain_kind_are_compared_by_what_a_variants_name_has(
    tmp_path: Path, values: tuple[Any, ...], told: list[str], depths: tuple[int, ...]
) -> None:
    override = "model_overrides.what"
    variants = [({"num_layers": depth} if len(depths) > 1 else {}) | {override: value} for depth in depths for value in values]
    folder = write_sweep(tmp_path / "demo", variants, lambda variant, rate, seed: 3 + values.index(variant[override]) + 0.01 * seed)
    comparison = compare_experiments(folder)
    assert {name.partition("what=")[2] for name in comparison.table["variant"]} == set(told)
    assert not design_plots.is_numeric(comparison)
    assert {row[len(depths) - 1] for row in tables.ranking(comparison).rows} == set(told)
    assert set(pd.read_parquet(BytesIO(export_table(comparison, "ranking", "parquet")))[override]) == set(told)
    if len(depths) > 1:
        found = effects(comparison)
        assert found is not None
        assert found.means.loc[found.means["dimension"] == override, "level"].tolist() == told


@pytest.mark.parametrize(("values", "told"), [((64, 128), {"64", "128", "null"}), (("rms", "none"), {"rms", "none", "null"})])
def test_an_override_that_one_of_the_sweeps_compares_has_a_level_for_the_other(
    tmp_path: Path, values: tuple[Any, ...], told: set[str]
) -> None:
    override = "model_overrides.what"
    with_it = sweep(tmp_path, "with", [{**depth, override: value} for depth in LAYERS for value in values])
    comparison = compare_experiments([with_it, sweep(tmp_path, "without")])
    assert {name.partition("what=")[2] for name in comparison.table["variant"]} == told
    found = effects(comparison)
    assert found is not None
    assert found.dimensions == ("num_layers", override)
    assert set(found.means.loc[found.means["dimension"] == override, "level"]) == told


def change_configs(folder: Path, **changes: Any) -> Path:
    plan = json.loads((folder / "plan.json").read_text())
    for trial in plan["trials"]:
        trial["config"] |= changes
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


def test_variants_are_named_by_their_sweep_only_where_they_differ_in_more(tmp_path: Path) -> None:
    longer = change_configs(sweep(tmp_path, "longer", HEADS), batch_size=32)
    comparison = compare_experiments([sweep(tmp_path, "layers"), longer])
    assert set(comparison.table["variant"]) == {
        "num_layers=1 num_heads=2",
        "num_layers=2 num_heads=1",
        "num_layers=2 num_heads=2 (layers)",
        "num_layers=2 num_heads=2 (longer)",
    }
    assert any("batch_size (16 in layers, 32 in longer)" in caveat for caveat in comparison.caveats)


@pytest.mark.parametrize("field", ["tokenizer", "vocab_size", "context_length", "eval_tokens"])
def test_sweeps_that_are_measured_on_other_tokens_are_refused(tmp_path: Path, field: str) -> None:
    other = {"tokenizer": "hf:gpt2", "vocab_size": 1024, "context_length": 128, "eval_tokens": 1024}
    changed = change_configs(sweep(tmp_path, "changed"), **{field: other[field]})
    with pytest.raises(RecordError, match=f"their {field} differs: .* in layers, {other[field]} in changed"):
        compare_experiments([sweep(tmp_path, "layers"), changed])


def test_sweeps_of_other_texts_are_refused_even_before_a_trial_has_ended(tmp_path: Path) -> None:
    other = sweep(tmp_path, "other", outcomes={0: None, 1: None}, records={0: 0, 1: 0})
    plan = json.loads((other / "plan.json").read_text())
    (other / "plan.json").write_text(json.dumps(plan | {"corpus_id": "another"}))
    with pytest.raises(RecordError, match="their corpus differs: c0ffee in layers, another in other"):
        compare_experiments([sweep(tmp_path, "layers"), other])


def test_different_budgets_are_named_and_keep_their_variants_apart(tmp_path: Path) -> None:
    small = sweep(tmp_path, "small", budget={"kind": "parameters", "target": 30_000, "tolerance": 0.01})
    budget = {"kind": "parameters", "target": 60_000, "tolerance": 0.01}
    large = sweep(
        tmp_path, "large", [{"num_layers": 4, "num_heads": heads} for heads in (1, 2)], budget=budget, parameters=lambda v: 60_000
    )
    comparison = compare_experiments([small, large])
    verdicts = dict(zip(comparison.table["variant"], comparison.table["verdict"], strict=True))
    assert verdicts == {
        "num_layers=1 num_heads=2": "BEST",
        "num_layers=2 num_heads=2": "BETTER",
        "num_layers=4 num_heads=1": "BUDGET-MISMATCH",
        "num_layers=4 num_heads=2": "BUDGET-MISMATCH",
    }
    assert any("small: 30,000 parameters ± 1.0%; large: 60,000 parameters ± 1.0%" in caveat for caveat in comparison.caveats)
    assert not any("Off the budget" in caveat for caveat in comparison.caveats)
    page = generate_summary_report(comparison, tmp_path / "both").read_text()
    assert "to have 30,000 parameters, within 1.0% (2 variants) and 60,000 parameters, within 1.0% (2 variants)." in page


def test_a_partial_sweep_is_joined_and_says_so(tmp_path: Path) -> None:
    outcomes = {0: None, 1: {"status": "failed", "reason": "disk full"}}
    partial = sweep(
        tmp_path, "partial", [{"num_layers": layers, "num_heads": 4} for layers in (1, 2)], outcomes=outcomes, records={0: 0.4, 1: 0}
    )
    comparison = compare_experiments([sweep(tmp_path, "layers"), partial])
    assert comparison.source.results["status"].value_counts().to_dict() == {"finished": 18, "unfinished": 9, "failed": 9}
    assert comparison.verdict.startswith("So far: ")
    assert "partial is partial: 9 of its 18 replicas are unfinished." in comparison.caveats
    assert set(comparison.table["verdict"]) >= {"UNFINISHED", "FAILED"}


def test_one_sweep_is_no_join(tmp_path: Path) -> None:
    folder = sweep(tmp_path, "layers")
    for given in ([folder], [folder, str(folder)]):
        with pytest.raises(RecordError, match="Two different sweeps or more"):
            compare_experiments(given)


def test_seeds_of_a_second_sweep_are_added_to_those_of_the_first(tmp_path: Path) -> None:
    comparison = compare_experiments([sweep(tmp_path, "first"), sweep(tmp_path, "more", seeds=(3, 4))])
    assert comparison.table["n"].tolist() == [5, 5]


def test_a_joint_report_has_the_rows_of_both(tmp_path: Path) -> None:
    folders = [sweep(tmp_path, "layers"), sweep(tmp_path, "heads", HEADS)]
    text = generate_summary_report(folders, tmp_path / "summary").read_text()
    for trial in read.load(folders[1])["trial_id"].unique():
        assert trial in text
    assert "layers and heads" in text
