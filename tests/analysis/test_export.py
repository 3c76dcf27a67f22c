"""Tables for other programs say what the comparison says, and no name in them does anything."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from archsweep.analysis.compare import compare_experiments
from archsweep.analysis.export import export_table, latex_text
from archsweep.records import read
from tests.sweep_folder import write_sweep

if TYPE_CHECKING:
    from pathlib import Path

    from archsweep.analysis.compare import Comparison

LAYERS = [{"num_layers": layers} for layers in (1, 2, 4)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    def loss(variant: dict[str, Any], rate: float, seed: int) -> float:
        return 3.0 + 0.1 * variant["num_layers"] + 10 * abs(rate - 3e-3) + 0.01 * (seed == variant["num_layers"])

    return write_sweep(tmp_path / "demo", LAYERS, loss, name="deep_or_not")  # type: ignore[arg-type]


@pytest.fixture
def comparison(folder: Path) -> Comparison:
    return compare_experiments(folder)


def hostile() -> Comparison:
    names = ['=HYPERLINK("http://x")', r"\input{x} & 50% of $x_1$ #1 | b~c^d"]
    return compare_experiments(
        pd.DataFrame([{"variant": name, "seed": seed, "val_loss": 3.0 + number} for number, name in enumerate(names) for seed in (0, 1)])
    )


def test_csv_has_the_full_numbers_and_no_formulas(comparison: Comparison) -> None:
    (best, *_), pairs = (
        list(csv.DictReader(io.StringIO(export_table(comparison, which, "csv").decode()))) for which in ("ranking", "pairs")
    )
    assert float(best["mean"]) == comparison.table["mean"].iloc[0]
    assert [(row["first"], row["second"]) for row in pairs] == [
        ("num_layers=1", "num_layers=2"),
        ("num_layers=1", "num_layers=4"),
        ("num_layers=2", "num_layers=4"),
    ]
    assert next(csv.DictReader(io.StringIO(export_table(hostile(), "results", "csv").decode())))["variant"].startswith("'=")


@pytest.mark.parametrize("which", ["results", "curves"])
def test_parquet_is_the_sweeps_own_file_with_units_and_meanings(folder: Path, comparison: Comparison, which: Any) -> None:
    read.collect(folder)
    table = pq.read_table(io.BytesIO(export_table(comparison, which, "parquet")))
    assert table.equals(pq.read_table(folder / f"{which}.parquet"))
    assert table.schema.field("val_loss").metadata[b"unit"] == b"nats/token"


def test_parquet_of_a_ranking_is_its_table(comparison: Comparison) -> None:
    table = pd.read_parquet(io.BytesIO(export_table(comparison, "ranking", "parquet")))
    pd.testing.assert_frame_equal(table, comparison.table, check_dtype=False)


def test_latex_is_a_booktabs_table_with_the_verdict_as_its_caption(comparison: Comparison) -> None:
    lines = export_table(comparison, "ranking", "latex").decode().splitlines()
    assert lines[2] == rf"\caption{{{latex_text(comparison.verdict)}}}"
    assert "$\\pm$" in lines[2]
    assert lines[3] == r"\label{tab:deep-or-not-ranking}"
    assert [line for line in lines if line.endswith("rule")] == [r"\toprule", r"\midrule", r"\bottomrule"]
    columns = re.fullmatch(r"\\begin\{tabular\}\{([lr]+)\}", lines[4])
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert columns is not None
    assert len(body) == 3
    assert {line.count(" & ") + 1 for line in body} == {len(columns[1])}


def test_latex_sees_nothing_but_text_in_a_name() -> None:
    text = export_table(hostile(), "ranking", "latex").decode()
    assert r"\textbackslash{}input\{x\} \& 50\% of \$x\_1\$ \#1 \textbar{} b\textasciitilde{}c\textasciicircum{}d" in text
    assert r"\input" not in text
    assert text.count(r"\caption{") == 1


def test_markdown_has_the_reports_ranking_and_the_verdict(comparison: Comparison) -> None:
    header, rule, *rows = export_table(comparison, "ranking", "markdown").decode().splitlines()
    assert header.startswith("| num layers | val loss |")
    assert set(rule) <= set("|-: ")
    assert rows[-1] == comparison.verdict
    assert len([row for row in rows if row.startswith("| ")]) == 3


@pytest.mark.parametrize("which", ["results", "curves", "pairs"])
@pytest.mark.parametrize("form", ["latex", "markdown"])
def test_every_table_can_be_printed(comparison: Comparison, which: Any, form: Any) -> None:
    assert "num" in export_table(comparison, which, form).decode()


def test_latex_escapes_the_name_of_a_metric_too() -> None:
    frame = pd.DataFrame([{"variant": name, "seed": seed, "eval/val_loss": 3.0 + seed} for name in "ab" for seed in (0, 1)])
    text = export_table(compare_experiments(frame, metric="eval/val_loss"), "results", "latex").decode()
    assert r" & eval/val\_loss \\" in text
    assert "val_loss" not in text
    assert "eval/eval" not in text


@pytest.mark.parametrize("which", ["curves", "pairs"])
def test_a_table_without_rows_keeps_its_header(which: Any) -> None:
    empty = compare_experiments(pd.DataFrame({"variant": ["a"], "val_loss": [3.0]}))
    header = {"curves": "sweep & trial\\_id & variant & seed", "pairs": "first & second & difference"}[which]
    text = export_table(empty, which, "latex").decode()
    assert header in text
    assert r"\begin{tabular}{}" not in text
    assert export_table(empty, which, "markdown").decode().startswith("| ")


def test_an_export_loads_no_library_that_draws() -> None:
    code = "import sys; from archsweep.analysis import compare, export; print(*({'matplotlib', 'plotly', 'seaborn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_a_partial_sweeps_table_says_that_it_is_partial(tmp_path: Path) -> None:
    folder = write_sweep(
        tmp_path / "demo", LAYERS, lambda variant, rate, seed: 3.0 + variant["num_layers"], outcomes={2: None}, records={2: 0.4}
    )
    assert r"\caption{So far: " in export_table(compare_experiments(folder), "ranking", "latex").decode()
