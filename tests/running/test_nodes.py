"""Nodes that are machines of their own, with a network and a disk that no other has: the trials of one that dies go on elsewhere."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

import archsweep
from benchmarks import cluster, nodes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and iproute2, for networks of its own"),
]


@pytest.mark.parametrize("fault", cluster.FAULTS, ids=lambda fault: fault.__name__)
def test_a_sweep_on_nodes_that_share_nothing_loses_nothing(fault: object) -> None:
    with TemporaryDirectory(prefix="asn") as home, nodes.cluster(Path(home), 2) as (head, worker):
        sweep, _ = fault(head, worker)
        assert sweep.records() == cluster.undisturbed(sweep)
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
