"""Sweeps submitted to a real head: followed to their end, stopped, fetched, and its doors tried."""

from __future__ import annotations

import gc
import http.client
import json
import pickle
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING

import pandas as pd
import pytest

import archsweep
from archsweep.records import remote
from archsweep.submitting import client, package
from archsweep.submitting.door import Token, parse_address
from archsweep.submitting.follow import follow
from archsweep.submitting.head import Head
from archsweep.submitting.jobs import Request, read_log
from benchmarks.faults import WAITING
from tests.command_line.command import TINY_SPACE, run
from tests.submitting.conftest import SECRET, head
from tests.submitting.evil import Evil

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.submitting.conftest import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

OWN_METRIC = """def tokens_seen(model, windows):
    return float(windows.numel())
"""
CANARIES = {
    ".env": "canary-dotenv-90b1",
    "id_rsa": "canary-rsa-90b2",
    "server.pem": "canary-pem-90b3",
    "auth_token": "canary-token-90b4",
    ".aws/credentials": "canary-aws-90b5",
    "notes/private.txt": "-----BEGIN OPENSSH PRIVATE KEY-----\ncanary-key-90b6",
    "ignored.txt": "canary-ignored-90b7",
}


def wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.2)


@pytest.fixture
def project(tmp_path: Path, tiny_text: Path) -> Path:
    """A researcher's folder: a question, a module of their own, and things that must not leave it."""
    folder = tmp_path / "project"
    folder.mkdir()
    own = TINY_SPACE.format(tokens=384, text=tiny_text).replace("vocab_size=300", 'vocab_size=300, metrics=("own_metric:tokens_seen",)')
    (folder / "one_or_two.py").write_text(own)
    (folder / "own_metric.py").write_text(OWN_METRIC)
    (folder / ".rayignore").write_text("ignored.txt\n")
    for name, content in CANARIES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    return folder


def losses(folder: Path) -> pd.DataFrame:
    """Every recorded loss, by what it is of; exact."""
    which = ["variant", "learning_rate", "seed", "step"]
    return archsweep.load_curves(folder).sort_values(which)[[*which, "train_loss", "val_loss"]].reset_index(drop=True)


def holding(folder: Path, words: list[str]) -> list[str]:
    """The files below a folder in which one of the words is found."""
    found = []
    for path in (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        content = path.read_bytes()
        found += [f"{path}: {word}" for word in words if word.encode() in content]
    return found


def test_a_submitted_sweep_is_followed_fetched_and_ends_with_the_records_that_it_has_here(
    cluster: Cluster, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = cluster.run("submit", "one_or_two.py", "--checkpoint-seconds", "30", folder=project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(
        r"to send: \d+ files, [\d,]+ bytes; they look like secrets and stay here: auth_token, id_rsa, notes/private.txt", done.stdout
    )
    assert "sent as archsweep-one_or_two: python -m archsweep one_or_two.py --checkpoint-seconds 30.0 --address auto" in done.stdout
    assert f"report: {cluster.results}/one_or_two/report.html" in done.stdout
    assert "one_or_two: succeeded" in done.stdout.splitlines()[-1]

    fetched = cluster.run("fetch", "one_or_two", folder=project)
    assert fetched.returncode == 0, fetched.stdout + fetched.stderr
    there, here = (
        {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
        for place in (cluster.results / "one_or_two", project / "results/one_or_two")
    )
    assert here <= there
    assert {name for name in there - here if "/checkpoint/" not in name} == {".lock"}
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(project)
    assert run("one_or_two.py", "--serial", "--results", str(tmp_path / "here")) == 0
    pd.testing.assert_frame_equal(losses(project / "results/one_or_two"), losses(tmp_path / "here/one_or_two"), check_exact=True)
    assert run("report", "one_or_two") == 0
    assert "One layer or two?" in capsys.readouterr().out

    again = cluster.run("submit", "one_or_two.py", folder=project)
    assert again.returncode == 0, again.stdout + again.stderr
    assert re.search(r"(\d+) of \1 trials are finished and stay as they are", again.stdout), again.stdout
    listed = cluster.run("jobs", folder=project).stdout.splitlines()
    assert [re.findall(r"archsweep-one_or_two\S*", line) for line in listed if line.startswith("one_or_two:")] == [
        ["archsweep-one_or_two"],
        ["archsweep-one_or_two-2"],
    ]
    (cluster.results / "one_or_two/tuner.pkl").write_bytes(pickle.dumps(Evil(tmp_path / "made")))
    (cluster.results / "one_or_two/figures/passwords.txt").symlink_to("/etc/passwd")
    (cluster.results / "one_or_two/trials/elsewhere").symlink_to(project)
    assert cluster.run("fetch", "one_or_two", "--no-models", "--to", "elsewhere", folder=project).returncode == 0
    came = {path.relative_to(project / "elsewhere/one_or_two").as_posix() for path in (project / "elsewhere").rglob("*") if path.is_file()}
    assert came == {name for name in here if "/model/" not in name}
    assert not (tmp_path / "made").exists()

    canaries = [word.splitlines()[-1] for word in CANARIES.values()]
    said = done.stdout + done.stderr + fetched.stdout + fetched.stderr + again.stdout + again.stderr
    told = json.dumps(ask(cluster, "/api/jobs/", cluster.token)[1]) + cluster.run("logs", "one_or_two", folder=project).stdout
    assert not [word for word in [*canaries, SECRET, cluster.token] if word in said + told]
    assert holding(cluster.folder / "ray", ["def tokens_seen"])  # the package, as it was unpacked there: what travels is found
    for place in (cluster.folder / "ray", cluster.folder / "home", cluster.folder / "cache", project / "results", project / "elsewhere"):
        assert holding(place, [*canaries, SECRET, cluster.token]) == []


def ask(cluster: Cluster, path: str, token: str | None, method: str = "GET", body: object = None, port: int = 0) -> tuple[int, object]:
    """What the head answers: the status, and JSON where it is some."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port or cluster.dashboard}{path}", data, headers, method=method)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as answer:
            status, content = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            status, content = error.code, error.read()
    try:
        return status, json.loads(content)
    except ValueError:
        return status, content.decode(errors="replace")


def test_a_sweep_whose_results_are_in_a_store_is_fetched_from_there(
    cluster: Cluster, project: Path, tmp_path: Path, s3: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = s3("submitted")
    done = cluster.run("submit", "one_or_two.py", "--results", uri, folder=project)
    assert done.returncode == 0, done.stdout + done.stderr
    fetched = cluster.run("fetch", "one_or_two", folder=project)
    assert fetched.returncode == 0, fetched.stdout + fetched.stderr
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "here"))
    assert run("status", "one_or_two", "--results", uri) == 0
    from_the_store = losses(remote.local_root(uri, tmp_path / "here/archsweep") / "one_or_two")
    pd.testing.assert_frame_equal(losses(project / "results/one_or_two"), from_the_store, check_exact=True)
    assert len(from_the_store) == 24  # two variants, three rates, two seeds, two evaluations
    assert list((project / "results/one_or_two/trials").glob("*/model/model.safetensors"))


FAILING_THERE = """
import os
if "RAY_JOB_CONFIG_JSON" in "".join(os.environ):
    raise ValueError("not on a cluster")
"""


def test_a_jobs_exit_code_is_the_commands(cluster: Cluster, project: Path) -> None:
    (project / "failing.py").write_text((project / "one_or_two.py").read_text() + FAILING_THERE)
    failed = cluster.run("submit", "failing.py", folder=project)
    assert failed.returncode == 2, failed.stdout + failed.stderr
    assert "ValueError: not on a cluster" in failed.stdout
    assert "failing: failed" in failed.stdout.splitlines()[-1]
    missing = cluster.run("fetch", "failing", folder=project)
    assert missing.returncode == 3
    assert "there is no sweep failing in ~/archsweep/results on the cluster" in missing.stderr
    (cluster.folder / "home" / "kept").mkdir()
    unknown = cluster.run("fetch", "unknown", "--results", "~/kept", folder=project)  # of which this head has never heard
    assert "there is no sweep unknown in ~/kept on the cluster" in unknown.stderr
    assert not (project / "results").exists()


def test_a_running_sweep_is_one_job_can_be_fetched_and_stops_with_its_trials_saved(
    cluster: Cluster, project: Path, tiny_text: Path
) -> None:
    endless = TINY_SPACE.format(tokens=40_000_000, text=tiny_text)  # mostly it waits, and leaves the processors to others
    endless = endless.replace("num_evaluations=2", 'num_evaluations=40000, metrics=("waiting:wait",)')
    (project / "long.py").write_text(endless)
    (project / "waiting.py").write_text(WAITING.format(seconds=0.1))
    following = subprocess.Popen(
        [sys.executable, "-m", "archsweep", "submit", "long.py", "-y", "--address", cluster.url],
        env=cluster.environment, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert following.stdout is not None
    for line in following.stdout:
        if "replicas began" in line:  # which the job says
            break
    following.send_signal(signal.SIGINT)
    _, detached = following.communicate(timeout=120)
    assert following.returncode == 130
    stop_line = f"python -m archsweep stop long --address {cluster.url}"
    assert "archsweep-long goes on without this terminal. Follow it: python -m archsweep logs long -f" in detached
    assert stop_line in detached

    twice = cluster.run("submit", "long.py", "-y", folder=project)
    assert twice.returncode == 3
    assert re.search(r"the sweep long is running already, as archsweep-long\. Follow it", twice.stderr)
    records = cluster.results / "long/trials"
    wait_for(lambda: list(records.glob("*/records.jsonl")))
    assert cluster.run("fetch", "long", folder=project).returncode == 0
    assert len(archsweep.load_curves(project / "results/long")) > 0
    assert "long: running" in cluster.run("status", "long", folder=project).stdout

    stopped = cluster.run(*shlex.split(stop_line)[3:5], folder=project)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert "has stopped; the same submit goes on from there" in stopped.stdout
    assert "stopping: trials are saved first" in cluster.run("logs", "long", folder=project).stdout
    assert list(records.glob("*/checkpoint/[0-9]*.json"))
    assert not (cluster.results / "long/.lock").read_text()
    before = losses(cluster.results / "long")

    again = cluster.run("submit", "long.py", "--no-follow", "-y", folder=project)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "sent as archsweep-long-2" in again.stdout
    assert stop_line in again.stdout
    wait_for(lambda: len(losses(cluster.results / "long")) > len(before))
    assert cluster.run("stop", "long", folder=project).returncode == 0
    line = Line(cluster.dashboard, b"/logs/file", answer=2000, most=3)
    try:
        fetched = cluster.run("fetch", "long", folder=project, address=f"http://127.0.0.1:{line.port}")
    finally:
        line.close()
    assert fetched.returncode == 0, fetched.stdout + fetched.stderr
    assert line.cuts == 3
    assert not list((project / "results").rglob("checkpoint"))
    came, there = losses(project / "results/long"), losses(cluster.results / "long")
    pd.testing.assert_frame_equal(came, there, check_exact=True)
    assert len(before.merge(came)) == len(before)


DOORS = ("/api/jobs/", "/api/version", "/api/v0/logs?node_ip=127.0.0.1", "/nodes?view=summary", "/api/v0/actors", "/api/cluster_status")


@pytest.mark.parametrize("token", [None, "wrong", ""])
def test_no_door_of_a_head_opens_without_the_right_token(cluster: Cluster, token: str | None, tmp_path: Path) -> None:
    made = tmp_path / "made"
    body = {"entrypoint": f"touch {made}", "submission_id": f"evil-{token}"}
    # The agents, and some of the dashboard's modules, come some seconds after the dashboard itself.
    wait_for(lambda: len(cluster.listening()) >= 6 and {ask(cluster, path, cluster.token)[0] for path in DOORS} == {200})
    listening = cluster.listening()
    assert {address for address, _ in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert {cluster.dashboard, cluster.gcs} <= {port for _, port in listening}
    for path in DOORS:
        assert ask(cluster, path, token)[0] in (401, 403)
    for _, port in sorted(listening):
        for path in ("/api/jobs/", "/api/job_agent/jobs/"):
            try:
                status = ask(cluster, path, token, "POST", body, port)[0]
            except (OSError, http.client.HTTPException):  # speaks something else
                continue
            assert status in (401, 403, 404, 405), (port, path)
    assert joins(cluster, token, made) is False
    assert not made.exists()


def test_the_right_token_opens_a_head(cluster: Cluster, tmp_path: Path) -> None:
    assert joins(cluster, cluster.token, tmp_path / "made")


def joins(cluster: Cluster, token: str | None, made: Path) -> bool:
    """Whether a driver with this token gets in, and runs a function on the cluster that makes a file."""
    joining = f"""
import pathlib, ray
ray.init(address="127.0.0.1:{cluster.gcs}", log_to_driver=False)
ray.get(ray.remote(lambda: pathlib.Path({str(made)!r}).touch()).remote())
"""
    environment = {name: value for name, value in cluster.environment.items() if not name.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "token",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        **({"RAY_AUTH_TOKEN": token} if token else {}),
    }
    joined = subprocess.run([sys.executable, "-c", joining], env=environment, capture_output=True, text=True, cwd=made.parent)
    return joined.returncode == 0 and made.exists()


def test_an_open_head_takes_a_sweep_only_from_those_who_insist_and_sees_no_token(project: Path) -> None:
    with head("disabled") as cluster:
        refused = cluster.run("submit", "one_or_two.py", folder=project)
        assert refused.returncode == 3
        assert "answers without a token" in refused.stderr
        assert ask(cluster, "/api/jobs/", None) == (200, [])
        insisted = cluster.run("submit", "one_or_two.py", "--insecure-no-auth", folder=project)
        assert insisted.returncode == 0, insisted.stdout + insisted.stderr
        assert cluster.run("fetch", "one_or_two", "--insecure-no-auth", folder=project).returncode == 0
        assert holding(cluster.folder / "ray", [cluster.token]) == []


class Line:
    """A line to the head that is cut, or goes dead without a word, half-way through an answer to what was asked for at `path`."""

    def __init__(
        self, port: int, path: bytes, *, seconds: float = 1e6, answer: float = 1e9, silent: bool = False, most: int = 1000
    ) -> None:
        self._head, self._path, self._seconds, self._answer, self._silent, self._most = port, path, seconds, answer, silent, most
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port = self._server.getsockname()[1]
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                ours, _ = self._server.accept()
                theirs = socket.create_connection(("127.0.0.1", self._head))
                self._open += [ours, theirs]
                first = ours.recv(65536)
                theirs.sendall(first)
                is_cut = self._path in first.split(b"\r\n")[0] and self.cuts < self._most
                self.cuts += is_cut
                end = time.monotonic() + self._seconds if is_cut else float("inf")
                threading.Thread(target=self._carry, args=(ours, theirs, float("inf"), float("inf")), daemon=True).start()
                threading.Thread(
                    target=self._carry, args=(theirs, ours, end, self._answer if is_cut else float("inf")), daemon=True
                ).start()

    def _carry(self, source: socket.socket, target: socket.socket, end: float, room: float) -> None:
        """Carry bytes until so much was carried, or the time has come."""
        with suppress(OSError):
            while (data := source.recv(1000)) and room > 0 and time.monotonic() < end:
                target.sendall(data)
                room -= len(data)
            if self._silent and data:
                return
            for each in (source, target) if data else (target,):
                each.shutdown(socket.SHUT_RDWR if data else socket.SHUT_WR)

    def close(self) -> None:
        for each in (self._server, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


COUNTING = "import time; [print(f'line {n}, naïve', flush=True) or time.sleep(0.05) for n in range(160)]; raise SystemExit(5)"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Ray's client leaves a cut connection unclosed
@pytest.mark.parametrize("silent", [False, True])
def test_a_log_that_is_cut_again_and_again_is_read_once_and_to_its_end(
    silent: bool, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "SILENCE_SECONDS", 2.0)
    token = Token(cluster.token, "the test")
    package.write(package.our_packages(), tmp_path / "package.zip", token)
    head = Head(parse_address(cluster.url), token)
    request = Request(("python", "-c", COUNTING), {}, {"PYTHONIOENCODING": "utf-8"})
    job = client.submit(head, request, tmp_path / "package.zip", f"counting-{silent}")
    line = Line(cluster.dashboard, b"/logs/tail", seconds=2.5, silent=silent)
    written: list[str] = []
    try:
        ended = follow(Head(parse_address(f"http://127.0.0.1:{line.port}"), token), job, written.append, print)
    finally:
        line.close()
        gc.collect()  # which is when an unclosed connection is told of
    assert line.cuts >= 2
    assert (ended.status, ended.exit_code) == ("FAILED", 5)
    assert [each for each in "".join(written).splitlines() if each.startswith("line")] == [f"line {n}, naïve" for n in range(160)]
    assert "".join(written) == read_log(head, job)
