"""A script that a fork runs is run as by Python itself, but for the imports; and without its process Python itself runs it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from archsweep.running import fork_server
from archsweep.running.fork_server import preloaded

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are used on Linux alone")

MODULE = "xml.dom.minidom"  # that Python does not import by itself
TOLD = f"""
import json, os, resource, signal, sys
print(json.dumps({{
    "words": sys.argv, "name": __name__, "folder": os.getcwd(),
    "variables": dict(os.environ), "read": sys.stdin.read(),
    "has": {MODULE!r} in sys.modules, "group": os.getpgid(0) == os.getpid(), "parent": os.getppid(),
    "path": sys.path, "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, ())), "files": resource.getrlimit(resource.RLIMIT_NOFILE),
}}))
sys.stderr.write("to the errors")
"""


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder with a short path, as sockets need it."""
    with tempfile.TemporaryDirectory(prefix="as-", dir="/tmp") as folder:
        yield Path(folder)


def script(folder: Path, text: str) -> Path:
    path = folder / "script.py"
    path.write_text(text)
    return path


def told(python: str, path: Path, **environment: str) -> dict[str, Any]:
    """What the script says of itself, started by a shell as Ray does: Ctrl-C is blocked there, and more files may be open than here."""
    signals = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}); os.execvp(sys.argv[1], sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", signals, "bash", "-c", f"ulimit -Sn 300; exec {python} {path} 'a b' --c"],
        env=os.environ | environment, cwd=path.parent, input="in", capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stderr == "to the errors"
    found: dict[str, Any] = json.loads(done.stdout)
    found["variables"] = {name: value for name, value in found["variables"].items() if name not in ("_", "SHLVL")}
    return found


@pytest.mark.parametrize("safe", ["", "1"], ids=["", "PYTHONSAFEPATH"])
def test_a_fork_runs_a_script_as_python_does_with_the_modules_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, safe: str) -> None:
    monkeypatch.setenv("PYTHONSAFEPATH", safe)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "own"))
    path = script(tmp_path, TOLD)
    with preloaded([MODULE]) as python:
        assert python is not None
        forked = told(python, path, ASKED="ü")
    plain = told(shlex.quote(sys.executable), path, ASKED="ü")
    assert (forked.pop("has"), plain.pop("has")) == (True, False)
    assert (forked.pop("group"), plain.pop("group")) == (True, False)  # a kill of its group is of nobody else
    assert forked.pop("parent") != plain.pop("parent") == os.getpid()
    assert (forked["blocked"], forked["files"][0]) == ([signal.SIGINT], 300)
    assert forked == plain


def test_it_imports_what_the_driver_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_the_driver.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    path = script(tmp_path, "import sys; print('of_the_driver' in sys.modules)")
    with preloaded(["of_the_driver"]) as python:
        assert subprocess.check_output(["bash", "-c", f"exec {python} {path}"], text=True, timeout=60) == "True\n"


def test_it_is_as_likely_to_be_ended_for_want_of_memory_as_what_it_stands_for(tmp_path: Path) -> None:
    path = script(tmp_path, "print(open('/proc/self/oom_score_adj').read())")
    with preloaded([]) as python:
        raised = f"echo 700 > /proc/self/oom_score_adj; exec {python} {path}"
        assert subprocess.check_output(["bash", "-c", raised], text=True, timeout=60).split() == ["700"]


def test_two_forks_have_random_numbers_of_their_own(tmp_path: Path) -> None:
    path = script(tmp_path, "import torch, random, numpy; print(float(torch.rand(())), random.random(), numpy.random.rand())")
    with preloaded(["torch", "random", "numpy.random"]) as python:
        drawn = {subprocess.check_output(["bash", "-c", f"exec {python} {path}"], text=True, timeout=120) for _ in range(2)}
    first, second = (line.split() for line in drawn)
    assert set(first).isdisjoint(second)


@pytest.mark.parametrize("modules", [[], ["no_such_module"]], ids=["it has ended", "an import of its own fails"])
def test_without_its_process_python_itself_runs_the_script(tmp_path: Path, modules: list[str]) -> None:
    path = script(tmp_path, TOLD)
    with preloaded(modules) as python:
        assert python is not None
        if modules:
            assert not told(python, path)["has"]
    if not modules:
        assert not told(python, path)["has"]


def test_what_a_fork_runs_ends_what_stands_for_it(tmp_path: Path) -> None:
    path = script(tmp_path, "import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    with preloaded([]) as python, subprocess.Popen(["bash", "-c", f"exec {python} {path}"], stdout=subprocess.PIPE, text=True) as stands:
        assert stands.stdout is not None
        os.killpg(int(stands.stdout.readline()), signal.SIGKILL)
        stands.wait(30)


def test_a_fork_ends_with_what_stands_for_it(tmp_path: Path) -> None:
    """Ray knows the process that it started, and ends that, until the worker in it has told its own."""
    path = script(tmp_path, "import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    with preloaded([]) as python, subprocess.Popen(["bash", "-c", f"exec {python} {path}"], stdout=subprocess.PIPE, text=True) as stands:
        assert stands.stdout is not None
        fork = psutil.Process(int(stands.stdout.readline()))
        stands.kill()
        fork.wait(30)


@pytest.mark.slow
def test_python_does_without_a_fork_that_is_long_in_coming(tmp_path: Path) -> None:
    path = script(tmp_path, f"import sys; open('told', 'w').write(str({MODULE!r} in sys.modules))")
    with preloaded([MODULE]) as python:
        (process,) = (each for each in psutil.Process().children() if fork_server.__file__ in each.cmdline())
        process.suspend()
        subprocess.run(["bash", "-c", f"exec {python} {path}"], cwd=tmp_path, timeout=60, check=True)
    assert (tmp_path / "told").read_text() == "False"


def test_a_fork_goes_on_when_its_process_ends(tmp_path: Path) -> None:
    path = script(tmp_path, "import sys; print('begun', flush=True); print(sys.stdin.read())")
    with preloaded([]) as python:
        stands = subprocess.Popen(["bash", "-c", f"exec {python} {path}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert stands.stdout is not None
        assert stands.stdout.readline() == "begun\n"
    assert stands.communicate("said after it", timeout=30)[0] == "said after it\n"


def test_nothing_is_left_of_it_after_the_block(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    before = psutil.Process().children()
    with preloaded([MODULE]):
        (process,) = set(psutil.Process().children()) - set(before)
        assert len(list(temporary.iterdir())) == 1
    assert not process.is_running()
    assert list(temporary.iterdir()) == []


DRIVER = """
import sys
from archsweep.running.fork_server import preloaded
with preloaded([]):
    print("there", flush=True)
    sys.stdin.read()
"""


def test_it_ends_with_the_process_that_started_it(tmp_path: Path, temporary: Path) -> None:
    command = [sys.executable, script(tmp_path, DRIVER)]
    environment = os.environ | {"TMPDIR": str(temporary)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "there\n"
        children = psutil.Process(driver.pid).children()
        driver.kill()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert len(children) == 1
    assert alive == []
    assert list(temporary.iterdir()) == []


def test_there_is_none_where_the_path_of_a_socket_would_be_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("long" * 30)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with preloaded([]) as python:
        assert python is None
    assert list(long.iterdir()) == []
