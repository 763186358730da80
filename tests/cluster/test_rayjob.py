"""deploy/rayjob.yaml against KubeRay's types and as Ray's autoscaler reads it; the images' Dockerfiles.

KubeRay's own definitions are in no Python package: tests/cluster/kuberay says what they say, and the fields of pods
come from the Kubernetes client's models. Where LEDEX_CRDS names a folder with the definitions themselves
(helm-chart/kuberay-operator/crds of its repository), the manifest is held against those. Not covered: a Kubernetes
cluster, building the images.
"""

from __future__ import annotations

import configparser
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from launch.recipe_names import packaged_recipes, read_recipe
from ledex_ray.placement import phases, unmet
from tests.cluster.definitions import definition, violations

ROOT = Path(__file__).resolve().parents[2]
PLAIN: dict[str, tuple[type, ...]] = {
    "str": (str, int, float),  # quantities and ports too
    "int": (int,),
    "bool": (bool,),
    "float": (int, float),
    "object": (object,),
}


@pytest.fixture(scope="module")
def documents() -> dict[str, Any]:
    loaded = yaml.safe_load_all((ROOT / "deploy" / "rayjob.yaml").read_text())
    return {document["kind"]: document for document in loaded}


@pytest.fixture(scope="module")
def cluster(documents: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = documents["RayJob"]["spec"]["rayClusterSpec"]
    return found


def _templates(cluster: dict[str, Any]) -> dict[str, Any]:
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"]} | {name: group["template"] for name, group in groups.items()}


CRDS = Path(os.environ.get("LEDEX_CRDS") or Path(__file__).parent / "kuberay")


def test_the_cluster_and_the_job_meet_kuberays_definitions(documents: dict[str, Any], cluster: dict[str, Any]) -> None:
    job, named = documents["RayJob"], {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "ledex"}}
    assert job["apiVersion"] == "ray.io/v1"
    assert violations(job, definition(CRDS, "RayJob", "v1")) == []
    assert violations({**named, "spec": cluster}, definition(CRDS, "RayCluster", "v1")) == []


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"rayVersion": 2.6}, "spec.rayVersion: 2.6 is not of type 'string'"),
        (
            {"autoscalerOptions": {"upscalingMode": "Fast"}},
            "spec.autoscalerOptions.upscalingMode: 'Fast'",
        ),
        ({"headGroupSpec": {"template": {}, "rayStartParams": {"num-cpus": 0}}}, "spec.headGroupSpec.rayStartParams"),
        ({"workerGroupSpecs": [{"groupName": "gpu"}]}, "spec.workerGroupSpecs.0: 'maxReplicas' is a required"),
        ({"enableInTreeAutoscalling": True}, "spec: .*'enableInTreeAutoscalling' was unexpected"),
    ],
)
def test_the_definitions_find_what_is_wrong_with_a_cluster(
    changes: dict[str, Any], where: str, cluster: dict[str, Any]
) -> None:
    named = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "ledex"}}
    found = violations({**named, "spec": {**cluster, **changes}}, definition(CRDS, "RayCluster", "v1"))
    assert any(re.match(where, one) for one in found), found


DEFINITION = """
kind: CustomResourceDefinition
spec:
  names: {kind: Crew}
  versions:
    - name: v1
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec:
              type: object
              required: [head]
              properties:
                head: {type: string}
                size: {type: integer, nullable: true}
                port: {anyOf: [{type: integer}, {type: string}], x-kubernetes-int-or-string: true}
                mode: {type: string, enum: [Default, Aggressive]}
                labels: {type: object, additionalProperties: {type: string}}
                free: {type: object, x-kubernetes-preserve-unknown-fields: true, properties: {a: {type: string}}}
                groups:
                  type: array
                  items: {type: object, properties: {name: {type: string}}}
"""
GOOD = {"head": "h", "size": None, "port": "80", "labels": {"any": "one"}, "free": {"b": 1}, "groups": [{"name": "g"}]}


def test_the_check_against_a_definition_takes_what_the_server_takes(tmp_path: Path) -> None:
    (tmp_path / "crew.yaml").write_text(DEFINITION)
    assert violations({"spec": GOOD}, definition(tmp_path, "Crew", "v1")) == []
    with pytest.raises(LookupError, match="no definition of Crew v2"):
        definition(tmp_path, "Crew", "v2")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"sise": 1}, "spec: .*'sise' was unexpected"),
        ({"size": "1"}, "spec.size: '1' is not of type"),
        ({"port": 1.5}, "spec.port: 1.5 is not valid"),
        ({"mode": "Fast"}, "spec.mode: 'Fast' is not one of"),
        ({"labels": {"a": 1}}, "spec.labels.a: 1 is not of type 'string'"),
        ({"groups": [{"nam": "g"}]}, "spec.groups.0: .*'nam' was unexpected"),
    ],
)
def test_the_check_against_a_definition_finds(change: dict[str, Any], where: str, tmp_path: Path) -> None:
    (tmp_path / "crew.yaml").write_text(DEFINITION)
    (found,) = violations({"spec": {**GOOD, **change}}, definition(tmp_path, "Crew", "v1"))
    assert re.match(where, found)


def test_the_check_against_a_definition_finds_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "crew.yaml").write_text(DEFINITION)
    assert violations({"spec": {}}, definition(tmp_path, "Crew", "v1")) == ["spec: 'head' is a required property"]


def test_every_field_of_a_pod_is_one_that_kubernetes_knows(documents: dict[str, Any], cluster: dict[str, Any]) -> None:
    client = pytest.importorskip("kubernetes.client", reason="kubernetes is in the extra `dev`")

    def check(value: Any, kind: str, where: str) -> None:
        inner = re.fullmatch(r"(?i:list|dict)[\[(](?:str, )?(.+)[\])]", kind)
        if inner:
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, item in items:
                check(item, inner[1], f"{where}.{key}")
            return
        model = getattr(client, kind, None)
        if model is None:
            expected = PLAIN[kind]
            assert isinstance(value, expected), f"{where}: {value!r} is no {kind}"
            return
        names = {json_name: name for name, json_name in model.attribute_map.items()}
        for key, item in value.items():
            assert key in names, f"{where}: {kind} has no field {key}"
            check(item, model.openapi_types[names[key]], f"{where}.{key}")

    for name, template in _templates(cluster).items():
        check(template, "V1PodTemplateSpec", name)
    check(documents["PersistentVolumeClaim"]["spec"], "V1PersistentVolumeClaimSpec", "claim")
    with pytest.raises(AssertionError, match="has no field imagePulPolicy"):
        check({"containers": [{"name": "c", "imagePulPolicy": "Always"}]}, "V1PodSpec", "a typing error")


def test_rays_autoscaler_reads_from_it_a_head_without_work_and_groups_that_come_and_go(
    documents: dict[str, Any], cluster: dict[str, Any]
) -> None:
    custom_resource = {"metadata": {"name": "ledex", "namespace": "default"}, "spec": cluster}
    config = _derive_autoscaling_config_from_ray_cr(custom_resource)
    types = config["available_node_types"]
    resources = {name: node["resources"] for name, node in types.items()}
    assert resources["headgroup"]["CPU"] == 0
    assert (resources["sandbox"]["CPU"], resources["sandbox"]["sandbox"]) == (0, 16)
    assert resources["gpu"]["GPU"] == 8 and "sandbox" not in resources["gpu"]
    assert [types[name]["min_workers"] for name in ("gpu", "sandbox")] == [0, 0]
    recipe = documents["RayJob"]["spec"]["entrypoint"].split()[4]
    for demands in phases(read_recipe(recipe, None)).values():
        assert unmet(demands, list(resources.values())) == []


def test_the_entry_point_is_a_command_of_ours_and_claims_nothing_on_the_head(documents: dict[str, Any]) -> None:
    spec = documents["RayJob"]["spec"]
    words = spec["entrypoint"].split()
    assert words[:4] == ["python", "-m", "launch.cli", "run"] and words[4] in packaged_recipes()
    read_recipe(words[4], words[5:])
    assert spec["entrypointNumCpus"] == spec["entrypointNumGpus"] == 0
    variables = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    mounts = {
        m["mountPath"] for m in _templates(spec["rayClusterSpec"])["gpu"]["spec"]["containers"][0]["volumeMounts"]
    }
    assert any(variables["LEDEX_RUNS"].startswith(mount + "/") for mount in mounts)


def test_a_sandbox_pod_gets_no_credentials_no_storage_and_no_rights(cluster: dict[str, Any]) -> None:
    pod = _templates(cluster)["sandbox"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert not {"env", "envFrom", "volumeMounts"} & container.keys() and "volumes" not in pod
    rights = container["securityContext"]
    assert (
        rights["runAsNonRoot"]
        and not rights["allowPrivilegeEscalation"]
        and rights["capabilities"] == {"drop": ["ALL"]}
    )


def test_no_secret_is_written_out(cluster: dict[str, Any]) -> None:
    for template in _templates(cluster).values():
        for variable in template["spec"]["containers"][0].get("env", []):
            assert "value" not in variable and "secretKeyRef" in variable["valueFrom"]


def _ray_version() -> str:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    (pinned,) = re.findall(r"ray\[default\] ==(2\.\d+)\.\*", setup["options"]["install_requires"])
    return str(pinned)


@pytest.mark.parametrize("image", ["gpu", "sandbox"])
def test_an_image_copies_what_the_package_is_made_of_and_lets_nothing_run_as_root(image: str) -> None:
    lines = (ROOT / "deploy" / "images" / f"{image}.Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    sources = [word for op, rest in steps if op == "COPY" for word in rest.split()[:-1] if not word.startswith("--")]
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in (ROOT / ".dockerignore").read_text().split()
    assert {"ledex_ray", "reward", "actors", "launch", "setup.cfg"} <= set(sources)
    installs = [rest for op, rest in steps if op == "RUN" and "pip install" in rest]
    assert any("'.[gpu]'" in rest for rest in installs) == (image == "gpu")
    base = next(rest for op, rest in steps if op == "FROM")
    assert (
        base.startswith(f"rayproject/ray:{_ray_version()}.") and f"-py311-{'gpu' if image == 'gpu' else 'cpu'}" in base
    )
    users = [rest for op, rest in steps if op == "USER"]  # Ray's images run as user `ray`
    assert not users or users[-1] == "ray"


def test_ray_is_the_same_everywhere(cluster: dict[str, Any]) -> None:
    """Ray refuses a node whose Ray, or whose Python to the last digit, differs from the head's."""
    version = cluster["rayVersion"]
    assert version.startswith(_ray_version() + ".")
    for file in ("cluster.yaml", "deploy/gcp.yaml", "deploy/images/gpu.Dockerfile", "deploy/images/sandbox.Dockerfile"):
        images = re.findall(r"rayproject/ray:(\S+)", (ROOT / file).read_text())
        assert images and all(image.startswith(f"{version}-py311-") for image in images)
