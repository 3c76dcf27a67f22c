"""The budget solver of sizes: chooses hidden_size and ffn_size so that every variant's exact parameter count is within the tolerance.

The proportion ffn_size / hidden_size of the config that comes in is the one wanted: of all sizes within the tolerance, those
nearest to it win.
"""

from __future__ import annotations

from itertools import pairwise
from math import ceil, floor, lcm, log
from typing import TYPE_CHECKING, NamedTuple

from archsweep.config import ROTARY
from archsweep.planning import cost

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from archsweep.config import ExperimentConfig
    from archsweep.vocabulary import Budget

MOST_DISTORTED = 2.0  # where both sizes are solved, ffn_size / hidden_size stays within this factor of the wanted proportion
SAME_PROPORTION = 1.05  # proportions that differ by less are one proportion, rounded to whole sizes
WIDEST = 2**17  # beyond any model: a target not reached by then is too high, or an override holds the width


class _Sized(NamedTuple):
    """A config with sizes to try, and its exact count."""

    config: ExperimentConfig
    total: int


class _Task(NamedTuple):
    """What one config is to be brought to."""

    config: ExperimentConfig
    budget: Budget
    solved: Sequence[str]
    step: int  # hidden_size must be a multiple of it, and ffn_size of the budget's `multiple_of`
    wanted: float  # ffn_size / hidden_size

    def sized(self, hidden: int, ffn: int) -> _Sized:
        config = self.config.copy(hidden_size=hidden, ffn_size=ffn)
        assert self.budget.kind == "parameters" or self.budget.kind == "non_embedding_parameters"
        return _Sized(config, cost.count(config, self.budget.kind))

    def in_proportion(self, hidden: int) -> int:
        """The ffn_size nearest the wanted proportion."""
        return _multiple(hidden * self.wanted, self.budget.multiple_of)

    def miss(self, sized: _Sized) -> float:
        return abs(sized.total - self.budget.target)

    def distortion(self, sized: _Sized) -> float:
        """How far the proportion is from the wanted one, either way."""
        return abs(log(_proportion(sized.config) / self.wanted))


def solve(configs: Sequence[ExperimentConfig], budget: Budget, solved: Sequence[str]) -> list[ExperimentConfig | str]:
    """Each config with the sizes `solved` chosen ("hidden_size", "ffn_size" or both), or the reason why none are within the tolerance.

    Configs that differ only in their heads get the same sizes, where sizes that divide by all their head counts are within the tolerance.
    """
    outcome: dict[int, ExperimentConfig | str] = {}
    for group in _alike_but_heads(configs, solved):
        outcome |= _solve_together({index: configs[index] for index in group}, budget, solved)
    return [outcome[index] for index in range(len(configs))]


def _alike_but_heads(configs: Sequence[ExperimentConfig], solved: Sequence[str]) -> list[list[int]]:
    """Positions of the configs that can share their sizes: equal but for heads and what will be solved, and of one wanted proportion."""
    alike: dict[str, list[int]] = {}
    for index, config in enumerate(configs):
        content = {
            name: value for name, value in config.to_dict().items() if name not in {"num_heads", "num_kv_heads", "head_dim", *solved}
        }
        alike.setdefault(repr(content), []).append(index)
    groups: list[list[int]] = []
    for members in alike.values():
        members.sort(key=lambda index: _proportion(configs[index]))
        groups.append(members[:1])
        for before, index in pairwise(members):
            if len(solved) == 2 and _proportion(configs[index]) > SAME_PROPORTION * _proportion(configs[before]):
                groups.append([])
            groups[-1].append(index)
    return groups


def _solve_together(group: dict[int, ExperimentConfig], budget: Budget, solved: Sequence[str]) -> dict[int, ExperimentConfig | str]:
    """Sizes for all of the group; where none suit all, those with the most heads are solved alone and the others together."""
    wanted = _proportion(max(group.values(), key=lambda config: config.hidden_size))  # the one that rounding changed least

    def solve_for(indices: Iterable[int], step: int) -> dict[int, ExperimentConfig | str]:
        return {index: _solve(_Task(group[index], budget, solved, step, wanted)) for index in indices}

    by_heads = sorted(group, key=lambda index: group[index].num_heads)
    alone: dict[int, ExperimentConfig | str] = {}
    while by_heads:
        together = solve_for(by_heads, lcm(*(_step(group[index], budget) for index in by_heads)))
        if len(by_heads) == 1 or not any(isinstance(result, str) for result in together.values()):
            return together | alone
        last = by_heads.pop()
        alone |= solve_for([last], _step(group[last], budget))
    return alone


def _step(config: ExperimentConfig, budget: Budget) -> int:
    """hidden_size must be a multiple of this: whole heads, of an even size where positions are rotary, and what the budget asks for."""
    return lcm(config.num_heads * (2 if config.family in ROTARY else 1), budget.multiple_of)


def _multiple(size: float, of: int) -> int:
    """The multiple of `of` nearest `size`, and at least one of it."""
    return of * max(1, round(size / of))


def _solve(task: _Task) -> ExperimentConfig | str:
    """The task's config with its sizes chosen, or the reason why not."""
    tried = list(_tries(task))
    within = [sized for sized in tried if task.budget.allows(sized.total)]
    if not within:
        return _why_not(task, min(tried, key=task.miss))
    if len(task.solved) == 2:
        return min(within, key=lambda sized: (task.distortion(sized), task.miss(sized))).config
    return min(within, key=task.miss).config  # the proportion is what is compared


def _tries(task: _Task) -> Iterator[_Sized]:
    """The sizes among which the best are, and where none fit, those that come nearest."""
    config, step = task.config, task.step
    if "hidden_size" not in task.solved:
        yield _with_ffn_solved(task, config.hidden_size, task.budget.multiple_of, None)
    elif "ffn_size" not in task.solved:
        width = _first_width_at_target(task)
        yield from (task.sized(hidden, config.ffn_size) for hidden in {max(step, width - step), width})
    else:
        width = _first_width_at_target(task)
        # At one count, half the wanted proportion makes a model at most 1.42 times as wide.
        yield from _up_to_the_first_within(task, range(width, 2 * width + 1, step) if width < WIDEST else [width])
        yield from _up_to_the_first_within(task, range(width - step, 0, -step) if width < WIDEST else [])


def _first_width_at_target(task: _Task) -> int:
    """The smallest multiple of the step that reaches the target, in the wanted proportion or with the ffn_size that is given."""

    def reaches(multiple: int) -> bool:
        hidden = multiple * task.step
        ffn = task.in_proportion(hidden) if "ffn_size" in task.solved else task.config.ffn_size
        return task.sized(hidden, ffn).total >= task.budget.target

    high = 1
    while not reaches(high) and high * task.step < WIDEST:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high * task.step


def _up_to_the_first_within(task: _Task, widths: Iterable[int]) -> Iterator[_Sized]:
    """Sizes at each width, further and further from the wanted proportion, so the first within the tolerance is this side's best."""
    of = task.budget.multiple_of
    for hidden in widths:
        narrowest = of * max(1, ceil(hidden * task.wanted / MOST_DISTORTED / of))
        widest = max(narrowest, of * floor(hidden * task.wanted * MOST_DISTORTED / of))
        sized = _with_ffn_solved(task, hidden, narrowest, widest)
        yield sized
        above = sized.total > task.budget.target
        if task.budget.allows(sized.total) or sized.config.ffn_size == (narrowest if above else widest):
            return


def _with_ffn_solved(task: _Task, hidden: int, narrowest: int, widest: int | None) -> _Sized:
    """The ffn_size between the limits that brings the count nearest the target; every unit of it adds the same to the count."""
    of = task.budget.multiple_of
    smallest = task.sized(hidden, of).total
    growth = task.sized(hidden, 2 * of).total - smallest
    if growth <= 0:  # an override fixes it
        return task.sized(hidden, task.in_proportion(hidden))
    ffn = max(narrowest, of + of * round((task.budget.target - smallest) / growth))
    return task.sized(hidden, ffn if widest is None else min(widest, ffn))


def _proportion(config: ExperimentConfig) -> float:
    return config.ffn_size / config.hidden_size


def _why_not(task: _Task, best: _Sized) -> str:
    budget, sizes = task.budget, " and ".join(task.solved)
    steps = {"hidden_size": task.step, "ffn_size": budget.multiple_of}
    multiples = ", ".join(f"{size} must be a multiple of {steps[size]}" for size in task.solved if steps[size] > 1)
    multiple = f" ({multiples})" if multiples else ""
    return (
        f"{budget.kind} must be within {budget.tolerance:.2%} of {budget.target:,}; the nearest that {sizes} can reach{multiple} is "
        f"{best.total:,}, with hidden_size {best.config.hidden_size} and ffn_size {best.config.ffn_size}. "
        f"Raise the tolerance, {'lower' if best.total < budget.target else 'raise'} the target, or compare other values."
    )
