"""docs/first_question.md does what it says: its blocks run in their order, in an empty folder, and print what the page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.command_line.command import REPOSITORY

PAGE = REPOSITORY / "docs" / "first_question.md"


class Block(NamedTuple):
    """A fenced block. `console` is run by bash; `python` is a file if its first line names one, and is run if not; `text` is expected."""

    language: str
    text: str


def blocks(page: str) -> list[Block]:
    return [Block(*found) for found in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", page)]


def do(block: Block, folder: Path) -> str:
    """What the block prints. Fails where it fails."""
    if block.language == "python":
        first, _, rest = block.text.partition("\n")
        if named := re.fullmatch(r"# (\w+\.py)", first):
            (folder / named[1]).write_text(rest)
            return ""
    program = {"console": ["bash", "-e"], "python": [sys.executable]}[block.language]
    here = Path(sys.executable).parent
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PATH": f"{here}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([*program, "-c", block.text], capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def missing(expected: str, said: str) -> str | None:
    """The first line of `expected` that `said` does not have after those before it; `...` stands for anything, any spaces for others."""
    lines = iter([" ".join(line.split()) for line in said.splitlines()])
    for wanted in expected.splitlines():
        if wanted.strip() == "...":
            continue
        pattern = ".*".join(re.escape(" ".join(part.split())) for part in wanted.split("..."))
        if not any(re.fullmatch(pattern, line) for line in lines):
            return wanted
    return None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page_runs_and_prints_what_it_shows(tmp_path: Path) -> None:
    set_up, *rest = blocks(PAGE.read_text(encoding="utf-8"))
    assert "make .venv/.ready" in set_up.text, "the first block sets up, which whoever runs the tests has done"
    said = ""
    for block in rest:
        if block.language == "text":
            assert missing(block.text, said) is None, said
        else:
            said = do(block, tmp_path)
    assert (tmp_path / "results" / "ffn_width" / "report.html").is_file()


def test_the_page_asks_what_it_shows_and_checks_every_answer() -> None:
    languages = [block.language for block in blocks(PAGE.read_text(encoding="utf-8"))]
    assert set(languages) == {"console", "python", "text"}
    assert languages[0] == "console"
    assert all(before != "text" for before, language in pairwise(languages) if language == "text")
    assert PAGE.read_text(encoding="utf-8").count("```") == 2 * len(languages), "a block that is not closed, or not at the line's beginning"


@pytest.mark.parametrize(
    ("expected", "fault"),
    [
        ("one\n...\nthree 3", None),
        ("one\nthree 3", None),
        ("three ... 4", None),
        ("...ne", None),
        ("on", "on"),
        ("three 3\none", "one"),
        ("one\none", "one"),
        ("three 3 5", "three 3 5"),
    ],
)
def test_what_is_shown_must_be_said_in_its_order(expected: str, fault: str | None) -> None:
    assert missing(expected, "one\n two\nthree   3\nthree 3.5  4\n") == fault


def test_blocks_come_in_their_order_and_a_named_one_becomes_a_file(tmp_path: Path) -> None:
    page = "a\n```python\n# mine.py\nprint(1 + 1)\n```\nb\n```console\npython mine.py\nfalse || echo said\n```\n```text\n2\n```\n"
    file, command, text = blocks(page)
    assert do(file, tmp_path) == ""
    assert (tmp_path / "mine.py").read_text() == "print(1 + 1)\n"
    assert do(command, tmp_path) == "2\nsaid\n"
    assert missing(text.text, "2\nsaid\n") is None
    assert do(Block("python", "print(2 + 3)\n"), tmp_path) == "5\n"


def test_a_command_that_fails_is_a_fault_of_the_page(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="heads_vs_layer"):
        do(Block("console", "python -m archsweep plan heads_vs_layer\ntrue\n"), tmp_path)
