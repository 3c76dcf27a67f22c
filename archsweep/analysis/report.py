"""generate_summary_report: one page that needs nothing else, its Markdown twin and the figures, from one comparison."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import jinja2
from markupsafe import Markup

from archsweep.analysis import designs, method, page, paper, search, tables
from archsweep.analysis.audits import audits
from archsweep.analysis.compare import Comparison, compare_experiments
from archsweep.analysis.illustrations import FIGURES, illustrations, search_illustrations
from archsweep.analysis.metric import named, rename_axes, renamed
from archsweep.analysis.verdicts import BEST, BETTER, REFERENCE_ITSELF, UNDECIDED, WORSE
from archsweep.analysis.words import Number, amount, plural, tag, variants_text, words
from archsweep.atomic import write_atomically
from archsweep.records.schema import RESULTS_FILE

if TYPE_CHECKING:
    from archsweep.analysis.frames import RoleNames
    from archsweep.analysis.source import Given, Source

REPORT_HTML, REPORT_MARKDOWN = "report.html", "report.md"


def generate_summary_report(source: Given | Comparison, output_dir: str | Path | None = None, **roles: Unpack[RoleNames]) -> Path:
    """Write report.html, report.md and figures/*.{png,pdf} into `output_dir`; returns the path of report.html.

    Left out, `output_dir` is the sweep's own folder, or results/summary for results that have none. The `roles` of a dataframe's columns
    are named as for compare_experiments, which takes the further keywords.
    """
    comparison = compare_experiments(source, **roles)
    folder = Path(output_dir) if output_dir is not None else comparison.source.folder or Path("results") / "summary"
    content = _content(comparison)
    for illustration in content["figures"]:
        rename_axes(illustration.figure, comparison.source)
        for path, data in illustration.files.items():
            write_atomically(folder / path, data)
    markdown, html = (_environment(comparison.source, html=html) for html in (False, True))
    write_atomically(folder / REPORT_MARKDOWN, markdown.get_template("report.md.j2").render(content))
    return write_atomically(folder / REPORT_HTML, html.get_template("report.html.j2").render(content))


def is_current(folder: Path) -> bool:
    """Whether the report in a sweep's folder is whole, and of the plan and the records that lie there, by these versions."""
    html, markdown = (path.read_text() if path.is_file() else "" for path in (folder / REPORT_HTML, folder / REPORT_MARKDOWN))
    if not html or not markdown:
        return False
    figures = [folder / path for path in re.findall(rf"\]\(({FIGURES}/[^)]+)\)", markdown)]
    are_there = all(path.is_file() and path.with_suffix(".pdf").is_file() for path in figures)
    return are_there and all(fact in text for text in (html, markdown) for _, fact in method.made_of(folder))


def _environment(source: Source, html: bool) -> jinja2.Environment:
    """Every expression of a template names the metric and is escaped for its format, by default and without exception."""

    def name(value: object) -> object:
        return named(value, source) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("archsweep.analysis"),
        undefined=jinja2.StrictUndefined,
        autoescape=html,
        finalize=name if html else lambda value: tables.markdown_text(name(value)),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"markdown_table": lambda table: tables.markdown_table(table, name), "tag": tag, "beyond": page.rows_beyond}
    environment.filters["embedded"] = lambda data: page.embedded(renamed(data, source))
    environment.tests["number"] = lambda cell: isinstance(cell, Number)
    environment.globals |= {"page": page}
    return environment


def _content(comparison: Comparison) -> dict[str, Any]:
    """Everything that the templates print, as text; both formats say the same."""
    source, found = comparison.source, search.found(comparison)
    designed = designs.read_designs(comparison, found)
    sections = designs.sections(designed)
    figures = [*search_illustrations(comparison, found), *designs.design_illustrations(designed), *illustrations(comparison)]
    methods = [paper.setup(comparison), *method.method(comparison)]
    return {
        "title": source.name,
        "question": comparison.question or _question(source),
        "verdict": comparison.verdict,
        "tone": _tone(comparison),
        "counts": _counts(comparison),
        "audits": audits(comparison),
        "caveats": comparison.caveats,
        "whole": f"{RESULTS_FILE} and {REPORT_MARKDOWN} have" if source.folder else f"{REPORT_MARKDOWN} has",
        "ranking": tables.ranking(comparison),
        "beside": tables.beside(comparison),
        "figures": figures,
        "designs": sections,
        "search": _search(comparison, found),
        "front": tables.front(comparison, found),
        "budget": _budget_sentence(comparison),
        "sizes": tables.sizes(comparison),
        "rates": tables.rates(comparison),
        "trials": tables.trials(comparison),
        "incomplete": tables.incomplete(comparison),
        "refused": tables.Table(("variant", "why"), list(source.refused)),
        "equal": tables.held_equal(source.results),
        "reproduce": method.reproduce(comparison),
        "method": methods,
        "references": paper.references(
            [
                *comparison.caveats,
                *methods,
                *(line for section in sections for line in section.lines),
                *(figure.caption for figure in figures),
            ]
        ),
    }


# --------------------------------------------------------------------------------------------------------------------- the answer


def _question(source: Source) -> str:
    """What is asked where nobody put it in words."""
    fields = [words(name) for name in source.compare]
    what = "value" if len(fields) == 1 else "combination"
    which = "variant" if source.compare == ("variant",) else f"{what} of {' and '.join(fields)}"
    return f"Which {which} has the lowest validation loss?"


def _tone(comparison: Comparison) -> str:
    """How the verdict's box is coloured: "decided" only where every other variant is beaten, or better, and nothing is missing."""
    found = {verdict.removesuffix(" BUT SMALL") for verdict in comparison.table["verdict"]} - {BEST, REFERENCE_ITSELF}
    if found and found <= {BETTER, WORSE}:
        return "decided"
    return "undecided" if found & {UNDECIDED, BETTER, WORSE} else "open"


def _counts(comparison: Comparison) -> str:
    statuses = comparison.source.results["status"].value_counts()
    parts = [
        f"{statuses[status]} {status}"
        for status in ("finished", "diverged", "pruned", "stopped", "failed", "unfinished")
        if status in statuses
    ]
    total = len(comparison.source.results)
    return f"{plural(len(comparison.table), 'variant')} · {plural(total, 'replica')}: {', '.join(parts)}"


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


def _budget_sentence(comparison: Comparison) -> str:
    budgets = comparison.source.budgets
    if not budgets:
        return "No budget was stated for this comparison; the sizes are listed as they are."
    stated = [
        f"{amount(budget.target)} {words(budget.kind)}, within {budget.tolerance:.1%}"
        + ("" if budget.variants is None else f" ({variants_text(len(budget.variants), verb='')})")
        for budget in budgets
    ]
    whose = "Every variant was" if all(budget.variants is None for budget in budgets) else "Variants were"
    return f"{whose} to have {' and '.join(stated)}."
