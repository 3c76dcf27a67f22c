"""What a question's design adds to the report, in both formats."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from archsweep.analysis import designs
from archsweep.analysis.compare import compare_experiments
from archsweep.analysis.report import generate_summary_report
from tests.analysis.test_report import Page
from tests.sweep_folder import write_sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path


def texts(
    folder: Path,
    variants: Sequence[Mapping[str, Any]],
    loss: Callable[[Mapping[str, Any]], float],
    parameters: Callable[[Mapping[str, Any]], int] = lambda variant: 30_000,
    seeds: Sequence[int] = (0, 1, 2),
) -> tuple[str, str]:
    """The page's text and the Markdown of a sweep with planted losses."""
    write_sweep(
        folder,
        variants,
        lambda variant, rate, seed: loss(variant) + 0.01 * seed + 0.002 * ((seed + variant["num_layers"]) % 3) + (rate != 3e-3),
        parameters=parameters,
        seeds=seeds,
    )
    return Page(generate_summary_report(folder)).text, (folder / "report.md").read_text()


def test_one_number_has_its_loss_increase(tmp_path: Path) -> None:
    page, markdown = texts(tmp_path / "s", [{"num_layers": layers} for layers in (1, 2, 4)], lambda variant: 3 + variant["num_layers"])
    for text in (page, markdown):
        assert "Loss increase over the best, by num layers" in text
        assert "Effects" not in text
        assert "Scaling" not in text.replace("Scaling laws for neural language models", "")  # whose exponent tells compute
    assert "](figures/loss_increase.png)" in markdown


def test_two_crossed_dimensions_have_their_effects(tmp_path: Path) -> None:
    variants = [{"num_layers": layers, "num_heads": heads} for layers, heads in product((1, 2), (1, 2))]
    page, markdown = texts(tmp_path / "s", variants, lambda variant: 3 + 0.5 * variant["num_layers"])
    for text in (page, markdown):
        assert "Shown to have an effect: num layers. Not shown: num heads, num layers \N{MULTIPLICATION SIGN} num heads;" in text
    assert "](figures/effects.png)" in markdown


def test_effects_of_too_many_variants_are_not_left_out_in_silence() -> None:
    rows = [
        {"num_layers": layers, "num_heads": heads, "seed": seed, "val_loss": 3 + layers + 0.1 * heads + 0.01 * ((layers + seed) % 3)}
        for layers, heads, seed in product(range(1, 16), range(1, 15), (0, 1, 2))
    ]
    comparison = compare_experiments(pd.DataFrame(rows), compare=["num_layers", "num_heads"])
    [first, *_] = designs.sections(designs.read_designs(comparison, None))
    assert (first.title, first.lines) == (
        "Effects",
        ["There are 210 variants with a result; main effects and interactions are computed for at most 200."],
    )


def test_many_variants_have_parallel_coordinates_importances_and_picks(tmp_path: Path) -> None:
    variants = [{"num_layers": layers, "num_heads": heads, "ffn_size": ffn} for layers, heads, ffn in product((1, 2, 4), (1, 2), (64, 128))]
    page, markdown = texts(
        tmp_path / "s", variants, lambda variant: 4 - 0.2 * variant["num_layers"], lambda variant: 20_000 * variant["num_layers"]
    )
    for figure in ("parallel_coordinates", "importances", "effects"):
        assert f"](figures/{figure}.png)" in markdown
    for text in (page, markdown):
        assert "Pick for your limit" in text
        assert "parameters at most" in text
    picks = [line for line in markdown.splitlines() if line.startswith("|") and "num\\_layers" not in line and "no limit" in line]
    assert len(picks) == 1
    assert "80,000" in picks[0]  # the deepest is the best and the largest


@pytest.mark.parametrize("count", [3, 6])
def test_sizes_have_a_law_or_the_reason_why_not(count: int, tmp_path: Path) -> None:
    sizes = {layers: 10_000 + 10_000 * 2**layers for layers in range(1, count + 1)}
    page, markdown = texts(
        tmp_path / "s",
        [{"num_layers": layers} for layers in sizes],
        lambda variant: float(2 + 20 * (sizes[variant["num_layers"]] - 10_000) ** -0.3),
        lambda variant: sizes[variant["num_layers"]],
    )
    for text in (page, markdown):
        assert ("it takes 4 sizes over a factor of 4 or more, and there are 3 over a factor of 4" in text) == (count == 3)
        assert ("6 variants of 20,000 to 640,000 non-embedding parameters, at 307,200 tokens" in text) == (count == 6)
        assert ("what it says beyond is extrapolation, not evidence" in text) == (count == 6)
    assert ("](figures/scaling.png)" in markdown) == (count == 6)


def grid(**more: Any) -> pd.DataFrame:
    """Four sizes, each trained for three lengths, with losses by a law; nobody recorded their FLOPs."""
    cells = [(size, tokens) for size in (10_000, 40_000, 160_000, 640_000) for tokens in (200_000, 800_000, 3_200_000)]
    rows = [
        {"variant": f"{size} {tokens}", "seed": seed, "non_embedding_parameters": size, "parameters": size, "tokens": tokens}
        | {"val_loss": 1.5 + 40 * size**-0.34 + 300 * tokens**-0.4 + 0.001 * (seed + place % 3 * seed)}
        for place, (size, tokens) in enumerate(cells) for seed in range(2)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(**more)


def test_only_losses_follow_a_law_of_losses() -> None:
    assert designs.read_designs(compare_experiments(grid()), None).scaling is not None
    accuracy = compare_experiments(grid(accuracy=grid()["val_loss"] / 10), metric="accuracy")
    assert designs.read_designs(accuracy, None).scaling is None


def test_a_law_without_recorded_flops_names_no_best_size(tmp_path: Path) -> None:
    path = generate_summary_report(grid(), tmp_path)
    assert "](figures/scaling.png)" in (tmp_path / "report.md").read_text()
    text = Page(path).text
    assert "L(N, D) = E + A/N" in text
    assert "Stars: the best size" not in text
    assert "nan" not in text.lower().split()
