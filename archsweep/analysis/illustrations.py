"""The report's figures with their words, and how a figure becomes a part of the page: drawn, and where its reader can question it, live."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from archsweep.analysis import costs, interactive, plots
from archsweep.analysis.words import words
from archsweep.config import CURVE_PARTS, DECISION_PARTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure

    from archsweep.analysis import search
    from archsweep.analysis.compare import Comparison

FIGURES = "figures"


@dataclass(frozen=True, eq=False)
class Illustration:
    """A figure with its words."""

    name: str
    title: str
    caption: str
    figure: Figure
    live: interactive.Drawing | None = None  # the numbers from which the page's script draws it

    @property
    def svg(self) -> Markup:
        """The figure for the page: in the page's own colours, so that it follows light and dark."""
        return _inline_svg(plots.svg(self.figure), f"{self.title}. {self.caption}")

    @property
    def files(self) -> dict[str, bytes]:
        """The figure as files, by their paths seen from the report."""
        return {self.path: plots.png(self.figure), f"{FIGURES}/{self.name}.pdf": plots.pdf(self.figure)}

    @property
    def path(self) -> str:
        """Where the figure's PNG lies, seen from the report."""
        return f"{FIGURES}/{self.name}.png"


def illustrations(comparison: Comparison) -> Iterator[Illustration]:
    """The figures that this comparison has data for."""
    source, count = comparison.source, int(comparison.table["mean"].notna().sum())
    standard = plots.standard_name(comparison.table)
    best = f" The best {plots.MOST_VARIANTS} of {count} variants." if count > plots.MOST_VARIANTS else ""
    if count > 1 and source.within is None:  # else each size of the budget has a standard of its own
        caption = (
            f"Right of the line: worse than {standard}, the diamond. Band: differences that count as none. Filled circle: decided. Square: "
            "equivalent. Hollow grey: undecided. Hollow orange: no verdict, as its learning rate is at the edge or its budget is off."
        )
        yield Illustration("differences", f"Difference to {standard}", caption + best, plots.plot_differences(comparison))
    if count > 1 and len(source.compare) == 2:
        title = f"Loss over {words(source.compare[0])} and {words(source.compare[1])}"
        caption = (
            "Each variant at its best setting, ± half of the 95 % interval of its mean from the pooled error. "
            f"Framed: the lowest; dashed: equivalent to {standard}; dotted: not decided."
        )
        yield Illustration("heat_map", title, caption, plots.plot_heat_map(comparison))
    if count and (comparison.settings.groupby("variant")["learning_rate"].nunique() > 1).any():
        caption = (
            "A point per tested seed at each rate's best weight decay, a line through the means, the best rate as a large hollow mark. "
            "A rate at which a seed is missing or diverged has no point."
        )
        yield Illustration("learning_rates", "Loss against learning rate", caption + best, plots.plot_learning_rates(comparison))
    if count and source.curves["val_loss"].notna().any():
        caption = "Each variant at its best setting: the mean over seeds; the band reaches from the lowest seed to the highest."
        if source.curves["trial_id"].notna().any():  # of sweeps, joined or not
            part = f"every {CURVE_PARTS}th window of the evaluation tokens (every {DECISION_PARTS}th with early stopping)"
            caption += f" Points before the last are of {part}, the last ones of all."
        figure, live = plots.plot_training_curves(comparison), interactive.training_curves(comparison)
        yield Illustration("training_curves", "Loss during training", caption + best + _thinned(live), figure, live)
    if live := interactive.loss_against_cost(comparison):
        caption = "A point per variant. Filled: no other has a loss and a cost as low, with one of them lower."
        caption += " Bars: 95 % interval of the mean." if live["bars"] else ""
        yield Illustration("loss_against_cost", "Loss against cost", caption, costs.plot_costs(comparison), live)


def _thinned(live: interactive.Drawing | None) -> str:
    most, limit = (live or {}).get("evaluations", 0), interactive.MOST_EVALUATIONS
    return f" Where it can be questioned, a curve has {limit} of its {most} evaluations; curves.parquet has all." if most > limit else ""


def search_illustrations(comparison: Comparison, found: search.Found | None) -> Iterator[Illustration]:
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


def _inline_svg(text: str, description: str) -> Markup:
    """An SVG document as a part of a page: no prolog, no names that would repeat, sized and coloured by the page."""
    head, body = re.fullmatch(r".*?<svg([^>]*)>(.*)</svg>\s*", text, flags=re.DOTALL).groups()  # type: ignore[union-attr]  # matplotlib's own
    view = re.search(r'viewBox="[^"]*"', head)
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body).replace("xlink:href", "href")
    for colour, name in _PAGE_COLOURS.items():
        body = body.replace(colour, name)
    return Markup('<svg role="img" aria-label="{}" {}><g aria-hidden="true">{}</g></svg>').format(
        description, Markup(view[0] if view else ""), Markup(body)
    )


_PAGE_COLOURS = {
    plots.INK: "currentColor",
    plots.RULE: "var(--rule)",
    plots.MUTED: "var(--muted)",
    plots.PAPER: "var(--paper)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(plots.PALETTE)},
}
