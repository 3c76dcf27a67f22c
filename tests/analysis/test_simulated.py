"""Is the verdict right? On planted losses, judged as a sweep's: wrong in at most 5 % of sweeps, and finding what it says it finds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from archsweep.analysis.compare import compare_experiments
from archsweep.analysis.verdicts import EQUIVALENT, LR_CONFOUNDED
from benchmarks.verdicts import AT_MARGIN, DECIDED, MARGIN, NULL, World, coverage, found, judged, rate

SWEEPS = 4000
MONTE_CARLO = 3 * (0.05 * 0.95 / SWEEPS) ** 0.5  # three standard errors of a rate of 5 %


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
    for shift, spread, diverged, steep in (
        (0.0, 0.1, False, 9.0),
        (0.03, 1.0, False, 3.0),
        (0.015, 0.3, True, 2.0),
        (0.0, 1.0, False, 0.2),
    ):
        world = World(
            variants, seeds, lambda variants, spread=spread: np.full(variants, spread), shift=shift, diverged=diverged, steep=steep
        )
        losses = world.draw(rng)
        table = compare_experiments(frame(losses[0]), reference="v0" if reference else None, margin=MARGIN).table.set_index("variant")
        verdicts = [table.loc[f"v{number}", "verdict"] for number in range(variants)]
        assert verdicts == judged(losses, reference)[0].tolist()
        seen |= set(verdicts)
    assert len(seen) > 2


@pytest.mark.slow
@pytest.mark.parametrize("world", list(NULL))
def test_without_a_difference_a_verdict_is_wrong_in_at_most_five_percent_of_sweeps(world: str) -> None:
    rates = [rate(each, DECIDED, SWEEPS, seed=number) for number, each in enumerate(NULL[world])]
    assert max(rates) <= 0.05 + MONTE_CARLO, rates


@pytest.mark.slow
@pytest.mark.parametrize("world", list(AT_MARGIN))
def test_variants_that_differ_by_the_margin_are_called_equivalent_in_at_most_five_percent(world: str) -> None:
    rates = [rate(each, {EQUIVALENT}, SWEEPS, seed=number) for number, each in enumerate(AT_MARGIN[world])]
    assert max(rates) <= 0.05 + MONTE_CARLO, rates


CELLS = [(variants, seeds) for variants in (2, 4, 9) for seeds in (3, 5, 8)]


@pytest.mark.slow
def test_intervals_cover_the_true_difference_in_93_to_97_percent() -> None:
    covered = [coverage(World(*cell), 1000) for cell in CELLS]
    error = 2 * (0.05 * 0.95 / 1000) ** 0.5
    assert all(0.93 - error <= part <= 0.97 + error for part in covered), covered


@pytest.mark.slow
@pytest.mark.parametrize("reference", [False, True])
def test_a_difference_of_the_predicted_size_is_found_four_times_out_of_five(reference: bool) -> None:
    parts = [found(World(*cell, reference=reference), SWEEPS) for cell in CELLS]
    assert parts == pytest.approx([0.8] * len(CELLS), abs=3 * (0.8 * 0.2 / SWEEPS) ** 0.5 + 0.002)  # and what 12 nodes leave


@pytest.mark.slow
def test_a_best_rate_at_the_edge_is_never_decided() -> None:
    world = World(3, 3, steep=-10.0, shift=1.0)  # the other rates are the better ones
    assert set(judged(world.draw(np.random.default_rng(0), 200)).ravel()) == {"BEST", LR_CONFOUNDED}
