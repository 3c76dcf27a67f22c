"""What the driver costs, and that it grows with the number of trials and not faster: plans, a sweep through Ray, the same sweep again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import archsweep
from archsweep import pipeline
from archsweep.planning import throughput
from archsweep.planning.extend import reconcile
from archsweep.planning.plan import Plan
from archsweep.planning.table import as_json, table

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(archsweep.__file__).parent.parent
PLANS = (10, 100, 1_000, 10_000)  # trials
TRIALS = 2_000
WINDOWS = 8  # of the sweep, at whose ends the driver is looked at

# The default question, with so many values of a field that changes no shape.
QUESTION = '''"""Heads or layers, and how hard to clip?"""
from archsweep.space import Budget, Choice, Space
from search_spaces.bases import TINY

space = Space(
    base=TINY,
    compare={{"num_layers": Choice(1, 2), "num_heads": Choice(1, 2, 3, 4, 6), "grad_clip": Choice(*range(1, 1 + {trials} // 10))}},
    budget=Budget("non_embedding_parameters", 50_000, tolerance=0.01),
    tune={{"learning_rate": Choice(5e-3, 1e-2, 2e-2, 4e-2)}},
    repeat=3,
)
'''

# Trials that train two steps of four short windows: what is left is what a trial costs whatever it trains.
NEARLY_NOTHING = '''"""How hard to clip?"""
from archsweep.config import ExperimentConfig
from archsweep.space import Choice, Space

space = Space(
    base=ExperimentConfig(
        num_layers=1, num_heads=1, head_dim=8, context_length=16, batch_size=4, max_tokens=128, eval_tokens=128, num_evaluations=1,
        vocab_size=300, dataset="text:{text}",
    ),
    compare={{"grad_clip": Choice(*(1 + n / 1000 for n in range({trials})))}},
)
'''


class Window(NamedTuple):
    """The driver after so many trials."""

    trials: int
    seconds: float  # since its first trial began
    processor_seconds: float
    resident_bytes: int


def main(trials: int = TRIALS) -> None:
    """Print the cost of plans of each size, and of a sweep of `trials` trials that train nearly nothing, twice."""
    from benchmarks.timing import header  # which imports torch, and a plan must not

    print(header("Driver: what it costs by the number of trials", 1))
    with tempfile.TemporaryDirectory(prefix="archsweep-driver-") as home:
        _plans(Path(home))
        _sweep(trials, Path(home))


# ---------------------------------------------------------------------------------------------------------------------- plans


def _plans(home: Path) -> None:
    """A row per size, each in a process of its own."""
    print(
        "| trials | plan s | save s | load s | rerun s | forecast s | JSON s | table s | peak MB |\n|---|---|---|---|---|---|---|---|---|"
    )
    for trials in PLANS:
        command = f"from benchmarks.driver import price_a_plan; price_a_plan({trials}, {str(home)!r})"
        done = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True, text=True, env=_environment(home))
        found = json.loads(done.stdout)
        print(f"| {trials:,} |", " | ".join(f"{seconds:.2f}" for seconds in found["seconds"].values()), f"| {found['peak'] / 1e6:,.0f} |")


def price_a_plan(trials: int, home: str) -> None:
    """Print the seconds of each thing that is done with a plan of `trials` trials, and this process's peak, as JSON.

    The forecast is made where each of the plan's trials was measured once, as a finished sweep leaves it.
    """
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(what: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        seconds[what] = time.perf_counter() - began

    folder = Path(home) / f"plan-{trials}"
    folder.mkdir()
    (folder / "question.py").write_text(QUESTION.format(trials=trials))
    machine = pipeline.Machine(num_cpus=2, num_gpus=0, cache_dir=folder)
    with timed("plan"):
        plan = pipeline.plan(pipeline.Question(str(folder / "question.py")), machine)
    assert len(plan.trials) == trials, len(plan.trials)
    with timed("save"):
        plan.save(folder / plan.name / "plan.json")
    with timed("load"):
        recorded = Plan.load(folder / plan.name / "plan.json")
    with timed("reconcile"):
        assert reconcile(recorded, plan, extend=False) == plan
    _measure_each(plan, machine)
    with timed("forecast"):
        forecast = pipeline.forecast(plan, machine, folder)
    with timed("json"):
        as_json(plan, forecast)
    with timed("table"), redirect_stdout(StringIO()):
        from rich.console import Console

        Console(width=300).print(table(plan, forecast))
    print(json.dumps({"seconds": seconds, "peak": _peak_bytes()}))


def _peak_bytes() -> int:
    """This process's peak, as Linux tells it; `resource` counts what the process before its exec had, too."""
    [line] = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def _measure_each(plan: Plan, machine: pipeline.Machine) -> None:
    (device_name,) = machine.device_names(plan.trials[0].config)
    for trial in plan.trials:
        line = throughput.measured(
            trial.config, "trial", device_name=device_name, precision="fp32", replicas=12, stack_size=1, seconds_per_token=1e-5
        )
        throughput.append(machine.cache, line)


# ---------------------------------------------------------------------------------------------------------------------- the sweep


def _sweep(trials: int, home: Path) -> None:
    """Run the sweep through Ray on two processors, and then the same command once more."""
    (home / "text.txt").write_text("\n\n".join(f"The cat sees the moon, and number {n} follows number {n - 1}." for n in range(400)))
    (home / "nearly_nothing.py").write_text(NEARLY_NOTHING.format(trials=trials, text=home / "text.txt"))
    windows = _watched(trials, home)
    print(f"\n{trials:,} trials of two steps through Ray on two processors:")
    print("| trials | seconds per trial | driver's processor seconds per trial | driver's resident MB |\n|---|---|---|---|")
    for before, after in pairwise(windows):
        count = after.trials - before.trials
        wall, processor = (after.seconds - before.seconds) / count, (after.processor_seconds - before.processor_seconds) / count
        print(f"| {after.trials:,} | {wall:.3f} | {processor:.3f} | {after.resident_bytes / 1e6:,.0f} |")
    began = time.perf_counter()
    subprocess.run(_command(home), check=True, stdout=subprocess.DEVNULL, env=_environment(home))
    again = time.perf_counter() - began
    began = time.perf_counter()
    report = [sys.executable, "-m", "archsweep", "report", "nearly_nothing", "--results", str(home / "results")]
    subprocess.run(report, check=True, stdout=subprocess.DEVNULL, env=_environment(home))
    alone = time.perf_counter() - began
    print(f"the finished sweep again: {again:.1f} s from start to end; its report alone, as a command: {alone:.1f} s")


def _watched(trials: int, home: Path) -> list[Window]:
    """The driver when its first trial began, and after each part of the trials."""
    due = [trials * part // WINDOWS for part in range(1, WINDOWS + 1)]
    windows: list[Window] = []
    finished = 0
    with subprocess.Popen(_command(home), stdout=subprocess.PIPE, text=True, env=_environment(home)) as process:
        assert process.stdout is not None
        began = time.perf_counter()
        for line in process.stdout:
            finished += ": finished, validation loss" in line
            first = "replicas began" in line and not windows
            if first or (windows and due and finished >= due[0]):
                due = due if first else due[1:]
                windows.append(Window(finished, time.perf_counter() - began, *_used(process.pid)))
    assert process.returncode == 0
    assert finished == trials, f"{finished} of {trials} trials have finished"
    return windows


def _used(pid: int) -> tuple[float, int]:
    """Processor seconds of a process, and its resident bytes, as Linux tells them (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # from the third on
    ticks, pages = int(fields[11]) + int(fields[12]), int(fields[21])
    return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE")


def _command(home: Path) -> list[str]:
    return [sys.executable, "-m", "archsweep", str(home / "nearly_nothing.py"), "--num-cpus=2", "--results", str(home / "results"), "-y"]


def _environment(home: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "ARCHSWEEP_CACHE": str(home)}


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
