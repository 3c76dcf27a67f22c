"""Trials one after another in this process, without Ray: the same records, for debugging and for machines where Ray does not run."""

from __future__ import annotations

import traceback
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from archsweep.running.recorder import Recorder, reason_in
from archsweep.running.worker import Report, Storage, are_last, train_trial

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence
    from threading import Event

    from archsweep.planning.plan import Trial
    from archsweep.planning.search import Search


def run(
    trials: Sequence[Trial],
    corpus_ids: Mapping[str, str],
    recorder: Recorder,
    stop: Event,
    storage: Storage,
    search: Search | None = None,
) -> None:
    """Train `trials` in order, each on the corpus that `corpus_ids` names for it, until `stop` is set; one that has just ended is finished.

    With a `search`, its suggestions follow them. A trial that fails is recorded as failed, and the next one begins.
    """
    for trial in search.trials(list(trials)) if search else trials:
        if stop.is_set():
            return
        recorder.begin(trial)
        reports = train_trial(trial, corpus_ids[trial.id], storage, threads=1, folder=recorder.trial_folder(trial))
        last: Report = {}
        with _closing(reports):
            try:
                while report := _next(reports):
                    recorder.report(trial, last := report)
                    if stop.is_set() and not are_last(report["rows"]):
                        return
                    if recorder.stops(trial, report):
                        break
            except _TrialError as error:
                recorder.fail(trial, reason_in(str(error)), str(error))
                continue
        recorder.finish(trial, last)


@contextmanager
def _closing(reports: Generator[Report, None, None]) -> Iterator[None]:
    """Close the reports after the block, which saves the trial. Where the block failed, that is what is raised: a disk that takes no
    records takes no checkpoint either."""
    try:
        yield
    except BaseException:
        with suppress(Exception):
            reports.close()
        raise
    reports.close()


class _TrialError(Exception):
    """A trial's own failure, as its traceback; what goes wrong in recording is not the trial's."""


def _next(reports: Generator[Report, None, None]) -> Report | None:
    try:
        return next(reports, None)
    except Exception:
        raise _TrialError(traceback.format_exc()) from None
