"""Scaling laws: planted ones are found again, published constants give the published exponents, and what is too little is said to be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from archsweep.analysis import scaling
from archsweep.analysis.compare import compare_experiments
from archsweep.analysis.compute import KAPLAN
from archsweep.analysis.scaling import Law, Points, compute_exponent, fit_law, optima
from archsweep.analysis.statistics import fit_layout

if TYPE_CHECKING:
    from archsweep.analysis.compare import Comparison

HOFFMANN = Law(1.69, 406.4, 0.34, 410.7, 0.28)  # Hoffmann et al. 2022, section D.3
EPOCH = Law(1.82, 482.01, 0.35, 2085.43, 0.37)  # Besiroglu et al. 2024, the refit of the same data, to two digits
SMALL = Law(1.5, 40.0, 0.34, 300.0, 0.4)
SIZES, TOKENS = (20_000, 50_000, 120_000, 300_000, 700_000), (300_000, 1_000_000, 3_000_000, 10_000_000)


def sweep(law: Law = SMALL, sizes: tuple[int, ...] = SIZES, tokens: tuple[int, ...] = TOKENS, noise: float = 0.01) -> Comparison:
    """Every size at every length, three seeds each, at 6 FLOPs per weight and token."""
    rng = np.random.default_rng(1)
    seeds = 0.02 * rng.standard_normal(3)
    rows = [
        {
            "width": size,
            "max_tokens": length,
            "seed": seed,
            "val_loss": float(law.loss(size, length)) + seeds[seed] + noise * rng.standard_normal(),
            "parameters": size + 400_000,
            "non_embedding_parameters": size,
            "kaplan_parameters": int(0.98 * size),
            "tokens": length,
            "flops": 6 * size * length,
        }
        for size in sizes
        for length in tokens
        for seed in range(3)
    ]
    return compare_experiments(pd.DataFrame(rows), compare=["width", "max_tokens"])


def laws(comparison: Comparison) -> scaling.Scaling:
    found = scaling.scaling(comparison.table, comparison.layout)
    assert found is not None
    return found


@pytest.mark.parametrize("law", [HOFFMANN, EPOCH])
def test_published_laws_are_found_again_in_their_own_losses(law: Law) -> None:
    sizes, tokens = (grid.ravel() for grid in np.meshgrid(np.geomspace(7e7, 1.6e10, 8), np.geomspace(5e9, 5e11, 6)))
    assert fit_law(sizes, law.loss(sizes, tokens), tokens) == pytest.approx(law, rel=1e-6)


def test_published_constants_give_the_exponents_of_the_best_size() -> None:
    assert HOFFMANN.size_exponent == pytest.approx(0.28 / 0.62)  # .45, as their table 2 has it to two digits: .46
    assert EPOCH.size_exponent == pytest.approx(0.37 / 0.72)  # .51
    assert HOFFMANN.compute_exponent == pytest.approx(0.34 * 0.28 / 0.62)


def test_the_best_size_is_where_the_loss_is_lowest_at_equal_compute() -> None:
    sizes = np.geomspace(1e8, 1e12, 200_001)
    losses = EPOCH.loss(sizes, 5.76e23 / (6 * sizes))  # Gopher's compute
    assert EPOCH.best_size(5.76e23, 6) == pytest.approx(sizes[losses.argmin()], rel=1e-3)


def test_the_exponent_at_a_loss_is_the_slope_of_the_best_losses() -> None:
    flops = np.array([1e20, 1.001e20])
    sizes = np.array([EPOCH.best_size(budget, 6) for budget in flops])
    losses = EPOCH.loss(sizes, flops / (6 * sizes))
    slope = -np.log(losses[1] / losses[0]) / np.log(flops[1] / flops[0])
    assert EPOCH.compute_exponent_at(losses[0]) == pytest.approx(slope, rel=1e-3)


def test_a_law_of_sizes_alone_is_found_again() -> None:
    law, sizes = Law(1.5, 20.0, 0.3), np.geomspace(1e4, 1e6, 6)
    found = fit_law(sizes, law.loss(sizes))
    assert found[:3] == pytest.approx(law[:3], rel=1e-6)
    assert np.isnan(found.beta)


def test_a_sweep_of_sizes_and_lengths_finds_the_planted_law_within_its_intervals() -> None:
    found = laws(sweep())
    assert [fit.convention for fit in found.fits] == ["non_embedding_parameters", "kaplan_parameters"]
    assert "there are 5 over a factor of 2.6" in found.reasons["parameters"]  # the embedding is most of the small ones
    fit = found.fits[0]
    for name in ("alpha", "beta", "size_exponent"):
        low, high = fit.interval(name)
        assert low < getattr(SMALL, name) < high
        assert high - low < 0.3
    low, high = fit.band(np.array(SIZES, dtype=float), 1e6)
    assert ((low < high) & (high - low < 0.1)).all()


def test_intervals_are_the_same_every_time() -> None:
    sizes = np.geomspace(1e4, 1e6, 5)
    points = Points(sizes, np.full(5, 1e6), 6e6 * sizes, Law(1.5, 20.0, 0.3).loss(sizes), 0.01, 8)
    first, second = (scaling.fit_points("parameters", points).interval("alpha") for _ in range(2))
    assert first == second
    assert first[1] > first[0]


def test_the_best_size_of_a_compute_budget_comes_from_the_law() -> None:
    """Three budgets, each spent on five sizes that straddle the best one unevenly, which tilts a parabola."""
    budgets = (1e11, 1e12, 1e13)
    sizes = np.concatenate([SMALL.best_size(budget, 6) * np.array([0.2, 0.6, 1.0, 3.0, 9.0]) for budget in budgets])
    flops = np.repeat(budgets, 5)
    tokens = flops / (6 * sizes)
    points = Points(sizes, tokens, flops, SMALL.loss(sizes, tokens), 1e-4, 20)
    found = optima(scaling.fit_points("parameters", points))
    assert [optimum.variants for optimum in found] == [5, 5, 5]
    assert [optimum.size for optimum in found] == pytest.approx([SMALL.best_size(budget, 6) for budget in budgets], rel=1e-3)
    assert all(optimum.inside and optimum.low < optimum.size < optimum.high for optimum in found)


def test_the_sweeps_own_compute_exponent_is_for_ratios_of_losses() -> None:
    comparison = sweep(noise=0.0)
    exponent = compute_exponent(comparison.table)
    assert exponent == pytest.approx(SMALL.compute_exponent_at(comparison.table["mean"].min()), rel=0.1)
    assert comparison.exponent == (exponent, "the sweep's own scaling law")
    one_length = sweep(tokens=(1_000_000,))
    assert compute_exponent(one_length.table) is None
    assert one_length.exponent == KAPLAN


def test_equal_sizes_have_no_law() -> None:
    comparison = sweep(sizes=(50_000,), tokens=(1_000_000,))
    assert scaling.scaling(comparison.table, None) is None


@pytest.mark.parametrize(
    ("sizes", "tokens", "reason"),
    [
        ((50_000, 100_000, 200_000), (1_000_000,), "it takes 4 sizes over a factor of 4 or more, and there are 3 over a factor of 4"),
        ((50_000, 60_000, 70_000, 80_000), (1_000_000,), "there are 4 over a factor of 1.6. On less, any curve fits"),
        (SIZES, (1_000_000, 2_000_000), "takes 3 lengths over a factor of 4 and 6 variants; there are 2 over a factor of 2"),
    ],
)
def test_too_little_for_a_law_is_said(sizes: tuple[int, ...], tokens: tuple[int, ...], reason: str) -> None:
    found = laws(sweep(sizes=sizes, tokens=tokens))
    assert not found.fits
    assert reason in found.reasons["non_embedding_parameters"]


def test_sizes_and_lengths_that_grow_together_are_not_told_apart() -> None:
    table = sweep(sizes=(*SIZES, 1_500_000), tokens=(1_000_000,)).table
    table["tokens"] = 20 * table["non_embedding_parameters"]
    found = scaling.scaling(table, None)
    assert found is not None
    assert "change together" in found.reasons["non_embedding_parameters"]


def test_one_seed_still_has_intervals_from_what_the_law_leaves() -> None:
    sizes = np.geomspace(1e4, 1e6, 7)
    losses = Law(1.5, 20.0, 0.3).loss(sizes) + 0.01 * np.random.default_rng(0).standard_normal(7)
    fit = scaling.fit_points("parameters", Points(sizes, np.full(7, 1e6), 6e6 * sizes, losses, float("nan"), 0))
    low, high = fit.interval("alpha")
    assert low < 0.3 < high


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [1, 4])
def test_intervals_and_bands_hold_the_truth_about_as_often_as_they_promise(lengths: int) -> None:
    """Fifty sweeps with three seeds each: a count whose standard deviation is 3 % where 95 % are promised."""
    rng = np.random.default_rng(3)
    truth = SMALL if lengths > 1 else Law(1.5, 30.0, 0.3)
    sizes, tokens = (grid.ravel() for grid in np.meshgrid(np.geomspace(2e4, 1e6, 6), np.geomspace(3e5, 1e7, lengths)))
    inside: dict[str, list[float]] = {"alpha": [], "band": []}
    for _ in range(50):
        losses = truth.loss(sizes, tokens)[:, None] + 0.015 * rng.standard_normal((len(sizes), 3))
        layout = fit_layout(pd.DataFrame(losses))
        points = Points(sizes, tokens, 6 * sizes * tokens, losses.mean(axis=1), float(layout.mean_errors.max()), layout.degrees)
        fit = scaling.fit_points("parameters", points)
        low, high = fit.interval("alpha")
        inside["alpha"].append(low <= truth.alpha <= high)
        at = np.geomspace(2e4, 1e6, 9)
        low_band, high_band = fit.band(at, tokens[0])
        inside["band"].append(float(np.mean((low_band <= truth.loss(at, tokens[0])) & (truth.loss(at, tokens[0]) <= high_band))))
    assert all(np.mean(values) >= 0.9 for values in inside.values()), {name: np.mean(v) for name, v in inside.items()}
