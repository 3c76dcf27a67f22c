"""Ray's own job client: the one file here that imports Ray. It sends a package and tails a log; all else is plain HTTP."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from archsweep.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from archsweep.submitting.head import Head
    from archsweep.submitting.jobs import Request

SILENCE_SECONDS = 60.0  # of a log, after which its connection may be one that was cut without a word


def submit(head: Head, request: Request, archive: Path, submission_id: str) -> str:
    """Send the package and start a job of this id, which is returned. Raises MachineError."""
    try:
        with _client(head) as client:
            return str(
                client.submit_job(
                    entrypoint=request.entrypoint,
                    submission_id=submission_id,
                    runtime_env={"working_dir": str(archive), "env_vars": dict(request.variables)},
                    metadata=dict(request.metadata),
                )
            )
    except Exception as error:  # Ray raises a RuntimeError with the server's whole traceback
        raise MachineError(f"{head.address.url} did not take the job: {_last_line(error)}") from error


def tail(head: Head, submission_id: str, skip: int, write: Callable[[str], object]) -> int:
    """Write what the job says from character `skip` on, until the stream ends, is cut or falls silent; returns how much was said by then.

    That it has ended says nothing about the job.
    """
    seen = 0

    async def read() -> None:
        nonlocal seen
        with _client(head) as client:
            lines = client.tail_job_logs(submission_id)
            try:
                while True:
                    async with asyncio.timeout(SILENCE_SECONDS):
                        text = await anext(lines)
                    try:
                        write(text[max(0, skip - seen) :])
                    except OSError as error:
                        raise _UnreadError(error) from error
                    seen += len(text)
            except StopAsyncIteration:
                return
            finally:
                await lines.aclose()

    try:
        with suppress(_cuts()):
            asyncio.run(read())
    except _UnreadError as error:
        raise error.reason from None
    return max(seen, skip)


class _UnreadError(Exception):
    """Nobody reads on, as where the output is piped into `head`: no connection was cut, and none will mend it."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(reason)
        self.reason = reason


def _cuts() -> Any:
    """What a connection that is cut, or refused, raises."""
    import aiohttp
    import requests
    from ray.exceptions import RayError

    return (OSError, RuntimeError, aiohttp.ClientError, requests.RequestException, RayError)


@contextmanager
def _client(head: Head) -> Iterator[Any]:
    """Ray's client for the head, with our token and no other; Ray raises what it will where the head does not answer."""
    before = dict(os.environ)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # Ray would send the token there instead
        os.environ.pop(name, None)
    os.environ["NETRC"] = os.devnull  # a password from there would replace the token
    if head.address.on_loopback:
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = head.address.host  # a proxy would read the token
    try:
        from ray.job_submission import JobSubmissionClient

        for name in ("ray", "ray.dashboard", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        # An empty header keeps Ray from adding a token of its own for a head that is open to everyone.
        headers = {"Authorization": f"Bearer {head.token.value}" if head.token else ""}
        yield JobSubmissionClient(head.address.url, headers=headers, verify=os.environ.get("SSL_CERT_FILE") or True)
    finally:
        os.environ.clear()
        os.environ.update(before)


def _last_line(error: Exception) -> str:
    return next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
