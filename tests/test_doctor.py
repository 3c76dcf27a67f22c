"""The doctor's lines: what is amiss has a way out, what is merely absent is no fault."""

from __future__ import annotations

import os
import re
import socket
import threading
from pathlib import Path

import pytest

from archsweep import cli, doctor


def examine(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", *words])
    return int(ended.value.code or 0)


@pytest.fixture
def no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of one's own, with no Ray token yet; returns where it would be."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    return tmp_path / ".ray" / "auth_token"


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub at a port of this machine where nothing listens."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")


def closed_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


@pytest.mark.usefixtures("no_hub", "no_token")
def test_a_machine_without_hub_and_gpu_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert examine("--results", str(tmp_path), "--cache", str(tmp_path)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    said = "\n".join(lines)
    for part in ("Python 3.", "torch 2.", "ray 2.", "transformers 5.", "processors", "GB free", "the hub does not answer"):
        assert part in said


@pytest.mark.usefixtures("no_hub")
def test_a_token_that_others_can_read_is_a_fault_with_its_way_out(
    no_token: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    no_token.parent.mkdir()
    no_token.write_text("secret")
    no_token.chmod(0o644)
    assert examine("--results", str(tmp_path), "--cache", str(tmp_path)) == 3
    said = capsys.readouterr().out
    assert f"!  {no_token} lets others read Ray's token (mode 0644). Close it: chmod 600 {no_token}" in said
    assert "secret" not in said
    no_token.chmod(0o600)
    assert doctor._token_file(no_token).ok


@pytest.mark.usefixtures("no_hub", "no_token")
def test_a_cluster_that_does_not_answer_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address = f"127.0.0.1:{closed_port()}"
    assert examine("--results", str(tmp_path), "--cache", str(tmp_path), "--address", address) == 3
    assert f"!  nothing answers at {address}" in capsys.readouterr().out


def test_results_that_are_a_file_are_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a_file").write_text("")
    found = doctor._disk("results", tmp_path / "a_file" / "deeper")
    assert not found.ok
    assert "Give another place with --results." in found.what


def test_a_version_below_the_floor_is_a_fault_that_names_the_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "torch-2.5.1.dist-info"  # found before the real one's
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.5.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    good, *bad = doctor._versions()
    assert good.ok
    assert "ray 2." in good.what
    assert "torch" not in good.what
    assert [finding.what for finding in bad] == ["torch must be >=2.6, and is 2.5.1. Install it: pip install 'torch>=2.6'."]


def test_the_mps_daemon_is_known_by_its_pipe(tmp_path: Path) -> None:
    assert "no MPS daemon" in doctor._sharing(tmp_path)
    (tmp_path / "control").write_text("")
    assert "side by side" in doctor._sharing(tmp_path)


@pytest.mark.parametrize("address", ["hf-mirror.com", "hf-mirror.com:443", "https://hf-mirror.com:port", "http://[::1"])
def test_an_address_that_no_hub_can_have_is_a_fault_with_its_way_out(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", address)
    found = doctor._hub()
    assert not found.ok
    assert found.what == f"HF_ENDPOINT must be a hub's address, as https://huggingface.co, got {address}. Set it to one, or unset it."


def test_what_answers_in_another_language_is_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as door:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{door.getsockname()[1]}")
        threading.Thread(target=answer, args=(door, b"SSH-2.0-OpenSSH_9.6\r\n")).start()
        found = doctor._hub()
    assert found.ok
    assert "the hub does not answer (SSH-2.0-OpenSSH_9.6" in found.what


def answer(door: socket.socket, what: bytes) -> None:
    visitor, _ = door.accept()
    with visitor:
        visitor.recv(4096)
        visitor.sendall(what)


def test_where_the_system_does_not_say_how_much_memory_is_free_that_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS, which has no /proc and no such name."""
    known = os.sysconf

    def sysconf(name: str) -> int:
        if name == "SC_AVPHYS_PAGES":
            raise ValueError("unrecognized configuration name")
        return known(name)

    monkeypatch.setattr(os, "sysconf", sysconf)
    monkeypatch.setattr(doctor, "MEMORY_FILE", Path("/nowhere/meminfo"))
    found = doctor._processors()
    assert found.ok
    assert re.fullmatch(r"\d+ processors, [\d.]+ GB of memory", found.what)
