"""The files of cluster/: each is one that its own system takes, a broken twin of each is not, and none leaves a door open."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from archsweep import cli
from tests.cluster.checkers import CLUSTER, JUDGES, ROOT, RefusedError, blocks, check, documents, needs_kuberay_schema, read

if TYPE_CHECKING:
    from collections.abc import Iterator

README = read("README.md")
STARTERS = [  # every file that starts Ray
    "local.yaml", "aws.yaml", "gcp.yaml", "onprem.sh", "slurm.sbatch", "kuberay/rayjob.yaml", "kuberay/raycluster.yaml",
    "skypilot.yaml", "Dockerfile",
]  # fmt: skip
HEADS = [name for name in STARTERS if name not in ("local.yaml", "Dockerfile")]  # those that say themselves how a head starts
NOTICING = {  # milliseconds, and how often: a lost node is noticed after 8 seconds
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}

# file, what is there, what the broken twin has instead, and what the judge says of it
BROKEN = [
    ("local.yaml", "head_ip: SET-ME-HEAD-IP", "head: SET-ME-HEAD-IP", "head_ip"),
    ("local.yaml", "cluster_name: archsweep", "cluster: archsweep", "'cluster' was unexpected"),
    ("aws.yaml", "head_node_type: head", "head_node_type: main", "must be one of `available_node_types`"),
    ("aws.yaml", "max_workers: 4\nupscaling", "max_worker: 4\nupscaling", "'max_worker' was unexpected"),
    ("gcp.yaml", "resources: {CPU: 8, GPU: 1}", "resources: {CPU: 8, GPU: 0.5}", "0.5 is not of type 'integer'"),
    ("gcp.yaml", "node_config:\n      machineType: n2", "config:\n      machineType: n2", "'node_config' is a required property"),
    ("onprem.sh", "start_worker() {", "start_worker {", "syntax error"),
    ("onprem.sh", 'dirname "$token"', "dirname $token", "SC2086"),
    ("slurm.sbatch", 'for node in $nodes; do', "for node in $nodes; od", "syntax error"),
    ("slurm.sbatch", 'kill -TERM "${steps[@]}"', "kill -TERM ${steps[@]}", "SC2068"),
    ("kuberay/rayjob.yaml", "kind: RayJob", "kind: Job", "neither a RayJob nor a RayCluster"),
    ("kuberay/raycluster.yaml", "authOptions: {mode: token}", "", "authOptions is missing"),
    ("kuberay/volume.yaml", "[ReadWriteOnce]", "[WriteOnce]", "'WriteOnce' is not one of"),
    ("kuberay/reader.yaml", "readOnly: true}", "readonly: true}", "'readonly' was unexpected"),
    ("skypilot.yaml", "num_nodes: 2", "nodes: 2", "'nodes' was unexpected"),
    ("skypilot.yaml", "idle_minutes: 30", "idle_minutes: soon", "'soon' is not of type 'integer'"),
    ("Dockerfile", "python:${PYTHON}-slim-bookworm", "python", "DL3006"),
    ("Dockerfile", "USER 1000:1000", "USER root", "DL3002"),
    ("Dockerfile", "CMD [", "CMD python ", "DL3025"),
    ("Dockerfile.dockerignore", "/*\n!pyproject", "!pyproject", ".env goes along"),
    (".rayignore", ".env", "env", ".env goes along"),
    (".rayignore", "/results/", "*", "archsweep/pipeline.py stays behind"),
]  # fmt: skip
BROKEN_FOR_KUBERAY = [
    ("kuberay/rayjob.yaml", "backoffLimit: 3", "backOffLimit: 3", "'backOffLimit' was unexpected"),
    ("kuberay/rayjob.yaml", "mode: DenyAllIngress", "mode: DenyIngress", "'DenyIngress' is not one of"),
    ("kuberay/raycluster.yaml", "authOptions: {mode: token}", "authOptions: {mode: tokens}", "'tokens' is not one of"),
    ("kuberay/raycluster.yaml", "maxReplicas: 4", "maximum: 4", "'maxReplicas' is a required property"),
]


def cluster_files() -> list[str]:
    return sorted(str(path.relative_to(CLUSTER)) for path in CLUSTER.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", JUDGES)
def test_its_own_system_takes_each_file(name: str) -> None:
    check(name, read(name))


@pytest.mark.parametrize("name", ["kuberay/rayjob.yaml", "kuberay/raycluster.yaml"])
def test_kuberays_schema_takes_its_files(name: str) -> None:
    needs_kuberay_schema()
    check(name, read(name))


def refusal(name: str, there: str, instead: str) -> str:
    text = read(name)
    assert there in text
    with pytest.raises(RefusedError) as refused:
        check(name, text.replace(there, instead))
    return str(refused.value)


@pytest.mark.parametrize(("name", "there", "instead", "said"), BROKEN, ids=[f"{name}: {instead[:20]}" for name, _, instead, _ in BROKEN])
def test_a_broken_twin_is_refused(name: str, there: str, instead: str, said: str) -> None:
    assert said in refusal(name, there, instead)


@pytest.mark.parametrize(("name", "there", "instead", "said"), BROKEN_FOR_KUBERAY)
def test_a_twin_that_only_kuberays_schema_finds_broken_is_refused(name: str, there: str, instead: str, said: str) -> None:
    needs_kuberay_schema()
    assert said in refusal(name, there, instead)


def test_every_file_has_a_judge_and_a_broken_twin() -> None:
    judged = [name for name in cluster_files() if name != "README.md"]
    assert sorted(JUDGES) == judged
    assert sorted({name for name, *_ in BROKEN}) == judged


@pytest.mark.parametrize("name", [name for name in JUDGES if not name.endswith("ignore")])
def test_each_file_says_how_to_start_submit_watch_fetch_and_tear_down(name: str) -> None:
    header = "\n".join(line for line in read(name).splitlines()[:24] if line.startswith("#"))
    for part in ("start", "submit", "watch", "fetch", "tear down"):
        assert re.search(rf"^# .*{part}.*: ", header, flags=re.MULTILINE), part


@pytest.mark.parametrize("name", STARTERS)
def test_each_way_of_starting_turns_the_token_and_no_report_to_others_on(name: str) -> None:
    text = read(name)
    assert re.search(r"RAY_AUTH_MODE\W+(value: )?token\b", text)
    assert name == "local.yaml" or re.search(r'RAY_USAGE_STATS_ENABLED\W+(value: )?"?0', text)  # local.yaml starts onprem.sh


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_every_command_that_starts_ray_on_a_cloud_has_the_token(name: str) -> None:
    (config,) = documents(read(name))
    for kind in ("head", "worker"):
        (start,) = [command for command in config[f"{kind}_start_ray_commands"] if "ray start" in command]
        assert "RAY_AUTH_MODE=token" in start
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert config["setup_commands"][0] == "chmod 700 ~/.ray && chmod 600 ~/.ray/auth_token"


@pytest.mark.parametrize("name", ["kuberay/rayjob.yaml", "kuberay/raycluster.yaml"])
def test_every_pod_has_the_token_and_few_rights(name: str) -> None:
    (document,) = documents(read(name))
    spec = document["spec"].get("rayClusterSpec", document["spec"])
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["networkPolicy"]["mode"] == "DenyAllIngress"
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_a_job_on_kubernetes_is_tried_again_and_leaves_no_cluster() -> None:
    (job,) = documents(read("kuberay/rayjob.yaml"))
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert job["spec"]["backoffLimit"] > 0
    assert job["spec"]["entrypoint"].startswith("python -m archsweep ")


@pytest.mark.parametrize("name", HEADS)
def test_a_head_notices_lost_nodes_in_seconds(name: str) -> None:
    for setting, value in NOTICING.items():
        assert re.search(rf'{setting}\W+(value: )?"?{value}\b', read(name)), setting


@pytest.mark.parametrize("name", HEADS)
def test_the_dashboard_is_on_loopback(name: str) -> None:
    hosts = re.findall(r"dashboard-host\W+([\w.]+)", read(name))
    own = "POD_IP" if name == "kuberay/rayjob.yaml" else "127.0.0.1"  # there the operator asks, behind the network policy
    assert hosts
    assert set(hosts) == {own}


@pytest.mark.parametrize("name", cluster_files())
def test_nothing_listens_everywhere_and_no_secret_is_written_down(name: str) -> None:
    text = read(name)
    assert not re.search(r"(?<!\d)0\.0\.0\.0", text)
    assert not re.search(r"(?<![/\w])::(?![\w:])", text)
    assert "insecure" not in text
    assert not re.search(r"\b[0-9a-fA-F]{32,}\b|AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY", text)
    assert not re.search(r"RAY_AUTH_TOKEN\s*[=:]", text)


@pytest.mark.parametrize("name", ["onprem.sh", "slurm.sbatch", "local.yaml", "skypilot.yaml"])
def test_where_others_may_run_ray_too_nothing_stops_it(name: str) -> None:
    commands = "\n".join(line.split("#")[0] for line in read(name).splitlines())
    assert not re.search(r"ray (stop|down|symmetric-run)|pkill|killall", commands)


def test_every_port_and_folder_of_a_slurm_job_is_its_own() -> None:
    script = read("slurm.sbatch")
    assert "#SBATCH --signal=B:USR1@300\n" in script
    assert "#SBATCH --requeue\n" in script
    start = script[script.index("ray_node() {") : script.index("deadline=")]
    ports = re.findall(r"--([\w-]*port)=(\S+)", start)
    assert {name for name, _ in ports} == {
        "port", "ray-client-server-port", "node-manager-port", "object-manager-port", "runtime-env-agent-port",
        "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port", "min-worker-port", "max-worker-port",
    }  # fmt: skip
    assert all("first" in value for _, value in ports)
    for variable in ("first", "temporary", "secrets"):
        assert re.search(rf"^{variable}=.*SLURM_JOB_ID", script, flags=re.MULTILINE)


def test_ray_is_the_same_version_everywhere() -> None:
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert pinned
    for name in ("kuberay/rayjob.yaml", "kuberay/raycluster.yaml"):
        assert re.findall(r'rayVersion: "(.+)"', read(name)) == [pinned[1]]
    for name in ("aws.yaml", "gcp.yaml", "skypilot.yaml", "Dockerfile"):
        installs = [line for line in read(name).splitlines() if "pip install" in line and not line.startswith("#") and "uv" not in line]
        assert installs
        assert all("--constraint" in line and "constraints.txt" in line for line in installs)


def test_what_is_to_be_set_is_marked_and_told() -> None:
    marked = [name for name in cluster_files() if "SET-ME" in read(name) and name != "README.md"]
    assert marked == ["aws.yaml", "gcp.yaml", "kuberay/raycluster.yaml", "kuberay/rayjob.yaml", "local.yaml"]
    for name in marked:
        assert f"grep -n SET-ME cluster/{name}" in read(name)
        assert "SET-ME" in yaml.dump(documents(read(name)))  # not in comments alone: what is forgotten fails


def test_the_readme_leads_to_every_file() -> None:
    targets = {target for target in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in target}
    assert targets | {"README.md"} == set(cluster_files())
    anchors = {re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in README.splitlines() if line.startswith("#")}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors


def commands_of_ours() -> Iterator[list[str]]:
    """Every archsweep command that a file of cluster/ or its README prints, as words."""
    printed = [line for block in blocks(README) for line in block.splitlines()]
    for name in JUDGES:
        printed += [line.lstrip("# ") for line in read(name).splitlines() if line.startswith("#")]
    for line in printed:
        for found in re.findall(r"(?:python -m archsweep|slurm\.sbatch) ([^#;&|]+?)(?:   .*|, in .*|, before .*)?(?:[#;&|]|$)", line):
            yield shlex.split(found)
    (job,), (task,) = documents(read("kuberay/rayjob.yaml")), documents(read("skypilot.yaml"))
    yield shlex.split(job["spec"]["entrypoint"])[3:]
    yield shlex.split(task["envs"]["SWEEP"])


def test_every_printed_command_is_one_that_archsweep_has() -> None:
    commands = list(commands_of_ours())
    assert {words[0] for words in commands} >= {"submit", "jobs", "status", "logs", "stop", "fetch", "doctor"}
    for words in commands:
        cli.app.parse_args(words, exit_on_error=False, print_error=False)


def test_a_misspelt_command_would_be_found() -> None:
    with pytest.raises(Exception, match="--adress"):
        cli.app.parse_args(["doctor", "--adress", "x"], exit_on_error=False, print_error=False)


def test_numbers_of_the_readme_are_those_of_the_script() -> None:
    script: Any = read("onprem.sh")
    (first,) = re.findall(r"ARCHSWEEP_NODE_PORTS:-(\d+)", script)
    (last,) = re.findall(r"--max-worker-port=\"\$\(\(first \+ (\d+)\)\)\"", script)
    (port,) = re.findall(r"ARCHSWEEP_PORT:-(\d+)", script)
    assert f"any port {port},{first}:{int(first) + int(last)} proto tcp" in README
