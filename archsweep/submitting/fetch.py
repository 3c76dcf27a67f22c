"""A sweep's folder brought home: a small job packs it on the cluster, and the head's log API hands out the pieces."""

from __future__ import annotations

import hashlib
import secrets
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import quote, urlencode

from pydantic import ValidationError

from archsweep.errors import MachineError
from archsweep.submitting.client import submit
from archsweep.submitting.head import UnreachableError
from archsweep.submitting.jobs import LOOK_SECONDS, other_request, patiently, read_job, read_log
from archsweep.submitting.package import our_packages, write
from archsweep.submitting.parcel import MANIFEST_MARK, Manifest, Order, Piece, piece_name
from archsweep.submitting.unpack import land

if TYPE_CHECKING:
    from collections.abc import Callable

    from archsweep.submitting.head import Head

TRIES = 5
DOWNLOAD_SECONDS = 3600  # for a piece, which Ray's own limit of 30 would cut short
CHUNK_BYTES = 2**16


def fetch(head: Head, sweep: str, results: str, folder: Path, models: bool, say: Callable[[str], object]) -> None:
    """Bring the folder of the sweep that the cluster keeps in `results` to `folder`, without its checkpoints.

    Raises MachineError where the cluster cannot give it, RecordError where it is no sweep's, or less than `folder` has already.
    """
    ticket = secrets.token_hex(16)
    order = Order(sweep=sweep, results=results, models=models, ticket=ticket)
    with tempfile.TemporaryDirectory(prefix="archsweep-fetch-") as scratch:
        archive = Path(scratch) / "package.zip"
        write(our_packages(), archive, head.token)
        request = other_request(("archsweep.submitting.giving", order.model_dump_json()), {"fetches": sweep}, head.token is None)
        giver = submit(head, request, archive, f"archsweep-fetch-{ticket}")
        try:
            manifest, node = _manifest(head, giver)
            say(f"{manifest.files} files, {manifest.size:,} bytes packed")
            with open(Path(scratch) / "sweep.tar.gz", "w+b") as parcel:
                for number, piece in enumerate(manifest.pieces):
                    _download(head, node, piece_name(ticket, number), piece, parcel)
                parcel.seek(0)
                land(parcel, manifest, folder, sweep, models)
        finally:
            with suppress(MachineError):
                head.post(f"/api/jobs/{quote(giver)}/stop")


def _manifest(head: Head, giver: str) -> tuple[Manifest, str]:
    """What the job says that it has packed, and the node that it did it on."""
    while True:
        job = patiently(lambda: read_job(head, giver))
        said = patiently(lambda: read_log(head, giver)) if job.driver_node_id else ""
        for line in said.splitlines():
            if line.startswith(MANIFEST_MARK):
                return _parsed(line.removeprefix(MANIFEST_MARK)), job.driver_node_id or ""
        if job.is_over:
            last = next((line for line in reversed(said.splitlines()) if line.strip()), job.message or job.status)
            raise MachineError(f"the cluster could not pack the sweep: {last.removeprefix('archsweep: ')}")
        time.sleep(LOOK_SECONDS)


def _parsed(text: str) -> Manifest:
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise MachineError(f"the cluster must say what it packed, and says {text[:200]!r}. Does it run this archsweep?") from error


def _download(head: Head, node: str, name: str, piece: Piece, into: IO[bytes]) -> None:
    """Append the piece; one that was cut or damaged is asked for again. Raises MachineError where that does not help."""
    query = urlencode({"node_id": node, "filename": name, "lines": -1, "timeout": DOWNLOAD_SECONDS})
    start = into.tell()
    for _ in range(TRIES):
        into.seek(start)
        into.truncate()
        seen, left = hashlib.sha256(), piece.size
        with suppress(UnreachableError), head.opened(f"/api/v0/logs/file?{query}") as answer:
            while left and (part := answer.read(min(CHUNK_BYTES, left))):
                into.write(part)
                seen.update(part)
                left -= len(part)
        if not left and seen.hexdigest() == piece.sha256:
            return
        time.sleep(LOOK_SECONDS)
    raise MachineError(f"{head.address.url} was asked {TRIES} times for a piece of {piece.size:,} bytes, and none came whole. Fetch again.")
