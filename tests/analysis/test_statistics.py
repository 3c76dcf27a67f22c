"""The tests behind a verdict, against statsmodels, scipy and published numbers."""

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
from statsmodels.stats.weightstats import ttost_paired

from archsweep.analysis.checks import by_seed, omnibus
from archsweep.analysis.compute import KAPLAN, compute_ratio
from archsweep.analysis.equivalence import equivalence_p
from archsweep.analysis.statistics import ALL_PAIRS, REFERENCE, all_against, all_pairs, fit_layout, holm


def table(values: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(values, index=[f"v{i}" for i in range(len(values))])


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
    # The pair's own 3 degrees of freedom, and two thirds of them for each of the three further variants.
    t = np.abs(fit.tvalues[names].to_numpy()[~wide])
    assert against_first["p"][~wide].tolist() == pytest.approx((2 * stats.t.sf(t, 3 * (1 + 3 * 2 / 3))).tolist())
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
    welch = stats.ttest_ind(a, b, equal_var=False).df
    assert pair["p"] == pytest.approx(2 * stats.t.sf(0.35 / max(pooled, own), welch))


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


def test_against_a_reference_only_its_pairs_are_tested_and_corrected() -> None:
    losses = table(np.random.default_rng(3).normal(3, 0.1, size=(4, 5)))
    pairs = all_against(fit_layout(losses), "v1")
    assert list(zip(pairs["first"], pairs["second"], strict=True)) == [("v1", "v0"), ("v1", "v2"), ("v1", "v3")]
    assert pairs["difference"].tolist() == pytest.approx([losses.loc[name].mean() - losses.loc["v1"].mean() for name in ("v0", "v2", "v3")])
    assert pairs["holm_p"].tolist() == pytest.approx(multipletests(pairs["p"], method="holm")[1].tolist())


@pytest.mark.parametrize(("family", "variants", "times"), [(ALL_PAIRS, 2, 1), (ALL_PAIRS, 5, 3), (ALL_PAIRS, 50, 4.5), (REFERENCE, 50, 2)])
def test_other_variants_lend_a_test_some_of_their_degrees_of_freedom(family: object, variants: int, times: float) -> None:
    layout = fit_layout(table(np.random.default_rng(4).normal(size=(variants, 4))))
    pairs = all_pairs(layout) if family is ALL_PAIRS else all_against(layout, "v0")
    assert pairs["degrees"].unique().tolist() == pytest.approx([3 * times])


# --------------------------------------------------------------------------------------------------------------- equivalence


@pytest.mark.parametrize("margin", [0.02, 0.05, 0.2])
def test_two_variants_are_equivalent_by_statsmodels_two_one_sided_tests(margin: float) -> None:
    losses = table(np.random.default_rng(5).normal(3, 0.03, size=(2, 6)))
    expected, *_ = ttost_paired(losses.loc["v1"].to_numpy(), losses.loc["v0"].to_numpy(), -margin, margin)
    assert equivalence_p(all_pairs(fit_layout(losses)), np.array([margin])).tolist() == pytest.approx([expected])


def test_equivalence_is_corrected_over_the_family_and_equal_losses_are_equivalent() -> None:
    pairs = all_pairs(fit_layout(table(np.random.default_rng(6).normal(3, 0.03, size=(3, 6)))))
    alone = [equivalence_p(pairs.iloc[[row]], np.array([0.05]))[0] for row in range(3)]
    assert equivalence_p(pairs, np.full(3, 0.05)).tolist() == pytest.approx(multipletests(alone, method="holm")[1].tolist())
    assert equivalence_p(all_pairs(fit_layout(table(np.full((2, 3), 3.5)))), np.array([0.01])).tolist() == [0.0]


def test_one_seed_shows_no_equivalence() -> None:
    assert np.isnan(equivalence_p(all_pairs(fit_layout(table(np.array([[3.0], [3.0]])))), np.array([0.1]))).all()


# -------------------------------------------------------------------------------------------------------------------- checks


def test_the_omnibus_tests_are_those_of_the_two_way_layout_and_of_the_ranks() -> None:
    losses = table(np.random.default_rng(7).normal(3, 0.1, size=(4, 5)))
    layout, found = fit_layout(losses), omnibus(fit_layout(losses))
    f = 5 * losses.mean(axis=1).var(ddof=1) / layout.error**2  # between variants over residual mean square
    assert found.anova == pytest.approx(stats.f.sf(f, 3, 12))
    assert found.friedman == pytest.approx(stats.friedmanchisquare(*losses.to_numpy()).pvalue)


# Smallest two-sided p of n flipped signs: 2 / 2**n.
@pytest.mark.parametrize(("seeds", "smallest"), [(3, None), (5, None), (6, 0.03125), (8, 0.0078125), (10, 0.001953125)])
def test_signs_are_flipped_exactly_where_that_can_reach_five_percent(seeds: int, smallest: float | None) -> None:
    losses = table(np.array([np.zeros(seeds), 1 + np.arange(seeds)]))
    found = by_seed(fit_layout(losses), "v0").loc["v1", "signs_p"]
    assert np.isnan(found) if smallest is None else found == pytest.approx(smallest)


def test_the_part_of_the_seeds_at_which_one_is_better_counts_ties_half() -> None:
    losses = table(np.array([[1.0, 1, 1, 1], [2, 2, 0, 1], [0, 0, 0, 0]]))
    found = by_seed(fit_layout(losses), "v0")["seeds_better"]
    assert np.isnan(found["v0"])
    assert found[["v1", "v2"]].tolist() == [0.625, 0]


def test_the_pairs_own_interval_is_students_below_five_seeds_and_bca_from_there_on() -> None:
    rng = np.random.default_rng(8)
    few, many = (table(rng.normal(3, 0.1, size=(2, seeds))) for seeds in (4, 6))
    expected = stats.ttest_rel(few.loc["v1"], few.loc["v0"]).confidence_interval()
    assert by_seed(fit_layout(few), "v0").loc["v1", ["own_low", "own_high"]].tolist() == pytest.approx(list(expected))
    difference = (many.loc["v1"] - many.loc["v0"]).to_numpy()
    bca = stats.bootstrap((difference,), np.mean, method="BCa", n_resamples=20_000, rng=rng).confidence_interval
    width = bca.high - bca.low
    assert by_seed(fit_layout(many), "v0").loc["v1", ["own_low", "own_high"]].tolist() == pytest.approx(list(bca), abs=0.05 * width)


def test_losses_without_any_spread_have_an_interval_of_no_width() -> None:
    found = by_seed(fit_layout(table(np.array([[3.0] * 6, [3.5] * 6]))), "v0").loc["v1"]
    assert found[["own_low", "own_high"]].tolist() == pytest.approx([0.5, 0.5])


# --------------------------------------------------------------------------------------------------------- published numbers


def test_one_percent_of_the_loss_is_kaplans_22_percent_of_compute() -> None:
    ratio = compute_ratio(pd.Series([1.0, 1.01]), pd.Series([True, False]), KAPLAN)
    assert ratio.tolist() == pytest.approx([1, 1.2202], abs=5e-5)


def test_modded_nanogpts_eighty_runs_reach_its_target() -> None:
    """Mean 3.27914 and sd .00191 of 80 losses, against 3.28: p = 6.72e-5 one-sided, which is half of a pair's two-sided p."""
    noise = np.random.default_rng(9).normal(size=80)
    losses = 3.27914 + 0.00191 * (noise - noise.mean()) / noise.std(ddof=1)
    pair = all_pairs(fit_layout(table(np.array([losses, np.full(80, 3.28)])))).iloc[0]
    assert 5.7e-5 < pair["p"] / 2 < 7.3e-5  # what losses can give whose mean and sd are rounded to these figures
