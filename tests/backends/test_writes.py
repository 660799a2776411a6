"""Records that are stored together: fifty to a call, and each with an outcome of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest

from asyncresult import (
    AsyncResult,
    Backend,
    BackendClosed,
    BackendPermissionError,
    Executor,
    ResultEncodeError,
    TaskFailed,
    connect,
)
from asyncresult._redis import writes as _stores
from asyncresult._redis.writes import RECORDS_PER_CALL, RECORDS_PER_JOB, Script, Terms, Write, WriteBatch
from asyncresult._storage.keys import HISTORY
from asyncresult._storage.store import engine_of
from tests.tools.servers import RedisServer

TERMS = Terms.of("SUCCESS", None, second=False, kept=0, attempt=None)


def ids(count: int) -> list[str]:
    return [f"t{n}" for n in range(count)]


async def store(backend: Backend, names: list[str]) -> list[Any]:
    return await asyncio.gather(*(backend.mark_as_done(id, id) for id in names), return_exceptions=True)


async def values(backend: Backend, names: list[str]) -> list[Any]:
    return [meta.result for meta in await backend.get_many(names)]


async def test_fifty_to_a_call(redis_server: RedisServer, redis_url: str) -> None:
    async with connect(redis_url) as backend:
        await store(backend, ["warm"])
        redis_server.cli("CONFIG", "RESETSTAT")
        names = ids(2 * RECORDS_PER_CALL)
        assert await store(backend, names) == [True] * len(names)
        assert redis_server.commandstats()["evalsha"] == 2
        assert await values(backend, names) == names


async def test_a_pause_of_the_machine_loses_no_record(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for which a job takes records may be over before it has taken the first."""
    monkeypatch.setattr(_stores, "FILLING", -1.0)
    async with asyncio.timeout(10), connect(redis_url) as backend:
        assert await store(backend, ids(3)) == [True] * 3


async def test_large_records_have_a_call_of_their_own(redis_server: RedisServer, redis_url: str) -> None:
    async with connect(redis_url) as backend:
        await store(backend, ["warm"])
        redis_server.cli("CONFIG", "RESETSTAT")
        large = "x" * _stores.BYTES_PER_CALL
        await asyncio.gather(*(backend.mark_as_done(id, large) for id in ids(5)))
        assert redis_server.commandstats()["evalsha"] == 5


async def test_what_is_no_record_is_replaced(redis_server: RedisServer, redis_url: str) -> None:
    """To who reads it is nothing, and Celery's SET replaces it."""
    async with connect(redis_url) as backend:
        for id, command in {"t3": "LPUSH", "t7": "SADD", "t9": "PFADD"}.items():
            redis_server.cli(command, backend.task_key(id), "no text")
        assert await store(backend, ids(25)) == [True] * 25
        assert await values(backend, ids(25)) == ids(25)


async def test_what_is_no_stream_costs_the_history(redis_server: RedisServer, redis_url: str) -> None:
    async with connect(redis_url) as backend:
        key = backend.key_beside("t", HISTORY)
        redis_server.cli("LPUSH", key, "no stream")
        waiting = asyncio.create_task(AsyncResult("t", backend=backend).get(timeout=10))
        async with backend.track("t", history=5) as task:
            await task.progress(50)
            task.set_result("value")
        assert await waiting == "value"
        assert redis_server.cli("TTL", key) == -1, "it is not ours"


@pytest.fixture
def at_most_1_mb(redis_server: RedisServer) -> None:
    """A server that hangs up on a longer value. Its least is 1 MB."""
    redis_server.cli("CONFIG", "SET", "proto-max-bulk-len", "1mb")


@pytest.mark.usefixtures("at_most_1_mb")
async def test_one_that_is_too_large_for_the_server_fails_alone(redis_url: str) -> None:
    async with connect(redis_url) as backend:
        large = backend.mark_as_done("large", "x" * 2_000_000)
        outcomes = await asyncio.gather(large, *(backend.mark_as_done(id, id) for id in ids(5)), return_exceptions=True)
        assert isinstance(outcomes[0], ResultEncodeError)
        assert "proto-max-bulk-len is less than its 2,000,1" in str(outcomes[0])
        assert outcomes[1:] == [True] * 5


@pytest.mark.usefixtures("at_most_1_mb")
@pytest.mark.parametrize("work", [lambda: "x" * 2_000_000, lambda: os.environ["x" * 2_000_000]], ids=["value", "error"])
async def test_a_job_whose_end_is_too_large_for_the_server_fails(redis_url: str, work: Callable[[], Any]) -> None:
    async with connect(redis_url) as backend, Executor(backend) as executor:
        with pytest.raises(TaskFailed, match="proto-max-bulk-len"):
            await executor.submit(work).get(timeout=10)


async def test_one_that_is_forbidden_is_refused_alone(redis_server: RedisServer) -> None:
    rules = "~celery-task-meta-t* ~*special &* +eval +evalsha +get +set +publish +mget"
    redis_server.cli("ACL", "SETUSER", "narrow", "reset", "on", ">pw", *rules.split())
    async with connect(redis_server.url(username="narrow", password="pw")) as backend:
        names = [*ids(12), "other", "special"]
        outcomes = await store(backend, names)
        assert isinstance(outcomes.pop(12), BackendPermissionError)
        assert outcomes == [True] * 13
        names.pop(12)
        assert await values(backend, names) == names


async def test_precedence_is_that_of_each(redis_url: str) -> None:
    """Done already, failed already, compressed (which the script cannot read), new: all in one call."""
    async with connect(redis_url, compression="gzip") as compressing, connect(redis_url) as backend:
        await backend.mark_as_done("done", 1)
        await compressing.mark_as_done("compressed, done", 1)
        await compressing.mark_as_failure("compressed, failed", ValueError())
        await backend.mark_as_failure("failed", ValueError())
        names = ["done", "compressed, done", "compressed, failed", "failed", "new"]
        assert await store(backend, names) == [False, False, True, True, True]
        assert await values(backend, names) == [1, 1, *names[2:]]


@pytest.mark.parametrize(
    ("old", "state", "protected"),
    [
        ('{"status": "SUCCESS", "result": 1, "task_id": "t"', "SUCCESS", False),  # cut short
        ('{"status": "SUCCESS", "result": 1, "task_id": "other"}', "SUCCESS", False),
        ('{"status": "FAILURE", "result": 1, "task_id": "t"', "STARTED", False),
        ('{"status": "STARTED", "status": "SUCCESS", "task_id": "t"}', "STARTED", True),  # the last one counts
        ('{"status": "SUCCESS", "status": "STARTED", "task_id": "t"}', "SUCCESS", False),
        ('{"status": "PROGRESS", "result": {"status": "SUCCESS"}, "task_id": "t"}', "STARTED", False),
        ('{"status": "SUCCESS", "result": 1, "task_id": "t"}', "FAILURE", True),
    ],
)
async def test_an_unreadable_record_protects_nothing(
    redis_server: RedisServer, redis_url: str, old: str, state: str, protected: bool
) -> None:
    """On a server as in memory."""
    async with connect(redis_url) as there, connect("memory://") as here:
        redis_server.cli("SET", there.task_key("t"), old)
        here.driver.records.set(here.task_key("t"), old.encode(), 60)  # type: ignore[attr-defined]
        result = ValueError() if state == "FAILURE" else 2
        assert [await backend.store_result("t", result, state) for backend in (there, here)] == [not protected] * 2


async def test_the_order_of_two_states_of_a_task(redis_url: str) -> None:
    async with connect(redis_url) as backend:
        for id in ids(30):
            one, two, three = (
                backend.mark_as_started(id),
                backend.mark_as_done(id, "done"),
                backend.mark_as_failure(id, ValueError()),
            )
            assert await asyncio.gather(one, two, three) == [True, True, False]
            assert (await backend.get_meta(id)).result == "done"


async def test_the_server_forgets_the_script(redis_server: RedisServer, redis_url: str) -> None:
    async with connect(redis_url) as backend:
        await store(backend, ["warm"])
        redis_server.cli("SCRIPT", "FLUSH")
        names = ids(300)
        assert await store(backend, names) == [True] * 300
        assert await values(backend, names) == names


async def test_a_read_only_server_is_waited_for(redis_server: RedisServer, redis_url: str) -> None:
    async with connect(redis_url, retry=30) as backend:
        await store(backend, ["warm"])
        redis_server.cli("REPLICAOF", "127.0.0.1", "1")
        storing = asyncio.ensure_future(store(backend, ids(25)))
        await asyncio.wait([storing], timeout=0.3)
        assert not storing.done()
        redis_server.cli("REPLICAOF", "NO", "ONE")
        assert await storing == [True] * 25


async def test_after_closing_each_is_refused(redis_url: str) -> None:
    backend = connect(redis_url)
    await store(backend, ["warm"])
    engine = engine_of(backend)
    storing = [engine.store(backend.task_key(id), b"{}", "SUCCESS", None) for id in ids(20)]
    await engine.aclose(0)
    more = [engine.store(backend.task_key(id), b"{}", "SUCCESS", None) for id in ids(20)]
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*storing, *more, return_exceptions=True)
    assert all(isinstance(outcome, BackendClosed) for outcome in outcomes[20:])
    await backend.aclose()


async def test_a_job_is_full_or_too_old() -> None:
    def record() -> Write:
        return Write(asyncio.get_running_loop().create_future(), (b"key",), b"{}", "SUCCESS", TERMS)

    def job() -> WriteBatch:
        return WriteBatch((), Script("PUBLISH"), 10, sent.append, sent.append, address="test", patience=1.0)

    sent: list[Write] = []
    full = job()
    assert [full.add(record()) for _ in range(RECORDS_PER_JOB + 1)] == [True] * RECORDS_PER_JOB + [False]
    old = job()
    await asyncio.sleep(2 * _stores.FILLING)
    assert not old.add(record()), "its patience is that of the first"
    left = job()
    assert left.add(record())
    left.leave()
    assert not left.add(record())
    assert len(left.commands) == 1
