"""The pool's state machine, with no Ray and a clock that the test turns."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.pool import Health, Lease, Pool


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make_pool(clock: Clock, **settings: int) -> Pool[int]:
    return Pool(clock=clock, seconds=lambda n: 10.0, **settings)


def add(pool: Pool[int], *names: str) -> None:
    for index, name in enumerate(names):
        pool.add(name, index)


def serving(pool: Pool[int], *members: str) -> None:
    for member in members:
        pool.join(member)
        pool.ready(member)


def test_members_get_no_work_before_they_are_ready() -> None:
    pool = make_pool(Clock())
    pool.join("a")
    add(pool, "x")
    assert pool.assign() == []
    pool.ready("a")
    assert [lease.item_ids for lease in pool.assign()] == [("x",)]


def test_the_least_busy_member_is_given_work_first() -> None:
    pool = make_pool(Clock(), leases_per_member=2)
    serving(pool, "a", "b")
    add(pool, "w", "x", "y")
    assert [lease.member for lease in pool.assign()] == ["a", "b", "a"]


def test_little_work_is_spread_over_all_members_and_much_goes_in_whole_batches() -> None:
    pool = make_pool(Clock(), batch_size=4, leases_per_member=2)
    serving(pool, "a", "b", "c")
    add(pool, *"tuvwxyz")
    assert [(lease.member, len(lease.items)) for lease in pool.assign()] == [
        ("a", 2), ("b", 1), ("c", 1), ("a", 1), ("b", 1), ("c", 1),
    ]  # fmt: skip
    pool = make_pool(Clock(), batch_size=4, leases_per_member=2)
    serving(pool, "a", "b", "c")
    add(pool, *map(str, range(40)))
    assert [len(lease.items) for lease in pool.assign()] == [4] * 6


def test_a_batch_lost_with_its_member_goes_elsewhere_one_by_one() -> None:
    pool = make_pool(Clock(), batch_size=3, leases_per_member=1)
    serving(pool, "a")
    add(pool, "x", "y", "z")
    (lease,) = pool.assign()
    assert lease.item_ids == ("x", "y", "z")
    assert pool.lost("a", "killed") == ("x", "y", "z")
    serving(pool, "b")
    pool.ready("a")
    assert [retry.item_ids for retry in pool.assign()] == [("x",), ("y",)]


def test_a_result_that_comes_after_its_lease_was_taken_back_is_not_delivered() -> None:
    pool = make_pool(Clock())
    serving(pool, "a", "b")
    add(pool, "x")
    (first,) = pool.assign()
    pool.lost(first.member, "silent")
    (second,) = pool.assign()
    assert pool.finish(first.id) == ()
    assert pool.finish(second.id) == ("x",)
    assert pool.finish(second.id) == ()


def test_three_strikes_drop_an_item_and_say_why() -> None:
    pool = make_pool(Clock())
    serving(pool, "a", "b", "c")
    add(pool, "x")
    for reason in ("killed", "hung", "raised"):
        (lease,) = pool.assign()
        pool.fail(lease.id, reason)
    (dropped,) = pool.take_dropped()
    assert dropped.item_id == "x"
    assert [strike.split(": ")[1] for strike in dropped.strikes] == ["killed", "hung", "raised"]
    assert pool.unfinished == 0 and pool.take_dropped() == []


def test_an_item_that_ends_members_takes_no_other_down_with_it() -> None:
    pool = make_pool(Clock(), leases_per_member=4)
    serving(pool, "a")
    add(pool, "killer", "x", "y", "z")
    delivered: list[str] = []
    for _ in range(40):
        leases = pool.assign()
        if any(lease.item_ids == ("killer",) for lease in leases):
            pool.lost("a", "died")
            pool.ready("a")
        else:
            delivered += [id for lease in leases for id in pool.finish(lease.id)]
    assert sorted(delivered) == ["x", "y", "z"] and not pool.unfinished
    assert [dropped.item_id for dropped in pool.take_dropped()] == ["killer"]


def test_a_last_chance_waits_for_an_idle_member_and_the_others_go_on() -> None:
    pool = make_pool(Clock(), leases_per_member=2)
    serving(pool, "a", "b")
    add(pool, "x")
    for _ in range(2):
        (lease,) = pool.assign()
        pool.fail(lease.id, "raised")
    add(pool, *"stuvw")
    first = {lease.member: lease for lease in pool.assign()}
    alone = next(lease for lease in first.values() if lease.item_ids == ("x",))
    other = "a" if alone.member == "b" else "b"
    assert sorted((lease.member, lease.item_ids) for lease in pool.leases()) == sorted(
        [(alone.member, ("x",)), (other, ("s",)), (other, ("t",))]
    )
    pool.finish(alone.id)
    assert [lease.member for lease in pool.assign()] == [alone.member] * 2


def test_a_retry_prefers_another_member() -> None:
    pool = make_pool(Clock())
    serving(pool, "a", "b")
    add(pool, "x")
    (first,) = pool.assign()
    pool.fail(first.id, "raised")
    (second,) = pool.assign()
    assert second.member != first.member


def test_an_unsatisfactory_result_is_tried_again_twice_then_delivered() -> None:
    pool = make_pool(Clock(), max_retries=2)
    serving(pool, "a")
    add(pool, "x")
    for delivered in ((), (), ("x",)):
        (lease,) = pool.assign()
        assert pool.finish(lease.id, again=["x"]) == delivered


def test_a_member_that_cannot_serve_for_now_costs_its_items_no_strike() -> None:
    pool = make_pool(Clock(), max_strikes=1)
    serving(pool, "a")
    add(pool, "x")
    pool.assign()
    pool.lost("a", "holds other weights", strike=False)
    assert pool.take_dropped() == [] and pool.queued == 1
    assert pool.members(Health.DOWN) == ("a",)


def test_a_lease_is_overdue_after_its_time_and_progress_moves_the_deadline() -> None:
    clock = Clock()
    pool = make_pool(clock)
    serving(pool, "a")
    add(pool, "x")
    (lease,) = pool.assign()
    clock.now = 9.9
    assert pool.overdue() == []
    clock.now = 10.0
    assert [late.id for late in pool.overdue()] == [lease.id]
    pool.extend("a", idle_seconds=4.0)
    clock.now = 15.9
    assert pool.overdue() == []
    clock.now = 16.0
    assert [late.since for late in pool.overdue()] == [0.0]


def test_a_finished_lease_restarts_the_time_of_the_one_behind_it() -> None:
    clock = Clock()
    pool = make_pool(clock, leases_per_member=2)
    serving(pool, "a")
    add(pool, "x", "y")
    first, _second = pool.assign()
    clock.now = 9.0
    pool.finish(first.id)
    clock.now = 18.0
    assert pool.overdue() == []
    clock.now = 19.0
    assert len(pool.overdue()) == 1


def test_a_retiring_member_finishes_what_it_has_and_leaves() -> None:
    pool = make_pool(Clock())
    serving(pool, "a")
    add(pool, "x", "y", "z")
    first, second = pool.assign()
    pool.retire("a")
    pool.finish(first.id)
    assert pool.assign() == []
    pool.finish(second.id)
    assert pool.members() == () and pool.queued == 1


def test_back_pressure_asks_for_no_more_than_keeps_members_busy() -> None:
    pool = make_pool(Clock(), batch_size=4, leases_per_member=2)
    serving(pool, "a", "b")
    assert pool.room() == 24
    add(pool, *map(str, range(24)))
    assert pool.room() == 0
    pool.assign()
    assert pool.room() == 0


def test_an_id_can_be_in_the_pool_once() -> None:
    pool = make_pool(Clock())
    add(pool, "x")
    with pytest.raises(ValueError, match="'x'"):
        add(pool, "x")


class AnyHistory(RuleBasedStateMachine):
    """Whatever happens to members and leases, each item comes out exactly once, delivered or dropped."""

    @initialize(
        batch_size=st.integers(1, 4),
        leases=st.integers(1, 3),
        max_strikes=st.integers(1, 3),
        max_retries=st.integers(0, 2),
    )
    def start(self, batch_size: int, leases: int, max_strikes: int, max_retries: int) -> None:
        self.clock = Clock()
        self.pool: Pool[int] = Pool(
            clock=self.clock,
            seconds=lambda n: 5.0 + n,
            batch_size=batch_size,
            leases_per_member=leases,
            max_strikes=max_strikes,
            max_retries=max_retries,
        )
        self.batch_size, self.leases_per_member = batch_size, leases
        self.added: set[str] = set()
        self.out: list[str] = []
        self.every_lease: list[Lease[int]] = []
        self.n_members = 0

    @rule(count=st.integers(1, 6))
    def add_items(self, count: int) -> None:
        for _ in range(count):
            item_id = str(len(self.added))
            self.added.add(item_id)
            self.pool.add(item_id, len(self.added))

    @rule()
    def add_member(self) -> None:
        self.n_members += 1
        self.pool.join(f"m{self.n_members}")

    @precondition(lambda self: self.pool.members())
    @rule(data=st.data())
    def member_is_ready(self, data: st.DataObject) -> None:
        self.pool.ready(data.draw(st.sampled_from(self.pool.members())))

    @precondition(lambda self: self.pool.members())
    @rule(data=st.data(), strike=st.booleans())
    def member_is_lost(self, data: st.DataObject, strike: bool) -> None:
        self.pool.lost(data.draw(st.sampled_from(self.pool.members())), "killed", strike=strike)

    @precondition(lambda self: self.pool.members())
    @rule(data=st.data())
    def member_retires(self, data: st.DataObject) -> None:
        self.pool.retire(data.draw(st.sampled_from(self.pool.members())))

    @rule()
    def assign(self) -> None:
        self.every_lease += self.pool.assign()

    @precondition(lambda self: self.every_lease)
    @rule(data=st.data())
    def a_lease_answers(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.every_lease))  # also one that was taken back, or has answered before
        again = [i for i in lease.item_ids if data.draw(st.booleans())]
        self.out += self.pool.finish(lease.id, again)

    @precondition(lambda self: self.every_lease)
    @rule(data=st.data())
    def a_lease_fails(self, data: st.DataObject) -> None:
        self.pool.fail(data.draw(st.sampled_from(self.every_lease)).id, "raised")

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds
        for lease in self.pool.overdue():
            if self.pool.holds(lease.id):
                self.pool.lost(lease.member, "silent")

    @rule()
    def consumer_hears_of_dropped_items(self) -> None:
        self.out += [dropped.item_id for dropped in self.pool.take_dropped()]

    @invariant()
    def nothing_comes_out_twice(self) -> None:
        assert len(self.out) == len(set(self.out))

    @invariant()
    def leases_are_disjoint_and_within_bounds(self) -> None:
        leases = self.pool.leases()
        leased = [item_id for lease in leases for item_id in lease.item_ids]
        assert len(leased) == len(set(leased))
        assert len(leased) + self.pool.queued == self.pool.unfinished
        for member in self.pool.members():
            assert sum(lease.member == member for lease in leases) <= self.leases_per_member
        assert all(len(lease.items) <= self.batch_size for lease in leases)
        assert all(lease.member in self.pool.members() for lease in leases)

    def teardown(self) -> None:
        """From any state a healthy member brings everything out."""
        if not hasattr(self, "pool"):
            return
        for member in self.pool.members():
            self.pool.lost(member, "killed", strike=False)
        self.pool.join("last")
        self.pool.ready("last")
        for _ in range(10 * len(self.added) + 10):
            for lease in self.pool.assign():
                self.out += self.pool.finish(lease.id)
        self.out += [dropped.item_id for dropped in self.pool.take_dropped()]
        assert sorted(self.out) == sorted(self.added)


AnyHistory.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
test_every_item_comes_out_exactly_once = AnyHistory.TestCase
