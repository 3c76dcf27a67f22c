"""Out of memory through Ray: a larger share of the GPU first, then smaller micro-batches, then a failure with its reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import archsweep
from archsweep.planning.plan import make_plan
from archsweep.space import Choice, Space
from archsweep.training.corpus import identify

if TYPE_CHECKING:
    from archsweep.config import ExperimentConfig

REPOSITORY = Path(archsweep.__file__).parents[1]

# A model that needs so many units of memory for each window, on a logical GPU that has 8 of them: torch's own error is raised where the
# share that Ray granted is too small.
HUNGRY = """\
import torch
from torch import nn

class Hungry(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab_size)
        self.need = {1: 4.0, 2: 16.0}[config.num_layers]

    def forward(self, tokens):
        import ray  # where it is running already; planning builds this model too

        share = ray.get_runtime_context().get_assigned_resources()["GPU"]
        if self.training and self.need * tokens.shape[0] > 8 * share:
            raise torch.OutOfMemoryError(f"{tokens.shape[0]} windows do not fit {share} of the device")
        return self.head(self.embedding(tokens))

def build(config):
    return Hungry(config)
"""


@pytest.mark.slow
def test_a_trial_that_runs_out_of_memory_gets_more_of_the_gpu_then_smaller_pieces_then_fails_with_the_reason(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    (tmp_path / "hungry.py").write_text(HUNGRY)
    config = tiny_config.copy(family="hungry:build")
    sys.path.insert(0, str(tmp_path))
    try:
        space = Space(base=config, compare={"num_layers": Choice(1, 2)}, repeat=1)
        plan = make_plan("hungry", "?", space, identify(config.dataset))
    finally:
        sys.path.remove(str(tmp_path))
    plan.save(tmp_path / "plan.json")
    script = "from pathlib import Path; from rich.console import Console; from archsweep import pipeline; "
    script += "from archsweep.planning.plan import Plan; "
    script += "pipeline.run(Plan.load('plan.json'), Path('results/hungry'), pipeline.Machine(num_cpus=2, num_gpus=1), Console(width=300))"
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}:{tmp_path}"}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    rows = archsweep.load(tmp_path / "results" / "hungry").set_index("num_layers")
    # Batches of 4 windows begin on an eighth of the GPU. With four units' need for each, all of it holds pieces of 2; with sixteen none.
    assert (rows.status[1], rows.gpu_share[1], rows.micro_batch[1]) == ("finished", 1.0, 2)
    assert rows.status[2] == "failed"
    assert "1 windows do not fit 1.0 of the device" in rows.reason[2]
    for trial in plan.trials:
        folder = tmp_path / "results" / "hungry" / "trials" / trial.id
        attempts = [json.loads(path.read_text())["reason"] for path in sorted(folder.glob("results.json.attempt*"))]
        assert [reason.split("fit ")[1] for reason in attempts[:2]] == ["0.125 of the device", "0.25 of the device"]
    assert "again with 0.25 of a GPU instead of 0.125" in done.stdout
