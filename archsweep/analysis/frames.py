"""Results that no sweep of ours wrote, by the roles of their columns: a dataframe, or what Ray Tune's `Tuner.fit()` returned."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from math import isfinite
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypedDict, get_args, runtime_checkable

import pandas as pd

from archsweep.analysis.words import names, one_kind
from archsweep.config import TUNABLE, label
from archsweep.errors import RecordError, nearest
from archsweep.records import read
from archsweep.records.schema import CONFIG, RESULTS, Column, Status

if TYPE_CHECKING:
    from archsweep.analysis.compute import Exponent

CONFIG_PREFIX = "config/"  # of a trial's parameters in Tune's dataframes
Row = dict[str, Any]


@runtime_checkable
class ResultGrid(Protocol):
    """What Ray's `Tuner.fit()` returns, by what is read of it."""

    def get_dataframe(self) -> pd.DataFrame: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class Roles(NamedTuple):
    """Which column is what, by its name with or without Tune's "config/" before it; None is the default.

    `compare` makes a variant ("variant"); `tune` is what each variant may choose for itself (learning_rate and weight_decay, where they
    are); `repeat` pairs the repetitions ("seed", where it is: else each row is a repetition by itself); `metric` is compared
    ("val_loss"), and `mode` says whether a small one or a large one is good.
    """

    compare: Sequence[str] | None = None
    tune: Sequence[str] | None = None
    repeat: str | None = None
    metric: str | None = None
    mode: Literal["min", "max"] = "min"


class RoleNames(TypedDict, total=False):
    """The keywords of compare_experiments: the roles, and how results without a plan are tested."""

    compare: Sequence[str] | None
    tune: Sequence[str] | None
    repeat: str | None
    metric: str | None
    mode: Literal["min", "max"]
    reference: str | None
    margin: float | None
    exponent: Exponent | None


class Framed(NamedTuple):
    """Results with the columns of schema.RESULTS, those compared, and `tuned`: the tuned columns other than the learning rate and weight
    decay, in words. `val_loss` holds the metric, negated where a large one is good; `notes` are for the report."""

    results: pd.DataFrame
    compare: tuple[str, ...]
    metric: str
    notes: tuple[str, ...]


def grid_frame(grid: ResultGrid) -> pd.DataFrame:
    """A row per trial, with the columns of `ResultGrid.get_dataframe()`; trials that failed have `status` and `reason`.

    Made of the grid's results one by one: its own dataframe leaves out trials that failed before they reported.
    """
    return pd.DataFrame([_grid_row(grid[index]) for index in range(len(grid))])


def _grid_row(result: Any) -> Row:
    metrics = dict(result.metrics or {})
    config = metrics.pop("config", None) or {}
    row = dict(_flat(metrics)) | {CONFIG_PREFIX + name: value for name, value in _flat(config)}
    if result.error is not None:  # a traceback, whose last line says what happened
        lines = str(result.error).strip().splitlines() or [type(result.error).__name__]
        return row | {"status": "failed", "reason": lines[-1].strip()}
    if metrics.get("done") is not True:  # here alone: in the files that Tune's dataframe is read from it stays false
        return row | {"status": "unfinished", "reason": f"last reported at training_iteration {metrics.get('training_iteration', 0)}"}
    return row


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Nested names joined by slashes, as Tune joins them."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{name}/")
        else:
            yield f"{before}{name}", value


def read_frame(given: pd.DataFrame, roles: Roles) -> Framed:
    """A result per row of `given`, whatever became of it. Raises RecordError for a column that is missing, or that has two roles."""
    if given.empty:
        raise RecordError("The results must have a row per replica, got an empty dataframe.")
    if roles.mode not in ("min", "max"):
        raise RecordError(f"mode must be min, where a small metric is good, or max, where a large one is, got {roles.mode!r}.")
    given = given.rename(columns=str)
    columns = _columns(given, roles)
    rows = [{name: _plain(value) for name, value in row.items()} for row in _rows(given)]
    found = [_result(row, columns, roles.mode, _last_iteration(given)) for row in rows]
    _set_seeds(found, rows, columns)
    results = pd.DataFrame({column.name: _typed(found, column) for column in RESULTS})
    results["trial_id"] = results["trial_id"].fillna(_row_names(len(results)))
    results["tuned"] = pd.array([row["tuned"] for row in found], dtype="string")
    results = results.assign(**dict(_own(results, rows, columns)))
    _check_repetitions(results, given, columns)
    return Framed(results, tuple(columns.compare), columns.metric.removeprefix(CONFIG_PREFIX), _notes(given, columns, roles.mode))


# ------------------------------------------------------------------------------------------------------------------- the columns


class _Columns(NamedTuple):
    """The column of each role; compared and tuned ones by the name that the report gives them."""

    compare: dict[str, str]
    tune: dict[str, str]
    repeat: str | None
    metric: str

    @property
    def named(self) -> list[str]:
        return [*self.compare.values(), *self.tune.values(), *filter(None, [self.repeat]), self.metric]


# What is found out about rows, and what the ranking says of variants.
_TAKEN = frozenset(
    [
        "seed", "status", "reason", "user_metrics", "tuned", "mean", "sd", "n", "learning_rate_edge", "learning_rate_to_add",
        "at_common_rate", "learning_rate_sensitivity", "verdict", "difference", "error", "low", "high", "holm_p", "equivalence_p",
        "seeds_better", "own_low", "own_high", "signs_p", "compute_ratio", "tested_against", "seeds_needed", "detectable",
    ]
)  # fmt: skip


def _columns(given: pd.DataFrame, roles: Roles) -> _Columns:
    names = list(given.columns)
    if roles.compare is None and _find("variant", names) is None:
        raise RecordError(f"Name the columns that make a variant, as compare=['num_layers']. The results have {', '.join(sorted(names))}.")
    compare = {name.removeprefix(CONFIG_PREFIX): _existing(name, names) for name in _list(roles.compare or ["variant"])}
    if taken := sorted(_TAKEN.intersection(compare)):
        raise RecordError(
            f"A compared column must not be called like one that the report makes itself, got {', '.join(taken)}. Rename it, as with "
            f"results.rename(columns={{{taken[0]!r}: 'my_{taken[0]}'}})."
        )
    free = [name for name in names if name not in compare.values()]
    tune = [name for name in TUNABLE if _find(name, free)] if roles.tune is None else _list(roles.tune)
    repeat = roles.repeat or ("seed" if _find("seed", names) else None)
    columns = _Columns(
        compare=compare,
        tune={name.removeprefix(CONFIG_PREFIX): _existing(name, names) for name in tune},
        repeat=_existing(repeat, names) if repeat else None,
        metric=_existing(roles.metric or "val_loss", names, parameter=False),
    )
    if roles.repeat is None and columns.repeat in (*columns.compare.values(), *columns.tune.values()):
        columns = columns._replace(repeat=None)
    if twice := sorted({name for name in columns.named if columns.named.count(name) > 1}):
        raise RecordError(f"A column has one role, and {', '.join(twice)} was given two. Name it once.")
    return columns


def _list(names: Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _find(name: str, names: Sequence[str], parameter: bool = True) -> str | None:
    """The column called `name`: a trial's parameter rather than what it reported under the same name, or the other way round."""
    candidates = [CONFIG_PREFIX + name, name] if parameter else [name, CONFIG_PREFIX + name]
    return next((candidate for candidate in candidates if candidate in names), None)


def _existing(name: str, names: Sequence[str], parameter: bool = True) -> str:
    found = _find(name, names, parameter)
    if found is None:
        raise RecordError(f"The results have no column {name}: {nearest(name, {each.removeprefix(CONFIG_PREFIX) for each in names})}")
    return found


# ---------------------------------------------------------------------------------------------------------------------- the rows


def _rows(given: pd.DataFrame) -> list[Row]:
    return given.astype(object).where(given.notna(), None).to_dict("records")  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    """What a parameter may be, as something that can be told apart, sorted and printed."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    with suppress(TypeError):
        return json.dumps(value)
    return str(value)


_RATES = ("learning_rate", "lr")  # what a learning rate is called, or what its name ends with


def _result(row: Row, columns: _Columns, mode: str, last_iteration: int | None) -> Row:
    """What schema.RESULTS asks for, where the row has it."""
    variant = {name: row[column] for name, column in columns.compare.items()}
    tuned = {name: row[column] for name, column in columns.tune.items()}
    loss = _loss(row, columns.metric, mode)
    found = {column.name: row.get(_find(column.name, list(row)) or column.name) for column in RESULTS}
    found["trial_seconds"] = row.get("trial_seconds", row.get("time_total_s"))
    found |= {name: variant.get(name) for name in TUNABLE}
    for ours, theirs in _ours(tuned).items():
        found[ours] = tuned.pop(theirs)
    status, reason = _status(row, loss, columns.metric, last_iteration)
    return found | {
        "variant": str(variant["variant"]) if list(variant) == ["variant"] else label(variant),
        "tuned": label(tuned) or None,
        "val_loss": loss,
        "status": status,
        "reason": reason,
    }


def _ours(tuned: Mapping[str, Any]) -> dict[str, str]:
    """Our column of a tuned one that is called like it and is a number: the first such."""
    found: dict[str, str] = {}
    for name, value in tuned.items():
        last = name.lower().replace(".", "/").rpartition("/")[2]
        ours = "learning_rate" if last.endswith(_RATES) else "weight_decay" if last.endswith("weight_decay") else None
        if ours and isinstance(value, Real) and not isinstance(value, bool):
            found.setdefault(ours, name)
    return found


def _loss(row: Row, metric: str, mode: str) -> float | None:
    value = row[metric]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise RecordError(f"The metric must be a number in every row, got {metric} = {value!r}. Name another column with metric=.")
    return -float(value) if mode == "max" else float(value)


def _status(row: Row, loss: float | None, metric: str, last_iteration: int | None) -> tuple[str, str | None]:
    """What became of a row: as it says itself, else by what Tune reports of every trial, else by its loss."""
    if row.get("status") in get_args(Status):
        return row["status"], row.get("reason")
    if loss is None or not isfinite(loss):
        return "diverged", f"{metric} is no number"
    iteration = row.get("training_iteration")
    if last_iteration is not None and iteration is not None and iteration < last_iteration:
        return "stopped", f"at training_iteration {iteration:g}, others at {last_iteration}"
    return "finished", None


def _last_iteration(given: pd.DataFrame) -> int | None:
    """The length of the longest trial, where the rows are Tune's: a scheduler has stopped those that are shorter."""
    lengths = given["training_iteration"].dropna() if "training_iteration" in given else ()
    return int(max(lengths)) if len(lengths) else None


def _row_names(count: int) -> pd.Series:
    """What a row without a trial's name is called: otherwise all of these would pass for one trial."""
    return pd.Series([f"row {number}" for number in range(1, count + 1)], dtype="string")


def _set_seeds(found: list[Row], rows: list[Row], columns: _Columns) -> None:
    """Whole numbers stay as they are, other repetitions are numbered; where no column pairs them, each row is one by itself."""
    values = [row[columns.repeat] if columns.repeat else number for number, row in enumerate(rows)]
    whole = all(isinstance(value, Real) and not isinstance(value, bool) and float(value).is_integer() for value in values)
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    for row, value in zip(found, values, strict=True):
        row["seed"] = int(value) if whole else numbers[value]


def _typed(rows: list[Row], column: Column) -> pd.Series:
    """A column of ours; one of the same name but of another type is none of ours."""
    with suppress(RecordError):
        return read.frame(rows, [column])[column.name]
    return read.frame([{} for _ in rows], [column])[column.name]


_OPEN = {column.name for column in CONFIG} - {"vocab_size"}  # what is told of a config, and not computed with


def _own(results: pd.DataFrame, rows: list[Row], columns: _Columns) -> Iterator[tuple[str, pd.Series]]:
    """The compared columns that are none of ours, or are called like one of ours that cannot hold their values."""
    for name, column in columns.compare.items():
        values = [row[column] for row in rows]
        lost = name in results and results[name].count() < sum(value is not None for value in values)
        if name not in results or (lost and name in _OPEN):
            yield name, pd.Series(one_kind(values))
        elif lost:
            kind, got = "whole numbers" if results[name].dtype == "Int64" else "numbers", pd.Series(list(dict.fromkeys(map(str, values))))
            raise RecordError(
                f"{name} must hold {kind}, for the report computes with it, got {names(got)}. Rename a column that means something else."
            )


# --------------------------------------------------------------------------------------------------------- what has no role


def _check_repetitions(results: pd.DataFrame, given: pd.DataFrame, columns: _Columns) -> None:
    identity = results[["variant", *TUNABLE, "tuned", "seed"]].astype("string").fillna("").agg("\n".join, axis=1)
    twice = identity.duplicated()
    if not twice.any():
        return
    row = results[twice].iloc[0]
    varying = _without_role(given[(identity == identity[twice].iloc[0]).to_numpy()], columns)
    way_out = f"{', '.join(varying)} differs there: give it a role, compare= or tune=." if varying else "Keep one row of each."
    raise RecordError(
        f"{row.variant} has two results for {str(columns.repeat).removeprefix(CONFIG_PREFIX)} {row.seed} at one setting. {way_out}"
    )


def _without_role(given: pd.DataFrame, columns: _Columns) -> list[str]:
    """The trials' parameters that vary and were named nowhere."""
    others = [name for name in given.columns if name.startswith(CONFIG_PREFIX) and name not in columns.named]
    return [name.removeprefix(CONFIG_PREFIX) for name in others if given[name].map(str).nunique() > 1]


def _notes(given: pd.DataFrame, columns: _Columns, mode: str) -> tuple[str, ...]:
    notes = []
    if mode == "max":
        notes.append("A large number is good here: its negative is what is compared, and small as for a loss is best.")
    if varying := _without_role(given, columns):
        notes.append(f"{', '.join(varying)} varied between trials without a role here, so differences may be due to that.")
    if columns.repeat is None:
        notes.append("No column pairs the repetitions: each row counts as one by itself.")
    (first,) = _rows(given.head(1))
    rest = set(columns.tune) - set(_ours({name: first[column] for name, column in columns.tune.items()}).values())
    if rest:
        chosen = ", ".join(name for name in columns.tune if name in rest)
        notes.append(
            f"Each variant keeps its best {chosen} of those tried; unlike a learning rate, whether that is at an edge is not checked."
        )
    return tuple(notes)
