"""A parcel from a cluster unpacked: names stay inside, nothing but records and reports lands, and no row that is here is lost."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from archsweep.atomic import OTHER_RESULTS, must_be_writable
from archsweep.errors import RecordError
from archsweep.records.files import load_plan
from archsweep.records.schema import PLAN_FILE, RECORDS_FILE, TRIALS_FOLDER
from archsweep.submitting.parcel import is_plain, travels

if TYPE_CHECKING:
    from collections.abc import Iterable

    from archsweep.submitting.parcel import Manifest


def land(parcel: IO[bytes], manifest: Manifest, folder: Path, name: str, models: bool) -> None:
    """Put what the parcel holds into `folder`, each file in one step; what is there beside it stays.

    Raises RecordError for a parcel that is not this sweep's, or has less of it than the folder; MachineError where that cannot be written.
    """
    with must_be_writable(folder.parent, OTHER_RESULTS):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            unpacked = Path(scratch) / "sweep"
            _unpack(parcel, manifest, unpacked, models)
            _check(unpacked, name)
            if folder.exists():
                _check_nothing_is_lost(folder, unpacked)
                _merge(unpacked, folder)
            else:
                unpacked.rename(folder)


def _unpack(parcel: IO[bytes], manifest: Manifest, into: Path, models: bool) -> None:
    """Raises RecordError for anything in it but files of a sweep."""
    into.mkdir()
    room = min(manifest.unpacked, shutil.disk_usage(into).free)
    try:
        with tarfile.open(fileobj=parcel, mode="r:gz") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                room -= member.size
                if not (member.isreg() and travels(name, models) and room >= 0):
                    raise RecordError(f"the cluster sent {member.name!r}, which is no file of a sweep, or too large. Nothing was kept.")
                tar.extract(member, into, set_attrs=False, filter="data")
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise RecordError(
            f"what the cluster sent must be a sweep's folder, and cannot be unpacked: {error}. Nothing of it was kept."
        ) from error


def _check(unpacked: Path, name: str) -> None:
    """Raises RecordError where the plan is another sweep's, or names a place outside of its folder."""
    plan = load_plan(unpacked)
    if plan["name"] != name:
        raise RecordError(f"the cluster sent the plan of a sweep {plan['name']!r} for {name}. Nothing of it was kept.")
    if bad := [trial for trial in _ids(plan) if not is_plain(trial)]:
        raise RecordError(f"the cluster sent a plan with a trial {bad[0]!r}, which is no name of a folder. Nothing of it was kept.")


def _check_nothing_is_lost(folder: Path, unpacked: Path) -> None:
    """Raises RecordError where the folder is not an older state of what came."""
    other = f"{folder} is not an older state of what the cluster has: it holds"
    way_out = "Nothing was changed. Bring it elsewhere with --to."
    missing = set(_ids(load_plan(folder))) - set(_ids(load_plan(unpacked)))
    if missing:
        raise RecordError(f"{other} {len(missing)} trials that are in no plan there. {way_out}")
    for records in sorted((folder / TRIALS_FOLDER).glob(f"*/{RECORDS_FILE}")):
        came = unpacked / records.relative_to(folder)
        if _rows([records]) - _rows(came.parent.glob(f"{RECORDS_FILE}*")):
            raise RecordError(f"{other} rows of the trial {records.parent.name} that it has not. {way_out}")


def _merge(unpacked: Path, folder: Path) -> None:
    """Replace file by file; the plan comes last, when all that it names is there."""
    names = [path.relative_to(unpacked) for path in unpacked.rglob("*") if path.is_file()]
    for name in sorted(names, key=lambda name: (str(name) == PLAN_FILE, name)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(unpacked / name, folder / name)


def _ids(plan: dict[str, Any]) -> list[str]:
    return [str(trial.get("id")) for trial in plan["trials"]]


def _rows(files: Iterable[Path]) -> set[bytes]:
    """The whole lines of records and of attempts that were set aside. What follows the last newline is a line that was being written."""
    return {line for file in files for line in file.read_bytes().split(b"\n")[:-1]}
