"""Out of memory: a larger share of the GPU first, then smaller micro-batches, then a failure with its reason."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch

import archsweep
from archsweep.config import ExperimentConfig
from archsweep.planning.memory import CALIBRATION_FILE, CUDA_CONTEXT_BYTES, stack_memory_bytes
from archsweep.planning.plan import make_plan
from archsweep.running import worker
from archsweep.space import Choice, Space
from archsweep.training.corpus import identify
from archsweep.training.data import prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd

    from archsweep.planning.plan import Plan

REPOSITORY = Path(archsweep.__file__).parents[1]

# A model that takes so much memory for each window that it trains on, as its module's `NEED` and `take` say.
HUNGRY = """\
import torch
from torch import nn

class Hungry(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab_size)
        self.need = NEED[config.num_layers]
        self.held = torch.empty(0)

    def forward(self, tokens):
        if self.training:
            take(self, self.need * tokens.shape[0], tokens)
        return self.head(self.embedding(tokens))

def build(config):
    return Hungry(config)

"""

# Of a logical GPU that has 8 units: torch's own error is raised where the share that Ray granted is too small.
UNITS = """\
NEED = {1: 4.0, 2: 16.0}

def take(model, needed, tokens):
    import ray  # where it is running already; planning builds this model too

    share = ray.get_runtime_context().get_assigned_resources()["GPU"]
    if needed > 8 * share:
        raise torch.OutOfMemoryError(f"{tokens.shape[0]} windows do not fit {share} of the device")
"""

# On a GPU torch itself runs out: each window needs so large a part of the whole device.
PARTS_OF_THE_DEVICE = """\
NEED = {1: 0.05, 2: 0.25, 3: 1.5}

def take(model, needed, tokens):
    if tokens.is_cuda:
        size = int(needed * torch.cuda.get_device_properties(tokens.device).total_memory)
        if model.held.numel() != size:
            model.held = torch.empty(0)
            model.held = torch.empty(size, dtype=torch.uint8, device=tokens.device)
"""


def sweep(
    tmp_path: Path, config: ExperimentConfig, memory: str, layers: Choice, most: int
) -> tuple[pd.DataFrame, dict[int, list[str]], str]:
    """The rows by their layers, why each one's earlier attempts failed, and what was printed, of a sweep over `layers` on one GPU, of which
    a trial first asks for 1/`most`."""
    (tmp_path / "hungry.py").write_text(HUNGRY + memory)
    config = config.copy(family="hungry:build")
    sys.path.insert(0, str(tmp_path))
    try:
        space = Space(base=config, compare={"num_layers": layers}, repeat=1)
        plan = make_plan("hungry", "?", space, identify(config.dataset))
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("hungry", None)
    plan.save(tmp_path / "plan.json")
    script = "from pathlib import Path; from rich.console import Console; from archsweep import pipeline; "
    script += f"from archsweep.running import resources; resources.MOST_TRIALS_PER_GPU = {most}; "
    script += "from archsweep.planning.plan import Plan; "
    script += "pipeline.run(Plan.load('plan.json'), Path('results/hungry'), pipeline.Machine(num_cpus=2, num_gpus=1), Console(width=300))"
    # Ray takes a GPU for one that is there, logical or not, only where CUDA would.
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}:{tmp_path}:{os.environ.get('PYTHONPATH', '')}", "CUDA_VISIBLE_DEVICES": "0"}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    attempts = {}
    for trial in plan.trials:
        folder = tmp_path / "results" / "hungry" / "trials" / trial.id
        attempts[trial.config.num_layers] = [
            json.loads(path.read_text())["reason"] for path in sorted(folder.glob("results.json.attempt*"))
        ]
    return archsweep.load(tmp_path / "results" / "hungry").set_index("num_layers"), attempts, done.stdout


@pytest.mark.slow
def test_a_trial_that_runs_out_of_memory_gets_more_of_the_gpu_then_smaller_pieces_then_fails_with_the_reason(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    rows, attempts, printed = sweep(tmp_path, tiny_config, UNITS, Choice(1, 2), most=2)
    # Batches of 4 windows begin on half of the GPU. With four units' need for each, all of it holds pieces of 2; with sixteen none.
    assert (rows.status[1], rows.gpu_share[1], rows.micro_batch[1]) == ("finished", 1.0, 2)
    assert rows.status[2] == "failed"
    assert "1 windows do not fit 1.0 of the device" in rows.reason[2]
    for reasons in attempts.values():
        assert [reason.split("fit ")[1] for reason in reasons[:1]] == ["0.5 of the device"]
    assert "again with 1 of a GPU instead of 0.5" in printed


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_that_runs_out_of_memory_is_asked_for_more_then_for_smaller_pieces_then_given_up(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    rows, attempts, printed = sweep(tmp_path, tiny_config, PARTS_OF_THE_DEVICE, Choice(1, 2, 3), most=8)
    assert (rows.status[1], rows.gpu_share[1], rows.micro_batch[1]) == ("finished", 0.25, 4), attempts
    assert (rows.status[2], rows.gpu_share[2], rows.micro_batch[2]) == ("finished", 1.0, 2)
    assert rows.status[3] == "failed"
    assert "out of memory" in rows.reason[3]
    assert [len(attempts[layers]) for layers in (1, 2, 3)] == [1, 3, 3]  # a half, a quarter and an eighth of it were tried before
    assert all("out of memory" in reason for reasons in attempts.values() for reason in reasons)
    assert "again with 0.25 of a GPU instead of 0.125" in printed


CRAMPED = ExperimentConfig(
    num_layers=4, num_heads=4, hidden_size=256, context_length=64, batch_size=256, max_tokens=4 * 256 * 64, eval_tokens=64 * 64,
    num_evaluations=2, vocab_size=512, precision="fp32", device="cuda",
)  # fmt: skip
HELD = stack_memory_bytes(CRAMPED, 1).total // 2  # bytes, some 600 MB: what such a trial may have of the GPU


@pytest.mark.parametrize(("device", "index"), [("cuda", 0), ("cuda:1", 1)])
def test_a_trial_is_held_to_its_share_of_the_gpu_that_it_trains_on(
    tiny_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, index: int
) -> None:
    """Of CUDA only the driver is a stand-in: 10 GB on each device."""
    held: list[tuple[float, int]] = []
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch._C, "_cuda_setMemoryFraction", lambda part, device: held.append((part, device)), raising=False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=10**10))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A10")
    trial = tiny_plan.trials[0].model_copy(update={"config": tiny_plan.trials[0].config.copy(precision="fp32")})
    for share in (0.25, 1.0):
        fit = worker._fit(trial, torch.device(device), share, tmp_path)
        assert fit == {"stack_size": 4, "micro_batch_size": 4, "shrinks": share == 1.0}
    assert held == [((2.5e9 - CUDA_CONTEXT_BYTES) / 1e10, index), ((1e10 - CUDA_CONTEXT_BYTES) / 1e10, index)]


def test_rows_say_what_the_trial_with_all_its_replicas_was_predicted_to_take(tiny_plan: Plan, tmp_path: Path) -> None:
    """With checkpointing each of the four replicas trains alone, and the three others wait with their weights, gradients and moments."""
    trial = tiny_plan.trials[0]
    trial = trial.model_copy(update={"config": trial.config.copy(gradient_checkpointing=True)})
    alone = stack_memory_bytes(trial.config, 1).total
    storage = worker.Storage(tmp_path, checkpoint_seconds=60.0, keep_models="none")
    last = list(worker.train_trial(trial, prepare(trial.config, tmp_path).id, storage, 1, tmp_path / trial.id))[-1]
    assert {row["predicted_memory_bytes"] for row in last["rows"]} == {alone + 3 * 16 * trial.cost.parameters}
    assert last["training_memory_bytes"] == alone


@pytest.fixture
def train_cramped(tmp_path: Path) -> Iterator[Callable[[float], worker.Report]]:
    """Trains a trial with a share of the GPU, in this process, to its last report. Its batch is thought to fit wherever it is put."""
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Number {n} follows number {n - 1}, and {n * n} is its square." for n in range(4000)))
    config = CRAMPED.copy(dataset=f"text:{text}")
    corpus = prepare(config, tmp_path)
    (trial,) = make_plan("cramped", "?", Space(base=config, compare={"num_layers": Choice(4)}, repeat=1), corpus.id).trials
    (tmp_path / CALIBRATION_FILE).write_text(json.dumps({torch.cuda.get_device_name(): 0.01}))
    storage = worker.Storage(tmp_path, checkpoint_seconds=60.0, keep_models="none")
    gc.collect()  # what earlier tests left counts too
    torch.cuda.empty_cache()
    yield lambda share: list(worker.train_trial(trial, corpus.id, storage, 1, tmp_path / trial.id, share))[-1]
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_trial_that_does_not_fit_its_part_of_a_gpu_ends_there(train_cramped: Callable[[float], worker.Report]) -> None:
    whole = torch.cuda.get_device_properties(0).total_memory
    with pytest.raises(torch.OutOfMemoryError):
        train_cramped((CUDA_CONTEXT_BYTES + HELD) / whole)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_trial_that_does_not_fit_a_whole_gpu_shrinks_until_it_does(
    train_cramped: Callable[[float], worker.Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = torch.cuda.get_device_properties(0).total_memory
    monkeypatch.setattr(worker, "CUDA_CONTEXT_BYTES", whole - HELD)  # a GPU of which nothing else is free
    monkeypatch.setattr(worker, "SCRATCH_BYTES", 0)
    (row,) = train_cramped(1.0)["rows"]
    assert row["status"] == "finished"
    assert row["micro_batch"] < CRAMPED.batch_size
    assert row["peak_memory_bytes"] <= HELD
