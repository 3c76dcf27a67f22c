"""report.html in headless Chromium: what it asks for, what it runs, and what a reader can do with it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from archsweep.analysis import interactive, page
from archsweep.analysis.compare import compare_experiments
from archsweep.analysis.report import generate_summary_report
from archsweep.analysis.tables import Table
from archsweep.analysis.words import Number
from tests import chromium
from tests.sweep_folder import write_sweep

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

HOSTILE = "</script><script>document.title = 'planted'</script><img src=x onerror=\"document.title = 'planted'\"> $& %{x} {{ 7 }}"
VARIANTS = [{"num_layers": layers, "dataset": f"text:{HOSTILE}"} for layers in (1, 2, 10)]
MANY = 150  # variants: more than a table shows at a time
LARGEST = 8_000_000  # bytes of the page of a sweep of 1,000 trials

needs_chromium = pytest.mark.skipif(chromium.BINARY is None, reason="no chromium, chromium-browser, google-chrome or chrome on PATH")


def planted(variant: Mapping[str, Any], rate: float, seed: int) -> float:
    return float(3 + 0.1 * variant["num_layers"] + 10 * abs(rate - 3e-3) + 0.01 * (seed * (variant["num_layers"] % 3 + 1)))


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_sweep(tmp_path_factory.mktemp("page") / "demo", VARIANTS, planted, question=HOSTILE)
    return generate_summary_report(folder)


@pytest.fixture(scope="module")
def large_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 variants, the last of which lost a replica."""

    def loss(variant: Mapping[str, Any], rate: float, seed: int) -> float | None:
        return None if variant["num_layers"] == MANY and seed == 1 else planted(variant, rate, seed)

    variants = [{"num_layers": layers} for layers in range(1, MANY + 1)]
    return generate_summary_report(write_sweep(tmp_path_factory.mktemp("page") / "large", variants, loss))


@pytest.fixture(scope="module")
def chromium_tab() -> Iterator[chromium.Browser]:
    with chromium.opened() as tab:
        yield tab


@pytest.fixture
def tab(chromium_tab: chromium.Browser) -> chromium.Browser:
    chromium_tab.problems.clear()
    chromium_tab.requests.clear()
    chromium_tab.screen(1280)
    return chromium_tab


def show_figures(tab: chromium.Browser) -> None:
    """Scroll to every live figure, and wait until it is drawn."""
    for place in range(tab.run("document.querySelectorAll('[data-figure]').length")):
        tab.run(f"document.querySelectorAll('[data-figure]')[{place}].scrollIntoView()")
        tab.wait_for(f"document.querySelectorAll('[data-figure]')[{place}].querySelector('.live .main-svg')")


def column(tab: chromium.Browser, table: str, number: int) -> list[str]:
    return list(tab.run(f"[...document.querySelectorAll('#{table} tbody tr')].map((row) => row.cells[{number}].textContent)"))


def click(tab: chromium.Browser, selector: str) -> None:
    tab.run(f"document.querySelector({selector!r}).click()")


@needs_chromium
def test_a_page_of_hostile_names_asks_for_nothing_complains_of_nothing_and_runs_nothing_planted(
    tab: chromium.Browser, hostile_page: Path
) -> None:
    tab.open(hostile_page)
    show_figures(tab)
    assert tab.problems == []
    assert [address for address in tab.requests if not address.startswith("data:image/png;")] == [hostile_page.as_uri()]
    assert tab.run("document.title").startswith("heads_or_layers")
    assert tab.run("document.querySelectorAll('script[src], link, iframe, img, object, a').length") == 0
    assert tab.run("document.querySelector('h1').textContent") == HOSTILE
    assert HOSTILE in tab.run("document.querySelector('.legend button').textContent")


@needs_chromium
def test_a_hostile_name_of_a_metric_does_nothing_either(tab: chromium.Browser, tmp_path: Path) -> None:
    rows = [{"width": width, "parameters": width, "seed": seed, HOSTILE: width + 0.1 * seed} for width in (1, 2, 3) for seed in range(3)]
    tab.open(generate_summary_report(pd.DataFrame(rows), tmp_path, compare=["width"], metric=HOSTILE))
    show_figures(tab)
    assert tab.problems == []
    assert tab.run("document.querySelector('[data-figure] .live').layout.yaxis.title.text").startswith("&lt;/script&gt;")
    assert HOSTILE in tab.run("document.querySelector('#ranking thead').textContent")
    assert tab.run("document.title") != "planted"


@needs_chromium
def test_a_script_that_the_page_was_not_made_with_is_refused_by_its_policy(tab: chromium.Browser, hostile_page: Path) -> None:
    tab.open(hostile_page)
    tab.run("document.body.append(Object.assign(document.createElement('script'), { textContent: 'document.title = 1' }))")
    assert tab.run("document.title") != "1"
    assert any("Content Security Policy" in problem or "contentSecurityPolicy" in problem for problem in tab.problems)


@needs_chromium
def test_a_table_is_sorted_by_value_with_the_mouse_and_the_keyboard(tab: chromium.Browser, hostile_page: Path) -> None:
    tab.open(hostile_page)
    assert column(tab, "ranking", 0) == ["1", "2", "10"]
    click(tab, "#ranking th button")
    click(tab, "#ranking th button")
    assert column(tab, "ranking", 0) == ["10", "2", "1"]
    assert tab.run("document.querySelector('#ranking th').getAttribute('aria-sort')") == "descending"
    tab.run("document.querySelector('#ranking th button').focus()")
    tab.key("Enter", 13)
    assert column(tab, "ranking", 0) == ["1", "2", "10"]
    assert tab.run("document.querySelectorAll('[aria-sort]').length") == 1


@needs_chromium
def test_the_curves_answer_with_variant_tokens_loss_and_seeds(tab: chromium.Browser, hostile_page: Path) -> None:
    tab.open(hostile_page)
    show_figures(tab)
    drawn = "document.querySelectorAll('[data-figure]')[0].querySelector('.live').data"
    best = tab.run(f"{drawn}.at(-1)")
    assert best["x"] == [102_400, 204_800, 307_200]
    assert best["y"][-1] == pytest.approx(3 + 0.1 + 0.02)  # one layer, the mean of its seeds' 0.00, 0.02 and 0.04
    assert "307,200 tokens" in best["text"][-1]
    assert "loss 3.1200 (3.1000 to 3.1400)" in best["text"][-1]
    assert "3 seeds" in best["text"][-1]
    band = tab.run(f"{drawn}.at(-2).y.at(-1)"), tab.run(f"{drawn}.at(-3).y.at(-1)")
    assert band == pytest.approx((3.1, 3.14))


@needs_chromium
def test_axes_become_logarithmic_and_variants_are_hidden_at_a_click(tab: chromium.Browser, hostile_page: Path) -> None:
    tab.open(hostile_page)
    show_figures(tab)
    figure = "document.querySelector('[data-figure] .live')"
    for button, axis in ((1, "xaxis"), (2, "yaxis")):
        assert tab.run(f"{figure}.layout.{axis}.type") == "linear"
        click(tab, f"[data-figure] .controls button:nth-of-type({button})")
        assert tab.run(f"{figure}.layout.{axis}.type") == "log"
    click(tab, "[data-figure] .legend button")
    assert tab.run(f"{figure}.data.at(-1).visible") is False
    assert tab.run("document.querySelector('[data-figure] .legend button').getAttribute('aria-pressed')") == "false"


@needs_chromium
def test_loss_is_drawn_against_the_cost_that_is_chosen(tab: chromium.Browser, hostile_page: Path) -> None:
    tab.open(hostile_page)
    show_figures(tab)
    costs = tab.run("[...document.querySelectorAll('select option')].map((option) => option.textContent)")
    assert costs == ["training FLOPs", "training time of one model", "peak memory of its trial", "parameters"]
    tab.run("const s = document.querySelector('select'); s.value = 2; s.dispatchEvent(new Event('change'))")
    drawn = tab.run("[...document.querySelectorAll('[data-figure]')].at(-1).querySelector('.live').data.flatMap((trace) => trace.x)")
    assert drawn == pytest.approx([3 * 2**28] * 3, rel=1e-5)


@needs_chromium
def test_a_long_table_leafs_filters_and_sorts_over_all_its_rows(tab: chromium.Browser, large_page: Path) -> None:
    tab.open(large_page)
    assert column(tab, "trials", 1) == [f"num_layers={layers}" for layers in range(1, 101)]
    click(tab, "#trials .tools button:last-child")
    assert column(tab, "trials", 1) == [f"num_layers={layers}" for layers in range(101, MANY + 1)]
    click(tab, "#trials th:nth-child(2) button")
    click(tab, "#trials th:nth-child(2) button")
    assert column(tab, "trials", 1)[:2] == ["num_layers=150", "num_layers=149"]
    tab.run("const f = document.querySelector('#trials input'); f.value = 'diverged'; f.dispatchEvent(new Event('input'))")
    assert column(tab, "trials", 1) == ["num_layers=150"]
    assert "1 to 1 of 1 that match" in tab.run("document.querySelector('#trials [role=status]').textContent")
    assert tab.run("document.querySelector('#ranking tbody tr:last-child .tag').className") == "tag better"
    click(tab, "#ranking .tools button:last-child")
    assert tab.run("document.querySelector('#ranking tbody tr:last-child .tag').className") == "tag diverged"
    assert tab.problems == []


@needs_chromium
def test_what_has_no_number_is_sorted_to_the_end_both_ways(tab: chromium.Browser, large_page: Path) -> None:
    tab.open(large_page)
    click(tab, "#ranking .tools button:last-child")
    for _ in range(2):
        click(tab, "#ranking th:nth-child(2) button")
        click(tab, "#ranking .tools button:last-child")
        assert column(tab, "ranking", 0)[-1] == str(MANY)


@needs_chromium
def test_on_paper_and_without_scripts_the_drawings_stand_and_say_what_a_table_leaves_out(tab: chromium.Browser, large_page: Path) -> None:
    seen = "[...document.querySelectorAll('{}')].map((found) => getComputedStyle(found).display)"
    tab.open(large_page)
    show_figures(tab)
    assert tab.run(seen.format(".is-live .drawing")) == ["none", "none"]
    tab.call("Emulation.setEmulatedMedia", media="print")
    try:
        assert tab.run(seen.format(".is-live .drawing")) == ["block", "block"]
        assert set(tab.run(seen.format(".live, .tools, .controls, .legend"))) == {"none"}
        assert set(tab.run(seen.format(".rest"))) == {"block"}
    finally:
        tab.call("Emulation.setEmulatedMedia", media="")
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(large_page)
        told = tab.run("document.querySelector('#trials .rest').textContent")
        shown = tab.run("getComputedStyle(document.querySelector('#trials .rest')).display")
    finally:
        tab.call("Emulation.setScriptExecutionDisabled", value=False)
    assert "The first 100 of 150 rows" in told
    assert "results.parquet and report.md have all" in told
    assert shown == "block"


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground_in_light_and_dark_and_a_phone_need_not_scroll_sideways(
    tab: chromium.Browser, hostile_page: Path, dark: bool
) -> None:
    tab.screen(390, 844, dark=dark, phone=True)
    tab.open(hostile_page)
    show_figures(tab)
    assert tab.run("document.documentElement.scrollWidth") == 390
    colours = tab.run(
        "[...document.querySelectorAll('h1, .verdict p, .caveats li, th button, td, .tag, .counts, figcaption p, dt, dd, .legend button')]"
        ".map((found) => { let ground = found; while (getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') ground = "
        "ground.parentElement; return [getComputedStyle(found).color, getComputedStyle(ground).backgroundColor] })"
    )
    grounds = {ground for _, ground in colours}
    assert ("rgb(20, 24, 28)" in grounds) is dark
    assert min(contrast(*pair) for pair in map(tuple, colours)) >= 4.5  # WCAG 2.2, level AA


@needs_chromium
def test_everything_that_is_drawn_or_pressed_has_a_name(tab: chromium.Browser, hostile_page: Path) -> None:
    tab.open(hostile_page)
    show_figures(tab)
    tab.call("Accessibility.enable")
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    asked = ("button", "img", "image", "combobox", "searchbox", "table", "region", "heading", "columnheader")
    found = [node for node in nodes if not node["ignored"] and node["role"]["value"] in asked]
    assert len(found) > 20
    assert [node for node in found if not node.get("name", {}).get("value", "").strip()] == []


def contrast(colour: str, ground: str) -> float:
    """The contrast ratio of WCAG 2.2 between two colours as "rgb(r, g, b)"."""
    lighter, darker = sorted((_luminance(colour), _luminance(ground)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_data_in_the_page_can_neither_end_its_element_nor_open_a_comment() -> None:
    text = page.embedded({"name": "</script><!-- & \u2028"})
    assert text == '{"name":"\\u003c/script\\u003e\\u003c!-- \\u0026 \\u2028"}'


def test_the_rows_beyond_those_shown_keep_their_values() -> None:
    rows = [("a", Number("1.5 k", 1500.0)) for _ in range(page.ROWS_SHOWN)]
    beyond = [("b", Number("2 k", 2000.0)), ("c", "-"), ("d", Number("inf", float("inf")))]
    table = Table(("name", "count"), [*rows, *beyond], frozenset({1}))
    assert page.rows_beyond(table) == [["b", ["2 k", 2000.0]], ["c", "-"], ["d", "inf"]]
    assert json.loads(page.embedded(page.rows_beyond(table)))[2] == ["d", "inf"]  # JSON has no infinity


def test_a_number_without_end_is_written_as_the_script_reads_it(tmp_path: Path) -> None:
    assert [page.value(Number("", value)) for value in (float("inf"), float("-inf"), 0.5)] == ["Infinity", "-Infinity", "0.5"]
    sizes = {"a": (15_000, 4.0), "b": (30_000, 3.5), "c": (60_000, 3.3), "d": (150_000, 3.2)}
    frame = pd.DataFrame(
        {"variant": name, "seed": seed, "parameters": size, "val_loss": loss + 0.01 * seed}
        for name, (size, loss) in sizes.items()
        for seed in range(3)
    )
    html = generate_summary_report(frame, tmp_path).read_text()
    assert ' data-v="Infinity">no limit<' in html
    assert 'data-v="inf"' not in html


def test_a_long_table_of_what_is_no_sweep_names_no_file_that_is_not_there(tmp_path: Path) -> None:
    frame = pd.DataFrame({"variant": f"v{number}", "seed": 0, "val_loss": 3.0 + number} for number in range(page.ROWS_SHOWN + 1))
    html = generate_summary_report(frame, tmp_path).read_text()
    assert "The first 100 of 101 rows" in html
    assert "report.md has all." in html
    assert "results.parquet" not in html


@pytest.mark.parametrize(("count", "kept"), [(1, 1), (7, 7), (200, 200), (1001, 200)])
def test_a_thinned_curve_keeps_its_ends(count: int, kept: int) -> None:
    places = interactive.thinned(count)
    assert (places[0], places[-1], len(places)) == (0, count - 1, kept)


def test_loss_against_cost_knows_which_variants_no_other_beats(tmp_path: Path) -> None:
    losses = {1: 3.5, 2: 3.2, 4: 3.3, 8: 3.1}  # more layers cost more: 4 layers lose to 2 in both
    folder = write_sweep(
        tmp_path / "demo",
        [{"num_layers": layers} for layers in losses],
        lambda variant, rate, seed: losses[variant["num_layers"]] + 0.01 * seed + rate,
        parameters=lambda variant: 20_000 + 1000 * variant["num_layers"],
    )
    drawing = interactive.loss_against_cost(compare_experiments(folder))
    assert drawing is not None
    parameters = next(cost for cost in drawing["costs"] if cost["title"] == "parameters")
    assert parameters["values"] == [28_000, 22_000, 24_000, 21_000]  # the lowest loss first
    assert [drawing["names"][place] for place in parameters["front"]] == ["num_layers=8", "num_layers=2", "num_layers=1"]


@pytest.mark.slow
def test_the_page_of_a_thousand_trials_is_below_eight_megabytes(tmp_path: Path) -> None:
    variants = [{"num_layers": layers, "num_heads": heads} for layers in range(1, 41) for heads in range(1, 26)]
    path = generate_summary_report(write_sweep(tmp_path / "demo", variants, planted))
    assert path.stat().st_size < LARGEST
