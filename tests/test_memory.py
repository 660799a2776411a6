"""Records in memory: numbers, expiry, histories, and loops that are closed."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

import asyncresult
from asyncresult import Backend, BackendUnavailable
from asyncresult._storage import memory as module
from asyncresult._storage.memory import Records
from asyncresult._storage.store import engine_of
from asyncresult.codec import Codec
from asyncresult.testing.memory import FakeRecords, close

FOREVER = None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time that records see."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now, time_ns=time.time_ns))
    return clock


def test_a_number_keeps_its_expiry(clock: SimpleNamespace) -> None:
    records = Records()
    assert records.increment(b"n") == 1
    assert records.lifetime(b"n") is None
    records.expire(b"n", 5)
    assert records.increment(b"n") == 2
    assert records.lifetime(b"n") == 5
    records.expire(b"n", FOREVER)
    assert records.lifetime(b"n") is None
    records.expire(b"n", 5)
    clock.now += 5
    assert records.increment(b"n") == 1
    records.expire(b"nothing", 5)
    assert records.keys(b"") == [b"n"]


def test_what_has_expired_is_dropped_some_time(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITES_PER_EXPIRY_SWEEP", 3)
    records = Records()
    records.set(b"a", b"1", 5)
    records.remember(b"h", 10, b"1", 5)
    clock.now += 5
    records.set(b"b", b"1", FOREVER)
    assert records.keys(b"") == [b"a", b"b"]
    records.set(b"c", b"1", FOREVER)
    assert records.keys(b"") == [b"b", b"c"]
    assert records._histories == {}


def test_a_history_begins_anew_after_it_has_expired(clock: SimpleNamespace) -> None:
    records = Records()
    records.remember(b"h", 10, b"1", 5)
    clock.now += 5
    assert records.history(b"h", "0") == []
    records.remember(b"h", 10, b"2", 5)
    clock.now += 5
    records.remember(b"h", 10, b"3", 5)
    records.remember(b"h", 10, b"4", 5)
    assert [value for _, value in records.history(b"h", "0")] == [b"3", b"4"]


def test_nothing_is_delivered_to_a_loop_that_is_closed() -> None:
    records = Records()

    async def subscribe() -> None:
        async with asyncresult.connect("memory://") as backend:
            cast(Any, backend.driver).records = records
            backend.result("t").add_done_callback(lambda _: None)
            await asyncio.sleep(0)
            channel = backend.task_key("t")
            assert records.publish(channel, b"x") == 1
            loop = asyncio.get_running_loop()
            closed = asyncio.new_event_loop()
            closed.close()
            (engine,) = records.engines()
            cast(Any, engine).loop = closed
            assert records.publish(channel, b"x") == 0
            cast(Any, engine).loop = loop

    asyncio.run(subscribe())


def test_records_that_are_away() -> None:
    records = FakeRecords()
    records.put(b"k", b"v", 60)
    records.remember(b"h", 2, b"v", 60)
    records.set_down(True)
    for read in (
        lambda: records.get(b"k"),
        lambda: records.lifetime(b"k"),
        lambda: records.keys(b""),
        lambda: records.delete([b"k"]),
        lambda: records.history(b"h", "0"),
    ):
        with pytest.raises(BackendUnavailable, match="cannot be reached"):
            read()
    records.set_down(False)
    assert 0 < (records.lifetime(b"k") or 0) <= 60
    assert [value for _, value in records.history(b"h", "0")] == [b"v"]
    assert records.delete([b"k"]) == 1
    assert records.keys(b"") == []


async def test_a_wait_that_begins_while_they_are_away() -> None:
    backend, records = asyncresult.connect("memory://"), FakeRecords()
    cast(Any, backend.driver).records = records
    records.set_down(True)
    waiting = asyncio.ensure_future(backend.result("t").get(timeout=20))
    await asyncio.sleep(0)
    assert not backend.stats().connected
    records.set_down(False)
    records.set_down(True)  # before anything could be read
    await asyncio.sleep(0)
    records.set_down(False)
    await backend.mark_as_done("t", 5)
    assert await waiting == 5
    await backend.aclose()


@pytest.mark.parametrize("kind", ["large", "compressed", "yaml", "broken"])
async def test_a_store_over_what_takes_long_does_not_stop_the_loop(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old record says whether it may be replaced: a thread finds out."""
    threads: list[threading.Thread] = []
    original = Codec.decode

    def decode(self: Codec, task_id: str, payload: bytes) -> Any:
        threads.append(threading.current_thread())
        return original(self, task_id, payload)

    monkeypatch.setattr(Codec, "decode", decode)
    options: dict[str, Any] = {"compression": "gzip"} if kind == "compressed" else {}
    if kind == "yaml":
        options = {"serializer": "yaml"}
    async with asyncresult.connect("memory://", **options) as backend:
        value = "x" * (5000 if kind == "yaml" else 500_000)
        if kind == "broken":
            await engine_of(backend).put(
                backend.task_key("t"), b'{"status": "SUCCESS", "result": "' + value.encode(), None
            )
        else:
            await backend.store_result("t", value, "PROGRESS")
        # One after the other, as they were called.
        stored = await asyncio.gather(
            backend.store_result("t", value, "SUCCESS"),
            backend.store_result("t", 2, "STARTED"),
            backend.store_result("t", 3, "FAILURE"),
        )
        assert stored == [True, False, False]
        assert (await backend.get_meta("t")).result == value
        waiting = asyncio.ensure_future(backend.store_result("t", 4, "FAILURE"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert not await backend.store_result("t", 5, "STARTED")
    assert threads and threading.current_thread() not in threads


def test_a_loop_that_was_closed_before_its_backend() -> None:
    records = FakeRecords()
    backend: Backend = asyncresult.connect("memory://")
    cast(Any, backend.driver).records = records

    async def look() -> bool:
        return await backend.result("t").exists()

    assert asyncio.run(look()) is False
    records.set_down(True)  # nobody is there who would notice
    records.set_down(False)
    close(backend, records)
    assert backend.closed
