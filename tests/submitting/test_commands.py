"""What the commands refuse, and that nothing has left this machine by then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.command_line.command import TINY_SPACE, run
from tests.submitting.dashboard import TOKEN, Dashboard, served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def dashboard(tmp_path: Path, tiny_text: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dashboard]:
    """A locked head, for a project with a search space of its own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "question.py").write_text(TINY_SPACE.format(tokens=384, text=tiny_text))
    with served(Dashboard()) as dashboard:
        yield dashboard


def test_a_mistake_in_the_space_is_a_sentence_here_and_no_head_is_asked(dashboard: Dashboard, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (("question.py", "--set", "num_laiers=3"), "num_laiers is not a field"),
        (("gone.py",), "must be an existing file"),
        (("heads_vs_laiers",), "did you mean heads_vs_layers"),
        (("question.py", "--results", "results"), "is a place on the cluster"),
        (("question.py", "--name", "../x"), "it names a folder, got '../x'"),
    ):
        assert run("submit", *words, "--address", dashboard.url) == 2
        assert message in capsys.readouterr().err
    assert dashboard.asked == []


def test_what_a_head_must_be_is_said_with_the_plan_and_nothing_is_sent(dashboard: Dashboard, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("submit", "question.py", "--address", "http://head.example:8265") == 3
    said = capsys.readouterr()
    assert "2 trials, 12 replicas" in said.out
    assert "ssh -L 8265:127.0.0.1:8265 head.example" in said.err
    assert run("submit", "question.py", "--address", "127.0.0.1:8265") == 2
    dashboard.ray = "2.40.0"
    assert run("submit", "question.py", "--address", dashboard.url) == 3
    assert "runs Ray 2.40.0" in capsys.readouterr().err
    dashboard.locked = False
    for words in (("submit", "question.py"), ("jobs",), ("status", "a"), ("logs", "a"), ("stop", "a"), ("fetch", "a")):
        assert run(*words, "--address", dashboard.url) == 3
        assert "answers without a token" in capsys.readouterr().err
    assert {method for method, _, _ in dashboard.asked} == {"GET"}


def test_a_space_outside_of_the_folder_and_a_package_with_the_token_are_not_sent(
    dashboard: Dashboard, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.md").write_text(f"token: {TOKEN}")
    assert run("submit", "question.py", "--address", dashboard.url) == 2
    said = capsys.readouterr()
    assert "notes.md holds the cluster's token" in said.err
    assert TOKEN not in said.out + said.err
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    assert run("submit", "../question.py", "--address", dashboard.url) == 2
    assert "must lie in the folder that is sent" in capsys.readouterr().err
    assert {method for method, _, _ in dashboard.asked} == {"GET"}


def test_a_sweep_that_was_not_submitted_is_not_there(dashboard: Dashboard, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("jobs", "--address", dashboard.url) == 0
    assert f"no sweep was submitted to {dashboard.url}" in capsys.readouterr().out
    assert run("status", "--json", "--address", dashboard.url) == 0
    assert capsys.readouterr().out == ""
    for command in ("status", "logs", "stop", "fetch"):
        assert run(command, "gone", "--address", dashboard.url) == 2
        assert "knows no job of a sweep 'gone'" in capsys.readouterr().err
