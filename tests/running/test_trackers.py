"""TensorBoard's files, read back by hand; wandb and mlflow where they are installed; and a tracker that raises."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from archsweep import load_curves, pipeline
from archsweep.errors import MachineError
from archsweep.pipeline import Leavings, Ledger, Machine
from archsweep.running import trackers
from archsweep.running.trackers import TensorBoard, Trackers, replica_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from archsweep.planning.plan import Plan, Trial

SERIAL = Machine(serial=True)
Point = tuple[str, int, float]  # tag, step, value


def crc32c(data: bytes) -> int:
    """CRC-32C bit by bit (RFC 3720, appendix B.4)."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (0x82F63B78 if remainder & 1 else 0)
    return remainder ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    """As TFRecord stores a checksum."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(path: Path) -> Iterator[bytes]:
    content = path.read_bytes()
    while content:
        length, length_crc = struct.unpack("<QI", content[:12])
        data, data_crc = content[12 : 12 + length], struct.unpack("<I", content[12 + length : 16 + length])[0]
        assert length_crc == masked(content[:8])
        assert data_crc == masked(data)
        yield data
        content = content[16 + length :]


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """A protocol buffer's (field number, value), from its wire format."""
    while message:
        key, message = varint(message)
        if key & 7 == 0:
            value, message = varint(message)
        elif key & 7 == 2:
            length, message = varint(message)
            value, message = message[:length], message[length:]
        else:
            code, size = {1: ("<d", 8), 5: ("<f", 4)}[key & 7]
            value, message = struct.unpack(code, message[:size])[0], message[size:]
        yield key >> 3, value


def varint(message: bytes) -> tuple[int, bytes]:
    value = shift = 0
    for index, byte in enumerate(message):
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, message[index + 1 :]
    raise AssertionError("a varint without an end")


def points(path: Path) -> list[Point]:
    """Every scalar of an event file: Event has step 2, file_version 3, summary 5; Summary.Value has tag 1, simple_value 2."""
    events = [dict(fields(record)) for record in records(path)]
    assert events[0][3] == b"brain.Event:2"
    values = [(event[2], dict(fields(value))) for event in events[1:] for _, value in fields(event[5])]
    return [(value[1].decode(), step, value[2]) for step, value in values]


def written(folder: Path, trial: Trial) -> dict[str, list[Point]]:
    """The points of each replica's run."""
    files = sorted((folder / "trials" / trial.id / "tensorboard").glob("*/events.out.tfevents.*"))
    return {file.parent.name: points(file) for file in files}


def row(seed: int, tokens: int, val_loss: float | None) -> dict[str, Any]:
    replica = {"seed": seed, "learning_rate": 1e-3, "weight_decay": 0.1}
    return replica | {"tokens": tokens, "train_loss": 2.0, "val_loss": val_loss, "bits_per_byte": None, "tokens_per_second": 1e6}


def run(plan: Plan, folder: Path, *track: str) -> str:
    screen = io.StringIO()
    pipeline.run(plan, folder, SERIAL, Console(file=screen, width=200), Ledger(fresh=True), Leavings(track=track))
    pipeline.collect(folder)
    return screen.getvalue()


def test_every_evaluation_of_every_replica_is_a_point_in_a_run_of_its_own(tiny_plan: Plan, tmp_path: Path) -> None:
    run(tiny_plan, tmp_path)
    curves = load_curves(tmp_path)
    for trial in tiny_plan.trials:
        runs = written(tmp_path, trial)
        assert len(runs) == len(trial.replicas)
        for replica in trial.replicas:
            [name] = [name for name in runs if name.startswith(f"{replica_name(replica.model_dump())}.")]
            assert name.endswith(trial.label)
            mine = curves[(curves.trial_id == trial.id) & (curves.seed == replica.seed) & (curves.learning_rate == replica.learning_rate)]
            tags = ("train_loss", "val_loss", "bits_per_byte", "tokens_per_second")
            expected = [(tag, row.tokens, pytest.approx(getattr(row, tag))) for row in mine.itertuples() for tag in tags]
            assert runs[name] == expected


def test_a_trial_that_goes_on_has_each_point_once_and_one_that_starts_over_none_of_before(tiny_plan: Plan, tmp_path: Path) -> None:
    trial = tiny_plan.trials[0]
    first, second = row(0, 64, 3.0), row(0, 128, 2.0)
    TensorBoard(tmp_path).begin(trial, [])
    TensorBoard(tmp_path).report(trial, [first])
    [event_file] = (tmp_path / "trials").rglob("events.*")
    with open(event_file, "ab") as file:
        file.write(b"half a record, as a kill leaves it")
    resumed = TensorBoard(tmp_path)
    resumed.begin(trial, [first])
    resumed.report(trial, [second])
    [seen] = written(tmp_path, trial).values()
    assert [(step, value) for tag, step, value in seen if tag == "val_loss"] == [(64, 3.0), (128, 2.0)]
    again = TensorBoard(tmp_path)
    again.begin(trial, [])
    again.report(trial, [row(0, 64, 5.0)])
    [seen] = written(tmp_path, trial).values()
    assert [(step, value) for tag, step, value in seen if tag == "val_loss"] == [(64, 5.0)]


def test_a_loss_that_a_diverged_replica_does_not_have_is_no_point(tiny_plan: Plan, tmp_path: Path) -> None:
    trial = tiny_plan.trials[0]
    TensorBoard(tmp_path).report(trial, [row(0, 64, None)])
    [seen] = written(tmp_path, trial).values()
    assert [tag for tag, _, _ in seen] == ["train_loss", "tokens_per_second"]


def test_event_files_take_no_torch_and_leave_tensorboardx_as_it_is() -> None:
    program = """
import sys
from pathlib import Path
from archsweep.running.trackers import TensorBoard
TensorBoard(Path())
assert "torch" not in sys.modules
from tensorboardX import SummaryWriter
"""
    subprocess.run([sys.executable, "-c", program], check=True)


class Broken:
    """A tracker that raises on its second report."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def begin(self, trial: Trial, recorded: Any) -> None:
        self.told.append("begin")

    def report(self, trial: Trial, rows: Any) -> None:
        self.told.append("report")
        if self.told.count("report") == 2:
            raise ConnectionError("the server is away")

    def end(self, trial: Trial, failed: bool) -> None:
        self.told.append("end")

    def close(self) -> None:
        self.told.append("close")


def test_a_tracker_that_raises_is_said_once_and_left_out_and_the_others_hear_all(tiny_plan: Plan, tmp_path: Path) -> None:
    trial, broken, said = tiny_plan.trials[0], Broken(), list[str]()
    told = Trackers({"broken": lambda: broken, "tensorboard": lambda: TensorBoard(tmp_path)}, said.append)
    told.begin(trial, [])
    for tokens in (64, 128, 192):
        told.report(trial, [row(0, tokens, 3.0)])
    told.end(trial, failed=False)
    told.close()
    assert broken.told == ["begin", "report", "report"]
    assert said == ["broken is left out from here on, the sweep goes on: ConnectionError: the server is away"]
    [seen] = written(tmp_path, trial).values()
    assert [step for tag, step, _ in seen if tag == "val_loss"] == [64, 128, 192]


@pytest.mark.parametrize("name", trackers.PACKAGES)
def test_a_package_that_is_missing_is_a_sentence_before_anything_trains(
    name: str, tiny_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(MachineError, match=rf"--track {name} needs the package .* pip install 'archsweep\[{name}\]'"):
        run(tiny_plan, tmp_path / "sweep", name)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.filterwarnings("ignore")
def test_wandb_gets_a_run_per_trial_and_a_login_that_is_missing_is_a_sentence(
    tiny_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    with pytest.raises(MachineError, match="wandb login"):
        run(tiny_plan, tmp_path, "wandb")
    wandb.teardown()  # a process reads its environment once
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "left out" not in run(tiny_plan, tmp_path, "wandb")
    runs = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert sorted(name.split("-")[-1] for name in runs) == sorted(trial.id for trial in tiny_plan.trials)
    assert all(list((tmp_path / "wandb" / name).glob("*.wandb")) for name in runs)


@pytest.mark.filterwarnings("ignore")
def test_mlflow_gets_a_run_per_trial_with_every_evaluation(tiny_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file:{tmp_path / 'store'}")
    assert "left out" not in run(tiny_plan, tmp_path / "sweep", "mlflow")
    client = mlflow.MlflowClient()
    [experiment] = [each for each in client.search_experiments() if each.name == f"archsweep-{tiny_plan.name}"]
    runs = client.search_runs([experiment.experiment_id])
    assert {run.data.tags["trial_id"] for run in runs} == {trial.id for trial in tiny_plan.trials}
    for each in runs:
        replica = tiny_plan.trials[0].replicas[0]
        history = client.get_metric_history(each.info.run_id, f"val_loss/{replica_name(replica.model_dump())}")
        mine = load_curves(tmp_path / "sweep")
        mine = mine[(mine.trial_id == each.data.tags["trial_id"]) & (mine.seed == replica.seed)]
        mine = mine[mine.learning_rate == replica.learning_rate]
        assert [(metric.step, metric.value) for metric in history] == list(zip(mine.tokens, mine.val_loss, strict=True))
        assert each.info.status == "FINISHED"


class Server:
    """Stands for mlflow's client: a server that knows of each run how it is."""

    def __init__(self) -> None:
        self.runs: dict[str, str] = {}

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="1")

    def create_run(self, experiment: str, run_name: str, tags: dict[str, str]) -> Any:
        self.runs[f"run{len(self.runs)}"] = "RUNNING"
        return SimpleNamespace(info=SimpleNamespace(run_id=list(self.runs)[-1]))

    def search_runs(self, experiments: list[str], which: str, max_results: int) -> list[Any]:
        return [SimpleNamespace(info=SimpleNamespace(run_id=list(self.runs)[-1]))]

    def update_run(self, run: str, status: str) -> None:
        self.runs[run] = status

    def log_batch(self, run: str, **what: Any) -> None: ...

    set_terminated = update_run


def test_a_second_attempt_leaves_no_run_of_the_first_running_in_mlflow(tiny_plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    server, trial = Server(), tiny_plan.trials[0]
    entities = SimpleNamespace(Metric=tuple, Param=lambda name, value: (name, value), RunTag=tuple)
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=lambda: server))
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    told = trackers.MLflow(tiny_plan)
    told.begin(trial, [])
    told.begin(trial, [])  # the first one was lost before its first evaluation
    assert server.runs == {"run0": "FAILED", "run1": "RUNNING"}
    told.begin(trial, [row(0, 64, 3.0)])  # goes on from rows of the second, which is taken up again
    assert server.runs == {"run0": "FAILED", "run1": "RUNNING"}
    told.end(trial, failed=False)
    assert server.runs == {"run0": "FAILED", "run1": "FINISHED"}
