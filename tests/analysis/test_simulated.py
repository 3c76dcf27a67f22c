"""Is the verdict right? On planted losses, judged as a sweep's: wrong in at most 5 % of sweeps, and finding what it says it finds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from archsweep.analysis.compare import compare_experiments
from archsweep.analysis.verdicts import EQUIVALENT
from benchmarks.verdicts import AT_MARGIN, DECIDED, LOSS, MARGIN, NULL, World, coverage, found, judged, rate

TRIALS = 300
MONTE_CARLO = 3 * (0.05 * 0.95 / TRIALS) ** 0.5  # three standard errors of a rate of 5 %


def frame(losses: np.ndarray) -> pd.DataFrame:
    """(variants, rates, seeds) as the results of a sweep; NaN is a replica that diverged."""
    variants, rates, seeds = losses.shape
    rows = [
        {"variant": f"v{variant}", "learning_rate": 1e-3 * 3**rate, "seed": seed, "val_loss": losses[variant, rate, seed]}
        for variant in range(variants)
        for rate in range(rates)
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows).assign(weight_decay=0.1)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("variants", [2, 4])
@pytest.mark.parametrize("seeds", [3, 8])
def test_the_simulation_judges_as_compare_experiments_does(variants: int, seeds: int, reference: bool) -> None:
    rng, seen = np.random.default_rng(variants * seeds), set()
    for shift, diverged in ((0.0, False), (0.03, False), (0.015, True)):
        losses = World(variants, seeds, shift=shift, diverged=diverged, steep=2.0).draw(rng)
        table = compare_experiments(frame(losses), reference="v0" if reference else None, margin=MARGIN).table
        expected = judged(losses, reference)
        verdicts = dict(zip(table["variant"], table["verdict"], strict=True))
        if expected:
            assert verdicts == expected
        else:
            assert not set(verdicts.values()) & (DECIDED | {EQUIVALENT})
        seen |= set(verdicts.values())
    assert len(seen) > 1


@pytest.mark.slow
@pytest.mark.parametrize("cell", range(9), ids=lambda cell: f"{(2, 4, 9)[cell // 3]}x{(3, 5, 8)[cell % 3]}")
@pytest.mark.parametrize("world", list(NULL))
def test_without_a_difference_a_verdict_is_wrong_in_at_most_five_percent_of_sweeps(world: str, cell: int) -> None:
    assert rate(NULL[world][cell], DECIDED, TRIALS, seed=cell) <= 0.05 + MONTE_CARLO


@pytest.mark.slow
@pytest.mark.parametrize("cell", range(9))
@pytest.mark.parametrize("world", list(AT_MARGIN))
def test_variants_that_differ_by_the_margin_are_called_equivalent_in_at_most_five_percent(world: str, cell: int) -> None:
    assert rate(AT_MARGIN[world][cell], {EQUIVALENT}, TRIALS, seed=cell) <= 0.05 + MONTE_CARLO


@pytest.mark.slow
@pytest.mark.parametrize("variants", [2, 4, 9])
@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_intervals_cover_the_true_difference_in_93_to_97_percent(variants: int, seeds: int) -> None:
    covered, _ = coverage(World(variants, seeds), TRIALS)
    assert 0.93 - MONTE_CARLO <= covered <= 0.97 + MONTE_CARLO


@pytest.mark.slow
@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("variants", [2, 4, 9])
@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_a_difference_of_the_predicted_size_is_found_four_times_out_of_five(variants: int, seeds: int, reference: bool) -> None:
    assert found(World(variants, seeds, reference=reference), TRIALS) == pytest.approx(0.8, abs=3 * (0.8 * 0.2 / TRIALS) ** 0.5)


def test_equal_variants_of_little_noise_are_equivalent_and_unequal_ones_are_found() -> None:
    rng = np.random.default_rng(0)
    calm = World(3, 5, spreads=lambda variants: np.full(variants, 0.1))
    assert set(judged(calm.draw(rng)).values()) <= {"BEST", "EQUIVALENT", "BETTER BUT SMALL"}
    assert sorted(judged(World(2, 5, shift=10 * MARGIN * LOSS).draw(rng)).values()) == ["BEST", "BETTER"]
