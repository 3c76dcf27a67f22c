"""Tuned settings: which counts, which is the best, whether it lies inside its grid, which seeds choose it, how much the rate matters."""

from __future__ import annotations

from math import log

import numpy as np
import pandas as pd
import pytest

from archsweep.analysis.tuning import (
    at_common_rate,
    best_settings,
    choosing_seeds,
    is_tuned,
    learning_rate_audit,
    losses_by_seed,
    seeds_for,
    sensitivity,
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


def test_losses_by_seed_are_those_of_the_best_settings() -> None:
    frame = results(rows("a", {1e-3: [3.0, 3.1], 3e-3: [4.0, 4.1]}), rows("b", {1e-3: [9.0, 9.1], 3e-3: [2.0, 2.1]}))
    losses = losses_by_seed(frame, best_settings(settings(frame)))
    assert losses.index.tolist() == ["b", "a"]
    assert losses.to_numpy().tolist() == [[2.0, 2.1], [3.0, 3.1]]


def eight_seeds(*losses: dict[float, list[float]]) -> pd.DataFrame:
    return results(*(rows(name, by_rate) for name, by_rate in zip("ab", losses, strict=False)))  # type: ignore[arg-type]


def test_from_eight_seeds_on_a_third_chooses_the_setting_and_the_others_are_tested() -> None:
    # The first two seeds prefer 1e-3, all eight together 3e-3.
    by_rate = {1e-3: [1.0, 1.0, *[4.0] * 6], 3e-3: [2.0, 2.0, *[3.0] * 6]}
    frame = eight_seeds(by_rate, by_rate)
    tried = settings(frame)
    best = best_settings(tried)
    assert choosing_seeds(frame) == {0, 1}
    assert best["learning_rate"].tolist() == [1e-3, 1e-3]
    assert best[["mean", "finished"]].to_numpy().tolist() == [[4.0, 6], [4.0, 6]]
    assert losses_by_seed(frame, best).columns.tolist() == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("why", ["seven seeds", "nothing tuned", "other seeds"])
def test_otherwise_every_seed_is_tested(why: str) -> None:
    frame = eight_seeds({1e-3: [3.0] * 8, 3e-3: [2.0] * 8}, {1e-3: [3.0] * 8, 3e-3: [2.0] * 8})
    if why == "seven seeds":
        frame = frame[frame["seed"] < 7]
    elif why == "nothing tuned":
        frame = frame[frame["learning_rate"] == 1e-3]
    else:
        frame = frame.assign(seed=frame["seed"] + 8 * (frame["variant"] == "b"))
    assert choosing_seeds(frame) == frozenset()
    assert best_settings(settings(frame))["finished"].tolist() == [7, 7] if why == "seven seeds" else [8, 8]


def test_a_setting_that_only_the_first_seeds_ran_is_tested_on_these() -> None:
    """As where a sweep of nine seeds is joined with one of three seeds at another rate: three of nine would choose."""
    by_rate = {1e-3: [3.0] * 9, 3e-3: [2.0, 2.1, 2.2]}
    frame = eight_seeds(by_rate, by_rate)
    tried = settings(frame)
    best = best_settings(tried)
    assert choosing_seeds(frame) == frozenset()
    assert best["learning_rate"].tolist() == [3e-3, 3e-3]
    assert best["finished"].tolist() == [3, 3]
    assert best["mean"].tolist() == pytest.approx([2.1, 2.1])
    assert losses_by_seed(frame, best).columns.tolist() == [0, 1, 2]
    rate, losses = at_common_rate(tried, best)
    assert rate == 3e-3
    assert losses.tolist() == pytest.approx([2.1, 2.1])


def test_settings_are_tuned_where_one_variant_has_two_of_them() -> None:
    one, two = rows("a", {1e-3: [3.0, 3.1]}), rows("b", {1e-3: [3.0], 3e-3: [3.0]})
    assert not is_tuned(settings(results(one)))
    assert is_tuned(settings(results(one, two)))


@pytest.mark.parametrize(("tested", "planned"), [(3, 3), (7, 7), (8, 11), (9, 13), (12, 17)])
def test_more_seeds_are_planned_than_are_tested(tested: int, planned: int) -> None:
    assert seeds_for(tested) == planned


def test_the_common_rate_is_the_best_for_all_variants_together() -> None:
    frame = results(rows("a", {1e-3: [3.0], 3e-3: [3.2], 1e-2: [9.0]}), rows("b", {1e-3: [5.0], 3e-3: [4.0], 1e-2: [3.9]}))
    tried = settings(frame)
    rate, losses = at_common_rate(tried, best_settings(tried))
    assert rate == 3e-3
    assert losses.to_dict() == {"a": 3.2, "b": 4.0}


def test_the_loss_at_a_common_rate_is_at_the_weight_decay_that_was_chosen_not_at_the_one_that_tests_best() -> None:
    """Two of eight seeds choose: by them no weight decay is better, by the other six it is worse."""
    decays = {0.0: [3.0] * 2 + [4.0] * 6, 0.1: [3.5] * 2 + [3.6] * 6}
    frame = pd.concat([eight_seeds({1e-3: losses}, {1e-3: losses}).assign(weight_decay=decay) for decay, losses in decays.items()])
    tried = settings(frame.reset_index(drop=True))
    rate, losses = at_common_rate(tried, best_settings(tried))
    assert rate == 1e-3
    assert losses.tolist() == [4.0, 4.0]


def test_variants_without_a_rate_in_common_have_no_loss_at_one() -> None:
    tried = settings(results(rows("a", {1e-3: [3.0]}), rows("b", {3e-3: [4.0]})))
    rate, losses = at_common_rate(tried, best_settings(tried))
    assert np.isnan(rate)
    assert losses.isna().all()


def test_sensitivity_is_the_mean_excess_over_the_grid_and_a_diverged_rate_counts_as_untrained() -> None:
    start = log(512)
    frame = results(rows("a", {1e-3: [3.0], 3e-3: [3.2], 1e-2: [None]}, s0="diverged"), rows("b", {1e-3: [4.0], 3e-3: [4.3], 1e-2: [9.0]}))
    tried = settings(frame)
    found = sensitivity(tried, best_settings(tried), start)
    assert found.to_dict() == pytest.approx({"a": (0 + 0.2 + start - 3) / 3, "b": (0 + 0.3 + start - 4) / 3})
    assert np.isnan(sensitivity(tried, best_settings(tried), float("nan"))["a"])


def test_one_rate_shows_no_sensitivity() -> None:
    tried = settings(results(rows("a", {1e-3: [3.0]})))
    assert sensitivity(tried, best_settings(tried), log(512)).isna().all()
