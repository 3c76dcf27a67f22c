"""Results in a store: a folder and its copy come to the same state whatever happened on either side, and nothing leaves the folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow.fs import FileSystem

from archsweep.errors import ConfigError, MachineError
from archsweep.records import remote

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("plan.json", "sweep.log", "trials/a/records.jsonl", "trials/a/results.json", "trials/b/checkpoint/000001.safetensors")
EDITS = st.lists(st.tuples(st.sampled_from(NAMES), st.one_of(st.none(), st.binary(max_size=40))), max_size=8)


def machine(home: Path, uri: str) -> Path:
    """A sweep's folder on a machine of its own."""
    return remote.local_root(uri, home) / "sweep"


def tree(folder: Path) -> dict[str, bytes]:
    """The files in the folder, without what says which are the same on both sides."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != remote.SYNCED_FILE]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def edit(folder: Path, name: str, content: bytes | None, at: list[int]) -> None:
    """Write the file, or remove it. Each edit has a time of its own, a second after the one before, as on a slow disk."""
    path = folder / name
    if content is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    at[0] += 10**9
    os.utime(path, ns=(at[0], at[0]))


@given(first=EDITS, second=EDITS, third=EDITS)
@settings(deadline=None, max_examples=40)
def test_two_machines_that_take_turns_see_the_same_files(
    tmp_path_factory: pytest.TempPathFactory, first: list[tuple[str, bytes | None]], second: list[tuple[str, bytes | None]],
    third: list[tuple[str, bytes | None]],
) -> None:  # fmt: skip
    home, at = tmp_path_factory.mktemp("store"), [1_700_000_000 * 10**9]
    uri = (home / "store").as_uri()
    one, two = machine(home / "one", uri), machine(home / "two", uri)
    for turn, (folder, edits) in enumerate([(one, first), (two, second), (one, third)]):
        remote.pull(folder)
        before = tree(folder)
        for name, content in edits:
            edit(folder, name, content, at)
            before = {**before, name: content} if content is not None else {key: kept for key, kept in before.items() if key != name}
        remote.push(folder, removes=True)
        assert tree(folder) == before, turn
        assert tree(Path(home / "store" / "sweep")) == before
    remote.pull(two)
    assert tree(two) == tree(one)


def test_what_was_written_after_the_last_push_is_not_overwritten(tmp_path: Path) -> None:
    folder = machine(tmp_path, (tmp_path / "store").as_uri())
    edit(folder, "trials/a/records.jsonl", b"1\n", at := [1_700_000_000 * 10**9])
    remote.push(folder)
    edit(folder, "trials/a/records.jsonl", b"1\n2\n", at)  # and the driver was killed
    remote.pull(folder)
    assert (folder / "trials/a/records.jsonl").read_bytes() == b"1\n2\n"
    remote.push(folder)
    assert (tmp_path / "store/sweep/trials/a/records.jsonl").read_bytes() == b"1\n2\n"


def test_rows_that_a_cut_push_did_not_note_are_not_overwritten(tmp_path: Path) -> None:
    """The copy has row 1, and nobody noted that; the run has written two more since: its machine was cut off in the middle of a push."""
    folder = machine(tmp_path, (tmp_path / "store").as_uri())
    edit(folder, "trials/a/records.jsonl", b"1\n", at := [1_700_000_000 * 10**9])
    remote.push(folder)
    (folder / remote.SYNCED_FILE).unlink()
    edit(folder, "trials/a/records.jsonl", b"1\n2\n3\n", at)
    edit(folder, "trials/a/results.json", b"{}", at)
    remote.pull(folder)
    assert (folder / "trials/a/records.jsonl").read_bytes() == b"1\n2\n3\n"
    remote.push(folder)
    assert tree(tmp_path / "store/sweep") == tree(folder)


def test_rows_that_another_machine_has_added_are_brought_though_ours_were_never_noted(tmp_path: Path) -> None:
    uri, at = (tmp_path / "store").as_uri(), [1_700_000_000 * 10**9]
    one, two = machine(tmp_path / "one", uri), machine(tmp_path / "two", uri)
    edit(one, "trials/a/records.jsonl", b"1\n", at)
    remote.push(one)
    (one / remote.SYNCED_FILE).unlink()
    remote.pull(two)
    edit(two, "trials/a/records.jsonl", b"1\n2\n", at)
    remote.push(two)
    remote.pull(one)
    assert (one / "trials/a/records.jsonl").read_bytes() == b"1\n2\n"


@given(rows=st.lists(st.binary(min_size=1, max_size=5), max_size=6), noted=st.booleans(), pushed=st.integers(0, 6))
@settings(deadline=None, max_examples=40)
def test_whatever_was_pushed_and_noted_no_row_is_lost(
    tmp_path_factory: pytest.TempPathFactory, rows: list[bytes], noted: bool, pushed: int
) -> None:
    home, at = tmp_path_factory.mktemp("store"), [1_700_000_000 * 10**9]
    folder = machine(home / "here", (home / "store").as_uri())
    edit(folder, "trials/a/records.jsonl", b"".join(rows[:pushed]), at)
    remote.push(folder)
    if not noted:
        (folder / remote.SYNCED_FILE).unlink()
    edit(folder, "trials/a/records.jsonl", b"".join(rows), at)
    remote.pull(folder)
    assert (folder / "trials/a/records.jsonl").read_bytes() == b"".join(rows)


def test_what_is_only_missing_here_stays_in_the_store(tmp_path: Path) -> None:
    uri, at = (tmp_path / "store").as_uri(), [1_700_000_000 * 10**9]
    folder = machine(tmp_path / "here", uri)
    for name in ("plan.json", "trials/a/model/model.safetensors"):
        edit(folder, name, b"x", at)
    remote.push(folder)
    edit(folder, "trials/a/model/model.safetensors", None, at)  # somebody has made room in the cache
    remote.pull(folder, large=False)
    remote.push(folder)
    assert set(tree(tmp_path / "store/sweep")) == {"plan.json", "trials/a/model/model.safetensors"}


def test_a_removal_that_was_cut_short_does_not_stop_later_pushes(tmp_path: Path) -> None:
    folder = machine(tmp_path, (tmp_path / "store").as_uri())
    for name in NAMES:
        edit(folder, name, b"x", at := [1_700_000_000 * 10**9])
    remote.push(folder)
    edit(folder, NAMES[-1], None, at)
    (tmp_path / "store/sweep" / NAMES[-1]).unlink()  # and the machine was cut off
    edit(folder, "plan.json", b"new", at)
    remote.push(folder, removes=True)
    assert tree(tmp_path / "store/sweep") == tree(folder)


def test_a_lock_comes_first_and_its_release_after_all_that_the_run_has_left() -> None:
    files = {"trials/a/results.json": [9, 2], "trials/a/records.jsonl": [9, 2], "plan.json": [9, 2]}
    running, ended = (
        sorted(stamps, key=lambda name: remote._turn(name, stamps[name]))
        for stamps in (files | {".lock": [9, 80]}, files | {".lock": [9, 0]})
    )
    assert running == [".lock", "plan.json", "trials/a/records.jsonl", "trials/a/results.json"]
    assert ended == ["plan.json", "trials/a/records.jsonl", "trials/a/results.json", ".lock"]


def test_a_log_that_is_followed_grows_under_its_reader(tmp_path: Path) -> None:
    uri, at = (tmp_path / "store").as_uri(), [1_700_000_000 * 10**9]
    driver, reader = machine(tmp_path / "driver", uri), machine(tmp_path / "reader", uri)
    edit(driver, "sweep.log", b"begun\n", at)
    remote.push(driver)
    remote.pull(reader)
    with open(reader / "sweep.log", "rb") as log:
        assert log.read() == b"begun\n"
        edit(driver, "sweep.log", b"begun\nended\n", at)
        remote.push(driver)
        remote.pull(reader)
        assert log.read() == b"ended\n"


def test_checkpoints_and_models_stay_where_nobody_needs_them(tmp_path: Path) -> None:
    uri, at = (tmp_path / "store").as_uri(), [1_700_000_000 * 10**9]
    driver, reader = machine(tmp_path / "driver", uri), machine(tmp_path / "reader", uri)
    for name in ("plan.json", "trials/a/model/model.safetensors", "trials/a/checkpoint/000001.json"):
        edit(driver, name, b"x", at)
    remote.push(driver)
    remote.pull(reader, large=False)
    assert set(tree(reader)) == {"plan.json"}
    remote.push(reader)
    remote.pull(reader)
    assert set(tree(reader)) == set(tree(driver))


def test_nothing_in_a_store_is_written_outside_the_folder_and_no_link_is_followed_out_of_it(tmp_path: Path) -> None:
    uri = (tmp_path / "store").as_uri()
    reader, secret = machine(tmp_path / "reader", uri), tmp_path / "secret"
    secret.write_text("mine")
    (tmp_path / "store" / "sweep").mkdir(parents=True)

    class Evil:
        """What a store can list: keys are any text."""

        path, mtime_ns, size, is_file = "base/../../evil", 1, 1, True

        def get_file_info(self, selector: object) -> list[Evil]:
            return [self]

    assert remote._listed(Evil(), "base") == {}
    reader.mkdir(parents=True)
    (reader / "link").symlink_to(secret)
    remote.push(reader)
    assert list((tmp_path / "store" / "sweep").iterdir()) == []


@pytest.mark.parametrize("uri", ["s4://bucket/path", "http://host/path", "s3:///"])
def test_a_uri_of_no_store_is_refused_with_the_kinds_there_are(tmp_path: Path, uri: str) -> None:
    with pytest.raises(ConfigError, match="s3://BUCKET/PATH"):
        remote.local_root(uri, tmp_path)


@pytest.mark.parametrize(
    "uri", ["s3://key:hidden@bucket/path", "s3://key:hid/hidden@bucket/path", "abfs://container/path?client_secret=hidden"]
)
def test_a_password_in_a_uri_is_refused_and_not_repeated(tmp_path: Path, uri: str) -> None:
    with pytest.raises(ConfigError, match="AWS_SECRET_ACCESS_KEY") as refused:
        remote.local_root(uri, tmp_path)
    assert "hidden" not in str(refused.value)


def test_a_store_that_cannot_be_written_says_where_the_records_are(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = machine(tmp_path / "here", (tmp_path / "file").as_uri())
    edit(folder, "plan.json", b"{}", [10**18])
    with pytest.raises(MachineError, match="What was recorded is on this machine too"):
        remote.push(folder)


def test_a_store_that_speaks_s3_keeps_what_a_folder_has(tmp_path: Path, s3: Callable[[str], str]) -> None:
    uri, at = s3("sweeps"), [1_700_000_000 * 10**9]
    driver, reader = machine(tmp_path / "driver", uri), machine(tmp_path / "reader", uri)
    for name in NAMES:
        edit(driver, name, name.encode(), at)
    remote.push(driver)
    filesystem, base = FileSystem.from_uri(uri)
    with filesystem.open_input_stream(f"{base}/sweep/plan.json") as source:
        assert source.read() == b"plan.json"
    remote.pull(reader)
    assert tree(reader) == tree(driver) == {name: name.encode() for name in NAMES}
    edit(driver, "plan.json", None, at)
    remote.push(driver, removes=True)
    remote.pull(reader)
    assert tree(reader) == tree(driver)
    assert [folder.name for folder in remote.sweeps(remote.local_root(uri, tmp_path / "another"))] == ["sweep"]
