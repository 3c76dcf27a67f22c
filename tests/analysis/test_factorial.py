"""Main effects and interactions, against statsmodels' anova_lm and sums by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from archsweep.analysis.compare import compare_experiments
from archsweep.analysis.factorial import effects, in_order
from archsweep.analysis.report import generate_summary_report
from tests.sweep_folder import write_sweep

if TYPE_CHECKING:
    from pathlib import Path

    from archsweep.analysis.factorial import Effects

NOISE = 0.02


def crossed(seeds: int = 3) -> pd.DataFrame:
    """Three depths and two activations: the depth costs .1 a layer, gelu .05, and together they cost nothing more."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {"num_layers": layers, "activation": name, "seed": seed, "learning_rate": 0.01, "weight_decay": 0.1}
            | {"val_loss": 3 + 0.1 * layers + 0.05 * (name == "gelu") + 0.03 * seed + NOISE * rng.standard_normal()}
            for layers in (10, 2, 4)
            for name in ("relu", "gelu")
            for seed in range(seeds)
        ]
    )


def of(rows: pd.DataFrame, *compare: str) -> Effects:
    found = effects(compare_experiments(rows, compare=list(compare) or ["num_layers", "activation"]))
    assert found is not None
    return found


def anova(rows: pd.DataFrame, formula: str) -> pd.DataFrame:
    return anova_lm(ols(formula, rows).fit(), typ=2)


def test_effects_are_those_of_the_two_way_layout() -> None:
    rows = crossed()
    expected = anova(rows, "val_loss ~ C(num_layers) * C(activation) + C(seed)")
    found = of(rows).table
    assert found["terms"].tolist() == [("num_layers",), ("activation",), ("num_layers", "activation")]
    order = ["C(num_layers)", "C(activation)", "C(num_layers):C(activation)"]
    assert found["F"].tolist() == pytest.approx(expected.loc[order, "F"].tolist())
    assert found["p"].tolist() == pytest.approx(expected.loc[order, "PR(>F)"].tolist())
    squares, error = expected["sum_sq"], expected.loc["Residual", "sum_sq"]
    assert found["eta"].tolist() == pytest.approx((squares[order] / squares.sum()).tolist())
    assert found["partial_eta"].tolist() == pytest.approx((squares[order] / (squares[order] + error)).tolist())
    assert (found["holm_p"] >= found["p"]).all()


def test_three_dimensions_have_every_interaction() -> None:
    rows = pd.concat([crossed().assign(ffn=ratio) for ratio in (1, 2)], ignore_index=True)
    rows["val_loss"] += 0.01 * np.random.default_rng(1).standard_normal(len(rows))
    expected = anova(rows, "val_loss ~ C(num_layers) * C(activation) * C(ffn) + C(seed)").drop(index=["C(seed)", "Residual"])
    found = of(rows, "num_layers", "activation", "ffn").table
    assert len(found) == 7
    assert sorted(found["F"]) == pytest.approx(sorted(expected["F"]))


def test_marginal_means_of_a_full_crossing_are_plain_means() -> None:
    rows = crossed()
    found = of(rows)
    depths = found.means[found.means["dimension"] == "num_layers"]
    assert depths["level"].tolist() == [2, 4, 10]
    assert depths["mean"].tolist() == pytest.approx(rows.groupby("num_layers")["val_loss"].mean().tolist())
    layout = ols("val_loss ~ C(num_layers) * C(activation) + C(seed)", rows).fit()
    half = 2.228139 * np.sqrt(layout.scale / 6)  # t of 10 degrees of freedom; 6 replicas have each depth
    assert depths["half_width"].tolist() == pytest.approx([half] * 3, rel=1e-5)


def test_a_hole_in_the_crossing_does_not_lend_a_level_its_partners() -> None:
    """Without its dear gelu, 10 layers would look cheaper by half of .05 if plain means were compared."""
    rows = crossed()
    holed = rows[~((rows["num_layers"] == 10) & (rows["activation"] == "gelu"))]
    found = of(holed)
    assert found.empty == 1
    additive = ols("val_loss ~ C(num_layers) + C(activation) + C(seed)", holed).fit()
    grid = pd.DataFrame([{"num_layers": 10, "activation": name, "seed": seed} for name in ("relu", "gelu") for seed in range(3)])
    deep = found.means[(found.means["dimension"] == "num_layers") & (found.means["level"] == 10)]
    assert deep["mean"].item() == pytest.approx(additive.predict(grid).mean())
    assert found.table["df"].tolist() == [2, 1, 1]
    error = ols("val_loss ~ C(cell) + C(seed)", holed.assign(cell=holed["num_layers"].astype(str) + holed["activation"])).fit()
    without = ols("val_loss ~ C(activation) + C(seed)", holed).fit()
    assert found.table["F"].iloc[0] == pytest.approx((without.ssr - additive.ssr) / 2 / error.scale)


def test_losses_that_are_all_the_same_have_effects_of_nothing(tmp_path: Path) -> None:
    variants = [{"num_layers": layers, "num_heads": heads} for layers in (1, 2) for heads in (1, 2)]
    comparison = compare_experiments(write_sweep(tmp_path, variants, lambda variant, rate, seed: 3.0))
    found = effects(comparison)
    assert found is not None
    assert found.table["span"].dropna().tolist() == pytest.approx([0, 0])
    assert found.table[["eta", "partial_eta"]].isna().all(axis=None)
    assert generate_summary_report(comparison).is_file()


def test_one_seed_has_effects_but_no_test_of_them() -> None:
    found = of(crossed(seeds=1))
    assert found.table["p"].isna().all()
    assert found.means["half_width"].isna().all()
    assert found.table["span"].iloc[0] > 0.5


def test_unequal_seeds_are_not_taken_for_blocks() -> None:
    rows = crossed().assign(seed=range(18))
    expected = anova(rows, "val_loss ~ C(num_layers) * C(activation)")
    assert of(rows).table["F"].tolist() == pytest.approx(expected["F"].dropna().tolist())


def test_what_is_not_crossed_has_no_effects() -> None:
    rows = crossed()
    diagonal = rows[(rows["num_layers"] == 2) == (rows["activation"] == "gelu")]
    assert effects(compare_experiments(diagonal, compare=["num_layers", "activation"])) is None
    assert effects(compare_experiments(rows[rows["activation"] == "gelu"], compare=["num_layers", "activation"])) is None


@pytest.mark.parametrize("dimension", ["num_layers", "activation", "width"])
def test_a_missing_value_is_a_level_called_as_in_the_variants_names(dimension: str) -> None:
    rows = crossed().rename(columns={"num_layers": "width"} if dimension == "width" else {})
    depths, named = "width" if dimension == "width" else "num_layers", "relu" if dimension == "activation" else 4
    missing = rows.assign(**{dimension: rows[dimension].astype(object).where(rows[dimension] != named, None)})
    found, expected = of(missing, depths, "activation"), of(rows, depths, "activation")
    pd.testing.assert_frame_equal(found.table, expected.table)
    means, of_all = (each.means[each.means["dimension"] == dimension].set_index("level")["mean"] for each in (found, expected))
    assert means["null"] == pytest.approx(of_all[named])
    assert len(means) == len(of_all)


def test_levels_are_listed_numbers_first_by_size() -> None:
    assert in_order(["b", 10, 2, "a", 2]) == [2, 10, "a", "b"]
