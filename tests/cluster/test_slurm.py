"""slurm.sbatch as a job runs it, with Slurm's own commands played: a sweep that ends, and one whose time is up before."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import archsweep
from tests.cluster.checkers import CLUSTER, ROOT
from tests.command_line.command import TINY_SPACE
from tests.conftest import AS_EQUALS

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

JOB = "4242"
PLAYED = {  # on one node, whose name means an address of a network that ends here
    "srun": 'while [[ $1 == -* ]]; do shift; done; exec "$@"',
    "scontrol": '[[ $1 == show ]] && echo here || echo "$@" >>"$HOME/asked"',
    "getent": "echo 10.79.0.1 STREAM here",
    "hostname": "echo here",
}


@pytest.fixture
def home(tiny_text: Path) -> Iterator[Path]:
    """The home and project of a user of Slurm: Slurm's commands, and a space that trains for seconds."""
    if os.geteuid() or subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a network of our own takes permission")
    folder = Path(tempfile.mkdtemp(prefix="as-", dir="/tmp"))
    (folder / "bin").mkdir()
    for name, does in PLAYED.items():
        (folder / "bin" / name).write_text(f"#!/usr/bin/env bash\n{does}\n")
        (folder / "bin" / name).chmod(0o755)
    (folder / "short.py").write_text(TINY_SPACE.format(tokens=384, text=tiny_text))
    (folder / "long.py").write_text(TINY_SPACE.format(tokens=100_000, text=tiny_text))
    yield folder
    shutil.rmtree(folder)


def job(home: Path, *words: str) -> subprocess.Popen[bytes]:
    """The batch script of a job, in a network of its own, where only it can be reached; what it says goes to `log`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_", "ARCHSWEEP_"))}
    environment = kept | AS_EQUALS | {
        "HOME": str(home), "PATH": f"{home / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "ARCHSWEEP_PYTHON": sys.executable,
        "SLURM_JOB_ID": JOB, "SLURM_SUBMIT_DIR": str(home), "SLURM_JOB_NODELIST": "here",
        "SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_PER_TASK": "1",
    }  # fmt: skip
    network = "ip link set lo up && ip address add 10.79.0.1/24 dev lo"
    command = ["unshare", "--net", "bash", "-c", f'{network} && exec bash "$0" "$@"', str(CLUSTER / "slurm.sbatch"), *words]
    with (home / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=subprocess.STDOUT)


def said(home: Path) -> str:
    return (home / "log").read_text()


def nothing_is_left(home: Path) -> bool:
    return not Path(f"/tmp/archsweep-{JOB}").exists() and not list((home / ".ray").iterdir())


def test_a_job_trains_a_sweep_and_leaves_its_results_alone(home: Path) -> None:
    assert job(home, "short.py", "--name", "s").wait(200) == 0, said(home)
    assert (home / "results" / "s" / "report.html").is_file()
    assert not (home / "asked").exists()
    assert nothing_is_left(home)


def test_before_its_time_is_up_a_job_saves_its_trials_and_goes_on_when_its_turn_comes(home: Path) -> None:
    first = job(home, "long.py", "--name", "l")
    deadline = time.monotonic() + 200
    while not any((home / "results" / "l").glob("trials/*/records.jsonl")):
        assert first.poll() is None, said(home)
        assert time.monotonic() < deadline, said(home)
        time.sleep(0.2)
    first.send_signal(signal.SIGUSR1)
    assert first.wait(100) == 0, said(home)
    assert "the trials are saved, and the job goes back to the queue" in said(home)
    assert (home / "asked").read_text() == f"requeue {JOB}\n"
    assert nothing_is_left(home)

    assert job(home, "long.py", "--name", "l").wait(300) == 0, said(home)
    rows = archsweep.load(home / "results" / "l")
    assert (len(rows), set(rows["status"])) == (12, {"finished"})  # two variants, three rates, two seeds
    assert "goes on from its checkpoint at step" in said(home)


def test_it_is_a_jobs_script_and_wants_a_question(home: Path) -> None:
    done = job(home)
    assert done.wait(30) == 2
    assert "name a search space: sbatch cluster/slurm.sbatch heads_vs_layers" in said(home)
