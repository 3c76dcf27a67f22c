"""Picks for a limit, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from archsweep.analysis import costs, search
from archsweep.analysis.compare import Comparison, compare_experiments
from archsweep.analysis.picks import ladder, picks

# Size and loss: c is larger than b and no better, so nobody should take it.
VARIANTS = {"a": (15_000, 4.0), "b": (30_000, 3.5), "c": (60_000, 3.6), "d": (150_000, 3.2)}


def comparison(variants: dict[str, tuple[int, float]] = VARIANTS, seeds: int = 3) -> Comparison:
    rng = np.random.default_rng(0)
    rows = [
        {"variant": name, "seed": seed, "learning_rate": 0.01, "weight_decay": 0.1, "parameters": size}
        | {"val_loss": loss + 0.01 * rng.standard_normal()}
        for name, (size, loss) in variants.items()
        for seed in range(seeds)
    ]
    return compare_experiments(pd.DataFrame(rows))


def test_each_limit_has_the_lowest_loss_that_keeps_it() -> None:
    found = picks(comparison(), None)
    assert list(found) == ["parameters"]
    rungs = found["parameters"]
    assert [(pick.limit, pick.variant, pick.cost) for pick in rungs] == [
        (20_000, "a", 15_000),
        (50_000, "b", 30_000),
        (np.inf, "d", 150_000),
    ]


def test_the_next_limit_brings_the_difference_of_the_pair_with_its_interval() -> None:
    given = comparison()
    first, second, last = picks(given, None)["parameters"]
    means = given.table.set_index("variant")["mean"]
    assert first.gain == pytest.approx(means["a"] - means["b"])
    assert second.gain == pytest.approx(means["b"] - means["d"])
    pair = given.pairs[(given.pairs["first"] == "d") & (given.pairs["second"] == "b")].iloc[0]
    assert second.gain_half_width == pytest.approx((pair["high"] - pair["low"]) / 2)
    assert np.isnan(last.gain)


def test_a_limit_that_changes_nothing_is_no_choice() -> None:
    assert picks(comparison({name: (size, 4 + size / 1e6) for name, (size, _) in VARIANTS.items()}), None) == {}
    assert picks(comparison({name: (20_000 + index, 4.0) for index, name in enumerate("abcd")}), None) == {}
    assert picks(comparison({name: VARIANTS[name] for name in "abd"}), None) == {}


def test_one_seed_has_picks_without_intervals() -> None:
    assert all(np.isnan(pick.half_width) and np.isnan(pick.gain_half_width) for pick in picks(comparison(seeds=1), None)["parameters"])


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ([15_000, 150_000], [20_000, 50_000, 100_000]),
        ([0.0012, 0.0031], [0.0015, 0.002, 0.003]),
        ([100.0, 100.0], []),
        ([1.0, 1e9], [1, 1e1, 2e2, 5e3, 1e5, 2e6, 2e7, 5e8]),
    ],
)
def test_limits_are_round_numbers_that_some_variants_keep_and_some_do_not(costs: list[float], expected: list[float]) -> None:
    found = ladder(np.array(costs))
    assert all(min(costs) <= limit < max(costs) for limit in found)
    assert len(found) <= 8
    if len(expected) < 8:
        assert found == pytest.approx(expected)


def test_the_latency_of_a_variant_in_two_trials_is_that_of_the_slower_one_everywhere() -> None:
    rows = [
        {"variant": name, "seed": seed, "val_loss": 3.0 + 0.1 * seed, "trial_id": f"{name}{seed}", "decode_tokens_per_second": speed}
        for name, speeds in {"a": (100.0, 50.0), "b": (200.0, 400.0)}.items()
        for seed, speed in enumerate(speeds)
    ]
    found = compare_experiments(pd.DataFrame(rows))
    assert search.objective("decode_latency", found, ["a", "b"]).tolist() == [0.02, 0.005]  # 1 / 50, 1 / 200
    assert costs.costs(found).set_index("variant")["decode_latency"].to_dict() == {"a": 0.02, "b": 0.005}
