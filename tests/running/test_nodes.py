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
def home() -> Iterator[Path]:
    """Where every cluster of these tests has its nodes' disks: a trial's name has the path of its text in it."""
    with TemporaryDirectory(prefix="asn") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def expected() -> Records:
    """The records of the sweep that each fault disturbs, undisturbed; the first test has them made."""
    return {}


@pytest.mark.parametrize("fault", cluster.FAULTS, ids=lambda fault: fault.__name__)
def test_a_sweep_on_nodes_that_share_nothing_loses_nothing(fault: Callable[..., Any], home: Path, expected: Records) -> None:
    for disk in home.iterdir():
        shutil.rmtree(disk)
    with nodes.cluster(home, 2) as (head, worker):
        sweep, _ = fault(head, worker)
        expected |= {} if expected else cluster.undisturbed(sweep)
        assert sweep.records() == expected
        trials = archsweep.load(sweep.folder)
        assert set(trials["status"]) == {"finished"}
        for trial in set(trials["trial_id"]):
            assert (sweep.folder / "trials" / trial / "model" / "model.safetensors").is_file()
            assert not (sweep.folder / "trials" / trial / "checkpoint").exists()
        own, theirs = (corpora(node) for node in (head, worker))
        assert theirs == own
        assert own


def corpora(node: nodes.Node) -> dict[str, bytes]:
    """The tokens in the node's own cache."""
    cache = node.home / ".cache" / "archsweep"
    return {path.relative_to(cache).as_posix(): path.read_bytes() for path in cache.glob("*/*.npy")}
