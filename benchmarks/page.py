"""How large the report's page is, and how soon it is there: sweeps of 10, 1,000 and 5,000 trials, opened in headless Chromium."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

from archsweep.analysis.report import generate_summary_report
from benchmarks.timing import header
from tests import chromium
from tests.sweep_folder import write_sweep

if TYPE_CHECKING:
    from collections.abc import Mapping

SIZES, ROUNDS = (10, 1000, 5000), 5
TIMES = "const t = performance.timing; [t.domContentLoadedEventEnd - t.navigationStart, t.loadEventEnd - t.navigationStart]"
DRAWN = "document.querySelector('[data-figure] .live .main-svg')"


def main() -> None:
    print(header("The report's page: median of 5 openings", threads=1))
    print(f"{'trials':>8} {'made in':>10} {'report.html':>12} {'opened':>9} {'first live figure':>18}")
    with tempfile.TemporaryDirectory() as scratch:
        for size in SIZES:
            started = perf_counter()
            page = generate_summary_report(_sweep(Path(scratch) / str(size), size))
            made = perf_counter() - started
            opened, drawn = _opened(page)
            print(f"{size:>8,} {made:>8.1f} s {page.stat().st_size / 1e6:>9.2f} MB {opened:>7.2f} s {drawn:>16.2f} s")


def _sweep(folder: Path, size: int) -> Path:
    """`size` variants, a trial each, at three rates and with three seeds."""
    variants = [{"num_layers": 1 + number % 50, "num_heads": 1 + number // 50} for number in range(size)]
    return write_sweep(folder, variants, _loss)


def _loss(variant: Mapping[str, Any], rate: float, seed: int) -> float:
    layers, heads = variant["num_layers"], variant["num_heads"]
    return float(3 + 0.01 * layers + 0.001 * heads + 0.01 * ((7 * seed + 13 * heads + layers) % 5) + abs(rate - 3e-3))


def _opened(page: Path) -> tuple[float, float]:
    """Seconds until the page has loaded, its tables ready; and from scrolling to its first live figure until that is drawn."""
    opened, drawn = [], []
    with chromium.opened() as tab:
        tab.screen(1280)
        for _ in range(ROUNDS):
            tab.open(page)
            opened.append(max(tab.run(TIMES)) / 1000)
            started = perf_counter()
            tab.run("document.querySelector('[data-figure]').scrollIntoView()")
            tab.wait_for(DRAWN)
            drawn.append(perf_counter() - started)
    return median(opened), median(drawn)


if __name__ == "__main__":
    main()
