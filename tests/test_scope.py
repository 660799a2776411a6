"""Blocks that revoke their tasks: what does not go out is logged, and a note of the error that ended the block."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

import asyncresult
from asyncresult import AsyncResult, Backend, BackendUnavailable, ResultSet, scope
from asyncresult.testing import memory_backend


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


async def test_what_is_not_revoked_is_a_note(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    async def revoke(*_: Any, **__: Any) -> None:
        raise BackendUnavailable("the broker is away")

    monkeypatch.setattr(ResultSet, "revoke", revoke)
    with memory_backend(), pytest.raises(ValueError, match="mine") as caught:
        async with scope() as block:
            block.adopt(AsyncResult("t"))
            raise ValueError("mine")
    assert caught.value.__notes__ == ["asyncresult: the scope's tasks were not revoked: the broker is away"]
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.__dict__["event"] == "not revoked"


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
