"""Where a sweep's numbers go beside its records: TensorBoard's event files always, wandb and mlflow where they are asked for."""

from __future__ import annotations

import os
import re
import shutil
import struct
import time
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from archsweep.errors import MachineError
from archsweep.imports import import_alone
from archsweep.records.schema import TENSORBOARD_FOLDER, TRIALS_FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from archsweep.planning.plan import Plan, Trial
    from archsweep.records.files import Row

SCALARS = ("train_loss", "val_loss", "bits_per_byte", "tokens_per_second")  # by tokens, which compare between variants
PACKAGES = {"wandb": "wandb", "mlflow": "mlflow-skinny"}


class Tracker(Protocol):
    """Who is told of every trial's evaluations. What it raises ends its own part in the sweep, and nothing else."""

    def begin(self, trial: Trial, recorded: Sequence[Row]) -> None:
        """An attempt reports for the first time; `recorded` are the rows of the attempts that it goes on from."""

    def report(self, trial: Trial, rows: Sequence[Row]) -> None:
        """Rows that nobody has reported before: an evaluation's, one per replica."""

    def end(self, trial: Trial, failed: bool) -> None:
        """The trial has ended."""

    def close(self) -> None:
        """The run is over, whether every trial has ended or not."""


def check(names: Sequence[str]) -> None:
    """Raises MachineError for a tracker whose package is missing, or that has not been told where to write."""
    for name in names:
        if find_spec(name) is None:
            raise MachineError(f"--track {name} needs the package {PACKAGES[name]}. Install it: pip install 'archsweep[{name}]'.")
        try:
            {"wandb": _check_wandb, "mlflow": _check_mlflow}[name]()
        except Exception as error:  # each raises its own kinds
            raise MachineError(f"--track {name} cannot begin: {error} Mend that, or leave --track {name} out.") from error


def _check_wandb() -> None:
    import wandb

    if os.environ.get("WANDB_MODE", "online") == "online" and not wandb.login(prompt=False):
        raise MachineError("wandb needs a login: run `wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline to upload later.")


def _check_mlflow() -> None:
    from mlflow import MlflowClient

    MlflowClient()


@contextmanager
def opened(plan: Plan, folder: Path, names: Sequence[str], say: Callable[[str], object]) -> Iterator[Trackers]:
    """TensorBoard and the trackers of these names, for the length of the block."""
    makers: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: TensorBoard(folder),
        "wandb": lambda: Wandb(plan, folder),
        "mlflow": lambda: MLflow(plan),
    }
    trackers = Trackers({name: makers[name] for name in ("tensorboard", *names)}, say)
    try:
        yield trackers
    finally:
        trackers.close()


class Trackers:
    """Several trackers as one that never raises: the first time that one does, it is said, and that one is left out."""

    def __init__(self, makers: Mapping[str, Callable[[], Tracker]], say: Callable[[str], object]) -> None:
        self._say = say
        self._trackers: dict[str, Tracker] = {}
        for name, make in makers.items():
            with self._guarded(name):
                self._trackers[name] = make()

    def begin(self, trial: Trial, recorded: Sequence[Row]) -> None:
        self._each(lambda tracker: tracker.begin(trial, recorded))

    def report(self, trial: Trial, rows: Sequence[Row]) -> None:
        if rows:
            self._each(lambda tracker: tracker.report(trial, rows))

    def end(self, trial: Trial, failed: bool) -> None:
        self._each(lambda tracker: tracker.end(trial, failed))

    def close(self) -> None:
        self._each(lambda tracker: tracker.close())

    def _each(self, tell: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            with self._guarded(name):
                tell(tracker)

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a tracker raises is less than a sweep
            self._trackers.pop(name, None)
            self._say(f"{name} is left out from here on, the sweep goes on: {type(error).__name__}: {error}")


class TensorBoard:
    """Event files in trials/<id>/tensorboard, a run per replica. A trial that goes on has its files written anew from its records, so
    that they hold each evaluation once, whenever it was killed."""

    def __init__(self, folder: Path) -> None:
        # By itself tensorboardX imports torch, over a second and 200 MB of a driver that trains nothing.
        self._event = import_alone("tensorboardX.proto.event_pb2").Event
        self._checksum = import_alone("tensorboardX.record_writer").masked_crc32c
        self._trials = folder / TRIALS_FOLDER

    def begin(self, trial: Trial, recorded: Sequence[Row]) -> None:
        shutil.rmtree(self._trials / trial.id / TENSORBOARD_FOLDER, ignore_errors=True)
        self.report(trial, recorded)

    def report(self, trial: Trial, rows: Sequence[Row]) -> None:
        for row in rows:
            run = self._trials / trial.id / TENSORBOARD_FOLDER / f"{replica_name(row)}.{_file_name(trial.label)}"
            run.mkdir(parents=True, exist_ok=True)
            # Opened for each evaluation: thousands of replicas would hold as many files, and tensorboardX's own writer a thread for each.
            with open(run / "events.out.tfevents.0000000000.archsweep", "ab") as file:
                if not file.tell():
                    file.write(self._record(file_version="brain.Event:2"))
                file.write(self._record(step=row["tokens"], summary={"value": _values(row)}))

    def end(self, trial: Trial, failed: bool) -> None: ...

    def close(self) -> None: ...

    def _record(self, **event: Any) -> bytes:
        """One event as a TFRecord: its length and its bytes, each with a masked CRC-32C."""
        content: bytes = self._event(wall_time=time.time(), **event).SerializeToString()
        length = struct.pack("<Q", len(content))
        return length + struct.pack("<I", self._checksum(length)) + content + struct.pack("<I", self._checksum(content))


class Wandb:
    """A run per trial, grouped by the sweep; WANDB_PROJECT, WANDB_MODE and the like are wandb's own."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        import wandb

        self._wandb, self._plan, self._folder = wandb, plan, folder
        self._runs: dict[str, Any] = {}

    def begin(self, trial: Trial, recorded: Sequence[Row]) -> None:
        self.end(trial, failed=True)  # of an attempt before this one
        run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "archsweep"),
            group=self._plan.name,
            name=trial.label,
            id=f"{self._plan.name}-{trial.id}",
            resume="allow",
            reinit="create_new",
            dir=self._folder,
            config=trial.config.to_dict() | {"trial_id": trial.id, "variant": trial.label},
            settings=self._wandb.Settings(silent=True, console="off"),
        )
        run.define_metric("*", step_metric="tokens")
        self._runs[trial.id] = run

    def report(self, trial: Trial, rows: Sequence[Row]) -> None:
        self._runs[trial.id].log({"tokens": rows[0]["tokens"]} | {name: value for row in rows for name, value in _named(row).items()})

    def end(self, trial: Trial, failed: bool) -> None:
        if (run := self._runs.pop(trial.id, None)) is not None:
            run.finish(exit_code=int(failed))

    def close(self) -> None:
        for run in self._runs.values():
            run.finish(exit_code=1)
        self._runs.clear()


class MLflow:
    """A run per trial in an experiment per sweep, where MLFLOW_TRACKING_URI says."""

    def __init__(self, plan: Plan) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._client, self._metric, self._param = MlflowClient(), Metric, Param
        name = f"archsweep-{plan.name}"
        experiment = self._client.get_experiment_by_name(name)
        self._experiment = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        self._runs: dict[str, str] = {}

    def begin(self, trial: Trial, recorded: Sequence[Row]) -> None:
        """The run of an attempt that this one goes on from is taken up again."""
        self.end(trial, failed=True)  # of an attempt before this one
        known = self._client.search_runs([self._experiment], f"tags.trial_id = '{trial.id}'", max_results=1) if recorded else []
        if known:
            self._runs[trial.id] = known[0].info.run_id
            self._client.update_run(self._runs[trial.id], status="RUNNING")
            return
        run = self._client.create_run(self._experiment, run_name=trial.label, tags={"trial_id": trial.id})
        self._runs[trial.id] = run.info.run_id
        self._client.log_batch(run.info.run_id, params=[self._param(name, str(value)) for name, value in trial.config.to_dict().items()])

    def report(self, trial: Trial, rows: Sequence[Row]) -> None:
        now = int(time.time() * 1000)
        metrics = [self._metric(name, value, now, row["tokens"]) for row in rows for name, value in _named(row).items()]
        for start in range(0, len(metrics), 1000):  # mlflow takes so many at once
            self._client.log_batch(self._runs[trial.id], metrics=metrics[start : start + 1000])

    def end(self, trial: Trial, failed: bool) -> None:
        if (run := self._runs.pop(trial.id, None)) is not None:
            self._client.set_terminated(run, "FAILED" if failed else "FINISHED")

    def close(self) -> None:
        for run in self._runs.values():
            self._client.set_terminated(run, "KILLED")
        self._runs.clear()


def replica_name(row: Mapping[str, Any]) -> str:
    """A replica's name within its trial, in letters that a file system and every tracker take."""
    return f"learning_rate-{row['learning_rate']}_weight_decay-{row['weight_decay']}_seed-{row['seed']}"


def _values(row: Row) -> list[dict[str, Any]]:
    """What the row knows of SCALARS, in the form of TensorBoard's summaries."""
    return [{"tag": name, "simple_value": row[name]} for name in SCALARS if row.get(name) is not None]


def _named(row: Row) -> dict[str, float]:
    """The same for trackers in which all replicas of a trial share a run."""
    return {f"{name}/{replica_name(row)}": row[name] for name in SCALARS if row.get(name) is not None}


def _file_name(label: str) -> str:
    return re.sub(r"[^\w.=-]+", "_", label)[:120]
