"""What has come for a key is handed on in its order, and a listener that fails hurts no other."""

from __future__ import annotations

import pytest

from asyncresult._storage import delivery as _delivery
from asyncresult.codec import codec
from asyncresult.errors import AsyncResultError, ResultDecodeError
from asyncresult.meta import TaskMeta
from tests.tools.tables import Table, Waiter


def test_a_read_does_not_take_the_task_back() -> None:
    """It was sent before a state was published, and its answer comes after: that may be the state before."""
    table = Table()
    waiter = Waiter(table, b"k")
    table.loop.run()
    table.acked([b"k"])
    table.pushed(b"k", b"PROGRESS")
    table.fetched([(b"k", b"STARTED")])
    assert waiter.states == ["PROGRESS"]
    table.loop.run()  # the read behind the acknowledgement is sent: what it finds is news
    table.fetched([(b"k", b"PAUSED")])
    assert waiter.states == ["PROGRESS", "PAUSED"]


@pytest.mark.parametrize(
    ("late", "seen"),
    [
        (["STARTED", "PROGRESS 1", "PROGRESS 2", "PROGRESS 3"], ["PROGRESS 2", "PROGRESS 3"]),  # it was published, too
        (["PROGRESS 3", "PROGRESS 4"], ["PROGRESS 2", "PROGRESS 3", "PROGRESS 4"]),  # before it was subscribed
    ],
)
def test_a_message_does_not_take_the_task_back(late: list[str], seen: list[str]) -> None:
    """What was published before it was read arrives after it; what is newer waits until that is known."""
    table = Table()
    waiter = Waiter(table, b"k")
    table.loop.run()
    table.acked([b"k"])
    table.fetched([(b"k", b"PROGRESS 2")])
    for state in late:
        table.pushed(b"k", state.encode())
    table.loop.run()
    if seen != waiter.states:
        assert table.subscribed_to == [b"k", b"k"] and waiter.states == ["PROGRESS 2"]
        table.acked([b"k"])
    assert waiter.states == seen
    table.pushed(b"k", b"PROGRESS 5")
    assert waiter.states == [*seen, "PROGRESS 5"]


def test_a_large_record_keeps_its_place() -> None:
    """It is decoded elsewhere; what comes behind it waits, unless that is the end. And it is decoded once."""
    table = Table()
    waiter = Waiter(table, b"k")
    table.loop.run()
    table.acked([b"k"])
    large = b"PROGRESS" + b" " * codec.LARGE_PAYLOAD_BYTES
    table.pushed(b"k", large)
    table.pushed(b"k", b"PAUSED")
    table.fetched([(b"k", large)])
    assert not waiter.states
    [done] = table.decoding
    done(TaskMeta(task_id="t", status="PROGRESS"))
    assert waiter.states == ["PROGRESS", "PAUSED"]
    table.pushed(b"k", large)
    table.pushed(b"k", b"SUCCESS")
    assert waiter.states[2:] == ["SUCCESS"]
    table.decoding[1](TaskMeta(task_id="t", status="PROGRESS"))
    assert waiter.states[2:] == ["SUCCESS"] and len(table.decoding) == 2


def test_a_state_that_is_read_while_a_large_record_is_decoded_comes_behind_it() -> None:
    table = Table()
    waiter = Waiter(table, b"k")
    table.loop.run()
    table.acked([b"k"])
    table.fetched([(b"k", None)])
    table.pushed(b"k", b"PROGRESS" + b" " * codec.LARGE_PAYLOAD_BYTES)
    table.loop.run()
    table.fetched([(b"k", b"PAUSED")])
    assert not waiter.states
    [done] = table.decoding
    done(TaskMeta(task_id="t", status="PROGRESS"))
    assert waiter.states == ["PROGRESS", "PAUSED"]


def test_a_large_final_record_that_was_published_ends_the_wait() -> None:
    table = Table()
    waiter = Waiter(table, b"k")
    table.loop.run()
    table.acked([b"k"])
    table.pushed(b"k", b"x" * codec.LARGE_PAYLOAD_BYTES)
    table.decoding[0](TaskMeta(task_id="t", status="SUCCESS"))
    assert waiter.states == ["SUCCESS"]
    assert (table.received, table.read) == (1, 0)


@pytest.mark.parametrize(
    ("limit", "value", "kept"), [("HELD", 3, 3), ("BACKLOG_BYTES", 3 * len(b"PROGRESS 0"), 3), ("BACKLOG_BYTES", 1, 1)]
)
def test_of_very_many_states_behind_a_large_one_the_last_are_kept(
    limit: str, value: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_delivery, limit, value)
    table = Table()
    waiter = Waiter(table, b"k")
    table.loop.run()
    table.acked([b"k"])
    table.pushed(b"k", b"PROGRESS" + b" " * codec.LARGE_PAYLOAD_BYTES)
    for n in range(6):
        table.pushed(b"k", b"PROGRESS %d" % n)
    table.decoding[0](TaskMeta(task_id="t", status="PROGRESS", result="large"))
    assert waiter.states == ["PROGRESS", *(f"PROGRESS {n}" for n in range(6 - kept, 6))]


class Follower(Waiter):
    _follows = True


@pytest.mark.parametrize("pushed", [True, False], ids=["published", "read"])
def test_a_large_state_before_the_end_is_not_skipped(pushed: bool) -> None:
    """Who follows the states gets it first, though the end needs no decoding; who does not, does not wait for it."""
    table = Table()
    follower, waiter = Follower(table, b"k"), Waiter(table, b"k")
    table.loop.run()
    table.acked([b"k"])
    table.pushed(b"k", b"PROGRESS" + b" " * codec.LARGE_PAYLOAD_BYTES)
    if pushed:
        table.pushed(b"k", b"SUCCESS")
    else:
        table.fetched([(b"k", b"SUCCESS")])
    table.loop.run()
    table.acked([b"k"])
    assert (follower.states, waiter.states) == ([], ["SUCCESS"])
    table.decoding[0](TaskMeta(task_id="t", status="PROGRESS"))
    table.loop.run()
    table.acked([b"k"])
    assert follower.states == ["PROGRESS", "SUCCESS"]
    table.loop.run()
    assert not table.wanted


def test_a_state_that_is_read_before_the_acknowledgement_waits_for_the_messages_before_it() -> None:
    """Who follows the states gets it when a second SUBSCRIBE is acknowledged, which cannot be sent before the first."""
    table = Table()
    follower = Follower(table, b"k")
    table.loop.run()
    table.fetched([(b"k", b"STARTED")])
    table.loop.run()
    assert table.subscribed_to == [b"k"] and not follower.states
    table.acked([b"k"])
    table.loop.run()
    table.fetched([(b"k", b"STARTED")])
    assert table.subscribed_to == [b"k", b"k"] and not follower.states
    table.acked([b"k"])
    table.pushed(b"k", b"STARTED")  # again: no news
    assert follower.states == ["STARTED"]


def test_a_state_does_not_wait_for_the_messages_before_a_later_one() -> None:
    """What was read before the second SUBSCRIBE was sent comes with its acknowledgement; the rest needs a third."""
    table = Table()
    follower = Follower(table, b"k")
    table.loop.run()
    table.acked([b"k"])
    table.loop.run()
    table.fetched([(b"k", b"STARTED")])
    table.loop.run()
    meta = TaskMeta(task_id="t", status="PROGRESS", result=b"PROGRESS")
    assert table.looked(b"k", b"PROGRESS", meta, table.arrived(b"k")) == "ahead"
    table.acked([b"k"])
    assert follower.states == ["STARTED"]
    table.loop.run()
    assert table.subscribed_to == [b"k"] * 3
    table.acked([b"k"])
    assert follower.states == ["STARTED", "PROGRESS"]


def test_a_wait_that_begins_while_an_end_waits_for_earlier_states_is_not_held_up() -> None:
    table = Table()
    follower = Follower(table, b"k")
    table.loop.run()
    table.acked([b"k"])
    table.fetched([(b"k", b"SUCCESS")])
    late = Waiter(table, b"k")
    table.asked.clear()
    table.loop.run()
    assert table.asked == [b"k"]
    table.fetched([(b"k", b"SUCCESS")])
    assert late.states == ["SUCCESS"] and not follower.states
    table.disconnected()
    assert follower.states == ["SUCCESS"], "nothing is on its way any more"


def test_a_large_record_that_is_wanted_again_is_not_decoded_anew() -> None:
    """A wait with a short timeout, again and again, would otherwise never end, and decode it as often."""
    table = Table()
    large = b"x" * codec.LARGE_PAYLOAD_BYTES
    for _ in range(3):
        waiter = Waiter(table, b"k")
        table.loop.run_once()
        table.fetched([(b"k", large)])
        table.discard(b"k", waiter)
    waiter = Waiter(table, b"k")
    table.loop.run_once()
    table.fetched([(b"k", large)])
    [done] = table.decoding
    done(TaskMeta(task_id="t", status="SUCCESS"))
    assert waiter.states == ["SUCCESS"]


class Broken(Waiter):
    def _on_record(self, meta: TaskMeta) -> None:
        raise ZeroDivisionError("as a callback of somebody else's might")


@pytest.mark.parametrize("state", [b"STARTED", b"SUCCESS"])
@pytest.mark.parametrize("pushed", [True, False])
def test_a_listener_that_raises_ends_its_own_wait_only(state: bytes, pushed: bool) -> None:
    table = Table()
    broken, same_key, other_key = Broken(table, b"k"), Waiter(table, b"k"), Waiter(table, b"other")
    table.loop.run()
    table.acked([b"k", b"other"])
    if pushed:
        table.pushed(b"k", state)
        table.pushed(b"other", state)
    else:
        table.fetched([(b"k", state), (b"other", state)])
    assert same_key.states == other_key.states == [state.decode()]
    assert [type(error) for error in broken.errors] == [AsyncResultError]
    if state == b"STARTED":  # and it is given nothing more
        table.pushed_many([b"k", b"1", b"other", b"2"])
        assert (same_key.states, other_key.states) == (["STARTED", "1"], ["STARTED", "2"])
    assert len(table.loop.trouble) == len(broken.errors) == 1


class Leaving(Follower):
    def _on_record(self, meta: TaskMeta) -> None:
        super()._on_record(meta)
        self.table.discard(self.key, self)


def test_who_leaves_with_a_state_is_not_given_those_that_were_held_back_with_it() -> None:
    table = Table()
    leaving = Leaving(table, b"k")
    table.loop.run()
    table.acked([b"k"])
    table.fetched([(b"k", b"STARTED")])
    table.pushed(b"k", b"PROGRESS")
    table.loop.run()
    table.acked([b"k"])
    assert leaving.states == ["STARTED"] and not table.loop.trouble


def test_whatever_a_record_raises_ends_its_own_wait_only() -> None:
    """And the text of that stays out of the error: it may quote the record."""
    table = Table()
    victim, bystander = Waiter(table, b"k"), Waiter(table, b"other")
    table.loop.run()
    table.fetched([(b"k", b"crash"), (b"other", b"SUCCESS")])
    [error] = victim.errors
    assert isinstance(error, ResultDecodeError) and "secret" not in str(error)
    assert bystander.states == ["SUCCESS"]
