"""What is sent for the keys that are waited for, in turns; what is given up; and the sweeps."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from asyncresult._storage import rounds as _rounds
from asyncresult.errors import BackendError
from tests.tools.tables import Table, Waiter


def test_waits_given_up_while_nothing_can_be_read_leave_nothing_behind() -> None:
    table = Table()
    steady = Waiter(table, b"steady")
    table.loop.run()  # this read is never answered, as in an outage
    for n in range(20 * _rounds.READ_CHUNK):
        table.discard(b"%d" % n, Waiter(table, b"%d" % n))
        if n % 100 == 0:
            table.loop.run()
    assert len(table._to_read) < 3 * _rounds.READ_CHUNK
    table.fetched([(b"steady", b"v")])
    assert [meta.result for meta in steady.metas] == [b"v"]


def test_a_key_that_is_wanted_again_after_an_outage_of_very_many_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It lingers while others are given up, and its read is still queued."""
    monkeypatch.setattr(_rounds, "KEYS_AT_ONCE", 1000)
    table = Table()
    table._read_chunk = 1
    keys = [b"%d" % n for n in range(3000)]
    waiters = [Waiter(table, key) for key in keys]
    table.loop.run()  # the first read is never answered
    for key, waiter in zip(keys, waiters, strict=True):
        table.discard(key, waiter)
    while len(table._to_read) > 2000:
        table.loop.run_once()
    assert table.wanted
    again = Waiter(table, keys[-1])
    table.overdue()
    table.loop.run()
    assert table.asked[-1] == keys[-1]
    table.fetched([(keys[-1], b"v")])
    assert again.states == ["v"]


def test_waits_given_up_in_an_outage_leave_nothing_behind() -> None:
    table = Table()
    table.disconnected()
    for n in range(100):
        waiter = Waiter(table, b"%d" % n)
        table.loop.run_once()
        table.discard(b"%d" % n, waiter)
    table.loop.run()
    assert not table.wanted and not table._to_subscribe


def test_a_bulk_is_given_up_when_it_has_arrived() -> None:
    """Not in its midst; but it cannot go on for ever."""
    table = Table()
    keys = [b"%d" % n for n in range(2 * _rounds.BULK * _rounds.PATIENCE_WITH_BULK)]
    for key in keys:
        Waiter(table, key)
    table.loop.run()
    table.acked(keys)

    def arrive(some: list[bytes]) -> None:
        for key in some:
            table.pushed(key, b"v")
        table.loop.run_once()

    arrive(keys[:200])
    arrive(keys[200:400])
    assert not table.given_up, "more comes"
    table.loop.run_once()
    assert table.given_up == keys[:400]
    for start in range(400, len(keys), 100):
        arrive(keys[start : start + 100])
    assert len(table.given_up) >= 100 * _rounds.PATIENCE_WITH_BULK
    table.loop.run()
    assert table.given_up == keys and not table.wanted


def test_nothing_that_nobody_waits_for_needs_another_connection() -> None:
    """The lost one has unsubscribed what lingered."""
    table = Table()
    waiter = Waiter(table, b"a")
    table.loop.run()
    table.acked([b"a"])
    table.discard(b"a", waiter)
    assert table.wanted
    table.disconnected()
    assert not table.wanted


def test_a_table_that_was_closed_has_no_timers_and_can_be_used_again() -> None:
    table = Table()
    Waiter(table, b"a")
    table.loop.run()
    table.acked([b"a"])
    table.pushed(b"a", b"1")  # its subscription lingers
    Waiter(table, b"b")
    table.close(BackendError("closed"))
    assert not [handle for handle in (*table.loop.due, *table.loop.later) if handle.fn is not None]
    again = Waiter(table, b"c")
    table.loop.run()
    assert table.subscribed_to[-1] == b"c"
    table.acked([b"c"])
    table.pushed(b"c", b"2")
    table.loop.run()
    assert again.states == ["2"]
    assert table.given_up == [b"c"]


def test_the_next_reads_do_not_wait_for_some_that_take_long() -> None:
    table = Table()
    table._read_chunk = 1
    waiters = [Waiter(table, key) for key in (b"a", b"b")]
    table.loop.run()
    table.overdue()
    table.loop.run()
    assert table.asked == [b"a", b"b"]
    table.fetched([(b"b", b"2")])
    table.fetched([(b"a", b"1")])
    assert [waiter.states for waiter in waiters] == [["1"], ["2"]]


def table_that_searches(keys: Iterable[bytes], *, at_a_time: int) -> tuple[Table, list[list[bytes]]]:
    """Everything waits, and nothing was stored yet; and what is searched for from here on."""
    table, searched_for = Table(), list[list[bytes]]()
    for key in keys:
        Waiter(table, key)
    table.acked(keys)
    table.loop.run()
    table.fetched([(key, None) for key in keys])
    table.asked.clear()
    table._read_chunk, table.search = at_a_time, searched_for.append
    return table, searched_for


def test_a_sweep_reads_only_where_a_search_has_found_something() -> None:
    table, searched_for = table_that_searches((b"1", b"2", b"3", b"4"), at_a_time=2)
    table.sweep()
    assert searched_for == [[b"3", b"4"]], "one search in flight"
    table.searched([b"3", b"4"], found=False)
    table.sweep()  # before the first is through
    assert searched_for == [[b"3", b"4"], [b"1", b"2"]]
    table.searched([b"1", b"2"], found=True)
    table.loop.run()
    assert table.asked == [b"1", b"2"] and len(searched_for) == 2
    table.fetched([(b"1", None), (b"2", b"SUCCESS")])
    assert table.read == 1 and not table.waits_for(b"2")


def test_a_sweep_reads_what_is_known_to_be_stored() -> None:
    """That something is stored says nothing where STARTED was."""
    table, searched_for = table_that_searches((b"runs", b"waits"), at_a_time=2)
    table.pushed(b"runs", b"STARTED")
    table.sweep()
    table.loop.run()
    assert (table.asked, searched_for) == ([b"runs"], [[b"waits"]])
    table.searched([b"waits"], found=False)
    table.pushed(b"waits", b"1")
    table.fetched([(b"runs", b"STARTED")])
    table.loop.run()
    table.sweep()
    assert len(searched_for) == 1, "there is nothing to search for"


def test_a_sweep_reads_where_searching_is_refused() -> None:
    table, searched_for = table_that_searches((b"1", b"2"), at_a_time=1)
    table.sweep()
    table.search = None
    table.searched(searched_for[0], found=True)
    table.loop.run()
    table.fetched([(b"2", None)])
    table.loop.run()
    assert (table.asked, searched_for) == ([b"2", b"1"], [[b"2"]])


def swept_table() -> tuple[Table, Waiter]:
    """The last sweep has read a key, and found that its task runs."""
    table = Table()
    waiter = Waiter(table, b"a")
    table.loop.run()
    table.acked([b"a"])
    for found in (b"STARTED", b"STARTED"):
        table.fetched([(b"a", found)])
        table.loop.run()
    table.asked.clear()
    table.sweep()
    table.loop.run()
    assert table.asked == [b"a"]
    table.fetched([(b"a", b"STARTED")])
    return table, waiter


@pytest.mark.parametrize("lingers", [True, False])
def test_what_is_read_for_a_later_wait_was_not_found_by_the_sweep(lingers: bool) -> None:
    """It was announced to whoever waited when the sweep came."""
    table, waiter = swept_table()
    table.pushed(b"a", b"1")
    if not lingers:
        table.loop.run()
    later = Waiter(table, b"a")
    table.loop.run_once()
    table.fetched([(b"a", b"1")])
    table.loop.run()
    assert (waiter.states, later.states, table.lost) == (["STARTED", "1"], ["1"], 0)


def test_what_is_read_after_an_outage_was_not_found_by_the_sweep() -> None:
    table, waiter = swept_table()
    table.disconnected()
    table.connected()
    table.loop.run()
    table.acked([b"a"])
    table.loop.run()
    table.fetched([(b"a", b"1")])
    table.loop.run()
    assert (waiter.states, table.lost) == (["STARTED", "1"], 0)


def test_very_many_that_nobody_wants_are_given_up_in_turns_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rounds, "KEYS_AT_ONCE", 100)
    table = Table()
    keys = [b"%d" % n for n in range(250)]
    waiters = [Waiter(table, key) for key in keys]
    table.loop.run()
    table.acked(keys)
    for key, waiter in zip(keys, waiters, strict=True):
        table.discard(key, waiter)
    for given_up in (0, 100, 200, 250):  # the first time, more of a bulk may come
        table.loop.run_once()
        assert table.given_up == keys[:given_up]
    assert not table.wanted


@pytest.mark.parametrize("lingers", [0, 1])
def test_no_message_is_lost_that_an_outage_has_kept(lingers: int) -> None:
    """The sweep has found the result, and its message was on its way when the connection was lost."""
    table = Table()
    waiter = Waiter(table, b"a")
    table.loop.run()
    table.acked([b"a"])
    table.fetched([(b"a", None)])
    table.loop.run()
    table.fetched([(b"a", None)])
    table.sweep()
    table.loop.run()
    table.fetched([(b"a", b"1")])
    for _ in range(lingers):
        table.loop.run_once()
    table.disconnected()
    table.loop.run()
    assert (waiter.states, table.lost) == (["1"], 0)
