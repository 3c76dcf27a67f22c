"""Trials by Ray Tune, side by side on this machine or a cluster. Tune schedules; what is true is in our own records."""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import socket
import tempfile
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archsweep.config import ExperimentConfig
from archsweep.device import Node, processor_name, processors
from archsweep.device import gpus as installed_gpus
from archsweep.errors import MachineError
from archsweep.planning.plan import Trial
from archsweep.running.autoscaler import node_types
from archsweep.running.carrier import Carrier, make_carrier
from archsweep.running.recorder import reason_in
from archsweep.running.resources import ASSUMED_GPU_BYTES, Resources, check_some_node_holds, fitting, larger, largest_request, request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from archsweep.planning.search import Search
    from archsweep.running.recorder import Recorder
    from archsweep.running.worker import Report, Storage

CONNECT_SECONDS = 5.0  # that a cluster's head has to accept a connection
ANSWER_SECONDS = 60.0  # that a cluster's nodes have to say what they are
MOST_LOSSES = 3  # times that a trial may lose its process; a machine that kills it each time is out of memory

# How reasons begin. What is no tensor, as a kernel's code or a handle of cuBLAS, runs out of what the neighbours leave, in other words.
_OUT_OF_MEMORY = re.compile(
    f"{re.escape('torch.OutOfMemoryError')}|{re.escape('torch.cuda.OutOfMemoryError')}"
    r"|(torch\.AcceleratorError|RuntimeError): CUDA error: (out of memory|CUBLAS_STATUS_(ALLOC_FAILED|NOT_INITIALIZED))"
)

# Ray reads these when it is imported or started. Set by the user, they stay.
_SETTINGS = {
    "RAY_AUTH_MODE": "token",  # without a token nothing is answered, on this machine or between machines
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0: Tune prints nothing
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # no snapshots of all trials as it goes on: nothing of Tune's is ever restored
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: running/stop.py
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths in a config mean the user's folder
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a trial that was granted no GPU sees none
    "RAY_USAGE_STATS_ENABLED": "0",
}


class Cluster:
    """A Ray that runs: what its nodes have, and the trials that Tune schedules on them. Where it `is_elsewhere`, its nodes may be other
    machines, without this one's disk."""

    def __init__(self, ray: Any, is_elsewhere: bool) -> None:
        self._ray, self._is_elsewhere = ray, is_elsewhere
        self._types = node_types() if is_elsewhere else []
        self._use_gpu = any(node.get("GPU", 0) > 0 for node in self._possible())
        nodes = _ask_nodes(ray) if any(node.get("GPU", 0) > 0 for node in self._nodes()) else []
        self._gpu_bytes = min((gpu.memory for node in nodes for gpu in node.gpus), default=ASSUMED_GPU_BYTES)

    def slots(self, trials: Sequence[Trial]) -> int:
        """How many of `trials`, by what the largest of them asks for, run side by side."""
        largest = largest_request(trials, self._use_gpu, self._gpu_bytes)
        now = sum(fitting(largest, node) for node in self._nodes())
        return max(1, now, sum(fitting(largest, kind.resources) * kind.most for kind in self._types))

    def run(
        self,
        trials: Sequence[Trial],
        corpus_ids: Mapping[str, str],
        recorder: Recorder,
        stop: threading.Event,
        storage: Storage,
        search: Search | None = None,
    ) -> list[Any]:
        """Train `trials`, the first ones first, each on the corpus that `corpus_ids` names for it, until `stop` is set.

        With a `search`, its suggestions follow them, as many at a time as there are slots.
        A trial that ran out of its share of a GPU runs again with twice of it; one whose process or node died, up to MOST_LOSSES times,
        from its checkpoint; every other failure is its end. Returns Tune's result dataframes, one of each round. Raises MachineError
        where no node could ever hold one of the trials, and what recording raised.
        """
        carrier = make_carrier(recorder.home, storage, keeps=self._is_elsewhere)
        work = _Work(self, corpus_ids, recorder, stop, storage, carrier)
        for trial in trials:
            work.add(trial)
        frames, left = [], list(trials)
        while (left or search) and not stop.is_set():
            for resources in {work.requests[trial.id] for trial in left}:
                check_some_node_holds(resources, self._possible())
            work.again = []
            frames.append(_fit(work, left, search))
            if work.broken is not None:
                raise work.broken
            left, search = work.again, None  # it ends with the first round
        for trial in work.trials.values():
            recorder.tidy(trial)
        return frames

    def processors(self) -> int:
        """Those of all nodes together, also of those that may come: at most so many trials run side by side."""
        now = sum(node.get("CPU", 0) for node in self._nodes())
        return max(1, int(now), int(sum(kind.resources.get("CPU", 0) * kind.most for kind in self._types)))

    def request(self, trial: Trial) -> Resources:
        """What the trial asks for at first."""
        return request(trial, self._use_gpu, self._gpu_bytes)

    def _possible(self) -> list[dict[str, float]]:
        """A node's resources, for each that is there, and one of each kind that the autoscaler may start."""
        return [*self._nodes(), *(kind.resources for kind in self._types if kind.most)]

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]


@dataclass
class _Work:
    """What a run's trials are given, and what becomes of those that fail."""

    cluster: Cluster
    corpus_ids: Mapping[str, str]
    recorder: Recorder
    stop: threading.Event
    storage: Storage
    carrier: Carrier
    trials: dict[str, Trial] = field(default_factory=dict)  # those that are known; a search adds to them
    requests: dict[str, Resources] = field(default_factory=dict)
    losses: Counter[str] = field(default_factory=Counter)  # of its process or node, by trial
    again: list[Trial] = field(default_factory=list)  # what the next round trains
    broken: Exception | None = None  # what recording raised: nothing can go on without records

    def add(self, trial: Trial) -> None:
        self.trials[trial.id], self.requests[trial.id] = trial, self.cluster.request(trial)

    def end_by(self, error: Exception) -> None:
        """End the run, which then raises `error`."""
        self.broken = self.broken or error
        self.stop.set()

    def fail(self, trial: Trial, details: str) -> None:
        """Record a failure, of which Tune says `details`, as the trial's end or with the next try that it gets."""
        asked, lost = self.requests[trial.id], _is_loss(details)
        reason = f"its process or node died: {details.splitlines()[1]}" if lost else reason_in(details)
        if _OUT_OF_MEMORY.match(reason) and 0 < asked.gpus < 1:
            self.requests[trial.id] = larger(asked)
            self._try_again(trial, reason, details, f"again with {self.requests[trial.id].gpus:g} of a GPU instead of {asked.gpus:g}")
        elif lost and self.losses[trial.id] < MOST_LOSSES:
            self.losses[trial.id] += 1
            self._try_again(trial, reason, details, "again from its checkpoint")
        else:
            self.recorder.fail(trial, reason, details)

    def _try_again(self, trial: Trial, reason: str, details: str, how: str) -> None:
        self.again.append(trial)
        self.recorder.retry(trial, reason, details, how)


def _is_loss(details: str) -> bool:
    """Whether the process or its node is gone. An exception of the trial itself names the task that raised it, in the line below Tune's
    own; a list of the node's processes, as of one that ran out of memory, may name tasks further down."""
    return "ray::" not in details.splitlines()[1]


def _fit(work: _Work, trials: Sequence[Trial], search: Search | None) -> Any:
    """One round: Tune's result dataframe of the trials and of those that the search adds, one row each."""
    from ray import tune

    trainable = tune.with_resources(
        tune.with_parameters(
            _trainable(),
            trials=dict(work.trials),
            corpus_ids=work.corpus_ids,
            carrier=work.carrier,
            storage=work.storage,
        ),
        # What a trial asks for is in its own config: Tune unpickles this function, and all that it holds, for every trial.
        lambda config: tune.PlacementGroupFactory([_bundle(Resources(*config["asks"]))]),
    )
    what = {"param_space": _param_space(trials, work.requests)} if search is None else {}
    with tempfile.TemporaryDirectory(prefix="archsweep-tune-") as scratch:
        tuner = tune.Tuner(
            trainable,
            **what,
            tune_config=tune.TuneConfig(
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
                scheduler=_scheduler(work),
                **({} if search is None else _searching(work, search.trials(list(trials)))),
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                verbose=0,
                callbacks=_callbacks(work),
                stop=_stopper(work.stop),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # the records are the result
            ),
        )
        return tuner.fit().get_dataframe()


@contextmanager
def started(num_cpus: int | None = None, num_gpus: int | None = None, address: str | None = None) -> Iterator[Cluster]:
    """A Ray of our own for the length of the block, sized by `num_cpus` and `num_gpus` (default: what the machine has), or the running
    one at `address`. Raises MachineError where it cannot start or be reached."""
    with _ray(num_cpus, num_gpus, address) as ray:
        yield Cluster(ray, is_elsewhere=address is not None)


def nodes(address: str) -> list[Node]:
    """What the nodes of the cluster at `address` have; none where an autoscaler may start others, or where they do not answer. Raises
    MachineError where it does not let us in."""
    with _ray(None, None, address) as ray:
        return [] if any(kind.most for kind in node_types()) else _ask_nodes(ray)


def cluster(address: str) -> str:
    """What the cluster at `address` has, in words. Raises MachineError where it does not let us in."""
    with _ray(None, None, address) as ray:
        resources = ray.cluster_resources()
        alive = sum(node["Alive"] for node in ray.nodes())
        return f"Ray {ray.__version__}, {alive} nodes, {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"


@contextmanager
def _ray(num_cpus: int | None, num_gpus: int | None, address: str | None) -> Iterator[Any]:
    """A Ray session that ends with the block: our own, closed to the network, or the cluster at `address`."""
    if address is not None:
        _check_it_answers(address)
    with _environment(own=address is None), _closed(own=address is None):
        import ray

        for name in ("ray", "ray.tune", "ray.train", "ray.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        own = {"num_cpus": processors() if num_cpus is None else num_cpus, "num_gpus": num_gpus, "include_dashboard": False}
        on_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level="CRITICAL", **({} if address else own))
        except Exception as error:  # Ray raises many kinds, some of them bare
            raise MachineError(_why_no_ray(address, error)) from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # ray.init puts its own there, which exits on the spot
        try:
            yield ray
        finally:
            ray.shutdown()


@contextmanager
def _environment(own: bool) -> Iterator[None]:
    """Ray's settings, for the length of the block."""
    before = dict(os.environ)
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if own:
        # Ray's own switch for "one machine": everything binds to 127.0.0.1. A plain init listens on every interface.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        if not _has_token():
            os.environ["RAY_AUTH_TOKEN"] = _own_token()
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():  # never all of them: other threads read theirs
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _closed(own: bool) -> Iterator[None]:
    """Ray's switch for one machine, of a Ray that this process had imported before the environment said so."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = before and not own
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _check_it_answers(address: str) -> None:
    """Ray itself tries for minutes, in its own words."""
    host, _, port = address.rpartition(":")
    try:
        if host:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise MachineError(f"nothing answers at {address} ({error}). Give HOST:PORT as `ray start --head` printed it.") from None


def _why_no_ray(address: str | None, error: Exception) -> str:
    if address is None:
        return f"cannot start Ray: {error}. --serial runs the same sweep without Ray."
    token = "It answers only to its token: RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH (or, if it has none, RAY_AUTH_MODE=disabled)."
    return f"cannot reach the Ray cluster at {address}: {error}. {token} The cluster and this machine need the same Ray and Python."


@cache
def _own_token() -> str:
    """A token that is in no file; one for all sessions of this process, since Ray's native layer keeps the first that it reads."""
    return secrets.token_hex(32)


def _has_token() -> bool:
    return any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")) or (Path.home() / ".ray" / "auth_token").exists()


def _bundle(resources: Resources) -> dict[str, float]:
    return {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})


def _ask_nodes(ray: Any) -> list[Node]:
    """What trials would find on each node that has processors and answers in time, asked there."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def ask(processors: int, gpus: int) -> Node:
        # Ray hides the GPUs from a task that asks for none. Where its own count is larger, they are only numbers.
        return Node(processor_name(), processors, tuple(installed_gpus(hidden=True)[:gpus]))

    asked = [
        ray.remote(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))(ask).remote(
            int(node["Resources"]["CPU"]), int(node["Resources"].get("GPU", 0))
        )
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
    ]
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=ANSWER_SECONDS) if asked else ([], [])
    found = []
    for answer in answered:
        with suppress(ray.exceptions.RayError):  # its node has died since
            found.append(ray.get(answer))
    return found


def _param_space(trials: Sequence[Trial], requests: Mapping[str, Resources]) -> dict[str, Any]:
    """Tune's view of the plan: trials by id, each with what it asks for, and its config's fields as columns of Tune's own dataframe."""
    from ray import tune

    told = {trial.id: trial.config.to_dict() | {"asks": list(requests[trial.id])} for trial in trials}
    names = ("asks", *ExperimentConfig.model_fields)
    fields = {name: tune.sample_from(lambda spec, name=name: told[spec.config.trial_id][name]) for name in names}
    return {"trial_id": tune.grid_search(_Uncopied(told)), **fields}


class _Uncopied(list[str]):
    """A list that stays one: Tune copies its whole space for each trial, which would cost each of many trials a copy of all their names."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Uncopied:
        return self


def _trial_name(trial: Any) -> str:
    return str(trial.config["trial_id"])


def _trainable() -> type:
    """Our Tune Trainable; made here because its base class is Ray's, which only this file imports, and only when it runs."""
    from ray import tune

    class ReplicaTrial(tune.Trainable):  # type: ignore[misc]  # Ray's classes are untyped to us
        """One trial at a time; the process, with torch imported and the corpus mapped, goes on to the next."""

        def setup(
            self,
            config: dict[str, Any],
            trials: dict[str, Trial],
            corpus_ids: dict[str, str],
            carrier: Carrier,
            storage: Storage,
        ) -> None:
            # Nothing slow here: while it starts, Tune hands its trial to an actor that is free, and ends it. Short trials would never leave
            # the first node.
            self._trials, self._corpus_ids, self._carrier, self._our_storage = trials, corpus_ids, carrier, storage
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            granted = self.trial_resources.required_resources
            suggested = new_config.get("suggested")  # a search's trials are not known when the workers start
            trial = Trial.model_validate_json(suggested) if suggested else self._trials[new_config["trial_id"]]
            self._reports = self._carrier.train(
                trial,
                self._corpus_ids[trial.id],
                self._our_storage,
                threads=int(granted["CPU"]),
                gpu_share=granted.get("GPU", 0.0),
            )
            return True

        def step(self) -> Report:
            report = next(self._reports)
            return report | {"done": bool(report["rows"]) and all(row["status"] != "running" for row in report["rows"])}

        def cleanup(self) -> None:
            self._reports.close()  # which saves the trial where it has not ended

    return ReplicaTrial


def _searching(work: _Work, trials: Iterator[Trial]) -> dict[str, Any]:
    """Tune's settings for a search: `trials` one by one, as it asks for them. What becomes of them the search hears from the recorder."""
    from ray import tune

    class Suggestions(tune.search.Searcher):  # type: ignore[misc]
        """The next trial, added to what the run works on, and sent to a worker with what it asks for."""

        def __init__(self, work: _Work, trials: Iterator[Trial]) -> None:
            super().__init__()
            self._work, self._trials = work, trials

        def __getstate__(self) -> dict[str, Any]:
            return {}  # as for the callbacks below

        def suggest(self, trial_id: str) -> Any:
            if self._work.stop.is_set() or (trial := self._next()) is None:
                return self.FINISHED
            self._work.add(trial)
            asks = list(self._work.requests[trial.id])
            return {"trial_id": trial.id, "suggested": trial.model_dump_json(), "asks": asks} | trial.config.to_dict()

        def _next(self) -> Trial | None:
            try:
                return next(self._trials, None)
            except Exception as error:  # as for the callbacks below
                self._work.end_by(error)
                return None

        def on_trial_complete(self, trial_id: str, result: Report | None = None, error: bool = False) -> None: ...

        def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None: ...

    # Without a number Tune would prepare one trial at a time and leave slots idle.
    return {"search_alg": Suggestions(work, trials), "max_concurrent_trials": work.cluster.processors(), "num_samples": -1}


def _scheduler(work: _Work) -> Any:
    from ray.tune.schedulers import FIFOScheduler

    class EarlyStopping(FIFOScheduler):  # type: ignore[misc]
        """First come, first served; after an evaluation the recorder says whether a trial goes on."""

        def __init__(self, work: _Work) -> None:
            super().__init__()
            self._work = work

        def __getstate__(self) -> dict[str, Any]:
            return {}  # as for the callbacks below

        def on_trial_result(self, tune_controller: Any, trial: Any, result: Report) -> str:
            stops = self._work.recorder.stops(self._work.trials[trial.config["trial_id"]], result)
            return str(self.STOP if stops else self.CONTINUE)

    return EarlyStopping(work)


def _stopper(stop: threading.Event) -> Any:
    from ray import tune

    class Asked(tune.Stopper):  # type: ignore[misc]
        """Ends the whole experiment, trial by trial, when it was asked to."""

        def __init__(self, stop: threading.Event) -> None:
            self._stop = stop

        def __getstate__(self) -> dict[str, Any]:
            return {}  # as for the callbacks below

        def __call__(self, trial_id: str, result: Report) -> bool:
            return False

        def stop_all(self) -> bool:
            return self._stop.is_set()

    return Asked(stop)


def _callbacks(work: _Work) -> list[Any]:
    from ray import tune
    from ray.tune.logger import JsonLoggerCallback

    class Record(tune.Callback):  # type: ignore[misc]
        """Tune's events, handed to the recorder. Nothing is raised here, where it would leave trials unsaved: it ends the run."""

        def __init__(self, work: _Work) -> None:
            self._work = work

        def __getstate__(self) -> dict[str, Any]:
            return {}  # Tune pickles its callbacks for a restore that never comes: the same command starts a new Tune

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._record(lambda ours: self._work.recorder.begin(ours), trial)

        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Report, **info: Any) -> None:
            self._record(lambda ours: self._work.recorder.report(ours, result), trial)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._record(lambda ours: self._work.recorder.finish(ours, trial.last_result), trial)
            # Averages of every number in every report, and rows that are recorded: 100 kB a trial, which nobody asks Tune for.
            trial.metric_analysis.clear()
            trial.metric_n_steps.clear()
            trial.last_result.pop("rows", None)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            details = re.sub(r"\x1b\[[0-9;]*m", "", Path(trial.error_file).read_text())  # without the colours that Ray adds
            self._record(lambda ours: self._work.fail(ours, details), trial)

        def _record(self, what: Callable[[Trial], None], trial: Any) -> None:
            if self._work.broken is not None:
                return
            try:
                what(self._work.trials[trial.config["trial_id"]])
            except Exception as error:
                self._work.end_by(error)

    # Without one logger of its own, Tune's dataframe would be empty.
    return [Record(work), JsonLoggerCallback()]
