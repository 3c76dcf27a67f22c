"""A sweep's folder on its way home: which files go, and the manifest of the pieces that they travel in."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from archsweep.config import NAME_PATTERN
from archsweep.records.schema import CHECKPOINT_FOLDER, MODEL_FOLDER, MODELS_FOLDER

if TYPE_CHECKING:
    from pathlib import PurePosixPath

MANIFEST_MARK = "archsweep-manifest "  # how the line of a log begins that holds one
KINDS = {".json", ".jsonl", ".parquet", ".html", ".md", ".png", ".pdf", ".log", ".journal", ".txt", ".jinja", ".model", ".safetensors"}
_OTHER_KINDS = re.compile(r"events\.out\.tfevents\.[\w.-]+|\w+\.jsonl?\.attempt[0-9]+")  # TensorBoard's, and attempts that were set aside


class Order(BaseModel):
    """What is wanted of the cluster."""

    model_config = ConfigDict(frozen=True)

    sweep: str
    results: str
    models: bool
    ticket: str  # names the pieces, so that nobody can guess them


class Piece(BaseModel):
    """A part of the archive, as a file beside the head's logs."""

    model_config = ConfigDict(frozen=True)

    size: int
    sha256: str


class Manifest(BaseModel):
    """All of the archive."""

    model_config = ConfigDict(frozen=True)

    pieces: tuple[Piece, ...]
    files: int
    unpacked: int  # bytes

    @property
    def size(self) -> int:
        """The archive's bytes."""
        return sum(piece.size for piece in self.pieces)


def piece_name(ticket: str, number: int) -> str:
    """The name of a piece beside the head's logs."""
    return f"archsweep-fetch-{ticket}.{number}"


def describe_piece(content: bytes) -> Piece:
    """Size and hash of a piece."""
    return Piece(size=len(content), sha256=hashlib.sha256(content).hexdigest())


def travels(name: PurePosixPath, models: bool) -> bool:
    """Whether a file of a sweep's folder comes home: one of a kind that sweeps write, which nothing runs, and no checkpoint."""
    folders = name.parts[:-1]
    if name.is_absolute() or not all(re.fullmatch(r"\w[\w.=, -]{0,254}", part) for part in name.parts):
        return False
    if CHECKPOINT_FOLDER in folders or (not models and {MODEL_FOLDER, MODELS_FOLDER} & set(folders)):
        return False
    return name.suffix in KINDS or bool(_OTHER_KINDS.fullmatch(name.name))


def is_plain(name: str) -> bool:
    """Whether it names one folder and leads nowhere else."""
    return bool(re.fullmatch(NAME_PATTERN, name))
