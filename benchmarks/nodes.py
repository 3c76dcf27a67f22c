"""Nodes as machines of their own on this one: each has a network namespace, a home and a view of the disk that shows no other's."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import archsweep
from benchmarks.faults import command_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REPOSITORY = Path(archsweep.__file__).parent.parent
START = REPOSITORY / "cluster" / "onprem.sh"
PORT = 6379  # where the head answers the others
DASHBOARD = "http://127.0.0.1:8265"  # where it takes jobs, within its own network
SEPARATE = 'mount --make-rprivate / && for other in $HIDDEN; do mount -t tmpfs tmpfs "$other"; done && exec "$@"'


class Node:
    """One machine: the head, at its network's .1, or a worker. Its commands run in its own network and see its own home alone."""

    def __init__(self, cluster: str, network: str, number: int, homes: Sequence[Path], cpus: int, gpus: int) -> None:
        self.namespace, self.link = f"{cluster}n{number}", f"{cluster}v{number}"
        self.address, self.home = f"{network}.{number + 1}", homes[number]
        self._short = Path("/tmp") / self.namespace  # Ray's sockets have short paths
        self.environment = os.environ | {
            "HOME": str(self.home),
            "HIDDEN": " ".join(str(home) for home in homes if home != self.home),
            "PYTHONPATH": str(REPOSITORY),
            "ARCHSWEEP_PYTHON": sys.executable,
            "ARCHSWEEP_NODE": str(self._short),
            "ARCHSWEEP_CPUS": str(cpus),
            "ARCHSWEEP_GPUS": str(gpus),
        }
        for name in ("XDG_CACHE_HOME", "ARCHSWEEP_CACHE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
            self.environment.pop(name, None)

    def command(self, *words: str) -> list[str]:
        """The words, to be run on the node."""
        return ["ip", "netns", "exec", self.namespace, "unshare", "--mount", "bash", "-c", SEPARATE, "node", *words]

    def run(self, *words: str) -> str:
        """What a command on the node says, in its home. Raises AssertionError where it fails."""
        done = subprocess.run(self.command(*words), capture_output=True, text=True, env=self.environment, cwd=self.home)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def begin(self, *words: str, folder: Path) -> subprocess.Popen[str]:
        """A command on the node, running in `folder`."""
        return subprocess.Popen(
            self.command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment, cwd=folder
        )

    def start_ray(self, head: Node) -> None:
        """By onprem.sh, as its header says."""
        self.run(str(START), *(("head", self.address) if self is head else ("worker", head.address, self.address)))

    def _processes(self) -> list[int]:
        done = subprocess.run(["ip", "netns", "pids", self.namespace], check=True, capture_output=True, text=True)
        return [int(pid) for pid in done.stdout.split()]

    def runs(self, pattern: str) -> bool:
        """Whether the command line of one of its processes matches."""
        return any(re.search(pattern, command_line(pid)) for pid in self._processes())

    def kill(self) -> None:
        """kill -9 of every process on the node, until none is left: what it is to lose the machine."""
        while pids := self._processes():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    def remove(self) -> None:
        with suppress(subprocess.CalledProcessError):  # where the network was never made
            self.kill()
            subprocess.run(["ip", "netns", "delete", self.namespace], check=True)
        shutil.rmtree(self._short, ignore_errors=True)


@contextmanager
def cluster(home: Path, count: int, cpus: int = 1, gpus: int = 0, kinds: dict[str, Any] | None = None) -> Iterator[list[Node]]:
    """So many nodes of `cpus` processors, the head first, all in one Ray; none is left afterwards. Needs root, for the networks.

    With `kinds`, Ray's autoscaler starts nodes of them as it would on a cloud, by Ray's own provider of nodes that are processes.
    """
    name = f"as{secrets.token_hex(2)}"
    network = (
        f"10.77.{secrets.randbelow(256)}"  # Ray, which sees every process of the host, takes another's head at its address for its own
    )
    homes = [home / f"node{number}" for number in range(count)]
    for each in homes:
        (each / ".ray").mkdir(parents=True)
    nodes = [Node(name, network, number, homes, cpus, gpus) for number in range(count)]
    head, *workers = nodes
    if kinds:
        head.environment |= _autoscaling(home / "autoscaler.yaml", head, kinds)
    try:
        for node in nodes:
            subprocess.run(["ip", "netns", "add", node.namespace], check=True)
            node.run("ip", "link", "set", "lo", "up")
        head.run("ip", "link", "add", "bridge", "type", "bridge")
        head.run("ip", "address", "add", f"{head.address}/24", "dev", "bridge")
        head.run("ip", "link", "set", "bridge", "up")
        for node in workers:
            head.run("ip", "link", "add", node.link, "type", "veth", "peer", "name", "uplink", "netns", node.namespace)
            head.run("ip", "link", "set", node.link, "master", "bridge", "up")
            node.run("ip", "address", "add", f"{node.address}/24", "dev", "uplink")
            node.run("ip", "link", "set", "uplink", "up")
        head.run(str(START), "token")
        for node in workers:
            shutil.copy2(head.home / ".ray" / "auth_token", node.home / ".ray" / "auth_token")
        for node in nodes:
            node.start_ray(head)
        yield nodes
    finally:
        for node in nodes:
            node.remove()


def _autoscaling(path: Path, head: Node, kinds: dict[str, Any]) -> dict[str, str]:
    """The environment of a head whose autoscaler has these kinds of nodes."""
    config = {
        "cluster_name": "processes",
        "max_workers": 8,
        "idle_timeout_minutes": 5,
        "provider": {"type": "fake_multinode", "gcs_address": f"{head.address}:{PORT}"},
        "available_node_types": {"ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}} | kinds,
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "file_mounts_sync_continuously": False,
    }
    mappings = ("auth", "docker", "file_mounts")
    lists = ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands")
    commands = [f"{where}_{what}_commands" for where in ("head", "worker") for what in ("setup", "start_ray")]
    config |= {name: {} for name in mappings} | {name: [] for name in (*lists, *commands)}  # what the autoscaler reads in any case
    path.write_text(json.dumps(config))  # which is YAML too
    return {"ARCHSWEEP_AUTOSCALING_CONFIG": str(path), "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}


def cut(head: Node, worker: Node) -> None:
    """Pull the worker's cable."""
    head.run("ip", "link", "set", worker.link, "down")


def join(head: Node, worker: Node) -> None:
    """Put it back."""
    head.run("ip", "link", "set", worker.link, "up")
