"""A job's log as it is written, for as long as the job lives: what ends the stream is not what ends the job."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from archsweep.errors import MachineError
from archsweep.submitting.client import tail
from archsweep.submitting.jobs import LOOK_SECONDS, patiently, read_job, read_log

if TYPE_CHECKING:
    from collections.abc import Callable

    from archsweep.submitting.head import Head
    from archsweep.submitting.jobs import Job


def follow(head: Head, submission_id: str, write: Callable[[str], object], say: Callable[[str], object]) -> Job:
    """Write all that the job says, once, until its head says that it is over; returns it as it ended.

    `say` is told of a head that is out of reach. Raises MachineError where it stays so, or has forgotten the job.
    """
    said = 0
    while True:
        said = tail(head, submission_id, said, write)
        job = patiently(lambda: read_job(head, submission_id), say)
        if job.is_over:
            break
        time.sleep(LOOK_SECONDS)
    with suppress(MachineError):  # the node that it ran on may be gone, and its log with it
        write(read_log(head, submission_id)[said:])
    return job
