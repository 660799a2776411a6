"""The contract of joins, of few and of many, over every backend."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

import asyncresult
from asyncresult import (
    AsyncResult,
    Backend,
    BackendClosed,
    GroupResult,
    ResultDecodeError,
    ResultSet,
    ResultTimeout,
    gather,
)
from asyncresult._handles.joins import READ_FIRST
from asyncresult._storage import waiters
from asyncresult._storage.rounds import READ_CHUNK
from asyncresult._storage.store import engine_of
from asyncresult.codec import LARGE_PAYLOAD_BYTES

from .conftest import POLLED, ROWS
from .contract import fail, ids, store
from .waiting import until, waits_for

# -- joins ----------------------------------------------------------------------------------------------------------


async def test_values_come_in_the_order_of_the_members(backend: Backend) -> None:
    waiting = asyncio.ensure_future(backend.results(ids(5)).get())
    await waits_for(backend, 5)
    for n in (3, 1, 4, 0, 2):
        await backend.mark_as_done(f"t{n}", n)
    assert await waiting == [0, 1, 2, 3, 4]
    assert await backend.results(ids(5)) == [0, 1, 2, 3, 4]


async def test_an_empty_set_and_duplicates(backend: Backend) -> None:
    assert await ResultSet([]) == []
    handle = AsyncResult("t1")
    waiting = asyncio.ensure_future(ResultSet([handle, AsyncResult("t0"), handle, AsyncResult("t1")]).get())
    await waits_for(backend, 2)
    await store(backend, 2)
    assert await waiting == [1, 0, 1, 1]


async def test_a_failure_ends_the_join_and_leaves_the_others_alone(backend: Backend) -> None:
    results = backend.results(ids(3))
    elsewhere = asyncio.ensure_future(AsyncResult("t0").get())
    waiting = asyncio.ensure_future(results.get())
    await waits_for(backend, 3)
    await fail(backend, "t1")
    with pytest.raises(ValueError, match="boom"):
        await waiting
    await until(lambda: backend.stats().pending == 1)
    await backend.mark_as_done("t0", 0)
    assert await elsewhere == 0


@pytest.mark.not_over(*ROWS, reason="rows of an SQL table cannot be any bytes")
async def test_exceptions_as_values(backend: Backend) -> None:
    await store(backend, 1)
    await fail(backend, "t1")
    wishes: list[dict[str, Any]] = [{"return_exceptions": True}, {"propagate": False}]
    for kwargs in wishes:
        value, error = await backend.results(["t0", "t1"]).get(**kwargs)
        assert value == 0 and isinstance(error, ValueError)
    await engine_of(backend).put(backend.task_key("broken"), b"garbage", None)
    value, error = await backend.results(["t0", "broken"]).get(return_exceptions=True)
    assert value == 0 and isinstance(error, ResultDecodeError)


async def test_a_join_times_out_with_names_and_leaves_nothing(backend: Backend) -> None:
    await store(backend, 1)
    await (known := backend.result("t0"))
    with pytest.raises(ResultTimeout, match=r"1 of 2 tasks.*missing"):
        await asyncresult.ResultSet([known, backend.result("missing")]).get(timeout=0.02)
    with pytest.raises(ResultTimeout, match="missing"):
        await backend.results(["t0", "missing"]).get(timeout=0)
    assert await backend.results(["t0"]).get(timeout=0) == [0]
    await until(lambda: backend.stats().pending == 0)


async def test_cancelling_a_join_leaves_nothing(backend: Backend) -> None:
    waiting = asyncio.ensure_future(backend.results(ids(100)).get())
    await waits_for(backend, 100)
    waiting.cancel()
    await asyncio.wait([waiting])
    await until(lambda: backend.stats().pending == 0 and backend.stats().subscribed == 0)


async def test_callback_gets_each_as_it_ends(backend: Backend) -> None:
    seen: list[Any] = []
    waiting = asyncio.ensure_future(backend.results(ids(2)).get(callback=lambda *given: seen.append(given)))
    await waits_for(backend, 2)
    await backend.mark_as_done("t1", 1)
    await until(lambda: seen == [("t1", 1)])
    await backend.mark_as_done("t0", 0)
    assert await waiting == [0, 1] and seen == [("t1", 1), ("t0", 0)]


async def test_a_callback_that_raises_ends_its_join_only(backend: Backend) -> None:
    bad = asyncio.ensure_future(backend.results(ids(2)).get(callback=lambda id, value: 1 / 0))
    good = asyncio.ensure_future(backend.results(ids(2)).get())
    await waits_for(backend, 2)
    await store(backend, 2)
    with pytest.raises(ZeroDivisionError):
        await bad
    assert await good == [0, 1]


# -- many of them: what is stored is found by reading, before anything is listened for --------------------------------


@pytest.mark.not_over(*ROWS, reason="rows of an SQL table cannot be any bytes")
async def test_many_in_every_condition(backend: Backend) -> None:
    """Stored, failed, unreadable, large, begun, to come, awaited by somebody else, twice: each gets what is its own."""
    count = 3 * READ_FIRST
    await store(backend, count - 50)
    await fail(backend, "failed")
    await engine_of(backend).put(backend.task_key("broken"), b"garbage", None)
    await backend.mark_as_done("large", "x" * LARGE_PAYLOAD_BYTES)
    await backend.mark_as_started("begun")
    twice = AsyncResult("t7")
    elsewhere = AsyncResult(f"t{count - 1}")
    waiting_elsewhere = asyncio.ensure_future(elsewhere.get())
    odd = [AsyncResult(id) for id in ("failed", "broken", "large", "begun")]
    results = ResultSet([*odd, twice, elsewhere, twice, *backend.results(ids(count - 1))])
    waiting = asyncio.ensure_future(results.get(return_exceptions=True))
    await waits_for(backend, 51)
    await backend.mark_as_done("begun", "ended")
    await asyncio.gather(*(backend.mark_as_done(f"t{n}", n) for n in range(count - 50, count)))
    failed, broken, large, begun, *numbers = await waiting
    assert isinstance(failed, ValueError) and isinstance(broken, ResultDecodeError)
    assert (large, begun) == ("x" * LARGE_PAYLOAD_BYTES, "ended")
    assert numbers == [7, count - 1, 7, *range(count - 1)]
    assert await waiting_elsewhere == count - 1
    await until(lambda: backend.stats().pending == backend.stats().subscribed == 0)


@pytest.mark.not_over(*POLLED, reason="storing so many takes too long there")
async def test_most_of_many_are_to_come(backend: Backend) -> None:
    """More than are read at once: after the first chunk of misses the others are listened for at once."""
    count = READ_CHUNK + READ_FIRST
    await store(backend, 3)
    waiting = asyncio.ensure_future(backend.results(ids(count)).get())
    await waits_for(backend, count - 3)
    await asyncio.gather(*(backend.mark_as_done(f"t{n}", n) for n in range(3, count)))
    assert await waiting == list(range(count))


@pytest.mark.not_over(*POLLED, reason="storing so many takes too long there")
async def test_a_stored_failure_among_many_ends_the_join(backend: Backend) -> None:
    await store(backend, READ_FIRST)
    await fail(backend, "t50")  # a SUCCESS stays
    await fail(backend, "failed")
    results = ResultSet([*backend.results(ids(READ_FIRST)), AsyncResult("failed"), *backend.results(["never"])])
    with pytest.raises(ValueError, match="boom"):
        await results
    await until(lambda: backend.stats().pending == backend.stats().subscribed == 0)


@pytest.mark.parametrize("ticks", range(5))
async def test_many_are_cancelled_while_they_are_read(backend: Backend, ticks: int) -> None:
    waiting = asyncio.ensure_future(backend.results(ids(READ_FIRST)).get())
    for _ in range(ticks):
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    await backend.get_meta("behind-the-reads")
    await until(lambda: backend.stats().pending == backend.stats().subscribed == 0)


@pytest.mark.parametrize("ticks", range(1, 5))
async def test_the_backend_is_closed_while_many_are_read(make_backend: Callable[..., Backend], ticks: int) -> None:
    backend = make_backend()
    waiting = asyncio.ensure_future(backend.results(ids(READ_FIRST)).get())
    for _ in range(ticks):
        await asyncio.sleep(0)
    await backend.aclose()
    with pytest.raises(BackendClosed):
        await waiting


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_under_very_many_waits_a_backend_is_closed_in_turns_of_the_loop(
    make_backend: Callable[..., Backend], is_cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others have their turns meanwhile; a cancelled ``aclose()`` ends the waits that are left at once."""
    monkeypatch.setattr(waiters, "AT_ONCE", 10)
    backend = make_backend()
    handles = backend.results(ids(50))
    ended: list[AsyncResult[Any]] = []
    for handle in handles:
        handle.add_done_callback(ended.append)
    await waits_for(backend, 50)
    counts = [0]
    closing = asyncio.ensure_future(backend.aclose())
    while len(ended) < 50:
        await asyncio.sleep(0)
        counts.append(len(ended))
        if is_cancelled and ended:
            closing.cancel()
    await asyncio.wait([closing])
    assert all(isinstance(handle.exception, BackendClosed) for handle in handles)
    assert closing.cancelled() is is_cancelled
    steps = [after - before for before, after in itertools.pairwise(counts) if after > before]
    # A callback is called a turn later, when the next ten have been ended.
    assert steps == ([10, 10, 30] if is_cancelled else [10] * 5)


@pytest.mark.not_over(*POLLED, reason="storing so many takes too long there")
async def test_as_completed_over_many(backend: Backend) -> None:
    await store(backend, READ_FIRST - 1)
    found = []
    async with backend.results(ids(READ_FIRST)).as_completed(timeout=30) as completed:
        async for handle in completed:
            found.append(handle.value)
            if len(found) == READ_FIRST - 1:
                await backend.mark_as_done(f"t{READ_FIRST - 1}", READ_FIRST - 1)
    assert sorted(found) == list(range(READ_FIRST))


async def test_members_of_different_backends(backend: Backend) -> None:
    async with asyncresult.connect("memory://") as other:
        results: ResultSet[Any] = ResultSet([backend.result("a"), other.result("a")])
        await backend.mark_as_done("a", "here")
        await other.mark_as_done("a", "there")
        assert await results == ["here", "there"]
        assert await results.successful()


async def test_nested_sets(backend: Backend) -> None:
    await store(backend, 4)
    inner = GroupResult("inner", [backend.result("t0"), backend.result("t1")])
    assert await ResultSet[Any]([inner, backend.result("t2"), ResultSet([])]) == [[0, 1], 2, []]
    assert await ResultSet[Any]([inner, backend.result("t2")]).completed_count() == 3


async def test_gather_is_a_tuple(backend: Backend) -> None:
    await store(backend, 2)
    assert await gather(backend.result("t0"), backend.result("t1")) == (0, 1)
    await fail(backend, "bad")
    ended: tuple[Any, Any] = await gather(backend.result("t0"), backend.result("bad"), return_exceptions=True)
    assert ended[0] == 0 and isinstance(ended[1], ValueError)


async def test_ignored_members_are_none(backend: Backend) -> None:
    await store(backend, 1)
    ignored = AsyncResult[Any]("ignored")
    ignored.ignored = True
    results: ResultSet[Any] = ResultSet([ignored, backend.result("t0")])
    assert await results == [None, 0]
    assert [handle.id async for handle in results.as_completed()] == ["ignored", "t0"]


@pytest.mark.parametrize("when", ["live", "late", "a look", "known"])
async def test_the_callback_is_called_once_for_each_handle(backend: Backend, when: str) -> None:
    """Also for one that is there twice, for each of two handles of one task, and for an ignored one: in every case."""
    one, other, ignored = AsyncResult[Any]("t"), AsyncResult[Any]("t"), AsyncResult[Any]("ignored")
    ignored.ignored = True
    called: list[tuple[str, Any]] = []
    join = ResultSet([one, one, other, ignored]).get(
        0 if when == "a look" else 20, callback=lambda id, value: called.append((id, value))
    )
    if when == "live":
        joining = asyncio.ensure_future(join)
        await waits_for(backend, 1)
        await backend.mark_as_done("t", 1)
    else:
        await backend.mark_as_done("t", 1)
        if when == "known":
            await gather(one, other)
        joining = asyncio.ensure_future(join)
    assert await joining == [1, 1, 1, None]
    assert sorted(called) == [("ignored", None), ("t", 1), ("t", 1)]


async def test_the_failure_of_an_ignored_member_is_none(backend: Backend) -> None:
    """Even where it is known."""
    await backend.mark_as_failure("t", ValueError("ignored"))
    handle = AsyncResult[Any]("t")
    await handle.meta()
    handle.ignored = True
    assert await gather(handle) == (None,)
    assert await ResultSet([handle]).then() == [None]
