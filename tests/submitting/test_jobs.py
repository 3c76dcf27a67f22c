"""What a head is asked to run, and what becomes of a job."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from archsweep.errors import ConfigError
from archsweep.submitting.jobs import Job, Status, check_results, sweep_request

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "words",
    [
        ("heads_vs_layers",),
        ("my space.py", "--set", "dataset=text:a b/*.txt"),
        ("a.py", "--set", "x=$(touch made);`touch made`&& touch made | 'y' \"z\" \\ \n"),
    ],
)
def test_the_shell_on_the_cluster_reads_the_words_as_they_were_given(words: tuple[str, ...], tmp_path: Path) -> None:
    request = sweep_request(words, "name", "/shared/my results", is_open=False)
    shown = request.entrypoint.replace("python -m archsweep", "printf '%s\\0'", 1)
    read = subprocess.run(shown, shell=True, capture_output=True, text=True, cwd=tmp_path, check=True).stdout.split("\0")
    assert read[:-1] == [*words, "--address", "auto", "--results", "/shared/my results", "-y"]
    assert list(tmp_path.iterdir()) == []


def test_a_home_is_the_heads(tmp_path: Path) -> None:
    request = sweep_request(("a",), "a", "~/my results/x", is_open=False)
    shown = request.entrypoint.replace("python -m archsweep", "printf '%s\\n'", 1)
    read = subprocess.run(shown, shell=True, capture_output=True, text=True, env={"HOME": "/home/of head"}, check=True).stdout.splitlines()
    assert "/home/of head/my results/x" in read


@pytest.mark.parametrize("results", ["results", "./results", "../x", "~other/x", ""])
def test_results_of_a_submitted_sweep_are_a_place_on_the_cluster(results: str) -> None:
    with pytest.raises(ConfigError, match="is a place on the cluster"):
        check_results(results)


@pytest.mark.parametrize("results", ["/shared", "~/x", "s3://bucket/folder", "gs://bucket", "file:///shared"])
def test_a_path_from_the_root_or_the_home_and_a_uri_are_places(results: str) -> None:
    check_results(results)


def test_a_stores_password_is_not_sent_nor_said() -> None:
    with pytest.raises(ConfigError, match="without a password") as refused:
        check_results("s3://key:canary@bucket/folder")
    assert "canary" not in str(refused.value)


def test_a_job_has_time_to_save_itself_and_nothing_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary")
    request = sweep_request(("a",), "a", "s3://bucket/folder", is_open=False)
    assert dict(request.variables) == {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "120", "PYTHONUNBUFFERED": "1"}
    assert request.metadata["sweep"] == "a"
    assert set(request.metadata) == {"archsweep", "sweep", "results"}


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [("SUCCEEDED", 0, 0), ("SUCCEEDED", None, 0), ("FAILED", 3, 3), ("FAILED", -9, 137), ("FAILED", None, 1), ("STOPPED", None, 130)],
)
def test_a_jobs_exit_code_is_its_drivers_or_one_where_that_is_not_known(status: Status, code: int | None, expected: int) -> None:
    assert Job(submission_id="a", status=status, driver_exit_code=code).exit_code == expected
