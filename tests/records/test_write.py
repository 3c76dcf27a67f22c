"""A trial's folder as it is written: appended rows survive a torn end, and no attempt erases another."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from archsweep.config import ExperimentConfig
from archsweep.records import write

if TYPE_CHECKING:
    from pathlib import Path


def lines(folder: Path) -> list[str]:
    return (folder / "records.jsonl").read_text().splitlines()


def test_rows_are_appended_a_line_each(tmp_path: Path) -> None:
    write.append(tmp_path, [{"step": 1}, {"step": 2}])
    write.append(tmp_path, [{"step": 3}])
    assert [json.loads(line)["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_a_line_that_a_kill_tore_stays_alone(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text('{"step": 1}\n{"st')
    write.append(tmp_path, [{"step": 2}])
    assert lines(tmp_path) == ['{"step": 1}', '{"st', '{"step": 2}']


def test_every_attempt_begins_with_empty_records_and_erases_none(tmp_path: Path) -> None:
    for attempt in (1, 2, 3):
        write.begin(tmp_path, ExperimentConfig())
        assert not (tmp_path / "records.jsonl").exists()
        write.append(tmp_path, [{"attempt": attempt}])
    kept = [json.loads((tmp_path / f"records.jsonl{end}").read_text())["attempt"] for end in (".attempt1", ".attempt2", "")]
    assert kept == [1, 2, 3]


def test_an_outcome_that_is_torn_counts_as_none(tmp_path: Path) -> None:
    write.finish(tmp_path, write.Outcome(status="finished"))
    assert write.recorded_outcome(tmp_path) == write.Outcome(status="finished")
    (tmp_path / "results.json").write_text('{"status": "fin')
    assert write.recorded_outcome(tmp_path) is None
