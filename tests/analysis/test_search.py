"""What the report says of a search: the front by brute force, the best so far, what decided, and what became of its points."""

from __future__ import annotations

import json
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsweep.analysis.compare import compare_experiments
from archsweep.analysis.report import generate_summary_report
from archsweep.analysis.search import found, importances, non_dominated
from tests.sweep_folder import write_sweep

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

POINTS = [{"refused": "too deep"}, {"refused": "too deep"}, {"duplicate": True}, {}]


def sweep(
    folder: Path, objectives: list[str], outcomes: Mapping[int, Any] | None = None, records: Mapping[int, float] | None = None
) -> Path:
    """Twelve variants: the loss falls with the layers alone, the time per token grows with them; the last one is larger and no better."""
    variants = [{"num_layers": layers, "num_heads": heads} for layers, heads in product((1, 2, 3, 4), (1, 2, 4))]
    ends = {
        index: {"status": "finished", "decode_tokens_per_second": 1000 / variant["num_layers"]} for index, variant in enumerate(variants)
    }
    write_sweep(
        folder,
        variants,
        lambda variant, rate, seed: 5 - 0.3 * variant["num_layers"] + 0.01 * seed + (rate != 3e-3),
        parameters=lambda variant: 20_000 + 1000 * variant["num_layers"] + 10 * variant["num_heads"],
        outcomes=ends | dict(outcomes or {}),
        records=records,
    )
    plan = json.loads((folder / "plan.json").read_text())
    method = {"trials": 12, "sampler": "tpe", "seed": 0, "objectives": objectives}
    (folder / "plan.json").write_text(
        json.dumps(plan | {"method": method, "points": POINTS, "early_stopping": "ASHA(first=0.25, reduction=2)"})
    )
    return folder


@given(st.lists(st.tuples(*[st.integers(0, 4) | st.just(float("inf"))] * 3), min_size=1, max_size=25))
def test_the_front_is_what_no_other_point_beats(points: list[tuple[float, ...]]) -> None:
    def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        return all(a <= b for a, b in zip(one, other, strict=True)) and one != other

    finite = [point for point in points if float("inf") not in point]
    expected = [point in finite and not any(beats(other, point) for other in finite) for point in points]
    assert non_dominated(np.array(points, dtype=float)).tolist() == expected


def test_a_number_that_some_variants_do_not_have_has_an_importance() -> None:
    variants = pd.DataFrame([{"width": width, "mean": 3 + 0.1 * (width or 0)} for width in (1, 2, None) for _ in range(5)])
    assert importances(variants, ["width"]) == {"width": 1.0}


def test_the_front_of_a_search_has_one_variant_of_each_depth_the_smallest(tmp_path: Path) -> None:
    search = found(compare_experiments(sweep(tmp_path / "s", ["val_loss", "decode_latency", "parameters"])))
    assert search is not None
    front = search.variants[search.variants["front"]]
    assert set(front["variant"]) == {f"num_layers={layers} num_heads=1" for layers in (1, 2, 3, 4)}
    assert front["decode_latency"].tolist() == pytest.approx([0.001, 0.002, 0.003, 0.004])


def test_the_field_that_decides_is_told_from_the_one_that_does_not(tmp_path: Path) -> None:
    search = found(compare_experiments(sweep(tmp_path / "s", ["val_loss"])))
    assert search is not None
    assert search.importances["num_layers"] > 0.9
    best = search.variants["best_so_far"].tolist()
    assert best == sorted(best, reverse=True)
    assert best[0] == pytest.approx(4.71)
    assert best[-1] == pytest.approx(3.81)


@pytest.mark.parametrize("objectives", [["val_loss"], ["val_loss", "parameters"]])
def test_the_report_of_a_search_says_what_was_found_and_counts_every_point(objectives: list[str], tmp_path: Path) -> None:
    stopped = {"status": "stopped", "reason": "stopped at step 100 of 300: loss 5.7 is number 9 of 9 there", "stopped_step": 100}
    folder = sweep(
        tmp_path / "s", objectives, outcomes={0: stopped, 1: {"status": "failed", "reason": "a cable"}}, records={0: 1 / 3, 1: 0}
    )
    comparison = compare_experiments(folder)
    assert comparison.verdict.startswith("The lowest loss of 10 variants that tpe chose: num_layers=4 num_heads=")
    assert dict(zip(comparison.table["variant"], comparison.table["verdict"], strict=True))["num_layers=1 num_heads=1"] == "STOPPED"
    assert "ASHA(first=0.25, reduction=2) stopped 1 variant: num_layers=1 num_heads=1 at step 100" in " ".join(comparison.caveats)
    page = generate_summary_report(comparison)
    text = (folder / "report.md").read_text()
    assert "Points: 10 trained, 1 stopped, 1 failed, 2 refused, 1 suggested again." in text
    assert "stopped at step 100 of 300" in text
    assert "9 stopped" in text
    assert ("front_parameters" in text) == (len(objectives) == 2) == ("No other variant is as good" in text)
    assert ("best_so_far" in text) == (len(objectives) == 1)
    assert "Search" in page.read_text()


def test_a_grid_is_no_search(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "grid", [{"num_layers": 1}, {"num_layers": 2}], lambda variant, rate, seed: 4.0)
    assert found(compare_experiments(folder)) is None
