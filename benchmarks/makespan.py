"""How well a sweep keeps the processors busy, and against what one would write first: Ray Tune over transformers.Trainer."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import archsweep
from benchmarks.timing import header

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

ARCHSWEEP = ("-m", "archsweep")
ROUNDS = 3
REPOSITORY = Path(archsweep.__file__).parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])}
SIZES = ("num_layers", "num_heads", "hidden_size", "context_length", "vocab_size", "batch_size")
SPACE = '''"""One layer or two?"""
from archsweep.space import Choice, Space
from search_spaces.bases import TINY

space = Space(base=TINY, compare={"num_layers": Choice(1, 2)}, tune={"learning_rate": Choice(5e-3, 1e-2, 2e-2, 4e-2)}, repeat=3)
'''


def main() -> None:
    """Print the default sweep's makespan over its pure training time on two processors, and a small sweep's speed over the peer's."""
    print(header("Makespan: sweeps on two processors", 1))
    home = Path(tempfile.mkdtemp(prefix="archsweep-makespan-"))
    spent, results = sweep(ARCHSWEEP, "heads_vs_layers", home / "default", "--num-cpus=2")
    pure = float((results["train_seconds"] / results["stack_size"]).sum()) / 2
    in_trials = float(results.drop_duplicates("trial_id")["trial_seconds"].sum()) / 2
    makespan = spent.trials + spent.after
    print(f"heads_vs_layers: {spent.trials:.0f} s from the first trial's begin to the last one's end, {spent.trials / pure:.2f} times")
    print(f"the pure training, and {makespan:.0f} s, {makespan / pure:.2f} times, to the end of the command; of it")
    print(f"  {pure:5.1f} s pure training, on each of two processors")
    print(f"  {in_trials - pure:5.1f} s evaluations, exports and set-ups, on each")
    print(f"  {spent.trials - in_trials:5.1f} s between trials, and while the last one trains alone")
    print(f"  {spent.after:5.1f} s Ray's end, records and report")
    print(f"before it {spent.before:.1f} s: planning, and Ray and its workers start")

    (home / "small.py").write_text(SPACE)
    ours, theirs = [], []
    for number in range(ROUNDS):
        spent, results = sweep(ARCHSWEEP, str(home / "small.py"), home / f"small{number}", "--num-cpus=2")
        ours.append(sum(spent))
        theirs.append(_peer(results))
    times = [peer / own for own, peer in zip(ours, theirs, strict=True)]
    print(
        f"24 replicas of 200 steps, from start to end, medians of {ROUNDS} by turns: archsweep {median(ours):.0f} s, Ray Tune over "
        f"Trainer {median(theirs):.0f} s, {median(times):.1f}x ({min(times):.1f} to {max(times):.1f})"
    )


class Spent(NamedTuple):
    """Seconds of a command: until its first trial begins, from then until its last one has finished, and from then to its end."""

    before: float
    trials: float
    after: float


def sweep(program: Sequence[str], space: str, results: Path, *options: str) -> tuple[Spent, pd.DataFrame]:
    """A sweep's seconds and its records; `program` is what Python is given to run archsweep."""
    command = [sys.executable, *program, space, *options, "--fresh", "--results", str(results)]
    began = time.perf_counter()
    first = last = None
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            first = first or (time.perf_counter() if "replicas began" in line else None)
            last = time.perf_counter() if ": finished, " in line else last
    assert process.returncode == 0
    assert first is not None
    assert last is not None
    return Spent(first - began, last - first, time.perf_counter() - last), archsweep.load(next(results.iterdir()))


def _peer(results: pd.DataFrame) -> float:
    """Seconds of Ray Tune over transformers.Trainer: a trial per replica, the same models, batches of the same size, as many steps."""
    began = time.perf_counter()
    rows = results[[*SIZES, "learning_rate", "seed", "step"]].to_dict("records")
    program = f"from benchmarks.makespan import tune_trainer; tune_trainer({rows!r})"
    subprocess.run([sys.executable, "-c", program], check=True, env=ENVIRONMENT)
    return time.perf_counter() - began


def tune_trainer(rows: list[dict[str, Any]]) -> None:
    """Train each row with Tune and transformers.Trainer on two processors."""
    os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.urandom(32).hex()}
    os.environ |= {"RAY_AIR_NEW_OUTPUT": "0"}
    import ray
    from ray import tune

    def train(config: dict[str, Any]) -> None:
        import torch
        import transformers

        from archsweep.config import ExperimentConfig
        from archsweep.training.data import LanguageModelDataset

        torch.set_num_threads(1)
        sizes = {
            name: int(config[name]) for name in ("num_layers", "num_heads", "hidden_size", "context_length", "vocab_size", "batch_size")
        }
        ours = ExperimentConfig(**sizes, max_tokens=10**9)
        windows = LanguageModelDataset(ours).train_windows(int(config["seed"]))
        steps = int(config["step"])
        rows = [torch.from_numpy(row[:-1]) for step in range(steps) for row in windows.batch(step)]
        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                n_layer=ours.num_layers, n_head=ours.num_heads, n_embd=ours.hidden_size, n_positions=ours.context_length,
                vocab_size=ours.vocab_size, bos_token_id=None, eos_token_id=None,
            )
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            arguments = transformers.TrainingArguments(
                output_dir=folder, max_steps=steps, per_device_train_batch_size=ours.batch_size, learning_rate=config["learning_rate"],
                warmup_steps=steps // 2, seed=int(config["seed"]), logging_strategy="no", save_strategy="no", report_to=[],
                disable_tqdm=True, use_cpu=True,
            )  # fmt: skip
            trainer = transformers.Trainer(model=model, args=arguments, train_dataset=[{"input_ids": row, "labels": row} for row in rows])
            tune.report({"loss": trainer.train().training_loss})

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="CRITICAL")
    with tempfile.TemporaryDirectory() as storage:
        space = {"row": tune.grid_search(rows)}
        tuner = tune.Tuner(
            lambda config: train(config["row"]), param_space=space, run_config=tune.RunConfig(storage_path=storage, verbose=0)
        )
        assert len(tuner.fit()) == len(rows)
    ray.shutdown()


if __name__ == "__main__":
    main()
