"""A sweep's folder on its way home: what was packed lands as it was, and what an evil head or folder adds does nothing."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from archsweep.errors import RecordError
from archsweep.submitting import giving
from archsweep.submitting.parcel import Manifest, Order, piece_name
from archsweep.submitting.unpack import land
from tests.submitting.evil import Evil
from tests.sweep_folder import write_sweep

if TYPE_CHECKING:
    from pathlib import Path

VARIANTS = [{"num_layers": 1}, {"num_layers": 2}]


def sweep(results: Path) -> Path:
    return write_sweep(results / "planted", VARIANTS, lambda variant, rate, seed: 3 + variant["num_layers"], name="planted")


def order(results: Path, models: bool = True, name: str = "planted") -> Order:
    return Order(sweep=name, results=str(results), models=models, ticket="0f0f")


def bring(results: Path, folder: Path, logs: Path, models: bool = True) -> Manifest:
    """Pack the sweep of `results` and unpack it to `folder`, as fetch does with a network in between."""
    logs.mkdir(exist_ok=True)
    with giving.given(order(results, models, folder.name), logs) as manifest:
        content = b"".join((logs / piece_name("0f0f", number)).read_bytes() for number in range(len(manifest.pieces)))
    land(io.BytesIO(content), manifest, folder, folder.name, models)
    return manifest


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_packed_lands_as_it_was_and_the_pieces_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(giving, "PIECE_BYTES", 400)
    there = sweep(tmp_path / "cluster")
    manifest = bring(tmp_path / "cluster", tmp_path / "here/planted", tmp_path / "logs")
    assert len(manifest.pieces) > 2
    assert files(tmp_path / "here/planted") == files(there)
    assert os.listdir(tmp_path / "logs") == []
    assert os.listdir(tmp_path / "here") == ["planted"]


def test_a_sweep_that_is_kept_in_a_store_lands_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(giving, "_Folder", lambda results, sweep: giving._Stored(f"file://{results}", sweep))  # pyarrow's own, of a disk
    there = sweep(tmp_path / "cluster")
    bring(tmp_path / "cluster", tmp_path / "here/planted", tmp_path / "logs")
    assert files(tmp_path / "here/planted") == files(there)


def test_checkpoints_stay_and_models_come_unless_they_are_not_wanted(tmp_path: Path) -> None:
    there = sweep(tmp_path / "cluster")
    trial = next((there / "trials").iterdir())
    for name in ("checkpoint/state.json", "model/model.safetensors", "model/config.json", "tensorboard/seed=0/events.out.tfevents.1.host"):
        (trial / name).parent.mkdir(parents=True, exist_ok=True)
        (trial / name).write_bytes(b"x")
    (there / ".lock").write_text("{}")
    for models, expected in ((True, {"model/model.safetensors", "model/config.json"}), (False, set())):
        home = tmp_path / str(models) / "planted"
        bring(tmp_path / "cluster", home, tmp_path / "logs", models)
        came = {name.removeprefix(f"trials/{trial.name}/") for name in files(home)}
        assert came & {"checkpoint/state.json", "model/model.safetensors", "model/config.json"} == expected
        assert "tensorboard/seed=0/events.out.tfevents.1.host" in came
        assert ".lock" not in came


def test_pickles_links_programs_and_strange_names_in_a_results_folder_do_not_come(tmp_path: Path) -> None:
    there = sweep(tmp_path / "cluster")
    secret = tmp_path / "secret.txt"
    secret.write_text("canary")
    for name in ("tuner.pkl", "trials/params.pkl", "run.py", "run.sh", ".bashrc", "-rf.json", "a\nb.json", "page.js"):
        (there / name).write_bytes(pickle.dumps(Evil(tmp_path / "made")))
    (there / "linked.txt").symlink_to(secret)
    (there / "trials" / "linked").symlink_to(tmp_path)
    os.mkfifo(there / "pipe.json.fifo")
    before = set(files(sweep(tmp_path / "clean")))
    bring(tmp_path / "cluster", tmp_path / "here/planted", tmp_path / "logs")
    assert set(files(tmp_path / "here/planted")) == before
    assert not (tmp_path / "made").exists()


def parcel(*members: tuple[str, bytes] | tarfile.TarInfo) -> io.BytesIO:
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w:gz") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                entry = tarfile.TarInfo(member[0])
                entry.size = len(member[1])
                tar.addfile(entry, io.BytesIO(member[1]))
    into.seek(0)
    return into


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def plan(name: str = "planted", trial: str = "a1") -> bytes:
    return json.dumps({"name": name, "compare": {}, "tune": {}, "corpus_id": "c", "trials": [{"id": trial, "variant": {}}]}).encode()


@pytest.mark.parametrize(
    "members",
    [
        [("../evil.json", b"x")],
        [("trials/../../evil.json", b"x")],
        [("/tmp/evil.json", b"x")],
        [(".hidden.json", b"x")],
        [("evil.pkl", b"x")],
        [("evil.py", b"x")],
        [link("evil.json", "/etc/passwd", tarfile.SYMTYPE)],
        [link("trials", "/tmp", tarfile.SYMTYPE), ("trials/evil.json", b"x")],
        [link("evil.json", "plan.json", tarfile.LNKTYPE)],
        [link("evil.json", "", tarfile.CHRTYPE)],
        [link("evil.json", "", tarfile.FIFOTYPE)],
        [("large.json", b"0" * 100_001)],
    ],
)
def test_a_parcel_with_anything_but_a_sweeps_files_leaves_nothing(members: list[Any], tmp_path: Path) -> None:
    folder = tmp_path / "results/planted"
    with pytest.raises(RecordError, match="Nothing was kept"):
        land(parcel(("plan.json", plan()), *members), Manifest(pieces=(), files=2, unpacked=100_000), folder, "planted", True)
    assert list(tmp_path.rglob("*")) == [tmp_path / "results"]


@pytest.mark.parametrize(
    ("name", "trial"), [("../x", "a1"), ("another", "a1"), ("planted", "../../x"), ("planted", "/etc"), ("planted", "..")]
)
def test_a_plan_that_leads_elsewhere_is_not_kept(name: str, trial: str, tmp_path: Path) -> None:
    content = parcel(("plan.json", plan(name, trial)))
    with pytest.raises(RecordError, match="Nothing of it was kept"):
        land(content, Manifest(pieces=(), files=1, unpacked=10**6), tmp_path / "results/planted", "planted", True)
    assert list(tmp_path.rglob("*")) == [tmp_path / "results"]


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: b"PK" + content, lambda content: b""])
def test_a_damaged_parcel_leaves_nothing(damage: Any, tmp_path: Path) -> None:
    content = damage(parcel(("plan.json", plan()), ("report.md", os.urandom(10_000))).getvalue())
    with pytest.raises(RecordError):
        land(io.BytesIO(content), Manifest(pieces=(), files=2, unpacked=10**6), tmp_path / "results/planted", "planted", True)
    assert list(tmp_path.rglob("*")) == [tmp_path / "results"]


@pytest.mark.parametrize("name", ["../planted", "/etc", "", ".", "planted/../planted"])
def test_the_cluster_packs_no_folder_outside_of_the_results(name: str, tmp_path: Path) -> None:
    sweep(tmp_path / "cluster")
    with pytest.raises(RecordError, match="there is no sweep"), giving.given(order(tmp_path / "cluster", name=name), tmp_path):
        pass


def test_a_folder_that_is_an_older_state_grows_and_what_else_is_in_it_stays(tmp_path: Path) -> None:
    there, here = sweep(tmp_path / "cluster"), tmp_path / "here/planted"
    bring(tmp_path / "cluster", here, tmp_path / "logs")
    (here / "my notes.txt").write_text("mine")
    records = next((there / "trials").glob("*/records.jsonl"))
    lines = records.read_bytes().splitlines(keepends=True)
    (here / records.relative_to(there)).write_bytes(b"".join(lines[:-1]) + lines[-1][:10])  # as it was when its last line was being written
    bring(tmp_path / "cluster", here, tmp_path / "logs")
    assert files(here) == files(there) | {"my notes.txt": b"mine"}


def test_rows_and_trials_that_are_only_here_are_never_lost(tmp_path: Path) -> None:
    there, here = sweep(tmp_path / "cluster"), tmp_path / "here/planted"
    bring(tmp_path / "cluster", here, tmp_path / "logs")
    records = next((there / "trials").glob("*/records.jsonl"))
    records.write_bytes(b"".join(records.read_bytes().splitlines(keepends=True)[:-1]))
    before = files(here)
    with pytest.raises(RecordError, match=r"holds rows of the trial .* --to"):
        bring(tmp_path / "cluster", here, tmp_path / "logs")
    assert files(here) == before
    mine = json.loads((here / "plan.json").read_text())
    mine["trials"].append(mine["trials"][0] | {"id": "mine"})
    (here / "plan.json").write_text(json.dumps(mine))
    with pytest.raises(RecordError, match="holds 1 trials that are in no plan there"):
        bring(tmp_path / "cluster", here, tmp_path / "logs")
    stranger = tmp_path / "stranger/planted"
    stranger.mkdir(parents=True)
    (stranger / "thesis.txt").write_text("mine")
    with pytest.raises(RecordError, match="must be a sweep's folder"):
        bring(tmp_path / "cluster", stranger, tmp_path / "logs")
    assert files(stranger) == {"thesis.txt": b"mine"}
