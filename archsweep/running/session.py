"""A Ray to work in: our own, closed to the network, or a running cluster's; and what its nodes are."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archsweep.device import Node, processor_name, processors
from archsweep.device import gpus as installed_gpus
from archsweep.errors import MachineError
from archsweep.imports import without_collector
from archsweep.running.autoscaler import node_types

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECT_SECONDS = 5.0  # that a cluster's head has to accept a connection
ANSWER_SECONDS = 60.0  # that a cluster's nodes have to say what they are

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
    "RAY_prestart_worker_first_driver": "0",  # what Ray starts beforehand no trial has used: .4 s each
}

# What Ray starts on one machine too, where there is nothing to scale, no output to pass on and no dashboard: .6 to 1 s of processor each,
# and a second of waiting for the first one's end.
_NEEDLESS = ("start_monitor", "start_log_monitor", "start_api_server")


def nodes(address: str) -> list[Node]:
    """What the nodes of the cluster at `address` have; none where an autoscaler may start others, or where they do not answer. Raises
    MachineError where it does not let us in."""
    with opened(None, None, address) as ray:
        return [] if any(kind.most for kind in node_types()) else ask_nodes(ray)


def cluster(address: str) -> str:
    """What the cluster at `address` has, in words. Raises MachineError where it does not let us in."""
    with opened(None, None, address) as ray:
        resources = ray.cluster_resources()
        alive = sum(node["Alive"] for node in ray.nodes())
        return f"Ray {ray.__version__}, {alive} nodes, {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"


def ask_nodes(ray: Any) -> list[Node]:
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


@contextmanager
def opened(num_cpus: int | None, num_gpus: int | None, address: str | None, python: str | None = None) -> Iterator[Any]:
    """Ray, for the length of the block: our own, closed to the network, sized by `num_cpus` and `num_gpus` (default: what the machine has),
    with workers that `python` starts, or the cluster at `address`. Raises MachineError where it cannot start or be reached."""
    if address is not None:
        _check_it_answers(address)
    with _environment(own=address is None), _small(own=address is None):
        import ray

        for name in ("ray", "ray.tune", "ray.train", "ray.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        own: dict[str, Any] = {"num_cpus": processors() if num_cpus is None else num_cpus, "num_gpus": num_gpus, "include_dashboard": False}
        if python:
            own["runtime_env"] = {"py_executable": python}
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
        os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # under `uv run`, workers are what we say, and this environment's all the same
        if not _has_token():
            os.environ["RAY_AUTH_TOKEN"] = _own_token()
    with without_collector():
        from ray._raylet import Config  # type: ignore[attr-defined]  # compiled

    Config.initialize("")  # reads the environment again: this process may have imported Ray before
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():  # never all of them: other threads read theirs
            del os.environ[name]
        os.environ.update(before)
        Config.initialize("")


@contextmanager
def _small(own: bool) -> Iterator[None]:
    """A Ray of our own is for one machine, and starts what trials need."""
    with without_collector():
        from ray._private import ray_constants
        from ray._private.node import Node

    # The first is read from the environment by whatever imports Ray first.
    ours: list[tuple[Any, str, Any]] = [(ray_constants, "ENABLE_RAY_CLUSTER", False)] if own else []
    ours += [(Node, start, lambda *_, **__: None) for start in _NEEDLESS if own and hasattr(Node, start)]
    before = [(where, name, getattr(where, name)) for where, name, _ in ours]
    for where, name, value in ours:
        setattr(where, name, value)
    try:
        yield
    finally:
        for where, name, value in before:
            setattr(where, name, value)


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
