"""From records to a report: seconds and peak memory of each step, for sweeps of up to 10,000 trials of 50 evaluations.

The folders are made up, file for file as a run leaves them; each step reads them in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from archsweep import pipeline
from archsweep.analysis.compare import compare_experiments
from archsweep.config import ExperimentConfig, Replica
from archsweep.planning.cost import cost
from archsweep.planning.plan import Plan, Trial
from archsweep.records import read, write
from archsweep.records.schema import CURVES_FILE, PLAN_FILE, RESULTS_FILE, TRIALS_FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TRIALS, EVALUATIONS = (100, 1_000, 10_000), 50
RATES, SEEDS = (2e-3, 4e-3, 8e-3, 1.6e-2), range(5)  # of each variant; each replica is a trial of its own, as on a large cluster
BLOCKS = 32  # of evaluation tokens, as experiments record them
CORPUS = "made-up"


class Step(NamedTuple):
    """What one step took in a process of its own, its imports not counted in the seconds."""

    seconds: float
    peak_bytes: int


def main(sizes: tuple[int, ...] = TRIALS) -> None:
    """Print a line per number of trials: what each step took."""
    print(f"\nReporting: trials of {EVALUATIONS} evaluations, one model each, {len(RATES) * len(SEEDS)} for each variant")
    print(f"{'trials':>7} {'on disk':>9} " + " ".join(f"{name:>22}" for name in STEPS))
    for trials in sizes:
        with TemporaryDirectory() as temporary:
            folder = Path(temporary) / "sweep"
            make_sweep(folder, trials)
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            steps = [_measured(name, folder) for name in STEPS]
        cells = (f"{step.seconds:8.1f} s {step.peak_bytes / 2**20:7,.0f} MiB" for step in steps)
        print(f"{trials:>7,} {size / 1e6:6,.0f} MB " + " ".join(f"{cell:>22}" for cell in cells), flush=True)


# ------------------------------------------------------------------------------------------------------------------------ the steps


def _collected(folder: Path) -> None:
    pipeline.collect(folder)


def _loaded(folder: Path) -> None:
    read.load(folder)
    read.load_curves(folder)


def _compared(folder: Path) -> None:
    compare_experiments(folder)


def _reported(folder: Path) -> None:
    """The command `report`: all of it."""
    for name in (RESULTS_FILE, CURVES_FILE):
        (folder / name).unlink()
    pipeline.collect(folder)
    pipeline.report(folder)


STEPS: dict[str, Callable[[Path], None]] = {"collect": _collected, "load": _loaded, "compare": _compared, "report, all in all": _reported}


def _measured(name: str, folder: Path) -> Step:
    words = [sys.executable, "-m", "benchmarks.reporting", "--step", name, "--folder", str(folder)]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return Step(*json.loads(told.splitlines()[-1]))


def _run_step(name: str, folder: Path) -> None:
    started = perf_counter()
    STEPS[name](folder)
    seconds = perf_counter() - started
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))


# ---------------------------------------------------------------------------------------------------------------- made-up sweeps


def make_sweep(folder: Path, trials: int, evaluations: int = EVALUATIONS) -> Path:
    """A finished sweep of so many trials, each of one replica, with losses that a seeded generator draws."""
    planned = list(_trials(trials))
    plan = Plan(
        name="made_up", question="Which is made up best?", compare=("num_layers", "num_heads"), tune=("learning_rate",), repeat=len(SEEDS),
        budget=None, corpus_id=CORPUS, trials=tuple(planned), refused=(),
    )  # fmt: skip
    plan.save(folder / PLAN_FILE)
    for trial in planned:
        _write_trial(folder / TRIALS_FOLDER / trial.id, trial, evaluations)
    return folder


def _trials(count: int) -> Iterator[Trial]:
    for number in range(count):
        variant, replica = divmod(number, len(RATES) * len(SEEDS))
        heads, layers = 2 ** (variant % 4), 1 + variant // 4
        config = ExperimentConfig(experiment_name="made_up", num_layers=layers, num_heads=heads, hidden_size=64, context_length=64)
        rate, seed = divmod(replica, len(SEEDS))
        replicas = (Replica(seed=seed, learning_rate=RATES[rate], weight_decay=0.1),)
        content = config.content_id([replicas[0].model_dump()], CORPUS)
        compared = {"num_layers": layers, "num_heads": heads}
        yield Trial(id=content, variant=compared, config=config, replicas=replicas, cost=cost(config))


def _write_trial(folder: Path, trial: Trial, evaluations: int) -> None:
    write.begin(folder, trial.config)
    rows = [json.dumps(row) for row in _rows(trial, evaluations)]
    (folder / "records.jsonl").write_text("\n".join(rows) + "\n")  # all at once: nothing here needs to survive a kill
    outcome = write.Outcome(status="finished", trial_seconds=12.5, hostname="node-1", device_name="a processor", corpus_id=CORPUS)
    write.finish(folder, outcome)


def _rows(trial: Trial, evaluations: int) -> Iterator[dict[str, Any]]:
    (replica,) = trial.replicas
    noise = random.Random(trial.id)
    floor = 3.5 + trial.config.num_layers / 100 + 0.2 * abs(math.log(replica.learning_rate / RATES[1])) + noise.gauss(0, 0.02)
    for number in range(1, evaluations + 1):
        loss = floor + 2 / number
        yield {
            **replica.model_dump(), "status": "finished" if number == evaluations else "running", "reason": None, "step": 10 * number,
            "tokens": 10_240 * number, "train_loss": loss + noise.gauss(0, 0.02), "val_loss": loss, "perplexity": math.exp(loss),
            "bits_per_byte": loss / 2, "val_block_losses": [loss + noise.gauss(0, 0.1) for _ in range(BLOCKS)], "user_metrics": None,
            "diverged_step": None, "last_loss": None, "train_seconds": 0.3 * number, "step_seconds": 0.03, "tokens_per_second": 57_492.3,
            "model_flops_utilisation": None, "peak_memory_bytes": 492_539_904, "stack_size": 1, "micro_batch": 8,
            "predicted_memory_bytes": 26_554_304,
        }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=TRIALS)
    parser.add_argument("--step", choices=STEPS)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.step:
        _run_step(given.step, given.folder)
    else:
        main(tuple(given.trials))
