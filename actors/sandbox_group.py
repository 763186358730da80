"""The sandbox actors of a run: started, added while work waits, ended when it does not.

Sandboxes ask for the resource `sandbox` and for nothing else, so a sandbox that has no place yet makes an autoscaling
cluster add a node of that kind alone, and a node whose sandboxes have ended goes. Clients are anywhere (the driver,
Ray Data's tasks); they and the group meet at a board, an actor that does nothing but remember. Not covered: what a
sandbox does (sandbox.py), how many there should be (scaling.py).
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.metrics import Gauge
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors import watchdog
from actors.sandbox import LEASES, SandboxActor, SandboxClient
from actors.scaling import Scaler
from ledex_ray.config import SandboxConfig

log = logging.getLogger(__name__)

TURN_SECONDS = 1.0
GROW_SECONDS = 2.0
CLIENT_SECONDS = 30.0  # a client that has said nothing for so long was killed, or its consumer sleeps
BOARD_SECONDS = 20.0


@dataclass(frozen=True)
class Standing:
    """What one client said last."""

    waiting: int
    holds: frozenset[str]  # members in whose hands it has work
    seen: int  # the version of the members that it knew when it said so
    at: float


class Board:
    """Who the members are, by the group; how much waits, by the clients. Not told by either what to do about it."""

    def __init__(self) -> None:
        self._version = 0
        self._members: dict[str, Any] | None = None  # not told yet: a board that Ray started anew knows nobody
        self._clients: dict[str, Standing] = {}
        self._told: dict[str, int] = {}

    def post(self, client: str, waiting: int, holds: tuple[str, ...]) -> dict[str, Any] | None:
        """The members (None: not known yet), for a client that has `waiting` unfinished items."""
        self._clients[client] = Standing(waiting, frozenset(holds), self._told.get(client, -1), time.monotonic())
        self._told[client] = self._version
        return self._members

    def leave(self, client: str) -> None:
        """The client is done."""
        self._clients.pop(client, None)
        self._told.pop(client, None)

    def publish(self, version: int, members: dict[str, Any]) -> list[Standing]:
        """From now these are the members; how each living client stands."""
        self._version, self._members = version, members
        for name in [n for n, s in self._clients.items() if s.at < time.monotonic() - CLIENT_SECONDS]:
            self.leave(name)
        return list(self._clients.values())


class SandboxGroup:
    """`actors` sandboxes (default: one a core of the cluster); with `max_actors`, as many as the work calls for."""

    def __init__(self, config: SandboxConfig) -> None:
        self.config = config
        self._name = uuid.uuid4().hex[:6]
        self._count = 0
        self._version = 0
        self._actors: dict[str, Any] = {}
        self._leaving: dict[str, tuple[Any, int]] = {}  # handle, and the version in which it is no member any more
        self._board: Any = None
        self._stop = threading.Event()
        least = config.actors or (1 if config.max_actors else max(1, int(ray.cluster_resources().get("sandbox", 1))))
        self._grow(least)
        if config.max_actors and config.max_actors > least:
            self._scaler = Scaler(
                least=least,
                most=config.max_actors,
                per_member=config.batch_size * LEASES,
                grow_seconds=GROW_SECONDS,
                idle_seconds=config.idle_seconds,
                clock=time.monotonic,
            )
            # Beside the driver, so that it keeps no sandbox node from going. Ray puts an actor that asks for nothing on
            # any node, unless its affinity is a hard one.
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            board = ray.remote(Board).options(num_cpus=0, max_restarts=-1, max_task_retries=3, scheduling_strategy=here)
            self._board = board.remote()
            self._gauges = {
                name: Gauge(f"ledex_sandbox_{name}", text)
                for name, text in (
                    ("members", "Sandboxes that may get work"),
                    ("waiting", "Requests in work or queued"),
                )
            }
            self._publish()
            self._thread = threading.Thread(target=self._look_after, name="sandboxes", daemon=True)
            self._thread.start()

    @property
    def actors(self) -> dict[str, Any]:
        """The actors' handles by name."""
        return dict(self._actors)

    def client(self) -> SandboxClient:
        """A client of the sandboxes there are now and, with `max_actors`, of those that come."""
        return SandboxClient(self._actors, self.config, self._board)

    def shutdown(self) -> None:
        """Ends every sandbox; their children end with them."""
        self._stop.set()
        if self._board is not None:
            self._thread.join(BOARD_SECONDS)
            ray.kill(self._board)
        for actor in [*self._actors.values(), *(actor for actor, _ in self._leaving.values())]:
            ray.kill(actor)

    def _look_after(self) -> None:
        while not self._stop.wait(TURN_SECONDS):
            try:
                self._turn(self._publish())
            except (ray.exceptions.RayError, TimeoutError) as error:  # the sandboxes there are serve on
                log.warning("the number of sandboxes stays: %s", str(error).splitlines()[0])

    def _publish(self) -> list[Standing]:
        return list(ray.get(self._board.publish.remote(self._version, self._actors), timeout=BOARD_SECONDS))

    def _turn(self, clients: list[Standing]) -> None:
        """Adds, takes leave of, and ends sandboxes by how the clients stand."""
        for name, (actor, version) in list(self._leaving.items()):
            if all(c.seen >= version and name not in c.holds for c in clients):
                ray.kill(actor)
                del self._leaving[name]
        members, waiting = len(self._actors), sum(c.waiting for c in clients)
        self._gauges["members"].set(members)
        self._gauges["waiting"].set(waiting)
        wanted = self._scaler.wanted(members, waiting)
        if wanted == members:
            return
        log.info("sandboxes: %d to %d, %d requests wait", members, wanted, waiting)
        if wanted > members:
            self._grow(wanted - members)
        else:
            self._version += 1
            for name in last_ones(members - wanted, self._nodes()):
                self._leaving[name] = (self._actors.pop(name), self._version)

    def _grow(self, count: int) -> None:
        self._version += 1
        for _ in range(count):
            name = f"sandbox-{self._name}-{self._count}"
            self._count += 1
            self._actors[name] = (
                ray.remote(concurrency_groups={"control": 2})(SandboxActor)  # type: ignore[call-overload]
                .options(
                    name=name,
                    num_cpus=0,
                    resources={"sandbox": 1},
                    max_restarts=-1,
                    max_task_retries=0,
                )
                .remote(self.config)
            )

    def _nodes(self) -> dict[str, str]:
        """The node each sandbox is on, in the order they were started; "" for one without a place."""
        places = {name: watchdog.whereabouts(actor) for name, actor in self._actors.items()}
        return {name: place.node_id if place.state == "ALIVE" else "" for name, place in places.items()}


def last_ones(count: int, nodes: Mapping[str, str]) -> list[str]:
    """Which `count` members go: those without a node first, then those that empty a node soonest, newest first."""
    left = dict(nodes)
    going: list[str] = []
    for _ in range(count):
        crowd = Counter(left.values())
        newest = {name: index for index, name in enumerate(left)}
        name = min(left, key=lambda n: (left[n] != "", crowd[left[n]], left[n], -newest[n]))
        del left[name]
        going.append(name)
    return going
