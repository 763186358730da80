"""Places for a run's actors, made sure of before anything is computed; where there are none, that is said by name.

A placement group of the same bundles is what is waited for: an autoscaler sees it and adds nodes, and it goes when its
places are there. Not covered: which actor then takes which place.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Sequence

import ray
import ray._private.ray_constants
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get

from ledex_ray.errors import BadInput
from ledex_ray.placement import Demand, Resources, describe_nodes, unmet

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
REPORT_SECONDS = 30.0
FIXED_SECONDS = 15.0  # a cluster without an autoscaler: time for its nodes to have joined
IDLE_SECONDS = 45.0  # an autoscaler that starts nothing for so long, though there is no place, knows no such node
MARKERS = ("node:", "memory", "object_store_memory", "accelerator_type:")
OWN_NODE = re.compile(r"node_[0-9a-f]{56}")  # how Ray names a node's type where nobody has defined types


def make_room(
    demands: Sequence[Demand],
    deadline_seconds: float,
    *,
    fixed_seconds: float = FIXED_SECONDS,
    idle_seconds: float = IDLE_SECONDS,
) -> None:
    """Returns once all the demands have a place at the same time.

    Raises BadInput that names what has none and what the cluster has: within a minute where no node is on its way, else
    at the deadline.
    """
    bundles = [dict(bundle) for demand in demands for bundle in demand.bundles]
    if not bundles:
        return
    group = ray.util.placement_group(bundles, strategy="PACK")
    started = reported = hopeful = time.monotonic()
    try:
        while not group.wait(POLL_SECONDS):
            now, missing, coming = time.monotonic(), unmet(demands, nodes()), starting()
            if coming or not missing:
                hopeful = now
            patience = fixed_seconds if coming is None else idle_seconds
            if now - hopeful > patience or now - started > deadline_seconds:
                raise BadInput(
                    "the cluster",
                    _situation(missing, demands, coming),
                    expected="more or larger nodes, or a recipe that asks for less (`ledex plan` shows it)",
                )
            if now - reported > REPORT_SECONDS:
                reported = now
                log.info("waiting for places: %s", _situation(missing, demands, coming))
    finally:
        ray.util.remove_placement_group(group)


def nodes() -> list[Resources]:
    """What each living node has in all, without Ray's own markers and the shares of placement groups."""
    return [
        {k: v for k, v in node["Resources"].items() if not k.startswith(MARKERS) and "_group_" not in k}
        for node in ray.nodes()
        if node["Alive"]
    ]


def starting() -> list[str] | None:
    """The types of the nodes that an autoscaler is starting; None for a cluster to which nobody adds nodes."""
    if is_autoscaler_v2():
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        known = [node.ray_node_type_name for node in [*status.active_nodes, *status.idle_nodes]]
        coming = [node.ray_node_type_name for node in status.pending_nodes]
        coming += [launch.ray_node_type_name for launch in status.pending_launches for _ in range(launch.count)]
    else:
        stored = _internal_kv_get(ray._private.ray_constants.DEBUG_AUTOSCALING_STATUS)
        report = (json.loads(stored) if stored else {}).get("autoscaler_report")
        if not report:
            return None
        known = list(report.get("active_nodes", {}))
        coming = [node_type for _, node_type, _ in report.get("pending_nodes", [])]
        coming += [kind for kind, count in report.get("pending_launches", {}).items() for _ in range(count)]
    undefined = known and all(OWN_NODE.fullmatch(kind) for kind in known)
    return None if undefined and not coming else coming


def _situation(missing: Sequence[Demand], demands: Sequence[Demand], coming: list[str] | None) -> str:
    has = f"it has {describe_nodes(nodes())}"
    on_the_way = "" if coming is None else f"; its autoscaler is starting {', '.join(sorted(coming)) or 'nothing'}"
    if missing:
        return f"has no place for {', '.join(map(str, missing))}: {has}{on_the_way}"
    return f"has its places for {', '.join(map(str, demands))} in use: {has}{on_the_way}"
