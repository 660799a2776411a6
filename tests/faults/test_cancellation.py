"""Cancelling (P6) and leaking (P13): whatever becomes of a wait, nothing of it stays."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from asyncresult import AsyncResult, Backend, ResultTimeout, connect
from tests.backends.waiting import until, waits_for
from tests.tools.servers import RedisServer

from .load import nothing_left, start_waits, subscribed


async def under_timeout(wait: Awaitable[Any], seconds: float) -> Any:
    async with asyncio.timeout(seconds):
        return await wait


async def under_anyio(wait: Awaitable[Any], seconds: float) -> Any:
    with anyio.fail_after(seconds):
        return await wait


async def under_wait_for(wait: Awaitable[Any], seconds: float) -> Any:
    return await asyncio.wait_for(wait, seconds)


async def under_own_timeout(wait: AsyncResult[Any], seconds: float) -> Any:
    return await wait.get(seconds)


@pytest.mark.parametrize("under", [under_timeout, under_anyio, under_wait_for, under_own_timeout])
async def test_p6_2500_limits_at_random_moments(
    redis_server: RedisServer, redis_url: str, under: Callable[[Any, float], Awaitable[Any]]
) -> None:
    """Either the value came or the limit did; each value belongs to its own wait; nothing stays behind."""
    choice = random.Random(6)
    descriptors = len(os.listdir("/dev/fd"))
    async with connect(redis_url) as backend:
        await backend.result("warm").state()

        async def one(number: int) -> str:
            id = f"{under.__name__}-{number}"
            storing = None
            if choice.random() < 0.5:
                storing = asyncio.ensure_future(backend.mark_as_done(id, number))
            try:
                assert await under(AsyncResult(id), choice.random() * span) == number
                return "value"
            except (TimeoutError, ResultTimeout):
                return "limit"
            finally:
                if storing is not None:
                    await storing

        fates: list[str] = []
        span = 0.02
        for _ in range(25):
            latest = await asyncio.gather(*(one(len(fates) + n) for n in range(100)))
            fates += latest
            if latest.count("value") < 10:
                span *= 2  # a slow machine: the moments are to be those at which something happens
        assert fates.count("value") > 100 and fates.count("limit") > 100
        await nothing_left(redis_server, backend)
        await until(lambda: len(asyncio.all_tasks()) <= 3)
    await until(lambda: len(os.listdir("/dev/fd")) <= descriptors + 1)


async def test_p6_10000_cancellations(redis_server: RedisServer, redis_url: str) -> None:
    """Each task is cancelled at a moment of its own. A cancellation is delivered, or the value was returned."""
    choice = random.Random(66)
    async with connect(redis_url) as backend:
        cancelled = values = 0
        for batch in range(20):
            ids = [f"{batch}-{n}" for n in range(500)]
            waits = start_waits(backend, ids)
            storing = asyncio.ensure_future(
                asyncio.gather(*(backend.mark_as_done(id, n) for n, id in enumerate(ids) if n % 3 == 0))
            )
            if batch % 4 == 0:
                await asyncio.wait(waits[:90:3])  # however slow the machine is, some get their values
            for wait in choice.sample(waits, len(waits)):
                if choice.random() < 0.02:
                    await asyncio.sleep(choice.random() * 0.002)
                was_done = wait.done()
                assert wait.cancel() is not was_done
            await asyncio.wait(waits)
            for n, wait in enumerate(waits):
                if wait.cancelled():
                    cancelled += 1
                else:
                    assert wait.result() == n
                    values += 1
            await storing
        assert cancelled > 1000 and values > 100
        await nothing_left(redis_server, backend)


async def test_p6_a_task_group_that_fails(redis_server: RedisServer, redis_url: str) -> None:
    async with connect(redis_url) as backend:
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                for n in range(200):
                    group.create_task(backend.result(f"t{n}").get())
                await subscribed(backend, 200)
                await backend.mark_as_failure("t7", ValueError("boom"))
        await nothing_left(redis_server, backend)


# -- P13 --------------------------------------------------------------------------------------------------------------


async def mixed_fates(backend: Backend, count: int, start: int) -> None:
    """``count`` waits: answered, timed out, cancelled, left in the middle of a stream."""
    ids = [f"m{start + n}" for n in range(count)]
    waits = start_waits(backend, ids[: count // 2])
    limited = start_waits(backend, ids[count // 2 :], timeout=0.01)
    await asyncio.sleep(0)
    await asyncio.gather(*(backend.mark_as_done(id, 1) for id in ids[: count // 4]))
    for wait in waits[count // 4 :]:
        wait.cancel()
    async for _ in backend.result(f"s{start}").updates():
        break
    fates = await asyncio.gather(*waits, *limited, return_exceptions=True)
    assert all(fate == 1 or isinstance(fate, (asyncio.CancelledError, ResultTimeout)) for fate in fates)
    await backend.forget(*ids)


def blocks() -> int:
    """Blocks of memory in use. (A trace of each allocation would take minutes.)"""
    gc.collect()
    return sys.getallocatedblocks()


async def test_p13_50000_waits_leave_the_memory_flat(redis_server: RedisServer, redis_url: str) -> None:
    """Less than one block a wait: none of them left so much as one object."""
    async with connect(redis_url, expires=60) as backend:
        await mixed_fates(backend, 5000, 0)
        await nothing_left(redis_server, backend)
        before = blocks()
        for n in range(10):
            await mixed_fates(backend, 5000, (n + 1) * 5000)
        await nothing_left(redis_server, backend)
        # The acknowledgements of what was unsubscribed in bulk may still be under way.
        await until(lambda: blocks() - before < 5000, timeout=20)


async def test_p13_100_reconnects_leave_the_sockets(redis_server: RedisServer, redis_url: str) -> None:
    async with connect(redis_url) as backend:
        wait = start_waits(backend, ["x"])[0]
        await waits_for(backend, 1)
        await backend.result("y").state()
        descriptors = len(os.listdir("/dev/fd"))
        for n in range(100):
            redis_server.kill_clients("pubsub")
            await until(lambda n=n: backend.stats().reconnects > n and backend.stats().subscribed == 1)  # type: ignore[misc]
        assert len(os.listdir("/dev/fd")) <= descriptors + 1
        await backend.mark_as_done("x", 1)
        assert await wait == 1


async def test_p13_a_million_handles_made_and_dropped(redis_url: str) -> None:
    async with connect(redis_url) as backend:
        before = blocks()
        for n in range(1_000_000):
            AsyncResult(f"t{n}", backend=backend)
        assert blocks() - before < 1000
        assert backend.stats().pending == 0
