"""What a sweep needs of this machine, checked: a line each, with the way out where something is amiss."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import urllib.error
import urllib.request
from contextlib import suppress
from http.client import HTTPException, InvalidURL
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from archsweep.errors import ArchsweepError, MachineError
from archsweep.records import remote
from archsweep.training.corpus import default_cache_dir

if TYPE_CHECKING:
    from collections.abc import Iterator

NETWORK_SECONDS = 3.0
LEAST_FREE_BYTES = 2 * 10**9  # of memory, and of each disk: what a small sweep with Ray needs
MEMORY_FILE = Path("/proc/meminfo")  # where Linux says what is free
MPS_FOLDER = "/tmp/nvidia-mps"  # where NVIDIA's daemon listens unless CUDA_MPS_PIPE_DIRECTORY says otherwise


class Finding(NamedTuple):
    """One thing that was checked; where it is not ok, `what` ends with the way out."""

    ok: bool
    what: str

    def __str__(self) -> str:
        return f"{'ok' if self.ok else '! '} {self.what}"


def findings(results: str, cache: Path | None = None, address: str | None = None) -> list[Finding]:
    """All checks, of the cluster at `address` too if it is given. No GPU and no hub are facts, not faults."""
    return [
        *_versions(),
        _processors(),
        *_gpus(),
        _token_file(_token_path()),
        _store(results) if remote.is_uri(results) else _disk("results", Path(results)),
        _disk("cache", cache or default_cache_dir()),
        _hub(),
        *([_cluster(address)] if address else []),
    ]


def _versions() -> Iterator[Finding]:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    if _version("archsweep") == "0":
        yield Finding(False, "archsweep's own requirements are not known: it runs without being installed. Install it: pip install -e .")
        return
    python = SpecifierSet(metadata("archsweep")["Requires-Python"])
    needed = [Requirement(line) for line in requires("archsweep") or ()]
    have = [("Python", python, platform.python_version())]
    have += [(each.name, each.specifier, _version(each.name)) for each in needed if each.marker is None or each.marker.evaluate()]
    good = [f"{name} {found}" for name, wanted, found in have if wanted.contains(found, prereleases=True)]
    yield Finding(True, ", ".join(good))
    for name, wanted, found in have:
        if not wanted.contains(found, prereleases=True):
            way_out = "Make the environment anew with such a Python" if name == "Python" else f"Install it: pip install '{name}{wanted}'"
            yield Finding(False, f"{name} must be {wanted}, and is {'missing' if found == '0' else found}. {way_out}.")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "0"


def _processors() -> Finding:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    total, free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), _free_memory()
    line = f"{count} processors, {total / 1e9:.1f} GB of memory"
    if free is None:
        return Finding(True, line)
    line += f", {free / 1e9:.1f} GB of it free"
    if free >= LEAST_FREE_BYTES:
        return Finding(True, line)
    return Finding(False, f"{line}. Close other programs, or use fewer processors with --num-cpus.")


def _free_memory() -> int | None:
    """What a new program could have, the file cache that would make room included; None where the system does not say."""
    with suppress(OSError, StopIteration):
        lines = MEMORY_FILE.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    with suppress(ValueError):  # macOS does not know this name
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return None


def _gpus() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        if boards := _boards():
            yield Finding(False, f"{boards} is here, and torch {torch.__version__} cannot use it. Install a build for its CUDA.")
        else:
            yield Finding(True, "no GPU: trials train on processors")
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        with torch.cuda.device(index):
            bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16"
        tf32 = "TF32" if properties.major >= 8 else "no TF32"
        yield Finding(True, f"GPU {index}: {properties.name}, {properties.total_memory / 1e9:.0f} GB, {bf16}, {tf32}")
    yield Finding(True, _sharing(Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", MPS_FOLDER))))


def _sharing(pipes: Path) -> str:
    if (pipes / "control").exists():
        return f"the MPS daemon listens in {pipes}: trials that share a GPU compute side by side"
    return "no MPS daemon: trials that share a GPU take turns on it. nvidia-cuda-mps-control -d starts one"


def _boards() -> str:
    """The GPUs that the driver names, whatever torch makes of them."""
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return ", ".join(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")).strip(", ")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _token_path() -> Path:
    """Where Ray looks for the token that it answers to."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def _token_file(path: Path) -> Finding:
    try:
        mode = path.stat().st_mode & 0o777
    except FileNotFoundError:
        if "RAY_AUTH_TOKEN_PATH" in os.environ:
            return Finding(False, f"RAY_AUTH_TOKEN_PATH names {path}, which is not there. Unset it, or make the file.")
        return Finding(True, "no file with a Ray token: what is started here answers to one that is in no file")
    if mode & 0o077:
        return Finding(False, f"{path} lets others read Ray's token (mode {mode:04o}). Close it: chmod 600 {path}")
    return Finding(True, f"{path} keeps Ray's token (mode {mode:04o})")


def _disk(name: str, folder: Path) -> Finding:
    """Whether the folder, or the nearest that is there, can be written and has room."""
    place = next(each for each in (folder.resolve(), *folder.resolve().parents) if each.exists())
    free = shutil.disk_usage(place).free
    line = f"{name} {folder}: {free / 1e9:.1f} GB free"
    if not place.is_dir() or not os.access(place, os.W_OK):
        return Finding(False, f"{name} {folder} must be writable, and {place} is not. Give another place with --{name}.")
    if free < LEAST_FREE_BYTES:
        return Finding(False, f"{line}. Make room (python -m archsweep clean SWEEP), or give another place with --{name}.")
    return Finding(True, line)


def _store(uri: str) -> Finding:
    try:
        count = len(remote.sweeps(remote.local_root(uri, default_cache_dir())))
    except ArchsweepError as error:
        return Finding(False, str(error))
    return Finding(True, f"the store answers: {uri} holds {count} sweeps")


def _hub() -> Finding:
    from huggingface_hub import constants

    address = constants.ENDPOINT
    no_address = f"HF_ENDPOINT must be a hub's address, as https://huggingface.co, got {address}. Set it to one, or unset it."
    if not address.lower().startswith(("http://", "https://")):
        return Finding(False, no_address)
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=NETWORK_SECONDS):
            return Finding(True, "the hub answers")
    except urllib.error.HTTPError as error:
        return Finding(True, f"the hub answers, with {error.code}")
    except (ValueError, InvalidURL):
        return Finding(False, no_address)
    except (OSError, HTTPException) as error:
        return Finding(True, f"the hub does not answer ({error}): dataset=stdlib and text:PATH do without it")


def _cluster(address: str) -> Finding:
    """Whether the cluster lets us in, which it does for its own versions of Ray and Python and its own token."""
    from archsweep.running.session import cluster

    try:
        return Finding(True, f"the cluster at {address}: {cluster(address)}")
    except MachineError as error:
        return Finding(False, str(error))
