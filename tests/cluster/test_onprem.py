"""onprem.sh: what it refuses, and the path that cluster/README.md prints, walked on two real nodes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.cluster.checkers import CLUSTER, ROOT, block_under, read
from tests.conftest import AS_EQUALS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCRIPT = CLUSTER / "onprem.sh"
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}

LOOK = """
import json, sys, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="CRITICAL")
where = ray.remote(num_cpus=1)(lambda: ray.get_runtime_context().get_node_id())
nodes = [node for node in ray.nodes() if node["Alive"]]
there = {ray.get(where.options(scheduling_strategy=On(node["NodeID"], soft=False)).remote()) for node in nodes}
print(json.dumps({"nodes": len(nodes), "answered": len(there), "cpus": ray.cluster_resources()["CPU"]}))
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path of our own: sockets' paths must be short."""
    folder = Path(tempfile.mkdtemp(prefix="as-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def environment(place: Path) -> dict[str, str]:
    """A user who has just arrived: a home without a token, and nothing of Ray's in the environment that would let them in."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "ARCHSWEEP_"))}
    own = {"HOME": str(place), "TMPDIR": str(place), "ARCHSWEEP_NODE": str(place / "node"), "ARCHSWEEP_PYTHON": sys.executable}
    return kept | AS_EQUALS | own


def script(environment: dict[str, str], *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, *words], env=environment | settings, capture_output=True, text=True, timeout=150)


REFUSED = [
    (["head"], {}, "say one of: token, head IP, worker HEAD-IP IP, status, stop"),
    (["head", "0.0.0.0"], {}, "0.0.0.0 is every network at once"),
    (["head", "desk-3"], {}, "a node is named by its IPv4 address, got 'desk-3'"),
    (["head", "203.0.113.7"], {}, "203.0.113.7 is no address of this machine"),
    (["head", "127.0.0.1"], {"ARCHSWEEP_PORT": "http"}, "ARCHSWEEP_PORT must be a number from 1024 to 65535, got 'http'"),
    (["head", "127.0.0.1"], {"ARCHSWEEP_NODE_PORTS": "65000"}, "ARCHSWEEP_NODE_PORTS must be a number from 1024 to 64536"),
    (["head", "127.0.0.1"], {"ARCHSWEEP_CPUS": "many"}, "ARCHSWEEP_CPUS must be a number from 0 to 4096, got 'many'"),
    (["head", "127.0.0.1"], {"ARCHSWEEP_NODE": "node"}, "ARCHSWEEP_NODE must be an absolute path of at most 38 characters"),
    (["head", "127.0.0.1"], {"ARCHSWEEP_PYTHON": "/nowhere/python"}, "/nowhere/python is not there. Set up the project"),
    (["worker", "127.0.0.1", "127.0.0.1"], {}, "auth_token is not there. The head makes it"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "settings", "said"), REFUSED, ids=[said[:30] for _, _, said in REFUSED])
def test_it_refuses_with_a_sentence_before_anything_starts(
    environment: dict[str, str], place: Path, words: list[str], settings: dict[str, str], said: str
) -> None:
    done = script(environment, *words, **settings)
    assert done.returncode == 2
    assert done.stderr.startswith("onprem.sh: ")
    assert said in done.stderr
    assert not (place / "node").exists()


def test_it_refuses_a_port_that_is_taken(environment: dict[str, str]) -> None:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()
        port = str(door.getsockname()[1])
        assert f"port {port} is taken on 127.0.0.1" in script(environment, "head", "127.0.0.1", ARCHSWEEP_PORT=port).stderr


def test_the_token_is_made_once_for_its_owner_alone_and_not_shown(environment: dict[str, str], place: Path) -> None:
    token = place / ".ray" / "auth_token"
    token.parent.mkdir(mode=0o755)
    first = script(environment, "token")
    secret = token.read_text()
    assert (first.stdout, first.stderr) == (f"{token}\n", "")
    assert len(secret) == 64
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    assert script(environment, "token").returncode == 0
    assert token.read_text() == secret
    token.chmod(0o640)
    assert "lets others read the cluster's token (mode 640)" in script(environment, "token").stderr


def test_a_worker_does_not_start_without_a_head(environment: dict[str, str]) -> None:
    script(environment, "token")
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))  # nobody listens there
        done = script(environment, "worker", "127.0.0.1", "127.0.0.1", ARCHSWEEP_PORT=str(door.getsockname()[1]))
    assert done.returncode == 2
    assert "Start the head first" in done.stderr


def test_stop_leaves_a_process_alone_that_only_has_the_same_number(environment: dict[str, str], place: Path) -> None:
    (place / "node").mkdir()
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        (place / "node" / "process").write_text(f"{other.pid} 1\n")
        assert script(environment, "stop").stdout == f"no node runs from {place / 'node'}\n"
        assert other.poll() is None
        other.kill()


@pytest.fixture
def printed() -> list[str]:
    """The commands of the README's block for one machine."""
    return block_under(read("README.md"), "On one machine, to see it work").splitlines()


@pytest.fixture
def walked(environment: dict[str, str], place: Path, printed: list[str]) -> Iterator[Callable[[str], str]]:
    """Runs the printed lines, as they are, up to one; whatever comes of it, nothing that they started is left."""
    shell = subprocess.Popen(
        ["bash"], cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert shell.stdin is not None
    assert shell.stdout is not None
    lines, stdin, stdout = iter(printed), shell.stdin, shell.stdout

    def walk(until: str) -> str:
        said = ""
        for line in lines:
            stdin.write(f"{line}\necho == $?\n")
            stdin.flush()
            answer = ""
            while not answer.startswith("== "):
                said += answer
                answer = stdout.readline()
                assert answer, said
            assert answer == "== 0\n", f"{line}: {said}"
            if until in line:
                break
        return said

    yield walk
    stdin.close()
    stdout.close()
    shell.wait(10)
    for folder in (*place.glob("tmp.*"), place / "node"):
        script(environment, "stop", ARCHSWEEP_NODE=str(folder))


def of_ours(place: Path) -> list[psutil.Process]:
    """Every process whose environment has this test's home."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == str(place) and process.name() != "bash":
                found.append(process)
        except psutil.Error:
            continue
    return found


def driver(environment: dict[str, str], **settings: str) -> subprocess.CompletedProcess[str]:
    """A driver that looks at the cluster, in a process of its own."""
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
    command = [sys.executable, "-W", "ignore", "-c", LOOK, "127.0.0.1:6379"]
    return subprocess.run(command, env=environment | loopback | settings, capture_output=True, text=True, timeout=120)


def answer(token: str | None) -> int:
    """What the job server says to a list of jobs, asked with a token or without."""
    request = urllib.request.Request("http://127.0.0.1:8265/api/jobs/", headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_printed_path_makes_a_closed_cluster_of_two_nodes_and_ends_it(
    walked: Callable[[str], str], environment: dict[str, str], place: Path
) -> None:
    assert "a node of 127.0.0.1 runs" in walked("onprem.sh worker")
    token = place / ".ray" / "auth_token"
    secret = token.read_text()
    assert stat.S_IMODE(token.stat().st_mode) == 0o600

    seen = driver(environment)
    assert json.loads(seen.stdout) == {"nodes": 2, "answered": 2, "cpus": 2.0}, seen.stderr
    for settings in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0" * 64}):
        refused = driver(environment, **settings)
        assert refused.returncode != 0
        assert "nodes" not in refused.stdout
    assert (answer(None), answer("0" * 64), answer(secret)) == (401, 403, 200)

    processes = of_ours(place)
    connections = [connection for each in processes for connection in each.net_connections("tcp")]
    doors = {connection.laddr for connection in connections if connection.status == psutil.CONN_LISTEN}
    assert {port for _, port in doors} >= {6379, 8265, 20000, 21000}
    assert {address for address, _ in doors} <= LOOPBACK
    assert not any(secret in word for each in processes for word in each.cmdline())
    assert secret not in (place / "node" / "log").read_text()

    assert "2 nodes, 2 CPUs" in walked("doctor")
    assert "heads_vs_layers-smoke: succeeded" in walked("archsweep submit")
    (second,) = place.glob("tmp.*")
    assert f"report: {second}/results/heads_vs_layers-smoke/report.html" in walked("archsweep report")
    assert f"stopped the node of {second}" in walked("onprem.sh stop")
    assert script(environment, "status").returncode == 0, "the first node runs on"
    assert f"stopped the node of {place / 'node'}" in walked("onprem.sh stop")
    deadline = time.monotonic() + 30
    while (left := of_ours(place)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []
    with socket.socket() as door:
        assert door.connect_ex(("127.0.0.1", 6379)) != 0


@pytest.mark.slow
def test_two_addresses_of_a_network_make_a_cluster(environment: dict[str, str], place: Path) -> None:
    """As on machines of one's own, where Ray listens on every interface: in a network of the test's own, which ends here."""
    if os.geteuid() or subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a network of our own takes permission")
    lines = f"""
        set -e
        ip link set lo up
        ip address add 10.78.0.1/24 dev lo
        ip address add 10.78.0.2/24 dev lo
        export ARCHSWEEP_CPUS=1
        {SCRIPT} head 10.78.0.1
        ARCHSWEEP_NODE={place}/second ARCHSWEEP_NODE_PORTS=21000 {SCRIPT} worker 10.78.0.1 10.78.0.2
        RAY_AUTH_MODE=token {sys.executable} -W ignore -c '{LOOK}' 10.78.0.1:6379
        ARCHSWEEP_NODE={place}/second {SCRIPT} stop
        {SCRIPT} stop
    """
    done = subprocess.run(["unshare", "--net", "bash", "-c", lines], env=environment, capture_output=True, text=True, timeout=200)
    assert '{"nodes": 2, "answered": 2, "cpus": 2.0}' in done.stdout, done.stderr
    assert done.returncode == 0, done.stderr
    assert of_ours(place) == []


@pytest.mark.slow
def test_a_worker_with_another_token_does_not_join(environment: dict[str, str], place: Path) -> None:
    ports = {"ARCHSWEEP_PORT": "6390", "ARCHSWEEP_DASHBOARD_PORT": "8290", "ARCHSWEEP_NODE_PORTS": "24000", "ARCHSWEEP_CPUS": "1"}
    try:
        assert script(environment, "head", "127.0.0.1", **ports).returncode == 0
        other = place / "other"
        other.write_text("0" * 64)
        other.chmod(0o600)
        second = ports | {"ARCHSWEEP_NODE": str(place / "second"), "ARCHSWEEP_NODE_PORTS": "25000", "RAY_AUTH_TOKEN_PATH": str(other)}
        done = script(environment, "worker", "127.0.0.1", "127.0.0.1", **second)
        assert done.returncode == 1
        assert "Ray did not start" in done.stderr
        assert script(environment, "status", **second).returncode == 1
    finally:
        script(environment, "stop")
    assert of_ours(place) == []
