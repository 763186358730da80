"""cluster.yaml against Ray's own preparation and validation, and against what its node types are for.

Not covered: AWS itself.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

PATH = Path(__file__).resolve().parents[2] / "cluster.yaml"


@pytest.fixture
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(PATH.read_text())
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
    for node_type in workers.values():
        assert 0 == node_type["min_workers"] < node_type["max_workers"]  # Ray's validation does not compare the two
    assert sum(node_type["max_workers"] for node_type in workers.values()) <= prepared["max_workers"]


def test_sandboxes_are_asked_for_alone_and_need_the_base_package_alone(config: dict[str, Any]) -> None:
    workers = _prepared(config)["available_node_types"]
    offers = {name for name, node_type in workers.items() if node_type["resources"].get("sandbox")}
    assert offers == {"sandbox"}
    sandbox = workers["sandbox"]
    assert sandbox["resources"]["CPU"] == 0 and "GPU" not in sandbox["resources"]
    assert sandbox["worker_setup_commands"] == ["pip install -q -e /home/ray/ledex-ray"]
    assert "[gpu]" in workers["gpu"]["worker_setup_commands"][0]
    assert sandbox["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_it_holds_no_credential_and_opens_no_dashboard(config: dict[str, Any]) -> None:
    text = PATH.read_text().lower()
    assert not any(word in text for word in ("aws_secret", "aws_access_key", "api_key", "ssh_private_key"))
    (start,) = [c for c in config["head_start_ray_commands"] if "ray start" in c]
    assert "--dashboard-host=127.0.0.1" in start
