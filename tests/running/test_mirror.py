"""A sweep whose results are in a store: it goes on from there elsewhere, is watched and stopped from a third place, has one driver."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pyarrow.fs import FileSystem

import archsweep
from archsweep.errors import MachineError
from archsweep.records import remote
from archsweep.running import mirror
from archsweep.running.background import repeating
from archsweep.running.lock import LOCK_FILE, STOP_FILE, Owner, ask_to_stop, asked_to_stop, locked, owner

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(archsweep.__file__).parent.parent

SPACE = '''"""One layer or two?"""
from archsweep.config import ExperimentConfig
from archsweep.space import Choice, Space

base = ExperimentConfig(num_layers=1, num_heads=2, head_dim=8, context_length=16, batch_size=4, max_tokens={tokens}, eval_tokens=256,
                        num_evaluations={evaluations}, vocab_size=300, dataset="text:{text}")
space = Space(base=base, compare={{"num_layers": Choice(1, 2)}}, repeat=2)
'''


def on(machine: Path, *words: str) -> subprocess.Popen[str]:
    """`python -m archsweep WORDS` on a machine that keeps its own copies in `machine`."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "XDG_CACHE_HOME": str(machine), "ARCHSWEEP_CACHE": str(machine)}
    return subprocess.Popen(
        [sys.executable, "-m", "archsweep", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def says(machine: Path, *words: str, code: int = 0) -> str:
    process = on(machine, *words)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == code, said
    return said


@pytest.mark.slow
def test_a_sweep_in_a_store_is_stopped_from_one_machine_and_goes_on_on_another(
    tmp_path: Path, tiny_text: Path, s3: Callable[[str], str]
) -> None:
    uri = s3("sweeps")
    space = tmp_path / "layers.py"
    space.write_text(SPACE.format(tokens=128_000, evaluations=100, text=tiny_text))
    command = (str(space), "--serial", "--checkpoint-seconds=0.5", "--results", uri)
    first = on(tmp_path / "one", *command)
    assert first.stdout is not None
    assert any("replicas began" in line for line in first.stdout)
    filesystem, base = FileSystem.from_uri(uri)
    while not filesystem.get_file_info(f"{base}/layers/progress.json").is_file:
        assert first.poll() is None
        time.sleep(0.1)
    assert "layers: running, process" in says(tmp_path / "two", "status", "layers", "--results", uri)
    assert "asked process" in says(tmp_path / "two", "stop", "layers", "--results", uri)
    assert first.wait(60) == 130
    first.stdout.close()
    assert "goes on from its checkpoint" in says(tmp_path / "three", *command)
    assert "layers: finished" in says(tmp_path / "two", "status", "layers", "--results", uri)
    assert "layers: finished, 2 of 2 trials finished" in says(tmp_path / "four", "status", "--results", uri)
    assert "val_loss" in Path(_exported(tmp_path, uri)).read_text()
    here = tmp_path / "whole"
    says(tmp_path / "one", *command[:-1], str(here))
    assert _losses(remote.local_root(uri, tmp_path / "three" / "archsweep") / "layers") == _losses(here / "layers")


def _exported(tmp_path: Path, uri: str) -> Path:
    says(tmp_path / "two", "export", "layers", "--format=csv", "--table=results", f"--to={tmp_path / 'table.csv'}", "--results", uri)
    return tmp_path / "table.csv"


def _losses(folder: Path) -> list[tuple[object, ...]]:
    frame = archsweep.load_curves(folder).sort_values(["trial_id", "seed", "step"])
    return list(frame[["trial_id", "seed", "step", "val_loss", "train_loss"]].itertuples(index=False, name=None))


def test_a_driver_elsewhere_that_shows_signs_of_life_is_not_joined_by_a_second_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "STEP_SECONDS", 0.05)
    uri = (tmp_path / "store").as_uri()
    lock = tmp_path / "store" / "sweep" / LOCK_FILE
    lock.parent.mkdir(parents=True)
    owner = Owner(pid=1, host="elsewhere", since="2026-01-01T00:00:00Z").model_dump_json()
    lock.write_text(owner)
    folder = remote.local_root(uri, tmp_path / "here") / "sweep"
    said: list[str] = []

    def touch() -> None:
        now = time.time_ns()
        os.utime(lock, ns=(now, now))

    with repeating(0.02, touch), pytest.raises(MachineError, match="process 1 on elsewhere"), mirror.pushed(folder, said.append):
        pytest.fail("it began")
    long_ago = time.time_ns() - 10**9 * 3600
    os.utime(lock, ns=(long_ago, long_ago))
    with mirror.pushed(folder, said.append):
        (folder / "plan.json").write_text("{}")
    assert (lock.parent / "plan.json").read_text() == "{}"
    lock.write_text(owner)  # a moment ago, by whatever clock: only silence tells
    monkeypatch.setattr("archsweep.running.lock.SIGN_OF_LIFE_SECONDS", 0.3)
    with mirror.pushed(folder, said.append):
        (folder / "mark").touch()
    assert (lock.parent / "mark").exists()
    assert [line.split(",")[0] for line in said] == ["sweep was last run by process 1 on elsewhere since 2026-01-01 00:00:00"] * 2


def test_a_request_to_stop_leaves_the_store_with_the_run_that_it_was_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "STEP_SECONDS", 0.02)
    store = tmp_path / "store" / "sweep"
    folder = remote.local_root(store.parent.as_uri(), tmp_path / "here") / "sweep"
    with mirror.pushed(folder, pytest.fail), locked(folder):
        runner = owner(folder)
        assert runner is not None
        while not (store / LOCK_FILE).exists():
            time.sleep(0.01)
        ask_to_stop(store, runner)  # as another machine does, whose copy this is
        while not asked_to_stop(folder):
            time.sleep(0.01)
    assert not (store / STOP_FILE).exists()
    ask_to_stop(store, runner)
    with mirror.pushed(folder, pytest.fail), locked(folder):
        (folder / "mark").touch()
        while not (store / "mark").exists():
            time.sleep(0.01)
        assert asked_to_stop(folder) is None
    assert not (store / STOP_FILE).exists()


def test_looking_leaves_the_folder_of_a_driver_here_alone(tmp_path: Path) -> None:
    """Its rows are ahead of the copy's, and what it has not noted yet must not be taken for old."""
    store = tmp_path / "store"
    folder = remote.local_root(store.as_uri(), tmp_path / "here") / "sweep"
    rows = folder / "trials" / "a" / "records.jsonl"
    with locked(folder):
        rows.parent.mkdir(parents=True)
        rows.write_text("one\n")
        remote.push(folder)
        (store / "sweep" / "trials" / "a" / "records.jsonl").write_text("another\n")
        mirror.refresh(folder, large=True)
        with mirror.pulled(folder, pytest.fail), mirror.pushed(folder, pytest.fail):
            assert rows.read_text() == "one\n"
        mirror.share(folder)
        assert (store / "sweep" / "trials" / "a" / "records.jsonl").read_text() == "another\n"
    mirror.refresh(folder, large=True)
    assert rows.read_text() == "another\n"


def test_a_store_that_is_away_for_a_while_is_said_once_and_has_everything_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "STEP_SECONDS", 0.02)
    store = tmp_path / "store"
    folder = remote.local_root(store.as_uri(), tmp_path / "here") / "sweep"
    said: list[str] = []
    with mirror.pushed(folder, said.append):
        store.write_text("in the way")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plan.json").write_text("{}")
        end = time.monotonic() + 30
        while not said and time.monotonic() < end:
            time.sleep(0.01)
        store.unlink()
    assert len(said) == 1
    assert "must be readable and writable" in said[0]
    assert (store / "sweep" / "plan.json").read_text() == "{}"
