"""Ray for a run: the cluster that was named, or a local one with a `sandbox` resource for each core."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

import ray
from ray.exceptions import RayError

from ledex_ray.errors import BadInput
from reward.judge.many import cores

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 2**30
NAMESPACE = "ledex"
KNOCK_SECONDS = 20.0
EXPECTED = "HEAD:6379 or auto, on a machine of the cluster; from elsewhere `ledex submit`"


def _knock(address: str) -> None:
    """Raises OSError where nothing listens at HOST:PORT: Ray itself would go on trying for many minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()


def start_ray(address: str | None = None) -> None:
    """Connects to `address` (else RAY_ADDRESS), or starts a local Ray. Does nothing where one is connected already.

    A local Ray ends with this process. It has no dashboard, sends no usage statistics, and lies under a short path:
    the names of its sockets are limited to 107 characters. Actors' own output goes to its log files unless
    LEDEX_ACTOR_LOGS is set. Raises BadInput where no cluster can be reached at the address that was named.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    to_driver = bool(os.environ.get("LEDEX_ACTOR_LOGS"))
    if cluster := cluster_address(address):
        where = "--address" if address else "RAY_ADDRESS"
        if cluster.startswith("ray://"):  # what looks after the actors needs to be on the cluster
            raise BadInput(where, "Ray Client is not supported", given=cluster, expected=EXPECTED)
        try:
            _knock(cluster)
            ray.init(address=cluster, namespace=NAMESPACE, logging_level=logging.WARNING, log_to_driver=to_driver)
        except (OSError, RuntimeError, ValueError, RayError) as error:
            raise BadInput(
                where,
                f"no Ray cluster can be reached ({' '.join(f'{type(error).__name__}: {error}'.split())[:200]})",
                given=cluster,
                expected=EXPECTED,
            ) from error
        log.info("ray address=%s nodes=%d", cluster, len(ray.nodes()))
        return
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's future default; without it, a warning
    n_cores = cores()
    ray.init(
        address="local",
        namespace=NAMESPACE,
        num_cpus=n_cores,
        resources={"sandbox": n_cores},
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        logging_level=logging.WARNING,
        log_to_driver=to_driver,
        _temp_dir=str(_short_directory()),
    )
    log.info("ray local cores=%d", n_cores)


def cluster_address(named: str | None = None) -> str:
    """The cluster that `named`, else RAY_ADDRESS, means; "" for a Ray of this machine's own."""
    address = named or os.environ.get("RAY_ADDRESS") or ""
    return "" if address == "local" else address


def _short_directory() -> Path:
    """A folder of this user's for Ray's session files."""
    base = Path("/tmp") if os.access("/tmp", os.W_OK) else Path.home()
    return base / f"ledex-ray-{os.getuid()}"
