"""The footing of a report: how to reproduce it, and by which method its verdicts were reached."""

from __future__ import annotations

import sys
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import pandas as pd

from archsweep.analysis.checks import FEWEST_FOR_BOOTSTRAP, FEWEST_FOR_SIGNS
from archsweep.analysis.tuning import FEWEST_TO_SPLIT, choosing_seeds, is_tuned
from archsweep.analysis.verdicts import LR_CONFOUNDED
from archsweep.analysis.words import duration, p_value, percent, plural, words
from archsweep.config import RECORDED_OTHERWISE, TRAINER_VERSION, ExperimentConfig
from archsweep.errors import ConfigError
from archsweep.records.files import load_plan
from archsweep.records.schema import PLAN_FILE, RESULTS_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from archsweep.analysis.compare import Comparison

_PACKAGES = ("archsweep", "pandas", "scipy", "statsmodels")  # what the analysis computes with


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
        *(made_of(folder) if folder else [("report made with", ", ".join(_versions()))]),
    ]
    return [(label, text) for label, text in lines if text]


def made_of(folder: Path) -> list[tuple[str, str]]:
    """What a sweep's report follows from: the versions of what makes it, and the hashes of its plan and records."""
    return [("report made with", ", ".join(_versions())), *((name, _sha256(folder / name)) for name in (PLAN_FILE, RESULTS_FILE))]


def _trainer(folder: Path) -> str:
    """The version of what trained the models, which is a part of each trial's id: said where an id can be made again with it."""
    plan = load_plan(folder)
    if not plan["trials"]:
        return ""
    trial = plan["trials"][0]
    how = [name for name in RECORDED_OTHERWISE if trial.get(name)]
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
    within = comparison.source.within is not None  # whose pairs are of one budget each
    tests = len(comparison.pairs) if within else comparison.family.tests(len(ranked))
    return [_tuning(comparison), _layout(comparison), _multiplicity(comparison, tests), *_beside(comparison)]


def _tuning(comparison: Comparison) -> str:
    counts = "a setting counts only where all its seeds finished with a finite loss."
    if not is_tuned(comparison.settings):
        return f"Each variant has one setting, and {counts}"
    seeds = comparison.source.results["seed"].nunique()
    split = len(choosing_seeds(comparison.source.results))
    chosen = (
        f"Of the {seeds} seeds the first {split} choose each variant's setting, the one with the lowest mean validation loss, and the "
        f"other {seeds - split} are tested, so that no loss looks better for having been chosen"
        if split
        else "Each variant is taken at the tuned setting with the lowest mean validation loss over seeds"
    )
    return (
        f"{chosen}; {counts} From {FEWEST_TO_SPLIT} seeds on that all settings share, a third of them only choose. "
        "Where the best learning rate is the lowest or highest that was tried, a better one may lie beyond, and the "
        f"verdict is {LR_CONFOUNDED}. Sensitivity to the learning rate is the mean of the losses at all rates, none counted above that "
        "before training, minus the lowest (Wortsman et al. 2023)."
    )


def _layout(comparison: Comparison) -> str:
    if comparison.layout is None:
        return "No variant has a setting that counts, so nothing is tested."
    share, most = comparison.family.share, comparison.family.most
    how = _PAIRED if comparison.layout.paired else _UNPAIRED
    if comparison.layout.paired and comparison.source.results["betas"].notna().all():  # of our own trainer, whose seeds do so
        how = f"A seed fixes initialisation and the order of the data. {how}"
    return (
        f"{how} Since variants may be unequally noisy, a test has its pair's own degrees of freedom{_OWN[comparison.layout.paired]}, and "
        f"{share:.2g} of them for each further variant, {most:g} times its own at most: in simulation the most that keeps wrong verdicts "
        "to 5 % of sweeps. Intervals are 95 % intervals of one difference, not corrected for their number."
    )


_PAIRED = (
    "Variants are compared seed by seed, in the two-way layout loss ~ variant + seed with the residual error pooled over all variants; "
    "where a pair's own seeds spread wider than that, its own spread is used. With two variants this is the paired t-test."
)
_UNPAIRED = (
    "The variants do not share their seeds, so their means are compared, with the spread between seeds pooled over all variants as the "
    "error; where a pair's own seeds spread wider than that, its own spread is used."
)
_OWN = {True: "", False: " (Welch 1947)"}  # by whether seeds are shared


def _multiplicity(comparison: Comparison, tests: int) -> str:
    reference, margin = comparison.source.reference, percent(comparison.source.margin)
    if reference is not None:
        family = f"the {plural(tests, 'pair')} with the reference, {reference}, which was named before the sweep ran"
        better = "BETTER and WORSE say what a variant is against it"
    else:
        family = f"{'the' if tests == 1 else 'all'} {plural(tests, 'pair')}, because the best variant is known only after seeing the losses"
        better = "BETTER says that the best variant is better than that of the row"
    if (within := comparison.source.within) is not None:
        family = f"the pairs of each size of the budget of {words(within)} ({tests} in all), each size a family of its own"
    return (
        f"P-values are corrected by Holm over {family}. {better}: a corrected p below .05; BUT SMALL where the difference is below "
        f"{margin} of the loss. EQUIVALENT is the outcome of two one-sided tests with that margin, corrected alike. Undecided is not the "
        "same as equal: the seeds given beside it would find the difference seen, if it is the true one, four times out of five at the "
        "strictest level of the correction."
    )


def _beside(comparison: Comparison) -> list[str]:
    """What the verdict's test is held against: without the layout's assumptions, and all variants at once."""
    checks = [f"A factor of compute is (loss / loss)^(1 / {comparison.exponent.alpha:.3g}), by {comparison.exponent.source}."]
    if comparison.layout is not None and not comparison.layout.paired:
        return checks  # the other two look at differences seed by seed
    checks.append(
        "Beside the test stand the pair's own seeds alone: the part of them at which one is better, and a 95 % interval of their mean "
        f"difference (BCa bootstrap from {FEWEST_FOR_BOOTSTRAP} seeds on, Student's below)."
    )
    signs = comparison.table["signs_p"].min() if "signs_p" in comparison.table else float("nan")
    if pd.notna(signs):
        checks.append(f"Flipping the signs of the differences, which supposes no distribution, gives p = {p_value(signs)} at the least.")
    else:
        checks.append(f"An exact test by flipping signs cannot reach p = .05 with fewer than {FEWEST_FOR_SIGNS} shared seeds.")
    if pd.notna(comparison.omnibus.anova):
        friedman = f", Friedman's test of their ranks p = {p_value(comparison.omnibus.friedman)}"
        friedman = friedman if pd.notna(comparison.omnibus.friedman) else ""
        checks.append(f"That all variants are equal: analysis of variance p = {p_value(comparison.omnibus.anova)}{friedman}.")
    return [" ".join(checks)]
