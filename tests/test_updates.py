"""The states of one task as a stream: their order, and where it begins and ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import asyncresult
from asyncresult import AsyncResult, Backend, EagerResult, ResultDecodeError, ResultSet, TaskMeta
from asyncresult._handles.handle import learn, read_record
from asyncresult._storage.memory import Records
from asyncresult._storage.store import engine_of
from asyncresult.codec.codec import LARGE_PAYLOAD_BYTES
from tests.backends.waiting import until, waits_for


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with asyncresult.connect("memory://") as backend:
        yield backend


async def test_values_that_cannot_be_compared_are_given_all_the_same(backend: Backend) -> None:
    """A Decimal sNaN raises on each comparison. And nobody else notices."""
    bystander = asyncio.ensure_future(AsyncResult("bystander").get())
    seen: list[TaskMeta] = []

    async def follow() -> None:
        async for meta in AsyncResult("t").updates():
            seen.append(meta)

    following = asyncio.ensure_future(follow())
    await until(lambda: seen)
    for n in range(2):
        text = (
            b'{"status": "PROGRESS", "result": [%d, {"__type__": "decimal", "__value__": "sNaN"}], "task_id": "t"}' % n
        )
        await engine_of(backend).put(backend.task_key("t"), text, None)
    await until(lambda: len(seen) == 3)
    await backend.mark_as_done("t", 1)
    await backend.mark_as_done("bystander", 2)
    await following
    assert [meta.status for meta in seen] == ["PENDING", "PROGRESS", "PROGRESS", "SUCCESS"]
    assert await bystander == 2


@pytest.mark.parametrize(
    ("wanted", "status"),
    [("STARTED", "PROGRESS"), ("STARTED", "RETRY"), ("RECEIVED", "STARTED"), ("STARTED", "of my own")],
)
async def test_until_is_over_when_a_state_has_been_passed(backend: Backend, wanted: str, status: str) -> None:
    await backend.store_result("t", None, status)
    assert (await AsyncResult("t").until(wanted, timeout=5)).status == status


@pytest.mark.parametrize(("wanted", "status"), [("STARTED", "RECEIVED"), ("PROGRESS", "STARTED")])
async def test_until_waits_for_a_state_that_is_to_come(backend: Backend, wanted: str, status: str) -> None:
    await backend.store_result("t", None, status)
    waiting = asyncio.ensure_future(AsyncResult("t").until(wanted))
    await waits_for(backend, 1)
    await backend.store_result("t", None, wanted)
    assert (await waiting).status == wanted


async def test_a_look_does_not_take_a_stream_back(backend: Backend) -> None:
    """Its answer was under way when the next state came."""
    handle = AsyncResult[None]("t")
    seen: list[str] = []

    async def follow() -> None:
        async for meta in handle.updates():
            seen.append(meta.status)

    following = asyncio.ensure_future(follow())
    await until(lambda: seen)
    await waits_for(backend, 1)
    engine = engine_of(backend)
    late: asyncio.Future[bytes | None] = engine.loop.create_future()
    engine.read = lambda key: late  # type: ignore[method-assign]
    look = asyncio.ensure_future(handle.meta())
    await asyncio.sleep(0)
    await backend.mark_as_started("t")
    old = await engine.read_many([backend.task_key("t")])
    await backend.store_result("t", None, "PROGRESS")
    await until(lambda: seen[-1] == "PROGRESS")
    late.set_result(old[0])
    assert (await look).status == "PROGRESS"
    assert handle.snapshot is not None and handle.snapshot.status == "PROGRESS"
    await backend.mark_as_done("t", 1)
    await following
    assert seen == ["PENDING", "STARTED", "PROGRESS", "SUCCESS"]


@pytest.mark.parametrize("of_set", [False, True])
async def test_a_look_that_is_overtaken_after_its_answer_does_not_take_a_stream_back(
    backend: Backend, of_set: bool
) -> None:
    """It found nothing, and the first state comes in the same turn of the loop."""
    engine = engine_of(backend)
    late: asyncio.Future[bytes | None] = engine.loop.create_future()
    engine.read = lambda key: late  # type: ignore[method-assign]
    handle, seen = AsyncResult[None]("t"), list[str]()

    async def follow() -> None:
        if of_set:
            seen.extend([meta.status async for _, meta in ResultSet([handle]).updates()])
        else:
            seen.extend([meta.status async for meta in handle.updates()])

    following = asyncio.ensure_future(follow())
    await waits_for(backend, 1)
    late.set_result(None)
    await asyncio.sleep(0)
    started = backend.codec.encode(TaskMeta(status="STARTED", task_id="t"))
    engine.waiters.pushed(backend.task_key("t"), started)
    await asyncio.sleep(0.01)
    await backend.mark_as_done("t", None)
    await following
    assert seen == ["STARTED", "SUCCESS"]


async def test_a_look_whose_read_is_given_up_ends(backend: Backend) -> None:
    """However the read ends, so does the look."""
    engine = engine_of(backend)
    for end in ("cancel", "set_exception"):
        reply: asyncio.Future[bytes | None] = engine.loop.create_future()
        engine.read = lambda key, reply=reply: reply  # type: ignore[method-assign,misc]
        look = read_record(AsyncResult("t"))
        getattr(reply, end)(*([] if end == "cancel" else [OSError("of any kind")]))
        async with asyncio.timeout(5):
            await asyncio.wait([look])
        assert look.cancelled() or isinstance(look.exception(), OSError)


async def test_updates_of_a_result_that_is_known_already(backend: Backend) -> None:
    for state, value in (("SUCCESS", 1), ("RETRY", ValueError("again"))):
        async with asyncio.timeout(5):
            assert [meta.status async for meta in EagerResult("e", value, state).updates()] == [state]


async def test_a_record_that_was_read_is_the_snapshot(backend: Backend) -> None:
    """Where nobody waits; else what the table has handed on counts."""
    handle = AsyncResult[None]("t")
    await backend.mark_as_started("t")
    await handle.meta()
    assert handle.snapshot is not None and handle.snapshot.status == "STARTED" and not handle.done()
    waiting = asyncio.ensure_future(handle.get())
    await waits_for(backend, 1)
    [meta] = await backend.get_many(["t"])
    await backend.store_result("t", None, "PROGRESS")
    await until(lambda: handle.snapshot is not None and handle.snapshot.status == "PROGRESS")
    assert not learn(handle, meta)
    assert handle.snapshot is not None and handle.snapshot.status == "PROGRESS"
    await backend.mark_as_done("t", None)
    await waiting


async def two_waits_without_announcements(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> tuple[AsyncResult[int], AsyncResult[int], list[asyncio.Task[int]]]:
    monkeypatch.setattr(Records, "publish", lambda records, key, value: None)
    one, other = AsyncResult[int]("t"), AsyncResult[int]("t")
    waiting = [asyncio.ensure_future(handle.get()) for handle in (one, other)]
    await waits_for(backend, 1)
    return one, other, waiting


async def test_what_one_handle_reads_is_news_for_all_of_the_task(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The announcements were lost."""
    one, other, waiting = await two_waits_without_announcements(backend, monkeypatch)
    assert (await one.meta()).status == "PENDING"  # behind the table's own read
    await backend.store_result("t", None, "PROGRESS")
    await one.meta()
    assert other.snapshot is not None and other.snapshot.status == "PROGRESS"
    await backend.mark_as_done("t", 1)
    await one.meta()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*waiting) == [1, 1]


async def test_a_record_read_beside_the_table_ends_all_waits_for_the_task(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _, waiting = await two_waits_without_announcements(backend, monkeypatch)
    await one.meta()
    await backend.mark_as_done("t", 1)
    (meta,) = await backend.get_many(["t"])
    assert learn(one, meta)
    async with asyncio.timeout(5):
        assert await asyncio.gather(*waiting) == [1, 1]


async def test_a_look_says_that_a_record_is_gone(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the handle waits, and has seen a state."""
    handle = AsyncResult[int]("t")
    waiting = asyncio.ensure_future(handle.get())
    await waits_for(backend, 1)
    await backend.store_result("t", None, "PROGRESS")
    await until(lambda: handle.snapshot is not None and handle.snapshot.status == "PROGRESS")
    monkeypatch.setattr(Records, "get", lambda records, key: None)
    assert (await handle.meta()).status == "PENDING"
    assert not waiting.done()
    await backend.mark_as_done("t", 1)
    assert await waiting == 1


@pytest.mark.parametrize("size", [1, LARGE_PAYLOAD_BYTES])
async def test_a_look_at_an_unreadable_record_fails(backend: Backend, size: int) -> None:
    await engine_of(backend).put(backend.task_key("t"), b"x" * size, None)
    with pytest.raises(ResultDecodeError):
        async with asyncio.timeout(20):
            await AsyncResult("t").meta()


async def test_an_unreadable_record_is_counted(backend: Backend) -> None:
    await engine_of(backend).put(backend.task_key("t"), b"garbage", None)
    with pytest.raises(ResultDecodeError):
        await AsyncResult("t")
    assert backend.stats().decode_errors == 1
