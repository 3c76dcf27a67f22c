"""The commands of sweeps that run on a cluster: sent, listed, followed and fetched through its dashboard."""

from __future__ import annotations

import shlex
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from archsweep.cli.asking import agreed, check_checkpoint_seconds, planned_for, print_plan, question_of, say, terminal
from archsweep.cli.options import (
    CHECKPOINT_SECONDS,
    EXIT_INTERRUPTED,
    Base,
    Cache,
    CheckpointSeconds,
    Dashboard,
    Extend,
    Fresh,
    Insecure,
    KeepModels,
    RetryFailed,
    Settings,
    Smoke,
    SpaceName,
    SweepName,
    Track,
    Yes,
)
from archsweep.errors import MachineError, SpaceError

if TYPE_CHECKING:
    from archsweep.pipeline import Leavings, Ledger
    from archsweep.submitting.head import Head
    from archsweep.submitting.jobs import Job

LAST_LINES = 5  # of a submitted sweep's log, in its status


def submit(
    space: SpaceName,
    *,
    address: Dashboard,
    name: SweepName = None,
    results: Annotated[str, Parameter(help="where sweeps are kept on the cluster: a path there, or a URI")] = "~/archsweep/results",
    base: Base = None,
    settings: Settings = None,
    smoke: Smoke = False,
    yes: Yes = False,
    keep_models: KeepModels = "best",
    track: Track = None,
    extend: Extend = False,
    retry_failed: RetryFailed = True,
    fresh: Fresh = False,
    checkpoint_seconds: CheckpointSeconds = CHECKPOINT_SECONDS,
    no_follow: Annotated[bool, Parameter(negative="", help="return when it is sent")] = False,
    insecure: Insecure = False,
    cache: Cache = None,
) -> int:
    """Send a sweep, with the current folder's code, to a Ray cluster and follow it there. The same command again goes on from there."""
    from archsweep import pipeline
    from archsweep.submitting import client, jobs, package
    from archsweep.submitting.door import parse_address

    parse_address(address)
    jobs.check_results(results)
    check_checkpoint_seconds(checkpoint_seconds)
    asked = question_of(space, name, base, settings, smoke)
    machine = pipeline.Machine(cache_dir=cache, checkpoint_seconds=checkpoint_seconds, is_unknown=True)
    with tempfile.TemporaryDirectory(prefix="archsweep-submit-") as scratch:
        planned, forecast = planned_for(asked, machine, Path(scratch), False, None, None)
        print_plan(planned, forecast, terminal(), False)
        head = head_at(address, insecure)
        submission_id = jobs.new_id(head, planned.name)
        chosen = package.choose(Path.cwd())
        there = replace(asked, space=package.relative_space(space, Path.cwd(), chosen))
        ledger, leavings = pipeline.Ledger(extend, retry_failed, fresh), pipeline.Leavings(keep_models, tuple(dict.fromkeys(track or ())))
        words = [*shlex.split(there.command)[3:], *_options(ledger, leavings, checkpoint_seconds)]  # less "python -m archsweep"
        request = jobs.sweep_request(words, planned.name, results, head.token is None)
        size = package.write(chosen, Path(scratch) / "package.zip", head.token)
        say(f"to send: {chosen}; {size:,} packed")
        if not (yes or agreed(forecast)):
            say("Nothing was sent.", sys.stderr)
            return EXIT_INTERRUPTED
        client.submit(head, request, Path(scratch) / "package.zip", submission_id)
    say(f"sent as {submission_id}: {request.entrypoint}")
    if no_follow:
        say(jobs.how_to_go_on(head, planned.name))
        return 0
    return _followed(head, jobs.read_job(head, submission_id))


def jobs(*, address: Dashboard, insecure: Insecure = False) -> int:
    """List the sweeps that were submitted to a cluster, a line each."""
    return tell_jobs(head_at(address, insecure), None, False)


def fetch(
    sweep: Annotated[str, Parameter(help="the sweep's name")],
    *,
    address: Dashboard,
    to: Annotated[Path, Parameter(help="where sweeps are kept here")] = Path("results"),
    results: Annotated[str | None, Parameter(help="where they are kept there [default: where its last job put it]")] = None,
    models: Annotated[bool, Parameter(help="the kept models too")] = True,
    insecure: Insecure = False,
) -> int:
    """Bring a submitted sweep's folder home, whether it has ended or not: plan, records, results, report and models, no checkpoints."""
    from archsweep import pipeline
    from archsweep.running.lock import owner
    from archsweep.submitting import fetch, jobs

    folder = pipeline.sweep_folder(to, sweep)
    if driver := owner(folder):
        raise MachineError(f"{folder} is being run by {driver}, here. Wait for it, or bring the cluster's elsewhere with --to.")
    head = head_at(address, insecure)
    fetch.fetch(head, sweep, results or jobs.find_job(head, sweep).results, folder, models, say)
    say(f"{folder}; its report: python -m archsweep report {shlex.quote(str(folder))}")
    return 0


def head_at(address: str, insecure: bool) -> Head:
    """The head behind a dashboard. Raises ConfigError and MachineError as `enter` does."""
    from archsweep.submitting.head import enter

    return enter(address, insecure)


def _options(ledger: Ledger, leavings: Leavings, checkpoint_seconds: float) -> list[str]:
    """What of a sweep's command is not its question, as words; what is as it would be anyway is left out."""
    words = [] if leavings.keep_models == "best" else ["--keep-models", leavings.keep_models]
    words += [word for each in leavings.track for word in ("--track", each)]
    flags = {"--extend": ledger.extend, "--no-retry-failed": not ledger.retry_failed, "--fresh": ledger.fresh}
    words += [flag for flag, on in flags.items() if on]
    return words + ([] if checkpoint_seconds == CHECKPOINT_SECONDS else ["--checkpoint-seconds", str(checkpoint_seconds)])


def tell_jobs(head: Head, sweep: str | None, json: bool) -> int:
    """A line for each submitted sweep; of one, what it said last too."""
    from archsweep.submitting import jobs

    found = jobs.list_jobs(head) if sweep is None else [jobs.find_job(head, sweep)]
    for job in found:
        say(job.model_dump_json() if json else job.line)
    if not found and not json:
        say(f"no sweep was submitted to {head.address.url}")
    if sweep is not None and not json:
        say("\n".join(jobs.read_log(head, found[0].submission_id).splitlines()[-LAST_LINES:]))
    return 0


def print_log(head: Head, sweep: str, follow: bool, trial: str | None) -> int:
    """What a submitted sweep has said; until it is over where it is followed. Raises SpaceError for a single trial."""
    from archsweep.submitting import jobs

    if trial is not None:
        raise SpaceError("--trial reads a sweep's folder here: fetch it first. What the job said is printed without it.")
    job = jobs.find_job(head, sweep)
    if follow:
        return EXIT_INTERRUPTED if _followed(head, job) == EXIT_INTERRUPTED else 0  # what the job ended with is its own
    say(jobs.read_log(head, job.submission_id), end="")
    return 0


def _followed(head: Head, job: Job) -> int:
    """Print what a job says until it is over; what it ended with. Ctrl-C leaves it to itself."""
    from archsweep.submitting import jobs
    from archsweep.submitting.follow import follow

    try:
        ended = follow(head, job.submission_id, lambda text: say(text, end=""), lambda line: say(line, sys.stderr))
    except KeyboardInterrupt:
        say(f"\n{job.submission_id} goes on without this terminal. {jobs.how_to_go_on(head, job.sweep or '')}", sys.stderr)
        return EXIT_INTERRUPTED
    say(f"{ended.line}")
    if ended.driver_exit_code is None and ended.message:
        say(ended.message, sys.stderr)
    return ended.exit_code
