from __future__ import annotations

import re
from html.parser import HTMLParser
from math import log
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from PIL import Image

from archsweep.analysis import plots
from archsweep.analysis.compare import compare_experiments
from archsweep.analysis.report import generate_summary_report
from archsweep.config import ExperimentConfig
from archsweep.records.results import ExperimentResults
from tests.sweep_folder import write_sweep

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

GRID = [{"num_layers": layers, "num_heads": heads} for layers in (1, 2) for heads in (1, 2)]
HOSTILE = "</script><script>alert(1)</script> a|b"


def planted(variant: Mapping[str, Any], rate: float, seed: int) -> float:
    return float(3 + 0.3 * variant["num_layers"] + 0.1 * variant["num_heads"] + 0.2 * abs(log(rate / 3e-3)) + 0.01 * seed)


class Page(HTMLParser):
    """A page's text, and the tags and addresses in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.policy = ""
        self._words: list[str] = []
        self.feed(path.read_text())
        self.text = " ".join(" ".join(self._words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "action", "data")]
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values.get("content") or ""

    def handle_data(self, data: str) -> None:
        if not self.tags or self.tags[-1] != "style":
            self._words.append(data)


@pytest.fixture
def partial_sweep(tmp_path: Path) -> Path:
    """Two variants with a result, one of which lost a replica; one that failed and one that was cut off."""

    def loss(variant: Mapping[str, Any], rate: float, seed: int) -> float | None:
        return None if variant == GRID[1] and rate == 1e-2 and seed == 2 else planted(variant, rate, seed)

    return write_sweep(
        tmp_path / "demo",
        GRID,
        loss,
        outcomes={2: {"status": "failed", "reason": "out of memory | at 2 GiB"}, 3: None},
        records={2: 0, 3: 0.4},
        refused=[{"variant": {"num_layers": 9, "num_heads": 7}, "reason": "no width reaches the budget"}],
        budget={"kind": "non_embedding_parameters", "target": 20_000, "tolerance": 0.01},
    )


def test_a_report_is_one_page_its_markdown_and_the_figures(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "demo", GRID, planted)
    assert generate_summary_report(folder) == folder / "report.html"
    figures = sorted(path.name for path in (folder / "figures").iterdir())
    assert figures == ["differences.png", "effects.png", "heat_map.png", "learning_rates.png", "training_curves.png"]
    markdown = (folder / "report.md").read_text()
    assert sorted(re.findall(r"\(figures/(\S+?)\)", markdown)) == figures
    assert Page(folder / "report.html").tags.count("svg") == len(figures)
    assert not list(folder.rglob("*.tmp"))


def test_a_report_goes_where_it_is_told(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "demo", GRID, planted)
    assert generate_summary_report(folder, tmp_path / "elsewhere") == tmp_path / "elsewhere" / "report.html"
    assert not (folder / "report.html").exists()


def test_the_page_loads_nothing_from_anywhere(tmp_path: Path) -> None:
    path = generate_summary_report(write_sweep(tmp_path / "demo", GRID, planted))
    page = Page(path)
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert not {"script", "link", "iframe", "object", "img"} & set(page.tags)
    assert not re.search(r"https?://|@import|url\((?!#)", path.read_text())
    assert page.policy.startswith("default-src 'none'")


def test_both_formats_open_with_the_question_and_the_verdict(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "demo", GRID, planted, question="Heads or layers?")
    page = Page(generate_summary_report(folder))
    comparison = compare_experiments(folder)
    for text in (page.text, (folder / "report.md").read_text()):
        assert 0 <= text.find("Heads or layers?") < text.find(comparison.verdict) < text.find("Ranking")
        assert all(caveat in text for caveat in comparison.caveats)


def test_failed_diverged_and_unfinished_replicas_are_counted_and_listed_with_their_reasons(partial_sweep: Path) -> None:
    page = Page(generate_summary_report(partial_sweep))
    markdown = (partial_sweep / "report.md").read_text()
    for text in (page.text, markdown.replace("\\|", "|")):
        assert "4 variants · 36 replicas: 17 finished, 1 diverged, 9 failed, 9 unfinished" in text
        assert "out of memory | at 2 GiB" in text
        assert "the loss was no number at step 300" in text
        assert "last recorded at 102,400 of 307,200 tokens" in text
        assert "no width reaches the budget" in text


def test_the_report_of_a_partial_sweep_says_that_it_is_partial(partial_sweep: Path) -> None:
    path = generate_summary_report(partial_sweep)
    for text in (Page(path).text, (partial_sweep / "report.md").read_text()):
        assert "This sweep is partial: 9 of 36 replicas are unfinished" in text
        assert "So far: " in text


def test_the_report_of_a_whole_sweep_does_not(tmp_path: Path) -> None:
    text = Page(generate_summary_report(write_sweep(tmp_path / "demo", GRID, planted))).text
    assert "partial" not in text
    assert "So far" not in text


def test_every_trial_is_listed_with_what_sets_it_apart(partial_sweep: Path) -> None:
    text = Page(generate_summary_report(partial_sweep)).text
    for trial in (partial_sweep / "trials").iterdir():
        assert trial.name in text
    assert "c0ffee" in text
    assert "context_length 64" in text


def test_names_from_users_are_text_in_both_formats(tmp_path: Path) -> None:
    variants = [{"num_layers": 1, "dataset": f"text:{HOSTILE}"}, {"num_layers": 2, "dataset": "text:$x_1$"}]
    folder = write_sweep(
        tmp_path / "demo", variants, lambda variant, rate, seed: 3.0 + variant["num_layers"] + 0.01 * seed, question=HOSTILE
    )
    path = generate_summary_report(folder)
    assert "<script" not in path.read_text()
    assert "</script" not in path.read_text()
    assert HOSTILE in Page(path).text
    markdown = (folder / "report.md").read_text()
    assert "<script" not in markdown
    tables = [line for line in markdown.splitlines() if line.startswith("|")]
    headers = [index for index, line in enumerate(tables) if re.fullmatch(r"[|\s:-]+", line)]
    columns = [len(re.findall(r"(?<!\\)\|", line)) for line in tables]
    for start, end in zip(headers, [*(index - 1 for index in headers[1:]), len(tables)], strict=True):
        assert set(columns[start - 1 : end]) == {columns[start]}


def test_experiments_have_a_report_too(tmp_path: Path) -> None:
    experiments = [
        ExperimentResults(
            config=ExperimentConfig(experiment_name=name),
            metrics=[{"epoch": epoch, "train": {"loss": 4.0}, "validation": {"loss": loss - epoch}} for epoch in (0, 1)],
            performance_stats={"parameters": 10},
        )
        for name, loss in (("wide", 4.0), ("deep", 4.5))
    ]
    text = Page(generate_summary_report(experiments, tmp_path)).text
    assert "Undecided between wide and deep: they differ by 0.500 nats/token, and one seed shows no spread" in text
    assert (tmp_path / "figures" / "training_curves.png").is_file()


def test_a_single_unfinished_trial_still_has_a_report(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "demo", GRID[:1], planted, outcomes={0: None}, records={0: 0})
    text = Page(generate_summary_report(folder)).text
    assert "No verdict" in text
    assert "no evaluation is recorded" in text


def test_training_curves_show_each_variant_at_its_best_setting(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "demo", GRID, planted)
    figure = plots.plot_training_curves(folder, tmp_path / "curves.png")
    axes = figure.axes[0]
    ends = sorted(float(line.get_ydata()[-1]) for line in axes.lines)
    assert ends == pytest.approx(sorted(planted(variant, 3e-3, 1) for variant in GRID))  # seed 1 is the mean of seeds 0, 1 and 2
    assert {float(line.get_xdata()[-1]) for line in axes.lines} == {307_200.0}
    assert "nats/token" in axes.get_ylabel()
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 600


def test_the_heat_map_has_every_mean_with_half_its_interval(tmp_path: Path) -> None:
    figure = plots.plot_heat_map(write_sweep(tmp_path / "demo", GRID, planted))
    texts = {text.get_text().split("\n")[0] for text in figure.axes[0].texts}
    assert texts == {f"{planted(variant, 3e-3, 1):.3f}" for variant in GRID}
    assert all("\n± " in text.get_text() for text in figure.axes[0].texts)


def test_many_variants_stay_readable(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        [
            {"width": width, "seed": seed, "val_loss": 3 + 0.1 * width + 0.01 * seed * (width % 3)}
            for width in range(40)
            for seed in range(3)
        ]
    )
    figure = plots.plot_differences(compare_experiments(frame, compare=["width"]))
    assert len(figure.axes[0].get_yticklabels()) == plots.MOST_VARIANTS
