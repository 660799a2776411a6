"""``store_many()``: many results of one caller, over every store; each with an outcome of its own."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

import asyncresult
from asyncresult import AsyncResult, Backend, BackendPermissionError, Probe, ResultEncodeError, ResultSet, TaskFailed
from asyncresult._redis.writes import RECORDS_PER_CALL
from asyncresult._storage import bulk
from asyncresult._storage.store import engine_of
from tests.tools.servers import RedisServer

from .waiting import waits_for

pytestmark = pytest.mark.not_over("rpc", reason="only the worker that got a task can reply")


def new_ids(count: int) -> list[str]:
    return [str(uuid.uuid4()) for _ in range(count)]


async def test_each_is_stored_and_announced_by_the_rules_of_one(backend: Backend) -> None:
    ids = new_ids(5)
    await backend.mark_as_done(ids[1], "it was done before")
    await backend.mark_as_failure(ids[2], ValueError("it had failed"))
    waiting = asyncio.ensure_future(ResultSet([AsyncResult(id) for id in ids]).get(return_exceptions=True))
    await waits_for(backend, 3)
    assert await backend.store_many([(id, {"run": 1}) for id in ids], "PROGRESS") == [True, False, False, True, True]
    assert await backend.store_many((id, [n]) for n, id in enumerate(ids)) == [True, False, True, True, True]
    values = await waiting
    assert [values[0], *values[3:]] == [[0], [3], [4]]
    assert isinstance(values[2], ValueError)
    assert await AsyncResult(ids[1]) == "it was done before"
    assert await AsyncResult(ids[2]) == [2], "a success replaces a failure"


async def test_one_that_cannot_be_stored_keeps_no_other_from_it(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is: alone in its portion, at the edge of one, or among others."""
    monkeypatch.setattr(bulk, "PORTION", 3)
    ids = new_ids(10)
    wrong = (0, 2, 4, 9)
    with pytest.raises(ResultEncodeError, match=r"result\['rows'\]") as caught:
        await backend.store_many((id, {"rows": object() if n in wrong else n}) for n, id in enumerate(ids))
    assert caught.value.__notes__ == [f"the result of task {ids[0]!r}; 4 of 10 have failed"]
    stored = [meta.result for meta in await backend.get_many(ids)]
    assert stored == [None if n in wrong else {"rows": n} for n in range(10)]


async def test_nothing_is_no_work(backend: Backend) -> None:
    assert await backend.store_many([]) == []


async def test_failures_are_stored_as_such() -> None:
    async with asyncresult.connect("memory://") as backend:
        await backend.store_many([("a", KeyError("k")), ("b", {"exc_type": "Odd", "exc_message": ["x"]})], "FAILURE")
        with pytest.raises(KeyError):
            await AsyncResult("a")
        with pytest.raises(TaskFailed, match="Odd"):
            await AsyncResult("b")


@pytest.mark.parametrize("options", [{}, {"serializer": "msgpack"}, {"compression": "gzip"}])
async def test_the_record_is_that_of_a_single_store(options: dict[str, Any]) -> None:
    """Byte for byte, but for the time."""
    value = {"text": 'é"\\\n\ud800' if not options else "é", "list": [1, None, 2.5, True]}
    async with asyncresult.connect("memory://", **options) as backend:
        await backend.store_many([('a "quoted" id', value)], "PROGRESS")
        await backend.store_result('a "quoted" id', value, "PROGRESS", request=object())
        assert await backend.get_raw('a "quoted" id') == backend.codec.encode(await backend.get_meta('a "quoted" id'))


async def test_fifty_to_a_call_and_one_publish_for_each(redis_server: RedisServer, redis_url: str) -> None:
    async with asyncresult.connect(redis_url) as backend:
        await backend.mark_as_done("warm", 1)
        redis_server.cli("CONFIG", "RESETSTAT")
        count = 10 * RECORDS_PER_CALL
        assert await backend.store_many([(f"t{n}", n) for n in range(count)]) == [True] * count
        commands = redis_server.commandstats()
        assert commands["evalsha"] == 10
        assert (commands["get"], commands["set"], commands["publish"]) == (count, count, count)


async def test_one_that_fails_in_redis_fails_alone(redis_server: RedisServer) -> None:
    rules = ["~celery-task-meta-t*", "resetchannels", "&celery-task-meta-t*", "+@all"]
    redis_server.cli("ACL", "SETUSER", "narrow", "reset", "on", ">pw", *rules)
    ids = [f"t{n}" if n != 7 else "other" for n in range(20)]
    async with asyncresult.connect(redis_server.url(username="narrow", password="pw")) as backend:
        with pytest.raises(BackendPermissionError) as caught:
            await backend.store_many((id, id) for id in ids)
        assert caught.value.__notes__ == ["the result of task 'other'; 1 of 20 have failed"]
        ids.remove("other")
        assert [meta.result for meta in await backend.get_many(ids)] == ids


async def test_a_record_that_the_script_cannot_read_is_looked_at(redis_url: str) -> None:
    async with (
        asyncresult.connect(redis_url, compression="gzip") as writer,
        asyncresult.connect(redis_url) as backend,
    ):
        await writer.mark_as_done("done", 1)
        await writer.mark_as_started("begun")
        assert await backend.store_many([("done", 2), ("begun", 2), ("new", 2)]) == [False, True, True]


async def test_stores_keep_their_order(redis_url: str) -> None:
    """A single store that follows in the same turn does not overtake a bulk."""
    async with asyncresult.connect(redis_url) as backend:
        engine, key = engine_of(backend), backend.task_key("a")
        first = engine.store(key, backend.codec.encode_plain("a", "STARTED", None, None), "STARTED", None)
        payloads = [backend.codec.encode_plain("a", "PROGRESS", n, None) for n in range(3)]
        bulk_stored = engine.store_many([(key, payload) for payload in payloads], "PROGRESS", None)
        last = engine.store(key, backend.codec.encode_plain("a", "SUCCESS", 3, None), "SUCCESS", None)
        assert [await first, await bulk_stored, await last] == [True, [True] * 3, True]


async def test_a_generator_is_taken_in_portions_and_given_up_by_a_cancellation(redis_url: str) -> None:
    taken = 0

    def results() -> Iterator[tuple[str, int]]:
        nonlocal taken
        for taken in range(1, 100_001):
            yield f"t{taken}", taken

    async with asyncresult.connect(redis_url) as backend:
        storing = asyncio.ensure_future(backend.store_many(results()))
        while taken < 5 * bulk.PORTION:
            await asyncio.sleep(0)
        storing.cancel()
        assert (await asyncio.wait([storing]))[0] and storing.cancelled()
        assert taken < 100_000
        assert await AsyncResult("t1") == 1, "what had left is stored"


async def test_probes_see_each(redis_url: str) -> None:
    class Seen(Probe):
        def stored(self, seconds: float, state: str, kept: bool) -> None:
            seen.append((state, kept))

    seen: list[tuple[str, bool]] = []
    async with asyncresult.connect(redis_url) as backend:
        await backend.mark_as_done("a", 1)
        backend.add_probe(Seen())
        await backend.store_many([("a", 2), ("b", 2)])
        assert seen == [("SUCCESS", False), ("SUCCESS", True)]
