"""The house: which room may import which, read from the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import archsweep
from archsweep.planning.find import shipped

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(archsweep.__file__).parent
OURS = {"archsweep", "search_spaces"}
FOUNDATION = {"atomic", "device", "imports", "errors", "config", "vocabulary", "space"}

# Room -> what it may import: our own rooms, and of the heavy or telling libraries those that its step needs.
ROOMS = {
    "atomic": ({"errors"}, set()),
    "errors": (set(), set()),
    "device": (set(), set()),
    "imports": (set(), set()),
    "config": ({"atomic", "errors"}, {"pydantic"}),
    "vocabulary": ({"config"}, {"pydantic"}),
    "space_faults": ({"errors", "config", "vocabulary", "space"}, {"pydantic"}),  # space as a type alone
    "space": ({"errors", "config", "vocabulary", "space_faults"}, set()),
    "extensions": ({"errors", "config"}, {"torch"}),
    "doctor": ({"errors", "records", "training", "running"}, {"torch", "huggingface_hub", "packaging"}),
    "cli": (
        {"archsweep", "errors", "imports", "config", "pipeline", "doctor"}
        | {"planning", "records", "running", "analysis", "submitting", "cli"},
        {"cyclopts", "rich"},
    ),
    "planning": (FOUNDATION | {"extensions", "planning"}, {"pydantic", "rich", "optuna"}),
    "training": (
        {"atomic", "device", "errors", "config", "extensions", "training"},
        {"pydantic", "safetensors", "pynvml", "torch", "transformers", "datasets", "tokenizers", "numpy", "pyarrow", "huggingface_hub"},
    ),
    "records": ({"atomic", "errors", "config", "records"}, {"pydantic", "pyarrow", "pandas"}),
    "running": (
        FOUNDATION | {"planning", "records", "running", "training"},
        {"pydantic", "rich", "ray", "numpy", "yaml", "torch", "scipy", "tensorboardX", "wandb", "mlflow"},
    ),
    "submitting": (
        {"atomic", "errors", "config", "records", "submitting"},
        {"pydantic", "pathspec", "pyarrow", "ray", "aiohttp", "requests"},
    ),
    "analysis": (
        {"atomic", "imports", "errors", "config", "records", "analysis"},
        {"pandas", "numpy", "scipy", "statsmodels", "seaborn", "matplotlib", "jinja2", "markupsafe", "optuna"},
    ),
}

OUTSIDE = {"__init__.py", "__main__.py", "pipeline.py"}  # the doors, which lead to every room

# Within a room, what only some of its files may import.
ONLY_IN = {
    "planning": {"optuna": {"planning/search.py"}},
    "running": {
        "ray": {"running/carrier.py", "running/ray_tune.py", "running/session.py"},
        "numpy": {"running/carrier.py"},
        "yaml": {"running/autoscaler.py"},
        "torch": {"running/worker.py"},
        "training": {
            "running/early_stopping.py",
            "running/machine.py",
            "running/measure.py",
            "running/recorder.py",
            "running/texts.py",
            "running/worker.py",
        },
        "scipy": {"running/tally.py"},
        "tensorboardX": {"running/trackers.py"},
        "wandb": {"running/trackers.py"},
        "mlflow": {"running/trackers.py"},
    },
    "submitting": {
        "ray": {"submitting/client.py"},
        "aiohttp": {"submitting/client.py"},
        "requests": {"submitting/client.py"},
        "pyarrow": {"submitting/giving.py"},
    },
    "analysis": {"optuna": {"analysis/search.py"}},
}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, where it says so inside a function too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name not in OUTSIDE)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_what_its_step_needs(path: Path) -> None:
    place = path.relative_to(PACKAGE).as_posix()
    room = place.split("/")[0].removesuffix(".py")
    rooms, libraries = ROOMS[room]
    for module in imports(path):
        top = module.split(".")[0]
        if top in OURS:
            assert room_of(module) in rooms, f"{place} imports {module}"
        elif top not in sys.stdlib_module_names:
            assert top in libraries, f"{place} imports {module}"
        name = room_of(module) if top in OURS else top
        assert place in ONLY_IN.get(room, {}).get(name, {place}), f"{place} imports {module}"


@pytest.mark.parametrize("path", sorted((PACKAGE.parent / "search_spaces").glob("*.py")), ids=lambda path: path.name)
def test_a_search_space_needs_the_vocabulary_alone(path: Path) -> None:
    allowed = {"__future__", "dataclasses", "archsweep.space", "archsweep.config", "search_spaces.bases"}
    if path.stem not in shipped():  # what spaces name by "package.module:function", as a user's own modules
        allowed |= {"archsweep.errors", "collections.abc", "itertools", "typing", "torch", "torch.nn.functional"}
    assert set(imports(path)) <= allowed


def test_every_public_name_can_be_imported() -> None:
    for name in archsweep.__all__:
        assert getattr(archsweep, name).__module__.startswith("archsweep")


def test_importing_the_package_imports_nothing_else() -> None:
    script = "import sys, archsweep; print(sorted({'torch', 'ray', 'pandas', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    assert done.stdout.strip() == "[]"


def test_what_the_readme_points_at_is_there() -> None:
    readme = (PACKAGE.parent / "README.md").read_text()
    assert "@@" not in readme
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", readme) if "://" not in target]
    named = re.findall(r"`((?:benchmarks|tests|docs)/[\w./]+)`", readme)
    assert [path for path in {*targets, *named} if not (PACKAGE.parent / path).exists()] == []
