"""Trials by Ray Tune, side by side on this machine or a cluster. Tune schedules; what is true is in our own records."""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import subprocess
import tempfile
import threading
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archsweep.config import ExperimentConfig
from archsweep.errors import MachineError
from archsweep.planning.plan import Trial
from archsweep.running.recorder import reason_in
from archsweep.running.resources import ASSUMED_GPU_BYTES, Resources, request
from archsweep.running.worker import Report, train_trial

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from archsweep.planning.search import Search
    from archsweep.running.recorder import Recorder

# Ray reads these when it is imported or started. Set by the user, they stay.
_SETTINGS = {
    "RAY_AUTH_MODE": "token",  # without a token nothing is answered, on this machine or between machines
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0: Tune prints nothing
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: running/stop.py
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths in a config mean the user's folder
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a trial that was granted no GPU sees none
    "RAY_USAGE_STATS_ENABLED": "0",
}


def run(
    trials: Sequence[Trial],
    corpus_ids: Mapping[str, str],
    recorder: Recorder,
    stop: threading.Event,
    *,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    address: str | None = None,
    cache_dir: Path | None = None,
    search: Search | None = None,
) -> Any:
    """Train `trials` with Ray Tune, the first ones first, each on the corpus that `corpus_ids` names for it, until `stop` is set.

    With a `search`, its suggestions follow them, as many at a time as there are slots.
    `num_cpus` and `num_gpus` size a Ray of our own (default: what the machine has), `address` names a running cluster. A trial that fails
    is recorded as failed. Returns Tune's result dataframe, one row per trial. Raises MachineError where Ray cannot start, or no node could
    ever hold one of the trials.
    """
    with _ray(num_cpus, num_gpus, address) as ray:
        from ray import tune

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        use_gpu = any(node.get("GPU", 0) > 0 for node in nodes)
        gpu_bytes = _smallest_gpu_bytes(ray) if use_gpu else ASSUMED_GPU_BYTES
        requests = {trial.id: request(trial, use_gpu, gpu_bytes) for trial in trials}
        for resources in set(requests.values()):
            _check_some_node_holds(resources, nodes)
        by_id = {trial.id: trial for trial in trials}
        known = dict(by_id)  # grows with a search
        searched = _searcher(search, list(trials), known) if search else None
        trainable = tune.with_resources(
            tune.with_parameters(
                _trainable(),
                trials=by_id,
                corpus_ids=corpus_ids,
                home=recorder.home,
                cache_dir=cache_dir,
            ),
            lambda config: tune.PlacementGroupFactory([_bundle(request(_ours(config, by_id), use_gpu, gpu_bytes))]),
        )
        with tempfile.TemporaryDirectory(prefix="archsweep-tune-") as scratch:
            tuner = tune.Tuner(
                trainable,
                param_space={} if searched else _param_space(trials),
                tune_config=tune.TuneConfig(
                    reuse_actors=True,
                    trial_name_creator=_trial_name,
                    trial_dirname_creator=_trial_name,
                    scheduler=_scheduler(known, recorder),
                    **(_searching(searched, nodes) if searched else {}),
                ),
                run_config=tune.RunConfig(
                    name="tune",
                    storage_path=scratch,
                    verbose=0,
                    callbacks=_callbacks(known, recorder),
                    stop=_stopper(stop),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # the records are the result
                ),
            )
            frame = tuner.fit().get_dataframe()
        for trial in known.values():
            recorder.tidy(trial)
        return frame


@contextmanager
def _ray(num_cpus: int | None, num_gpus: int | None, address: str | None) -> Iterator[Any]:
    """A Ray session that ends with the block: our own, closed to the network, or the cluster at `address`."""
    with _environment(own=address is None):
        import ray

        for name in ("ray", "ray.tune", "ray.train", "ray.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        own = {"num_cpus": _processors() if num_cpus is None else num_cpus, "num_gpus": num_gpus, "include_dashboard": False}
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
        os.environ.clear()
        os.environ.update(before)


def _why_no_ray(address: str | None, error: Exception) -> str:
    if address is None:
        return f"cannot start Ray: {error}. --serial runs the same sweep without Ray."
    token = "It answers only to its token: RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH (or, if it has none, RAY_AUTH_MODE=disabled)."
    return f"cannot reach the Ray cluster at {address}: {error}. {token}"


def _processors() -> int:
    """Those that this process may use; a batch system often gives fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _own_token() -> str:
    """A token that is in no file; one for all sessions of this process, since Ray's native layer keeps the first that it reads."""
    return secrets.token_hex(32)


def _has_token() -> bool:
    return any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")) or (Path.home() / ".ray" / "auth_token").exists()


def _bundle(resources: Resources) -> dict[str, float]:
    return {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})


def _smallest_gpu_bytes(ray: Any) -> int:
    """Memory of the smallest GPU of a node that has any, as its driver tells; assumed where Ray's GPUs are only numbers."""

    def ask() -> list[int]:
        command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]  # MiB
        try:
            return [int(line) * 2**20 for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]
        except (OSError, subprocess.CalledProcessError, ValueError):
            return []

    return min(ray.get(ray.remote(num_cpus=0, num_gpus=0.01)(ask).remote()), default=ASSUMED_GPU_BYTES)


def _check_some_node_holds(resources: Resources, nodes: Sequence[dict[str, float]]) -> None:
    """Ray would wait forever for what no node has."""
    if not any(node.get("CPU", 0) >= resources.cpus and node.get("GPU", 0) >= resources.gpus for node in nodes):
        largest = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
        raise MachineError(
            f"a trial needs {resources.cpus} CPUs and {resources.gpus:g} GPUs on one node, and the nodes have {largest}. "
            "Raise --num-cpus or --num-gpus, or name a larger cluster with --address."
        )


def _param_space(trials: Sequence[Trial]) -> dict[str, Any]:
    """Tune's view of the plan: trials by id, each with its config's fields as columns of Tune's own dataframe."""
    from ray import tune

    configs = {trial.id: trial.config.to_dict() for trial in trials}
    fields = {name: tune.sample_from(lambda spec, name=name: configs[spec.config.trial_id][name]) for name in ExperimentConfig.model_fields}
    return {"trial_id": tune.grid_search(list(configs)), **fields}


def _ours(config: Mapping[str, Any], trials: Mapping[str, Trial]) -> Trial:
    """The trial that Tune's config is about; a search's comes with it, since Tune has pickled `trials` before it was suggested."""
    suggested = config.get("suggested")
    return Trial.model_validate_json(suggested) if suggested else trials[config["trial_id"]]


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
            home: Path,
            cache_dir: Path | None,
        ) -> None:
            self._trials, self._corpus_ids, self._home, self._cache_dir = trials, corpus_ids, home, cache_dir
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            granted = self.trial_resources.required_resources
            trial = _ours(new_config, self._trials)
            self._reports = train_trial(
                trial,
                self._corpus_ids[trial.id],
                self._cache_dir,
                threads=int(granted["CPU"]),
                folder=self._home / trial.id,
                gpu_share=granted.get("GPU", 0.0),
            )
            return True

        def step(self) -> Report:
            report = next(self._reports)
            return report | {"done": bool(report["rows"]) and all(row["status"] != "running" for row in report["rows"])}

        def cleanup(self) -> None:
            self._reports.close()  # which saves the trial where it has not ended

    return ReplicaTrial


def _searcher(search: Search, unfinished: list[Trial], known: dict[str, Trial]) -> Any:
    """Tune's view of a search: the trials that it goes on with, then its suggestions, all of them put into `known`."""
    from ray import tune

    class Suggestions(tune.search.Searcher):  # type: ignore[misc]
        """What becomes of a trial the search hears from the recorder."""

        def __init__(self, trials: Iterator[Trial], known: dict[str, Trial]) -> None:
            super().__init__()
            self._trials, self._known = trials, known

        def __getstate__(self) -> dict[str, Any]:
            return {}  # as for the callbacks below

        def suggest(self, trial_id: str) -> Any:
            if (trial := next(self._trials, None)) is None:
                return self.FINISHED
            self._known[trial.id] = trial
            return {"trial_id": trial.id, "suggested": trial.model_dump_json()} | trial.config.to_dict()

        def on_trial_complete(self, trial_id: str, result: Report | None = None, error: bool = False) -> None: ...

        def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None: ...

    return Suggestions(search.trials(unfinished), known)


def _searching(searcher: Any, nodes: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Tune's settings for it. Without a number Tune would prepare one trial at a time and leave slots idle."""
    slots = int(sum(node.get("CPU", 0) for node in nodes))  # a trial takes one processor at least
    return {"search_alg": searcher, "max_concurrent_trials": max(1, slots), "num_samples": -1}


def _scheduler(known: Mapping[str, Trial], recorder: Recorder) -> Any:
    from ray.tune.schedulers import FIFOScheduler

    class EarlyStopping(FIFOScheduler):  # type: ignore[misc]
        """First come, first served; after an evaluation the recorder says whether a trial goes on."""

        def __init__(self, known: Mapping[str, Trial], recorder: Recorder) -> None:
            super().__init__()
            self._known, self._recorder = known, recorder

        def __getstate__(self) -> dict[str, Any]:
            return {}  # as for the callbacks below

        def on_trial_result(self, tune_controller: Any, trial: Any, result: Report) -> str:
            stops = self._recorder.stops(self._known[trial.config["trial_id"]], result)
            return str(self.STOP if stops else self.CONTINUE)

    return EarlyStopping(known, recorder)


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


def _callbacks(known: Mapping[str, Trial], recorder: Recorder) -> list[Any]:
    from ray import tune
    from ray.tune.logger import JsonLoggerCallback

    class Record(tune.Callback):  # type: ignore[misc]
        """Tune's events, handed to the recorder."""

        def __init__(self, known: Mapping[str, Trial], recorder: Recorder) -> None:
            self._known, self._recorder = known, recorder

        def __getstate__(self) -> dict[str, Any]:
            return {}  # Tune pickles its callbacks for a restore that never comes: the same command starts a new Tune

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._recorder.begin(self._ours(trial))

        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Report, **info: Any) -> None:
            self._recorder.report(self._ours(trial), result)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._recorder.finish(self._ours(trial), trial.last_result)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            details = re.sub(r"\x1b\[[0-9;]*m", "", Path(trial.error_file).read_text())  # without the colours that Ray adds
            self._recorder.fail(self._ours(trial), reason_in(details), details)

        def _ours(self, trial: Any) -> Trial:
            return self._known[trial.config["trial_id"]]

    # Without one logger of its own, Tune's dataframe would be empty.
    return [Record(known, recorder), JsonLoggerCallback()]
