"""A real head on loopback, with a token, a home and a temporary folder of its own; and a laptop's side of it."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.command_line.command import REPOSITORY
from tests.conftest import AS_EQUALS, STORE

if TYPE_CHECKING:
    from collections.abc import Iterator

START_SECONDS = 90
SECRET = "canary-env-31c7"  # of the laptop's environment: it must be nowhere else


@dataclass
class Cluster:
    """A head that runs, and what is needed to reach it."""

    folder: Path  # of all that it writes
    token: str
    dashboard: int
    gcs: int
    process: psutil.Process
    environment: dict[str, str] = field(repr=False)  # of the laptop

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    @property
    def results(self) -> Path:
        return self.folder / "home/archsweep/results"

    def run(self, *words: str, folder: Path, address: str = "") -> subprocess.CompletedProcess[str]:
        """What `python -m archsweep WORDS --address URL` says on the laptop, in `folder`."""
        command = [sys.executable, "-m", "archsweep", *words, "--address", address or self.url]
        return subprocess.run(command, cwd=folder, env=self.environment, capture_output=True, text=True, timeout=200)

    def processes(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def listening(self) -> set[tuple[str, int]]:
        """The addresses and ports on which any of its processes listens."""
        found = set()
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):  # workers come and go
                found |= {(each.laddr.ip, each.laddr.port) for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN}
        return found


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _answers(url: str, token: str) -> bool:
    """Whether the head takes jobs, which it does a while after it tells its version; what asks too early may wait for long."""
    with suppress(OSError):
        request = urllib.request.Request(f"{url}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5):
            return True
    return False


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with head("token") as running:
        yield running


@contextmanager
def head(mode: str) -> Iterator[Cluster]:
    """A head whose RAY_AUTH_MODE is `mode`, until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="as-", dir="/tmp"))  # short: Ray puts sockets there, whose paths may have 107 bytes
    gcs, dashboard, agent, client = free_ports(4)
    token = secrets.token_hex(32)
    for name in ("home", "laptop", "ray"):
        (folder / name).mkdir()
    token_file = folder / "laptop" / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(token)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    common = AS_EQUALS | {"PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file), "RAY_USAGE_STATS_ENABLED": "0"}
    heads = common | {
        "RAY_AUTH_MODE": mode,
        "HOME": str(folder / "home"),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "ARCHSWEEP_CACHE": str(folder / "cache"),
        **STORE,
    }
    ours = common | {"HOME": str(folder / "laptop"), "PYTHONPATH": str(REPOSITORY), "MY_API_KEY": SECRET, "RAY_ADDRESS": "127.0.0.1:1"}
    options = {
        "port": gcs,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agent,
        "ray-client-server-port": client,
        "node-ip-address": "127.0.0.1",
        "num-cpus": 2,
        "temp-dir": folder / "ray",
    }
    command = ["ray", "start", "--head", "--block", *(f"--{name}={value}" for name, value in options.items())]
    with open(folder / "head.log", "w") as log:
        process = subprocess.Popen(command, env=heads, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    running = Cluster(folder, token, dashboard, gcs, psutil.Process(process.pid), ours)
    try:
        end = time.monotonic() + START_SECONDS
        while not _answers(running.url, token):
            assert process.poll() is None, (folder / "head.log").read_text()
            assert time.monotonic() < end, (folder / "head.log").read_text()
            time.sleep(0.2)
        yield running
    finally:
        left = running.processes() if process.poll() is None else []
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        for each in left:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)
