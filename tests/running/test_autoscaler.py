"""An autoscaled cluster: it gets the requests that it needs to grow, and is not asked for what none of its nodes could ever hold."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from archsweep.errors import MachineError
from archsweep.running.autoscaler import VARIABLE, NodeType, node_types
from benchmarks import nodes
from benchmarks.faults import Sweep


def test_what_is_told_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, '[[4, {"CPU": 8, "GPU": 1}], [2, {"CPU": 16}]]')
    assert node_types() == [NodeType({"CPU": 8, "GPU": 1}, 4), NodeType({"CPU": 16}, 2)]


@pytest.mark.parametrize("told", ["4", "[4]", '[["many", {"CPU": 1}]]', '[[1, {"CPU": "some"}]]', "{"])
def test_what_cannot_be_read_is_refused_with_an_example(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv(VARIABLE, told)
    with pytest.raises(MachineError, match=r"ARCHSWEEP_NODE_TYPES must be a JSON list as \[\[4, "):
        node_types()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and iproute2, for a network of its own")
def test_a_cluster_without_workers_grows_as_the_trials_ask_and_refuses_what_none_could_hold() -> None:
    kinds = {"small": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2}}
    with TemporaryDirectory(prefix="asn") as home, nodes.cluster(Path(home), 1, cpus=0, kinds=kinds) as (head,):
        sweep = Sweep(head.home / "sweep", None, f"--address={head.address}:{nodes.PORT}")
        sweep.around = head.command
        sweep.environment = head.environment | {VARIABLE: '[[2, {"GPU": 1}]]'}
        with sweep.running() as run:
            assert run.ended() == 3
        assert "on one node, and the nodes have 0 CPUs and 0 GPUs, 0 CPUs and 1 GPUs" in "".join(run.lines)
        sweep.environment = head.environment
        with sweep.running() as run:
            assert run.ended() == 0, "".join(run.lines)
        assert [len(rows) for rows in sweep.records().values()] == [6, 6]  # two replicas, three evaluations
