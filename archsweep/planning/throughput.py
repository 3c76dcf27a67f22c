"""Throughput: what training took on each device, a line of JSON per trial or measurement, and what other shapes are predicted to take."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from math import exp, log, sqrt
from statistics import linear_regression, median, stdev, variance
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from archsweep.config import TRAINER_VERSION, ExperimentConfig
from archsweep.planning.cost import work_per_token

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

THROUGHPUT_FILE = "throughput.jsonl"  # in the folder of the tokenized corpora
# What decides how long a token takes.
SHAPE_FIELDS = (
    "family", "num_layers", "num_heads", "head_dim", "hidden_size", "ffn_size", "num_kv_heads", "context_length", "vocab_size",
    "dropout", "model_overrides", "batch_size", "gradient_accumulation_steps", "micro_batch_size", "precision",
    "allow_tf32", "gradient_checkpointing", "compile",
)  # fmt: skip
SHORTEST_SECONDS = 2.0  # of a trial's training: less tells of its first steps alone

# Spreads are standard deviations of the logarithm. Where too few measurements tell them, these hold.
SAME_SHAPE, OTHER_SHAPE, LEAST_SPREAD = 0.1, 0.3, 0.05
BEYOND = 0.2  # more for each factor of e that a shape lies beyond what was measured


class Measured(BaseModel):
    """What one token of one replica took, in training a shape on a device; `other_seconds` are those of its trial outside of training."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    by: Literal["trial", "measurement"]
    device_name: str
    precision: str  # that matrix products were computed in
    trainer_version: int = TRAINER_VERSION
    shape: dict[str, JsonValue]
    replicas: int
    stack_size: int
    work_per_token: int
    seconds_per_token: float
    evaluated_tokens: int = 0  # of all replicas
    other_seconds: float | None = None


class Rate(NamedTuple):
    """Predicted seconds per token and replica, the standard deviation of their logarithm, and whether this very shape was measured."""

    seconds_per_token: float
    spread: float
    exact: bool


def shape_of(config: ExperimentConfig) -> dict[str, JsonValue]:
    """The fields that decide how long a token takes."""
    fields = config.to_dict()
    return {name: fields[name] for name in SHAPE_FIELDS}


def measured(config: ExperimentConfig, by: Literal["trial", "measurement"], **facts: JsonValue) -> Measured:
    """A line for `config`; `facts` are Measured's other fields."""
    return Measured.model_validate({"by": by, "shape": shape_of(config), "work_per_token": work_per_token(config), **facts})


def load(cache_dir: Path) -> list[Measured]:
    """Every whole line by the present trainer, in the order they were written."""
    try:
        lines = (cache_dir / THROUGHPUT_FILE).read_bytes().split(b"\n")
    except OSError:
        return []  # a cache: what cannot be read there is as good as missing
    found = [line for line in map(_parsed, lines) if line is not None]
    return [line for line in found if line.trainer_version == TRAINER_VERSION]


def _parsed(line: bytes) -> Measured | None:
    try:
        return Measured.model_validate_json(line)
    except ValidationError:
        return None  # torn by a kill, or another version's


def append(cache_dir: Path, line: Measured) -> None:
    """Add a line, whole whoever else writes there. Raises OSError where the folder cannot be written."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    text = json.dumps(line.model_dump(mode="json"))
    file = os.open(cache_dir / THROUGHPUT_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, f"\n{text}\n".encode())  # a line that a kill has torn stays alone
    finally:
        os.close(file)


def first_measurements(device_name: str, known: Iterable[Measured]) -> dict[str, float]:
    """Seconds per token of each shape, by its `shape_key`, as they were first measured on the device: a plan that rests on them stays as
    it is."""
    found: dict[str, float] = {}
    for line in known:
        if line.by == "measurement" and line.device_name == device_name:
            found.setdefault(_key(line.shape), line.seconds_per_token)
    return found


def shape_key(config: ExperimentConfig) -> str:
    """Names the shape of `config`."""
    return _key(shape_of(config))


def _key(shape: dict[str, JsonValue]) -> str:
    return json.dumps(shape, sort_keys=True)


class Rates:
    """What configs are predicted to take on the device that `known` is of. Made once for a plan, it reads `known` once, however long."""

    def __init__(self, known: Sequence[Measured]) -> None:
        self._exact: defaultdict[str, list[float]] = defaultdict(list)  # logarithms of seconds per token, by shape
        alike: defaultdict[JsonValue, list[Measured]] = defaultdict(list)
        for line in known:
            self._exact[_key(line.shape)].append(log(line.seconds_per_token))
            alike[line.shape.get("precision")].append(line)
        self._spread_of_repeats = _spread_of_repeats(self._exact.values())
        self._fits = {precision: _fit(lines) for precision, lines in alike.items()}
        self.set_up_seconds = set_up_seconds(known)

    def of(self, config: ExperimentConfig) -> Rate | None:
        """What `config` takes; None where nothing alike was measured.

        The same shape counts alone where it was measured. Else seconds follow work by a power of it, fitted to the logarithms.
        """
        if exact := self._exact.get(shape_key(config)):
            return Rate(exp(median(exact)), self._spread_of_repeats, exact=True)
        fit = self._fits.get(config.precision)
        return None if fit is None else fit.at(log(work_per_token(config)))


class _Fit(NamedTuple):
    """A line through logarithms of work and of seconds per token, and where on it work was measured."""

    slope: float
    offset: float
    spread: float
    least: float
    most: float

    def at(self, x: float) -> Rate:
        beyond = max(0.0, x - self.most, self.least - x)
        return Rate(exp(self.slope * x + self.offset), self.spread + BEYOND * beyond, exact=False)


def _fit(lines: Sequence[Measured]) -> _Fit:
    xs = [log(line.work_per_token) for line in lines]
    ys = [log(line.seconds_per_token) for line in lines]
    slope = linear_regression(xs, ys).slope if len(set(xs)) > 2 and max(xs) - min(xs) > log(2) else 1.0
    residuals = [y - slope * x for x, y in zip(xs, ys, strict=True)]
    spread = max(LEAST_SPREAD, stdev(residuals)) if len(residuals) > 2 else OTHER_SHAPE
    return _Fit(slope, median(residuals), spread, min(xs), max(xs))


def _spread_of_repeats(shapes: Iterable[list[float]]) -> float:
    """How far measurements of one shape (logarithms) lie apart on this device, pooled over its shapes."""
    repeated = [repeats for repeats in shapes if len(repeats) > 1]
    degrees = sum(len(repeats) - 1 for repeats in repeated)
    squares = sum((len(repeats) - 1) * variance(repeats) for repeats in repeated)
    return max(LEAST_SPREAD, sqrt(squares / degrees)) if degrees > 1 else SAME_SHAPE


def set_up_seconds(known: Sequence[Measured]) -> float:
    """What a trial takes beside training and evaluation (a token forward takes a third of one in training), in the median; 0 if unknown."""
    rests = [
        max(0.0, line.other_seconds - line.evaluated_tokens * line.seconds_per_token / 3)
        for line in known
        if line.other_seconds is not None
    ]
    return median(rests) if rests else 0.0
