"""A Ray of our own: behind a token, with no more processes than trials need, and gone at its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

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
