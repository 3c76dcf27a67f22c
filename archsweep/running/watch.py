"""What another terminal can see and ask of a sweep: status, log, stop. By the files in its folder alone, so on a shared disk too."""

from __future__ import annotations

import json
import shlex
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from archsweep.config import label
from archsweep.errors import ArchsweepError, RecordError, nearest
from archsweep.planning.plan import MOST_FRUITLESS, Point, unchosen
from archsweep.records.files import load_plan
from archsweep.records.remote import root_uri
from archsweep.records.schema import LOG_FILE, PLAN_FILE, PROGRESS_FILE, TRIALS_FOLDER
from archsweep.records.write import recorded_outcome
from archsweep.running import mirror
from archsweep.running.lock import Owner, ask_to_stop, last_owner, owner
from archsweep.running.recorder import ERROR_FILE
from archsweep.running.snapshot import Best, Counts, RunningTrial, Snapshot, state_of, time_left

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

LOOK_SECONDS = 0.5
TAIL_BYTES = 16_384  # of the log, which hold its last line


class Failure(BaseModel):
    """A trial that failed: why, and where all of it is."""

    model_config = ConfigDict(frozen=True)

    id: str
    label: str
    reason: str
    details: Path


class Status(BaseModel):
    """A sweep as its folder shows it. `driver` runs it; `killed` ran it last, and ended without a word."""

    model_config = ConfigDict(frozen=True)

    name: str
    folder: Path
    running: bool
    driver: Owner | None
    killed: Owner | None
    counts: Counts
    trials: tuple[RunningTrial, ...]
    failures: tuple[Failure, ...]
    best: Best | None
    tokens_per_second: float | None
    seconds_left: float | None
    last_line: str | None
    go_on: str | None  # the command that does, where something is left

    @property
    def state(self) -> str:
        """Whether the sweep runs, and by whom."""
        if self.driver is not None:
            return f"running, {self.driver}"
        if self.killed is not None:
            return f"not running: {self.killed} was killed"
        return "not running" if self.counts.left else "finished"

    @property
    def line(self) -> str:
        """All in one line."""
        pace = [time_left(self.seconds_left)] if self.running else []
        return f"{self.name}: {', '.join([self.state, str(self.counts), *pace])}"


def read_status(folder: Path) -> Status:
    """What is known of the sweep in `folder`. Raises RecordError where there is none."""
    driver = owner(folder)  # before the records: a run that ends meanwhile has then recorded what it did
    plan = load_plan(folder)
    outcomes = {trial["id"]: recorded_outcome(folder / TRIALS_FOLDER / trial["id"]) for trial in plan["trials"]}
    counted = Counter(state_of(outcome) for outcome in outcomes.values())
    counted["to_do"] += _to_suggest(plan)
    counts = Counts.of(counted)
    seen = _snapshot(folder)
    now = seen if seen is not None and driver is not None and seen.at >= driver.since else None
    labels = {trial["id"]: label(trial["variant"]) for trial in plan["trials"]}
    return Status(
        name=plan["name"],
        folder=folder,
        running=driver is not None,
        driver=driver,
        killed=last_owner(folder) if driver is None else None,
        counts=now.counts if now else counts,
        trials=now.running if now else (),
        failures=tuple(
            Failure(id=trial, label=labels[trial], reason=outcome.reason or "", details=folder / TRIALS_FOLDER / trial / ERROR_FILE)
            for trial, outcome in outcomes.items()
            if outcome is not None and outcome.status == "failed"
        ),
        best=seen.best if seen else None,
        tokens_per_second=now.tokens_per_second if now else None,
        seconds_left=now.seconds_left if now else None,
        last_line=_last_line(folder),
        go_on=_command(plan.get("command", ""), folder) if driver is None and counts.left else None,
    )


def status_lines(status: Status) -> list[str]:
    """The status in words, without its running trials."""
    lines = [f"{status.name}: {status.state}", str(status.counts), f"best so far {status.best or 'unknown'}"]
    if status.running:
        rate = [] if status.tokens_per_second is None else [f"{status.tokens_per_second:,.0f} tokens/s"]
        lines.append(", ".join([*rate, time_left(status.seconds_left)]))
    lines += [f"failed {failure.label}: {failure.reason} (all of it in {failure.details})" for failure in status.failures]
    lines += [f"last line: {status.last_line}"] if status.last_line else []
    return lines + ([f"go on with: {status.go_on}"] if status.go_on else [])


def list_sweeps(results: Path, as_json: bool = False) -> list[str]:
    """A line for each sweep of the results root, by name; as JSON an object with an `error` for one that cannot be read."""
    return [_line(plan.parent.resolve(), as_json) for plan in sorted(results.glob(f"*/{PLAN_FILE}"))]


def log_lines(folder: Path, follow: bool, trial: str | None = None) -> Iterator[str]:
    """The lines of the sweep's log, those of one trial (its id) or variant (its label) if it is given; new ones until the run ends.

    Raises RecordError where there is no log, or no such trial.
    """
    ids = _ids(folder, trial)
    if not (folder / LOG_FILE).is_file():
        raise RecordError(f"{folder} has no {LOG_FILE}: it is written when the sweep runs. Run it, or see python -m archsweep status.")
    with open(folder / LOG_FILE, encoding="utf-8", errors="replace") as log:
        part = ""
        while True:
            alive = follow and owner(folder) is not None  # asked before reading: what is written until the end is read
            for piece in log:
                part += piece
                if part.endswith("\n"):
                    if ids is None or any(f"[{each}]" in part for each in ids):
                        yield part.rstrip("\n")
                    part = ""
            if not alive:
                return
            time.sleep(LOOK_SECONDS)


def stop(folder: Path, say: Callable[[str], object]) -> None:
    """Ask the process that runs the sweep to stop, and wait until it has."""
    load_plan(folder)
    if (asked := owner(folder)) is None:
        say(f"{folder.name} is not being run")
        return
    ask_to_stop(folder, asked)
    mirror.share(folder)
    say(f"asked {asked} to stop: it saves its trials first")
    while owner(folder) == asked:
        time.sleep(LOOK_SECONDS)
    status = read_status(folder)
    say(f"{'stopped' if status.counts.left else 'finished'}: {status.counts}")
    if status.go_on:
        say(f"go on with: {status.go_on}")


def _to_suggest(plan: Mapping[str, Any]) -> int:
    """How many trials the plan's search has yet to suggest; none where it is no search."""
    if (method := plan.get("method")) is None:
        return 0
    return unchosen(method["trials"], len(plan["trials"]), [Point.model_validate(point) for point in plan["points"][-MOST_FRUITLESS:]])


def _snapshot(folder: Path) -> Snapshot | None:
    try:
        return Snapshot.model_validate_json((folder / PROGRESS_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def _last_line(folder: Path) -> str | None:
    try:
        with open(folder / LOG_FILE, "rb") as log:
            log.seek(max(0, log.seek(0, 2) - TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    return lines[-1] if lines else None


def _command(command: str, folder: Path) -> str | None:
    """What runs the plan again, into the same results; None for a plan that no command made."""
    elsewhere = folder.parent.resolve() != Path("results").resolve()
    results = root_uri(folder.parent) or str(folder.parent)
    return f"{command} --results {shlex.quote(results)}" if command and elsewhere else command or None


def _line(folder: Path, as_json: bool) -> str:
    try:
        status = read_status(folder)
        return status.model_dump_json() if as_json else status.line
    except (ArchsweepError, ValidationError, KeyError, TypeError) as error:
        return json.dumps({"name": folder.name, "error": str(error)}) if as_json else f"{folder.name}: cannot be read, {error}"


def _ids(folder: Path, trial: str | None) -> list[str] | None:
    """The ids of the trials that `trial` names; None for all."""
    labels = {each["id"]: label(each["variant"]) for each in load_plan(folder)["trials"]}
    if trial is None:
        return None
    if not (ids := [each for each, words in labels.items() if trial in (each, words)]):
        raise RecordError(f"{folder} has no trial {trial!r}: {nearest(trial, {*labels, *labels.values()})}")
    return ids
