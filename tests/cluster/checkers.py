"""Each cluster file's own judge: what says, without a cluster, whether the file is one that its system takes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
KUBERAY_SCHEMA = "ARCHSWEEP_KUBERAY_SCHEMA"  # where KubeRay's schema lies, if it does


class RefusedError(Exception):
    """What the judge says of a file that it does not take."""


def read(name: str) -> str:
    return (CLUSTER / name).read_text()


def documents(text: str) -> list[Any]:
    return list(yaml.safe_load_all(text))


def check(name: str, text: str) -> None:
    """Raises RefusedError with the judge's words."""
    JUDGES[name](text)


def judged_by_ray_up(text: str) -> None:
    """What `ray up` does before it starts anything."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    (config,) = documents(text)
    try:
        validate_config(prepare_config(config))
    except Exception as error:  # each fault has its own kind
        raise RefusedError(str(error)) from error


def judged_by_kuberay(text: str) -> None:
    """KubeRay's own definition, strict: an unknown field is a fault. Without it, what can be told by hand."""
    (document,) = documents(text)
    judged_by_hand(document)
    if KUBERAY_SCHEMA not in os.environ:
        return
    schema = json.loads(Path(os.environ[KUBERAY_SCHEMA]).read_text())
    if document["kind"] == "RayCluster":  # the schema is a RayJob's, which holds a cluster's
        schema = schema | {"properties": schema["properties"] | {"spec": schema["properties"]["spec"]["properties"]["rayClusterSpec"]}}
    try:
        jsonschema.validate(document, schema)
    except jsonschema.ValidationError as error:
        raise RefusedError(error.message) from error


def judged_by_hand(document: Any) -> None:
    """The kind and the fields without which KubeRay makes no cluster."""
    if document.get("apiVersion") != "ray.io/v1" or document.get("kind") not in ("RayJob", "RayCluster"):
        raise RefusedError(f"neither a RayJob nor a RayCluster of ray.io/v1: {document.get('apiVersion')} {document.get('kind')}")
    spec = document["spec"]["rayClusterSpec"] if document["kind"] == "RayJob" else document["spec"]
    for part in ("rayVersion", "headGroupSpec", "workerGroupSpecs", "authOptions"):
        if part not in spec:
            raise RefusedError(f"{part} is missing")
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        if not group["template"]["spec"]["containers"]:
            raise RefusedError("a pod without a container")


def needs_kuberay_schema() -> None:
    if KUBERAY_SCHEMA not in os.environ:
        pytest.skip(f"{KUBERAY_SCHEMA} does not name KubeRay's schema")


def judged_by_kubernetes(text: str) -> None:
    """A claim or a pod, by the fields that Kubernetes' API reference documents for them and this project uses."""
    (document,) = documents(text)
    kind = document.get("kind")
    if kind not in KUBERNETES:
        raise RefusedError(f"an unknown kind: {kind}")
    judged_by_fields(document, KUBERNETES[kind])


def judged_by_skypilot(text: str) -> None:
    """The fields that SkyPilot's documentation of its YAML has, with their types. SkyPilot's own schema comes with a package that asks for
    an older click than this project's and some forty packages besides; test_skypilot.py asks it, in an environment of its own."""
    (document,) = documents(text)
    judged_by_fields(document, SKYPILOT)


def judged_by_fields(document: Any, schema: dict[str, Any]) -> None:
    try:
        jsonschema.validate(document, schema)
    except jsonschema.ValidationError as error:
        raise RefusedError(error.message) from error


def judged_by_shellcheck(text: str) -> None:
    """Bash's grammar, and shellcheck."""
    judged_by_command(text, "script.sh", ["bash", "-n"])
    judged_by_command(text, "script.sh", [beside_python("shellcheck"), "--shell=bash"])


def judged_by_hadolint(text: str) -> None:
    judged_by_command(text, "Dockerfile", [beside_python("hadolint"), "--no-color"])


def judged_by_git(text: str) -> None:
    """Patterns as git reads them, which is how Ray does; Docker's are the same as far as these files go."""
    from pathspec import GitIgnoreSpec

    patterns = GitIgnoreSpec.from_lines(text.splitlines())
    if not patterns.match_file(".env"):
        raise RefusedError(".env goes along")
    if patterns.match_file("archsweep/pipeline.py"):
        raise RefusedError("archsweep/pipeline.py stays behind")


def judged_by_command(text: str, name: str, command: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_text(text)
        done = subprocess.run([*command, name], cwd=folder, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RefusedError(done.stdout + done.stderr)


def beside_python(command: str) -> str:
    return str(Path(sys.executable).parent / command)


def closed(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


TEXT, WHOLE, YES_NO = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}

SKYPILOT = closed(
    name={"type": "string", "pattern": "^[a-z][a-z0-9-]*$"},
    workdir=TEXT,
    num_nodes={"type": "integer", "minimum": 1},
    resources=closed(
        infra=TEXT,
        accelerators={"type": ["string", "object"]},
        cpus={"type": ["string", "number"]},
        memory={"type": ["string", "number"]},
        disk_size={"type": ["string", "integer"]},
        use_spot=YES_NO,
        autostop=closed(idle_minutes={"type": "integer", "minimum": 0}, down=YES_NO),
    ),
    envs={"type": "object", "additionalProperties": {"type": ["string", "integer", "number", "null"]}},
    file_mounts=TEXTS,
    setup=TEXT,
    run=TEXT,
)

_META = closed(name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"})
_SECURITY = closed(
    allowPrivilegeEscalation=YES_NO,
    readOnlyRootFilesystem=YES_NO,
    capabilities=closed(drop={"type": "array", "items": TEXT}),
    runAsNonRoot=YES_NO,
    runAsUser=WHOLE,
    runAsGroup=WHOLE,
    fsGroup=WHOLE,
    seccompProfile=closed(type={"enum": ["RuntimeDefault"]}),
)
_ACCESS = {"type": "array", "items": {"enum": ["ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany", "ReadWriteOncePod"]}, "minItems": 1}
_MOUNT = closed(name=TEXT, mountPath={"type": "string", "pattern": "^/"}, readOnly=YES_NO)
_CONTAINER = closed(
    name=TEXT,
    image=TEXT,
    command={"type": "array", "items": TEXT},
    securityContext=_SECURITY,
    resources=closed(requests=TEXTS, limits=TEXTS),
    volumeMounts={"type": "array", "items": _MOUNT},
)
KUBERNETES = {
    "PersistentVolumeClaim": closed(
        apiVersion={"const": "v1"},
        kind=TEXT,
        metadata=_META,
        spec=closed(accessModes=_ACCESS, resources=closed(requests=TEXTS), storageClassName=TEXT),
    ),
    "Pod": closed(
        apiVersion={"const": "v1"},
        kind=TEXT,
        metadata=_META,
        spec=closed(
            automountServiceAccountToken=YES_NO,
            securityContext=_SECURITY,
            containers={"type": "array", "minItems": 1, "items": _CONTAINER},
            volumes={"type": "array", "items": closed(name=TEXT, persistentVolumeClaim=closed(claimName=TEXT))},
        ),
    ),
}

JUDGES: dict[str, Callable[[str], None]] = {
    "local.yaml": judged_by_ray_up,
    "aws.yaml": judged_by_ray_up,
    "gcp.yaml": judged_by_ray_up,
    "onprem.sh": judged_by_shellcheck,
    "slurm.sbatch": judged_by_shellcheck,
    "kuberay/rayjob.yaml": judged_by_kuberay,
    "kuberay/raycluster.yaml": judged_by_kuberay,
    "kuberay/volume.yaml": judged_by_kubernetes,
    "kuberay/reader.yaml": judged_by_kubernetes,
    "skypilot.yaml": judged_by_skypilot,
    "Dockerfile": judged_by_hadolint,
    "Dockerfile.dockerignore": judged_by_git,
    ".rayignore": judged_by_git,
}


def blocks(text: str) -> list[str]:
    """What a Markdown page has in its code blocks."""
    return re.findall(r"^ *```\w*\n(.*?)^ *```$", text, flags=re.MULTILINE | re.DOTALL)


def block_under(text: str, heading: str) -> str:
    """The first code block under a heading."""
    return blocks(text[text.index(f"# {heading}\n") :])[0]
