"""A space of two tiny variants, as a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.command_line.command import TINY_SPACE

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def space_file(tmp_path: Path, tiny_text: Path) -> Path:
    path = tmp_path / "one_or_two.py"
    path.write_text(TINY_SPACE.format(tokens=384, text=tiny_text))
    return path
