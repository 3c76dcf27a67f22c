"""The nodes that an autoscaled cluster could start, beside those that it has."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from archsweep.errors import MachineError

VARIABLE = "ARCHSWEEP_NODE_TYPES"  # for an autoscaler whose configuration does not lie on the head, as on Kubernetes


class NodeType(NamedTuple):
    """A kind of node by what it has, as {"CPU": 8, "GPU": 1}, and how many of it there may be."""

    resources: dict[str, float]
    most: int


def node_types() -> list[NodeType]:
    """The kinds that the autoscaler of this host's cluster may start; none where there is no autoscaler.

    As the environment variable tells, else as the configuration that Ray's monitor was started with. Raises MachineError for a variable
    that cannot be read.
    """
    if told := os.environ.get(VARIABLE):
        try:
            return [NodeType({str(name): float(amount) for name, amount in has.items()}, int(most)) for most, has in json.loads(told)]
        except (ValueError, TypeError, AttributeError):
            example = '[[4, {"CPU": 8, "GPU": 1}]] for at most four nodes of a kind'
            raise MachineError(f"{VARIABLE} must be a JSON list as {example}, got {told!r}.") from None
    return next((kinds for path in _configurations() if (kinds := _configured(path))), [])


def _configurations() -> list[Path]:
    """What the monitors on this host were given."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended
            continue
        if any(word.endswith("monitor.py") for word in words):
            given = [word.partition("=")[2] for word in words if word.startswith("--autoscaling-config=")]
            found += [Path(path).expanduser() for path in given]  # as Ray's monitor does: its launcher writes ~
    return found


def _configured(path: Path) -> list[NodeType]:
    import yaml

    try:
        config: dict[str, Any] = yaml.safe_load(path.read_text())
        kinds = config["available_node_types"]
        named = {name: kind.get("resources") or {} for name, kind in kinds.items() if name != config.get("head_node_type")}
        return [NodeType(resources, kinds[name].get("max_workers", config.get("max_workers", 0))) for name, resources in named.items()]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, yaml.YAMLError):
        return []
