"""What a sweep survives: each fault done to real processes, then the same command again, and the records against an undisturbed run's."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

import archsweep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

REPOSITORY = Path(archsweep.__file__).parent.parent
PATIENCE_SECONDS = 300.0  # for anything to happen on a busy machine
ROUNDS = 3
STEPS = 480  # of each replica: some seconds; longer ones would be recorded first
HERE_BEFORE = "here-before"  # a file where the disk of the results will be
WORKER = r"ray::\w*(Trial|Trainable)"  # how Ray titles a process that trains: by our class, or by what Tune makes of it

SPACE = '''"""Two heads or four? As much work either way, so that the trials of two slots stay whole."""
from archsweep.config import ExperimentConfig
from archsweep.space import Choice, Space

base = ExperimentConfig(num_layers=3, num_heads=2, hidden_size=16, context_length=16, batch_size=8, max_tokens=128 * {steps},
                        eval_tokens=256, num_evaluations={evaluations}, vocab_size=300, dataset="text:{text}", learning_rate=3e-3,
                        metrics=("waiting:wait",))
space = Space(base=base, compare={{"num_heads": Choice(2, 4)}}, repeat=2)
'''
WAITING = '''"""A metric that takes its time, and no processor."""
import time


def wait(model, windows):
    time.sleep({seconds})
    return 0.0
'''
TEXT = "\n\n".join(
    f"Number {n} follows number {n - 1}, and {n * n} is its square; {'rain' if n % 3 else 'sun'} comes after." for n in range(400)
)

# A killed raylet is noticed in seconds, and a busy one has longer: otherwise it takes Ray some 13 s.
HEALTH_CHECKS = {
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_timeout_ms": "2000",
}

T = TypeVar("T")
Records = dict[str, list[tuple[Any, ...]]]


class Sweep:
    """A sweep in a folder of its own: its command can be run, disturbed and run again. Each evaluation of a replica waits for `wait`
    seconds, which is no part of what the trials are."""

    def __init__(
        self, home: Path, results: Path | None = None, *options: str, steps: int = STEPS, evaluations: int = 3, wait: float = 0.0
    ) -> None:
        self.home, self.results = home, results or home / "results"
        self.steps, self.evaluations = steps, evaluations
        home.mkdir(parents=True, exist_ok=True)
        text = home.parent / "text.txt"  # its path is part of every trial's name, and so the same for all sweeps of one folder
        text.write_text(TEXT)
        (home / "heads.py").write_text(SPACE.format(text=text, steps=steps, evaluations=evaluations))
        (home / "waiting.py").write_text(WAITING.format(seconds=wait))
        self.options = options or ("--num-cpus=1",)
        self.checkpoint_seconds = 0.1
        self.environment = os.environ | HEALTH_CHECKS | {"PYTHONPATH": str(REPOSITORY)}
        self.disk, self.second_node = home / "disk", 0  # its results' disk and its cluster's second raylet, where it has them
        self.began = 0.0  # the last of its commands, in seconds since the epoch
        self.verb: tuple[str, ...] = ()  # of the command: a sweep, or `submit`
        self.around: Callable[..., list[str]] = lambda *command: list(command)  # what runs the command elsewhere

    @property
    def folder(self) -> Path:
        return self.results / "heads"

    @contextmanager
    def running(self) -> Iterator[Run]:
        """The command as a process, which has ended after the block in one way or the other."""
        command = [sys.executable, "-m", "archsweep", *self.verb, str(self.home / "heads.py"), "--results", str(self.results)]
        command += [f"--checkpoint-seconds={self.checkpoint_seconds}", *self.options]
        self.began = time.time()
        process = subprocess.Popen(
            self.around(*command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment, cwd=self.home
        )
        with process:  # which closes its pipe
            run = Run(process)
            try:
                yield run
            finally:
                for pid in [*descendants(process.pid), process.pid]:
                    kill(pid)
                run.ended()

    def finish(self, line: str = "goes on from its checkpoint") -> float:
        """Run the command to its end; the seconds until it said `line`. Raises AssertionError where it does not, or fails."""
        with self.running() as run:
            seconds = _seconds(lambda: run.wait_for_line(line))
            assert run.ended() == 0, "\n".join(run.lines)
        return seconds

    def train(self) -> None:
        """Run the command until every trial has finished; its report is left out."""
        with self.running() as run:
            run.wait_for_line("2 of 2 trials finished")

    def is_halfway(self, trials: int = 1) -> bool:
        """Whether so many trials have saved themselves in the middle of their training since the command began."""
        found: set[Path] = set()
        with suppress(FileNotFoundError):  # a trial that has just ended, whose checkpoints are removed: the next look sees the rest
            found |= {path.parent for path in self.folder.glob("trials/*/checkpoint/[0-9]*.json") if _time_of(path) >= self.began}
        return len(found) >= trials

    def records(self) -> Records:
        """Every trial's rows as they lie in its file, without what a clock or a memory meter said."""
        return {
            path.parent.name: [_stable(line) for line in path.read_text().splitlines()]
            for path in self.folder.glob("trials/*/records.jsonl")
        }


def _time_of(path: Path) -> float:
    with suppress(FileNotFoundError):  # a trial keeps its last checkpoints
        return path.stat().st_mtime
    return 0.0


def _stable(line: str) -> tuple[Any, ...]:
    row = json.loads(line)
    return tuple(str(row[name]) for name in ("seed", "learning_rate", "step", "status", "train_loss", "val_loss", "val_block_losses"))


class Run:
    """A command that runs, and what it has said so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.lines = process, list[str]()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    def wait_for(self, condition: Callable[[], T]) -> T:
        """What the condition gives once that is true; raises AssertionError where the command ends, or patience, before it is."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not (found := condition()):
            assert self.process.poll() is None, "".join(self.lines)
            assert time.monotonic() < end, "".join(self.lines)
            time.sleep(0.02)
        return found

    def wait_for_line(self, part: str, after: int = 0) -> None:
        """Until a line has the part, among those after the first `after`."""
        self.wait_for(lambda: any(part in line for line in self.lines[after:]))

    def ended(self) -> int:
        """The exit code."""
        code = self.process.wait(PATIENCE_SECONDS)
        self._reader.join(PATIENCE_SECONDS)
        return code


def descendants(pid: int, pattern: str = "") -> list[int]:
    """The processes below `pid` whose command line matches."""
    parents: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        parents.setdefault(parent, []).append(int(status.parent.name))
    found, left = [], [pid]
    while left:
        children = parents.get(left.pop(), [])
        found += [child for child in children if re.search(pattern, command_line(child))]
        left += children
    return found


def command_line(pid: int) -> str:
    """How the process was called, or calls itself; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


# The faults: each strikes a command that runs, as soon as its trials have saved themselves. Those that it survives return the seconds until
# a trial trained again; after the others it has ended, and the same command goes on.


def worker_killed(sweep: Sweep, run: Run) -> float:
    """kill -9 of the process that trains; the run itself tries the trial again."""
    run.wait_for(sweep.is_halfway)
    return _until_it_trains_again(run, run.wait_for(lambda: descendants(run.process.pid, WORKER))[:1])


def node_killed(sweep: Sweep, run: Run) -> float:
    """kill -9 of every process of the second of two nodes; its trials go on where there is room."""
    run.wait_for(lambda: bool(descendants(sweep.second_node, WORKER)) and sweep.is_halfway(2))
    return _until_it_trains_again(run, [sweep.second_node, *descendants(sweep.second_node)])


def driver_killed(sweep: Sweep, run: Run) -> None:
    """kill -9 of the command itself."""
    run.wait_for(sweep.is_halfway)
    workers = descendants(run.process.pid, WORKER)
    kill(run.process.pid)
    run.ended()
    while any(map(command_line, workers)):  # they save the trial once more before they notice
        time.sleep(0.02)


def raylet_killed(sweep: Sweep, run: Run) -> None:
    """kill -9 of the node's own Ray; the command ends and says so. Its workers are held meanwhile: trials so short would end before."""
    run.wait_for(sweep.is_halfway)
    workers = descendants(run.process.pid, WORKER)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    for pid in descendants(run.process.pid, "/raylet "):
        kill(pid)
    code = run.process.wait(PATIENCE_SECONDS)
    for pid in workers:
        kill(pid)
    assert code != 0, "".join(run.lines)


def terminated(sweep: Sweep, run: Run) -> None:
    """SIGTERM: trials are saved, then it ends."""
    run.wait_for(sweep.is_halfway)
    run.process.send_signal(signal.SIGTERM)
    assert run.ended() == 130, "".join(run.lines)


def disk_full(sweep: Sweep, run: Run) -> None:
    """No room left on the disk of the results, until someone makes some."""
    run.wait_for(sweep.is_halfway)
    filler = sweep.disk / "filler"
    _fill(filler)
    assert run.ended() in (1, 3), "".join(run.lines)
    filler.unlink()


def disk_read_only(sweep: Sweep, run: Run) -> None:
    """The disk of the results can no longer be written: a read-only mount comes to lie over it, since one in use cannot become so."""
    run.wait_for(sweep.is_halfway)
    with _mounted(sweep.results, "--bind", str(sweep.disk)):
        subprocess.run(["mount", "-o", "remount,bind,ro", sweep.results], check=True)
        assert run.ended() in (1, 3), "".join(run.lines)


def mount_vanished(sweep: Sweep, run: Run) -> None:
    """The disk of the results is not there any more, and comes back; nothing may be written into its empty place."""
    run.wait_for(sweep.is_halfway)
    subprocess.run(["umount", "-l", sweep.results], check=True)
    code = run.ended()
    found = sorted(str(path.relative_to(sweep.results)) for path in sweep.results.rglob("*"))
    subprocess.run(["mount", "--bind", sweep.disk, sweep.results], check=True)
    assert code in (1, 3), "".join(run.lines)
    assert found == [HERE_BEFORE], f"where the disk was there are now {found}"


OF_THE_DISK = (disk_full, disk_read_only, mount_vanished)
FAULTS = (worker_killed, driver_killed, raylet_killed, node_killed, terminated, *OF_THE_DISK)


def _seconds(wait: Callable[[], None]) -> float:
    started = time.perf_counter()
    wait()
    return time.perf_counter() - started


def _until_it_trains_again(run: Run, killed: list[int]) -> float:
    said = len(run.lines)
    for pid in killed:
        kill(pid)
    return _seconds(lambda: run.wait_for_line("goes on from its checkpoint", said))


@contextmanager
def on_a_disk(home: Path) -> Iterator[Sweep]:
    """A sweep without Ray whose results lie on a small disk of their own."""
    sweep = Sweep(home, None, "--serial")
    sweep.results.mkdir()
    (sweep.results / HERE_BEFORE).touch()
    with _mounted(sweep.disk, "-t", "tmpfs", "-o", "size=64m", "tmpfs"), _mounted(sweep.results, "--bind", str(sweep.disk)):
        yield sweep


@contextmanager
def _mounted(place: Path, *how: str) -> Iterator[None]:
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", *how, place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def _fill(filler: Path) -> None:
    """Take every byte that is left, also those that become free meanwhile."""
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            return


CLUSTER = """\
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "node_ip_address": "127.0.0.1"})
cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")
print(cluster.address, flush=True)
sys.stdin.read()
"""


@contextmanager
def on_two_nodes(home: Path) -> Iterator[Sweep]:
    """A sweep on two nodes of one processor each on loopback."""
    closed = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    holder = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | closed
    )
    with holder:
        assert holder.stdout is not None
        address = next(line for line in holder.stdout if line.startswith("127.0.0.1:")).strip()
        sweep = Sweep(home, None, f"--address={address}")
        sweep.environment |= closed
        sweep.second_node = max(descendants(holder.pid, "/raylet "))  # the later one
        try:
            yield sweep
        finally:
            for pid in [*descendants(holder.pid), holder.pid]:
                kill(pid)


def _sweep_for(fault: Callable[[Sweep, Run], float | None], home: Path) -> AbstractContextManager[Sweep]:
    """A sweep for a fault to strike."""
    if fault in OF_THE_DISK:
        return on_a_disk(home)
    return on_two_nodes(home) if fault is node_killed else nullcontext(Sweep(home))


def main() -> None:
    """Do each fault ROUNDS times; print how often records were lost or changed (never), and how long a trial stood still."""
    home = Path(tempfile.mkdtemp(prefix="archsweep-faults-"))
    print(f"\nFaults: records compared bit by bit with an undisturbed run's, {ROUNDS} times each; 2 cores")
    whole = Sweep(home / "whole", None, "--serial")
    whole.train()
    expected = whole.records()
    print(f"{'fault':>16}  times  lost rows  changed rows  seconds until a trial trains again")
    for fault in FAULTS:
        lost, changed, seconds = 0, 0, []
        for number in range(ROUNDS):
            with _sweep_for(fault, home / f"{fault.__name__}{number}") as sweep:
                with sweep.running() as run:
                    recovery = fault(sweep, run)
                    assert recovery is None or run.ended() == 0, "".join(run.lines)
                seconds.append(sweep.finish() if recovery is None else recovery)
                found = sweep.records()
            lost += sum(row not in found.get(trial, []) for trial, rows in expected.items() for row in rows)
            changed += sum(row not in expected[trial] for trial, rows in found.items() for row in rows)
        print(f"{fault.__name__:>16}  {ROUNDS:>5}  {lost:>9}  {changed:>12}  {median(seconds):.1f}", flush=True)
    shutil.rmtree(home)


if __name__ == "__main__":
    main()
