"""The command line as the tests call it, and a sweep that takes it seconds."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import archsweep
from archsweep import cli

if TYPE_CHECKING:
    from collections.abc import Sequence

CTRL_D = "\x04"
REPOSITORY = Path(archsweep.__file__).parent.parent

TINY_SPACE = '''"""One layer or two?"""
from archsweep.config import ExperimentConfig
from archsweep.space import Choice, Space

base = ExperimentConfig(num_layers=1, num_heads=2, head_dim=8, context_length=16, batch_size=4, max_tokens={tokens}, eval_tokens=256,
                        num_evaluations=2, vocab_size=300, dataset="text:{text}")
space = Space(base=base, compare={{"num_layers": Choice(1, 2)}}, tune={{"learning_rate": Choice(1e-3, 3e-3, 9e-3)}}, repeat=2)
'''


def run(*words: str) -> int:
    """What `python -m archsweep WORDS` ends with."""
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    return int(ended.value.code or 0)


def at_a_terminal(words: Sequence[str], answer: str, folder: Path) -> tuple[int, str]:
    """The exit code and the output of a command that is run in `folder`, at a terminal that answers with the keys of `answer`."""
    terminal, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, "-m", "archsweep", *words], stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment
    )
    os.close(theirs)
    said = ""
    with suppress(OSError):  # how Linux says that the other side is closed
        while part := os.read(terminal, 4096).decode(errors="replace"):
            said += part
            if part.rstrip().endswith("[y/N]"):
                os.write(terminal, answer.encode())
    os.close(terminal)
    return process.wait(timeout=60), said
