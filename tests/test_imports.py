"""Imports without needless waiting leave the process as it was."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from archsweep.imports import import_meanwhile, importing

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_collector_rests_while_a_block_imports_and_works_again_whatever_happens_there() -> None:
    seen = []
    with suppress(ImportError), importing():
        seen.append(gc.isenabled())
        raise ImportError
    assert [*seen, gc.isenabled()] == [False, True]
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled(), "whoever had turned it off wants it off"
    finally:
        gc.enable()


def test_of_two_threads_that_import_at_once_the_last_leaves_the_collector_on() -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with importing():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(10)
    with importing():
        leave.set()
        thread.join()
    assert gc.isenabled()


def test_a_module_that_is_on_its_way_is_there_for_whoever_imports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(0.2)\nvalue = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    import_meanwhile("slow_to_import", "broken_module")  # the second is nobody's business until it is imported
    import slow_to_import  # type: ignore[import-not-found]

    assert slow_to_import.value == 7


def test_a_process_that_ends_quickly_writes_what_it_had_left_and_runs_its_exit_handlers(tmp_path: Path) -> None:
    script = f"""
import atexit
from archsweep.imports import end_quickly

atexit.register(lambda: print("handler"))
end_quickly()
file = open({str(tmp_path / "left.txt")!r}, "w")
file.write("left in the buffer")
print("end")
raise SystemExit(3)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "end\nhandler\n", "")
    assert (tmp_path / "left.txt").read_text() == "left in the buffer"
