"""ping() and health(): whether a store can be used now."""

from __future__ import annotations

import asyncio
import logging

import pytest

import asyncresult
from asyncresult import Backend, BackendUnavailable
from tests.tools.servers import RedisServer


async def test_a_store_that_answers(backend: Backend) -> None:
    assert await backend.ping() >= 0
    health = await backend.health()
    assert health.ok
    assert health.connected
    assert health.reason is None
    assert health.latency is not None
    assert health.latency < 2


async def test_nobody_there() -> None:
    async with asyncresult.connect("redis://user:secret@127.0.0.1:1/0?retry=0") as backend:
        with pytest.raises(BackendUnavailable):
            await backend.ping()
        health = await backend.health(timeout=1)
    assert not health.ok
    assert health.latency is None
    assert "127.0.0.1:1" in str(health.reason)
    assert "secret" not in str(health.reason)


async def test_a_frozen_server_is_not_waited_for(redis_server: RedisServer) -> None:
    async with asyncresult.connect(redis_server.url()) as backend:
        assert (await backend.health()).ok
        redis_server.pause()
        try:
            health = await backend.health(timeout=0.2)
        finally:
            redis_server.resume()
        assert not health.ok
        assert health.reason == "no answer within 0.2 s"


async def test_loss_and_recovery_are_logged_at_the_same_level(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with asyncresult.connect(redis_server.url()) as backend:
        waiting = asyncio.ensure_future(backend.result("a").get())
        while not backend.stats().subscribed:
            await asyncio.sleep(0.01)
        redis_server.restart()
        while "is back" not in caplog.text:
            await asyncio.sleep(0.01)
        await backend.mark_as_done("a", 1)
        assert await waiting == 1
    levels = {record.levelno for record in caplog.records if "lost" in record.message or "is back" in record.message}
    assert levels == {logging.WARNING}
    assert {record.__dict__["event"] for record in caplog.records if hasattr(record, "event")} == {"lost", "back"}
