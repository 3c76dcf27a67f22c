from __future__ import annotations

from pathlib import Path

import archsweep
from archsweep.config import ExperimentConfig
from archsweep.records import schema
from archsweep.records.describe import describe

COLUMNS = Path(archsweep.__file__).parent.parent / "docs" / "columns.md"


def test_the_page_of_the_columns_is_up_to_date() -> None:
    assert COLUMNS.read_text() == describe(), "python -m archsweep columns > docs/columns.md"


def test_every_column_of_both_dataframes_is_on_the_page_once() -> None:
    named = [line.split("`")[1] for line in COLUMNS.read_text().splitlines() if line.startswith("| `")]
    assert sorted(named) == sorted({column.name for column in (*schema.RESULTS, *schema.CURVES)})


def test_every_field_of_a_config_has_a_meaning_of_its_own() -> None:
    meanings = [column.meaning for column in schema.CONFIG]
    assert len(set(meanings)) == len(meanings)
    assert {column.name for column in schema.CONFIG} <= set(ExperimentConfig.model_fields)
