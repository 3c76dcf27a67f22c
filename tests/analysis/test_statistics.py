from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from archsweep.analysis.statistics import (
    all_pairs,
    best_settings,
    detectable_effect,
    family_alpha,
    fit_layout,
    holm,
    learning_rate_audit,
    losses_by_seed,
    power,
    seeds_needed,
    seeds_needed_each,
    settings,
)
from archsweep.errors import RecordError

RATES = (1e-3, 3e-3, 1e-2)


def rows(variant: str, by_rate: dict[float, list[float | None]], **statuses: str) -> list[dict[str, object]]:
    return [
        {
            "variant": variant,
            "learning_rate": rate,
            "weight_decay": 0.1,
            "seed": seed,
            "status": statuses.get(f"s{seed}", "finished") if loss is None else "finished",
            "val_loss": loss,
        }
        for rate, losses in by_rate.items()
        for seed, loss in enumerate(losses)
    ]


def results(*groups: list[dict[str, object]]) -> pd.DataFrame:
    return pd.DataFrame([row for group in groups for row in group]).astype({"val_loss": "Float64", "status": "string"})


def table(values: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(values, index=[f"v{i}" for i in range(len(values))])


# -------------------------------------------------------------------------------------------------------------- settings


def test_a_variants_best_setting_has_the_smallest_mean_over_seeds() -> None:
    frame = results(rows("a", {1e-3: [3.0, 3.4], 3e-3: [3.1, 3.1]}), rows("b", {1e-3: [2.0, 2.2], 3e-3: [2.5, 2.6]}))
    best = best_settings(settings(frame))
    assert best[["variant", "learning_rate"]].to_numpy().tolist() == [["b", 1e-3], ["a", 3e-3]]
    assert best["mean"].tolist() == pytest.approx([2.1, 3.1])
    assert best["sd"].tolist() == pytest.approx([0.1 * 2**0.5, 0.0])


@pytest.mark.parametrize("status", ["diverged", "failed", "unfinished"])
def test_a_setting_that_lost_a_seed_does_not_count_however_low_the_others_are(status: str) -> None:
    frame = results(rows("a", {1e-3: [3.0, 3.1], 3e-3: [1.0, None]}, s1=status))
    assert best_settings(settings(frame))["learning_rate"].tolist() == [1e-3]


def test_an_infinite_loss_is_no_finished_one() -> None:
    frame = results(rows("a", {1e-3: [3.0, float("inf")]}))
    assert best_settings(settings(frame)).empty


def test_two_rows_for_one_replica_are_refused() -> None:
    frame = results(rows("a", {1e-3: [3.0]}), rows("a", {1e-3: [3.1]}))
    with pytest.raises(RecordError, match="a has two results for seed 0"):
        settings(frame)


@pytest.mark.parametrize(
    ("losses", "edge", "add"),
    [((3.0, 3.5, 4.0), "lowest", 3.3e-4), ((4.0, 3.5, 3.0), "highest", 3.3e-2), ((4.0, 3.0, 4.0), "none", float("nan"))],
)
def test_a_best_rate_at_the_edge_is_found_with_the_rate_to_add(losses: tuple[float, ...], edge: str, add: float) -> None:
    tried = settings(results(rows("a", {rate: [loss] for rate, loss in zip(RATES, losses, strict=True)})))
    audit = learning_rate_audit(tried, best_settings(tried))
    assert audit["edge"].tolist() == [edge]
    assert audit["add"].tolist() == pytest.approx([add], nan_ok=True)


@pytest.mark.parametrize(("status", "edge"), [("diverged", "none"), ("failed", "highest"), ("unfinished", "highest")])
def test_a_rate_that_diverged_bounds_the_grid_and_one_that_failed_does_not(status: str, edge: str) -> None:
    tried = settings(results(rows("a", {1e-3: [4.0], 3e-3: [3.0], 1e-2: [None]}, s0=status)))
    assert learning_rate_audit(tried, best_settings(tried))["edge"].tolist() == [edge]


def test_a_single_rate_was_not_tuned() -> None:
    tried = settings(results(rows("a", {1e-3: [4.0]})))
    assert learning_rate_audit(tried, best_settings(tried))["edge"].tolist() == ["not tuned"]


# ---------------------------------------------------------------------------------------------------------------- the layout


def test_the_layout_is_statsmodels_two_way_least_squares() -> None:
    losses = table(np.random.default_rng(0).normal(3, 0.1, size=(5, 4)))
    long = losses.rename_axis("variant").reset_index().melt("variant", var_name="seed", value_name="loss")
    fit = smf.ols("loss ~ C(variant) + C(seed)", long).fit()
    layout = fit_layout(losses)
    assert layout.degrees == fit.df_resid == 12
    assert layout.error**2 == pytest.approx(fit.mse_resid)
    against_first = all_pairs(layout).head(4)
    wide = against_first["error"] > fit.bse.iloc[1] * (1 + 1e-9)  # pairs whose own seeds spread wider than the pool
    names = [f"C(variant)[T.v{i}]" for i in range(1, 5)]
    assert against_first["difference"].tolist() == pytest.approx(fit.params[names].tolist())
    assert (~wide).any()
    assert against_first["p"][~wide].tolist() == pytest.approx(fit.pvalues[names].to_numpy()[~wide].tolist())
    assert against_first["low"][~wide].tolist() == pytest.approx(fit.conf_int().loc[names, 0].to_numpy()[~wide].tolist())


def test_two_variants_are_compared_by_the_paired_t_test() -> None:
    losses = table(np.random.default_rng(1).normal(3, 0.1, size=(2, 5)))
    expected = stats.ttest_rel(losses.loc["v1"], losses.loc["v0"])
    pair = all_pairs(fit_layout(losses)).iloc[0]
    assert pair["p"] == pytest.approx(expected.pvalue)
    assert (pair["low"], pair["high"]) == pytest.approx(tuple(expected.confidence_interval()))


def test_variants_with_different_seeds_are_compared_unpaired() -> None:
    a, b = [3.0, 3.2, 3.1], [3.3, 3.6]
    losses = pd.DataFrame([[*a, np.nan, np.nan], [np.nan, np.nan, np.nan, *b]], index=["a", "b"])
    pair = all_pairs(fit_layout(losses)).iloc[0]
    pooled = ((2 * np.var(a, ddof=1) + np.var(b, ddof=1)) / 3 * (1 / 3 + 1 / 2)) ** 0.5
    own = (np.var(a, ddof=1) / 3 + np.var(b, ddof=1) / 2) ** 0.5
    assert pair["error"] == pytest.approx(max(pooled, own))
    assert pair["p"] == pytest.approx(2 * stats.t.sf(0.35 / max(pooled, own), 3))


def test_a_noisy_pair_keeps_its_own_error_among_calm_variants() -> None:
    calm = [[3.0, 3.001, 3.002], [3.101, 3.1, 3.102], [3.2, 3.202, 3.201], [3.3, 3.301, 3.303]]
    noisy = [2.5, 3.0, 3.3]
    pairs = all_pairs(fit_layout(table(np.array([noisy, *calm]))))
    assert pairs["error"].iloc[0] == pytest.approx(stats.sem(np.array(calm[0]) - np.array(noisy)))
    assert pairs[pairs["first"] != "v0"]["error"].nunique() == 1


def test_one_seed_tests_nothing() -> None:
    assert all_pairs(fit_layout(table(np.array([[3.0], [3.5], [4.0]]))))[["p", "holm_p", "low"]].isna().all(axis=None)


def test_equal_losses_differ_by_nothing() -> None:
    assert all_pairs(fit_layout(table(np.full((2, 3), 3.5))))["p"].tolist() == [1.0]


@examples(max_examples=15)  # multipletests collects garbage at every call
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_statsmodels_holm(p: list[float]) -> None:
    assert holm(np.array(p)).tolist() == pytest.approx(multipletests(p, method="holm")[1].tolist())


@given(st.integers(2, 5), st.integers(2, 5), st.integers(0, 1000))
def test_a_seed_that_is_harder_for_all_variants_changes_no_pair(variants: int, seeds: int, number: int) -> None:
    rng = np.random.default_rng(number)
    losses = rng.normal(3, 0.1, size=(variants, seeds))
    before, after = (all_pairs(fit_layout(table(values))) for values in (losses, losses + rng.normal(0, 1, size=seeds)))
    assert after["difference"].tolist() == pytest.approx(before["difference"].tolist(), abs=1e-9)
    assert after["holm_p"].tolist() == pytest.approx(before["holm_p"].tolist(), abs=1e-6)


def test_all_pairs_are_tested_not_only_those_with_the_best() -> None:
    pairs = all_pairs(fit_layout(table(np.random.default_rng(2).normal(size=(4, 3)))))
    assert list(zip(pairs["first"], pairs["second"], strict=True)) == list(combinations([f"v{i}" for i in range(4)], 2))


@pytest.mark.parametrize("variants", [2, 5])
def test_without_a_difference_the_best_is_called_better_in_at_most_five_percent(variants: int) -> None:
    """As a sweep is read: the variant with the lowest mean against every other. 3 standard errors of Monte Carlo are allowed."""
    rng, trials, wrong = np.random.default_rng(20), 400, 0
    for _ in range(trials):
        losses = table(3.5 + 0.05 * rng.normal(size=3) + 0.02 * rng.normal(size=(variants, 3)))
        pairs = all_pairs(fit_layout(losses.loc[losses.mean(axis=1).sort_values().index]))
        wrong += bool((pairs.head(variants - 1)["holm_p"] < 0.05).any())
    assert wrong / trials <= 0.05 + 3 * (0.05 * 0.95 / trials) ** 0.5


def test_a_planted_difference_is_found_as_often_as_the_power_says() -> None:
    rng, trials, effect, found = np.random.default_rng(21), 300, 2.5, 0
    for _ in range(trials):
        noise = rng.normal(size=(2, 4)) / 2**0.5  # so that the paired difference has a standard deviation of 1
        found += bool(all_pairs(fit_layout(table(noise + np.array([[0.0], [effect]]))))["p"].iloc[0] < 0.05)
    expected = TTestPower().power(effect_size=effect, nobs=4, alpha=0.05)
    assert found / trials == pytest.approx(expected, abs=3 * (expected * (1 - expected) / trials) ** 0.5)


# ------------------------------------------------------------------------------------------------------------------- power


@pytest.mark.parametrize(("seeds", "effect"), [(3, 3.26), (4, 2.13), (5, 1.68), (6, 1.43), (8, 1.16), (10, 1.00), (16, 0.75)])
def test_the_smallest_detectable_effect_of_a_paired_t_test_is_the_tables(seeds: int, effect: float) -> None:
    assert detectable_effect(seeds) == pytest.approx(effect, abs=0.006)


@pytest.mark.parametrize(("effect", "seeds", "alpha"), [(0.5, 10, 0.05), (1.0, 3, 0.05), (2.0, 5, 0.01)])
def test_power_of_two_variants_is_statsmodels_paired_power(effect: float, seeds: int, alpha: float) -> None:
    assert power(effect, seeds, alpha=alpha) == pytest.approx(TTestPower().power(effect_size=effect, nobs=seeds, alpha=alpha), abs=1e-6)


def test_pooling_over_variants_finds_smaller_effects() -> None:
    assert detectable_effect(3, variants=6) < detectable_effect(3, variants=3) < detectable_effect(3, variants=2)


@pytest.mark.parametrize("effect", [0.2, 0.7, 1.5])
def test_the_seeds_needed_are_those_that_statsmodels_solves_for(effect: float) -> None:
    solved = TTestPower().solve_power(effect_size=effect, alpha=0.05, power=0.8)
    assert seeds_needed(effect) == int(np.ceil(solved))


def test_the_seeds_of_many_effects_are_those_of_each_by_itself() -> None:
    solved = [int(np.ceil(TTestPower().solve_power(effect_size=effect, alpha=0.05, power=0.8))) for effect in (0.3, 2.0)]
    assert seeds_needed_each([0.3, float("nan"), -2.0, 0.0]) == [solved[0], None, solved[1], None]


def test_no_number_of_seeds_finds_no_difference() -> None:
    assert seeds_needed(0.0) is None
    assert seeds_needed(0.01) is None


def test_one_seed_detects_nothing() -> None:
    assert detectable_effect(1) == float("inf")


def test_the_plan_for_more_seeds_reckons_with_the_number_of_pairs() -> None:
    assert family_alpha(2) == 0.05
    assert family_alpha(5) == pytest.approx(0.005)


def test_losses_by_seed_are_those_of_the_best_settings() -> None:
    frame = results(rows("a", {1e-3: [3.0, 3.1], 3e-3: [4.0, 4.1]}), rows("b", {1e-3: [9.0, 9.1], 3e-3: [2.0, 2.1]}))
    losses = losses_by_seed(frame, best_settings(settings(frame)))
    assert losses.index.tolist() == ["b", "a"]
    assert losses.to_numpy().tolist() == [[2.0, 2.1], [3.0, 3.1]]
