"""From a sweep's folder, or from single experiments, to two dataframes: a row per replica, and a row per replica and evaluation."""

from __future__ import annotations

import json
import math
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from archsweep.atomic import write_atomically
from archsweep.config import ExperimentConfig, Replica, label
from archsweep.errors import RecordError
from archsweep.records.files import IDENTITY, Row, load_plan, read_json, read_records
from archsweep.records.schema import (
    COST,
    CURVES,
    CURVES_FILE,
    MEASURED,
    OUTCOME_FILE,
    PLAN_FILE,
    RECORDS_FILE,
    RESULTS,
    RESULTS_FILE,
    TRIALS_FOLDER,
    Column,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from archsweep.records.results import ExperimentResults

_ARROW = {"string": pa.string(), "Int64": pa.int64(), "Float64": pa.float64(), "boolean": pa.bool_()}
_PANDAS = {pa.string(): pd.StringDtype(), pa.int64(): pd.Int64Dtype(), pa.float64(): pd.Float64Dtype(), pa.bool_(): pd.BooleanDtype()}


def load(folder: str | Path) -> pd.DataFrame:
    """A row per planned replica, in the plan's order, with schema.RESULTS' columns; raises RecordError where there is no sweep."""
    return _load(Path(folder), RESULTS_FILE, RESULTS)


def load_curves(folder: str | Path) -> pd.DataFrame:
    """A row per replica and evaluation, in the plan's order, with schema.CURVES' columns; raises RecordError where there is no sweep."""
    return _load(Path(folder), CURVES_FILE, CURVES)


def load_both(folder: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What `load` and `load_curves` return, with the records read once where they are newer than what was collected."""
    folder = Path(folder)
    load_plan(folder)
    tables = [_collected(folder / RESULTS_FILE, RESULTS), _collected(folder / CURVES_FILE, CURVES)]
    results, curves = tables if None not in tables else _gather(folder)
    return _pandas(results), _pandas(curves)


def collect(folder: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read every trial's records and write results.parquet and curves.parquet beside the plan; returns both as dataframes."""
    folder = Path(folder)
    load_plan(folder)
    newest = _newest_record(folder)  # before they are read: what is recorded from now on may be missing in what is written below
    results, curves = _gather(folder)
    write_atomically(folder / RESULTS_FILE, parquet(results), mtime_ns=newest)
    write_atomically(folder / CURVES_FILE, parquet(curves), mtime_ns=newest)
    return _pandas(results), _pandas(curves)


def best_replicas(folder: str | Path, variant: str) -> tuple[list[tuple[str, Replica]], bool]:
    """A variant's finished replicas, each after its trial's id: the lowest loss first, those of the setting with the lowest mean over seeds
    before all others, and settings that have lost a seed last; and whether some replicas have not ended, or may be tried again."""
    rows = load(folder)
    rows = rows[rows["variant"] == variant]
    settings = [rows["learning_rate"], rows["weight_decay"]]
    lost = (rows["status"] != "finished").groupby(settings).transform("any")
    means = rows["val_loss"].where(rows["status"] == "finished").groupby(settings).transform("mean")
    finished = rows.assign(lost=lost, mean=means)[rows["status"] == "finished"]
    ranked = finished.sort_values(["lost", "mean", "learning_rate", "weight_decay", "val_loss"])
    replicas = ranked[list(Replica.model_fields)].to_dict("records")
    best = list(zip(ranked["trial_id"], map(Replica.model_validate, replicas), strict=True))
    return best, bool(rows["status"].isin(["unfinished", "failed"]).any())


def from_experiments(experiments: Sequence[ExperimentResults]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The results and curves of experiments that were run by hand; the variant of each is its experiment_name.

    Experiments of one name are the replicas of one variant, so they may differ in seed, learning rate and weight decay alone.
    """
    _check_names(experiments)
    results = [_experiment_row(experiment) for experiment in experiments]
    curves = [row for experiment in experiments for row in _experiment_curve(experiment)]
    return frame(results, RESULTS), frame(curves, CURVES)


def frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> pd.DataFrame:
    """Rows as a dataframe with exactly `columns` in their dtypes; what a row lacks is missing, and other keys are left out."""
    return _pandas(table(rows, columns))


# ---------------------------------------------------------------------------------------------------------------- a sweep's folder


def _load(folder: Path, name: str, columns: Sequence[Column]) -> pd.DataFrame:
    load_plan(folder)
    table = _collected(folder / name, columns)
    return _pandas(table if table is not None else _gather(folder)[0 if columns is RESULTS else 1])


def _collected(path: Path, columns: Sequence[Column]) -> pa.Table | None:
    """What was collected into `path`; None where it is older than a record, or of other columns."""
    if not path.is_file() or path.stat().st_mtime_ns < _newest_record(path.parent):
        return None
    table = pq.read_table(path)
    return table if table.column_names == [column.name for column in columns] else None


def _newest_record(folder: Path) -> int:
    """When the plan or a trial's records or outcome were last written, in nanoseconds."""
    sources = [folder / PLAN_FILE, *folder.glob(f"trials/*/{RECORDS_FILE}"), *folder.glob(f"trials/*/{OUTCOME_FILE}")]
    return max(source.stat().st_mtime_ns for source in sources)


_TRIALS_AT_ONCE = 200  # a record takes ten times the memory as a dict that it takes in a column


def _gather(folder: Path) -> tuple[pa.Table, pa.Table]:
    """Results and curves from the records themselves."""
    plan = load_plan(folder)
    results, curves = [table([], RESULTS)], [table([], CURVES)]
    trials = iter(plan["trials"])
    while some := list(islice(trials, _TRIALS_AT_ONCE)):
        read = [_read_planned(folder, trial, plan) for trial in some]
        results.append(table([row for rows, _ in read for row in rows], RESULTS))
        curves.append(table([row for _, rows in read for row in rows], CURVES))
    return pa.concat_tables(results), pa.concat_tables(curves)


def _read_planned(folder: Path, trial: Row, plan: Row) -> tuple[list[Row], list[Row]]:
    try:
        return _read_trial(folder / TRIALS_FOLDER / trial["id"], trial, plan)
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError(
            f"{folder}: {PLAN_FILE} and the records of trial {trial.get('id')} do not fit together ({type(error).__name__}: {error}). "
            "Run the sweep again: trials whose records are whole are skipped."
        ) from error


def _read_trial(folder: Path, trial: Row, plan: Row) -> tuple[list[Row], list[Row]]:
    """A trial's planned replicas with the last that is known of each, and all their evaluations."""
    records = read_records(folder / RECORDS_FILE)
    outcome = read_json(folder / OUTCOME_FILE) if (folder / OUTCOME_FILE).is_file() else {}
    which = {
        "sweep": plan["name"],
        "trial_id": trial["id"],
        "variant": label(trial["variant"]),
    }
    results, curves = [], []
    for replica in trial["replicas"]:
        evaluations = records.get(tuple(replica[name] for name in IDENTITY), [])
        curves += [record | which for record in evaluations]
        last = evaluations[-1] if evaluations else {}
        status, reason = _status(last, outcome, trial["cost"].get("train_tokens"))
        ends = outcome | {"status": status, "reason": reason}
        results.append(trial["config"] | trial["cost"] | {"flops": _flops(trial, last)} | last | replica | ends | which)
    return results, curves


def _status(last: Row, outcome: Row, tokens: int | None) -> tuple[str, str | None]:
    """A replica's own last word counts before its trial's: one that finished keeps its loss whatever became of its neighbours."""
    if last.get("status") in ("finished", "diverged", "pruned"):
        return last["status"], last.get("reason")
    if outcome.get("status") == "stopped":
        return "stopped", outcome.get("reason")
    if outcome.get("status") == "failed":
        return "failed", outcome.get("reason") or "the trial failed without a reason"
    if not last:
        return "unfinished", "no evaluation is recorded"
    return "unfinished", f"last recorded at {last['tokens']:,} of {tokens:,} tokens" if tokens else f"last recorded at step {last['step']}"


def _flops(trial: Row, last: Row) -> int | None:
    tokens = last.get("tokens")
    return None if tokens is None else trial["cost"]["flops_per_token"] * tokens


# ------------------------------------------------------------------------------------------------------------------- dataframes


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> pa.Table:
    """What `frame` makes a dataframe of; each column carries its unit and meaning."""
    arrays = [pa.array(_typed([row.get(c.name) for row in rows], c), type=_ARROW[c.dtype], from_pandas=True) for c in columns]
    return pa.Table.from_arrays(arrays, schema=_schema(columns))


def table_of(frame: pd.DataFrame, columns: Sequence[Column]) -> pa.Table:
    """A dataframe of `columns` as a table whose columns carry their unit and meaning."""
    arrays = [pa.array(frame[c.name], type=_ARROW[c.dtype], from_pandas=True) for c in columns]
    return pa.Table.from_arrays(arrays, schema=_schema(columns))


def _schema(columns: Sequence[Column]) -> pa.Schema:
    return pa.schema([pa.field(c.name, _ARROW[c.dtype], metadata={"unit": c.unit, "meaning": c.meaning}) for c in columns])


def _typed(values: list[Any], column: Column) -> Any:
    if column.dtype == "string":
        values = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    try:
        return pd.array(values, dtype=column.dtype)
    except (TypeError, ValueError) as error:
        raise RecordError(f"{column.name} must be {column.dtype} in every record: {error}. Remove the record that is not.") from None


def _pandas(table: pa.Table) -> pd.DataFrame:
    return table.to_pandas(types_mapper=_PANDAS.get)


def parquet(table: pa.Table) -> memoryview:
    """A table as the bytes of a Parquet file."""
    buffer = BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getbuffer()


# ------------------------------------------------------------------------------------------------------------------ experiments


def _check_names(experiments: Sequence[ExperimentResults]) -> None:
    variants: dict[str, ExperimentConfig] = {}
    seen: set[tuple[Any, ...]] = set()
    for config in (experiment.config for experiment in experiments):
        first = variants.setdefault(config.experiment_name, config)
        differing = [
            name for name in ExperimentConfig.model_fields if name not in IDENTITY and getattr(config, name) != getattr(first, name)
        ]
        if differing:
            raise RecordError(
                f"Experiments called {config.experiment_name!r} must be one variant, and they differ in {', '.join(differing)}. "
                "Give each variant its own experiment_name."
            )
        replica = (config.experiment_name, *(getattr(config, name) for name in IDENTITY))
        if replica in seen:
            raise RecordError(f"Two experiments called {config.experiment_name!r} have seed {config.seed}. Give each its own name or seed.")
        seen.add(replica)


def _experiment_row(experiment: ExperimentResults) -> Row:
    last = _measured(experiment, -1) if experiment.metrics else {}
    loss = last.get("val_loss")
    if not experiment.metrics:
        status, reason = "unfinished", "no epoch is recorded"
    elif loss is None or not math.isfinite(loss):
        status, reason = "diverged", "the last validation loss is no number"
    else:
        status, reason = "finished", None
    cost = {column.name: experiment.performance_stats.get(column.name) for column in COST}
    if cost["flops"] is None and None not in (cost["flops_per_token"], last.get("tokens")):
        cost["flops"] = cost["flops_per_token"] * last["tokens"]
    return experiment.config.to_dict() | cost | last | _which(experiment) | {"status": status, "reason": reason}


def _experiment_curve(experiment: ExperimentResults) -> Iterator[Row]:
    for index in range(len(experiment.metrics)):
        yield _measured(experiment, index) | experiment.config.replica.model_dump() | _which(experiment)


def _which(experiment: ExperimentResults) -> Row:
    config = experiment.config
    return {"trial_id": config.content_id(config.replica.model_dump()), "variant": config.experiment_name}


def _measured(experiment: ExperimentResults, index: int) -> Row:
    """What schema.MEASURED asks for, from where an experiment keeps it: the losses by split, the rest under its own name."""
    epoch = experiment.metrics[index]
    train, validation = epoch.get("train", {}), epoch.get("validation", {})
    known = experiment.performance_stats | train | validation | {"train_loss": train.get("loss"), "val_loss": validation.get("loss")}
    return {column.name: known.get(column.name) for column in MEASURED}
