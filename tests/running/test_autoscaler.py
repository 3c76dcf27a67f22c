"""An autoscaled cluster: it gets the requests that it needs to grow, and is not asked for what none of its nodes could ever hold."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
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


def test_a_launchers_configuration_lies_in_the_home_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray up` starts the monitor with ~/ray_bootstrap_config.yaml, which no shell expands behind an equals sign."""
    kinds = {"head": {"resources": {}}, "gpu": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 3}}
    (tmp_path / "cluster.yaml").write_text(json.dumps({"available_node_types": kinds, "head_node_type": "head"}))
    (tmp_path / "monitor.py").write_text("import time; print(flush=True); time.sleep(60)")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    command = [sys.executable, str(tmp_path / "monitor.py"), "--autoscaling-config=~/cluster.yaml"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as monitor:
        assert monitor.stdout is not None
        monitor.stdout.readline()
        assert NodeType({"CPU": 8, "GPU": 1}, 3) in node_types()
        monitor.kill()


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
