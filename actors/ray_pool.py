"""The pool over Ray actors: leases become calls, actor deaths and silences become strikes, results come out once.

Used alike by clients of the sandboxes and of the rollout engines (each describes its calls as a `Service`). Several
clients may share the same actors: an overdue lease ends its actor only if that has made no progress for as long.
Actors are expected to be restarted by Ray when they die, and to have `ready()` (what they are, once they serve) and
`stalled_seconds()` (how long they have been busy without progress); both are answered while they work. Who the actors
are may change while a pool runs: its `Service` then says whom to ask.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray

from actors import watchdog
from actors.pool import Dropped, Health, Lease, Pool
from actors.usage import counts_of
from ledex_ray.errors import RunFailed

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")

POLL_SECONDS = 0.2
SOON_SECONDS = 0.02
FETCH_SECONDS = 30.0
PROBE_SECONDS = 1.0
MEMBERS_SECONDS = 1.0
ANSWER_SECONDS = 10.0


class NoMembers(RunFailed):
    """No actor became ready in time, with what each last died of."""


class CalledOff(RuntimeError):
    """Whoever asked for this work no longer wants it."""


@dataclass
class _Actor:
    handle: Any
    down_since: float = 0.0
    probe: Any = None
    next_probe: float = 0.0
    asked_since: float = 0.0
    alive_since: float = 0.0  # when Ray first said that the process we ask is up
    reason: str = "not ready yet"


@dataclass(frozen=True)
class Service(Generic[T, R]):
    """How to call one kind of actor. `seconds(n)` is the longest silence while n items are worked on."""

    call: Callable[[Any, list[T]], ray.ObjectRef]  # its result: one R an item
    seconds: Callable[[int], float]
    ready_seconds: float
    kind: str = ""  # under which it is counted
    batch_size: int = 1
    leases_per_member: int = 2
    accept: Callable[[R], bool] = lambda result: True  # False: another actor should try, at most twice
    refused: Callable[[R], bool] = lambda result: False  # True: the actor cannot serve before it is `usable` again
    # Asked with what `ready` gave. None: not yet, and not the actor's fault; the time does not count as its absence.
    usable: Callable[[str, Any, Any], bool | None] = lambda name, handle, info: True
    # Told every second how many items are unfinished and which members hold some; its result: the actors by name.
    members: Callable[[int, tuple[str, ...]], ray.ObjectRef] | None = None


class RayPool(Generic[T, R]):
    """Calls on actors with retries elsewhere. Not for use by two threads at once."""

    def __init__(self, actors: Mapping[str, Any], service: Service[T, R]) -> None:
        self._counts = counts_of(service.kind)
        self._service = service
        self._pool: Pool[T] = Pool(
            clock=time.monotonic,
            seconds=service.seconds,
            batch_size=service.batch_size,
            leases_per_member=service.leases_per_member,
        )
        self._actors: dict[str, _Actor] = {}
        self._calls: dict[ray.ObjectRef, Lease[T]] = {}
        self._out: list[tuple[str, R | Dropped]] = []
        self._asked_members: ray.ObjectRef | None = None
        self._next_members = 0.0
        self._dead: set[str] = set()
        for name in random.sample(list(actors), len(actors)):  # several clients with little work each take other actors
            self.join(name, actors[name])

    def join(self, name: str, handle: Any) -> None:
        """Adds an actor; it gets work once it answers `ready`."""
        self._actors[name] = _Actor(handle, down_since=time.monotonic())
        self._pool.join(name)

    def retire(self, name: str) -> None:
        """Gives the actor no more work; what it holds is waited for."""
        self._actors[name].probe = None
        self._pool.retire(name)

    @property
    def unfinished(self) -> int:
        """Items submitted whose result has not come out."""
        return self._pool.unfinished + len(self._out)

    @property
    def room(self) -> int:
        """How many items to submit now, so that no actor runs dry and no queue grows."""
        return self._pool.room()

    def submit(self, item_id: str, item: T) -> None:
        """Queues an item. Raises ValueError for an id that is still in the pool."""
        self._pool.add(item_id, item)
        self._counts.waiting(+1)

    def map(
        self, items: Iterable[tuple[str, T] | None], called_off: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[str, R | Dropped]]:
        """(id, result) as they finish; reads no further ahead in `items` than keeps the actors busy.

        A None among the items: there is none now, and there may be one soon. Closing the iterator calls off what actors
        have not begun (an engine stops in mid answer). Raises CalledOff soon after `called_off` has become true, also
        while nothing finishes.
        """
        source = iter(items)
        open_ended = True
        try:
            while open_ended or self.unfinished:
                patience = POLL_SECONDS
                while open_ended and self.room > 0:
                    try:
                        pair = next(source)
                    except StopIteration:
                        open_ended = False
                        break
                    if pair is None:
                        patience = SOON_SECONDS
                        break
                    self.submit(*pair)
                yield from self.poll(patience)
                if called_off():
                    raise CalledOff(f"{self.unfinished} items called off")
        finally:
            self._counts.waiting(-self.unfinished)
            for call in self._calls:
                ray.cancel(call)

    def poll(self, timeout: float) -> list[tuple[str, R | Dropped]]:
        """Results that are there, waiting up to `timeout` seconds for the first. Raises NoMembers."""
        deadline = time.monotonic() + timeout
        while True:
            self._update_members()
            self._look_after_members()
            self._start_calls()
            self._collect(0.0 if self._out else max(0.0, min(POLL_SECONDS, deadline - time.monotonic())))
            self._end_overdue()
            for dropped in self._pool.take_dropped():
                self._counts.add("dropped")
                log.error("item dropped id=%s strikes=%s", dropped.item_id, "; ".join(dropped.strikes))
                self._out.append((dropped.item_id, dropped))
            if self._out or not self._pool.unfinished or time.monotonic() >= deadline:
                out, self._out = self._out, []
                self._counts.waiting(-len(out))
                return out

    def _start_calls(self) -> None:
        for lease in self._pool.assign():
            actor = self._actors[lease.member]
            self._calls[self._service.call(actor.handle, [item for _, item in lease.items])] = lease

    def _collect(self, timeout: float) -> None:
        probes = [a.probe for a in self._actors.values() if a.probe is not None]
        waiting = [*self._calls, *probes]
        if not waiting:
            time.sleep(min(timeout, 0.05))
            return
        done, _ = ray.wait(waiting, num_returns=1, timeout=timeout)
        if len(waiting) > 1 and done:
            done, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        for ref in done:
            if ref in self._calls:
                self._settle(self._calls.pop(ref), ref)

    def _settle(self, lease: Lease[T], ref: ray.ObjectRef) -> None:
        if not self._pool.holds(lease.id):
            return  # taken back before; a late result, or the same death told by another call
        try:
            results = ray.get(ref, timeout=FETCH_SECONDS)
        except ray.exceptions.RayActorError as error:
            self._lost(lease.member, _in_a_line(error))
            return
        except (ray.exceptions.RayError, TimeoutError) as error:  # it raised, or its result is lost; it lives on
            log.warning("call failed actor=%s items=%s error=%s", lease.member, lease.item_ids[:4], _in_a_line(error))
            self._counts.add("retries", len(self._pool.fail(lease.id, _in_a_line(error))))
            return
        if any(self._service.refused(result) for result in results):
            self._lost(lease.member, f"cannot serve: {results[0]}", strike=False)
            return
        by_id = dict(zip(lease.item_ids, results, strict=True))
        again = [item_id for item_id in lease.item_ids if not self._service.accept(by_id[item_id])]
        delivered = self._pool.finish(lease.id, again)
        self._counts.add("retries", len(lease.items) - len(delivered))
        self._out += [(item_id, by_id[item_id]) for item_id in delivered]

    def _look_after_members(self) -> None:
        now = time.monotonic()
        for name in self._pool.members(Health.DOWN):
            actor = self._actors[name]
            if actor.probe is None and now >= actor.next_probe:
                actor.probe, actor.next_probe = actor.handle.ready.remote(), now + PROBE_SECONDS
                actor.asked_since = actor.asked_since or now
            elif actor.probe is not None and ray.wait([actor.probe], timeout=0)[0]:
                self._answered(name, actor)
            elif actor.probe is not None and now >= actor.next_probe:
                actor.next_probe = now + PROBE_SECONDS
                self._check_silent(name, actor)
        living = [self._actors[name] for name in self._pool.members()]
        shortest = min((now - actor.down_since for actor in living), default=math.inf)
        if self._pool.unfinished and not self._serving() and shortest > 2 * self._service.ready_seconds:
            reasons = [f"{name}: {a.reason}" for name, a in self._actors.items() if a.reason]
            raise NoMembers(f"no actor became ready: {'; '.join(reasons) or 'none started'}")

    def _update_members(self) -> None:
        """Takes in actors that have come and retires those that are to go."""
        now = time.monotonic()
        if self._service.members is None:
            return
        if self._asked_members is None:
            if now >= self._next_members:
                self._next_members = now + MEMBERS_SECONDS
                self._asked_members = self._service.members(self.unfinished, self._pool.holding())
            return
        if not ray.wait([self._asked_members], timeout=0)[0]:
            return
        asked, self._asked_members = self._asked_members, None
        try:
            actors: dict[str, Any] | None = ray.get(asked, timeout=FETCH_SECONDS)
        except (ray.exceptions.RayError, TimeoutError) as error:  # those we know serve on
            log.warning("who the actors are is not known: %s", _in_a_line(error))
            return
        if actors is None:  # the board is new and nobody has told it yet
            return
        here = set(self._pool.members())
        for name in actors.keys() - here - self._dead:
            self.join(name, actors[name])
        for name in here - actors.keys():
            self.retire(name)

    def _serving(self) -> tuple[str, ...]:
        return self._pool.members(Health.READY) + self._pool.members(Health.RETIRING)

    def _answered(self, name: str, actor: _Actor) -> None:
        probe, actor.probe = actor.probe, None
        try:
            info = ray.get(probe, timeout=FETCH_SECONDS)
        except (ray.exceptions.RayError, TimeoutError) as error:
            actor.reason = _in_a_line(error)
            actor.next_probe = time.monotonic() + PROBE_SECONDS
            if watchdog.whereabouts(actor.handle).state == "DEAD":
                self._dead.add(name)
                self._pool.retire(name)
            else:
                self._check_silent(name, actor)  # a stopped process: Ray may lose its connection, and answers for it
            return
        actor.asked_since = actor.alive_since = 0.0
        usable = self._service.usable(name, actor.handle, info)
        if usable:
            self._pool.ready(name)
            return
        actor.reason, actor.next_probe = "holds other weights", time.monotonic() + PROBE_SECONDS
        if usable is None:
            actor.down_since = time.monotonic()

    def _check_silent(self, name: str, actor: _Actor) -> None:
        """An actor that does not answer `ready`: one that runs is stuck; one that starts has longer."""
        at, now = watchdog.whereabouts(actor.handle), time.monotonic()
        if at.state != "ALIVE":
            actor.alive_since = 0.0
            if now - actor.asked_since <= self._service.ready_seconds:
                return
            log.warning("actor=%s not started after %.0f s (%s)", name, now - actor.asked_since, actor.reason)
            ray.kill(actor.handle, no_restart=False)
        elif not actor.alive_since:
            actor.alive_since = now
            return
        elif now - actor.alive_since <= min(self._service.seconds(1), self._service.ready_seconds):
            return
        else:
            self._end(name, actor.handle, at, (), now - actor.alive_since)
        actor.probe, actor.asked_since, actor.alive_since = None, 0.0, 0.0

    def _end(
        self, name: str, handle: Any, at: watchdog.Whereabouts, items: tuple[str, ...], silent_seconds: float
    ) -> None:
        """Names a stuck actor, shows its stack and ends its process; Ray starts it anew."""
        self._counts.add("stuck")
        watchdog.report_stuck(items, name, silent_seconds, watchdog.examine(at.pid, at.node_id))
        if not watchdog.end_process(at.pid, at.node_id):
            ray.kill(handle, no_restart=False)

    def _lost(self, name: str, reason: str, *, strike: bool = True) -> None:
        actor = self._actors[name]
        if name not in self._serving():
            return  # known already: another of its calls told
        self._counts.add("deaths", int(strike))
        actor.down_since, actor.next_probe, actor.reason = time.monotonic(), 0.0, reason
        actor.asked_since = actor.alive_since = 0.0
        items = self._pool.lost(name, reason, strike=strike)
        self._counts.add("retries", len(items))
        log.warning("actor=%s lost (%s); %d items go elsewhere", name, reason, len(items))

    def _end_overdue(self) -> None:
        for lease in self._pool.overdue():
            actor = self._actors[lease.member]
            if lease.member not in self._serving():
                continue
            stalled = self._stalled_seconds(actor)
            if stalled < self._service.seconds(len(lease.items)):
                self._pool.extend(lease.member, stalled)
                continue
            since = time.monotonic() - lease.since
            at = watchdog.whereabouts(actor.handle)
            if at.state == "ALIVE":  # else another client has ended it already
                self._end(lease.member, actor.handle, at, lease.item_ids, since)
            self._lost(lease.member, f"silent for {since:.0f} s")

    def _stalled_seconds(self, actor: _Actor) -> float:
        """How long the actor has worked without progress; for ever where it does not even answer."""
        try:
            patience = min(ANSWER_SECONDS, self._service.seconds(1))
            return float(ray.get(actor.handle.stalled_seconds.remote(), timeout=patience))
        except (ray.exceptions.RayError, TimeoutError):
            return math.inf


def _in_a_line(error: BaseException) -> str:
    """What happened; where an actor's own code raised, the last line of its traceback says it."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()] or [""]
    if getattr(error, "actor_init_failed", False):
        return lines[-1].strip()[:300]
    return f"{type(error).__name__}: {lines[-1 if isinstance(error, ray.exceptions.RayTaskError) else 0][:200]}"
