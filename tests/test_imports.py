"""Imports without needless waiting leave the process as it was."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

import pytest

from archsweep.imports import import_alone, import_meanwhile, without_collector

if TYPE_CHECKING:
    from pathlib import Path


def test_the_collector_rests_while_a_block_imports_and_works_again_whatever_happens_there() -> None:
    seen = []
    with suppress(ImportError), without_collector():
        seen.append(gc.isenabled())
        raise ImportError
    assert [*seen, gc.isenabled()] == [False, True]
    gc.disable()
    try:
        with without_collector():
            pass
        assert not gc.isenabled(), "whoever had turned it off wants it off"
    finally:
        gc.enable()


@pytest.mark.parametrize("first_to_leave", ["the first", "the second"])
def test_of_two_blocks_at_once_the_last_to_end_turns_the_collector_on(first_to_leave: str) -> None:
    first, second = without_collector(), without_collector()
    for block in (first, second):
        block.__enter__()
    order = (first, second) if first_to_leave == "the first" else (second, first)
    order[0].__exit__(None, None, None)
    assert not gc.isenabled()
    order[1].__exit__(None, None, None)
    assert gc.isenabled()


def test_modules_are_imported_by_themselves_and_a_broken_one_is_nobodys_business(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a_sound_module.py").write_text("value = 7\n")
    (tmp_path / "a_broken_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(threading.enumerate())
    import_meanwhile("a_sound_module", "a_broken_module")
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
    assert sys.modules["a_sound_module"].value == 7  # type: ignore[attr-defined]
    assert "a_broken_module" not in sys.modules
    assert capfd.readouterr().err == ""
    assert gc.isenabled()


def test_a_module_is_imported_without_its_packages_own_imports_which_come_with_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_heavy_package").mkdir()
    (tmp_path / "a_heavy_package" / "__init__.py").write_text("from .light import value\nis_whole = True\n")
    (tmp_path / "a_heavy_package" / "light.py").write_text("from .lighter import value\n")
    (tmp_path / "a_heavy_package" / "lighter.py").write_text("value = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    light = import_alone("a_heavy_package.light")
    assert light.value == 7
    assert "a_heavy_package" not in sys.modules
    assert import_alone("a_heavy_package.light") is light
    whole = import_module("a_heavy_package")
    assert whole.is_whole
    assert sys.modules["a_heavy_package.light"] is light
    assert import_alone("a_heavy_package.lighter").value == 7
    assert sys.modules["a_heavy_package"] is whole


@pytest.mark.parametrize("name", ["no_such_package.part", "json.no_such_part", "math.part"])
def test_what_is_not_there_alone_is_missing_as_ever(name: str) -> None:
    with pytest.raises(ModuleNotFoundError, match=name.partition(".")[0]):
        import_alone(name)


def test_a_process_that_ends_quickly_writes_what_it_had_left_and_runs_its_exit_handlers(tmp_path: Path) -> None:
    script = f"""
import atexit
import gc
from archsweep.imports import end_quickly

atexit.register(lambda: print("handler", gc.get_freeze_count() > 0))
end_quickly()
file = open({str(tmp_path / "left.txt")!r}, "w")
file.write("left in the buffer")
print("end")
raise SystemExit(3)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "end\nhandler True\n", "")
    assert (tmp_path / "left.txt").read_text() == "left in the buffer"
