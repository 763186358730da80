"""Items, members and leases as a pure state machine: each item reaches its consumer exactly once.

No Ray, no threads, no clock of its own: events go in, decisions come out. A *lease* is a batch of items given to one
member until a deadline. An item whose lease ended badly (member died, hung, or raised) gets a strike and goes back to
the front of the queue, from then on in a lease of its own. Before its last strike it gets a member of its own, too: one
that holds nothing else meanwhile, so that it can take no other item down. At the last (third) strike it is dropped,
which its consumer is told. Health is here; what a dead member is, and how it comes back, is actors/ray_pool.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class Health(StrEnum):
    """Where a member stands. The transition that does not exist: DOWN never serves without passing `ready`."""

    DOWN = "down"
    """Starting, or lost and not yet back; holds no lease."""
    READY = "ready"
    """Gets leases."""
    RETIRING = "retiring"
    """Finishes the leases it has, gets no more, then leaves."""


@dataclass(frozen=True)
class Lease(Generic[T]):
    """A batch in a member's hands. `deadline` moves when the member shows progress."""

    id: int
    member: str
    items: tuple[tuple[str, T], ...]
    since: float
    deadline: float

    @property
    def item_ids(self) -> tuple[str, ...]:
        return tuple(item_id for item_id, _ in self.items)


@dataclass(frozen=True)
class Dropped:
    """An item that was given up, with what happened each time."""

    item_id: str
    strikes: tuple[str, ...]


@dataclass
class _Entry(Generic[T]):
    item: T
    strikes: list[str] = field(default_factory=list)
    retries: int = 0
    avoid: str = ""  # the member that failed it last


@dataclass
class _Member:
    health: Health = Health.DOWN
    leases: list[int] = field(default_factory=list)
    alone: int = 0  # the lease of an item on its last chance; 0 for none


class Pool(Generic[T]):
    """Who works on what. `seconds(n)` is how long a lease of n items may take without a sign of progress.

    Invariant: every item added and not yet delivered or dropped is either queued or in exactly one lease.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        seconds: Callable[[int], float],
        batch_size: int = 1,
        leases_per_member: int = 2,
        max_strikes: int = 3,
        max_retries: int = 2,
    ) -> None:
        self._clock = clock
        self._seconds = seconds
        self._batch_size = batch_size
        self._leases_per_member = leases_per_member
        self._max_strikes = max_strikes
        self._max_retries = max_retries
        self._entries: dict[str, _Entry[T]] = {}
        self._queue: deque[str] = deque()
        self._last_chances: deque[str] = deque()
        self._members: dict[str, _Member] = {}
        self._leases: dict[int, Lease[T]] = {}
        self._dropped: list[Dropped] = []
        self._next_lease = 0

    # Items

    def add(self, item_id: str, item: T) -> None:
        """Queues an item. Raises ValueError for an id that is still in the pool."""
        if item_id in self._entries:
            raise ValueError(f"item {item_id!r} is in the pool already")
        self._entries[item_id] = _Entry(item)
        self._queue.append(item_id)

    @property
    def unfinished(self) -> int:
        """Items neither delivered nor dropped."""
        return len(self._entries)

    @property
    def queued(self) -> int:
        """Items in no lease."""
        return len(self._queue) + len(self._last_chances)

    def room(self) -> int:
        """How many items to add now: enough that no ready member runs dry, no more (back-pressure)."""
        members = sum(m.health is not Health.RETIRING for m in self._members.values())
        wanted = max(1, members) * self._batch_size * (self._leases_per_member + 1)
        return max(0, wanted - self.unfinished)

    # Members

    def join(self, member: str) -> None:
        """A new member, DOWN until it is `ready`. Joining again changes nothing."""
        self._members.setdefault(member, _Member())

    def ready(self, member: str) -> None:
        """The member can serve."""
        if self._members[member].health is Health.DOWN:
            self._members[member].health = Health.READY

    def lost(self, member: str, reason: str, *, strike: bool = True) -> tuple[str, ...]:
        """The member died or cannot serve for now; its items go back, with a strike if so. Returns their ids."""
        state = self._members[member]
        returned = [i for lease_id in tuple(state.leases) for i in self._take_back(lease_id, reason, strike)]
        if state.health is Health.RETIRING:
            self._members.pop(member, None)
        else:
            state.health = Health.DOWN
        return tuple(returned)

    def retire(self, member: str) -> None:
        """Removes the member once it has finished what it holds."""
        state = self._members[member]
        state.health = Health.RETIRING
        if not state.leases:
            del self._members[member]

    def members(self, health: Health | None = None) -> tuple[str, ...]:
        """Names of members, of one health where given."""
        return tuple(name for name, m in self._members.items() if health is None or m.health is health)

    def holding(self) -> tuple[str, ...]:
        """Names of members that hold a lease."""
        return tuple(name for name, m in self._members.items() if m.leases)

    # Leases

    def assign(self) -> list[Lease[T]]:
        """New leases for members with room, the least busy first; where little waits, spread over them all.

        For an item on its last chance one member is given nothing more until it holds nothing, and then that item.
        """
        made: list[Lease[T]] = []
        while self._queue or self._last_chances:
            serving = [
                (len(m.leases), name) for name, m in self._members.items() if m.health is Health.READY and not m.alone
            ]
            serving.sort(key=lambda pair: pair[0])  # a tie goes to whoever joined first
            if self._last_chances and serving:
                avoided = self._entries[self._last_chances[0]].avoid
                held, member = next((pair for pair in serving if pair[1] != avoided), serving[0])
                if not held:
                    made.append(self._lease([self._last_chances.popleft()], member))
                    self._members[member].alone = made[-1].id
                    continue
                serving.remove((held, member))  # it gets nothing more until it holds nothing
            free = [(held, name) for held, name in serving if held < self._leases_per_member]
            if not free or not self._queue:
                break
            slots = sum(self._leases_per_member - held for held, _ in free)
            made.append(self._lease_to([name for _, name in free], most=-(-len(self._queue) // slots)))
        return made

    def finish(self, lease_id: int, again: Collection[str] = ()) -> tuple[str, ...]:
        """The lease came back with its results. Returns the ids whose result is to be delivered now, each only once.

        Ids in `again` have a result that another member should try to better; after `max_retries` it is delivered.
        A lease that was taken back before delivers nothing: its items are elsewhere by now.
        """
        lease = self._leases.get(lease_id)
        if lease is None:
            return ()
        self._end(lease)
        if lease.member in self._members:
            self.extend(lease.member)  # what it holds besides has waited for this
        delivered, retried = [], []
        for item_id in lease.item_ids:
            entry = self._entries[item_id]
            if item_id in again and entry.retries < self._max_retries:
                entry.retries += 1
                entry.avoid = lease.member
                retried.append(item_id)
            else:
                del self._entries[item_id]
                delivered.append(item_id)
        self._requeue(retried)
        return tuple(delivered)

    def fail(self, lease_id: int, reason: str) -> tuple[str, ...]:
        """The member raised instead of answering; it lives on. Returns the ids that got a strike."""
        return self._take_back(lease_id, reason)

    def overdue(self) -> list[Lease[T]]:
        """Leases past their deadline, the oldest first."""
        now = self._clock()
        return sorted((le for le in self._leases.values() if le.deadline <= now), key=lambda le: le.since)

    def extend(self, member: str, idle_seconds: float = 0.0) -> None:
        """The member made progress `idle_seconds` ago: its leases' deadlines count from then."""
        for lease_id in self._members[member].leases:
            lease = self._leases[lease_id]
            deadline = self._clock() - idle_seconds + self._seconds(len(lease.items))
            self._leases[lease_id] = Lease(lease.id, lease.member, lease.items, lease.since, deadline)

    def take_dropped(self) -> list[Dropped]:
        """Items given up since the last call; each is told once."""
        dropped, self._dropped = self._dropped, []
        return dropped

    def leases(self) -> tuple[Lease[T], ...]:
        """Every lease in hand."""
        return tuple(self._leases.values())

    def holds(self, lease_id: int) -> bool:
        """Whether the lease is still in a member's hands."""
        return lease_id in self._leases

    def _lease_to(self, members: list[str], most: int) -> Lease[T]:
        entry = self._entries[self._queue[0]]
        member = next((name for name in members if name != entry.avoid), members[0])
        size = 1 if entry.strikes else min(self._batch_size, most)
        ids: list[str] = []
        while self._queue and len(ids) < size:
            follower = self._entries[self._queue[0]]
            if ids and follower.strikes:  # a suspect travels alone
                break
            ids.append(self._queue.popleft())
        return self._lease(ids, member)

    def _lease(self, ids: list[str], member: str) -> Lease[T]:
        now = self._clock()
        self._next_lease += 1
        items = tuple((i, self._entries[i].item) for i in ids)
        lease = Lease(self._next_lease, member, items, now, now + self._seconds(len(ids)))
        self._leases[lease.id] = lease
        self._members[member].leases.append(lease.id)
        return lease

    def _take_back(self, lease_id: int, reason: str, strike: bool = True) -> tuple[str, ...]:
        lease = self._leases.get(lease_id)
        if lease is None:
            return ()
        self._end(lease)
        back = []
        for item_id in lease.item_ids:
            entry = self._entries[item_id]
            entry.avoid = lease.member
            if strike:
                entry.strikes.append(f"{lease.member}: {reason}")
            if len(entry.strikes) >= self._max_strikes:
                del self._entries[item_id]
                self._dropped.append(Dropped(item_id, tuple(entry.strikes)))
            else:
                back.append(item_id)
        self._requeue(back)
        return lease.item_ids

    def _requeue(self, ids: list[str]) -> None:
        last = [i for i in ids if len(self._entries[i].strikes) == self._max_strikes - 1]
        self._last_chances.extend(last)
        self._queue.extendleft(reversed([i for i in ids if i not in last]))

    def _end(self, lease: Lease[T]) -> None:
        del self._leases[lease.id]
        state = self._members[lease.member]
        state.leases.remove(lease.id)
        state.alone = 0
        if state.health is Health.RETIRING and not state.leases:
            del self._members[lease.member]
