"""A function of the user's is found by its name, or the message says what is missing."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from safetensors.torch import load_file

import archsweep
from archsweep import extensions, pipeline
from archsweep.config import ExperimentConfig, Replica
from archsweep.errors import ConfigError, DataError
from archsweep.planning.cost import cost
from archsweep.planning.plan import make_plan
from archsweep.running import fork_server
from archsweep.space import Budget, Choice, Space
from archsweep.training.corpus import identify
from archsweep.training.experiment import ArchitectureExperiment

if TYPE_CHECKING:
    from archsweep.planning.plan import Plan

DOCUMENT = Path(archsweep.__file__).parents[1] / "docs" / "extending.md"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the modules that docs/extending.md shows."""
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL):
        (tmp_path / name).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_metrics:accuracy", "No module named 'own_metrics'.*PYTHONPATH"),
        ("own_metric:acuracy", "own_metric has no function acuracy: did you mean accuracy?"),
    ],
)
def test_what_is_not_there_is_said(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        extensions.load(name)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("def broken(:", "SyntaxError: invalid syntax (own_fault.py, line 1)"),
        ("number = unknown", "NameError: name 'unknown' is not defined"),
    ],
)
def test_what_a_module_raises_is_said_in_its_own_words(own: Path, code: str, error: str) -> None:
    (own / "own_fault.py").write_text(f"{code}\n")
    with pytest.raises(ConfigError) as raised:
        extensions.load("own_fault:broken")
    way_out = "Mend it; python -c 'import own_fault' says where."
    assert str(raised.value) == f"own_fault:broken: its module must be importable, and raises {error}. {way_out}"


def test_two_metrics_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"different function names, got mean twice"):
        extensions.user_metrics(ExperimentConfig(metrics=("a:mean", "b:mean")))


def trained(config: ExperimentConfig, own: Path, replicas: tuple[Replica, ...] | None = None) -> list[list[dict[str, Any]]]:
    experiment = ArchitectureExperiment(config, replicas, cache_dir=own / "cache", output_dir=own / "out")
    experiment.setup()
    rows = list(experiment.evaluations())
    experiment.save_model(own / "out" / "model")
    return rows


def test_a_metric_of_ones_own_is_measured_at_every_evaluation(tiny_config: ExperimentConfig, own: Path) -> None:
    first, last = (rows[0]["user_metrics"]["accuracy"] for rows in trained(tiny_config.copy(metrics=("own_metric:accuracy",)), own))
    assert (first * 32) % 1 == 0, "of every eighth window of 256 tokens"
    assert (last * 256) % 1 == 0
    assert 0 < last < 1


def test_a_metric_may_give_several_numbers_by_their_names(tiny_config: ExperimentConfig, own: Path) -> None:
    rows = trained(tiny_config.copy(metrics=("search_spaces.positions:loss_by_position",)), own)
    measured, last = rows[-1][0]["user_metrics"], rows[-1][0]["val_loss"]
    assert list(measured) == ["loss_by_position 1-4", "loss_by_position 5-8", "loss_by_position 9-16"]
    octaves = list(measured.values())
    assert (4 * octaves[0] + 4 * octaves[1] + 8 * octaves[2]) / 16 == pytest.approx(last, rel=1e-5)


def test_a_metric_that_would_raise_on_a_replica_that_has_diverged_measures_the_others(tiny_config: ExperimentConfig, own: Path) -> None:
    (own / "own_digits.py").write_text("def tenths(model, windows):\n    return round(float(model(windows[:, :-1]).abs().max() * 10))\n")
    replicas = tuple(Replica(seed=0, learning_rate=rate, weight_decay=0.1) for rate in (1e-3, 1e6))
    (kept, lost) = trained(tiny_config.copy(metrics=("own_digits:tenths",)), own, replicas)[-1]
    assert (kept["status"], lost["status"]) == ("finished", "diverged")
    assert kept["user_metrics"]["tenths"] > 0
    assert lost["user_metrics"] is None


def test_a_metric_that_is_not_there_is_refused_before_anything_is_tokenized(tiny_plan: Plan, own: Path) -> None:
    first, *others = tiny_plan.trials
    misspelt = first.model_copy(update={"config": first.config.copy(metrics=("own_metric:acuracy",))})
    plan = tiny_plan.model_copy(update={"trials": (*others, misspelt)})
    with pytest.raises(ConfigError, match="own_metric has no function acuracy: did you mean accuracy"):
        pipeline.run(plan, own / "sweep", pipeline.Machine(serial=True, cache_dir=own / "c"), Console(quiet=True))
    assert not (own / "c").exists()


def test_a_runner_of_ones_own_decides_the_order_and_leaves_the_same_records(tiny_plan: Plan, own: Path) -> None:
    losses = {}
    for name, machine in {
        "own": pipeline.Machine(runner="own_runner:quickest_first", cache_dir=own / "cache"),
        "ours": pipeline.Machine(serial=True, cache_dir=own / "cache"),
    }.items():
        pipeline.run(tiny_plan, own / name / "sweep", machine, Console(quiet=True))
        losses[name] = archsweep.load(own / name / "sweep")[["trial_id", "seed", "learning_rate", "val_loss"]].to_dict("list")
    assert losses["own"] == losses["ours"]
    quickest = min(tiny_plan.trials, key=lambda trial: trial.work)
    began = [line for line in (own / "own" / "sweep" / "sweep.log").read_text().splitlines() if "replicas began" in line]
    assert f"[{quickest.id}]" in began[0]
    assert tiny_plan.trials[0].id != quickest.id


def test_a_runner_that_is_not_there_is_refused_before_anything_is_tokenized(tiny_plan: Plan, own: Path) -> None:
    with pytest.raises(ConfigError, match="own_runner has no function slowest_first: did you mean quickest_first"):
        pipeline.run(
            tiny_plan, own / "sweep", pipeline.Machine(runner="own_runner:slowest_first", cache_dir=own / "c"), Console(quiet=True)
        )
    assert not (own / "c").exists()


def test_a_text_of_ones_own_is_trained_on_and_named_by_its_content(tiny_config: ExperimentConfig, own: Path) -> None:
    rows = trained(tiny_config.copy(dataset="own_text:documents"), own)
    assert rows[-1][0]["status"] == "finished"
    before = identify("own_text:documents")
    (own / "other_text.py").write_text("def documents():\n    yield 'a'\n    yield 3\n")
    with pytest.raises(DataError, match=r"other_text:documents must give texts \(str\), got int"):
        identify("other_text:documents")
    (own / "same_text.py").write_text((own / "own_text.py").read_text())
    assert identify("same_text:documents") == before


def test_a_model_of_ones_own_trains_in_a_stack_as_it_does_alone_and_is_counted_and_kept(tiny_config: ExperimentConfig, own: Path) -> None:
    config = tiny_config.copy(family="own_model:build", num_layers=2)
    replicas = tuple(Replica(seed=seed, learning_rate=1e-2, weight_decay=0.1) for seed in range(2))
    stacked, alone = trained(config, own, replicas), trained(config, own, replicas[:1])
    for number in range(2):
        assert stacked[number][0]["val_loss"] == pytest.approx(alone[number][0]["val_loss"], rel=1e-5)
    assert stacked[1][0]["val_loss"] < stacked[0][0]["val_loss"] < math.log(300)

    width = 16
    blocks = 2 * (width * width + width)
    price = cost(config)
    assert (price.parameters, price.non_embedding_parameters) == (blocks + 2 * 300 * width, blocks)
    assert price.flops_per_token == 3 * (2 * (2 * width * width + 300 * width) + 4 * 2 * 16 * width)  # with GPT-2's attention
    weights = load_file(own / "out" / "model" / "model.safetensors")
    assert weights["layers.1.weight"].shape == (width, width)
    assert ExperimentConfig.load(own / "out" / "model" / "config.json") == config


def test_a_budget_is_solved_for_a_model_of_ones_own(tiny_config: ExperimentConfig, own: Path) -> None:
    base = tiny_config.copy(family="own_model:build")
    space = Space(base=base, compare={"num_layers": Choice(1, 4)}, budget=Budget("non_embedding_parameters", 5_000, tolerance=0.1))
    plan = make_plan("own", "?", space, "corpus")
    found = [trial.cost.non_embedding_parameters for trial in plan.trials]
    assert all(4_500 <= count <= 5_500 for count in found)


@pytest.mark.slow
def test_workers_of_ray_which_are_forks_find_the_modules_too(tiny_config: ExperimentConfig, own: Path) -> None:
    (own / "own_process.py").write_text(f"""
import psutil

def is_a_fork(model, windows):
    return float({fork_server.__file__!r} in psutil.Process().parent().cmdline())
""")
    metrics = ("own_metric:accuracy", "own_process:is_a_fork")
    config = tiny_config.copy(family="own_model:build", dataset="own_text:documents", metrics=metrics)
    plan = make_plan("own", "?", Space(base=config, compare={"num_layers": Choice(1)}, repeat=2), identify(config.dataset))
    script = "import sys; from pathlib import Path; from rich.console import Console; from archsweep import pipeline; "
    script += "from archsweep.planning.plan import Plan; "
    script += "pipeline.run(Plan.load('plan.json'), Path('sweep'), pipeline.Machine(num_cpus=1, num_gpus=0), Console())"
    plan.save(own / "plan.json")
    environment = os.environ | {"PYTHONPATH": str(DOCUMENT.parents[1]), "ARCHSWEEP_CACHE": str(own / "cache")}
    subprocess.run([sys.executable, "-c", script], cwd=own, env=environment, check=True)
    results = archsweep.load(own / "sweep")
    assert results.status.tolist() == ["finished"] * 2
    for measured in map(json.loads, results.user_metrics):
        assert 0 <= measured["accuracy"] < 1
        assert measured["is_a_fork"] == (sys.platform == "linux")
