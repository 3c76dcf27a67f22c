"""Trials one after another in this process, without Ray: the same records, for debugging and for machines where Ray does not run."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

from archsweep.running.recorder import Recorder, reason_of
from archsweep.running.worker import Report, train_trial

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from archsweep.planning.plan import Trial


def run(trials: Sequence[Trial], corpus_ids: Mapping[str, str], recorder: Recorder, cache_dir: Path | None = None) -> None:
    """Train `trials` in order, each on the corpus that `corpus_ids` names for it.

    A trial that fails is recorded as failed, and the next one begins.
    """
    for trial in trials:
        recorder.begin(trial)
        last: Report = {}
        try:
            for last in train_trial(trial, corpus_ids[trial.id], cache_dir, threads=1):
                recorder.report(trial, last)
        except Exception as error:
            recorder.fail(trial, reason_of(error), traceback.format_exc())
        else:
            recorder.finish(trial, last)
