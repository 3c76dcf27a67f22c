from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from PIL import Image

import archsweep
from archsweep.analysis import method, paper, plots
from archsweep.analysis.compare import compare_experiments
from archsweep.analysis.report import generate_summary_report, is_current
from archsweep.config import TRAINER_VERSION, ExperimentConfig
from archsweep.records import read
from archsweep.records.results import ExperimentResults
from tests.sweep_folder import write_sweep

if TYPE_CHECKING:
    from collections.abc import Mapping

    from archsweep.planning.plan import Plan

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


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole sweep of four variants, with its report."""
    folder = write_sweep(tmp_path_factory.mktemp("whole") / "demo", GRID, planted, question="Heads or layers?")
    read.collect(folder)
    generate_summary_report(folder)
    return folder


@pytest.fixture(scope="module")
def partial_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variants with a result, one of which lost a replica; one that failed and one that was cut off: a sweep with its report."""

    def loss(variant: Mapping[str, Any], rate: float, seed: int) -> float | None:
        return None if variant == GRID[1] and rate == 1e-2 and seed == 2 else planted(variant, rate, seed)

    folder = write_sweep(
        tmp_path_factory.mktemp("partial") / "demo",
        GRID,
        loss,
        outcomes={2: {"status": "failed", "reason": "out of memory | at 2 GiB"}, 3: None},
        records={2: 0, 3: 0.4},
        refused=[{"variant": {"num_layers": 9, "num_heads": 7}, "reason": "no width reaches the budget"}],
        budget={"kind": "non_embedding_parameters", "target": 20_000, "tolerance": 0.01},
    )
    generate_summary_report(folder)
    return folder


def test_a_report_is_one_page_its_markdown_and_the_figures(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "demo", GRID, planted)
    assert generate_summary_report(folder) == folder / "report.html"
    names = ["differences", "effects", "heat_map", "learning_rates", "loss_against_cost", "training_curves"]
    figures = [f"{name}.png" for name in names]
    assert sorted(path.name for path in (folder / "figures").iterdir()) == sorted([*figures, *(f"{name}.pdf" for name in names)])
    markdown = (folder / "report.md").read_text()
    assert sorted(re.findall(r"\(figures/(\S+?)\)", markdown)) == figures
    assert Page(folder / "report.html").tags.count("svg") == len(figures)
    assert not list(folder.rglob("*.tmp"))


def test_a_report_goes_where_it_is_told(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "demo", GRID, planted)
    assert generate_summary_report(folder, tmp_path / "elsewhere") == tmp_path / "elsewhere" / "report.html"
    assert not (folder / "report.html").exists()


def test_the_page_loads_nothing_from_anywhere(demo: Path) -> None:
    path = demo / "report.html"
    page = Page(path)
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert not {"link", "iframe", "object", "img"} & set(page.tags)
    assert not re.search(r"https?://|@import|url\((?!#)", path.read_text())
    assert page.policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in page.policy


def test_both_formats_open_with_the_question_and_the_verdict(demo: Path) -> None:
    comparison = compare_experiments(demo)
    for text in (Page(demo / "report.html").text, (demo / "report.md").read_text()):
        assert 0 <= text.find("Heads or layers?") < text.find(comparison.verdict) < text.find("Ranking")
        assert all(caveat in text for caveat in comparison.caveats)


def test_failed_diverged_and_unfinished_replicas_are_counted_and_listed_with_their_reasons(partial_sweep: Path) -> None:
    page = Page(partial_sweep / "report.html")
    markdown = (partial_sweep / "report.md").read_text()
    for text in (page.text, markdown.replace("\\|", "|")):
        assert "4 variants · 36 replicas: 17 finished, 1 diverged, 9 failed, 9 unfinished" in text
        assert "out of memory | at 2 GiB" in text
        assert "the loss was no number at step 300" in text
        assert "last recorded at 102,400 of 307,200 tokens" in text
        assert "no width reaches the budget" in text


def test_the_report_of_a_partial_sweep_says_that_it_is_partial(partial_sweep: Path) -> None:
    for text in (Page(partial_sweep / "report.html").text, (partial_sweep / "report.md").read_text()):
        assert "This sweep is partial: 9 of 36 replicas are unfinished" in text
        assert "So far: " in text


def test_the_report_of_a_whole_sweep_does_not(demo: Path) -> None:
    text = Page(demo / "report.html").text
    assert "partial" not in text
    assert "So far" not in text


@pytest.mark.parametrize("gone", ["report.html", "report.md", "figures/differences.png", "figures/differences.pdf"])
def test_a_report_is_current_only_while_all_its_files_are_there(demo: Path, tmp_path: Path, gone: str) -> None:
    folder = shutil.copytree(demo, tmp_path / "demo")
    assert is_current(folder)
    (folder / gone).unlink()
    assert not is_current(folder)


@pytest.mark.parametrize(
    ("compare", "question"),
    [
        (["variant"], "Which variant has the lowest negative accuracy?"),
        (["num_layers"], "Which value of num layers has the lowest negative accuracy?"),
        (["num_layers", "heads"], "Which combination of num layers and heads has the lowest negative accuracy?"),
    ],
)
def test_a_question_that_nobody_asked_is_put_in_words(tmp_path: Path, compare: list[str], question: str) -> None:
    frame = pd.DataFrame({"variant": ["a", "b"], "num_layers": [1, 2], "heads": [1, 1], "accuracy": [0.5, 0.6]})
    generate_summary_report(frame, tmp_path, compare=compare, metric="accuracy", mode="max")
    assert question in (tmp_path / "report.md").read_text().splitlines()


def test_every_trial_is_listed_with_what_sets_it_apart(partial_sweep: Path) -> None:
    text = Page(partial_sweep / "report.html").text
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
    assert "<script>alert" not in path.read_text()
    assert len(re.findall("<script", path.read_text())) == len(re.findall("</script", path.read_text())) == Page(path).tags.count("script")
    assert HOSTILE in Page(path).text
    markdown = (folder / "report.md").read_text()
    assert "<script" not in markdown
    tables = [line for line in markdown.splitlines() if line.startswith("|")]
    headers = [index for index, line in enumerate(tables) if re.fullmatch(r"[|\s:-]+", line)]
    columns = [len(re.findall(r"(?<!\\)\|", line)) for line in tables]
    for start, end in zip(headers, [*(index - 1 for index in headers[1:]), len(tables)], strict=True):
        assert set(columns[start - 1 : end]) == {columns[start]}


def test_a_paper_gets_its_figures_as_vectors_with_embedded_fonts_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    figure = plots.plot_training_curves(write_sweep(tmp_path / "demo", GRID, planted))
    made = plots.pdf(figure)
    assert made.startswith(b"%PDF-")
    assert b"/FontFile2" in made  # TrueType
    assert b"/Type3" not in made
    assert made == plots.pdf(figure)


def test_the_hashes_to_reproduce_are_those_of_the_files(demo: Path) -> None:
    for name in ("plan.json", "results.parquet"):
        line = subprocess.run(["sha256sum", demo / name], capture_output=True, text=True, check=True).stdout
        assert f"- {name}: sha256 {line.split()[0]}" in (demo / "report.md").read_text()


def test_the_trainer_is_named_by_its_version_where_the_trials_ids_are_its_own(tiny_plan: Plan, tmp_path: Path) -> None:
    tiny_plan.save(tmp_path / "plan.json")
    told = dict(method.reproduce(compare_experiments(tmp_path)))
    assert told["trainer"] == f"version {TRAINER_VERSION}"
    plan = json.loads((tmp_path / "plan.json").read_text())
    plan["trials"][0]["config"]["a_field_of_old"] = 1
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    told = dict(method.reproduce(compare_experiments(tmp_path)))
    assert told["trainer"].startswith("another version")


def test_the_audits_stand_before_the_ranking(partial_sweep: Path) -> None:
    markdown = (partial_sweep / "report.md").read_text()
    budget = "budget: 20,000 non-embedding parameters ± 1.0%: kept by all 2 variants, the farthest is 0.00% off"
    rates = "learning rate: the best one lies inside the rates that were tried for 2 of 2 variants"
    assert 0 < markdown.find(budget) < markdown.find(rates) < markdown.find("## Ranking")


def test_what_else_a_comparison_has_of_its_variants_stands_beside_the_verdicts(tmp_path: Path) -> None:
    found = compare_experiments(write_sweep(tmp_path / "demo", GRID, planted))
    table = found.table.assign(
        seeds_better=[float("nan"), 1.0, 2 / 3, 0.5],
        compute_ratio=[1, 1.22, 2.5, 1234.5],
        signs_p=float("nan"),
        own_low=[float("nan"), -0.1, 0.1, 0.2],
    )
    generate_summary_report(replace(found, table=table), tmp_path)
    lines = (tmp_path / "report.md").read_text().partition("### Beside the verdict")[2].splitlines()
    header, first, second, *_ = [line for line in lines if line.startswith("| ") and "---" not in line]
    assert {"seeds at which the best is better", "compute to match the best"} <= set(header.strip("| ").split(" | "))
    assert "loss at LR 0.003" in header
    assert "p by flipping signs" not in header
    assert "1.22 " in second
    assert "100%" in second
    assert "| 1 " in first


@pytest.mark.parametrize(
    ("verdict", "style", "tone"),
    [
        ("BETTER", "better", "decided"),
        ("BETTER BUT SMALL", "better-but-small", "decided"),
        ("EQUIVALENT", "equivalent", "open"),
        ("UNDECIDED", "undecided", "undecided"),
        ("LR-CONFOUNDED", "lr-confounded", "open"),
        ("FAILED", "failed", "open"),
    ],
)
def test_a_verdict_has_its_tag_and_gives_the_page_its_tone(tmp_path: Path, verdict: str, style: str, tone: str) -> None:
    found = compare_experiments(write_sweep(tmp_path / "demo", GRID[:2], planted))
    table = found.table.assign(verdict=["BEST", verdict])
    page = generate_summary_report(replace(found, table=table), tmp_path).read_text()
    assert f'<span class="tag {style}">{verdict}</span>' in page
    assert f'<section class="verdict {tone}"' in page
    assert re.search(rf"\.tag\.{style}\b", page)  # it has a colour


def test_a_methods_section_says_what_was_trained_and_lists_what_it_cites(demo: Path) -> None:
    markdown = (demo / "report.md").read_text()
    assert "We compared 4 variants in num_layers, num_heads, trained as GPT-2 language models (Radford et al. 2019)" in markdown
    assert "at 3 peak learning rates (0.001, 0.003, 0.01) and with 3 seeds each" in markdown
    assert "- Radford, A., Wu, J., Child, R.," in markdown
    assert "Akiba" not in markdown  # nothing was searched


def test_the_method_is_that_of_the_seeds_shared_or_not() -> None:
    def methods(seeds: dict[str, range], **more: float) -> str:
        rows = [
            {"variant": name, "seed": seed, "val_loss": 3.0 + 0.1 * place + 0.01 * (seed % 3) + 0.003 * (seed % 2) * place, **more}
            for place, (name, own) in enumerate(seeds.items())
            for seed in own
        ]
        return " ".join(method.method(compare_experiments(pd.DataFrame(rows))))

    shared, apart = methods({"a": range(3), "b": range(3)}), methods({"a": range(3), "b": range(3, 7)})
    assert "in the two-way layout loss ~ variant + seed" in shared
    assert "Welch" not in shared
    assert "two-way" not in apart
    assert "seed by seed" not in apart
    assert "The variants do not share their seeds, so their means are compared" in apart
    assert "a test has its pair's own degrees of freedom (Welch 1947)" in apart
    for text in (shared, apart):
        assert "A seed fixes" not in text  # of whose training nothing is known
        assert "Each variant has one setting, and a setting counts only where all its seeds finished" in text
        assert "only choose" not in text


def test_that_some_seeds_only_choose_is_said_of_seeds_that_all_settings_share() -> None:
    rows = [
        {"variant": name, "learning_rate": rate, "seed": seed, "val_loss": 3.0 + rate + 0.01 * seed}
        for name, first in (("a", 0), ("b", 9)) for rate in (0.1, 0.2) for seed in range(first, first + 9)
    ]  # fmt: skip
    comparison = compare_experiments(pd.DataFrame(rows))
    (caveat,) = [caveat for caveat in comparison.caveats if "chosen on the same seeds" in caveat]
    assert caveat.endswith("from 8 seeds on that all settings share, some only choose.")
    text = " ".join(method.method(comparison))
    assert "Each variant is taken at the tuned setting with the lowest mean validation loss over seeds" in text
    assert "From 8 seeds on that all settings share, a third of them only choose." in text


def test_a_methods_section_says_nothing_of_models_that_nobody_described() -> None:
    rows = [
        {"width": width, "learning_rate": rate, "val_loss": 3.0 + 0.1 * width + rate + 0.01 * repeat}
        for width in (1, 2) for rate in ((0.1, 0.2) if width == 1 else (0.1,)) for repeat in range(3)
    ]  # fmt: skip
    told = paper.setup(compare_experiments(pd.DataFrame(rows), compare=["width"]))
    assert told == "We compared 2 variants in width, at 1 to 2 of 2 learning rates (0.1, 0.2) and with 3 seeds each."


def test_a_budget_of_some_variants_is_not_said_of_all_and_seeds_are_counted_by_setting(tmp_path: Path) -> None:
    def budget(target: int) -> dict[str, Any]:
        return {"kind": "parameters", "target": target, "tolerance": 0.01}

    small = write_sweep(tmp_path / "small", GRID[:2], planted, name="small", budget=budget(30_000))
    large = write_sweep(
        tmp_path / "large", GRID[2:3], planted, name="large", budget=budget(60_000), parameters=lambda _: 60_000, seeds=range(5)
    )
    told = paper.setup(compare_experiments([small, large]))
    assert "with 3 to 5 seeds each." in told
    shared = "2 variants shared 30,000 parameters (within 1.0%) and 1 variant shared 60,000 parameters (within 1.0%)."
    assert shared in told
    assert "a context of 64 tokens and the text stdlib." in told
    assert "Ray Tune" not in told  # which of the two sweeps ran on it, if any, nobody says


def test_every_work_in_the_list_is_cited_somewhere_and_a_caveats_citation_is_listed(tmp_path: Path) -> None:
    sources = [path.read_text() for path in Path(archsweep.__file__).parent.rglob("*.py") if path.name != "paper.py"]
    own = Path(paper.__file__).read_text().partition("def setup(")[2]
    assert len(paper.references([*sources, own])) == len(paper.REFERENCES)
    found = compare_experiments(write_sweep(tmp_path / "demo", GRID, planted))
    caveat = "More than 4 teach less and less (Muennighoff et al. 2023)."
    for caveats, listed in (((caveat,), True), ((), False)):
        generate_summary_report(replace(found, caveats=caveats), tmp_path)
        assert ("- Muennighoff, N.," in (tmp_path / "report.md").read_text()) == listed


def test_a_work_is_listed_however_it_is_cited() -> None:
    assert [entry[:5] for entry in paper.references(["by Holm (1979)", "as found before (Efron, 1987; Kaplan et al. 2020)"])] == [
        "Efron", "Holm,", "Kapla",
    ]  # fmt: skip


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
