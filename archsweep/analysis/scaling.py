"""Scaling laws of sweeps whose variants differ in size: E + A/N^alpha, and E + A/N^alpha + B/D^beta (Hoffmann et al. 2022).

A law holds between the smallest and the largest variant that was trained; beyond them it is a guess, and nothing here draws it there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.optimize import minimize, nnls

from archsweep.analysis.statistics import ALPHA

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from archsweep.analysis.statistics import Layout

Numbers = npt.NDArray[np.float64]

CONVENTIONS = ("parameters", "non_embedding_parameters", "kaplan_parameters")
FEWEST_SIZES, FEWEST_LENGTHS, NARROWEST = 4, 3, 4.0  # below these counts, or over a narrower factor, any curve fits
SAME = 0.01  # sizes, or lengths, that differ by less are one
SAME_FLOPS = 0.05  # runs of one compute budget
MOST_ALIKE = 0.95  # correlation of log N and log D beyond which their parts cannot be told apart
LOWEST, HIGHEST = np.log(0.02), np.log(3.0)  # logarithms of exponents: what was ever published, with room
DRAWS = 200


class Law(NamedTuple):
    """E + A/N^alpha + B/D^beta, in nats/token; without a term for the tokens B is 0 and beta missing."""

    irreducible: float
    size_factor: float
    alpha: float
    token_factor: float = 0.0
    beta: float = float("nan")

    def loss(self, sizes: npt.ArrayLike, tokens: npt.ArrayLike = 1.0) -> Numbers:
        by_tokens = self.token_factor * np.asarray(tokens, dtype=float) ** -self.beta if self.token_factor else 0.0
        return np.asarray(self.irreducible + self.size_factor * np.asarray(sizes, dtype=float) ** -self.alpha + by_tokens)

    @property
    def parameters(self) -> int:
        return 3 if np.isnan(self.beta) else 5

    @property
    def is_determined(self) -> bool:
        """Whether every term is there, with an exponent inside those that are searched."""
        exponents = [self.alpha] if np.isnan(self.beta) else [self.alpha, self.beta]
        inside = all(LOWEST + 1e-3 < np.log(exponent) < HIGHEST - 1e-3 for exponent in exponents)
        return inside and self.size_factor > 0 and (self.token_factor > 0 or np.isnan(self.beta))

    @property
    def size_exponent(self) -> float:
        """a of N_opt ~ C^a, the size that compute C is best spent on: beta / (alpha + beta). The tokens' is 1 - a."""
        return self.beta / (self.alpha + self.beta)

    @property
    def compute_exponent(self) -> float:
        """alpha_C of L_opt(C) = E + const / C^alpha_C: alpha beta / (alpha + beta)."""
        return self.alpha * self.beta / (self.alpha + self.beta)

    def best_size(self, flops: float, flops_per_product: float) -> float:
        """The size of lowest loss for `flops` = `flops_per_product` * N * D, in closed form (Hoffmann et al. 2022, equation 4)."""
        balance = (self.alpha * self.size_factor / (self.beta * self.token_factor)) ** (1 / (self.alpha + self.beta))
        return float(balance * (flops / flops_per_product) ** self.size_exponent)

    def compute_exponent_at(self, loss: float) -> float:
        """The exponent of a law without E, L ~ C^-x, that falls as steeply as this one at `loss`: alpha_C (L - E) / L."""
        return self.compute_exponent * (loss - self.irreducible) / loss


def fit_law(sizes: Numbers, losses: Numbers, tokens: Numbers | None = None, start: Law | None = None) -> Law:
    """The law of least squared relative error, by variable projection (Golub and Pereyra 1973).

    For given exponents E, A and B are a linear least-squares problem, solved with none of them negative; what is left to search
    are the exponents: over a grid, and from its best point on, or from `start`, by Nelder and Mead's simplex.
    """
    logs = [np.log(values) for values in (sizes, tokens) if values is not None]
    centres = [float(log.mean()) for log in logs]  # factors of N / its mean are of the losses' own scale
    terms = [log - centre for log, centre in zip(logs, centres, strict=True)]

    def error(log_exponents: Numbers) -> float:
        return _project(np.exp(log_exponents), terms, losses)[1]

    if start is None:
        grid = np.linspace(LOWEST, HIGHEST, 18)
        first = min(map(np.array, product(grid, repeat=len(terms))), key=error)
    else:
        first = np.log([start.alpha, start.beta][: len(terms)])
    bounds = [(LOWEST, HIGHEST)] * len(terms)
    simplex = np.clip(np.vstack([first, first + 0.2 * np.eye(len(terms))]), LOWEST, HIGHEST)
    fine = {"xatol": 1e-3, "fatol": 1e-6} if start else {"xatol": 1e-8, "fatol": 1e-13, "maxiter": 2000}
    found = minimize(error, first, method="Nelder-Mead", bounds=bounds, options=fine | {"initial_simplex": simplex})
    exponents = np.exp(found.x)
    factors = _project(exponents, terms, losses)[0]
    raw = [float(factor * np.exp(exponent * centre)) for factor, exponent, centre in zip(factors[1:], exponents, centres, strict=True)]
    return Law(float(factors[0]), *(float(number) for pair in zip(raw, exponents, strict=True) for number in pair))


def _project(exponents: Numbers, terms: Sequence[Numbers], losses: Numbers) -> tuple[Numbers, float]:
    """The best factors for these exponents, and the root of the summed squared relative errors that they leave."""
    columns = [np.ones_like(losses), *(np.exp(-exponent * term) for exponent, term in zip(exponents, terms, strict=True))]
    factors, error = nnls(np.column_stack(columns) / losses[:, None], np.ones_like(losses))
    return factors, float(error)


# ---------------------------------------------------------------------------------------------------------------- a sweep's own laws


@dataclass(frozen=True, eq=False)
class Points:
    """What is fitted: a point per variant, its mean loss over seeds at its best setting; `sizes` by one convention of counting."""

    sizes: Numbers
    tokens: Numbers
    flops: Numbers
    losses: Numbers
    error: float  # standard error of a point, pooled over the variants' seeds; NaN of one seed
    degrees: int

    @property
    def half_width(self) -> float:
        """Half of a point's 95 % interval; NaN of one seed."""
        return float(stats.t.ppf(1 - ALPHA / 2, self.degrees) * self.error) if self.degrees else float("nan")

    @property
    def one_length(self) -> bool:
        return bool(self.tokens.max() <= (1 + SAME) * self.tokens.min())


@dataclass(frozen=True, eq=False)
class Fit:
    """A law with what it was fitted to, and the laws that as noisy losses would have given, for intervals."""

    convention: str
    points: Points
    law: Law
    draws: tuple[Law, ...]

    @property
    def misfit(self) -> float:
        """Root mean square of what the law leaves of the points, in nats/token."""
        return float(np.sqrt(np.mean(_residuals(self.law, self.points) ** 2)))

    @property
    def lack_of_fit(self) -> float:
        """P-value of the F test of what the law leaves of the points against their seeds' error; NaN where either is unknown."""
        points, left = self.points, len(self.points.losses) - self.law.parameters
        if left < 1 or points.degrees < 1 or not points.error > 0:
            return float("nan")
        return float(stats.f.sf(np.sum(_residuals(self.law, points) ** 2) / left / points.error**2, left, points.degrees))

    def interval(self, name: str) -> tuple[float, float]:
        """The 95 % interval of a number of the law, by its name; NaN where no draw was possible."""
        return _middle([getattr(law, name) for law in self.draws])

    def band(self, sizes: Numbers, tokens: npt.ArrayLike) -> tuple[Numbers, Numbers]:
        """The 95 % band of the law's loss at these seeds, point by point."""
        low, high = np.quantile([law.loss(sizes, tokens) for law in self.draws], (0.025, 0.975), axis=0)
        return low, high

    @cached_property
    def flops_per_product(self) -> float:
        """FLOPs over N * D, the median over the variants: 6 where every counted weight is used once for each token."""
        return float(np.median(self.points.flops / (self.points.sizes * self.points.tokens)))


class Optimum(NamedTuple):
    """Where a compute budget is best spent, by the law: the size and its 95 % interval; `inside` the sizes that had this budget."""

    flops: float
    variants: int
    size: float
    low: float
    high: float
    tokens: float
    inside: bool


@dataclass(frozen=True, eq=False)
class Scaling:
    """The laws of a sweep, one by each convention of counting that allows it; `reasons` says of the others why there is none."""

    fits: tuple[Fit, ...]
    reasons: dict[str, str]

    @property
    def shown(self) -> Fit | None:
        """The fit that is drawn and spoken of: by the weights that compute, where there is one."""
        return next((fit for fit in self.fits if fit.convention == "non_embedding_parameters"), next(iter(self.fits), None))


def scaling(table: pd.DataFrame, layout: Layout | None) -> Scaling | None:
    """The laws that a comparison's table allows; None where its variants do not differ in size, so that nothing scales."""
    ranked = table[table["mean"].notna() & table["tokens"].notna()]
    known = [name for name in CONVENTIONS if len(ranked) > 1 and (ranked[name].notna() & (ranked[name] > 0)).all()]
    points = {name: _points(ranked, name, layout) for name in known}
    if not any(_factor(point.sizes) >= 1.5 for point in points.values()):
        return None
    reasons = {name: _too_little(point) for name, point in points.items()}
    fits = tuple(fit_points(name, points[name]) for name, reason in reasons.items() if not reason)
    return Scaling(fits, {name: reason for name, reason in reasons.items() if reason})


def compute_exponent(table: pd.DataFrame) -> float | None:
    """alpha_C at the lowest loss, for (L_A / L_B)^(1 / alpha_C) as a ratio of compute; None where no L(N, D) can be fitted.

    That ratio knows no irreducible loss, so it is given the slope of the sweep's law where its losses are.
    """
    ranked = table[table["mean"].notna() & table["tokens"].notna() & table["non_embedding_parameters"].notna()]
    if len(ranked) < 2:
        return None
    points = _points(ranked, "non_embedding_parameters", None)
    if points.one_length or _too_little(points):
        return None
    law = fit_law(points.sizes, points.losses, points.tokens)
    exponent = law.compute_exponent_at(float(points.losses.min()))
    return exponent if law.is_determined and exponent > 0 else None


def optima(fit: Fit) -> list[Optimum]:
    """The best size of every compute budget that at least three variants share, read from the law and not from a parabola through them.

    None where the records do not say every variant's FLOPs.
    """
    if fit.points.one_length or not fit.law.is_determined or not np.isfinite(fit.points.flops).all():
        return []
    return [
        _optimum(fit, group) for group in alike(fit.points.flops, SAME_FLOPS) if len(group) >= 3 and _factor(fit.points.sizes[group]) >= 2
    ]


def _optimum(fit: Fit, group: npt.NDArray[np.intp]) -> Optimum:
    flops, sizes = float(np.median(fit.points.flops[group])), fit.points.sizes[group]
    size = fit.law.best_size(flops, fit.flops_per_product)
    low, high = _middle([law.best_size(flops, fit.flops_per_product) if law.is_determined else np.nan for law in fit.draws])
    inside = bool(sizes.min() <= size <= sizes.max())
    return Optimum(flops, len(group), size, low, high, flops / (fit.flops_per_product * size), inside)


def alike(values: Numbers, tolerance: float) -> list[npt.NDArray[np.intp]]:
    """Indices by groups of one value, the smallest first: a group ends where the next value is more than `tolerance` above its last."""
    order = np.argsort(values, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(np.log(values[order])) > np.log1p(tolerance)) + 1)


def _points(ranked: pd.DataFrame, convention: str, layout: Layout | None) -> Points:
    sizes, tokens, flops, losses = (ranked[name].to_numpy(dtype=float) for name in (convention, "tokens", "flops", "mean"))
    error = float(layout.mean_errors.max()) if layout else float("nan")
    return Points(sizes, tokens, flops, losses, error, layout.degrees if layout else 0)


def _too_little(points: Points) -> str:
    """Why no law is fitted to these points; empty where one is."""
    count, factor = len(alike(points.sizes, SAME)), _factor(points.sizes)
    if count < FEWEST_SIZES or factor < NARROWEST:
        return (
            f"it takes {FEWEST_SIZES} sizes over a factor of {NARROWEST:g} or more, and there are {count} over a factor of {factor:.2g}. "
            "On less, any curve fits."
        )
    if points.one_length:
        return ""
    lengths, span = len(alike(points.tokens, SAME)), _factor(points.tokens)
    if lengths < FEWEST_LENGTHS or span < NARROWEST or len(points.losses) < 6:
        return (
            "the variants trained on different numbers of tokens, and telling their part from the size's takes "
            f"{FEWEST_LENGTHS} lengths over a factor of {NARROWEST:g} and 6 variants; "
            f"there are {lengths} over a factor of {span:.2g} and {len(points.losses)} variants."
        )
    if abs(np.corrcoef(np.log(points.sizes), np.log(points.tokens))[0, 1]) > MOST_ALIKE:
        return (
            "size and number of tokens change together, so their parts cannot be told apart. "
            "Compare each size at several lengths, or at two compute budgets or more."
        )
    return ""


def _factor(values: Numbers) -> float:
    return float(values.max() / values.min())


def fit_points(convention: str, points: Points) -> Fit:
    """The law of these points, with its draws: L(N) where all trained on one number of tokens, else L(N, D)."""
    law = fit_law(points.sizes, points.losses, None if points.one_length else points.tokens)
    return Fit(convention, points, law, _draws(points, law))


def _draws(points: Points, law: Law) -> tuple[Law, ...]:
    """Laws fitted to losses drawn anew around this one: a parametric bootstrap with a fixed generator.

    The noise is that of the seeds, or what the law leaves of the points where that is more. It was itself estimated from few
    degrees of freedom, so each draw draws its size too (as Student's t does).
    """
    left = len(points.losses) - law.parameters
    lack = float(np.sqrt(np.sum(_residuals(law, points) ** 2) / left)) if left > 0 else 0.0
    noise, degrees = (lack, left) if not points.error >= lack else (points.error, points.degrees)
    if degrees < 1:
        return ()
    rng, expected = np.random.default_rng(0), law.loss(points.sizes, points.tokens)
    tokens = None if points.one_length else points.tokens

    def draw() -> Law:
        deviation = noise * np.sqrt(degrees / rng.chisquare(degrees))
        losses = expected + deviation * rng.standard_normal(len(expected))
        return fit_law(points.sizes, np.maximum(losses, expected / 10), tokens, law)

    return tuple(draw() for _ in range(DRAWS))


def _residuals(law: Law, points: Points) -> Numbers:
    return points.losses - law.loss(points.sizes, points.tokens)


def _middle(values: Sequence[float]) -> tuple[float, float]:
    known = [value for value in values if np.isfinite(value)]
    low, high = np.quantile(known, (0.025, 0.975)) if known else (np.nan, np.nan)
    return float(low), float(high)
