"""What shapes take on this machine, measured where nobody has, and kept: a plan that rests on it stays as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archsweep.atomic import must_be_writable
from archsweep.errors import MachineError
from archsweep.planning import throughput

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from archsweep.config import ExperimentConfig, Replica

    Work = Sequence[tuple[ExperimentConfig, Sequence[Replica]]]

OTHER_CACHE = "It keeps what training took; choose another folder with ARCHSWEEP_CACHE=FOLDER."


def measure(work: Work, device_name: str, here: str, cache_dir: Path, workers: int, say: Callable[[str], object]) -> None:
    """Train each shape of `work` that was not measured on this device for a few seconds, `workers` at a time, and keep what it took.

    Raises DataError and MachineError as training does, and MachineError where this machine trains on something else than `device_name`:
    on what is `here`, or what torch says.
    """
    missing = _unmeasured(work, device_name, cache_dir)
    if not missing:
        return
    if device_name != here:
        raise MachineError(
            f"{len(missing)} shapes must be measured on {device_name} for this plan, and this machine trains on {here}. Run the plan with "
            f"--measure on such a machine, with the cache of this one ({cache_dir})."
        )
    from archsweep.training.data import prepare
    from archsweep.training.probe import probe

    say(f"measuring {len(missing)} shape{'s' if len(missing) > 1 else ''} on {device_name}, a few seconds each")
    prepare(missing[0][0], cache_dir)  # once, before the processes that measure
    for (config, replicas), found in zip(missing, probe(missing, cache_dir, workers), strict=True):
        if found.device_name != device_name:
            raise MachineError(
                f"torch trains on {found.device_name}, and the plan is for {device_name}. Name the device: --set device=cpu."
            )
        line = throughput.measured(config, "measurement", replicas=len(replicas), **found._asdict())
        with must_be_writable(cache_dir, OTHER_CACHE):
            throughput.append(cache_dir, line)


def _unmeasured(work: Work, device_name: str, cache_dir: Path) -> Work:
    """One of each shape that has no measurement on the device."""
    known = throughput.first_measurements(device_name, throughput.load(cache_dir))
    shapes = {throughput.shape_key(config): (config, replicas) for config, replicas in work}
    return [each for shape, each in shapes.items() if shape not in known]
