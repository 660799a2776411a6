"""Streams are waits too: an outage does not end them (P3), their deadlines hold (P5)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from asyncresult import Backend, ResultTimeout, connect
from tests.backends.waiting import until
from tests.tools.proxy import FaultProxy
from tests.tools.servers import RedisServer

from .load import nothing_left, store
from .test_deadlines import SLACK

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

Stream = Callable[[Backend], Any]


def of_one(backend: Backend) -> Any:
    return backend.result("t0").updates(timeout=30)


def of_a_set(backend: Backend) -> Any:
    return backend.results(["t0"]).updates(timeout=30)


async def statuses(stream: Any) -> list[str]:
    return [(item[1] if isinstance(item, tuple) else item).status async for item in stream]


@pytest.mark.parametrize("stream", [of_one, of_a_set])
async def test_p3_a_stream_begun_in_an_outage(redis_server: RedisServer, proxy: FaultProxy, stream: Stream) -> None:
    """Longer than a command is tried again, which ``retry`` bounds."""
    async with connect(proxy.url(), retry=0.1) as backend:
        with proxy.refuse():
            reading = asyncio.ensure_future(statuses(stream(backend)))
            await asyncio.sleep(0.5)  # the outage
            assert not reading.done()
        store(redis_server, ["t0"])
        assert await reading == ["SUCCESS"]
        await nothing_left(redis_server, backend)


async def test_p3_the_end_comes_though_nothing_can_be_read(
    redis_server: RedisServer, proxy: FaultProxy, redis_url: str
) -> None:
    """It was published, and that is enough."""
    async with connect(proxy.url()) as backend:
        with proxy.reply_error("LOADING Redis is loading the dataset", "MGET"):
            reading = asyncio.ensure_future(statuses(backend.result("t0").updates()))
            await until(lambda: backend.stats().subscribed == 1)
            store(redis_server, ["t0"])
            assert await asyncio.wait_for(reading, 20) == ["SUCCESS"]


@pytest.fixture
async def unreachable(proxy: FaultProxy) -> AsyncIterator[Backend]:
    proxy.black_hole()
    async with connect(proxy.url()) as backend:
        yield backend


async def test_p5_the_deadline_of_a_stream(unreachable: Backend) -> None:
    for stream in (unreachable.result("x").updates(timeout=0.2), unreachable.results(["x"]).updates(timeout=0.2)):
        start = time.monotonic()
        with pytest.raises(ResultTimeout):
            await anext(stream)
        assert time.monotonic() - start < 0.2 + SLACK


async def test_p5_a_look_at_a_set_never_hangs(unreachable: Backend) -> None:
    start = time.monotonic()
    with pytest.raises(ResultTimeout):
        await unreachable.results(["x", "y"]).get(timeout=0)
    assert time.monotonic() - start < 1.0 + SLACK
