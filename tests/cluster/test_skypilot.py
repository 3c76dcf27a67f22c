"""skypilot.yaml before SkyPilot's own schema, in an environment of its own: its package wants an older click than this project's."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.cluster.checkers import read

pytestmark = pytest.mark.slow

VERSION = "0.14.1"
JUDGE = """
import sys, yaml
from sky.utils import common_utils, schemas
task = yaml.safe_load(sys.stdin)
common_utils.validate_schema(task, schemas.get_task_schema(), "")
common_utils.validate_schema(task["resources"], schemas.get_resources_schema(), "")
"""


@pytest.fixture(scope="module")
def skypilot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has SkyPilot, and whatever of this one's packages suits it."""
    folder = tmp_path_factory.mktemp("skypilot")
    venv.create(folder)
    python = folder / "bin" / "python"
    own, ours = (sysconfig.get_path("purelib", vars={"base": str(base)}) for base in (folder, sys.prefix))
    Path(own, "ours.pth").write_text(f"{ours}\n")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile", f"skypilot=={VERSION}"]
    done = subprocess.run(install, capture_output=True, text=True, timeout=280)
    if done.returncode:
        pytest.skip(f"SkyPilot cannot be installed: {done.stderr[-200:]}")
    return python


def judged(skypilot: Path, text: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HOME": str(home), "PYTHONPATH": ""}
    return subprocess.run([skypilot, "-c", JUDGE], input=text, env=environment, capture_output=True, text=True, timeout=60)


def test_skypilot_takes_the_file(skypilot: Path, tmp_path: Path) -> None:
    done = judged(skypilot, read("skypilot.yaml"), tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("there", "instead", "said"),
    [
        ("num_nodes: 2", "nodes: 2", "did you mean 'num_nodes'?"),
        ("idle_minutes: 30", "idle_minutes: soon", "soon"),
        ("disk_size", "disk_space", "disk_space"),
    ],
)
def test_skypilot_refuses_a_broken_twin(skypilot: Path, tmp_path: Path, there: str, instead: str, said: str) -> None:
    text = read("skypilot.yaml")
    assert there in text
    done = judged(skypilot, text.replace(there, instead), tmp_path)
    assert done.returncode != 0
    assert said in done.stderr
