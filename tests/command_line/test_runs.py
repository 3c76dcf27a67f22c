"""How the commands train, are interrupted and go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

import archsweep
from archsweep.training.data import LanguageModelDataset
from tests.command_line.command import REPOSITORY, TINY_SPACE, run

if TYPE_CHECKING:
    from pathlib import Path

    from archsweep.config import ExperimentConfig


@pytest.fixture
def config_file(tiny_config: ExperimentConfig, tmp_path: Path) -> Path:
    return tiny_config.copy(experiment_name="one").save(tmp_path / "config.json")


def test_one_config_trains_in_this_process_and_is_not_trained_twice(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("train", str(config_file), "--set", "seed=3", "--results", str(tmp_path))
    assert run(*command) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == f"report: {tmp_path / 'one' / 'report.html'}"
    (row,) = archsweep.load(tmp_path / "one").itertuples()
    assert (row.status, row.seed, row.tokens) == ("finished", 3, 384)
    assert run(*command) == 0
    assert "1 of 1 trials are finished and stay as they are" in capsys.readouterr().out
    assert run("export", "one", "experiment_name=one", "--to", str(tmp_path / "model"), "--results", str(tmp_path)) == 0


def test_another_config_of_a_name_that_is_taken_is_refused_and_a_name_that_train_can_set_is_the_way_out(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("train", str(config_file), "--results", str(tmp_path))
    assert run(*command) == 0
    assert run(*command, "--set", "seed=3") == 2
    said = capsys.readouterr().err
    assert "one holds another plan than this one" in said
    assert said.endswith("text were different. To keep both, give this sweep a name of its own with --set experiment_name=NAME.\n")
    assert run(*command, "--set", "seed=3", "--set", "experiment_name=another") == 0


def test_one_config_given_in_epochs_trains_so_many_passes_over_its_text(
    config_file: Path, tmp_path: Path, tiny_config: ExperimentConfig
) -> None:
    batches = len(LanguageModelDataset(tiny_config).get_train_dataloader())
    assert run("train", str(config_file), "--set", "max_tokens=null", "--set", "num_epochs=2", "--results", str(tmp_path)) == 0
    assert archsweep.load(tmp_path / "one").step.tolist() == [2 * batches]


def _heed_ctrl_c() -> None:
    """A shell's background jobs ignore SIGINT, and so would this test's process if the tests were one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "runner"), [(signal.SIGINT, "--num-cpus=1"), (signal.SIGTERM, "--serial")])
def test_an_interrupted_sweep_says_how_to_go_on_and_the_same_command_does(
    stop: signal.Signals, runner: str, tmp_path: Path, tiny_text: Path
) -> None:
    (tmp_path / "one_or_two.py").write_text(TINY_SPACE.format(tokens=640_000, text=tiny_text))
    command = [sys.executable, "-m", "archsweep", str(tmp_path / "one_or_two.py"), runner, "--results", str(tmp_path / "results")]
    command.append("--checkpoint-seconds=0.3")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    for moment in ("replicas began", "goes on from its checkpoint at step"):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment, preexec_fn=_heed_ctrl_c
        )
        assert process.stdout is not None
        assert any(moment in line for line in process.stdout)
        while not any(tmp_path.glob("results/*/trials/*/checkpoint/*")) and process.poll() is None:
            time.sleep(0.05)  # a trial that has just begun has nothing to go on from
        process.send_signal(stop)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "the same command goes on from there" in errors
        assert "Traceback" not in errors
        assert (tmp_path / "results" / "one_or_two" / "results.parquet").is_file()


@pytest.mark.slow
def test_the_default_sweeps_smoke_run_answers_through_ray(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "archsweep", "heads_vs_layers", "--smoke", "--results", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == f"report: {tmp_path / 'heads_vs_layers-smoke' / 'report.html'}"
    results = archsweep.load(tmp_path / "heads_vs_layers-smoke")
    assert set(results.status) == {"finished"}
    assert results.non_embedding_parameters.between(49_500, 50_500).all()
