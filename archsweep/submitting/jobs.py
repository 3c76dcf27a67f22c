"""The jobs that sweeps are on a cluster: what is sent for one, and what its head tells of it."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

from archsweep.errors import ConfigError, MachineError, RecordError, nearest
from archsweep.records.remote import check_no_password, is_uri
from archsweep.submitting.head import UnknownError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from archsweep.submitting.head import Head

STOP_SECONDS = 120  # for a sweep to save its trials and end, before it is killed
LOOK_SECONDS = 1.0
PATIENCE_SECONDS = 600.0  # with a head that does not answer
DEFAULT_RESULTS = "~/archsweep/results"
EXIT_STOPPED = 130

Answer = TypeVar("Answer")

SWEEP_KEY, RESULTS_KEY, VERSION_KEY = "sweep", "results", "archsweep"  # of a job's metadata
Status = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]


class Job(BaseModel):
    """A job as its head tells of it."""

    model_config = ConfigDict(frozen=True)

    submission_id: str
    status: Status
    message: str | None = None
    metadata: dict[str, str] | None = None
    start_time: int | None = None  # ms since 1970
    end_time: int | None = None
    driver_exit_code: int | None = None
    driver_node_id: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")

    @property
    def sweep(self) -> str | None:
        """The name of the sweep that it is; None for another kind of job."""
        return (self.metadata or {}).get(SWEEP_KEY)

    @property
    def results(self) -> str:
        """Where on the cluster its sweep's folder is kept."""
        return (self.metadata or {}).get(RESULTS_KEY, DEFAULT_RESULTS)

    @property
    def exit_code(self) -> int:
        """What its driver ended with, as a shell says it; 1 where a failed job does not say."""
        if self.status == "STOPPED":
            return EXIT_STOPPED
        code = self.driver_exit_code
        if code is None:
            return int(self.status != "SUCCEEDED")
        return code if code >= 0 else 128 - code

    @property
    def line(self) -> str:
        """All in one line."""
        since = [f"since {_moment(self.start_time)}"] if self.start_time else []
        until = [f"until {_moment(self.end_time)}"] if self.end_time else []
        code = [f"exit code {self.driver_exit_code}"] if self.driver_exit_code is not None else []
        return f"{self.sweep or 'no sweep'}: {', '.join([self.status.lower(), *since, *until, *code, self.submission_id])}"


@dataclass(frozen=True)
class Request:
    """What a head is asked to run: the words of a command line, and whose job it is."""

    words: tuple[str, ...]
    metadata: Mapping[str, str]
    variables: Mapping[str, str]

    @property
    def entrypoint(self) -> str:
        """The words as a shell reads them; a ~ at the beginning of one is the home of the head's user."""
        return " ".join(_quoted(word) for word in self.words)


def check_results(results: str) -> None:
    """Raises ConfigError for results that are neither a path from the root, nor one from the home, nor a URI, or that hold a password."""
    if is_uri(results):
        check_no_password(results)
    elif not results.startswith(("/", "~/")):
        raise ConfigError(
            f"--results of a submitted sweep is a place on the cluster: a path that begins with / or ~/, or a URI such as "
            f"s3://bucket/folder, got {results!r}."
        )


def sweep_request(words: Sequence[str], name: str, results: str, is_open: bool) -> Request:
    """The sweep's command on the cluster, and the settings that let it save itself when it is stopped."""
    command = ("python", "-m", "archsweep", *words, "--address", "auto", "--results", results, "-y")
    return Request(command, _metadata({SWEEP_KEY: name, RESULTS_KEY: results}), _variables(is_open))


def other_request(words: Sequence[str], metadata: Mapping[str, str], is_open: bool) -> Request:
    """A command on the cluster that is no sweep."""
    return Request(("python", "-m", *words), _metadata(metadata), _variables(is_open))


def list_jobs(head: Head) -> list[Job]:
    """The submitted sweeps, the oldest first."""
    return sorted((job for job in _all(head) if job.sweep), key=lambda job: job.start_time or 0)


def find_job(head: Head, name: str) -> Job:
    """The newest job of the sweep of this name, or the job of this id. Raises RecordError where there is none."""
    jobs = list_jobs(head)
    if not (found := [job for job in jobs if name in (job.sweep, job.submission_id)]):
        known = {job.sweep for job in jobs if job.sweep}
        way_out = nearest(name, known) if known else "no sweep was submitted there."
        raise RecordError(f"{head.address.url} knows no job of a sweep {name!r}: {way_out}")
    return found[-1]


def read_job(head: Head, submission_id: str) -> Job:
    """The job as it is now. Raises MachineError where the head does not know it."""
    try:
        return Job.model_validate(head.get(f"/api/jobs/{quote(submission_id)}"))
    except UnknownError:
        raise MachineError(
            f"{head.address.url} knows no job {submission_id} (any more): the cluster was started anew. What was recorded stays where the "
            "results are, and the same submit goes on from there."
        ) from None


def read_log(head: Head, submission_id: str) -> str:
    """All that the job has said."""
    return str(head.get(f"/api/jobs/{quote(submission_id)}/logs")["logs"])


def new_id(head: Head, name: str) -> str:
    """The id of the sweep's next job. Raises MachineError while one of the same name is alive."""
    jobs = _all(head)
    if alive := [job for job in jobs if job.sweep == name and not job.is_over]:
        raise MachineError(
            f"the sweep {name} is {alive[-1].status.lower()} already, as {alive[-1].submission_id}. {how_to_go_on(head, name)}"
        )
    taken = {job.submission_id for job in jobs}
    first = f"archsweep-{name}"
    return next(each for number in range(1, len(taken) + 2) if (each := first if number == 1 else f"{first}-{number}") not in taken)


def how_to_go_on(head: Head, name: str) -> str:
    """The commands that follow and stop a submitted sweep."""
    command, address = "python -m archsweep", f"--address {head.address.url}"
    return f"Follow it: {command} logs {name} -f {address}. Stop it: {command} stop {name} {address}."


def stop(head: Head, job: Job, say: Callable[[str], object]) -> Job:
    """Let the job save its trials and end, and wait until it has; returns it as it ended."""
    if job.is_over:
        say(f"{job.submission_id} is over: {job.status.lower()}")
        return job
    head.post(f"/api/jobs/{quote(job.submission_id)}/stop")
    say(f"asked {job.submission_id} to stop: it saves its trials first")
    ended = wait(head, job.submission_id)
    say(f"{ended.submission_id} has {'stopped' if ended.status == 'STOPPED' else 'ended'}; the same submit goes on from there")
    return ended


def wait(head: Head, submission_id: str) -> Job:
    """The job once it is over. Raises MachineError where the head is gone for too long."""
    while not (job := patiently(lambda: read_job(head, submission_id))).is_over:
        time.sleep(LOOK_SECONDS)
    return job


def patiently(ask: Callable[[], Answer], say: Callable[[str], object] = lambda _: None) -> Answer:
    """What `ask` answers, asked again while the head is unreachable. Raises UnreachableError after some minutes of it."""
    end, pause = time.monotonic() + PATIENCE_SECONDS, LOOK_SECONDS
    while True:
        try:
            return ask()
        except UnreachableError as error:
            if time.monotonic() > end:
                raise
            say(f"{error} Trying again.")
            say = lambda _: None  # noqa: E731  # once is enough
            time.sleep(pause)
            pause = min(2 * pause, 15.0)


def _all(head: Head) -> list[Job]:
    found = cast("list[dict[str, Any]]", head.get("/api/jobs/"))
    return [Job.model_validate(each) for each in found if each.get("submission_id")]


def _metadata(more: Mapping[str, str]) -> dict[str, str]:
    try:
        ours = version("archsweep")
    except PackageNotFoundError:  # run from a folder
        ours = "unknown"
    return {VERSION_KEY: ours, **more}


def _variables(is_open: bool) -> dict[str, str]:
    """Of the job's environment; nothing of ours is handed on. A job of an open head has no token to show."""
    stopping = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), "PYTHONUNBUFFERED": "1"}
    return stopping | ({"RAY_AUTH_MODE": "disabled"} if is_open else {})


def _quoted(word: str) -> str:
    return f"~/{shlex.quote(word[2:])}" if word.startswith("~/") and len(word) > 2 else shlex.quote(word)


def _moment(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000).astimezone():%Y-%m-%d %H:%M:%S}"
