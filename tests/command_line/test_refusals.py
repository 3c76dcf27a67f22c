"""Bad input, failed trials and bad folders: a sentence with the way out, and an exit code that says which."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.command_line.command import run

if TYPE_CHECKING:
    from pathlib import Path


def test_a_sweep_in_which_a_trial_failed_ends_with_1_and_reports_the_reason(
    space_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = 'metrics=["os:strerror"]'  # which takes no model
    assert run(str(space_file), "--serial", "--set", broken, "--results", str(tmp_path)) == 1
    reason = "TypeError: posix.strerror() takes exactly one argument (2 given)"  # Python's own
    assert f"failed, {reason}" in capsys.readouterr().out
    assert reason in (tmp_path / "one_or_two" / "report.md").read_text()


def test_other_settings_in_the_same_folder_are_refused_and_a_name_is_the_way_out(
    space_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = ("--serial", "--results", str(tmp_path / "results"))
    assert run(str(space_file), *results) == 0
    assert run(str(space_file), "--set", "repeat=3", *results) == 2
    assert "holds another plan" in capsys.readouterr().err
    assert run(str(space_file), "--set", "repeat=3", "--name", "three_seeds", *results) == 0


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["heads_vs_layer"], 2, "heads_vs_layer is not a shipped search space: did you mean heads_vs_layers"),
        (["heads_vs_layers", "--set", "weight_decy=0"], 2, "weight_decy is not a field of ExperimentConfig: did you mean weight_decay"),
        (["heads_vs_layers", "--set", "repeat"], 2, "--set takes FIELD=VALUE, got 'repeat'"),
        (["../x"], 2, "must be a shipped name"),
        (["heads_vs_layers", "--name", "../x"], 2, "it names a folder, got '../x'"),
        (["report", "../x"], 2, "got '../x'"),
        (["report", "nothing_here"], 2, "must be a sweep's folder"),
        (["heads_vs_layers", "--set", "dataset=text:/no/such/file.txt", "--serial"], 2, "/no/such/file.txt"),
        (["heads_vs_layers", "--base", "tinny"], 2, "tinny"),
        (["heads_vs_layers", "--num-cpu", "2"], 2, "--num-cpu"),
        (["heads_vs_layers", "--serial", "--address", "127.0.0.1:6379"], 2, "each say where trials run. Give one of them"),
        (["plan", "heads_vs_layers", "--num-cpus", "2", "--address", "auto"], 2, "--address names one that runs. Leave them out"),
        (["plan", "heads_vs_layers", "--num-cpus", "0"], 2, "--num-cpus must be at least 1, got 0. Leave it out"),
        (["plan", "heads_vs_layers", "--num-gpus", "-1"], 2, "--num-gpus must be at least 0, got -1. Leave it out"),
        (["heads_vs_layers", "--dry-run", "--checkpoint-seconds", "nan"], 2, "must be a time of at least 0 seconds, got nan"),
        (["submit", "heads_vs_layers", "--address", "http://127.0.0.1:1", "--checkpoint-seconds", "-1"], 2, "0 seconds, got -1.0"),
        (["plan", "heads_vs_layers", "--set", "device=cuda:63"], 3, "device cuda:63 is not there: torch sees"),
        (["plan", "heads_vs_layers", "--address", "[::1]:1"], 3, "nothing answers at [::1]:1 ("),
        (["heads_vs_layers", "--json"], 2, "it goes with --dry-run or the command plan"),
        (["plan", "heads_vs_layers", "--detect", "much"], 2, "--detect takes a difference in nats/token, as 0.02"),
        (["plan", "heads_vs_layers", "--price-per-gpu-hour", "-1"], 2, "must be an amount of money, at least 0, got -1.0"),
        (["train", "/no/such/config.json"], 2, "/no/such/config.json must be a config in JSON"),
        ([], 2, "heads_vs_layers"),
    ],
)  # fmt: skip
def test_bad_input_gets_a_sentence_with_the_value_and_the_way_out(
    words: list[str], code: int, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*words) == code
    said = capsys.readouterr().err
    assert expected in said
    assert "Traceback" not in said
    assert not list(tmp_path.rglob("trials")), "something was trained"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("num_heads=3, head_dim=None, hidden_size=16", "hidden_size must be divisible by num_heads, got 16 and 3"),
        ("num_laiers=2", "num_laiers is not a field of ExperimentConfig: did you mean num_layers"),
    ],
)
def test_a_space_with_an_impossible_base_is_refused_with_its_line(
    change: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = change.replace("head_dim=None, ", "")
    text = f'"""Which?"""\nfrom archsweep.config import ExperimentConfig\nbase = ExperimentConfig({changes})\n'
    (tmp_path / "impossible.py").write_text(text)
    assert run("plan", str(tmp_path / "impossible.py")) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'impossible.py'}, line 3" in said
    assert expected in said


def test_a_budget_that_no_variant_can_meet_is_refused_with_the_nearest_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "too_small.py").write_text(
        '"""Which?"""\nfrom archsweep.space import Budget, Choice, Space\nfrom search_spaces.bases import TINY\n'
        'space = Space(TINY, {"num_layers": Choice(4, 8)}, Budget("non_embedding_parameters", 100))\n'
    )
    assert run("plan", str(tmp_path / "too_small.py")) == 2
    said = capsys.readouterr().err
    assert "none of the 2 variants can be trained" in said
    assert "num_layers=8" in said


def test_a_results_folder_that_cannot_be_written_ends_with_3(space_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a_file").write_text("")
    assert run(str(space_file), "--results", str(tmp_path / "a_file")) == 3
    said = capsys.readouterr().err
    assert "must be writable" in said
    assert "--results" in said
