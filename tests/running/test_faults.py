"""What a sweep survives, done to real processes: afterwards the records are, bit by bit, those of a run that nobody disturbed."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from benchmarks import faults

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def undisturbed(home: Path) -> faults.Records:
    whole = faults.Sweep(home / "whole", None, "--serial")
    whole.finish("replicas began")
    return whole.records()


@pytest.fixture
def may_mount(tmp_path: Path) -> None:
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True, check=False).returncode:
        pytest.skip("mounting a disk takes permission")
    subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("fault", [faults.worker_killed, faults.node_killed], ids=lambda fault: fault.__name__)
def test_processes_may_die(fault: Callable[[Path], tuple[faults.Sweep, float]], home: Path, undisturbed: faults.Records) -> None:
    sweep, _ = fault(home / fault.__name__)
    assert sweep.records() == undisturbed


@pytest.mark.usefixtures("may_mount")
@pytest.mark.parametrize("fault", [faults.disk_full, faults.disk_read_only, faults.mount_vanished], ids=lambda fault: fault.__name__)
def test_the_disk_of_the_results_may_fail(
    fault: Callable[[Path], tuple[faults.Sweep, float]], home: Path, undisturbed: faults.Records
) -> None:
    sweep, _ = fault(home / fault.__name__)
    assert sweep.records() == undisturbed
