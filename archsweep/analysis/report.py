"""generate_summary_report: one self-contained page, its Markdown twin and the figures, from one comparison."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from archsweep.analysis import plots, search
from archsweep.analysis.compare import (
    BETTER,
    LR_CONFOUNDED,
    UNDECIDED,
    Comparison,
    amount,
    compare_experiments,
    decimals,
    loss,
    p_value,
    verdict_text,
    words,
)
from archsweep.atomic import write_atomically
from archsweep.records.schema import CONFIG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from matplotlib.figure import Figure

    from archsweep.analysis.source import Given

REPORT_HTML, REPORT_MARKDOWN, FIGURES = "report.html", "report.md", "figures"

_PACKAGES = ("archsweep", "pandas", "scipy")  # what the analysis computes with
_NONE = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Table:
    """A table as text: its header, its rows, and which columns hold numbers."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    numeric: frozenset[int] = frozenset()
    verdict_column: int | None = None


@dataclass(frozen=True, eq=False)
class Illustration:
    """A figure with its words."""

    name: str
    title: str
    caption: str
    figure: Figure

    @property
    def svg(self) -> Markup:
        """The figure for the page: in the page's own colours, so that it follows light and dark."""
        return _inline_svg(plots.svg(self.figure), f"{self.title}. {self.caption}")

    @property
    def path(self) -> str:
        """Where the figure's PNG lies, seen from the report."""
        return f"{FIGURES}/{self.name}.png"


def generate_summary_report(source: Given | Comparison, output_dir: str | Path | None = None) -> Path:
    """Write report.html, report.md and figures/*.png into `output_dir`; returns the path of report.html.

    Left out, `output_dir` is the sweep's own folder, or results/summary for results that have none.
    """
    comparison = compare_experiments(source)
    folder = Path(output_dir) if output_dir is not None else comparison.source.folder or Path("results") / "summary"
    content = _content(comparison)
    for illustration in content["figures"]:
        write_atomically(folder / illustration.path, plots.png(illustration.figure))
    write_atomically(folder / REPORT_MARKDOWN, _environment(html=False).get_template("report.md.j2").render(content))
    return write_atomically(folder / REPORT_HTML, _environment(html=True).get_template("report.html.j2").render(content))


def _environment(html: bool) -> jinja2.Environment:
    """Every expression of a template is escaped for its format, by default and without exception."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("archsweep.analysis"),
        undefined=jinja2.StrictUndefined,
        autoescape=html,
        finalize=None if html else _markdown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["markdown_table"] = _markdown_table
    return environment


def _markdown_table(table: Table) -> Markup:
    rule = ["---:" if column in table.numeric else "---" for column in range(len(table.header))]
    lines = [[_markdown(cell) for cell in table.header], rule, *([_markdown(cell) for cell in row] for row in table.rows)]
    return Markup("".join(f"| {' | '.join(line)} |\n" for line in lines))


def _markdown(value: object) -> str:
    """A text on one line in which Markdown and HTML see nothing but text; what is marked as Markdown already stays as it is."""
    if isinstance(value, Markup):
        return value
    line = " ".join(str(value).split())
    return re.sub(r"([\\`*\[\]|])", r"\\\1", line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def _content(comparison: Comparison) -> dict[str, Any]:
    """Everything that the templates print, as text; both formats say the same."""
    source, found = comparison.source, search.found(comparison)
    return {
        "title": source.name,
        "question": comparison.question or f"Which of {', '.join(source.compare)} has the lowest loss?",
        "verdict": comparison.verdict,
        "tone": _tone(comparison),
        "counts": _counts(comparison),
        "caveats": comparison.caveats,
        "ranking": _ranking(comparison),
        "figures": [*_search_illustrations(comparison, found), *_illustrations(comparison)],
        "search": _search(comparison, found),
        "front": _front(comparison, found),
        "budget": _budget_sentence(comparison),
        "sizes": _sizes(comparison),
        "rates": _rates(comparison),
        "trials": _trials(comparison),
        "incomplete": _incomplete(comparison),
        "refused": Table(("variant", "why"), list(source.refused)),
        "equal": _held_equal(source.results),
        "reproduce": _reproduce(comparison),
        "method": _method(comparison),
    }


# --------------------------------------------------------------------------------------------------------------------- the answer


def _tone(comparison: Comparison) -> str:
    """How the verdict's box is coloured: "decided" only where every other variant is beaten and nothing is missing."""
    others = set(comparison.table["verdict"].iloc[1:])
    if others == {BETTER}:
        return "decided"
    return "undecided" if others & {UNDECIDED, BETTER} else "open"


def _counts(comparison: Comparison) -> str:
    statuses = comparison.source.results["status"].value_counts()
    parts = [
        f"{statuses[status]} {status}"
        for status in ("finished", "diverged", "pruned", "stopped", "failed", "unfinished")
        if status in statuses
    ]
    total = len(comparison.source.results)
    return f"{_plural(len(comparison.table), 'variant')} · {_plural(total, 'replica')}: {', '.join(parts)}"


def _ranking(comparison: Comparison) -> Table:
    named = comparison.source.compare
    header = (
        *(words(name) for name in named),
        "val loss", "± sd", "seeds", "to the best", "95 % interval", "Holm p", "best against it",
        "best LR", "parameters", "non-embedding", "FLOPs", "tokens/s",
    )  # fmt: skip
    verdict = header.index("best against it")
    rows = [
        (*(_text(row[name]) for name in named), *_test_cells(row), verdict_text(row), *_cost_cells(row))
        for _, row in comparison.table.iterrows()
    ]
    texts = {i for i, name in enumerate(named) if not pd.api.types.is_numeric_dtype(comparison.table[name])}
    return Table(header, rows, frozenset(set(range(len(header))) - texts - {verdict}), verdict)


def _test_cells(row: pd.Series) -> tuple[str, ...]:
    half = (row["high"] - row["low"]) / 2
    return (
        _number(row["mean"], loss),
        _number(row["sd"], lambda sd: decimals(sd, sd)),
        str(row["n"]),
        _number(row["difference"], lambda value: "+" + decimals(value, half)),
        f"{decimals(row['low'], half)} to {decimals(row['high'], half)}".replace("-", _MINUS) if pd.notna(row["low"]) else _NONE,
        p_value(row["holm_p"]).replace("-", _NONE),
    )


def _cost_cells(row: pd.Series) -> tuple[str, ...]:
    edge = {"lowest": " ↓ edge", "highest": " ↑ edge"}.get(row["learning_rate_edge"], "")
    return (
        _number(row["learning_rate"], "{:g}".format) + edge,
        _number(row["parameters"], "{:,.0f}".format),
        _number(row["non_embedding_parameters"], "{:,.0f}".format),
        _number(row["flops"], _si),
        _number(row["tokens_per_second"], "{:,.0f}".format),
    )


def _illustrations(comparison: Comparison) -> Iterator[Illustration]:
    """The figures that this comparison has data for."""
    source, count = comparison.source, int(comparison.table["mean"].notna().sum())
    best = f" The best {plots.MOST_VARIANTS} of {count} variants." if count > plots.MOST_VARIANTS else ""
    if count > 1:
        caption = (
            "Right of the line: worse than the best. Filled: BETTER. Hollow grey: undecided. Hollow orange: learning rate at the edge."
        )
        yield Illustration("differences", "Difference to the best", caption + best, plots.plot_differences(comparison))
    if count > 1 and len(source.compare) == 2:
        title = f"Loss over {source.compare[0]} and {source.compare[1]}"
        caption = "Each variant at its best setting, ± half of the 95 % interval of its mean from the pooled error. Framed: the lowest."
        yield Illustration("heat_map", title, caption, plots.plot_heat_map(comparison))
    if (comparison.settings.groupby("variant")["learning_rate"].nunique() > 1).any():
        caption = (
            "A point per seed, a line through the means, the best rate as a large hollow mark: at an end of its line it is at the edge."
        )
        yield Illustration("learning_rates", "Loss against learning rate", caption + best, plots.plot_learning_rates(comparison))
    if count and source.curves["val_loss"].notna().any():
        caption = "Each variant at its best setting: the mean over seeds; the band reaches from the lowest seed to the highest."
        yield Illustration("training_curves", "Loss during training", caption + best, plots.plot_training_curves(comparison))


# --------------------------------------------------------------------------------------------------------------------- the search


def _search_illustrations(comparison: Comparison, found: search.Found | None) -> Iterator[Illustration]:
    if found is None or found.variants.empty:
        return
    if len(found.objectives) == 1:
        caption = "A point per variant in the order of the suggestions; the line is the lowest loss so far."
        yield Illustration("best_so_far", "The search", caption, plots.plot_best_so_far(found.variants))
        return
    for name in found.objectives:
        if name != "val_loss":
            caption = "Filled: no other variant is as good in every objective and better in one. Bars: the mean's 95 % interval over seeds."
            yield Illustration(f"front_{name}", f"Loss against {words(name)}", caption, plots.plot_front(found.variants, name))


def _search(comparison: Comparison, found: search.Found | None) -> list[str]:
    """What the search did, in sentences; none for a grid."""
    rule = comparison.source.search
    if found is None or rule is None:
        return []
    counts = ", ".join(f"{count} {what}" for what, count in found.counts.items())
    told = [f"{rule.sampler} chose {rule.trials} variants to minimise {' and '.join(map(words, rule.objectives))}. Points: {counts}."]
    if found.importances:
        shares = ", ".join(f"{words(name)} {share:.0%}" for name, share in found.importances.items())
        told.append(f"What the lower losses depend on, by PED-ANOVA over the variants that were trained: {shares}.")
    return told


def _front(comparison: Comparison, found: search.Found | None) -> Table:
    """The variants of the front, the lowest loss first."""
    if found is None or len(found.objectives) == 1:
        return Table((), [])
    others = [name for name in found.objectives if name != "val_loss"]
    header = ("variant", "val loss", "± 95 %", "seeds", *map(words, others))
    front = found.variants[found.variants["front"]].sort_values("mean")
    rows = [
        (
            str(row["variant"]),
            _number(row["mean"], loss),
            _number(row["half_width"], lambda half: decimals(half, half)),
            str(row["n"]),
            *(_number(row[name], _OBJECTIVES[name]) for name in others),
        )
        for _, row in front.iterrows()
    ]
    return Table(header, rows, frozenset(range(1, len(header))))


_OBJECTIVES: dict[str, Callable[[float], str]] = {
    "parameters": "{:,.0f}".format,
    "non_embedding_parameters": "{:,.0f}".format,
    "flops": lambda value: _si(value),
    "decode_latency": lambda value: f"{1000 * value:.3g} ms/token",
    "memory": lambda value: f"{value / 1e6:,.0f} MB",
}


# --------------------------------------------------------------------------------------------------------------------- the audits


def _budget_sentence(comparison: Comparison) -> str:
    budgets = comparison.source.budgets
    if not budgets:
        return "No budget was stated for this comparison; the sizes are listed as they are."
    stated = " and ".join(f"{amount(budget.target)} {words(budget.kind)}, within {budget.tolerance:.1%}" for budget in budgets)
    return f"Every variant was to have {stated}."


def _sizes(comparison: Comparison) -> Table:
    budgets = comparison.source.budgets
    header = ("variant", "parameters", "non-embedding", "12·L·d²", "off the budget", "tokens", "tokens/parameter")
    rows = []
    for _, row in comparison.table.iterrows():
        off = [row[budget.kind] / budget.target - 1 for budget in budgets if pd.notna(row.get(budget.kind))]
        counts = (row["parameters"], row["non_embedding_parameters"], row["kaplan_parameters"])
        rows.append(
            (
                str(row["variant"]),
                *(_number(count, "{:,.0f}".format) for count in counts),
                " ".join(_number(miss, "{:+.2%}".format).replace("-", _MINUS) for miss in off) or _number(float("nan"), str),
                _number(row["tokens"], "{:,.0f}".format),
                _number(row["tokens"] / row["parameters"], "{:.2g}".format),
            )
        )
    return Table(header, rows, frozenset(range(1, len(header))))


def _rates(comparison: Comparison) -> Table:
    """Mean loss at every learning rate that was planned, at its best weight decay where that was tuned too."""
    rates = sorted(comparison.settings["learning_rate"].dropna().unique())
    header = ("variant", *(f"{rate:g}" for rate in rates), "best", "audit")
    rows = [_rate_row(row, comparison.settings, rates) for _, row in comparison.table.iterrows()]
    return Table(header, rows, frozenset(range(1, len(rates) + 2)))


def _rate_row(row: pd.Series, tried: pd.DataFrame, rates: list[float]) -> tuple[str, ...]:
    mine = tried[(tried["variant"] == row["variant"]) & tried["complete"]]
    means = mine.groupby("learning_rate")["mean"].min()
    audits = {"none": "inside", "not tuned": "not tuned", "": "no result"}
    audit = audits.get(row["learning_rate_edge"], f"{row['learning_rate_edge']}: add {row['learning_rate_to_add']:g}")
    cells = [_number(means.get(rate, float("nan")), loss) for rate in rates]
    return (str(row["variant"]), *cells, _number(row["learning_rate"], "{:g}".format), audit)


# --------------------------------------------------------------------------------------------------------------------- the trials


def _trials(comparison: Comparison) -> Table:
    """Every trial in the plan's order, with what its config does not share with the others'."""
    results = comparison.source.results
    varying = _varying(results)
    header = ("trial", "variant", *(words(name) for name in varying), "status", "time", "machine", "why")
    rows = [_trial_row(rows, varying) for _, rows in results.groupby("trial_id", sort=False, dropna=False)]
    numeric = {i + 2 for i, name in enumerate(varying) if pd.api.types.is_numeric_dtype(results[name])}
    return Table(header, rows, frozenset(numeric | {len(varying) + 3}))


def _trial_row(rows: pd.DataFrame, varying: list[str]) -> tuple[str, ...]:
    first = rows.iloc[0]
    counts = rows["status"].value_counts()
    status = ", ".join(f"{count} {name}" for name, count in counts.items())
    machine = " ".join(str(value) for value in (first["hostname"], first["device_name"]) if pd.notna(value))
    reasons = "; ".join(rows["reason"].dropna().unique()[:3])
    cells = (_text(first["trial_id"]), str(first["variant"]), *(_text(first[name]) for name in varying))
    return (*cells, status, _number(first["trial_seconds"], _duration), machine or _NONE, reasons or _NONE)


def _varying(results: pd.DataFrame) -> list[str]:
    names = [column.name for column in CONFIG if column.name not in ("experiment_name", "device")]
    return [name for name in names if results[name].nunique(dropna=False) > 1]


def _held_equal(results: pd.DataFrame) -> list[tuple[str, str]]:
    varying = {*_varying(results), "experiment_name"}
    return [(c.name, _text(results[c.name].iloc[0])) for c in CONFIG if c.name not in varying and results[c.name].notna().any()]


def _incomplete(comparison: Comparison) -> Table:
    """Every replica without a finished loss, those of one trial, status and reason on one line."""
    results = comparison.source.results
    rest = results[results["status"] != "finished"]
    rows: list[tuple[str, ...]] = []
    for (_, status, reason), group in rest.groupby(["trial_id", "status", "reason"], sort=False, dropna=False):
        which = "; ".join(
            f"{_number(rate, '{:g}'.format)}: {', '.join(map(str, part['seed']))}"
            for rate, part in group.groupby("learning_rate", dropna=False)
        )
        rows.append((str(group["variant"].iloc[0]), which, str(status), _text(reason)))
    return Table(("variant", "learning rate: seeds", "status", "why"), rows)


# -------------------------------------------------------------------------------------------------------------------- the footing


def _reproduce(comparison: Comparison) -> list[tuple[str, str]]:
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
        ("training time", _duration(seconds) if seconds else ""),
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


def _method(comparison: Comparison) -> list[str]:
    ranked = comparison.table[comparison.table["mean"].notna()]
    pairs = len(ranked) * (len(ranked) - 1) // 2
    family = f"{'the' if pairs == 1 else 'all'} {_plural(pairs, 'pair')}"
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


# ------------------------------------------------------------------------------------------------------------------------- format


def _inline_svg(text: str, description: str) -> Markup:
    """An SVG document as a part of a page: no prolog, no names that would repeat, sized and coloured by the page."""
    head, body = re.fullmatch(r".*?<svg([^>]*)>(.*)</svg>\s*", text, flags=re.DOTALL).groups()  # type: ignore[union-attr]  # matplotlib's own
    view = re.search(r'viewBox="[^"]*"', head)
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body).replace("xlink:href", "href")
    for colour, name in _PAGE_COLOURS.items():
        body = body.replace(colour, name)
    return Markup('<svg role="img" aria-label="{}" {}>{}</svg>').format(description, Markup(view[0] if view else ""), Markup(body))


_PAGE_COLOURS = {
    plots.INK: "currentColor",
    plots.RULE: "var(--rule)",
    plots.MUTED: "var(--muted)",
    plots.PAPER: "var(--paper)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(plots.PALETTE)},
}


def _number(value: Any, form: Callable[[float], str]) -> str:
    return _NONE if pd.isna(value) else form(float(value))


def _text(value: Any) -> str:
    if pd.isna(value):
        return _NONE
    return f"{value:g}" if isinstance(value, (float, np.floating)) else str(value)


def _si(value: float) -> str:
    """A large count with three digits and its unit prefix: 1.23 T."""
    for limit, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {prefix}"
    return f"{value:.3g}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
