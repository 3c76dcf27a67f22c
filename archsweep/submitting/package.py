"""The project as it is sent: the current folder's files, without what is ignored, secret, large by nature or outside of it."""

from __future__ import annotations

import importlib.util
import os
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pathspec import GitIgnoreSpec

from archsweep.errors import SpaceError
from archsweep.records.schema import PLAN_FILE, TRIALS_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from archsweep.submitting.door import Token

MOST_BYTES = 100 * 2**20  # what Ray's dashboard takes in one request (DASHBOARD_CLIENT_MAX_SIZE)
MOST_PACKING = 10  # times that files shrink, at the most, when they are packed
MOST_NAMED = 10
IGNORE_FILES = (".gitignore", ".rayignore")
OUR_PACKAGES = ("archsweep", "search_spaces")

# Names that stay here, in lower case, whatever the ignore files say.
SECRETS = (
    "*.pem", "*.key", "*.p8", "*.p12", "*.pfx", "*.ppk", "*.jks", "*.keystore", "*.kdbx", "*.gpg", "*.asc", "id_rsa*", "id_dsa*",
    "id_ecdsa*", "id_ed25519*", "*credentials*", "*.credential", "secret", "secrets", "secret.*", "secrets.*", "*secret*.json",
    "*secret*.toml", "*secret*.txt", "*secret*.y*ml", "*secret*.ini", "auth_token*", "token", "token.txt", "*.token", "*_token",
    "*_token.txt", "*api_key*", "*apikey*", "*service_account*.json", "*service-account*.json", "kubeconfig*", "*.kubeconfig",
    "*.tfvars", "*.tfstate", "*.tfstate.backup", "netrc", "_netrc", "htpasswd", "pgpass", "*.env", "env.sh",
    "*accesskeys*.csv", "rootkey*.csv",
)  # fmt: skip
LEFTOVERS = (".*", "__pycache__", "*.pyc", "*.pyo", "*.egg-info", "node_modules", "*.safetensors", "*.ckpt", "*.pt", "*.pth", "*.swp", "*~")
LEFTOVER_FOLDERS = ("results", "checkpoint", "checkpoints", "checkpoint-*", "cache", "caches", "*_cache", "wandb", "mlruns")  # of no code
_PRIVATE_KEY = (b"-----BEGIN", b"PRIVATE KEY-----")


@dataclass(frozen=True)
class Package:
    """The files to send by their names in the package, and those that stay here because they look like secrets."""

    files: dict[PurePosixPath, Path]
    kept_back: tuple[PurePosixPath, ...]

    @property
    def size(self) -> int:
        """The files' bytes."""
        return sum(path.stat().st_size for path in self.files.values())

    def __str__(self) -> str:
        sent = f"{len(self.files)} files, {self.size:,} bytes"
        if not self.kept_back:
            return sent
        more = f" and {len(self.kept_back) - MOST_NAMED} more" if len(self.kept_back) > MOST_NAMED else ""
        return f"{sent}; they look like secrets and stay here: {', '.join(map(str, self.kept_back[:MOST_NAMED]))}{more}"


def choose(root: Path) -> Package:
    """What is sent of the folder `root`, and of our own packages where they are not in it.

    Raises SpaceError for a folder that is too wide, or that cannot be read.
    """
    root = root.resolve()
    if root in (Path.home().resolve(), Path(root.anchor)):
        raise SpaceError(f"submit sends the current folder, and {root} is too wide a one. Go to the project's own, and submit from there.")
    files: dict[PurePosixPath, Path] = {}
    kept_back = []
    with _must_be_readable(root):
        for name, path in _walk(root, PurePosixPath(), (), (root,)):
            if _is_secret(name) or _is_secret(_real_name(path, root)) or _holds_private_key(path):
                kept_back.append(name)
            else:
                files[name] = path
    for package in OUR_PACKAGES:
        if PurePosixPath(package, "__init__.py") not in files:
            files |= _installed(package)
    return Package(dict(sorted(files.items())), tuple(sorted(kept_back)))


def our_packages() -> Package:
    """Our own packages alone."""
    return Package({name: path for package in OUR_PACKAGES for name, path in _installed(package).items()}, ())


def write(package: Package, archive: Path, token: Token | None) -> int:
    """Write the package as a zip file, the same bytes for the same files; returns its size.

    Raises SpaceError where it is more than a head takes, or where a file holds the token or cannot be read.
    """
    if package.size > MOST_PACKING * MOST_BYTES:
        raise _too_large(package, "has", package.size)
    with _must_be_readable(Path.cwd()), zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as into:
        for name, path in package.files.items():
            content = path.read_bytes()
            if token is not None and token.value.encode() in content:
                raise SpaceError(f"{path} holds the cluster's token, and would be sent. Name it in .rayignore, or move it elsewhere.")
            entry = zipfile.ZipInfo(str(name))  # dated 1980: the bytes say nothing of when they were packed
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if os.access(path, os.X_OK) else 0o644) << 16
            into.writestr(entry, content)
    size = archive.stat().st_size
    if size > MOST_BYTES:
        raise _too_large(package, "packs to", size)
    return size


def relative_space(space: str, root: Path, package: Package) -> str:
    """A search space as the cluster is to name it: a shipped name, or its file's path in the package. Raises SpaceError."""
    whole, colon, attribute = space.rpartition(":")
    file, other = (whole, colon + attribute) if colon and attribute.isidentifier() else (space, "")
    if not file.endswith(".py"):
        return space
    path = Path(file).resolve()
    if not path.is_relative_to(root.resolve()):
        raise SpaceError(f"{space} must lie in the folder that is sent, {root.resolve()}. Go to its folder and submit from there.")
    name = PurePosixPath(path.relative_to(root.resolve()).as_posix())
    if name not in package.files:
        raise SpaceError(f"{space} must be among the files that are sent, and .gitignore, .rayignore or its own name leaves it here.")
    return f"{name}{other}"


def _too_large(package: Package, verb: str, size: int) -> SpaceError:
    largest = max(package.files, key=lambda name: package.files[name].stat().st_size)
    return SpaceError(
        f"the project {verb} {size / 2**20:.0f} MiB, and a head takes at most {MOST_BYTES // 2**20}, packed. The largest file is {largest} "
        f"with {package.files[largest].stat().st_size / 2**20:.0f} MiB: name in .rayignore what a sweep does not need."
    )


def _walk(
    folder: Path, prefix: PurePosixPath, ignored: Sequence[tuple[PurePosixPath, GitIgnoreSpec]], above: tuple[Path, ...]
) -> Iterator[tuple[PurePosixPath, Path]]:
    """Every file below the folder that no rule but that of secrets leaves here; `above` are the real folders on the way to it."""
    here = [*ignored, *_ignore_rules(folder, prefix)]
    for entry in sorted(folder.iterdir()):
        name, real = prefix / entry.name, entry.resolve()
        slash = "/" if entry.is_dir() else ""
        if _is_left_over(entry) or any(rules.match_file(f"{name.relative_to(place)}{slash}") for place, rules in here):
            continue
        if real != above[-1] / entry.name and not _is_sent_by_itself(real, above[0]):
            continue
        if entry.is_file():
            yield name, entry
        elif entry.is_dir() and real not in above:
            yield from _walk(entry, name, here, (*above, real))


@contextmanager
def _must_be_readable(root: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeError) as error:
        raise SpaceError(f"the files of {root} must be readable to be sent: {error}. Name it in .rayignore, or mend it.") from error


def _ignore_rules(folder: Path, prefix: PurePosixPath) -> Iterator[tuple[PurePosixPath, GitIgnoreSpec]]:
    """What the folder's own ignore files say, each for itself: what one of them leaves out no other brings back."""
    for name in IGNORE_FILES:
        if (folder / name).is_file():
            yield prefix, GitIgnoreSpec.from_lines((folder / name).read_text(errors="replace").splitlines())


def _real_name(path: Path, root: Path) -> PurePosixPath:
    return PurePosixPath(path.resolve().relative_to(root).as_posix())


def _is_left_over(path: Path) -> bool:
    """Whether it is hidden, a cache, weights, a checkpoint, an environment, or results."""
    if _matches(path.name, LEFTOVERS):
        return True
    if not path.is_dir():
        return False
    is_sweep = (path / PLAN_FILE).exists() and (path / TRIALS_FOLDER).exists()
    is_environment = (path / "pyvenv.cfg").exists()
    return is_sweep or is_environment or (_matches(path.name, LEFTOVER_FOLDERS) and not (path / "__init__.py").exists())


def _is_sent_by_itself(real: Path, root: Path) -> bool:
    """Whether what a link leads to lies in the folder, at a place that is sent."""
    if not real.is_relative_to(root):
        return False
    return not any(_is_left_over(place) for place in (real, *real.parents) if place.is_relative_to(root) and place != root)


def _is_secret(name: PurePosixPath) -> bool:
    return any(_matches(part, SECRETS) for part in name.parts)


def _holds_private_key(path: Path) -> bool:
    """Whether it begins with one, or is Google's JSON around one, whatever its name."""
    with open(path, "rb") as file:
        start = file.read(4096)
    if path.suffix == ".json" and b'"private_key"' in start:
        return True
    return start.lstrip()[: len(_PRIVATE_KEY[0])] == _PRIVATE_KEY[0] and _PRIVATE_KEY[1] in start


def _matches(part: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(part.lower(), pattern) for pattern in patterns)


def _installed(package: str) -> dict[PurePosixPath, Path]:
    """The files of one of our own packages, from where it is installed, without what is secret or left over."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise SpaceError(f"The package {package} must be importable, and is not on Python's path. Install archsweep again.")
    home = Path(found.submodule_search_locations[0])
    return {PurePosixPath(package, path.relative_to(home).as_posix()): path for path in sorted(home.rglob("*")) if _is_source(path)}


def _is_source(path: Path) -> bool:
    if not path.is_file() or "__pycache__" in path.parts or _is_left_over(path):
        return False
    return not (_is_secret(PurePosixPath(path.name)) or _holds_private_key(path))
