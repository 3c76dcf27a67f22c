"""A Ray of our own: behind a token, with no more processes than trials need, its workers forked, and gone at its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from typing import Any

import pytest

from archsweep.running import fork_server, ray_tune

# As a notebook may: Ray is imported before anything says what a Ray of our own is to be, and used afterwards as it was.
SCRIPT = """
import json
import psutil
import ray
from ray._raylet import AuthenticationMode, get_authentication_mode

from archsweep.running.session import opened

before = get_authentication_mode()
with opened(1, 0, None):
    locked = get_authentication_mode() == AuthenticationMode.TOKEN
    children = psutil.Process().children(recursive=True)
    commands = [" ".join(each.cmdline()) for each in children]
    answer = ray.get(ray.remote(lambda: 2).remote())
alive = [each.pid for each in psutil.wait_procs(children, timeout=30)[1]]
print(json.dumps({"answer": answer, "locked": locked, "kept": get_authentication_mode() == before, "commands": commands, "alive": alive}))
"""


@pytest.mark.slow
def test_a_process_that_has_ray_already_gets_a_small_one_behind_a_token() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    ran = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert (found["answer"], found["locked"], found["kept"]) == (2, True, True)
    assert any("raylet/raylet" in command for command in found["commands"])
    for needless in ("monitor.py", "dashboard/dashboard.py"):  # the autoscaler's and the logs', and the dashboard's server
        assert not [command for command in found["commands"] if needless in command]
    assert found["alive"] == []


FORKED = """
import json
import sys
import psutil
from archsweep.running import ray_tune

def look():
    return {"parent": psutil.Process().parent().cmdline(), "has": "archsweep.training.experiment" in sys.modules}

with ray_tune.prepared() as python, ray_tune.started(2, python=python):
    import ray
    found = ray.get([ray.remote(look).remote() for _ in range(2)])
    children = psutil.Process().children(recursive=True)
alive = [each.pid for each in psutil.wait_procs(children, timeout=30)[1]]
print(json.dumps({"found": found, "alive": alive}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks are used on Linux alone")
def test_its_workers_are_forks_that_have_what_trials_import() -> None:
    ran = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    for worker in told["found"]:
        assert worker["parent"][1] == fork_server.__file__
        assert worker["has"]
    assert told["alive"] == []


def test_what_a_fork_has_is_neither_ray_nor_a_thread_that_it_would_miss() -> None:
    """Ray reads what its worker is when it is imported; and of threads a fork has one, but for jemalloc's, which starts it again."""
    program = f"""
import os, sys
for name in {ray_tune._WORKERS_IMPORT!r}:
    __import__(name)
print("ray" in sys.modules, *[open(f"/proc/self/task/{{each}}/comm").read() for each in os.listdir("/proc/self/task")])
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    has_ray, *threads = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True).split()
    assert has_ray == "False"
    assert len([name for name in threads if name != "jemalloc_bg_thd"]) == 1


def test_workers_are_forks_only_on_this_machine_and_its_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_tune, "preloaded", lambda modules: nullcontext("forked"))
    monkeypatch.setattr(ray_tune, "gpus", list)

    def prepared(*given: Any) -> str | None:
        with ray_tune.prepared(*given) as python:
            return python

    assert (prepared(), prepared(0), prepared(1), prepared(None, "10.0.0.1:6379")) == ("forked", "forked", None, None)
    monkeypatch.setattr(ray_tune, "gpus", lambda: ["a board"])
    assert (prepared(), prepared(0)) == (None, "forked")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert prepared(0) is None
