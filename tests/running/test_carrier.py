"""What a trial on a machine without the sweep's disk keeps on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from archsweep.errors import MachineError
from archsweep.running.carrier import Keeper
from archsweep.running.recorder import Place
from archsweep.running.worker import Storage

if TYPE_CHECKING:
    from pathlib import Path

EARLIER = {"checkpoint/3.json": b"3", "checkpoint/3.safetensors": b"three"}
LATER = {"checkpoint/5.json": b"5", "checkpoint/5.safetensors": b"five"}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    (tmp_path / "sweep" / "trials").mkdir(parents=True)
    return tmp_path / "sweep"


@pytest.fixture
def keeper(sweep: Path) -> Keeper:
    return Keeper(Place(sweep), Storage(None, 60.0, "best"))


def test_what_is_kept_takes_the_place_of_what_was_and_nothing_else_is_touched(keeper: Keeper, sweep: Path) -> None:
    keeper.keep("one", EARLIER, set(EARLIER))
    (sweep / "trials" / "one" / "records.jsonl").write_text("the driver's")
    keeper.keep("one", LATER, set(LATER))
    assert keeper.kept("one") == LATER
    keeper.keep("one", {}, set(LATER))  # nothing has changed
    assert keeper.kept("one") == LATER
    assert (sweep / "trials" / "one" / "records.jsonl").read_text() == "the driver's"
    assert keeper.kept("two") == {}


@pytest.mark.parametrize("replaced", [False, True])
def test_a_sweeps_folder_that_has_gone_is_not_made_anew(keeper: Keeper, sweep: Path, replaced: bool) -> None:
    keeper.keep("one", EARLIER, set(EARLIER))
    sweep.rename(sweep.with_name("elsewhere"))
    if replaced:
        sweep.mkdir()
    with pytest.raises(MachineError):
        keeper.keep("one", LATER, set(LATER))
    with pytest.raises(MachineError):  # nothing kept would mean: begin again
        keeper.kept("one")
    assert list(sweep.parent.glob("sweep/**/*")) == []
    assert sweep.exists() == replaced
