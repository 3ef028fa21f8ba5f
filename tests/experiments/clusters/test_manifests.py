"""The files of configs/cluster: manifests that KubeRay takes, and a Slurm script that starts what it says.

The fields are those of KubeRay's ray.io/v1 types and of Kubernetes' core/v1, as far as the manifests may want them.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from experiments.config import PROJECT_ROOT
from orchestrator.serving.config import Limits

CLUSTER = PROJECT_ROOT / "configs" / "cluster"
SLURM = CLUSTER / "slurm.sh"
JOB = {
    "activeDeadlineSeconds",
    "backoffLimit",
    "clusterSelector",
    "deletionStrategy",
    "entrypoint",
    "entrypointNumCpus",
    "entrypointNumGpus",
    "entrypointResources",
    "jobId",
    "managedBy",
    "metadata",
    "rayClusterSpec",
    "runtimeEnvYAML",
    "shutdownAfterJobFinishes",
    "submissionMode",
    "submitterConfig",
    "submitterPodTemplate",
    "suspend",
    "ttlSecondsAfterFinished",
}
SERVICE = {
    "deploymentUnhealthySecondThreshold",
    "excludeHeadPodFromServeSvc",
    "rayClusterConfig",
    "serveConfigV2",
    "serveService",
    "serviceUnhealthySecondThreshold",
    "upgradeStrategy",
}
RAY_CLUSTER = {
    "autoscalerOptions",
    "enableInTreeAutoscaling",
    "headGroupSpec",
    "headServiceAnnotations",
    "rayVersion",
    "suspend",
    "workerGroupSpecs",
}
HEAD = {"enableIngress", "headService", "rayStartParams", "serviceType", "template"}
WORKERS = {
    "groupName",
    "maxReplicas",
    "minReplicas",
    "numOfHosts",
    "rayStartParams",
    "replicas",
    "scaleStrategy",
    "template",
}
POD = {"affinity", "containers", "nodeSelector", "serviceAccountName", "tolerations", "volumes"}
CONTAINER = {
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "name",
    "ports",
    "resources",
    "securityContext",
    "volumeMounts",
}


def documents(name: str) -> dict[str, Any]:
    return {document["kind"]: document for document in yaml.safe_load_all((CLUSTER / name).read_text())}


def jobs() -> list[Any]:
    return [pytest.param(documents(name)["RayJob"], id=name) for name in ("rayjob.yaml", "endpoint.yaml")]


def ray_service() -> dict[str, Any]:
    found: dict[str, Any] = documents("rayservice.yaml")["RayService"]
    return found


@pytest.mark.parametrize(
    ("made", "known", "cluster_key"),
    [
        *((job.values[0], JOB, "rayClusterSpec") for job in jobs()),
        (ray_service(), SERVICE, "rayClusterConfig"),
    ],
    ids=lambda value: value["metadata"]["name"] if isinstance(value, dict) else "",
)
def test_a_manifest_has_kuberays_fields_and_what_they_want(
    made: dict[str, Any], known: set[str], cluster_key: str
) -> None:
    assert made["apiVersion"] == "ray.io/v1" and set(made) == {"apiVersion", "kind", "metadata", "spec"}
    spec, cluster = made["spec"], made["spec"][cluster_key]
    assert set(spec) <= known and set(cluster) <= RAY_CLUSTER and set(cluster["headGroupSpec"]) <= HEAD
    assert cluster["rayVersion"] == version("ray")  # the image has this environment
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= WORKERS and {"groupName", "minReplicas", "maxReplicas", "template"} <= set(group)
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        assert set(pod) <= POD
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert set(container) <= CONTAINER and container["image"] == "HEADRACE_IMAGE"
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
            assert container["resources"]["limits"] == container["resources"]["requests"]


@pytest.mark.parametrize("job", jobs())
def test_the_entrypoint_is_a_command_that_headrace_has_on_the_cluster_of_the_job(job: dict[str, Any]) -> None:
    command, name, config, *overrides = job["spec"]["entrypoint"].split()
    assert command == "headrace" and name in ("run", "serve") and "ray.address=auto" in overrides
    [container] = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert Path(config).parent.as_posix() in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_the_service_finds_the_pod_on_which_the_endpoint_listens() -> None:
    found = documents("endpoint.yaml")
    service, head = found["Service"]["spec"], found["RayJob"]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    assert service["selector"].items() <= head["metadata"]["labels"].items()
    [port] = service["ports"]
    assert f"port={port['targetPort']}" in found["RayJob"]["spec"]["entrypoint"].split()
    assert port["targetPort"] in {each["containerPort"] for each in head["spec"]["containers"][0]["ports"]}


def test_serve_takes_what_the_ray_service_gives_it() -> None:
    from experiments.running.serve import app

    spec = ray_service()["spec"]
    deployed = ServeDeploySchema.model_validate(yaml.safe_load(spec["serveConfigV2"]))
    [application] = deployed.applications
    assert application.import_path == f"{app.__module__}:{app.__name__}"
    assert deployed.http_options.request_timeout_s > Limits().timeout_s  # the endpoint's own limit comes first
    for group in (spec["rayClusterConfig"]["headGroupSpec"], *spec["rayClusterConfig"]["workerGroupSpecs"]):
        [container] = group["template"]["spec"]["containers"]  # any of them may build the application
        assert Path(application.args["config"]).parent.as_posix() in {m["mountPath"] for m in container["volumeMounts"]}


@pytest.mark.parametrize("path", sorted(CLUSTER.iterdir()), ids=lambda path: path.name)
def test_no_registry_and_no_machine_is_named(path: Path) -> None:
    text = path.read_text()
    assert not [word for word in ("://", "docker.io", "ghcr.io", "rayproject/") if word in text]


@pytest.fixture
def allocation(tmp_path: Path) -> dict[str, str]:
    """Two nodes of Slurm; its commands and Ray's write down how they are called, and srun runs what it is given."""
    record = "import json, sys; print(json.dumps(sys.argv[1:]), file=open(sys.argv[0] + '.log', 'a'))\n"
    run = "import os; at = sys.argv.index('ray'); os.execvp('ray', sys.argv[at:])\n"
    for name, more in (
        ("scontrol", "print('node-a\\nnode-b')\n"),
        ("srun", run),
        ("ray", "sys.exit(3 if 'bad.yaml' in sys.argv else 0)\n"),
    ):
        path = tmp_path / name
        path.write_text(f"#!{sys.executable}\n{record}{more}")
        path.chmod(0o755)
    slurm = {"JOB_NODELIST": "node-[a-b]", "JOB_NUM_NODES": "2", "JOB_ID": "123", "CPUS_PER_TASK": "8"}
    made = {f"SLURM_{key}": value for key, value in slurm.items()}
    return {**os.environ, **made, "SLURM_GPUS_ON_NODE": "1", "HEADRACE_BIN": str(tmp_path)}


def launched(allocation: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    bash = shutil.which("bash")
    assert bash is not None
    return subprocess.run([bash, str(SLURM), *arguments], env=allocation, capture_output=True, text=True, timeout=60)


def test_the_slurm_script_starts_ray_on_all_nodes_and_the_run_on_the_first(allocation, tmp_path) -> None:
    done = launched(allocation, "run.yaml", "policy.replicas=2", "name=two words")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "scontrol.log").read_text()) == ["show", "hostnames", "node-[a-b]"]
    srun = json.loads((tmp_path / "srun.log").read_text())
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1"} <= set(srun[: srun.index("ray")])
    [ray] = [json.loads(line) for line in (tmp_path / "ray.log").read_text().splitlines()]
    split = ray.index("--")
    assert ray[:split] == [
        *("symmetric-run", "--address", "node-a:20123", "--min-nodes", "2"),
        *("--num-cpus=8", "--num-gpus=1"),
    ]
    assert ray[split + 1 :] == [
        "headrace",
        "run",
        "run.yaml",
        "ray.address=auto",
        "policy.replicas=2",
        "name=two words",
    ]


def test_the_slurm_script_fails_as_the_run_does_and_wants_a_configuration(allocation) -> None:
    assert launched(allocation, "bad.yaml").returncode == 3
    without = launched(allocation)
    assert without.returncode != 0 and "wanted: sbatch" in without.stderr


def test_ray_takes_what_the_slurm_script_gives_it() -> None:
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import symmetric_run

    known = {option for command in (start, symmetric_run) for each in command.params for option in each.opts}
    assert {"--address", "--min-nodes", "--num-cpus", "--num-gpus"} <= known
