"""One trial's folder as it is written: config, rows as they come, outcome. What has been appended survives a kill of any process."""

from __future__ import annotations

import json
import os
from itertools import count
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from archsweep.atomic import write_atomically
from archsweep.records.schema import CONFIG_FILE, OUTCOME_FILE, RECORDS_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from archsweep.config import ExperimentConfig


class Outcome(BaseModel):
    """How a trial ended: the trial's columns of the results."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Literal["finished", "failed"]
    reason: str | None = None
    trial_seconds: float | None = None
    hostname: str | None = None
    device_name: str | None = None
    precision_used: str | None = None
    software: str | None = None
    corpus_id: str | None = None


def begin(folder: Path, config: ExperimentConfig) -> None:
    """Make the trial's folder, with its config; what an attempt before this one has left keeps its place under another name."""
    for name in (RECORDS_FILE, OUTCOME_FILE):
        if (folder / name).exists():
            os.replace(folder / name, _unused(folder / f"{name}.attempt"))
    config.save(folder / CONFIG_FILE)


def _unused(path: Path) -> Path:
    """`path` with the first number that no file has yet."""
    return next(numbered for number in count(1) if not (numbered := path.with_name(f"{path.name}{number}")).exists())


def append(folder: Path, rows: Sequence[Mapping[str, JsonValue]]) -> None:
    """Append one evaluation's rows and wait until the disk has them."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    with open(folder / RECORDS_FILE, "ab+") as file:
        if file.tell() and _last_byte(file.fileno(), file.tell()) != b"\n":
            lines = "\n" + lines  # a kill tore the line before: it stays alone on its line, where readers skip it
        file.write(lines.encode())
        file.flush()
        os.fsync(file.fileno())


def _last_byte(descriptor: int, size: int) -> bytes:
    return os.pread(descriptor, 1, size - 1)


def finish(folder: Path, outcome: Outcome) -> None:
    """Record how the trial ended."""
    write_atomically(folder / OUTCOME_FILE, outcome.model_dump_json(indent=2) + "\n")


def recorded_outcome(folder: Path) -> Outcome | None:
    """How the trial ended, None where it has not."""
    try:
        return Outcome.model_validate_json((folder / OUTCOME_FILE).read_text())
    except (OSError, ValidationError):
        return None
