"""What leaves the project's folder: no secret in what is sent to a cluster, and no module called cluster in the wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from tests.cluster.checkers import CLUSTER, ROOT

if TYPE_CHECKING:
    from pathlib import Path

SECRETS = [
    ".env", ".env.local", "deep/er/.env", "key.pem", "tls.key", "id_ed25519", ".netrc", ".aws/credentials", ".ssh/config",
    ".ray/auth_token", "auth_token", "my-credentials.json", ".kube/config", ".docker/config.json", "client_secret.json",
]  # fmt: skip
RESULTS = [
    "results/s/plan.json", "results/s/trials/t/records.jsonl", "a/checkpoint/state.json", "model.safetensors", ".git/config",
    ".venv/pyvenv.cfg",
]  # fmt: skip
WANTED = ["archsweep/pipeline.py", "archsweep/records/results.py", "search_spaces/mine.py", "text/corpus.parquet", "constraints.txt"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with everything that must stay and everything that must go, and cluster/.rayignore at its top."""
    for name in (*SECRETS, *RESULTS, *WANTED):
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("canary")
    shutil.copy(CLUSTER / ".rayignore", tmp_path / "project")
    return tmp_path / "project"


def test_what_ray_packs_has_no_secret_and_no_result(project: Path, tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    package = tmp_path / "package.zip"
    create_package(str(project), package, include_gitignore=False)
    with zipfile.ZipFile(package) as packed:
        names = {name for name in packed.namelist() if not name.endswith("/")}
    assert names - {".rayignore"} == set(WANTED)


def test_the_projects_own_folder_is_packed_by_the_same_file() -> None:
    assert (ROOT / ".rayignore").samefile(CLUSTER / ".rayignore")


@pytest.mark.slow
def test_the_wheel_has_the_cluster_files_beside_the_environment(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    (wheel,) = tmp_path.glob("archsweep-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    place = wheel.name.split("-py3")[0] + ".data/data/share/archsweep/cluster/"
    ours = {str(path.relative_to(CLUSTER)) for path in CLUSTER.rglob("*") if path.is_file()}
    assert {name.removeprefix(place) for name in names if name.startswith(place)} == ours
    assert {name.split("/")[0] for name in names if not name.startswith("archsweep-")} == {"archsweep", "search_spaces"}
