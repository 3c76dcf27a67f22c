"""A sweep's plan and records as they lie on the disk, without a dataframe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archsweep.errors import RecordError
from archsweep.records.schema import PLAN_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator

Row = dict[str, Any]

IDENTITY = ("seed", "learning_rate", "weight_decay")  # of a replica within its variant
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)  # NaN and Infinity are no losses: missing. One for all: making it takes longer


_BLOCKS = b'"val_block_losses": ['


def load_plan(folder: str | Path) -> dict[str, Any]:
    """plan.json of a sweep's folder, as plain JSON. Raises RecordError where there is none."""
    path = Path(folder) / PLAN_FILE
    if not path.is_file():
        raise RecordError(f"{folder} must be a sweep's folder, which holds {PLAN_FILE}, and it has none. {_sweeps_near(Path(folder))}")
    plan = read_json(path)
    if missing := {"name", "compare", "tune", "corpus_id", "trials"} - set(plan):
        raise RecordError(f"{path} must be a plan, got JSON without {', '.join(sorted(missing))}. Plan the sweep again.")
    return plan


def read_records(path: Path) -> dict[tuple[Any, ...], list[Row]]:
    """Each replica's evaluations, by IDENTITY, in order of their step; of two with the same step the later line counts.

    Raises RecordError for a line of JSON that is no record.
    """
    replicas: dict[tuple[Any, ...], dict[int, Row]] = {}
    for record in _lines(path):
        replicas.setdefault(tuple(record[name] for name in IDENTITY), {})[record["step"]] = record
    return {replica: [steps[step] for step in sorted(steps)] for replica, steps in replicas.items()}


def _lines(path: Path) -> Iterator[Row]:
    """The whole records of a file. A kill tears the line it interrupts, so a line that is no JSON is one that was never reported."""
    if not path.is_file():
        return
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            record = _DECODER.decode(_blocks_as_text(line).decode())
        except ValueError:
            continue
        if not isinstance(record, dict) or not {*IDENTITY, "step", "status"} <= set(record):
            raise RecordError(
                f"{path}:{number} must be a record with {', '.join(IDENTITY)}, step and status, got {line[:80]!r}. "
                "Remove that line, or the trial's folder: the sweep trains it again."
            )
        yield record


def _blocks_as_text(line: bytes) -> bytes:
    """The line with its list of block losses as a string: they are most of a line, and no table has a column for each of them."""
    start = line.find(_BLOCKS) + len(_BLOCKS) - 1
    end = line.find(b"]", start) + 1
    blocks = line[start:end]
    if start < len(_BLOCKS) or not blocks or any(mark in blocks for mark in b'"NI'):  # none, torn, or with a NaN or Infinity
        return line
    return line[:start] + b'"' + blocks + b'"' + line[end:]


def read_json(path: Path) -> Row:
    """The JSON object that a file holds. Raises RecordError where it is none."""
    try:
        content = _DECODER.decode(path.read_bytes().decode())
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} must be JSON, and is not: {error}. Remove it, and run the sweep again.") from None
    if not isinstance(content, dict):
        raise RecordError(f"{path} must hold one JSON object, got {type(content).__name__}. Remove it, and run the sweep again.")
    return content


def _sweeps_near(folder: Path) -> str:
    found = sorted(str(plan.parent) for place in (folder, folder.parent) if place.is_dir() for plan in place.glob(f"*/{PLAN_FILE}"))
    if not found:
        return "Give the folder that a sweep wrote: results/<sweep>."
    return f"Sweeps near it: {', '.join(found[:5])}{' …' if len(found) > 5 else ''}."
