"""The footing of a report: how to reproduce it, and by which method its verdicts were reached."""

from __future__ import annotations

import sys
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from archsweep.analysis.verdicts import LR_CONFOUNDED
from archsweep.analysis.words import duration, plural
from archsweep.config import TRAINER_VERSION, ExperimentConfig
from archsweep.errors import ConfigError
from archsweep.records.files import load_plan
from archsweep.records.schema import PLAN_FILE, RESULTS_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
        ("trainer", _trainer(folder) if folder else ""),
        ("report made with", ", ".join(_versions())),
        *([(name, _sha256(folder / name)) for name in (PLAN_FILE, RESULTS_FILE)] if folder else []),
    ]
    return [(label, text) for label, text in lines if text]


def _trainer(folder: Path) -> str:
    """The version of what trained the models, which is a part of each trial's id: said where an id can be made again with it."""
    plan = load_plan(folder)
    if not plan["trials"]:
        return ""
    trial = plan["trials"][0]
    how = ["prune_tune"] if trial.get("prune_tune") else []
    try:
        made = ExperimentConfig(**trial["config"]).content_id(trial["replicas"], plan["corpus_id"], *how)
    except ConfigError:  # a config of fields that there are no more
        made = ""
    return f"version {TRAINER_VERSION}" if made == trial["id"] else f"another version than this archsweep's, which is {TRAINER_VERSION}"


def _sha256(path: Path) -> str:
    return f"sha256 {sha256(path.read_bytes()).hexdigest()}" if path.is_file() else ""


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
