"""cluster.yaml and deploy/gcp.yaml against Ray's own preparation and validation, and against what node types are for.

For AWS also Ray's bootstrap, node start and node end, against a simulated AWS (moto). Not covered: real clouds.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from launch.recipe_names import packaged_recipes, read_recipe
from ledex_ray.placement import phases, unmet

ROOT = Path(__file__).resolve().parents[2]
FILES = {"aws": ROOT / "cluster.yaml", "gcp": ROOT / "deploy" / "gcp.yaml"}


@pytest.fixture(params=FILES)
def cloud(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def config(cloud: str) -> dict[str, Any]:
    return _load(cloud)


def _load(cloud: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILES[cloud].read_text())
    return loaded


def _prepared(config: dict[str, Any]) -> dict[str, Any]:
    prepared: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def test_ray_accepts_it_and_would_refuse_an_unknown_key(config: dict[str, Any]) -> None:
    _prepared(config)
    config["available_node_types"]["sandbox"]["idle_minutes"] = 5
    with pytest.raises(jsonschema.ValidationError, match="idle_minutes"):
        _prepared(config)


def test_no_work_can_land_on_the_head(config: dict[str, Any]) -> None:
    prepared = _prepared(config)
    head = prepared["available_node_types"][prepared["head_node_type"]]
    assert head["resources"] == {"CPU": 0} and head["max_workers"] == 0


def test_each_type_of_worker_can_start_and_stop_by_itself(config: dict[str, Any]) -> None:
    prepared = _prepared(config)
    workers = {k: v for k, v in prepared["available_node_types"].items() if k != prepared["head_node_type"]}
    assert workers.keys() == {"gpu", "gpu_pair", "sandbox"}
    for name, node_type in workers.items():
        assert node_type["min_workers"] == 0  # Ray's validation does not compare the two
        assert (node_type["max_workers"] == 0) == (
            name == "gpu_pair"
        )  # two GPU types on at once would be mixed in a gang
    assert sum(node_type["max_workers"] for node_type in workers.values()) <= prepared["max_workers"]


def test_sandboxes_are_asked_for_alone_and_need_the_base_package_alone(config: dict[str, Any]) -> None:
    workers = _prepared(config)["available_node_types"]
    offers = {name for name, node_type in workers.items() if node_type["resources"].get("sandbox")}
    assert offers == {"sandbox"}
    sandbox = workers["sandbox"]
    assert sandbox["resources"]["CPU"] == 0 and "GPU" not in sandbox["resources"]
    assert sandbox["worker_setup_commands"] == ["pip install -q -e /home/ray/ledex-ray"]
    assert "[gpu]" in workers["gpu"]["worker_setup_commands"][0]
    spot = {"InstanceMarketOptions": {"MarketType": "spot"}}.items(), {"scheduling": [{"preemptible": True}]}.items()
    assert any(marks <= sandbox["node_config"].items() for marks in spot)


def test_runs_and_models_lie_where_head_and_gpu_nodes_see_them(config: dict[str, Any]) -> None:
    # Ray runs the file's own initialization commands on the head, whatever the head's type says.
    assert any("/mnt/ledex" in command and "mount -t nfs" in command for command in config["initialization_commands"])
    types = config["available_node_types"]
    volume = "-v /mnt/ledex:/mnt/ledex"
    assert volume in config["docker"]["head_run_options"]
    for name in ("head", "gpu", "gpu_pair"):
        assert "initialization_commands" not in types[name]
    for name in ("gpu", "gpu_pair"):
        assert volume in types[name]["docker"]["worker_run_options"]
    assert types["sandbox"]["initialization_commands"] == []


def test_it_holds_no_credential_opens_no_dashboard_and_asks_for_a_token(cloud: str, config: dict[str, Any]) -> None:
    text = FILES[cloud].read_text().lower()
    assert not any(word in text for word in ("aws_secret", "aws_access_key", "api_key", "ssh_private_key"))
    (start,) = [c for c in config["head_start_ray_commands"] if "ray start" in c]
    assert "--dashboard-host=127.0.0.1" in start
    assert all("RAY_AUTH_MODE=token ray start" in c for c in [start, config["worker_start_ray_commands"][-1]])
    assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("recipe", ["codellama_7b", "qwen_coder_7b", "codellama_13b", "starcoder_15b"])
def test_the_real_recipes_find_their_places_as_the_comments_say(recipe: str, config: dict[str, Any]) -> None:
    assert recipe in packaged_recipes()
    types = config["available_node_types"]
    gpu = [types["gpu"]["resources"]] if "7b" in recipe else [types["gpu_pair"]["resources"]] * 2
    nodes = [types["head"]["resources"], *gpu, types["sandbox"]["resources"]]
    for demands in phases(read_recipe(recipe, None)).values():
        assert unmet(demands, nodes) == []


@pytest.fixture
def simulated_aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    moto = pytest.importorskip("moto", reason="moto is in the extra `dev`")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    with moto.mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        yield


@pytest.mark.slow
def test_on_aws_it_bootstraps_and_each_type_of_node_starts_and_ends(
    simulated_aws: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3
    from ray.autoscaler._private import commands
    from ray.autoscaler._private.providers import _get_node_provider
    from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

    monkeypatch.setenv("HOME", str(tmp_path))  # the bootstrap writes the key pair that it makes under ~/.ssh
    (tmp_path / ".ssh").mkdir()
    ec2 = boto3.resource("ec2", region_name="us-west-2")
    image = next(iter(ec2.images.all())).id
    config = _load("aws")
    for node_type in config["available_node_types"].values():
        node_type["node_config"]["ImageId"] = image
    booted = commands._bootstrap_config(_prepared(config), no_config_cache=True)
    provider = _get_node_provider(booted["provider"], booted["cluster_name"])
    for name in ("head", "gpu", "sandbox"):
        node_config = booted["available_node_types"][name]["node_config"]
        assert node_config["SecurityGroupIds"] and node_config["SubnetIds"] and node_config["KeyName"]
        kind = "head" if name == "head" else "worker"
        provider.create_node(node_config, {TAG_RAY_NODE_KIND: kind, TAG_RAY_USER_NODE_TYPE: name}, 1)
        (node,) = provider.non_terminated_nodes({TAG_RAY_USER_NODE_TYPE: name})
        (instance,) = ec2.instances.filter(InstanceIds=[node])
        assert instance.instance_type == node_config["InstanceType"]
        assert (instance.instance_lifecycle == "spot") == (name == "sandbox")
        provider.terminate_node(node)
    assert provider.non_terminated_nodes({}) == []
    assert os.listdir(tmp_path / ".ssh")


SSH = """#!{python}
import sys
command = sys.argv[-1]
with open({log!r}, "a") as file:
    file.write(command.replace("\\n", " ") + "\\n")
answers = {{"command -v docker": "/usr/bin/docker", ".State.Running": "false", ".Config.Env": '["HOME=/home/ray"]',
           "printenv HOME": "/home/ray", "MemAvailable": "MemAvailable: 32000000 kB", "docker info": "runc"}}
for sign, answer in answers.items():
    if sign in command:
        print(answer)
        break
"""


@pytest.mark.acceptance
def test_ray_up_installs_and_starts_the_head_and_ray_down_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ray up` and `ray down` themselves, against moto's server; what they would run over SSH is written down."""
    moto_server = pytest.importorskip("moto.server", reason="moto is in the extra `dev`")
    import boto3

    monkeypatch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")  # the server lives in this process
    server = moto_server.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host.replace('0.0.0.0', '127.0.0.1')}:{port}"
    shims, log = tmp_path / "bin", tmp_path / "ssh.log"
    shims.mkdir()
    for program in ("ssh", "rsync"):
        (shims / program).write_text(SSH.format(python=sys.executable, log=str(log)))
        (shims / program).chmod(0o755)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("token")
    environment = os.environ | {
        "HOME": str(tmp_path),
        "PATH": f"{shims}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "AWS_ENDPOINT_URL": address,
        **dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "testing"),
    }
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    try:
        ec2 = boto3.resource("ec2", region_name="us-west-2", endpoint_url=address)
        image = next(iter(ec2.images.all())).id
        file = tmp_path / "cluster.yaml"
        file.write_text(FILES["aws"].read_text().replace("ami-SET-THIS", image))
        for verb in (["up", "--no-config-cache"], ["down"]):
            command = [str(Path(sys.executable).parent / "ray"), *verb, "-y", str(file)]
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
            running = [i for i in ec2.instances.all() if i.state["Name"] in ("running", "pending")]
            assert [i.instance_type for i in running] == (["m6i.2xlarge"] if verb[0] == "up" else [])
    finally:
        server.stop()
    ran = log.read_text()
    for sign in (
        "mount -t nfs4",
        "-v /mnt/ledex:/mnt/ledex",
        "ledex-ray[train]",
        "RAY_AUTH_MODE=token ray start --head",
    ):
        assert sign in ran, sign
    assert "ledex-ray[gpu]" not in ran
