"""What docs/ shows, runs."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console

import archsweep
from archsweep import pipeline
from archsweep.planning.plan import make_plan
from archsweep.space import Choice, Space

if TYPE_CHECKING:
    import pytest

    from archsweep.config import ExperimentConfig

DOCS = Path(archsweep.__file__).parent.parent / "docs"


def test_the_example_runs_on_a_sweep_that_was_trained(
    tiny_config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compare = {"num_layers": Choice(1, 2), "num_heads": Choice(1, 2)}
    space = Space(base=tiny_config, compare=compare, tune={"learning_rate": Choice(1e-3, 3e-3)}, repeat=2)
    folder = tmp_path / "results" / "heads_vs_layers"
    pipeline.run(make_plan(folder.name, "Heads or layers?", space, "corpus"), folder, pipeline.Machine(serial=True), Console(quiet=True))
    monkeypatch.chdir(tmp_path)
    found = runpy.run_path(str(DOCS / "example.py"))
    said = capsys.readouterr().out
    assert found["comparison"].verdict in said
    assert found["by_heads"].verdict in said
    assert (found["by_heads"].source.compare, found["by_heads"].source.unit) == (("num_heads",), "bits/byte")
    table = pd.read_csv("comparison/comparison.csv")
    assert table["variant"].tolist() == found["comparison"].table["variant"].tolist()
    assert all(Path(name).is_file() for name in ("training_curves.png", "training_curves.pdf", "by_heads/report.html"))
