"""What another terminal sees and asks of a sweep, by its files: with a sweep that runs, one that was killed, and one that has ended."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

import archsweep
from archsweep.errors import MachineError, RecordError
from archsweep.planning.plan import Point
from archsweep.records import write
from archsweep.running import lock, watch
from archsweep.running.background import repeating
from archsweep.running.lock import LOCK_FILE, STOP_FILE, Owner, ask_to_stop, asked_to_stop, is_held_here, locked, owner
from archsweep.running.snapshot import Counts, Snapshot
from archsweep.vocabulary import Optuna
from tests.command_line.command import run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from archsweep.planning.plan import Plan, Trial

REPOSITORY = Path(archsweep.__file__).parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(REPOSITORY)}

LONG_SPACE = '''"""One layer or two?"""
from archsweep.config import ExperimentConfig
from archsweep.space import Choice, Space

base = ExperimentConfig(num_layers=1, num_heads=2, head_dim=8, context_length=16, batch_size=4, max_tokens=6_400_000, eval_tokens=256,
                        num_evaluations=5000, vocab_size=300, dataset="text:{text}")
space = Space(base=base, compare={{"num_layers": Choice(1, 2)}}, repeat=2)
'''


def archsweep_says(*words: str, code: int = 0) -> str:
    """What `python -m archsweep WORDS` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "archsweep", *words], capture_output=True, text=True, env=ENVIRONMENT, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stdout


@contextmanager
def running_sweep(tmp_path: Path, text: Path) -> Iterator[subprocess.Popen[str]]:
    """A sweep in a process of its own that trains for minutes; it has reported when the block begins."""
    (tmp_path / "long.py").write_text(LONG_SPACE.format(text=text))
    command = [sys.executable, "-m", "archsweep", str(tmp_path / "long.py"), "--serial", "--results", str(tmp_path / "results")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        assert process.stdout is not None
        assert any("replicas began" in line for line in process.stdout)
        yield process
    finally:
        process.kill()
        process.communicate()


def in_results(tmp_path: Path) -> tuple[str, str]:
    return "--results", str(tmp_path / "results")


@pytest.mark.slow
def test_a_running_sweep_is_seen_followed_and_stopped_from_another_terminal(tmp_path: Path, tiny_text: Path) -> None:
    with running_sweep(tmp_path, tiny_text) as sweep:
        follower = subprocess.Popen(
            [sys.executable, "-m", "archsweep", "logs", "long", "--follow", *in_results(tmp_path)],
            stdout=subprocess.PIPE, text=True, env=ENVIRONMENT,
        )  # fmt: skip
        seen: dict[str, Any] = {"trials": []}
        while not any(trial["val_loss"] for trial in seen["trials"]):  # once every two seconds it is written
            seen = json.loads(archsweep_says("status", "long", "--json", *in_results(tmp_path)))
        assert seen["running"] is True
        assert seen["driver"]["pid"] == sweep.pid
        assert seen["counts"] | {"running": 1, "to_do": 1} == seen["counts"]
        assert 0 < seen["trials"][0]["step"] < seen["trials"][0]["steps"] == 100_000
        words = archsweep_says("status", "long", *in_results(tmp_path))
        assert f"running, process {sweep.pid} on" in words
        assert "of 100,000" in words
        assert seen["trials"][0]["id"] in words
        said = archsweep_says("stop", "long", *in_results(tmp_path))
        assert f"asked process {sweep.pid} on" in said
        assert "stopped: 0 of 2 trials finished, 2 to do" in said
        assert "go on with: python -m archsweep" in said
        _, errors = sweep.communicate(timeout=60)
        assert sweep.returncode == 130
        assert "the same command goes on from there" in errors
        followed, _ = follower.communicate(timeout=60)
        assert "replicas began" in followed
        assert "trials are saved first" in followed.splitlines()[-2]
        assert not (tmp_path / "results" / "long" / STOP_FILE).exists()
        assert list((tmp_path / "results" / "long" / "trials").glob("*/checkpoint/[0-9]*.json")), "nothing was saved"


@pytest.mark.slow
def test_a_sweep_whose_driver_was_killed_is_not_running_and_says_how_to_go_on(tmp_path: Path, tiny_text: Path) -> None:
    with running_sweep(tmp_path, tiny_text) as sweep:
        sweep.send_signal(signal.SIGKILL)
        sweep.wait(timeout=60)
        words = archsweep_says("status", "long", *in_results(tmp_path))
        assert f"long: not running: process {sweep.pid} on" in words
        assert "was killed" in words
        assert "0 of 2 trials finished, 2 to do" in words
        command = f"python -m archsweep {tmp_path / 'long.py'} --results {tmp_path / 'results'}"
        assert f"go on with: {command}" in words
        assert "long is not being run" in archsweep_says("stop", "long", *in_results(tmp_path))


@pytest.mark.parametrize("words", [["status", "tiny"], ["status"], ["logs", "tiny"], ["stop", "tiny"], ["clean", "tiny"]])
def test_another_terminal_imports_nothing_heavy(words: list[str], tiny_plan: Plan, tmp_path: Path) -> None:
    folder = planned(tiny_plan.model_copy(update={"method": Optuna(trials=40)}), tmp_path)
    (folder / "sweep.log").write_text("2026-01-01 00:00:00 a line\n")
    script = (
        "import sys, atexit\n"
        "heavy = {'torch', 'ray', 'pandas', 'transformers', 'scipy', 'optuna'}\n"
        "atexit.register(lambda: print('HEAVY', sorted(heavy & set(sys.modules))))\n"
        "from archsweep.cli import main\n"
        f"main({[*words, '--results', str(tmp_path)]!r})"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert "HEAVY []" in said.stdout


def planned(plan: Plan, tmp_path: Path, command: str = "python -m archsweep tiny.py") -> Path:
    """A sweep's folder in which nothing has run."""
    folder = tmp_path / "tiny"
    plan.model_copy(update={"command": command}).save(folder / "plan.json")
    return folder


def finish(folder: Path, trials: Iterable[Trial]) -> None:
    """Record these as finished."""
    for trial in trials:
        (folder / "trials" / trial.id).mkdir(parents=True)
        write.finish(folder / "trials" / trial.id, write.Outcome(status="finished"))


def snapshot(plan: Plan, **changes: Any) -> Snapshot:
    known: dict[str, Any] = {
        "at": datetime.now(UTC) + timedelta(seconds=1),
        "counts": Counts(total=2, running=1, to_do=1),
        "running": ({"id": plan.trials[0].id, "label": "a", "step": 3, "steps": 6, "val_loss": 4.0, "tokens_per_second": 5.0},),
        "best": None, "tokens_per_second": 5.0, "share_done": 0.25, "elapsed_seconds": 1.0, "seconds_left": 60.0,
    }  # fmt: skip
    return Snapshot.model_validate(known | changes)


def test_a_sweep_that_has_not_begun_has_all_its_trials_to_do(tiny_plan: Plan, tmp_path: Path) -> None:
    status = watch.read_status(planned(tiny_plan, tmp_path))
    assert (status.running, status.killed, status.state) == (False, None, "not running")
    assert status.counts == Counts(total=2, to_do=2)
    assert status.go_on == f"python -m archsweep tiny.py --results {tmp_path}"


def test_trials_that_ended_are_counted_from_their_own_outcomes(tiny_plan: Plan, tmp_path: Path) -> None:
    folder = planned(tiny_plan, tmp_path)
    first, second = tiny_plan.trials
    for trial in tiny_plan.trials:
        (folder / "trials" / trial.id).mkdir(parents=True)
    write.finish(folder / "trials" / first.id, write.Outcome(status="failed", reason="out of luck"))
    write.finish(folder / "trials" / second.id, write.Outcome(status="finished", reason="every replica diverged"))
    status = watch.read_status(folder)
    assert status.counts == Counts(total=2, failed=1, diverged=1)
    lines = "\n".join(watch.status_lines(status))
    assert f"failed {first.label}: out of luck (all of it in {folder / 'trials' / first.id / 'error.txt'})" in lines
    write.finish(folder / "trials" / first.id, write.Outcome(status="finished"))
    status = watch.read_status(folder)
    assert (status.state, status.go_on) == ("finished", None)


def test_what_a_search_has_yet_to_suggest_is_to_do_unless_it_finds_nothing_new(tiny_plan: Plan, tmp_path: Path) -> None:
    points = [Point(params={}, trial=trial.id) for trial in tiny_plan.trials]
    again = points[-1].model_copy(update={"duplicate": True})
    refused = Point(params={}, refused="too large")
    for fruitless, to_do in (([again] * 199, 38), ([again] * 100 + [refused] * 100, 0)):
        update = {"method": Optuna(trials=40), "points": (*points, *fruitless)}
        folder = planned(tiny_plan.model_copy(update=update), tmp_path / str(to_do))
        finish(folder, tiny_plan.trials)
        status = watch.read_status(folder)
        assert status.counts == Counts(total=2 + to_do, finished=2, to_do=to_do)
        assert (status.state, status.go_on is not None) == (("not running", True) if to_do else ("finished", False))


def test_a_search_that_is_asked_to_stop_between_its_trials_has_stopped_not_finished(tiny_plan: Plan, tmp_path: Path) -> None:
    folder = planned(tiny_plan.model_copy(update={"method": Optuna(trials=40)}), tmp_path)
    said: list[str] = []
    finish(folder, tiny_plan.trials)
    asking = Thread(target=watch.stop, args=(folder, said.append))
    with locked(folder):
        asking.start()
        while asking.is_alive() and asked_to_stop(folder) is None:
            asking.join(0.01)
    asking.join()
    go_on = f"go on with: python -m archsweep tiny.py --results {tmp_path}"
    assert said[1:] == ["stopped: 2 of 40 trials finished, 38 to do", go_on]


def test_a_plan_that_no_command_made_is_not_finished_before_its_trials_are(tiny_plan: Plan, tmp_path: Path) -> None:
    folder = planned(tiny_plan, tmp_path, command="")
    assert (watch.read_status(folder).state, watch.read_status(folder).go_on) == ("not running", None)
    finish(folder, tiny_plan.trials)
    assert watch.read_status(folder).state == "finished"


def test_what_a_killed_driver_left_in_progress_json_is_not_running(tiny_plan: Plan, tmp_path: Path) -> None:
    folder = planned(tiny_plan, tmp_path)
    (folder / "progress.json").write_text(snapshot(tiny_plan).model_dump_json())
    (folder / LOCK_FILE).write_text(Owner(pid=1, host=os.uname().nodename, since=datetime.now(UTC)).model_dump_json())
    status = watch.read_status(folder)
    assert (status.running, status.trials, status.seconds_left) == (False, (), None)
    assert status.counts == Counts(total=2, to_do=2)
    assert "process 1 on" in status.state
    assert "was killed" in status.state


def test_a_driver_on_another_host_runs_while_it_shows_signs_of_life(tiny_plan: Plan, tmp_path: Path) -> None:
    folder = planned(tiny_plan, tmp_path)
    (folder / LOCK_FILE).write_text(Owner(pid=1, host="another-host", since=datetime.now(UTC)).model_dump_json())
    (folder / "progress.json").write_text(snapshot(tiny_plan).model_dump_json())
    status = watch.read_status(folder)
    assert (status.running, len(status.trials), status.counts.running) == (True, 1, 1)
    for name in (LOCK_FILE, "progress.json"):
        os.utime(folder / name, (0, 0))  # long ago
    assert not watch.read_status(folder).running


def test_one_process_at_a_time_has_a_sweep_and_looking_takes_it_from_nobody(tmp_path: Path) -> None:
    assert owner(tmp_path) is None
    with locked(tmp_path):
        assert str(owner(tmp_path)).startswith(f"process {os.getpid()} on {os.uname().nodename} since ")
        with pytest.raises(MachineError, match=f"is being run by process {os.getpid()}"), locked(tmp_path):
            pass
        running = owner(tmp_path)
        assert running is not None
        ask_to_stop(tmp_path, running)
        asker = asked_to_stop(tmp_path)
        assert asker == f"process {os.getpid()} on {os.uname().nodename}"
    assert owner(tmp_path) is None
    assert not (tmp_path / STOP_FILE).exists()
    with locked(tmp_path):  # a copy of the results may bring the request back
        ask_to_stop(tmp_path, running)
        assert asked_to_stop(tmp_path) is None, "a run would stop because an earlier one was asked to"


def held_by(folder: Path, pid: int, host: str = os.uname().nodename) -> None:
    """The folder with a lock file that names the process."""
    (folder / LOCK_FILE).write_text(Owner(pid=pid, host=host, since=datetime.now(UTC)).model_dump_json())


def a_dead_process() -> int:
    with subprocess.Popen(["true"]) as process:
        return process.pid


def test_a_driver_elsewhere_whose_lock_does_not_reach_here_is_not_joined_while_it_shows_signs_of_life(tmp_path: Path) -> None:
    held_by(tmp_path, 7, "another-host")
    before = (tmp_path / LOCK_FILE).read_bytes()
    refused = pytest.raises(MachineError, match="is being run by process 7 on another-host since")
    with repeating(0.2, lambda: (tmp_path / "progress.json").write_text("{}")), refused, locked(tmp_path):
        pass
    assert (tmp_path / LOCK_FILE).read_bytes() == before


def test_a_driver_elsewhere_that_shows_none_any_more_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SIGN_OF_LIFE_SECONDS", 1.0)
    held_by(tmp_path, 7, "another-host")
    said: list[str] = []
    with locked(tmp_path, said.append):
        assert str(owner(tmp_path)).startswith(f"process {os.getpid()} on {os.uname().nodename} ")
    assert "was last run by process 7 on another-host" in said[0]
    held_by(tmp_path, 7, "another-host")
    os.utime(tmp_path / LOCK_FILE, (0, 0))  # long ago
    with locked(tmp_path, pytest.fail):
        pass


def test_after_a_driver_here_was_killed_nobody_waits(tmp_path: Path) -> None:
    for pid in (a_dead_process(), os.getppid()):  # and where another process has got its number since
        held_by(tmp_path, pid)
        with locked(tmp_path, pytest.fail):
            assert str(owner(tmp_path)).startswith(f"process {os.getpid()} on {os.uname().nodename} ")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_on_a_disk_without_locks_the_file_tells_who_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    held_by(tmp_path, os.getppid())
    refused = pytest.raises(MachineError, match=rf"is being run by process {os.getppid()} on {os.uname().nodename} since")
    with repeating(0.2, lambda: (tmp_path / "progress.json").write_text("{}")), refused, locked(tmp_path):
        pass
    assert is_held_here(tmp_path)
    held_by(tmp_path, a_dead_process())
    assert not is_held_here(tmp_path)
    with locked(tmp_path):
        assert str(owner(tmp_path)).startswith(f"process {os.getpid()} on ")
    held_by(tmp_path, 7, "another-host")
    assert not is_held_here(tmp_path)


def test_logs_are_of_one_trial_by_its_id_or_its_variant_and_a_misspelt_one_is_refused(tiny_plan: Plan, tmp_path: Path) -> None:
    folder = planned(tiny_plan, tmp_path)
    first, second = tiny_plan.trials
    with pytest.raises(RecordError, match=r"has no sweep\.log"):
        list(watch.log_lines(folder, follow=False))
    lines = ["2026-01-01 00:00:00 2 trials", f"2026-01-01 00:00:01 [{first.id}] one", f"2026-01-01 00:00:02 [{second.id}] two"]
    (folder / "sweep.log").write_text("\n".join(lines) + "\n")
    assert list(watch.log_lines(folder, follow=True)) == lines  # nobody runs it, so it has ended
    assert list(watch.log_lines(folder, follow=False, trial=first.id)) == [lines[1]]
    assert list(watch.log_lines(folder, follow=False, trial=second.label)) == [lines[2]]
    with pytest.raises(RecordError, match="has no trial 'num_layer=1': did you mean num_layers="):
        list(watch.log_lines(folder, follow=False, trial="num_layer=1"))


def test_a_reader_who_has_seen_enough_gets_no_traceback(tiny_plan: Plan, tmp_path: Path) -> None:
    (planned(tiny_plan, tmp_path) / "sweep.log").write_text("a line\n" * 100_000)
    command = f"{sys.executable} -m archsweep logs tiny --results {tmp_path} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert (done.stdout, done.stderr) == ("a line\n", "")


def test_status_without_a_name_lists_every_sweep_and_one_that_cannot_be_read(
    tiny_plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned(tiny_plan, tmp_path)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "plan.json").write_text("{")
    first, second = listed(tmp_path, capsys)
    assert first == "tiny: not running, 0 of 2 trials finished, 2 to do"
    assert second.startswith("torn: cannot be read, ")
    whole, torn = (json.loads(line) for line in listed(tmp_path, capsys, "--json"))
    assert (whole["name"], whole["counts"]["to_do"]) == ("tiny", 2)
    assert (torn["name"], list(torn)) == ("torn", ["name", "error"])
    assert "plan.json must be JSON, and is not" in torn["error"]


def test_where_there_is_no_sweep_that_is_said_in_words_and_json_has_no_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(tmp_path, capsys) == [f"no sweeps in {tmp_path}"]
    assert listed(tmp_path, capsys, "--json") == []


def listed(results: Path, capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """What `status` without a name says of the results."""
    assert run("status", "--results", str(results), *words) == 0
    return capsys.readouterr().out.splitlines()
