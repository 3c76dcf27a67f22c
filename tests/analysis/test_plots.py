"""What the figures show, read back from their marks; ugly data leaves them readable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from archsweep.analysis import design_plots, plots, search_plots
from archsweep.analysis.compare import compare_experiments
from archsweep.analysis.factorial import effects
from archsweep.analysis.scaling import Law, Points, fit_law, fit_points
from tests.sweep_folder import write_sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from archsweep.analysis.compare import Comparison

LAW = Law(1.5, 40.0, 0.34, 300.0, 0.4)


def comparison(variants: Sequence[Mapping[str, Any]], loss: Callable[[Mapping[str, Any]], float], seeds: int = 3) -> Comparison:
    """Variants that differ by `loss` and by a noise of .01 over seeds; a loss of NaN is one that diverged."""
    rng = np.random.default_rng(0)
    rows = [
        {**variant, "seed": seed, "learning_rate": 0.01, "weight_decay": 0.1, "val_loss": loss(variant) + 0.01 * rng.standard_normal()}
        for variant in variants
        for seed in range(seeds)
    ]
    return compare_experiments(pd.DataFrame(rows), compare=list(variants[0]))


def fits_its_page(figure: Figure) -> bool:
    """Whether all that is drawn lies on the figure."""
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    return bool(box.x0 >= -0.05 and box.y0 >= -0.05 and box.x1 <= width + 0.05 and box.y1 <= height + 0.05)


def test_the_loss_increase_is_in_per_cent_of_the_best_with_the_interval_of_the_difference() -> None:
    """A feed-forward ratio as in figure 5 of Kaplan et al. 2020: 8 % at 40."""
    of_ratio = {0.5: 0.7, 1: 0.2, 4: 0.0, 8: 1.6, 20: 4.8, 40: 8.0}
    found = comparison([{"ffn_ratio": ratio} for ratio in of_ratio], lambda variant: 3.5 * (1 + of_ratio[variant["ffn_ratio"]] / 100))
    figure = design_plots.plot_loss_increase(found)
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "ffn ratio (log scale)"
    line = next(line for line in axes.lines if len(line.get_xdata()) == len(of_ratio))
    assert list(line.get_xdata()) == list(of_ratio)
    assert line.get_ydata() == pytest.approx(list(of_ratio.values()), abs=0.7)
    bars = axes.collections[0].get_segments()
    row = found.table.set_index("ffn_ratio").loc[40]
    assert bars[-1][:, 1] == pytest.approx([100 * row["low"] / found.table["mean"].min(), 100 * row["high"] / found.table["mean"].min()])


def test_a_loss_increase_of_an_accuracy_grows_as_the_accuracy_falls() -> None:
    accuracy = {1: 0.5, 2: 0.75, 4: 0.8}
    rows = [
        {"width": width, "seed": seed, "accuracy": mean + noise}
        for width, mean in accuracy.items()
        for seed, noise in enumerate((0.01 * width, -0.01 * width))
    ]
    found = compare_experiments(pd.DataFrame(rows), compare=["width"], metric="accuracy", mode="max")
    axes = design_plots.plot_loss_increase(found).axes[0]
    line = next(line for line in axes.lines if len(line.get_xdata()) == 3)
    assert line.get_ydata() == pytest.approx([37.5, 6.25, 0.0], abs=1e-9)  # (0.8 - 0.5) / 0.8, (0.8 - 0.75) / 0.8
    low, high = axes.collections[0].get_segments()[0][:, 1]
    assert low < 37.5 < high
    assert (low + high) / 2 == pytest.approx(37.5)


@pytest.mark.parametrize(
    ("variants", "numeric"),
    [
        ([{"num_layers": layers} for layers in (1, 2, 3)], True),
        ([{"num_layers": layers} for layers in (1, 2)], False),
        ([{"num_layers": layers} for layers in (1, 2, 3, None)], False),
        ([{"activation": name} for name in ("a", "b", "c")], False),
        ([{"num_layers": layers, "num_heads": 1} for layers in (1, 2, 3)], False),
    ],
)
def test_a_loss_increase_is_drawn_of_one_number(variants: list[dict[str, Any]], numeric: bool) -> None:
    assert design_plots.is_numeric(comparison(variants, lambda variant: 3.0)) is numeric


def test_the_heat_map_frames_the_best_what_is_equivalent_and_what_is_not_decided() -> None:
    variants = [{"num_layers": layers, "num_heads": heads} for layers in (1, 2) for heads in (1, 2)]
    found = comparison(variants, lambda variant: 3 + 0.5 * variant["num_layers"] + 0.1 * variant["num_heads"])
    cells = {"BEST": (1, 1), "EQUIVALENT": (1, 2), "UNDECIDED": (2, 1), "BETTER": (2, 2)}
    for verdict, (layers, heads) in cells.items():
        found.table.loc[(found.table["num_layers"] == layers) & (found.table["num_heads"] == heads), "verdict"] = verdict
    frames = [patch for patch in plots.plot_heat_map(found).axes[0].patches if isinstance(patch, Rectangle)]
    placed = {frame.get_label(): (int(frame.get_x()) + 1, int(frame.get_y()) + 1) for frame in frames}
    assert placed == {"the lowest": (1, 1), "equivalent": (1, 2), "not decided": (2, 1)}
    assert len({str(frame.get_linestyle()) for frame in frames}) == 3  # without colour too


def test_a_heat_map_has_a_row_for_a_missing_value() -> None:
    variants = [{"num_layers": layers, "num_heads": heads} for layers in (None, 1) for heads in (2, 4)]
    found = comparison(variants, lambda variant: 3 + 0.5 * (variant["num_layers"] or 0))
    axes = plots.plot_heat_map(found).axes[0]
    assert sorted(tick.get_text() for tick in [*axes.get_xticklabels(), *axes.get_yticklabels()]) == ["1", "2", "4", "null"]


def test_a_learning_rates_line_is_of_the_tested_seeds_at_its_best_weight_decay_where_none_diverged() -> None:
    by_setting = {  # of the three of nine seeds that choose, and of the six that are tested
        (1e-3, 0.0): (3.0, 4.0), (1e-3, 0.1): (3.5, 3.6), (3e-3, 0.0): (9.0, 9.0), (3e-3, 0.1): (2.0, 3.0), (1e-2, 0.0): (1.0, 1.0),
    }  # fmt: skip
    rows = [
        {"variant": variant, "learning_rate": rate, "weight_decay": decay, "seed": seed, "val_loss": more + (early if seed < 3 else late)}
        for variant, more in (("a", 0.0), ("b", 1.0))
        for (rate, decay), (early, late) in by_setting.items()
        for seed in range(9)
    ]
    rows[-1] |= {"val_loss": None, "status": "diverged"}  # the last seed of b at 1e-2
    found = compare_experiments(pd.DataFrame([{"status": "finished"} | row for row in rows]))
    lines = {line.get_label(): line for line in plots.plot_learning_rates(found).axes[0].lines}
    assert lines["b"].get_xydata().tolist() == [[1e-3, 5.0], [3e-3, 4.0]]
    assert lines["a"].get_xydata().tolist() == [[1e-3, 4.0], [3e-3, 3.0], [1e-2, 1.0]]
    points, _, ring = plots.plot_learning_rates(found).axes[0].lines[:3]  # of b, which is drawn first
    assert sorted(points.get_xydata().tolist()) == [[1e-3, 5.0]] * 6 + [[3e-3, 4.0]] * 6
    assert ring.get_xydata().tolist() == [[3e-3, 4.0]]


def test_training_curves_are_of_the_tested_seeds(tmp_path: Path) -> None:
    found = compare_experiments(write_sweep(tmp_path / "demo", [{"num_layers": 1}, {"num_layers": 2}], lambda *_: 3.0, seeds=range(8)))
    assert sorted(plots.best_curves(found)["seed"].unique()) == [2, 3, 4, 5, 6, 7]


def test_a_reference_is_what_increases_and_differences_are_drawn_from() -> None:
    layers = [{"num_layers": number} for number in (1, 2, 3, 4)]
    rows = comparison(layers, lambda variant: 3 + 0.3 * abs(variant["num_layers"] - 3)).source.results
    found = compare_experiments(rows[["num_layers", "seed", "learning_rate", "val_loss"]], compare=["num_layers"], reference="num_layers=1")
    increase = design_plots.plot_loss_increase(found).axes[0]
    line = next(line for line in increase.lines if len(line.get_xdata()) == 4)
    assert line.get_ydata() == pytest.approx([0, -8.3, -16.7, -8.3], abs=0.7)
    assert increase.get_ylabel() == "loss increase over the reference"
    differences = plots.plot_differences(found).axes[0]
    assert differences.get_xlabel() == "validation loss above the reference (nats/token)"
    marks = {line.get_marker(): float(line.get_xdata()[0]) for line in differences.lines if line.get_marker() in ("D", "o")}
    assert marks["D"] == 0
    assert marks["o"] < -0.2


def test_effects_have_a_line_per_level_and_their_mean_in_black() -> None:
    variants = [{"num_layers": layers, "num_heads": heads} for layers in (1, 2, 4) for heads in (1, 2)]
    found = effects(comparison(variants, lambda variant: 3 + 0.1 * variant["num_layers"] * variant["num_heads"]))
    assert found is not None
    depths, heads = design_plots.plot_effects(found).axes
    assert [len(axes.get_legend().get_texts()) for axes in (depths, heads)] == [2, 3]
    bold = next(line for line in depths.lines if line.get_color() == plots.INK and len(line.get_xdata()) == 3)
    assert list(bold.get_ydata()) == pytest.approx([3.15, 3.3, 3.6], abs=0.02)


def test_parallel_coordinates_have_a_line_per_variant_and_raise_the_best() -> None:
    variants = [{"num_layers": layers, "act": name, "width": 2**layers} for layers in (1, 2, 3, 4) for name in ("a", "b")]
    found = comparison(variants, lambda variant: 3 + 0.1 * variant["num_layers"] + (variant["act"] == "b"))
    figure = search_plots.plot_parallel_coordinates(found.table, ["num_layers", "act", "width"])
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 4]
    assert len(lines) == 8
    ends = {round(float(line.get_ydata()[-1]), 6): line for line in lines}
    assert min(ends) == 0
    assert max(ends) == 1
    leading = sorted(ends)[: search_plots.LEADING]
    assert all((line.get_linewidth() > 2) == (end in leading) for end, line in ends.items())


def test_importances_are_bars_the_largest_above() -> None:
    axes = search_plots.plot_importances({"num_heads": 0.1, "num_layers": 0.7, "width": 0.2}).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["num heads", "width", "num layers"]
    assert [bar.get_width() for bar in axes.patches] == [0.1, 0.2, 0.7]


@pytest.mark.parametrize(("budgets", "curves"), [((1e11, 1e12, 1e13), 3), ((1e12,), 1)])
def test_a_scaling_figure_draws_each_budgets_law_between_its_sizes_and_marks_the_best(budgets: tuple[float, ...], curves: int) -> None:
    sizes = np.concatenate([LAW.best_size(budget, 6) * np.array([0.1, 0.4, 1.0, 3.0, 9.0, 20.0]) for budget in budgets])
    flops = np.repeat(budgets, 6)
    tokens = flops / (6 * sizes)
    axes = design_plots.plot_scaling(fit_points("parameters", Points(sizes, tokens, flops, LAW.loss(sizes, tokens), 0.01, 10))).axes[0]
    drawn = [line for line in axes.lines if len(line.get_xdata()) == 60]
    assert len(drawn) == curves
    assert min(line.get_xdata().min() for line in drawn) == pytest.approx(sizes.min())
    assert max(line.get_xdata().max() for line in drawn) == pytest.approx(sizes.max())
    stars = sorted(float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() == "*")
    assert stars == pytest.approx([LAW.best_size(budget, 6) for budget in budgets], rel=0.01)


def test_many_lengths_are_drawn_against_the_law() -> None:
    rng = np.random.default_rng(0)
    sizes, tokens = 10 ** rng.uniform(4, 6, 20), 10 ** rng.uniform(5, 7, 20)
    axes = design_plots.plot_scaling(fit_points("parameters", Points(sizes, tokens, 6 * sizes * tokens, LAW.loss(sizes, tokens), 0.01, 38)))
    law = fit_law(sizes, LAW.loss(sizes, tokens), tokens)
    points = max((line for line in axes.axes[0].lines), key=lambda line: len(line.get_xdata()))
    assert points.get_xdata() == pytest.approx(law.loss(sizes, tokens))


UGLY = "a_very_long_name_of_an_activation_that_somebody_wrote_{}_and_with_$dollars$"


@pytest.mark.parametrize("seeds", [1, 3])
def test_ugly_data_stays_on_the_page(seeds: int) -> None:
    variants = [{"num_layers": layers, "activation": UGLY.format(name)} for layers in range(1, 11) for name in "abc"]
    found = comparison(
        variants,
        lambda variant: np.nan if variant["num_layers"] == 7 and "_a_and" in variant["activation"] else 3 + 0.1 * len(variant),
        seeds,
    )
    of = effects(found)
    assert of is not None
    assert fits_its_page(design_plots.plot_effects(of))
    assert fits_its_page(plots.plot_heat_map(found))
    assert fits_its_page(
        search_plots.plot_parallel_coordinates(found.table.assign(ffn=[None, *range(29)]), ["num_layers", "activation", "ffn"])
    )
    thirty = comparison([{"num_layers": layers} for layers in range(1, 31)], lambda variant: 3 + 0.1 * variant["num_layers"], seeds)
    assert fits_its_page(design_plots.plot_loss_increase(thirty))
