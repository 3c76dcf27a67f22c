from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from archsweep.config import ExperimentConfig
from archsweep.errors import RecordError
from archsweep.records.results import ExperimentResults, MetricsTracker


def results(name: str = "test", losses: tuple[float, ...] = (4.0, 3.5)) -> ExperimentResults:
    tracker = MetricsTracker()
    for value in losses:
        tracker.add_metrics({"loss": value + 0.1, "perplexity": 60.0}, {"loss": value, "perplexity": 55.0, "bits_per_byte": 2.5})
    config = ExperimentConfig(experiment_name=name, num_heads=5, num_layers=6)
    return ExperimentResults(
        config=config, metrics=tracker.get_all_metrics(), performance_stats={"tokens_per_second": 1000.0, "parameters": 7}
    )


def test_a_tracker_numbers_its_epochs_and_keeps_the_splits_apart() -> None:
    tracker = MetricsTracker()
    tracker.add_metrics({"loss": 2.0}, {"loss": 3.0})
    tracker.add_metrics({"loss": 1.0}, {"loss": 2.5})
    assert tracker.get_all_metrics() == [
        {"epoch": 0, "train": {"loss": 2.0}, "validation": {"loss": 3.0}},
        {"epoch": 1, "train": {"loss": 1.0}, "validation": {"loss": 2.5}},
    ]


def test_what_a_tracker_gave_out_can_be_changed_without_changing_the_tracker() -> None:
    tracker = MetricsTracker()
    tracker.add_metrics({"loss": 2.0}, {"loss": 3.0})
    tracker.get_all_metrics()[0]["train"]["loss"] = 0.0
    assert tracker.get_all_metrics()[0]["train"] == {"loss": 2.0}


def test_numpy_numbers_become_json() -> None:
    tracker = MetricsTracker()
    tracker.add_metrics({"loss": np.float32(0.5)}, {"loss": np.array(0.25)})
    assert json.dumps(tracker.get_all_metrics()) == '[{"epoch": 0, "train": {"loss": 0.5}, "validation": {"loss": 0.25}}]'


def test_a_metric_that_is_no_number_is_refused_by_name() -> None:
    with pytest.raises(RecordError, match="logits must be one number"):
        MetricsTracker().add_metrics({"logits": [1.0]}, {})


def test_saved_results_come_back_equal(tmp_path: Path) -> None:
    saved = results()
    folder = saved.save(tmp_path / "run")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "results.json"]
    assert ExperimentResults.load(folder) == saved


def test_results_are_saved_under_their_name_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert results("five_heads").save() == Path("results") / "five_heads"
    assert (tmp_path / "results" / "five_heads" / "results.json").is_file()


def test_a_loss_that_is_no_number_is_saved_as_plain_json(tmp_path: Path) -> None:
    folder = results(losses=(math.nan, math.inf)).save(tmp_path)
    metrics = json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)["metrics"]
    assert [epoch["validation"]["loss"] for epoch in metrics] == [None, None]


def test_a_folder_without_results_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"(?s)nowhere.*Give the folder that ExperimentResults.save returned"):
        ExperimentResults.load(tmp_path / "nowhere")


def test_the_outcome_of_a_sweeps_trial_is_not_taken_for_an_experiment(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"status": "finished"}')
    with pytest.raises(RecordError, match="metrics"):
        ExperimentResults.load(tmp_path)
