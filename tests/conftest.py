"""What several rooms' tests need."""

from __future__ import annotations

import gc
import os
import signal
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from archsweep.config import ExperimentConfig
from archsweep.imports import end_quickly
from archsweep.planning.plan import Plan, make_plan
from archsweep.space import Choice, Space

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STORE = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "hidden", "AWS_EC2_METADATA_DISABLED": "true"}  # opens the store below
gc.set_threshold(50_000, 20, 50)  # a process that runs many tests spends a tenth of its time looking for garbage otherwise
end_quickly()
os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray keeps what it finds when a process first imports it
AS_EQUALS = {"RAY_worker_niceness": "0"}  # for a Ray beside other tests: 15 by default, with which trials wait for every one of them
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's threads wait for each other by spinning: on shared processors, for long
    os.environ |= AS_EQUALS
if (
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN
):  # a shell has what it runs in the background ignore Ctrl-C, and so all that this starts
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files whose tests are allowed most time come first, so that none of several processes is left with a long one at the end."""
    limits: dict[Path, int] = {}
    for item in items:
        if (limit := item.get_closest_marker("timeout")) is not None:
            limits[item.path] = max(limits.get(item.path, 0), limit.args[0])
    items.sort(key=lambda item: -limits.get(item.path, 0))


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of 400 short documents, enough for windows of 16 tokens."""
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    subjects, verbs, objects = (
        ("The cat", "A dog", "My neighbour", "The old king"),
        ("sees", "hears", "likes", "forgets"),
        ("fish", "the moon", "rain"),
    )
    lines = [f"{subjects[n % 4]} {verbs[n // 4 % 4]} {objects[n % 3]}, and number {n} follows number {n - 1}." for n in range(400)]
    path.write_text("\n\n".join(lines))
    return path


@pytest.fixture(scope="session")
def tiny_config(tiny_text: Path) -> ExperimentConfig:
    """A model that trains in a second."""
    return ExperimentConfig(
        num_layers=1, num_heads=2, head_dim=8, context_length=16, batch_size=4, max_tokens=4 * 16 * 6, eval_tokens=256, num_evaluations=2,
        vocab_size=300, dataset=f"text:{tiny_text}",
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_plan(tiny_config: ExperimentConfig) -> Plan:
    """Two variants, each with two learning rates and two seeds."""
    space = Space(base=tiny_config, compare={"num_layers": Choice(1, 2)}, tune={"learning_rate": Choice(1e-3, 3e-3)}, repeat=2)
    return make_plan("tiny", "One layer or two?", space, "corpus")


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Makes a bucket in a store that speaks S3, and says its URI; the environment has what opens it."""
    from pyarrow.fs import S3FileSystem

    for name, value in STORE.items():
        monkeypatch.setenv(name, value)

    def bucket(name: str) -> str:
        name = f"{name}-{uuid4().hex[:8]}"  # the store is the whole session's
        place = {"scheme": "http", "endpoint_override": s3_server, "region": "us-east-1"}
        S3FileSystem(allow_bucket_creation=True, **place).create_dir(name)
        return f"s3://{name}?{'&'.join(f'{key}={value}' for key, value in place.items())}"

    return bucket


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a server on loopback that speaks S3."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()
