"""Blocks that revoke their tasks: what does not go out is logged, and a note of the error that ended the block."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

import asyncresult
from asyncresult import AsyncResult, Backend, BackendUnavailable, ResultSet, scope
from asyncresult._storage.keys import REVOKE
from asyncresult.testing import memory_backend
from tests.tools.servers import RedisServer


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with asyncresult.connect("memory://") as backend:
        yield backend


async def test_a_block_that_ends_well_revokes_nothing(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async def revoke(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is to be revoked")

    monkeypatch.setattr(ResultSet, "revoke", revoke)
    async with scope() as block:
        assert block.adopt(AsyncResult("t")).id == "t"


@pytest.mark.parametrize("kind", [BackendUnavailable, LookupError])
async def test_what_is_not_revoked_is_a_note(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    async def revoke(*_: Any, **__: Any) -> None:
        raise kind("the broker is away")

    monkeypatch.setattr(ResultSet, "revoke", revoke)
    with memory_backend(), pytest.raises(ValueError, match="mine") as caught:
        async with scope() as block:
            block.adopt(AsyncResult("t"))
            raise ValueError("mine")
    assert caught.value.__notes__ == ["asyncresult: the scope's tasks were not revoked: the broker is away"]
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.__dict__["event"] == "not revoked"


@dataclass(frozen=True)
class Frozen(Exception):
    """Takes no attribute, so no note."""

    why: str


@pytest.mark.parametrize("late", [False, True])
async def test_an_error_that_takes_no_note_is_raised_all_the_same(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    go = asyncio.Event()

    async def revoke(*_: Any, **__: Any) -> None:
        if late:
            await go.wait()
        raise BackendUnavailable("the broker is away")

    monkeypatch.setattr(ResultSet, "revoke", revoke)
    monkeypatch.setattr("asyncresult._handles.scope.REVOKE_TIMEOUT", 0.01 if late else 10.0)
    with pytest.raises(Frozen, match="mine"):
        async with scope() as block:
            block.adopt(AsyncResult("t"))
            raise Frozen("mine")
    go.set()


async def test_what_takes_too_long_is_a_note(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    go = asyncio.Event()

    async def revoke(*_: Any, **__: Any) -> None:
        await go.wait()

    monkeypatch.setattr(ResultSet, "revoke", revoke)
    monkeypatch.setattr("asyncresult._handles.scope.REVOKE_TIMEOUT", 0.01)
    with pytest.raises(ValueError, match="mine") as caught:
        async with scope() as block:
            block.adopt(AsyncResult("t"))
            raise ValueError("mine")
    assert caught.value.__notes__ == ["asyncresult: the scope's tasks were not revoked within 0.01 s"]
    go.set()


@pytest.mark.parametrize("turns", [3, 6, 9, 12, 15, 20, 25, 30])
def test_the_loop_ends_and_nobody_closes_the_backend(redis_server: RedisServer, turns: int) -> None:
    """As where Ctrl-C ends asyncio.run(): all tasks are cancelled, those of the connections among them, which are the
    first or not: asyncio keeps its tasks in no order."""
    kept: list[Any] = []

    async def main() -> None:
        backend = asyncresult.connect(redis_server.url())
        redis_server.cli("SET", backend.workers_key().decode(), "1")
        kept.append(backend.key_beside("t", REVOKE).decode())
        handle = AsyncResult[None]("t", backend=backend)

        async def block() -> None:
            async with scope() as adopting:
                await adopting.adopt(handle)

        kept.append(asyncio.create_task(block()))
        for _ in range(turns):
            await asyncio.sleep(0)

    for _ in range(5):
        kept.clear()
        asyncio.run(main())
        assert redis_server.cli("DEL", kept[0]) == 1


async def test_a_coroutine_that_is_closed_waits_for_no_revocation(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    revoked = asyncio.Event()

    async def revoke(*_: Any, **__: Any) -> None:
        revoked.set()

    async def block() -> None:
        async with scope() as adopting:
            adopting.adopt(AsyncResult("t"))
            await asyncio.sleep(60)

    monkeypatch.setattr(ResultSet, "revoke", revoke)
    coroutine = block()
    coroutine.send(None)
    coroutine.close()
    async with asyncio.timeout(20):
        await revoked.wait()
