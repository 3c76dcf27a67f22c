from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from archsweep.config import ExperimentConfig
from archsweep.errors import RecordError
from archsweep.records import read
from archsweep.records.results import ExperimentResults
from archsweep.records.schema import CURVES, RESULTS
from tests.sweep_folder import record, write_sweep

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

VARIANTS = [{"num_layers": 4, "num_heads": 2}, {"num_layers": 1, "num_heads": 2}]
REPLICA = {"seed": 0, "learning_rate": 0.001, "weight_decay": 0.1}


def planted(variant: Mapping[str, Any], rate: float, seed: int) -> float:
    return float(variant["num_layers"]) + 100 * rate + 0.01 * seed


def sweep(folder: Path, **more: Any) -> Path:
    return write_sweep(folder / "demo", VARIANTS, planted, rates=(1e-3, 3e-3), seeds=(0, 1), **more)


def records_of(folder: Path, trial: int = 0) -> Path:
    plan = json.loads((folder / "plan.json").read_text())
    return folder / "trials" / plan["trials"][trial]["id"] / "records.jsonl"


def test_results_hold_a_row_per_planned_replica_in_the_plans_order(tmp_path: Path) -> None:
    results = read.load(sweep(tmp_path))
    assert list(zip(results["variant"], results["learning_rate"], results["seed"], strict=True)) == [
        (f"num_layers={layers} num_heads=2", rate, seed) for layers in (4, 1) for rate in (1e-3, 3e-3) for seed in (0, 1)
    ]
    assert results["val_loss"].tolist() == pytest.approx([4.1, 4.11, 4.3, 4.31, 1.1, 1.11, 1.3, 1.31])


@pytest.mark.parametrize("collected", [False, True])
def test_columns_and_dtypes_are_the_schemas(tmp_path: Path, collected: bool) -> None:
    folder = sweep(tmp_path, outcomes={0: None}, records={0: 0})
    if collected:
        read.collect(folder)
    for frame, columns in ((read.load(folder), RESULTS), (read.load_curves(folder), CURVES)):
        assert [(name, str(dtype)) for name, dtype in frame.dtypes.items()] == [(column.name, column.dtype) for column in columns]


def test_what_was_collected_is_read_back_equal(tmp_path: Path) -> None:
    folder = sweep(tmp_path, outcomes={1: {"status": "failed", "reason": "out of memory"}}, records={1: 0.4})
    in_memory = read.load(folder), read.load_curves(folder)
    collected = read.collect(folder)
    for before, now, again in zip(in_memory, collected, (read.load(folder), read.load_curves(folder)), strict=True):
        pd.testing.assert_frame_equal(before, now)
        pd.testing.assert_frame_equal(before, again)


def test_parquet_columns_carry_their_unit_and_meaning(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    read.collect(folder)
    metadata = pq.read_schema(folder / "results.parquet").field("tokens_per_second").metadata
    assert metadata[b"unit"] == b"tokens/s"
    assert b"stack" in metadata[b"meaning"]
    assert not list(folder.glob("*.tmp")) + list(folder.glob(".*"))


def test_a_parquet_older_than_a_record_is_not_believed(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    read.collect(folder)
    path = records_of(folder)
    with path.open("a") as file:
        file.write(json.dumps(record(REPLICA, 300, 9.75)) + "\n")
    later = (folder / "results.parquet").stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later, later))
    assert read.load(folder)["val_loss"].iloc[0] == 9.75


def test_what_is_recorded_while_records_are_collected_is_not_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, gather = sweep(tmp_path), read._gather

    def slowly(folder: Path) -> Any:
        found = gather(folder)
        with records_of(folder).open("a") as file:
            file.write(json.dumps(record(REPLICA, 300, 9.75)) + "\n")
        return found

    long_ago = 10**18  # so that the file system's clock has moved on since
    for path in (folder / "plan.json", *folder.glob("trials/*/*")):
        os.utime(path, ns=(long_ago, long_ago))
    monkeypatch.setattr(read, "_gather", slowly)
    read.collect(folder)
    monkeypatch.undo()
    assert read.load(folder)["val_loss"].iloc[0] == 9.75
    read.collect(folder)
    with monkeypatch.context() as patch:
        patch.setattr(read, "_gather", pytest.fail)
        assert read.load(folder)["val_loss"].iloc[0] == 9.75, "nothing was recorded since, and it is read at once"


def test_the_best_replicas_are_of_the_best_setting_that_has_lost_none_as_the_verdicts_are(tmp_path: Path) -> None:
    losses = {(1e-3, 0): 3.2, (1e-3, 1): 3.1, (3e-3, 0): 3.4, (3e-3, 1): 3.0, (1e-2, 0): 2.5, (1e-2, 1): None}
    folder = write_sweep(
        tmp_path, [{"num_layers": 1}], lambda variant, rate, seed: losses[rate, seed], rates=(1e-3, 3e-3, 1e-2), seeds=(0, 1)
    )
    best, is_of_a_part = read.best_replicas(folder, "num_layers=1")
    order = [(1e-3, 1), (1e-3, 0), (3e-3, 1), (3e-3, 0), (1e-2, 0)]  # means of 3.15 and 3.2
    assert [(replica.learning_rate, replica.seed) for _, replica in best] == order
    assert not is_of_a_part


def test_costs_are_the_plans_and_flops_count_the_tokens_that_were_seen(tmp_path: Path) -> None:
    folder = sweep(tmp_path, outcomes={1: None}, records={1: 0.34}, parameters=lambda variant: 10_000 * variant["num_layers"])
    results = read.load(folder)
    assert results["parameters"].tolist() == [40_000] * 4 + [10_000] * 4
    assert results["flops"].tolist() == [6 * 40_000 * 300 * 1024] * 4 + [6 * 10_000 * 100 * 1024] * 4


def test_config_fields_are_columns_and_compound_ones_are_json(tmp_path: Path) -> None:
    first = read.load(sweep(tmp_path)).iloc[0]
    assert (first["num_layers"], first["context_length"], first["compile"], first["betas"]) == (4, 64, "auto", "[0.9, 0.95]")


def test_a_trial_without_an_outcome_is_unfinished_and_says_how_far_it_came(tmp_path: Path) -> None:
    results = read.load(sweep(tmp_path, outcomes={0: None}, records={0: 0.67}))
    rows = results[results["num_layers"] == 4]
    assert rows["status"].tolist() == ["unfinished"] * 4
    assert rows["reason"].tolist() == ["last recorded at 204,800 of 307,200 tokens"] * 4
    assert results[results["num_layers"] == 1]["status"].tolist() == ["finished"] * 4


def test_a_trial_that_never_began_has_its_rows(tmp_path: Path) -> None:
    rows = read.load(sweep(tmp_path, outcomes={0: None}, records={0: 0})).head(4)
    assert rows["status"].tolist() == ["unfinished"] * 4
    assert rows["val_loss"].isna().all()
    assert rows["parameters"].tolist() == [30_000] * 4


def test_a_failed_trials_reason_is_on_each_of_its_replicas(tmp_path: Path) -> None:
    folder = sweep(tmp_path, outcomes={0: {"status": "failed", "reason": "out of memory", "corpus_id": None}}, records={0: 0})
    rows = read.load(folder).head(4)
    assert list(zip(rows["status"], rows["reason"], strict=True)) == [("failed", "out of memory")] * 4


def test_a_replica_that_finished_keeps_its_loss_when_its_trial_failed_later(tmp_path: Path) -> None:
    rows = read.load(sweep(tmp_path, outcomes={0: {"status": "failed", "reason": "disk full"}})).head(4)
    assert rows["status"].tolist() == ["finished"] * 4
    assert rows["reason"].isna().all()


def test_a_diverged_replica_has_a_reason_and_no_loss(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "demo", VARIANTS, lambda v, rate, seed: None if seed == 1 else 3.0, rates=(1e-3,), seeds=(0, 1))
    results = read.load(folder)
    assert results["status"].tolist() == ["finished", "diverged"] * 2
    assert results["val_loss"].isna().tolist() == [False, True] * 2
    assert results["reason"].dropna().tolist() == ["the loss was no number at step 300"] * 2


def test_a_torn_last_line_is_ignored(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    before = read.load(folder)
    whole = json.dumps(record(REPLICA, 300, 0.5)).encode()
    with records_of(folder).open("ab") as file:
        file.write(whole[: len(whole) // 2])
    pd.testing.assert_frame_equal(read.load(folder), before)


def test_records_after_a_torn_line_count(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    with records_of(folder).open("a") as file:
        file.write('{"seed": 0, "lear\n' + json.dumps(record(REPLICA, 300, 0.5)) + "\n")
    assert read.load(folder)["val_loss"].iloc[0] == 0.5


def test_of_two_records_of_one_step_the_last_counts_whatever_their_order(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    with records_of(folder).open("a") as file:
        file.writelines(json.dumps(record(REPLICA, step, loss)) + "\n" for step, loss in ((300, 7.0), (300, 8.0), (100, 9.0)))
    curve = read.load_curves(folder).head(3)
    assert curve["step"].tolist() == [100, 200, 300]
    assert curve["val_loss"].tolist() == pytest.approx([9.0 + 1.0, 4.1 + 0.25, 8.0])
    assert read.load(folder)["val_loss"].iloc[0] == 8.0


def test_nan_in_a_record_is_a_missing_value(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    with records_of(folder).open("a") as file:
        file.write(json.dumps(record(REPLICA, 300, float("nan"))) + "\n")
    assert read.load(folder)["val_loss"].iloc[0] is pd.NA


@pytest.mark.parametrize(
    ("blocks", "text"), [([4.5, 1e-05], "[4.5, 1e-05]"), ([4.5, float("nan")], "[4.5, null]"), ([], "[]"), (None, None)]
)
def test_losses_of_blocks_are_the_json_that_was_recorded(tmp_path: Path, blocks: Any, text: str | None) -> None:
    folder = sweep(tmp_path)
    with records_of(folder).open("a") as file:
        file.write(json.dumps(record(REPLICA, 300, 4.5) | {"val_block_losses": blocks, "user_metrics": {"own": [1]}}) + "\n")
    row = read.load(folder).iloc[0]
    assert row["val_block_losses"] == text if text is not None else pd.isna(row["val_block_losses"])
    assert json.loads(row["user_metrics"]) == {"own": [1]}


def test_a_record_without_its_keys_is_named_by_file_and_line(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    records_of(folder).write_text('{"seed": 0}\n')
    with pytest.raises(RecordError, match=r"records\.jsonl:1 must be a record"):
        read.load(folder)


def test_an_outcome_that_is_no_json_is_named(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    (records_of(folder).parent / "results.json").write_text("{")
    with pytest.raises(RecordError, match=r"results\.json must be JSON"):
        read.load(folder)


def test_a_folder_that_is_no_sweep_is_named_with_the_sweeps_near_it(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    for wrong in (tmp_path, str(tmp_path / "dmeo")):
        with pytest.raises(RecordError, match=r"plan\.json") as error:
            read.load(wrong)
        assert str(wrong) in str(error.value)
        assert str(folder) in str(error.value)


def experiment(name: str, seed: int, loss: float | None, **fields: Any) -> ExperimentResults:
    config = ExperimentConfig(experiment_name=name, seed=seed, **fields)
    epochs: list[Any] = [
        {"epoch": 0, "train": {"loss": 5.0}, "validation": {"loss": 4.5}},
        {"epoch": 1, "train": {"loss": 4.0}, "validation": {"loss": loss, "bits_per_byte": 1.5}},
    ]
    return ExperimentResults(config=config, metrics=epochs, performance_stats={"parameters": 123, "tokens_per_second": 10.0})


def test_experiments_become_rows_whose_variant_is_their_name() -> None:
    results, curves = read.from_experiments([experiment("a", 0, 3.5), experiment("a", 1, 3.25), experiment("b", 0, None, num_layers=2)])
    assert [column.name for column in RESULTS] == list(results.columns)
    assert results["variant"].tolist() == ["a", "a", "b"]
    assert results["status"].tolist() == ["finished", "finished", "diverged"]
    assert results[["val_loss", "train_loss", "bits_per_byte", "parameters"]].iloc[1].tolist() == [3.25, 4.0, 1.5, 123]
    assert curves[curves["variant"] == "a"]["val_loss"].tolist() == [4.5, 3.5, 4.5, 3.25]


def test_one_name_for_two_architectures_is_refused() -> None:
    with pytest.raises(RecordError, match="differ in num_layers"):
        read.from_experiments([experiment("a", 0, 3.5), experiment("a", 1, 3.25, num_layers=2)])


def test_one_replica_twice_is_refused() -> None:
    with pytest.raises(RecordError, match="'a' have seed 0"):
        read.from_experiments([experiment("a", 0, 3.5), experiment("a", 0, 3.25)])
