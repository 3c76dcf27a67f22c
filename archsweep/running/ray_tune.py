"""Trials by Ray Tune, side by side on this machine or a cluster. Tune schedules; what is true is in our own records."""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archsweep.config import ExperimentConfig
from archsweep.device import Gpu, gpus
from archsweep.imports import import_meanwhile, without_collector
from archsweep.planning.plan import Trial
from archsweep.running import session
from archsweep.running.autoscaler import node_types
from archsweep.running.carrier import Carrier, make_carrier
from archsweep.running.fork_server import preloaded
from archsweep.running.recorder import reason_in
from archsweep.running.resources import ASSUMED_GPU_BYTES, Resources, check_some_node_holds, fitting, larger, largest_request, request
from archsweep.running.worker import are_last

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from archsweep.planning.search import Search
    from archsweep.running.recorder import Recorder
    from archsweep.running.worker import Report, Storage

# What a worker imports in its first trial, but for Ray itself: that reads what its worker is when it is imported.
_WORKERS_IMPORT = (
    __name__,
    "archsweep.training.allocator",
    "archsweep.training.experiment",
    "archsweep.training.hardware",
    "pandas",
    "pyarrow",
)

MOST_LOSSES = 3  # times that a trial may lose its process; a machine that kills it each time is out of memory

# How reasons begin. What is no tensor, as a kernel's code or a handle of cuBLAS, runs out of what the neighbours leave, in other words.
_OUT_OF_MEMORY = re.compile(
    f"{re.escape('torch.OutOfMemoryError')}|{re.escape('torch.cuda.OutOfMemoryError')}"
    r"|(torch\.AcceleratorError|RuntimeError): CUDA error: (out of memory|CUBLAS_STATUS_(ALLOC_FAILED|NOT_INITIALIZED))"
)


class Cluster:
    """A Ray that runs: what its nodes have, and the trials that Tune schedules on them. Where it `is_elsewhere`, its nodes may be other
    machines, without this one's disk."""

    def __init__(self, ray: Any, is_elsewhere: bool) -> None:
        self._ray, self._is_elsewhere = ray, is_elsewhere
        self._types = node_types() if is_elsewhere else []
        self._use_gpu = any(node.get("GPU", 0) > 0 for node in self._possible())
        self.gpu_bytes = min((gpu.memory for gpu in self._gpus()), default=None)  # of the smallest GPU, where one told
        self._gpu_bytes = self.gpu_bytes or ASSUMED_GPU_BYTES

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
        carrier = make_carrier(recorder.place, storage, keeps=self._is_elsewhere)
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

    def _gpus(self) -> list[Gpu]:
        """Those of the nodes, where they tell."""
        count = sum(node.get("GPU", 0) for node in self._nodes())
        if not count:
            return []
        if self._is_elsewhere:
            return [gpu for node in session.ask_nodes(self._ray) for gpu in node.gpus]
        return gpus()[: int(count)]  # which knows what CUDA_VISIBLE_DEVICES names; Ray hides it from a task that asks for none

    def _possible(self) -> list[dict[str, float]]:
        """A node's resources, for each that is there, and one of each kind that the autoscaler may start."""
        return [*self._nodes(), *(kind.resources for kind in self._types if kind.most)]

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]


@contextmanager
def prepared(num_gpus: int | None = None, address: str | None = None) -> Iterator[str | None]:
    """For a while before `started` and as long as it: a process that imports what workers import, for them to be forks of. Yields what is
    their `python`; None where they are other machines', or a Ray job's, which may have a `python` of its own, or may use a GPU, which a
    fork can only where no import has looked for one."""
    if address is not None or num_gpus or (num_gpus is None and gpus()) or "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        yield None
    else:
        with preloaded(_WORKERS_IMPORT) as python:
            yield python


@contextmanager
def started(
    num_cpus: int | None = None, num_gpus: int | None = None, address: str | None = None, python: str | None = None
) -> Iterator[Cluster]:
    """A Ray of our own for the length of the block, sized by `num_cpus` and `num_gpus` (default: what the machine has), its workers started
    by `python` where one is prepared; or the running Ray at `address`. Raises MachineError where it cannot start or be reached."""
    import_meanwhile("pandas", "pyarrow")  # for Tune, while Ray starts
    with session.opened(num_cpus, num_gpus, address, python) as ray:
        yield Cluster(ray, is_elsewhere=address is not None)


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
    with without_collector():
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


def _bundle(resources: Resources) -> dict[str, float]:
    return {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})


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
    """Our Tune Trainable; made here because its base class is Ray's, which is imported only when it runs."""
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
            return report | {"done": are_last(report["rows"])}

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
