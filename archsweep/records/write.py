"""One trial's folder as it is written: config, rows as they come, outcome. What has been appended survives a kill of any process."""

from __future__ import annotations

import json
import os
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from archsweep.atomic import write_atomically
from archsweep.records.schema import CONFIG_FILE, OUTCOME_FILE, RECORDS_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from archsweep.config import ExperimentConfig
    from archsweep.records.files import Row


class Outcome(BaseModel):
    """How a trial ended: the trial's columns of the results."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Literal["finished", "stopped", "failed"]
    reason: str | None = None
    stopped_step: int | None = None
    trial_seconds: float | None = None
    hostname: str | None = None
    device_name: str | None = None
    precision_used: str | None = None
    software: str | None = None
    corpus_id: str | None = None
    corpus_tokens: int | None = None
    reused_from: str | None = None
    training_memory_bytes: int | None = None
    gpu_share: float | None = None
    device_energy_joules: float | None = None
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    warnings: tuple[str, ...] = ()


def begin(folder: Path, config: ExperimentConfig) -> None:
    """Make the trial's folder, with its config; the outcome of an attempt before this one keeps its place under another name."""
    set_aside_outcome(folder)
    config.save(folder / CONFIG_FILE)


def set_aside_outcome(folder: Path) -> None:
    """Keep how an attempt ended under another name; the trial has then no outcome."""
    _set_aside(folder / OUTCOME_FILE)


def set_aside_records(folder: Path) -> None:
    """Keep the rows of an attempt before this one under another name."""
    _set_aside(folder / RECORDS_FILE)


def _set_aside(path: Path) -> None:
    if path.exists():
        os.replace(path, _unused(path.with_name(f"{path.name}.attempt")))


def _unused(path: Path) -> Path:
    """`path` with the first number that no file has yet."""
    return next(numbered for number in count(1) if not (numbered := path.with_name(f"{path.name}{number}")).exists())


def append(folder: Path, rows: Sequence[Row]) -> list[Row]:
    """Append one evaluation's rows and wait until the disk has them; a row that is there already, as a resumed trial reports it, is not
    written twice. Returns those that were new."""
    with open(folder / RECORDS_FILE, "ab+") as file:
        file.seek(0)
        lines = file.read().split(b"\n")
        there = {identity for line in lines if (identity := _identity(line)) is not None}
        new = [row for row in rows if _key(row) not in there]
        text = "".join(json.dumps(row) + "\n" for row in new)
        if lines[-1]:
            text = "\n" + text  # a kill tore the line before: it stays alone on its line, where readers skip it
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    return new


def _identity(line: bytes) -> tuple[JsonValue, ...] | None:
    """Which row a line is; None for one that a kill has torn."""
    try:
        return _key(json.loads(line))
    except (ValueError, KeyError, TypeError):
        return None


def _key(row: Mapping[str, JsonValue]) -> tuple[JsonValue, ...]:
    return tuple(row[name] for name in ("seed", "learning_rate", "weight_decay", "step"))


def finish(folder: Path, outcome: Outcome) -> None:
    """Record how the trial ended."""
    write_atomically(folder / OUTCOME_FILE, outcome.model_dump_json(indent=2) + "\n")


def recorded_evaluations(folder: Path) -> dict[int, list[dict[str, Any]]]:
    """The rows of each whole evaluation by its step, of two of a replica the later; lines that a kill has torn are left out."""
    if not (folder / RECORDS_FILE).exists():
        return {}
    rows: dict[tuple[JsonValue, ...], dict[str, Any]] = {}
    for line in (folder / RECORDS_FILE).read_bytes().split(b"\n"):
        if (identity := _identity(line)) is not None:
            rows[identity] = json.loads(line)
    pruned = {identity[:-1]: row["step"] for identity, row in rows.items() if row["status"] == "pruned"}
    replicas = {identity[:-1] for identity in rows}
    evaluations: dict[int, list[dict[str, Any]]] = {}
    for row in rows.values():
        evaluations.setdefault(row["step"], []).append(row)
    due = {step: sum(pruned.get(replica, step) >= step for replica in replicas) for step in evaluations}
    return {step: evaluations[step] for step in sorted(evaluations) if len(evaluations[step]) == due[step]}


def recorded_outcome(folder: Path) -> Outcome | None:
    """How the trial ended, None where it has not."""
    try:
        return Outcome.model_validate_json((folder / OUTCOME_FILE).read_text())
    except (OSError, ValidationError):
        return None
