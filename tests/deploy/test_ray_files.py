"""deploy/ray: what can be known of these files without AWS, Kubernetes or Docker."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from blocks.ray_cluster import RayCluster
from tasks.ray_versions import FILTER_PACKAGES, NEEDED_PACKAGES

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "ray"
PINS = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
PACKAGES = {"ray[default]", *NEEDED_PACKAGES, *FILTER_PACKAGES} - {"ray"}

CLUSTER_KEYS = {
    "authOptions": {"mode", "secretName"},
    "autoscalerOptions": {"idleTimeoutSeconds", "resources", "securityContext", "upscalingMode"},
    "enableInTreeAutoscaling": None,
    "headGroupSpec": {"rayStartParams", "serviceType", "template"},
    "rayVersion": None,
    "workerGroupSpecs": None,
}
"""Out of KubeRay's definition of a RayCluster: ray.io_rayclusters.yaml, and its API reference for v1.6.2."""

WORKER_KEYS = {"groupName", "maxReplicas", "minReplicas", "rayStartParams", "replicas", "template"}
POD_KEYS = {"containers", "securityContext", "serviceAccountName", "terminationGracePeriodSeconds"}
CONTAINER_KEYS = {"image", "name", "ports", "resources", "securityContext"}


@pytest.fixture(scope="module")
def launched() -> dict[str, Any]:
    """The EC2 file as Ray's launcher sees it, its own defaults filled in."""
    config = prepare_config(yaml.safe_load((FOLDER / "ec2.yaml").read_text()))
    assert isinstance(config, dict)
    return config


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict[str, Any]]:
    """The documents of the Kubernetes file, by kind."""
    return {each["kind"]: each for each in yaml.safe_load_all((FOLDER / "kuberay.yaml").read_text())}


@pytest.fixture(scope="module")
def ray_start_options() -> set[str]:
    """The long options that `ray start` has."""
    program = Path(sys.executable).with_name("ray")
    done = subprocess.run([program, "start", "--help"], capture_output=True, text=True, check=True)
    return set(re.findall(r"--([a-z-]+)", done.stdout))


def commands(launched: dict[str, Any]) -> Iterator[str]:
    for key, value in launched.items():
        if key.endswith("_commands"):
            yield from value


def options_of(line: str) -> set[str]:
    """The long options of the `ray start` in a shell line."""
    return set(re.findall(r"--([a-z-]+)", line.partition("ray start")[2]))


def test_rays_launcher_takes_the_file(launched: dict[str, Any]) -> None:
    validate_config(launched)
    with pytest.raises(Exception, match="Additional properties"):
        validate_config({**launched, "max_worker": 1})  # it is strict


def test_no_task_runs_on_the_head_and_workers_come_and_go(launched: dict[str, Any]) -> None:
    head, worker = (launched["available_node_types"][name] for name in ("head", "worker"))
    assert launched["head_node_type"] == "head"
    assert head["resources"] == {"CPU": 0}
    assert (head["min_workers"], head["max_workers"]) == (0, 0)
    assert worker["min_workers"] == 0 < worker["max_workers"] <= launched["max_workers"]
    assert launched["idle_timeout_minutes"] > 0
    assert "InstanceMarketOptions" not in head["node_config"]  # the head holds the driver: never spot


def test_nodes_get_credentials_from_their_role_and_no_file_holds_a_secret(launched: dict[str, Any]) -> None:
    for node in launched["available_node_types"].values():
        assert node["node_config"]["IamInstanceProfile"]["Arn"].startswith("arn:aws:iam::123456789012:")
        assert node["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}
    assert launched["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    for path in FOLDER.iterdir():
        assert not re.search(r"AKIA|AWS_SECRET|RAY_AUTH_TOKEN=|auth_token: *\S*[0-9a-f]{16}", path.read_text()), path


@pytest.mark.parametrize("who", ["head", "worker"])
def test_ray_is_started_with_a_token_and_options_that_it_has(
    launched: dict[str, Any], who: str, ray_start_options: set[str]
) -> None:
    (line,) = (each for each in launched[f"{who}_start_ray_commands"] if "ray start" in each)
    assert options_of(line) <= ray_start_options
    assert "RAY_AUTH_MODE=token" in line
    assert "0.0.0.0" not in line


def test_the_launchers_own_commands_do_not_install_another_ray(launched: dict[str, Any]) -> None:
    assert not [line for line in commands(launched) if "anaconda" in line or "ray-wheels" in line]
    for line in commands(launched):
        subprocess.run(["bash", "-n", "-c", line], check=True)


def test_ec2_and_image_install_the_same_pinned_packages(launched: dict[str, Any]) -> None:
    (line,) = (each for each in launched["setup_commands"] if "ray[default]" in each)
    assert {*shlex.split(line)} >= PACKAGES | {"boto3"}  # the autoscaler on the head starts nodes by boto3
    docker = dockerfile()
    (install,) = (text for word, text in docker if word == "RUN" and "ray[default]" in text)
    extra = next(text for word, text in docker if word == "ARG").partition("=")[2].strip('"')
    assert {*shlex.split(install), *extra.split()} >= PACKAGES
    assert "--constraint /tmp/constraints.txt" in install
    assert {name.partition("[")[0] for name in PACKAGES} <= PINS.keys()


def test_python_is_the_same_everywhere_to_the_patch(launched: dict[str, Any]) -> None:
    (venv,) = (each for each in launched["setup_commands"] if "uv venv" in each)
    (image,) = (text for word, text in dockerfile() if word == "FROM" and "python:" in text)
    found = re.findall(r"\b3\.\d+\.\d+\b", venv + image)
    assert len(found) == 2
    assert len(set(found)) == 1


def test_the_image_copies_what_is_there_and_runs_as_nobody_special() -> None:
    docker = dockerfile()
    for word, text in docker:
        if word == "COPY":
            for source in text.split()[:-1]:
                assert (ROOT / source).exists(), source
    assert [text for word, text in docker if word == "USER"][-1] == "1000"
    assert [text.rpartition(" ")[2] for word, text in docker if word == "FROM"] == ["packages", "installed"]


def dockerfile() -> list[tuple[str, str]]:
    """Its instructions: word and the rest, lines joined."""
    text = (FOLDER / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_ray_cluster_has_only_keys_that_kuberay_knows(
    manifests: dict[str, dict[str, Any]], ray_start_options: set[str]
) -> None:
    spec = manifests["RayCluster"]["spec"]
    assert manifests["RayCluster"]["apiVersion"] == "ray.io/v1"
    assert spec.keys() <= CLUSTER_KEYS.keys()
    for key, allowed in CLUSTER_KEYS.items():
        assert allowed is None or spec[key].keys() <= allowed, key
    for group in spec["workerGroupSpecs"]:
        assert group.keys() <= WORKER_KEYS
    for pod in pods(spec):
        assert pod.keys() <= POD_KEYS
        for container in pod["containers"]:
            assert container.keys() <= CONTAINER_KEYS
    params = [spec["headGroupSpec"]["rayStartParams"], *(group["rayStartParams"] for group in spec["workerGroupSpecs"])]
    for each in params:
        assert each.keys() <= ray_start_options
        assert all(isinstance(value, str) for value in each.values())  # KubeRay takes no number


def pods(spec: dict[str, Any]) -> list[dict[str, Any]]:
    templates = [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]
    return [template["spec"] for template in templates]


def test_the_ray_cluster_asks_for_a_token_scales_and_keeps_its_head_free(manifests: dict[str, dict[str, Any]]) -> None:
    spec = manifests["RayCluster"]["spec"]
    assert spec["authOptions"] == {"mode": "token", "secretName": "imageshards-ray-token"}
    assert "imageshards-ray-token --from-literal=auth_token=" in (FOLDER / "kuberay.yaml").read_text()
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (workers,) = spec["workerGroupSpecs"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    assert workers["maxReplicas"] > 1


def test_pods_have_limits_a_role_and_no_rights_that_they_do_not_need(manifests: dict[str, dict[str, Any]]) -> None:
    account = manifests["ServiceAccount"]["metadata"]
    assert account["annotations"]["eks.amazonaws.com/role-arn"].startswith("arn:aws:iam::")
    for pod in pods(manifests["RayCluster"]["spec"]):
        assert pod["serviceAccountName"] == account["name"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000  # the image's user
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
            assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]


def test_who_may_reach_the_cluster_is_said(manifests: dict[str, dict[str, Any]]) -> None:
    cluster = manifests["RayCluster"]["metadata"]
    policy = manifests["NetworkPolicy"]["spec"]
    assert policy["podSelector"] == {"matchLabels": {"ray.io/cluster": cluster["name"]}}
    assert all(rule.get("from") for rule in policy["ingress"])
    assert {each["metadata"]["namespace"] for each in manifests.values()} == {cluster["namespace"]}


def test_versions_are_those_that_the_flow_has(manifests: dict[str, dict[str, Any]]) -> None:
    spec = manifests["RayCluster"]["spec"]
    assert spec["rayVersion"] == PINS["ray"] == ray.__version__
    images = {container["image"] for pod in pods(spec) for container in pod["containers"]}
    assert {image.rpartition(":")[2] for image in images} == {PINS["ray"]}


def test_the_page_names_the_files_and_every_field_of_the_block() -> None:
    page = (ROOT / "docs" / "ray-cluster.md").read_text()
    for path in FOLDER.iterdir():
        assert f"deploy/ray/{path.name}" in page
    for name, field in RayCluster.model_fields.items():
        assert field.title, name
        assert f"**{field.title}**" in page
