"""When a record is read: the schedule by itself, and the engine over a store that the test holds in its hand."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest

from asyncresult import Backend, BackendError, BackendUnavailable, ResultTimeout
from asyncresult._storage.polled import PolledDriver
from asyncresult._storage.polling import Schedule
from asyncresult.codec import Codec
from asyncresult.meta import TaskMeta
from tests.backends.waiting import until, waits_for

# -- the schedule ---------------------------------------------------------------------------------------------------


def keys_of(taken: Sequence[Any]) -> list[bytes]:
    return [watch.key for watch in taken]


def test_the_interval_follows_the_time_since_the_last_change() -> None:
    schedule = Schedule(0.05, 1.0)
    schedule.add(b"k", "k", 0.0)
    now, reads = 0.0, []
    while now < 100:
        assert schedule.due is not None
        now = schedule.due
        (watch,) = schedule.take(10, now)
        reads.append(now)
        schedule.put_back(watch, now)
    assert reads[0] == 0.05
    assert all(0.049 < later - sooner < 1.001 for sooner, later in pairwise(reads))
    assert reads[-1] - reads[-2] == pytest.approx(1.0)
    (watch,) = schedule.take(10, now + 2)
    schedule.put_back(watch, now + 2, changed=True)
    assert schedule.due == pytest.approx(now + 2.05)


def test_a_request_is_filled_up_with_those_that_are_due_next() -> None:
    schedule = Schedule(0.05, 1.0)
    for number in range(5):
        schedule.add(b"%d" % number, str(number), number * 0.01)
    assert schedule.take(3, 0.049) == []
    assert keys_of(schedule.take(3, 0.05)) == [b"0", b"1", b"2"]
    assert keys_of(schedule.take(3, 0.05)) == []  # those are being read, and the others are not due


def test_where_each_read_is_a_request_only_what_is_due_is_read() -> None:
    schedule = Schedule(0.05, 1.0)
    for number in range(3):
        schedule.add(b"%d" % number, str(number), number * 0.01)
    assert keys_of(schedule.take(1, 0.061)) == [b"0", b"1"]


def test_what_is_hurried_while_it_is_read_is_read_again() -> None:
    schedule = Schedule(0.05, 1.0)
    schedule.add(b"k", "k", 0.0)
    (watch,) = schedule.take(10, 1.0)
    schedule.hurry([b"k", b"unknown"], 1.0)
    assert schedule.due is None
    schedule.put_back(watch, 1.1)
    assert schedule.due == 1.1


def test_what_was_dropped_is_not_put_back() -> None:
    schedule = Schedule(0.05, 1.0)
    schedule.add(b"k", "k", 0.0)
    (watch,) = schedule.take(10, 1.0)
    schedule.drop(b"k")
    schedule.add(b"k", "k", 1.0)  # wanted again meanwhile, by a watch of its own
    schedule.put_back(watch, 1.1)
    assert schedule.due == 1.05 and len(schedule) == 1


# -- the engine over a store of the test's own -----------------------------------------------------------------------


class FakeRecords:
    """A store in memory, whose requests can be counted, slowed down, stopped and made to fail."""

    batch = 500

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}
        self.requests: list[list[str]] = []
        self.failure: Exception | None = None
        self.seconds = 0.0
        self.gate = threading.Event()
        self.gate.set()
        self.closed = 0

    def read(self, ids: Sequence[str]) -> Mapping[str, bytes]:
        self.requests.append(list(ids))
        self.gate.wait()
        if self.seconds:
            time.sleep(self.seconds)
        if self.failure is not None:
            raise self.failure
        return {id: self.records[id] for id in ids if id in self.records}

    def write(self, task_id: str, payload: bytes, status: str) -> None:
        self.records[task_id] = payload

    def delete(self, ids: Sequence[str]) -> None:
        for id in ids:
            self.records.pop(id, None)

    def read_group(self, group_id: str) -> bytes | None: ...

    def write_group(self, group_id: str, payload: bytes) -> None: ...

    def delete_group(self, group_id: str) -> None: ...

    def close(self) -> None:
        self.closed += 1

    def store(self, task_id: str, result: Any, status: str = "SUCCESS") -> None:
        """As a worker elsewhere does."""
        self.records[task_id] = Codec().encode(TaskMeta(task_id=task_id, status=status, result=result))


@pytest.fixture
def records() -> FakeRecords:
    return FakeRecords()


def backend_over(records: FakeRecords, **options: Any) -> Backend:
    return Backend(PolledDriver(lambda codec: records, f"fake://{id(records)}", **options))


async def test_many_waits_are_few_requests(records: FakeRecords) -> None:
    async with backend_over(records) as backend:
        waiting = asyncio.ensure_future(backend.results([str(n) for n in range(1000)]).get())
        await waits_for(backend, 1000)
        await asyncio.sleep(1.5)
        for n in range(1000):
            records.store(str(n), n)
        assert await waiting == list(range(1000))
        assert len(records.requests) <= 80
        assert max(map(len, records.requests)) == 500


async def test_a_result_that_was_seen_to_be_final_is_not_read_again(records: FakeRecords) -> None:
    async with backend_over(records) as backend:
        records.store("x", 1)
        assert await backend.result("x") == 1
        before = len(records.requests)
        await until(lambda: backend.stats().subscribed == 0)
        assert len(records.requests) == before


async def test_waits_take_no_more_than_their_share_of_the_time(records: FakeRecords) -> None:
    records.seconds = 0.05
    async with backend_over(records, share=0.2) as backend:
        waiting = asyncio.ensure_future(backend.result("x").get())
        await asyncio.sleep(1.5)
        assert 3 <= len(records.requests) <= 8  # 30 at the pace of min_interval
        records.store("x", 1)
        assert await waiting == 1


async def test_explicit_reads_of_a_tick_are_one_request(records: FakeRecords) -> None:
    async with backend_over(records) as backend:
        records.store("1", "one")
        states = await asyncio.gather(*(backend.result(str(n)).state() for n in range(100)))
        assert states.count("SUCCESS") == 1 and len(records.requests) <= 2


async def test_several_threads_read_at_the_same_time(records: FakeRecords) -> None:
    records.batch = 1
    records.seconds = 0.02
    async with backend_over(records, readers=4, share=1.0) as backend:
        for n in range(60):
            records.store(str(n), n)
        began = time.monotonic()
        assert await backend.results([str(n) for n in range(60)]).get() == list(range(60))
        assert time.monotonic() - began < 60 * 0.02
    assert records.closed == 4


async def test_states_are_followed(records: FakeRecords) -> None:
    async with backend_over(records) as backend:
        updates = backend.result("x").updates(timeout=10)
        assert (await anext(updates)).status == "PENDING"
        for status, result in (("STARTED", None), ("PROGRESS", 1), ("PROGRESS", 2), ("SUCCESS", "end")):
            records.store("x", result, status)
            meta = await anext(updates)
            assert (meta.status, meta.result) == (status, result)


# -- outages --------------------------------------------------------------------------------------------------------


async def test_an_outage_ends_no_wait(records: FakeRecords) -> None:
    async with backend_over(records) as backend:
        waiting = asyncio.ensure_future(backend.results(["x", "y"]).get())
        await waits_for(backend, 2)
        records.failure = OSError("the database is gone\nand says so in two lines")
        await until(lambda: backend.stats().last_error is not None)
        assert "the database is gone" in str(backend.stats().last_error)
        assert "two lines" not in str(backend.stats().last_error)
        assert not backend.stats().connected
        late = asyncio.ensure_future(backend.result("late").get())
        with pytest.raises(BackendUnavailable, match="OSError: the database is gone"):
            await backend.get_meta("x")
        with pytest.raises(ResultTimeout):
            await backend.result("z").get(timeout=0.1)
        for id in ("x", "y", "late"):
            records.store(id, id)
        records.failure = None
        assert await waiting == ["x", "y"] and await late == "late"
        assert backend.stats().connected and backend.stats().reconnects == 1


async def test_requests_that_fail_are_repeated_more_and_more_rarely(records: FakeRecords) -> None:
    records.failure = OSError("no")
    async with backend_over(records) as backend:
        waiting = asyncio.ensure_future(backend.result("x").get())
        await asyncio.sleep(1.2)
        assert 3 <= records.requests.count(["x"]) <= 6  # besides those that find out whether it is for all
        waiting.cancel()


async def test_the_first_request_after_an_outage_says_nothing_about_the_others(records: FakeRecords) -> None:
    """It opens connections anew: the next one need not wait for a hundred times as long."""
    async with backend_over(records, share=0.01) as backend:
        waiting = asyncio.ensure_future(backend.result("x").get())
        await until(lambda: len(records.requests) >= 3)
        records.failure = OSError("gone")
        await until(lambda: not backend.stats().connected)
        records.seconds = 0.4
        records.failure = None
        await until(lambda: backend.stats().connected)
        records.seconds = 0.0
        records.store("x", 1)
        async with asyncio.timeout(5):
            assert await waiting == 1


async def test_what_can_never_succeed_ends_the_waits(records: FakeRecords) -> None:
    records.failure = BackendError("there is no such driver")
    async with backend_over(records) as backend:
        with pytest.raises(BackendError, match="no such driver"):
            await backend.result("x").get(timeout=10)


async def test_a_store_that_hangs_holds_up_nobody(records: FakeRecords) -> None:
    backend = backend_over(records)
    async with backend:
        records.gate.clear()
        began = time.monotonic()
        with pytest.raises(ResultTimeout):
            await backend.result("x").get(timeout=0.2)
        with pytest.raises(ResultTimeout):
            await backend.result("x").get(timeout=0)
        await backend.aclose(timeout=0.2)
        assert time.monotonic() - began < 3
        records.gate.set()
        await until(lambda: records.closed == 1)  # the thread ends once the store answers


def test_successive_loops(records: FakeRecords) -> None:
    records.store("x", 1)
    backend = backend_over(records)

    async def read() -> Any:
        return await backend.result("x")

    assert [asyncio.run(read()) for _ in range(3)] == [1, 1, 1]
    deadline = time.monotonic() + 10
    while records.closed < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert records.closed == 3, "threads outlive their event loops"


async def test_writes_are_in_order_and_keep_precedence(records: FakeRecords) -> None:
    async with backend_over(records) as backend:
        stored = await asyncio.gather(
            backend.store_result("x", 1, "PROGRESS"),
            backend.mark_as_done("x", 2),
            backend.store_result("x", 3, "PROGRESS"),
        )
        assert stored == [True, True, False]
        assert await backend.result("x") == 2


async def test_a_tracked_block(records: FakeRecords) -> None:
    async with backend_over(records) as backend:
        seen = []
        async with backend.track("x", history=10) as task:
            updates = backend.result("x").updates()
            seen.append((await anext(updates)).status)
            await task.progress(1, 2)
            task.set_result("done")
        seen += [meta.status async for meta in updates]
        assert seen == ["STARTED", "PROGRESS", "SUCCESS"] or seen == ["STARTED", "SUCCESS"]
        assert await backend.result("x") == "done"


@pytest.mark.parametrize(
    "options",
    [
        {"min_interval": 0},
        {"min_interval": 2.0},
        {"share": 0},
        {"share": 1.5},
        {"readers": 0},
        {"max_interval": float("nan")},
    ],
    ids=repr,
)
def test_invalid_options(records: FakeRecords, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options)).partition("_")[0]):
        backend_over(records, **options)


async def test_a_store_that_falls_silent_is_read_over_another_connection() -> None:
    """As one that leads nowhere: its thread is given up, and what it says later is not news."""
    opened: list[Any] = []
    released = threading.Event()

    class Silent:
        batch = 10

        def __init__(self, codec: Codec) -> None:
            self.record = codec.encode(TaskMeta(task_id="t", status="SUCCESS", result=1))
            self.closed = False
            opened.append(self)

        def read(self, ids: Sequence[str]) -> Mapping[str, bytes]:
            if self is opened[0]:
                released.wait(30)
                return {}
            return {"t": self.record} if released.is_set() else {}

        def close(self) -> None:
            self.closed = True

    driver: Any = PolledDriver(Silent, "silent://")  # type: ignore[arg-type]
    async with Backend(driver, heartbeat=0.05) as backend:
        waiting = asyncio.ensure_future(backend.result("t").get(timeout=20))
        read = asyncio.ensure_future(backend.result("u").state())
        with pytest.raises(BackendUnavailable, match=r"silent:// does not answer: TimeoutError: no answer for 0\.1 s"):
            async with asyncio.timeout(20):
                await read
        assert not backend.stats().connected
        await until(lambda: len(opened) == 2 and backend.stats().connected)
        assert await backend.result("u").state() == "PENDING"
        assert not waiting.done()
        released.set()
        assert await waiting == 1
        await until(lambda: opened[0].closed)
        assert len(opened) == 2
