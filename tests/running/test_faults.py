"""What a sweep survives, done to real processes: afterwards the records are, bit by bit, those of a run that nobody disturbed."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from benchmarks import faults

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def undisturbed(home: Path) -> faults.Records:
    whole = faults.Sweep(home / "whole", None, "--serial")
    whole.train()
    return whole.records()


@pytest.fixture
def may_mount(tmp_path: Path) -> None:
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True, check=False).returncode:
        pytest.skip("mounting a disk takes permission")
    subprocess.run(["umount", tmp_path], check=True)


def check_what_is_there(sweep: faults.Sweep, undisturbed: faults.Records) -> None:
    """Every row so far is one of the undisturbed run's, in its place."""
    for trial, rows in sweep.records().items():
        assert rows == undisturbed[trial][: len(rows)]


def test_the_processes_of_one_sweep_may_die_one_after_another(home: Path, undisturbed: faults.Records) -> None:
    """Three commands that do not end by themselves: killed, left without Ray, and told to end after a worker of theirs has died."""
    sweep = faults.Sweep(home / "processes")
    for several in ((faults.driver_killed,), (faults.raylet_killed,), (faults.worker_killed, faults.terminated)):
        with sweep.running() as run:
            for fault in several:
                fault(sweep, run)
                check_what_is_there(sweep, undisturbed)
    sweep.options = ("--serial",)  # starts sooner, and goes on all the same
    sweep.train()
    assert sweep.records() == undisturbed


def test_a_node_may_die(home: Path, undisturbed: faults.Records) -> None:
    with faults.on_two_nodes(home / "nodes") as sweep, sweep.running() as run:
        faults.node_killed(sweep, run)
        assert run.ended() == 0, "".join(run.lines)
    assert sweep.records() == undisturbed


@pytest.mark.usefixtures("may_mount")
def test_the_disk_of_the_results_may_fail_again_and_again(home: Path, undisturbed: faults.Records) -> None:
    with faults.on_a_disk(home / "disk") as sweep:
        for fault in faults.OF_THE_DISK:
            with sweep.running() as run:
                fault(sweep, run)
            check_what_is_there(sweep, undisturbed)
        sweep.train()
        assert sweep.records() == undisturbed


def test_no_fault_is_left_out() -> None:
    tried = {faults.driver_killed, faults.raylet_killed, faults.worker_killed, faults.terminated, faults.node_killed, *faults.OF_THE_DISK}
    assert tried == set(faults.FAULTS)
