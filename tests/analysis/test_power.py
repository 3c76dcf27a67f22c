"""Are there seeds enough: the smallest difference found, against the paired t-test's known power, and the spread that sweeps recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from archsweep.analysis.detect import detectable_effect, power, seeds_needed
from archsweep.analysis.power import ASSUMED, Spread, power_of, recorded_spread
from archsweep.analysis.statistics import ALL_PAIRS, REFERENCE
from tests.sweep_folder import write_sweep

if TYPE_CHECKING:
    from pathlib import Path


# Power of the paired t-test at 80 %, in standard deviations of the paired difference.
@pytest.mark.parametrize(("seeds", "smallest"), [(3, 3.26), (4, 2.12), (5, 1.68), (6, 1.43), (8, 1.16), (10, 1.00), (16, 0.75)])
def test_two_variants_find_what_the_paired_t_test_finds(seeds: int, smallest: float) -> None:
    spread = Spread(deviation=1.0, loss=4.0, source="planted")
    assert f"find a difference of {smallest:.2g} nats/token" in power_of(5.0, False, seeds, 2, spread).found
    assert power_of(smallest + 0.01, False, seeds, 2, spread).warning is None
    assert power_of(smallest - 0.01, False, seeds, 2, spread).warning is not None


def test_a_part_of_the_loss_is_a_difference_in_nats_and_the_seeds_that_it_takes_are_told() -> None:
    spread = Spread(deviation=0.01, loss=4.0, source="planted")
    # 0.25 % of 4 nats is one standard deviation: ten seeds.
    warning = power_of(0.0025, True, 3, 2, spread).warning
    assert warning == "too few seeds to find a difference of 0.01 nats/token: 10 seeds would: --set repeat=10."
    assert "more than 1000 seeds would" in str(power_of(1e-9, True, 3, 2, spread).warning)


def sweep(folder: Path, spread: float, **changes: Any) -> Path:
    def loss(variant: Any, rate: float, seed: int) -> float:
        return 4 + rate + spread * (1 if seed == variant["num_layers"] - 1 else -1)

    return write_sweep(folder, [{"num_layers": 1}, {"num_layers": 2}], loss, seeds=(0, 1), name=folder.name, **changes)


def test_the_sweeps_own_spread_counts_first_then_that_of_the_sweep_of_most_alike_cost(tmp_path: Path) -> None:
    own, small, large = tmp_path / "own", sweep(tmp_path / "small", 0.2), sweep(tmp_path / "large", 0.05, parameters=lambda variant: 10**8)
    others = [small, large, tmp_path / "no_sweep"]
    assert recorded_spread(own, [], 1e10) is ASSUMED
    assert recorded_spread(own, others, 1e10).source == "as in small"
    assert recorded_spread(own, others, 1e15).source == "as in large"
    # The paired differences are plus and minus twice the spread.
    assert recorded_spread(own, others, 1e10).deviation == pytest.approx(2 * 0.2 * 2**0.5)
    sweep(own, 0.1)
    assert recorded_spread(own, others, 1e10).source == "as in own"


def test_where_rates_are_tuned_the_seeds_that_choose_them_find_nothing() -> None:
    spread = Spread(deviation=1.0, loss=4.0, source="planted")
    # Of 11 seeds 3 choose: the other 8 find 1.16 standard deviations.
    assert power_of(1.17, False, 11, 2, spread, tuned=True).warning is None
    assert "11 seeds would" in str(power_of(1.17, False, 8, 2, spread, tuned=True).warning)
    assert power_of(1.17, False, 8, 2, spread).warning is None


# ---------------------------------------------------------------------------------------------------- power
@pytest.mark.parametrize(("seeds", "effect"), [(3, 3.26), (4, 2.13), (5, 1.68), (6, 1.43), (8, 1.16), (10, 1.00), (16, 0.75)])
def test_the_smallest_detectable_effect_of_a_paired_t_test_is_the_tables(seeds: int, effect: float) -> None:
    assert detectable_effect(seeds) == pytest.approx(effect, abs=0.006)


@pytest.mark.parametrize(("effect", "seeds", "alpha"), [(0.5, 10, 0.05), (1.0, 3, 0.05), (2.0, 5, 0.01)])
def test_power_of_two_variants_is_statsmodels_paired_power(effect: float, seeds: int, alpha: float) -> None:
    # The wrong sign is no find: one side of the test at half of its level.
    expected = TTestPower().power(effect_size=effect, nobs=seeds, alpha=alpha / 2, alternative="larger")
    assert power(effect, seeds, alpha=alpha) == pytest.approx(expected)


def test_pooling_over_variants_finds_smaller_effects() -> None:
    assert detectable_effect(3, variants=6) < detectable_effect(3, variants=3) < detectable_effect(3, variants=2)


@pytest.mark.parametrize("effect", [0.2, 0.7, 1.5])
def test_the_seeds_needed_are_those_that_statsmodels_solves_for(effect: float) -> None:
    solved = TTestPower().solve_power(effect_size=effect, alpha=0.05, power=0.8)
    assert seeds_needed([effect]).tolist() == [np.ceil(solved)]


def test_the_seeds_of_many_effects_are_those_of_each_by_itself() -> None:
    solved = [np.ceil(TTestPower().solve_power(effect_size=effect, alpha=0.05, power=0.8)) for effect in (0.3, 2.0)]
    assert seeds_needed([0.3, float("nan"), -2.0, 0.0]).tolist() == pytest.approx([solved[0], np.nan, solved[1], np.nan], nan_ok=True)


def test_no_number_of_seeds_finds_no_difference() -> None:
    assert np.isnan(seeds_needed([0.0, 0.01, float("nan")])).all()


def test_one_seed_detects_nothing() -> None:
    assert detectable_effect(1) == float("inf")


def test_the_plan_for_more_seeds_reckons_with_the_number_of_pairs() -> None:
    assert ALL_PAIRS.strictest(2) == REFERENCE.strictest(2) == 0.05
    assert ALL_PAIRS.strictest(5) == pytest.approx(0.005)
    assert REFERENCE.strictest(5) == pytest.approx(0.0125)


def test_a_reference_finds_smaller_effects_than_all_pairs_of_the_same_seeds() -> None:
    found = [detectable_effect(5, 9, family.strictest(9), family) for family in (REFERENCE, ALL_PAIRS)]
    assert found[0] < found[1]


@pytest.mark.parametrize("variants", [200, 900, 3000])
def test_the_smallest_effect_of_hundreds_of_variants_at_two_seeds_is_found_four_times_out_of_five(variants: int) -> None:
    alpha = ALL_PAIRS.strictest(variants)
    effect = detectable_effect(2, variants, alpha)
    # Simulated: a pair's own error has one degree of freedom, the pooled one that of every other variant; the larger of the two divides.
    rng, draws = np.random.default_rng(0), 400_000
    own, others = rng.chisquare(1, draws), rng.chisquare(variants - 2, draws)
    error = np.sqrt(np.maximum(own, (own + others) / (variants - 1)))
    found = (rng.standard_normal(draws) + effect * 2**0.5) / error > stats.t.isf(alpha / 2, 4.5)
    assert found.mean() == pytest.approx(0.8, abs=0.02)


def test_an_effect_beyond_all_measure_is_found() -> None:
    assert power([1e12, float("inf"), 0.0], 2).tolist() == pytest.approx([1.0, 1.0, 0.025])
