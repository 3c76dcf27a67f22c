"""A trial's folder as it is written: appended rows survive a torn end, and no attempt erases another."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from archsweep.config import ExperimentConfig
from archsweep.records import write
from archsweep.records.schema import OUTCOME

if TYPE_CHECKING:
    from pathlib import Path


def lines(folder: Path) -> list[str]:
    return (folder / "records.jsonl").read_text().splitlines()


def row(step: int, seed: int = 0) -> dict[str, float]:
    return {"seed": seed, "learning_rate": 1e-3, "weight_decay": 0.1, "step": step}


def test_an_outcome_holds_every_column_that_is_a_trials_own() -> None:
    asked_otherwise = {"stopped_step", "warnings"}  # beside the columns
    assert {column.name for column in OUTCOME} == set(write.Outcome.model_fields) - asked_otherwise


def test_rows_are_appended_a_line_each(tmp_path: Path) -> None:
    write.append(tmp_path, [row(1), row(2)])
    write.append(tmp_path, [row(3)])
    assert [json.loads(line) for line in lines(tmp_path)] == [row(1), row(2), row(3)]


def test_a_line_that_a_kill_tore_stays_alone(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text(json.dumps(row(1)) + '\n{"st')
    write.append(tmp_path, [row(2)])
    assert lines(tmp_path) == [json.dumps(row(1)), '{"st', json.dumps(row(2))]


def test_a_row_that_is_there_is_not_written_twice_and_keeps_its_first_values(tmp_path: Path) -> None:
    write.append(tmp_path, [row(1) | {"val_loss": 3.0}])
    write.append(tmp_path, [row(1) | {"val_loss": 4.0}, row(1, seed=1), row(2)])
    assert [json.loads(line) for line in lines(tmp_path)] == [row(1) | {"val_loss": 3.0}, row(1, seed=1), row(2)]


def test_a_row_whose_line_was_torn_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text(json.dumps(row(1))[:-3])
    write.append(tmp_path, [row(1)])
    assert lines(tmp_path)[1:] == [json.dumps(row(1))]


def test_attempts_that_start_over_erase_none_before_them(tmp_path: Path) -> None:
    for attempt in (1, 2, 3):
        write.begin(tmp_path, ExperimentConfig())
        write.set_aside_records(tmp_path)
        assert not (tmp_path / "records.jsonl").exists()
        write.append(tmp_path, [row(attempt)])
        write.finish(tmp_path, write.Outcome(status="failed", reason=str(attempt)))
    for name, value in (("records.jsonl", "step"), ("results.json", "reason")):
        kept = [json.loads((tmp_path / f"{name}{end}").read_text())[value] for end in (".attempt1", ".attempt2", "")]
        assert [int(each) for each in kept] == [1, 2, 3]


def test_an_outcome_that_is_torn_counts_as_none(tmp_path: Path) -> None:
    write.finish(tmp_path, write.Outcome(status="finished"))
    assert write.recorded_outcome(tmp_path) == write.Outcome(status="finished")
    (tmp_path / "results.json").write_text('{"status": "fin')
    assert write.recorded_outcome(tmp_path) is None
