"""The footing of a report: how to reproduce it, and by which method its verdicts were reached."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from archsweep.analysis.verdicts import LR_CONFOUNDED
from archsweep.analysis.words import duration, plural

if TYPE_CHECKING:
    from collections.abc import Iterator

    from archsweep.analysis.compare import Comparison

_PACKAGES = ("archsweep", "pandas", "scipy")  # what the analysis computes with


def reproduce(comparison: Comparison) -> list[tuple[str, str]]:
    results, folder = comparison.source.results, comparison.source.folder
    seconds = results.drop_duplicates("trial_id")["trial_seconds"].sum()
    lines = [
        ("the sweep", comparison.source.command),
        ("this report", f"python -m archsweep report {comparison.source.name}" if folder else ""),
        ("every config", "plan.json, and config.json in each trial's folder" if folder else ""),
        ("corpus", ", ".join(results["corpus_id"].dropna().unique())),
        ("seeds", ", ".join(str(seed) for seed in sorted(results["seed"].dropna().unique())[:20])),
        ("hardware", ", ".join(sorted(results["device_name"].dropna().unique()))),
        ("machines", ", ".join(sorted(results["hostname"].dropna().unique()))),
        ("training time", duration(seconds) if seconds else ""),
        ("trained with", "; ".join(sorted(results["software"].dropna().unique()))),
        ("report made with", ", ".join(_versions())),
    ]
    return [(label, text) for label, text in lines if text]


def _versions() -> Iterator[str]:
    yield f"Python {sys.version.split()[0]}"
    for package in _PACKAGES:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            continue


def method(comparison: Comparison) -> list[str]:
    ranked = comparison.table[comparison.table["mean"].notna()]
    pairs = len(ranked) * (len(ranked) - 1) // 2
    family = f"{'the' if pairs == 1 else 'all'} {plural(pairs, 'pair')}"
    return [
        "Each variant is taken at the tuned setting with the lowest mean validation loss over seeds; a setting counts only where all its "
        "seeds finished with a finite loss. Where the best learning rate is the lowest or highest that was tried, a better one may lie "
        f"beyond, and the verdict is {LR_CONFOUNDED}.",
        "A seed fixes initialisation and the order of the data, so variants are compared seed by seed, in the two-way layout "
        "loss ~ variant + seed with the residual error pooled over all variants; where a pair's own seeds spread wider than that, its own "
        "spread is used. With two variants this is the paired t-test. Intervals are 95 % intervals of one difference, not corrected for "
        "their number.",
        f"P-values are corrected by Holm over {family}, because the best variant is known only after seeing the losses. BETTER means a "
        "corrected p below .05. Undecided is not the same as equal: the seeds given beside it would find the difference seen, if it is the "
        "true one, four times out of five at the strictest level of the correction.",
    ]
