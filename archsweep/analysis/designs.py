"""What a question's design adds to its report: effects of crossed dimensions, picks and importances of many variants, scaling laws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from archsweep.analysis import design_plots, plots, search, search_plots
from archsweep.analysis.factorial import Effects, effects
from archsweep.analysis.illustrations import Illustration
from archsweep.analysis.metric import LOSS
from archsweep.analysis.picks import Pick, picks
from archsweep.analysis.scaling import DRAWS, Fit, Scaling, optima, scaling
from archsweep.analysis.statistics import ALPHA
from archsweep.analysis.tables import OBJECTIVES, Table
from archsweep.analysis.transfer import Shape, Transfer, transfer
from archsweep.analysis.tuning import metric_values
from archsweep.analysis.words import MINUS, decimals, half_of, loss, number, p_value, plural, si, text, words
from archsweep.config import bare_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from archsweep.analysis.compare import Comparison

MOST_CROSSED = 200  # variants: least squares with a column for each of thousands would take hours
CROSSED = " \N{MULTIPLICATION SIGN} "
SIZE_EXPONENT = "\N{GREEK SMALL LETTER ALPHA}"
OF_SIZE, OF_BOTH = f"E + A/N^{SIZE_EXPONENT}", f"E + A/N^{SIZE_EXPONENT} + B/D^β"


@dataclass(frozen=True, eq=False)
class Designs:
    """What was found of a comparison, each empty or None where its design does not ask for it."""

    comparison: Comparison
    effects: Effects | None
    importances: dict[str, float]
    picks: dict[str, list[Pick]]
    scaling: Scaling | None
    transfer: Transfer | None


@dataclass(frozen=True)
class Section:
    """A part of the report: its title, sentences, and tables."""

    title: str
    lines: list[str]
    tables: list[Table]


def read_designs(comparison: Comparison, found: search.Found | None) -> Designs:
    ranked = comparison.table[comparison.table["mean"].notna()]
    many = found is None and len(comparison.source.compare) > 2
    importances = found.importances if found else search.importances(ranked, comparison.source.compare) if many else {}
    return Designs(
        comparison,
        effects(comparison) if 2 < len(ranked) <= MOST_CROSSED else None,
        importances,
        picks(comparison, found),
        scaling(comparison.table, comparison.layout) if comparison.source.metric == LOSS else None,  # the laws are of losses
        transfer(comparison),
    )


def sections(designs: Designs) -> list[Section]:
    crossed = _effects_section(designs.effects) or _effects_left_out(designs.comparison)
    return [
        *_transfer_section(designs.transfer),
        *crossed,
        *_picks_sections(designs.picks),
        *_scaling_section(designs.scaling),
        *_metrics_section(designs.comparison),
    ]


def design_illustrations(designs: Designs) -> Iterator[Illustration]:
    comparison = designs.comparison
    if designs.transfer:
        caption = (
            f"A line per {designs.transfer.what}, with 95 % intervals; the best rate of each as a large hollow mark. Where these lie above "
            "each other, the rate carries over."
        )
        yield Illustration("transfer", "Loss against learning rate", caption, design_plots.plot_transfer(designs.transfer, comparison))
    if design_plots.is_numeric(comparison):
        name, standard = words(comparison.source.compare[0]), plots.standard_name(comparison.table)
        caption = (
            f"Per cent of the loss of {standard}, which is the filled diamond. Bars: 95 % interval of the difference to it. "
            "A line through the variants guides the eye and is no model."
        )
        yield Illustration(
            "loss_increase", f"Loss increase over {standard}, by {name}", caption, design_plots.plot_loss_increase(comparison)
        )
    if designs.effects:
        lines = " Coloured: a line per level of the other dimension; where they are not parallel, the two interact."
        caption = "Black: mean over the levels of all other dimensions, with its 95 % interval from the pooled error."
        caption += lines if len(designs.effects.dimensions) == 2 else ""
        yield Illustration("effects", "Main effects and interactions", caption, design_plots.plot_effects(designs.effects))
    yield from _many_illustrations(designs)
    if designs.scaling and (fit := designs.scaling.shown):
        yield Illustration("scaling", "Loss against size", _scaling_caption(fit), design_plots.plot_scaling(fit))


def _many_illustrations(designs: Designs) -> Iterator[Illustration]:
    table = designs.comparison.table[designs.comparison.table["mean"].notna()]
    fields = [name for name in designs.comparison.source.compare if name in table and table[name].nunique(dropna=False) > 1]
    if len(fields) > 2 and len(table) > 2:
        caption = (
            f"A line per variant, {len(table)} in all, darker the lower its loss; the best {search_plots.LEADING} thick, with markers. "
            "Lines through one value are spread a little around it."
        )
        yield Illustration(
            "parallel_coordinates", "All variants", caption, search_plots.plot_parallel_coordinates(designs.comparison.table, fields)
        )
    if designs.importances:
        caption = (
            "What the lower losses depend on, by PED-ANOVA (Watanabe et al. 2023) over the variants that were trained: how "
            "differently the better tenth of them is spread over a field's values. The parts sum to one; they say nothing of the direction."
        )
        yield Illustration("importances", "Which fields matter", caption, search_plots.plot_importances(designs.importances))


# ---------------------------------------------------------------------------------------------------------------------- effects


def _effects_section(found: Effects | None) -> list[Section]:
    if found is None:
        return []
    header = ("effect", "lowest to highest", "df", "F", "p", "Holm p", "η²", "η²ₚ")
    rows: list[tuple[str, ...]] = [
        (
            CROSSED.join(map(words, row["terms"])),
            number(row["span"], lambda span: f"{decimals(span, span)} nats/token"),
            text(row["df"]),
            number(row["F"], "{:.3g}".format),
            number(row["p"], p_value),
            number(row["holm_p"], p_value),
            number(row["eta"], "{:.2f}".format),
            number(row["partial_eta"], "{:.2f}".format),
        )
        for _, row in found.table.iterrows()
    ]
    return [Section("Effects", [_effects_sentence(found), _effects_method(found)], [Table(header, rows, frozenset(range(1, len(header))))])]


def _effects_left_out(comparison: Comparison) -> list[Section]:
    """That there would be effects, where there are too many variants for them."""
    count, crossed = int(comparison.table["mean"].notna().sum()), comparison.source.search is None and len(comparison.source.compare) > 1
    why = f"There are {count:,} variants with a result; main effects and interactions are computed for at most {MOST_CROSSED}."
    return [Section("Effects", [why], [])] if crossed and count > MOST_CROSSED else []


def _effects_sentence(found: Effects) -> str:
    if not found.degrees:
        return "One seed for each variant leaves no error to test effects against: repeat with at least 3 seeds."
    shown = [CROSSED.join(map(words, row["terms"])) for _, row in found.table.iterrows() if row["holm_p"] < ALPHA]
    hidden = [CROSSED.join(map(words, row["terms"])) for _, row in found.table.iterrows() if not row["holm_p"] < ALPHA]
    parts = [f"Shown to have an effect: {', '.join(shown)}." if shown else "No effect is shown."]
    parts += [f"Not shown: {', '.join(hidden)}; which is not the same as absent."] if hidden and shown else []
    if any(CROSSED in name for name in shown):
        parts.append("Where an interaction is shown, a main effect is a mean over unlike cases: read the variants.")
    return " ".join(parts)


def _effects_method(found: Effects) -> str:
    crossed = " * ".join(f"C({bare_name(name)})" for name in found.dimensions)
    told = (
        f"Type II sums of squares of loss ~ {crossed} + C(seed), each variant at its best "
        f"setting, against the error pooled over all variants ({plural(found.degrees, 'degree')} of freedom). η²: part of the total sum "
        "of squares; η²ₚ: of the effect's and the error's."
    )
    holes = f"{plural(found.empty, 'combination')} of levels without a result: marginal means are those of the additive model."
    return f"{told} {holes}" if found.empty else told


# --------------------------------------------------------------------------------------------------------------------- transfer


def _transfer_section(found: Transfer | None) -> list[Section]:
    if found is None:
        return []
    carried = f"{found.first.best_rate:g}"
    said = (
        f"Each {found.what} has tried every rate. What {found.first.name}'s best rate, {carried}, costs the others is the difference to "
        "their own best at the same seeds, with the error pooled over these variants alone; p-values are corrected for every rate that "
        f"could have been picked (Bonferroni, {plural(found.tests, 'pair')}). Each best was chosen on the seeds that test it, so a cost "
        "looks slightly larger than it is. Sensitivity is the mean of the losses at all rates minus the lowest (Wortsman et al. 2023)."
    )
    header = (found.what, "parameters", "best LR", "audit", "loss there", f"loss at LR {carried}", "costs", "p", "sensitivity")
    rows = [_transfer_row(shape) for shape in found.shapes]
    return [Section("Does the learning rate carry over?", [said], [Table(header, rows, frozenset(range(1, len(header))) - {3})])]


def _transfer_row(shape: Shape) -> tuple[str, ...]:
    return (
        shape.name,
        number(shape.parameters, "{:,.0f}".format),
        number(shape.best_rate, "{:g}".format),
        "inside" if shape.is_inside else f"{shape.edge}: add {shape.add:g}",
        number(shape.loss, loss),
        "diverged" if shape.diverged else number(shape.carried_loss, loss),
        number(shape.cost, lambda cost: decimals(cost, shape.half_width), half_of(shape.half_width)),
        number(shape.p, p_value),
        number(shape.sensitivity, loss),
    )


# ---------------------------------------------------------------------------------------------------------------- metrics of its own


def _metrics_section(comparison: Comparison) -> list[Section]:
    """What the config's own metrics measured: of each variant at its best setting, the mean over the tested seeds and their sd."""
    found = metric_values(comparison)
    if found.empty:
        return []
    names = list(found.columns)
    means, spreads = found.groupby(level="variant", sort=False).mean(), found.groupby(level="variant", sort=False).std()
    rows = [
        (
            str(variant),
            *(number(means.loc[variant, name], loss, half_of(spreads.loc[variant, name])) for name in names),
        )
        for variant in means.index
    ]
    said = "By the question's own functions at the last evaluation, each variant at its best setting: mean ± sd over the tested seeds."
    return [Section("Further metrics", [said], [Table(("variant", *map(words, names)), rows, frozenset(range(1, len(names) + 1)))])]


# ------------------------------------------------------------------------------------------------------------------------ picks


def _picks_sections(found: dict[str, list[Pick]]) -> list[Section]:
    if not found:
        return []
    said = (
        "For each limit from which on it is another one, the variant of lowest loss that keeps it, with half of its 95 % interval, and how "
        "much the next limit lowers the loss. Picks are the lowest of the losses shown, so they look slightly better than they are."
    )
    return [Section("Pick for your limit", [said], [_picks_table(cost, rungs) for cost, rungs in found.items()])]


def _picks_table(cost: str, rungs: list[Pick]) -> Table:
    form = OBJECTIVES[cost]
    header = (f"{words(cost)} at most", "pick", words(cost), "val loss", "± 95 %", "the next limit brings")
    rows: list[tuple[str, ...]] = [
        (
            number(pick.limit, lambda limit: form(limit) if np.isfinite(limit) else "no limit"),
            pick.variant,
            number(pick.cost, form),
            number(pick.mean, loss),
            number(pick.half_width, lambda half: decimals(half, half)),
            _gain(pick),
        )
        for pick in rungs
    ]
    return Table(header, rows, frozenset({0, 2, 3, 4, 5}))


def _gain(pick: Pick) -> str:
    if np.isnan(pick.gain):
        return "nothing"
    half = pick.gain_half_width
    return number(-pick.gain, lambda change: decimals(change, half).replace("-", MINUS), half_of(half))


# ---------------------------------------------------------------------------------------------------------------------- scaling


def _scaling_section(found: Scaling | None) -> list[Section]:
    if found is None:
        return []
    reasons = [f"Counted as {words(name)} there is no scaling law: {reason}" for name, reason in found.reasons.items()]
    if (fit := found.shown) is None:
        return [Section("Scaling", reasons[:2][-1:], [])]  # by the weights that compute, where these are known
    tables = [_laws_table(found), *([_optima_table(fit)] if optima(fit) else [])]
    return [Section("Scaling", [_law_sentence(fit), *_misfits(found), *_compute_sentences(fit), *reasons, _law_method(fit)], tables)]


def _law_sentence(fit: Fit) -> str:
    points = fit.points
    low, high = points.sizes.min(), points.sizes.max()
    lengths = (
        f"at {points.tokens[0]:,.0f} tokens" if points.one_length else f"{points.tokens.min():,.0f} to {points.tokens.max():,.0f} tokens"
    )
    law = f"L(N) = {OF_SIZE}" if points.one_length else f"L(N, D) = {OF_BOTH} (Hoffmann et al. 2022)"
    return (
        f"{law}, fitted to {len(points.sizes)} variants of {low:,.0f} to {high:,.0f} {words(fit.convention)}, {lengths}. "
        "The law holds in this range; what it says beyond is extrapolation, not evidence."
        + (" E contains what more tokens would win." if points.one_length else "")
    )


def _misfits(found: Scaling) -> list[str]:
    """What speaks against a law: sizes that leave its exponents open, and points that it misses by more than their seeds spread."""
    open_ones = [words(fit.convention) for fit in found.fits if not fit.law.is_determined]
    missed = [words(fit.convention) for fit in found.fits if fit.lack_of_fit < ALPHA]
    told = (
        [f"Counted as {' or '.join(open_ones)} the points do not determine the exponents: they end where the search ends."]
        if open_ones
        else []
    )
    more = "the points lie off the law by more than their seeds spread (F test, p below .05): it is a summary there, not a law."
    return [*told, f"Counted as {' or '.join(missed)} {more}"] if missed else told


def _law_method(fit: Fit) -> str:
    intervals = (
        f"95 % intervals and bands are of {DRAWS} laws fitted to losses drawn anew around this one, with the spread of the seeds or with "
        "what the law leaves of the points, whichever is more."
        if fit.draws
        else "There are too few points and seeds for intervals."
    )
    return (
        "Exponents by variable projection (Golub and Pereyra 1973): for given ones E, A and B are non-negative least "
        "squares of the relative error. "
        f"{intervals} Exponents depend on which weights are counted."
    )


def _compute_sentences(fit: Fit) -> list[str]:
    if fit.points.one_length or not fit.law.is_determined:
        return []
    low = float(fit.points.losses.min())
    exponent = fit.law.compute_exponent_at(low)
    best = "Best sizes are those of lowest loss by the law at equal compute, not of a parabola through the points" if optima(fit) else ""
    costs = (
        f"At {loss(low)} nats/token, 1 % less loss takes {1.01 ** (1 / exponent) - 1:.0%} more compute by this law." if exponent > 0 else ""
    )
    flops = f"; compute is taken as {fit.flops_per_product:.3g} N·D FLOPs, the median of the variants." if best else ""
    return [f"{best}{flops} {costs}".strip()]


def _laws_table(found: Scaling) -> Table:
    both = not found.fits[0].points.one_length
    names = ["irreducible", "alpha", *(["beta", "compute_exponent", "size_exponent"] if both else [])]
    titles = ["E", SIZE_EXPONENT, *(["β", f"{SIZE_EXPONENT}_C", "N_opt ~ C^a: a"] if both else [])]
    header = ("counted as", "from", "to", *titles, "misfit (nats/token)", "lack of fit p")
    rows: list[tuple[str, ...]] = [
        (
            words(fit.convention),
            number(fit.points.sizes.min(), "{:,.0f}".format),
            number(fit.points.sizes.max(), "{:,.0f}".format),
            *(_with_interval(fit, name) for name in names),
            number(fit.misfit, lambda misfit: decimals(misfit, misfit)),
            number(fit.lack_of_fit, p_value),
        )
        for fit in found.fits
    ]
    return Table(header, rows, frozenset(range(1, len(header))))


def _with_interval(fit: Fit, name: str) -> str:
    if not fit.law.is_determined and name != "irreducible":
        return "open"
    value, (low, high) = getattr(fit.law, name), fit.interval(name)
    return number(value, "{:.2f}".format, f" ({low:.2f} to {high:.2f})" if np.isfinite(low) else "")


def _optima_table(fit: Fit) -> Table:
    header = ("compute", "variants", f"best {words(fit.convention)}", "95 % interval", "tokens", "among the sizes tried")
    rows: list[tuple[str, ...]] = [
        (
            number(optimum.flops, si, " FLOPs"),
            text(optimum.variants),
            number(optimum.size, "{:,.0f}".format),
            number(optimum.low, "{:,.0f}".format, f" to {optimum.high:,.0f}"),
            number(optimum.tokens, "{:,.0f}".format),
            "yes" if optimum.inside else "no: extrapolation",
        )
        for optimum in optima(fit)
    ]
    return Table(header, rows, frozenset(range(len(header) - 1)))


def _scaling_caption(fit: Fit) -> str:
    law = OF_SIZE if fit.points.one_length else OF_BOTH
    stars = " Stars: the best size of each compute budget by the law." if optima(fit) else ""
    return (
        f"Points: variants, with the 95 % interval of their means. Curves: {law}, with its 95 % band, drawn between the sizes that were "
        f"trained and no further.{stars}"
    )
