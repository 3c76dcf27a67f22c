"""Two and three nodes that share no disk: what losing one, the link or the head costs a sweep, and what being spread out costs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import archsweep
from benchmarks import nodes
from benchmarks.faults import WORKER, Run, Sweep
from benchmarks.makespan import SPACE
from benchmarks.timing import header

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.nodes import Node

ROUNDS = 3
CUT_SECONDS = 30.0
LONGEST_SECONDS = 600.0  # for the default sweep
# A lost node is noticed after seconds, and its trial must not have ended by then: by steps, or by evaluations that wait.
BUSY: dict[str, Any] = {"steps": 2400}
IDLE: dict[str, Any] = {"steps": 240, "evaluations": 60, "wait": 0.15}


class Spread(Sweep):
    """A sweep that is submitted to the head and followed there, and whose trials run on every node, of the `length` BUSY or IDLE."""

    def __init__(self, head: Node, length: dict[str, Any]) -> None:
        super().__init__(head.home / "sweep", None, f"--address={nodes.DASHBOARD}", "-y", **length)
        self.environment, self.checkpoint_seconds = head.environment, 0.3  # each is sent to the driver
        self.around, self.verb = head.command, ("submit",)


def worker_lost(head: Node, *workers: Node, length: dict[str, Any] = BUSY) -> tuple[Spread, float]:
    """kill -9 of every process on a worker while it trains; what it had saved was on its own disk, and on the head's."""
    sweep = Spread(head, length)
    with sweep.running() as run:
        run.wait_for(lambda: sweep.is_halfway(2))
        next(node for node in workers if node.runs(WORKER)).kill()
        seconds = _until_it_trains_again(run)
        assert run.ended() == 0, "".join(run.lines)
    return sweep, seconds


def link_cut(head: Node, *workers: Node, length: dict[str, Any] = BUSY) -> tuple[Spread, float]:
    """A worker's network away for half a minute."""
    sweep = Spread(head, length)
    with sweep.running() as run:
        run.wait_for(lambda: sweep.is_halfway(2))
        nodes.cut(head, workers[0])
        cut = time.monotonic()
        seconds = _until_it_trains_again(run)
        time.sleep(max(0.0, CUT_SECONDS - (time.monotonic() - cut)))
        nodes.join(head, workers[0])
        assert run.ended() == 0, "".join(run.lines)
    return sweep, seconds


def head_lost(head: Node, *workers: Node, length: dict[str, Any] = BUSY) -> tuple[Spread, float]:
    """kill -9 of every process on the head, and with it of the command; then all of it is started again, as the first time."""
    sweep = Spread(head, length)
    with sweep.running() as run:
        run.wait_for(sweep.is_halfway)
        head.kill()
        run.process.wait()
    began = time.perf_counter()
    for node in workers:
        node.kill()
    for node in (head, *workers):
        node.start_ray(head)
    started = time.perf_counter() - began
    return sweep, started + sweep.finish()


FAULTS = (worker_lost, link_cut, head_lost)


def _until_it_trains_again(run: Run) -> float:
    began = time.perf_counter()
    run.wait_for_line("goes on from its checkpoint")
    return time.perf_counter() - began


def main() -> None:
    """Print the table of faults, and the cost of two nodes against one."""
    home = Path(tempfile.mkdtemp(prefix="archsweep-nodes-"))
    print(header(f"Nodes that share no disk: records compared bit by bit with an undisturbed run's, {ROUNDS} times each", 1))
    print(f"{'fault':>12}  nodes  times  lost rows  changed rows  seconds until a trial trains again")
    for fault, count in ((worker_lost, 2), (worker_lost, 3), (link_cut, 2), (head_lost, 2)):
        lost, changed, seconds = 0, 0, []
        for number in range(ROUNDS):
            with nodes.cluster(home / f"{fault.__name__}{count}-{number}", count) as machines:
                sweep, recovery = fault(*machines)
                expected, found = undisturbed(sweep), sweep.records()
            lost += sum(row not in found.get(trial, []) for trial, rows in expected.items() for row in rows)
            changed += sum(row not in expected[trial] for trial, rows in found.items() for row in rows)
            seconds.append(recovery)
        print(f"{fault.__name__:>12}  {count:>5}  {ROUNDS:>5}  {lost:>9}  {changed:>12}  {median(seconds):.1f}", flush=True)
    _print_costs(home)
    _print_default(home)
    shutil.rmtree(home)


def undisturbed(sweep: Sweep) -> dict[str, list[tuple[object, ...]]]:
    """The records of the same sweep without Ray, beside it."""
    whole = Sweep(sweep.home.parent / "whole", None, "--serial", steps=sweep.steps, evaluations=sweep.evaluations)
    whole.finish("replicas began")
    return whole.records()


def _print_costs(home: Path) -> None:
    """The same sweep on one node of two processors and on two of one, by turns."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for number in range(ROUNDS):
        for count in seconds:
            with nodes.cluster(home / f"cost{count}-{number}", count, cpus=2 // count) as machines:
                head = machines[0]
                (head.home / "small.py").write_text(SPACE)
                before = _received(machines[-1])
                began = time.perf_counter()
                head.run(sys.executable, "-m", "archsweep", "small.py", f"--address={head.address}:{nodes.PORT}", "-y")
                seconds[count].append(time.perf_counter() - began)
                moved = _received(machines[-1]) - before
                trials = archsweep.load(head.home / "results" / "small")["trial_id"].nunique()
                corpus = sum(path.stat().st_size for path in (machines[-1].home / ".cache" / "archsweep").glob("*/*"))
    one, two = median(seconds[1]), median(seconds[2])
    print(f"24 replicas in {trials} trials: one node of two processors {one:.1f} s, two nodes of one {two:.1f} s: {two / one:.2f}x,")
    print(
        f"  {(two - one) / trials:+.2f} s a trial; the second node received {moved / 1e6:.1f} MB, {corpus / 1e6:.1f} MB of them the corpus"
    )


def _print_default(home: Path) -> None:
    """The default sweep, submitted to two nodes of one processor, undisturbed and with each fault half-way, against one machine of two."""
    command = [sys.executable, "-m", "archsweep", "heads_vs_layers", "--num-cpus=2", "--fresh", "--results", str(home / "here")]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": str(nodes.REPOSITORY)})
    here = _losses(home / "here" / "heads_vs_layers")
    for name, fault in {"undisturbed": None, "worker_lost": _lose_worker, "link_cut": _cut_link, "head_lost": _lose_head}.items():
        with nodes.cluster(home / f"default-{name}", 2) as (head, worker):
            began = time.perf_counter()
            folder = head.home / "archsweep" / "results" / "heads_vs_layers"
            code = _submitted(head, worker, folder, fault)
            if fault is _lose_head:
                code = _submitted(head, worker, folder, None)
            seconds, there = time.perf_counter() - began, _losses(folder)
        same = "the same" if there == here else "NOT the same"
        print(f"the default sweep on two nodes, {name}: exit {code}, {seconds:.0f} s; its {len(there)} rows are {same} as on one machine")


def _submitted(head: Node, worker: Node, folder: Path, fault: Callable[[Node, Node], None] | None) -> int:
    """Submit the default sweep and follow it, with the fault once four trials have ended; what the command ends with."""
    project = head.home / "project"  # what is packed is the folder, which must not be a whole home
    project.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "archsweep", "submit", "heads_vs_layers", f"--address={nodes.DASHBOARD}", "-y"]
    with head.begin(*command, folder=project) as process:
        run = Run(process)
        if fault is not None:
            run.wait_for(lambda: len(list(folder.glob("trials/*/results.json"))) >= 4)
            fault(head, worker)
        process.wait(LONGEST_SECONDS)
        return run.ended()


def _lose_worker(head: Node, worker: Node) -> None:
    worker.kill()


def _cut_link(head: Node, worker: Node) -> None:
    nodes.cut(head, worker)
    time.sleep(CUT_SECONDS)
    nodes.join(head, worker)


def _lose_head(head: Node, worker: Node) -> None:
    for node in (head, worker):
        node.kill()
    for node in (head, worker):
        node.start_ray(head)


def _losses(folder: Path) -> list[tuple[object, ...]]:
    frame = archsweep.load_curves(folder).sort_values(["variant", "learning_rate", "seed", "step"])
    return list(frame[["variant", "learning_rate", "seed", "step", "train_loss", "val_loss"]].itertuples(index=False, name=None))


def _received(node: Node) -> int:
    """Bytes that have reached the node, from itself not counted."""
    return int(node.run("bash", "-c", "cat /sys/class/net/uplink/statistics/rx_bytes 2>/dev/null || echo 0"))


if __name__ == "__main__":
    main()
