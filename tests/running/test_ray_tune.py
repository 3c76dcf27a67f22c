"""What Ray alone does: fractions of GPUs, several trials at once, and no door to the network."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from archsweep.errors import MachineError
from archsweep.running import ray_tune
from archsweep.running.recorder import Place, Recorder
from archsweep.running.trackers import Trackers
from archsweep.running.worker import Storage
from archsweep.training.data import prepare

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from archsweep.planning.plan import Plan, Trial
    from archsweep.records.write import Outcome
    from archsweep.running.worker import Report

pytestmark = pytest.mark.slow  # Ray takes its time to start

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


class Watch:
    """Stands where the progress display stands, and notes what it sees."""

    waits = False  # whether a trial does

    def __init__(self) -> None:
        self.order: list[str] = []
        self.open_doors: dict[str, str] = {}
        self.environment: dict[str, str] = {}

    def trial_began(self, trial: Trial) -> None:
        self.order.append(trial.id)

    def trial_noted(self, trial: Trial, notes: list[str]) -> None:
        assert not notes

    def trial_reported(self, trial: Trial, report: Report) -> None:
        self.open_doors |= addresses_listened_on()
        self.environment = dict(os.environ)

    def trial_finished(self, trial: Trial, last: Report, outcome: Outcome) -> None: ...

    def trial_failed(self, trial: Trial, reason: str, details: Path) -> None:
        raise AssertionError(reason)


def addresses_listened_on() -> dict[str, str]:
    """Those of every listening socket of this process and of what it has started, with whose it is."""
    found: dict[str, str] = {}
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            listening = [each for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
            found |= {each.laddr.ip: f"port {each.laddr.port} of {' '.join(process.cmdline())}" for each in listening}
    return found


@pytest.fixture(scope="module")
def seen(tiny_plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Watch, Any]:
    """A run on one processor and one logical GPU: what was watched, and Tune's dataframe."""
    watch = Watch()
    ids = {trial.id: prepare(trial.config).id for trial in tiny_plan.trials}
    import ray  # noqa: F401  # as a user's own process may have, before anything says that this Ray is to be closed

    recorder = Recorder(Place(tmp_path_factory.mktemp("sweep")), watch, Trackers({}, print))  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "0")  # Ray takes a GPU for one that is there, logical or not, only where CUDA would
        with ray_tune.started(num_cpus=1, num_gpus=1) as cluster:
            (frame,) = cluster.run(tiny_plan.trials, ids, recorder, threading.Event(), Storage(None, 60.0, "best"))
    return watch, frame


def test_nothing_listens_beyond_loopback_and_the_token_is_on(seen: tuple[Watch, Any]) -> None:
    watch, _ = seen
    assert watch.open_doors
    assert {where: whose for where, whose in watch.open_doors.items() if where not in LOOPBACK} == {}
    assert watch.environment["RAY_AUTH_MODE"] == "token"


def test_the_longest_trial_begins_first(seen: tuple[Watch, Any], tiny_plan: Plan) -> None:
    assert seen[0].order == [trial.id for trial in tiny_plan.trials]
    flops = [trial.cost.flops for trial in tiny_plan.trials]
    assert flops == sorted(flops, reverse=True)


def test_tunes_own_dataframe_has_a_row_per_trial_with_the_configs_field_names(seen: tuple[Watch, Any], tiny_plan: Plan) -> None:
    frame = seen[1]
    layers = {trial.id: trial.config.num_layers for trial in tiny_plan.trials}
    assert dict(zip(frame["config/trial_id"], frame["config/num_layers"], strict=True)) == layers
    assert frame["val_loss"].notna().all()


def test_a_trial_on_a_logical_gpu_gets_its_share_of_it(seen: tuple[Watch, Any]) -> None:
    # Two trials of a few MB share a device at the smallest share, an eighth.
    assert seen[1]["gpu_share"].tolist() == [0.125, 0.125]


def test_what_a_search_raises_ends_the_run_by_a_stop_that_saves_its_trials() -> None:
    def suggestions() -> Iterator[Trial]:
        raise MachineError("the disk is gone")
        yield

    cluster, stop = ray_tune.Cluster(SimpleNamespace(nodes=list), is_elsewhere=False), threading.Event()  # a Ray without nodes
    work = ray_tune._Work(cluster, {}, stop=stop, recorder=None, storage=None, carrier=None)  # type: ignore[arg-type]
    searcher = ray_tune._searching(work, suggestions())["search_alg"]
    assert searcher.suggest("first") == searcher.FINISHED
    assert stop.is_set()
    assert str(work.broken) == "the disk is gone"
