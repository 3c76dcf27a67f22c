"""Where a run goes on after it was killed: safetensors and JSON, whole or not there, checked before they are believed."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from archsweep.atomic import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from torch import Tensor

FORMAT = 2  # of the facts that a run keeps: raised when they change, so that no run goes on from what it would misread
KEPT = 2  # the last one, and the one before in case the disk lost something of the last


class Checkpoints:
    """The resume points of one run in `folder`, each `<number>.json` with its `<number>.safetensors`.

    The JSON is written last and holds a SHA-256 of both, so a checkpoint that a kill or a disk has torn is not taken for one. `identity`
    (JSON values) is what the run is: a checkpoint of anything else is not taken either, unless it is None.
    """

    def __init__(self, folder: Path, identity: object) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._identity = None if identity is None else json.dumps([FORMAT, identity], sort_keys=True)

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], beside: Iterable[Path] = ()) -> None:
        """Write the next checkpoint, then remove all but the last KEPT; a copy of each file `beside` lies there once. Raises OSError where
        the folder cannot be written."""
        numbers = self._numbers()
        number = numbers[-1] + 1 if numbers else 1
        self._folder.mkdir(exist_ok=True)  # without what it lies in: a disk that was unmounted meanwhile is not to be made anew
        for source in beside:
            if not (self._folder / source.name).exists():
                write_atomically(self._folder / source.name, source.read_bytes())
        path = self._tensors_path(number)
        draft = path.with_name(f".{path.name}.tmp")
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, draft)
        with open(draft, "rb+") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        os.replace(draft, path)
        text = json.dumps({"identity": self._identity, "tensors_sha256": digest, "facts": facts})
        write_atomically(self._facts_path(number), json.dumps({"sha256": _sha256(text), "content": text}))
        for old in (*numbers[: len(numbers) + 1 - KEPT], *self._orphans(number)):
            self._facts_path(old).unlink(missing_ok=True)
            self._tensors_path(old).unlink(missing_ok=True)

    def load(self, warn: Callable[[str], object]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest whole checkpoint of this run as (tensors on the CPU, facts); None where there is none. Each that is not whole is told
        to `warn`."""
        for number in reversed(self._numbers()):
            try:
                return self._read(number)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                warn(f"checkpoint {self._facts_path(number)} is damaged and is left out: {error}")
        return None

    def _read(self, number: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        outer = json.loads(self._facts_path(number).read_text())
        if _sha256(outer["content"]) != outer["sha256"]:
            raise ValueError("its text does not have the checksum that was written with it")
        content = json.loads(outer["content"])
        if json.loads(content["identity"])[0] != FORMAT or self._identity not in (None, content["identity"]):
            raise ValueError("it belongs to another run: other config, replicas, corpus or version")
        path = self._tensors_path(number)
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != content["tensors_sha256"]:
                raise ValueError(f"{path.name} does not have the checksum that was written with it")
        return load_file(path), content["facts"]

    def _numbers(self) -> list[int]:
        return sorted(int(path.stem) for path in self._folder.glob("[0-9]*.json"))

    def _orphans(self, newest: int) -> list[int]:
        """Tensors whose JSON was never written, or is gone."""
        known = set(self._numbers())
        return [number for path in self._folder.glob("[0-9]*.safetensors") if (number := int(path.stem)) not in known and number < newest]

    def _facts_path(self, number: int) -> Path:
        return self._folder / f"{number:06}.json"

    def _tensors_path(self, number: int) -> Path:
        return self._folder / f"{number:06}.safetensors"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
