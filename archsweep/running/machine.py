"""Where trials run, and what is known there: this machine or a cluster's nodes, their devices, and whether a plan could run on them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from archsweep.device import Node, gpus, processor_name, processors
from archsweep.planning import throughput
from archsweep.planning.forecast import Circumstances, Kind
from archsweep.running import resources
from archsweep.training.corpus import default_cache_dir, train_tokens

if TYPE_CHECKING:
    from pathlib import Path

    from archsweep.config import ExperimentConfig
    from archsweep.planning.plan import Plan


@dataclass(frozen=True)
class Machine:
    """Where to run: a Ray of our own sized by `num_cpus` and `num_gpus`, the cluster at `address`, this process, or where a `runner` of the
    user's ("package.module:function", called as serial.run is) has the trials run."""

    num_cpus: int | None = None
    num_gpus: int | None = None
    address: str | None = None
    serial: bool = False
    cache_dir: Path | None = None
    checkpoint_seconds: float = 60.0
    runner: str | None = None
    is_unknown: bool = False  # a cluster that another process reaches: nothing is asked of it

    @property
    def cache(self) -> Path:
        """Where tokenized corpora and measured throughput are kept."""
        return self.cache_dir or default_cache_dir()

    @cached_property
    def nodes(self) -> list[Node]:
        """What trials run on: this machine, or a cluster's nodes, where they show. Raises MachineError for one that cannot be reached."""
        if self.is_unknown:
            return []
        if self.address is not None:
            from archsweep.running import session

            return session.nodes(self.address)
        count = 1 if self.serial else processors() if self.num_cpus is None else self.num_cpus
        return [Node(processor_name(), count, tuple(gpus()[: self.num_gpus]))]

    def used(self, config: ExperimentConfig) -> list[Node]:
        """The nodes that trials like `config` would train on, those with GPUs where they train on GPUs, and else all, without any."""
        with_gpus = [node for node in self.nodes if node.gpus and config.device != "cpu"]
        return with_gpus or [node._replace(gpus=()) for node in self.nodes]

    def device_names(self, config: ExperimentConfig) -> list[str]:
        """What trials like `config` would train on."""
        return list(dict.fromkeys(device_name(node) for node in self.used(config)))


def device_name(node: Node) -> str:
    return node.gpus[0].name if node.gpus else node.processor_name


def circumstances(plan: Plan, machine: Machine, price: float | None) -> Circumstances:
    """Where the plan would run. Raises MachineError where one of its trials never could."""
    config = plan.trials[0].config
    nodes = machine.used(config)
    _check_gpus(plan, machine)
    memories = [gpu.memory for node in nodes for gpu in node.gpus]
    in_parts = not (plan.keeps_trials_whole or machine.serial or machine.runner)
    resources.check_some_gpu_holds(plan.trials, memories, whole=not in_parts)
    asked = resources.largest_request(plan.trials, bool(memories), min(memories, default=0))
    have = [{"CPU": node.processors, "GPU": len(node.gpus)} for node in nodes]
    if nodes:
        resources.check_some_node_holds(asked, have)
    slots: Counter[str] = Counter()
    for node, has in zip(nodes, have, strict=True):
        slots[device_name(node)] += resources.fitting(asked, has)
    known = throughput.load(machine.cache)
    return Circumstances(
        kinds=tuple(Kind(name, count, tuple(line for line in known if line.device_name == name)) for name, count in slots.items()),
        devices=sum(min(len(node.gpus) or node.processors, node.processors) for node in nodes),
        gpu_bytes=min(memories, default=None),
        corpus_tokens=train_tokens(plan.reading(config), machine.cache_dir),
        price=price,
        in_parts=in_parts,
        is_here=machine.address is None,
    )


def _check_gpus(plan: Plan, machine: Machine) -> None:
    """Raises MachineError where a config names a GPU that is not on this machine."""
    named = [trial.config for trial in plan.trials if trial.config.device.startswith("cuda")]
    if machine.address is None and machine.nodes:
        there = len(machine.nodes[0].gpus)
        missing = [config for config in named if int(config.device.partition(":")[2] or 0) >= there]
        for config in {config.device: config for config in missing}.values():
            from archsweep.training.precision import resolve_device

            resolve_device(config)  # torch may see one that the driver's tool does not name
