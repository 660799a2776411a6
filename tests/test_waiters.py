"""The table of waiters and the wire, in every order in which events can come."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from asyncresult._redis.wire import Wire
from asyncresult._storage import entries as _entries
from asyncresult._storage import waiters as _waiters
from asyncresult._storage.entries import Looked
from asyncresult._storage.waiters import Waiters
from asyncresult.codec import codec
from asyncresult.errors import BackendError, ResultDecodeError
from asyncresult.meta import TaskMeta
from tests.tools.simulation import PAUSED, PROGRESS, STARTED, Violation, explore
from tests.tools.tables import Table, Waiter


@pytest.mark.parametrize("late", [*(pytest.param(late, marks=pytest.mark.slow) for late in [(), (0,), (1,)]), (0, 1)])
@pytest.mark.parametrize("waiters", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_no_order_of_events_loses_a_result_or_leaves_a_subscription(waiters: int, late: tuple[int, ...]) -> None:
    """Stored implies resolved; nobody waiting implies nothing subscribed: over every history."""
    histories = list(explore(waiters, late))
    assert len(histories) > 4000 and max(map(len, histories)) > 15, "the walk was a long one"


@pytest.mark.parametrize(
    ("states", "late"),
    [
        pytest.param((STARTED, PROGRESS, PAUSED), (), marks=pytest.mark.slow),
        ((STARTED, PROGRESS), (0,)),
    ],
)
def test_no_order_of_events_takes_the_task_back(states: tuple[bytes, ...], late: tuple[int, ...]) -> None:
    """Neither a read nor a message that comes late, however late it is."""
    histories = list(explore(1, late, states))
    assert len(histories) > 1000 and max(map(len, histories)) > 15, "the walk was a long one"


@pytest.mark.parametrize(
    ("waiters", "states", "late", "followers"),
    [
        (1, (STARTED, PROGRESS), (), (0,)),
        pytest.param(1, (STARTED, PROGRESS), (0,), (0,), marks=pytest.mark.slow),
        pytest.param(2, (STARTED,), (), (1,), marks=pytest.mark.slow),
    ],
)
def test_no_order_of_events_skips_a_state_that_was_published(
    waiters: int, states: tuple[bytes, ...], late: tuple[int, ...], followers: tuple[int, ...]
) -> None:
    """However fast a read of a later one is: for who follows the states, beside others or alone."""
    histories = list(explore(waiters, late, states, followers))
    assert len(histories) > 1000 and max(map(len, histories)) > 15, "the walk was a long one"


# Each mutation removes one rule of the protocol. The simulation must notice each, or it proves nothing.


def a_miss_counts_though_it_was_read_before_the_ack(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Waiters.acked

    def acked(self: Waiters, keys: Iterable[bytes]) -> None:
        want, self._want_read = self._want_read, lambda entry: None  # type: ignore[method-assign]
        original(self, keys)
        self._want_read = want  # type: ignore[method-assign]

    monkeypatch.setattr(Waiters, "acked", acked)
    monkeypatch.setattr(Waiters, "_missed", lambda self, entry, sent: None)


def nobody_waits_for_the_ack(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Waiters._flush

    def flush(self: Waiters) -> None:
        original(self)
        for entry in self._entries.values():
            if entry.subscription == _entries.SENT:
                entry.subscription = _entries.ACKED
                if entry.read == _entries.EARLY:
                    entry.read = _entries.SURE

    monkeypatch.setattr(Waiters, "_flush", flush)


def no_second_read_after_a_reconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    connections: dict[int, int] = {}
    original_connected, original_acked = Waiters.connected, Waiters.acked

    def connected(self: Waiters) -> None:
        connections[id(self)] = connections.get(id(self), 0) + 1
        original_connected(self)

    def acked(self: Waiters, keys: list[bytes]) -> None:
        original_acked(self, keys)
        if connections[id(self)] > 1:
            self._to_read.clear()
            for entry in self._entries.values():
                if entry.read == _entries.QUEUED:
                    entry.read = _entries.IDLE

    original_init = Waiters.__init__

    def init(self: Waiters, *args: Any, **kwargs: Any) -> None:
        connections.pop(id(self), None)
        original_init(self, *args, **kwargs)

    monkeypatch.setattr(Waiters, "__init__", init)
    monkeypatch.setattr(Waiters, "connected", connected)
    monkeypatch.setattr(Waiters, "acked", acked)


def unsubscribed_though_wanted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Waiters._reap

    def reap(self: Waiters) -> None:
        for entry in self._idle:
            if entry.listeners is not None and entry.subscription != _entries.NONE:
                self._source.unsubscribe([entry.key])
        original(self)

    monkeypatch.setattr(Waiters, "_reap", reap)


def never_unsubscribed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Waiters, "_reap", lambda self: None)


def a_stale_ack_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """SUBSCRIBE, UNSUBSCRIBE, SUBSCRIBE: the first acknowledgement is taken for the last."""
    monkeypatch.setattr(Wire, "_settled", lambda self, channel: True)


def a_lost_connection_keeps_its_acks(monkeypatch: pytest.MonkeyPatch) -> None:
    def disconnected(self: Waiters) -> None:
        self._connected = False

    monkeypatch.setattr(Waiters, "disconnected", disconnected)


def a_message_is_newer_than_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Waiters._published

    def published(self: Waiters, entry: Any, progress: Any, payload: bytes, meta: TaskMeta) -> None:
        progress.found.clear()
        original(self, entry, progress, payload, meta)

    monkeypatch.setattr(Waiters, "_published", published)


def what_is_read_is_newer_than_the_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Waiters._found

    def found(self: Waiters, entry: Any, payload: bytes, meta: TaskMeta, arrived: int) -> Looked:
        return original(self, entry, payload, meta, _entries.progress_of(entry).arrived)

    monkeypatch.setattr(Waiters, "_found", found)


def the_first_acknowledgement_is_the_barrier(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Waiters.acked

    def acked(self: Waiters, keys: Iterable[bytes]) -> None:
        original(self, keys)
        for entry in self._entries.values():
            if entry.progress is not None and entry.progress.barrier:
                self._release(entry, entry.progress)

    monkeypatch.setattr(Waiters, "acked", acked)


def a_barrier_holds_for_later_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Waiters._passed

    def passed(self: Waiters, entry: Any, progress: Any) -> None:
        progress.covered = progress.waiting
        original(self, entry, progress)

    monkeypatch.setattr(Waiters, "_passed", passed)


def what_was_read_is_handed_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Waiters._found

    def found(self: Waiters, entry: Any, payload: bytes, meta: TaskMeta, arrived: int) -> Looked:
        with pytest.MonkeyPatch.context() as patch:
            for listener in entry.all():
                patch.setattr(listener, "_follows", False)
            return original(self, entry, payload, meta, arrived)

    monkeypatch.setattr(Waiters, "_found", found)


def an_end_that_was_read_is_handed_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Waiters, "_end_for_most", lambda self, entry, meta: False)


def the_barrier_brings_what_was_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Waiters._release

    def release(self: Waiters, entry: Any, progress: Any) -> None:
        progress.held.clear()
        original(self, entry, progress)

    monkeypatch.setattr(Waiters, "_release", release)


def no_read_where_the_ack_is_there_already(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Waiters.add

    def add(self: Waiters, key: bytes, task_id: str, listener: Any, *, read_early: bool = True) -> None:
        want = self._want_read
        if not read_early:
            self._want_read = lambda entry: None  # type: ignore[method-assign]
        original(self, key, task_id, listener, read_early=read_early)
        self._want_read = want  # type: ignore[method-assign]

    monkeypatch.setattr(Waiters, "add", add)


@pytest.mark.parametrize(
    "mutation",
    [
        a_miss_counts_though_it_was_read_before_the_ack,
        nobody_waits_for_the_ack,
        no_second_read_after_a_reconnect,
        unsubscribed_though_wanted_again,
        never_unsubscribed,
        pytest.param(a_stale_ack_counts, marks=pytest.mark.slow),
        a_lost_connection_keeps_its_acks,
        no_read_where_the_ack_is_there_already,
    ],
    ids=lambda mutation: mutation.__name__,
)
def test_the_simulation_notices(mutation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    with pytest.raises(Violation):
        for _ in explore(2, late=(1,)):
            pass


@pytest.mark.parametrize(
    "mutation",
    [
        a_message_is_newer_than_what_was_read,
        what_is_read_is_newer_than_the_messages,
        *(
            pytest.param(mutation, marks=pytest.mark.slow)
            for mutation in (the_first_acknowledgement_is_the_barrier, a_barrier_holds_for_later_reads)
        ),
    ],
    ids=lambda mutation: mutation.__name__,
)
def test_the_simulation_notices_a_task_that_goes_back(mutation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    with pytest.raises(Violation):
        for _ in explore(1, (), (STARTED, PROGRESS, PAUSED)):
            pass


@pytest.mark.parametrize(
    "mutation",
    [
        what_was_read_is_handed_on_at_once,
        an_end_that_was_read_is_handed_on_at_once,
        the_barrier_brings_what_was_read_only,
    ],
    ids=lambda mutation: mutation.__name__,
)
def test_the_simulation_notices_a_state_that_is_skipped(mutation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    with pytest.raises(Violation, match="skipped"):
        for _ in explore(1, (0,), (STARTED, PROGRESS), (0,)):
            pass


# Rules beside the order of events: what the simulation does not have in it.


def test_a_wait_begun_from_inside_a_refusal_is_subscribed() -> None:
    table = Table()
    waiter = Waiter(table, b"k", again=True)
    table.loop.run()
    table.refused([b"k"], BackendError("no"))
    table.loop.run()
    assert len(waiter.errors) == 1
    assert table.subscribed_to == [b"k", b"k"]


def test_a_key_that_may_be_subscribed_but_not_read_is_unsubscribed() -> None:
    table = Table()
    waiter = Waiter(table, b"k")
    table.loop.run()
    table.acked([b"k"])
    table.not_fetched([b"k"], BackendError("no"))
    table.loop.run()
    assert len(waiter.errors) == 1
    assert table.given_up == [b"k"]
    assert not table.wanted


def test_a_subscription_that_the_server_has_ended_is_made_again() -> None:
    table = Table()
    waiter = Waiter(table, b"k")
    table.loop.run()
    table.acked([b"k"])
    table.loop.run()
    table.dropped([b"k"])
    table.loop.run()
    assert table.subscribed_to == [b"k", b"k"]
    assert not waiter.errors


def test_what_cannot_be_read_because_it_is_too_large_is_counted() -> None:
    table = Table()
    waiters = [Waiter(table, key) for key in (b"a", b"b", b"c")]
    table.loop.run()
    error = ResultDecodeError("too large")
    table.not_fetched([b"a", b"b"], error)
    table.not_fetched([b"c"], BackendError("not allowed"))
    assert waiters[0].errors == waiters[1].errors == [error] and waiters[2].errors
    assert table.counts()["decode_errors"] == 2


def test_many_records_that_are_large_together_are_taken_in_turns_of_the_loop() -> None:
    table = Table()
    waiters = [Waiter(table, b"%d" % n) for n in range(5)]
    behind = Waiter(table, b"behind")
    table._read_chunk = 5
    table.loop.run()
    assert b"behind" not in table.asked
    table.fetched([(b"%d" % n, b"x" * (codec.LARGE_PAYLOAD_BYTES // 2)) for n in range(5)])
    for ended in (2, 4, 5):
        assert [len(waiter.metas) for waiter in waiters] == [1] * ended + [0] * (5 - ended)
        assert b"behind" not in table.asked
        table.loop.run_once()
    assert table.asked[-1] == b"behind"
    table.fetched([(b"behind", b"v")])
    assert behind.states == ["v"]


def test_a_large_record_that_is_not_final_and_was_read_too_early_is_read_again() -> None:
    """As a small one is: the task may have ended between that read and the acknowledgement."""
    table = Table()
    Waiter(table, b"k")
    table.loop.run()
    assert table.asked == [b"k"]
    table.acked([b"k"])
    table.fetched([(b"k", b"x" * codec.LARGE_PAYLOAD_BYTES)])
    [done] = table.decoding
    done(TaskMeta(task_id="t", status="PROGRESS"))
    table.loop.run()
    assert table.asked == [b"k", b"k"]


@pytest.mark.parametrize("stored", [b"bad", b"good"])
def test_a_large_payload_that_could_not_be_read_is_not_decoded_again(stored: bytes) -> None:
    """A message is a hint only: what is stored decides, unless it is the same."""
    table = Table()
    waiter = Waiter(table, b"k")
    table.loop.run()
    table.acked([b"k"])
    table.fetched([(b"k", None)])
    table.loop.run()
    table.fetched([(b"k", None)])
    bad, found = (word * codec.LARGE_PAYLOAD_BYTES for word in (b"bad", stored))
    table.pushed(b"k", bad)
    error = ResultDecodeError("bad")
    table.decoding.pop()(error)
    table.loop.run()
    assert not waiter.errors
    assert table.decode_errors == 1
    table.fetched([(b"k", found)])
    if found == bad:
        assert waiter.errors == [error]
    else:
        assert not waiter.errors
        table.decoding.pop()(TaskMeta(task_id="t", status="SUCCESS"))
        assert [meta.status for meta in waiter.metas] == ["SUCCESS"]
    assert not table.decoding


def test_nothing_published_is_believed_where_the_key_is_verified() -> None:
    table = Table(verify_key=True)
    waiter = Waiter(table, b"k")
    table.loop.run()
    table.acked([b"k"])
    table.fetched([(b"k", b"STARTED")])
    for forged in (b"SUCCESS", b"PROGRESS", b"garbage", b"x" * codec.LARGE_PAYLOAD_BYTES):
        for messages in ([b"k", forged], [b"k", forged] * 2):
            table.asked.clear()
            table.pushed_many(messages)
            table.loop.run()
            assert table.asked == [b"k"]
            table.fetched([(b"k", b"STARTED")])
    assert waiter.states == ["STARTED"] and not waiter.errors and not table.decoding


@pytest.mark.parametrize("odd", [b"3", b"garbage", b"crash", b"x" * codec.LARGE_PAYLOAD_BYTES, b"nobody"])
def test_messages_that_come_together_do_what_they_do_one_by_one(odd: bytes) -> None:
    """States, a second final record, a key that nobody waits for; and one that is not decoded with the others."""
    messages = [b"a", b"PROGRESS 1", b"b", b"one", b"a", b"PROGRESS 2", b"a", b"two", b"b", b"again", b"c", odd]
    messages += [b"nobody", b"4"] if odd == b"nobody" else []
    seen = []
    for together in (True, False):
        table = Table()
        waiters = [Waiter(table, key) for key in (b"a", b"b", b"c")]
        table.loop.run()
        table.acked([b"a", b"b", b"c"])
        if together:
            table.pushed_many(messages)
            assert table.decoded_at_once == ([] if odd == b"nobody" else [6])
        else:
            for key, payload in zip(messages[::2], messages[1::2], strict=True):
                table.pushed(key, payload)
        table.loop.run()
        seen.append(([waiter.states for waiter in waiters], table.counts(), len(table.decoding), table.asked))
    assert seen[0] == seen[1]
    assert seen[0][0][:2] == [["PROGRESS 1", "PROGRESS 2", "two"], ["one"]]


def test_a_wait_that_a_message_ends_is_not_given_what_came_with_it() -> None:
    """The first result closes everything: the second wait ends with an error, and with nothing else."""
    table = Table()
    error = BackendError("closed")

    class Closing(Waiter):
        def _on_record(self, meta: TaskMeta) -> None:
            table.close(error)

    Closing(table, b"a")
    second = Waiter(table, b"b")
    table.loop.run()
    table.pushed_many([b"a", b"1", b"b", b"2"])
    assert (second.states, second.errors) == ([], [error])


def test_closed_in_turns_nobody_is_ended_who_has_ended_or_given_up_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_waiters, "AT_ONCE", 1)
    table = Table()
    first, ended, gone, last = [Waiter(table, key) for key in (b"a", b"b", b"c", b"d")]
    table.loop.run()
    error = BackendError("closed")
    closing = table.close_in_turns(error)
    closing.send(None)
    assert (first.errors, last.errors) == ([error], [])
    table.pushed_many([b"a", b"1", b"b", b"2"])
    table.discard(b"c", gone)
    table.loop.run()  # both keys are unsubscribed, and out of the table
    for _ in range(3):
        closing.send(None)
    with pytest.raises(StopIteration):
        closing.send(None)
    assert [waiter.errors for waiter in (first, ended, gone, last)] == [[error], [], [], [error]]
    assert [waiter.states for waiter in (first, ended)] == [[], ["2"]]
    assert not table.wanted


def test_a_key_that_is_wanted_again_begins_anew() -> None:
    """While it lingers: that its task ran before, and reported the same, keeps nothing from who waits now."""
    table = Table()
    first = Waiter(table, b"a")
    table.loop.run()
    table.acked([b"a"])
    for payload in (b"PROGRESS 1", b"1"):
        table.pushed(b"a", payload)
    again = Waiter(table, b"a")
    for payload in (b"PROGRESS 1", b"2"):
        table.pushed(b"a", payload)
    assert [first.states, again.states] == [["PROGRESS 1", "1"], ["PROGRESS 1", "2"]]
