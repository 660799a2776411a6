"""ping() and health(): whether a store can be used now."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Any

import pytest

import asyncresult
from asyncresult import AsyncResult, Backend, BackendUnavailable, ResultSet, ResultTimeout
from tests.tools.servers import RedisServer


async def _walk(stream: AsyncIterable[Any]) -> None:
    async for _ in stream:
        pass


FORMS: dict[str, Callable[[Backend], Awaitable[Any]]] = {
    "get": lambda backend: backend.result("a").get(timeout=0.2),
    "until": lambda backend: backend.result("a").until("STARTED", timeout=0.2),
    "updates": lambda backend: _walk(backend.result("a").updates(timeout=0.2)),
    "set": lambda backend: backend.results(["a", "b"]).get(timeout=0.2),
    "gather": lambda backend: asyncresult.gather(AsyncResult("a"), AsyncResult("b"), timeout=0.2),
    "first_success": lambda backend: backend.results(["a", "b"]).first_success(timeout=0.2),
    "as_completed": lambda backend: _walk(backend.results(["a", "b"]).as_completed(timeout=0.2)),
    "updates of a set": lambda backend: _walk(ResultSet([backend.result("a")]).updates(timeout=0.2)),
}


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


async def test_the_reason_is_known_while_the_command_is_still_tried_again() -> None:
    async with asyncresult.connect("redis://127.0.0.1:1/0") as backend:
        health = await backend.health(timeout=0.2)
    assert not health.ok
    assert "Connect call failed" in str(health.reason)


@pytest.mark.parametrize("form", FORMS)
async def test_a_timeout_of_any_form_says_that_nothing_could_come(form: str) -> None:
    async with asyncresult.connect("redis://127.0.0.1:1/0") as backend:
        with pytest.raises(ResultTimeout, match=r"did not end within 0\.2 s.* not reachable: .*Connect call failed"):
            await FORMS[form](backend)


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
