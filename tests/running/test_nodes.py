"""Nodes that are machines of their own, with a network and a disk that no other has: the trials of one that dies go on elsewhere."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

import archsweep
from benchmarks import cluster, nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.faults import Records

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and iproute2, for networks of its own"),
]


@pytest.fixture(scope="module")
def machines() -> Iterator[list[nodes.Node]]:
    """The head and a worker."""
    with TemporaryDirectory(prefix="asn") as folder, nodes.cluster(Path(folder), 2) as found:
        yield found


@pytest.fixture(scope="module")
def expected() -> Records:
    """The records of the sweep that each fault disturbs, undisturbed; the first test has them made."""
    return {}


# In this order: the link comes back by itself, a lost head has all that runs started again, and a lost worker is the last.
@pytest.mark.parametrize("fault", [cluster.link_cut, cluster.head_lost, cluster.worker_lost], ids=lambda fault: fault.__name__)
def test_a_sweep_on_nodes_that_share_nothing_loses_nothing(
    fault: Callable[..., Any], machines: list[nodes.Node], expected: Records
) -> None:
    for node in machines:
        for left in (node.home / "sweep", node.home / ".cache"):
            shutil.rmtree(left, ignore_errors=True)
    sweep, _ = fault(*machines, length=cluster.IDLE)
    expected |= {} if expected else cluster.undisturbed(sweep)
    assert sweep.records() == expected
    trials = archsweep.load(sweep.folder)
    assert set(trials["status"]) == {"finished"}
    for trial in set(trials["trial_id"]):
        assert (sweep.folder / "trials" / trial / "model" / "model.safetensors").is_file()
        assert not (sweep.folder / "trials" / trial / "checkpoint").exists()
    own, theirs = (corpora(node) for node in machines)
    assert theirs == own
    assert own


def test_no_fault_is_left_out() -> None:
    assert {cluster.link_cut, cluster.head_lost, cluster.worker_lost} == set(cluster.FAULTS)


def corpora(node: nodes.Node) -> dict[str, bytes]:
    """The tokens in the node's own cache."""
    cache = node.home / ".cache" / "archsweep"
    return {path.relative_to(cache).as_posix(): path.read_bytes() for path in cache.glob("*/*.npy")}
