"""The contract of streams of states, over every backend."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from asyncresult import (
    AsyncResult,
    Backend,
    ResultSet,
    ResultTimeout,
)

from .conftest import POLLED
from .contract import new_id
from .waiting import until, waits_for

# -- states as they come --------------------------------------------------------------------------------------------


async def test_updates_begin_with_a_snapshot_and_end_with_the_final_record(backend: Backend) -> None:
    handle = AsyncResult[Any](id := new_id())
    seen: list[tuple[str, Any]] = []
    async with handle.updates(timeout=10) as updates:
        async for meta in updates:
            seen.append((meta.status, meta.result))
            if len(seen) == 1:
                await backend.mark_as_started(id, pid=1)
            elif meta.status == "STARTED":
                await backend.store_result(id, {"current": 1}, "PROGRESS")
            elif meta.status == "PROGRESS":
                await backend.mark_as_done(id, "end")
    assert seen == [("PENDING", None), ("STARTED", {"pid": 1}), ("PROGRESS", {"current": 1}), ("SUCCESS", "end")]
    assert handle.value == "end"
    assert [meta.status async for meta in handle.updates()] == ["SUCCESS"]


async def test_a_stream_begins_with_the_state_that_another_one_has_been_given(backend: Backend) -> None:
    """Of a new handle, and of one that followed the task before and missed a state."""
    first, again = AsyncResult[Any](id := new_id()), AsyncResult[Any](id)
    async with first.updates(timeout=30) as updates:
        assert (await anext(updates)).status == "PENDING"
        await backend.mark_as_started(id, pid=1)
        async with again.updates(timeout=30) as left:
            while (await anext(left)).status != "STARTED":
                pass
        while (await anext(updates)).status != "STARTED":
            pass
        await backend.store_result(id, {"current": 1}, "PROGRESS")
        while (await anext(updates)).status != "PROGRESS":
            pass
        for handle in (AsyncResult[Any](id), again):
            async with handle.updates(timeout=30) as later:
                assert (await anext(later)).status == "PROGRESS"


@pytest.mark.not_over(*POLLED, reason="of states that follow fast, the latest is seen")
async def test_a_slow_reader_loses_the_oldest_never_the_last(backend: Backend) -> None:
    updates = AsyncResult[Any](id := new_id()).updates(timeout=10, maxsize=3)
    assert (await anext(updates)).status == "PENDING"
    await waits_for(backend, 1)
    for n in range(10):
        await backend.store_result(id, n, "PROGRESS")
    await backend.mark_as_done(id, "end")
    await until(lambda: updates.dropped == 8)
    assert [meta.result async for meta in updates] == [8, 9, "end"]


async def test_leaving_a_stream_early_ends_its_subscription(backend: Backend) -> None:
    """By break and forgetting, by the end of its block, by cancellation."""
    async for _ in AsyncResult(new_id()).updates():
        break
    gc.collect()
    await until(lambda: backend.stats().pending == 0)
    async with AsyncResult(new_id()).updates() as updates:
        await anext(updates)
        assert backend.stats().pending == 1
    await until(lambda: backend.stats().pending == 0)
    waiting = asyncio.ensure_future(AsyncResult(new_id()).until("STARTED"))
    await waits_for(backend, 1)
    waiting.cancel()
    await asyncio.wait([waiting])
    await until(lambda: backend.stats().pending == 0)


async def test_a_stream_that_times_out(backend: Backend) -> None:
    with pytest.raises(ResultTimeout):
        async for _ in AsyncResult(new_id()).updates(timeout=0.02):
            pass
    await until(lambda: backend.stats().pending == 0)


async def test_a_stream_without_time_looks_once(backend: Backend) -> None:
    await backend.mark_as_started(id := new_id())
    seen = []
    with pytest.raises(ResultTimeout):
        async for meta in AsyncResult(id).updates(timeout=0):
            seen.append(meta.status)
    assert seen == ["STARTED"]
    assert (await AsyncResult(id).until("STARTED", timeout=0)).status == "STARTED"
    async with backend.track(id := new_id(), history=3) as task:
        await task.progress(1)
    kept = [meta.status async for meta in AsyncResult(id).updates(timeout=0, since="0")]
    assert kept == ["STARTED", "PROGRESS", "SUCCESS"]
    await until(lambda: backend.stats().pending == 0)


async def test_until(backend: Backend) -> None:
    handle = AsyncResult[Any](id := new_id())
    waiting = asyncio.ensure_future(handle.until("STARTED", timeout=10))
    await waits_for(backend, 1)
    await backend.mark_as_started(id, pid=5)
    assert (await waiting).result == {"pid": 5}
    await backend.mark_as_done(id, 1)
    assert await handle == 1  # in a cluster the message of STARTED may be on its way until then
    assert (await handle.until("STARTED")).status == "SUCCESS", "a final state ends it all the same"


async def test_on_message_sees_this_task_only(backend: Backend) -> None:
    seen: list[str] = []
    waiting = asyncio.ensure_future(
        AsyncResult(id := new_id()).get(timeout=10, on_message=lambda meta: seen.append(meta.status))
    )
    other = asyncio.ensure_future(AsyncResult("other").get())
    await waits_for(backend, 2)
    await backend.mark_as_started(id)
    await backend.mark_as_done("other", 1)
    await backend.mark_as_done(id, 1)
    await asyncio.gather(waiting, other)
    assert seen == ["STARTED", "SUCCESS"]


async def test_callback_gets_id_and_value(backend: Backend) -> None:
    await backend.mark_as_done(id := new_id(), 1)
    seen: list[Any] = []
    handle = AsyncResult[int](id)
    for _ in range(2):  # also when the value is known already
        await handle.get(callback=lambda *given: seen.append(given))
    assert seen == [(id, 1)] * 2


async def test_a_member_that_is_there_once_more_is_waited_for_on(backend: Backend) -> None:
    handle = AsyncResult[Any]("t")
    results = ResultSet([handle, handle, ResultSet([handle])])
    stream = results.as_completed()
    results.remove("t")
    results.remove("t")
    await backend.mark_as_done("t", 1)
    async with asyncio.timeout(20):
        assert [handle.id async for handle in stream] == ["t"]


async def test_members_of_members_that_come_and_go_under_a_loop(backend: Backend) -> None:
    inner, outer = backend.results(["a", "b"]), backend.results(["c"])
    outer.add(inner)  # type: ignore[arg-type]
    seen: list[str] = []

    async def loop() -> None:
        async for handle in outer.as_completed():
            seen.append(handle.id)

    looping = asyncio.ensure_future(loop())
    await waits_for(backend, 3)
    later = backend.results(["d"])
    inner.add(later)  # type: ignore[arg-type]
    later.update([AsyncResult("e"), AsyncResult("f")])
    inner.remove("b")
    later.remove("f")
    await waits_for(backend, 4)
    outer.remove(inner)  # type: ignore[arg-type]
    await waits_for(backend, 1)
    later.add(AsyncResult("not any more"))
    assert backend.stats().pending == 1
    outer.add(inner)  # type: ignore[arg-type]
    await waits_for(backend, 5)
    later.remove("not any more")
    inner.results[-1].clear()
    await waits_for(backend, 2)
    for id in ("a", "c"):
        await backend.mark_as_done(id, 1)
    async with asyncio.timeout(20):
        await looping
    assert seen == ["a", "c"]
