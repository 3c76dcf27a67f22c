"""The command `new`: a search space to begin with, that runs as it is and costs nobody a file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from archsweep import pipeline
from archsweep.pipeline import Question
from tests.command_line.command import REPOSITORY, run

ROLES = ("base=", "compare=", "budget=", "tune=", "repeat=")
FURTHER = ("derive=", "constrain=", "method=Optuna(", "reference=", "margin=", "early_stopping=")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["my_question", "my_question.py"])
def test_a_new_question_is_one_file_here_and_two_commands(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("new", name) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["my_question.py"]
    commands = [line.partition("#")[0].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("python")]
    assert commands == ["python -m archsweep my_question.py --smoke", "python -m archsweep my_question.py"]


def test_its_first_line_is_the_question_and_each_role_is_explained_above_it() -> None:
    assert run("new", "my_question") == 0
    text = Path("my_question.py").read_text()
    assert text.startswith('"""')
    assert text.split("\n")[0].endswith('?"""')
    lines = [line.strip() for line in text.splitlines()]
    for role in ROLES:
        (place,) = (number for number, line in enumerate(lines) if line.startswith(role))
        assert lines[place - 1].startswith("#"), role
    comments = [line for line in lines if line.startswith("#")]
    assert all(any(word in line for line in comments) for word in FURTHER)
    assert len(lines) <= 45
    assert max(map(len, text.splitlines())) <= 140


def test_it_plans_as_it_is_a_few_variants_of_one_size() -> None:
    assert run("new", "my_question") == 0
    plan = pipeline.plan(Question("my_question.py"))
    assert plan.question == "One layer, two or three? At one parameter budget, how deep should a small GPT-2 be?"
    assert sorted(trial.label for trial in plan.trials) == ["num_layers=1", "num_layers=2", "num_layers=3"]
    assert not plan.refused
    assert sum(len(trial.replicas) for trial in plan.trials) <= 48, "some two minutes on 2 cores"
    assert all(abs(trial.cost.non_embedding_parameters - 50_000) <= 500 for trial in plan.trials)


@pytest.mark.slow
def test_it_trains_as_it_is_to_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("new", "my_question") == 0
    assert run("my_question.py", "--smoke", "--serial") == 0
    said = capsys.readouterr().out
    assert "One layer, two or three?" in said
    assert said.rstrip().endswith(str(Path("results/my_question-smoke/report.html")))


def test_a_file_that_is_there_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    Path("my_question.py").write_text("mine")
    assert run("new", "my_question") == 2
    assert Path("my_question.py").read_text() == "mine"
    said = capsys.readouterr().err
    assert "my_question.py must not exist yet" in said
    assert "Give another name" in said


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../mine", "got '../mine'"),
        ("a/b", "got 'a/b'"),
        ("", "got ''"),
        (".py", "got '.py'"),
        ("_mine", "begin with a letter or digit"),
        ("x" * 65, "1 to 64 letters"),
        ("two words", "got 'two words'"),
        ("heads_vs_layers", "heads_vs_layers is a shipped question"),
        ("random", "random is a Python module"),
        ("torch.py", "torch is a Python module"),
    ],
)
def test_a_name_that_would_do_harm_is_refused_with_the_way_out(
    name: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("new", name) == 2
    assert expected in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_same_name_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert run("new", "mine") == 0
    assert Path("mine.py").is_file()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root can write to")
def test_a_folder_that_cannot_be_written_ends_with_3(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir("/proc")
    assert run("new", "my_question") == 3
    said = capsys.readouterr().err
    assert "/proc must be writable" in said
    assert "Go to a folder of your own" in said


def test_it_is_written_without_importing_anything_heavy(tmp_path: Path) -> None:
    script = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('HEAVY', sorted({'torch', 'ray', 'pandas', 'transformers', 'optuna'} & set(sys.modules))))\n"
        "from archsweep.cli import main\n"
        "main(['new', 'my_question'])"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=True)
    assert "HEAVY []" in done.stdout
    assert (tmp_path / "my_question.py").is_file()
