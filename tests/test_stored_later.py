"""What is stored, or sent, while the event loop ends; with workers and servers: ``backends/test_track.py``."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

import asyncresult
from asyncresult import Backend, BackendClosed
from asyncresult._stored_later import at_the_end, even_at_the_end, store_at_the_end


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with asyncresult.connect("memory://") as backend:
        yield backend


def closed_at_first(times: int) -> tuple[Callable[[], Awaitable[None]], list[int]]:
    """An attempt that meets so many connections that are cancelled; and its calls."""
    calls: list[int] = []

    async def attempt() -> None:
        calls.append(len(calls))
        if len(calls) <= times:
            raise BackendClosed("the loop ends")

    return attempt, calls


@pytest.mark.parametrize("use", [at_the_end, even_at_the_end])
async def test_it_is_tried_until_the_cancelled_connections_are_gone(
    backend: Backend, use: Callable[..., Awaitable[None]]
) -> None:
    attempt, calls = closed_at_first(3)
    await use(backend, attempt)
    assert len(calls) == 4


@pytest.mark.parametrize("use", [at_the_end, even_at_the_end])
async def test_a_backend_that_was_closed_is_not_used_again(
    backend: Backend, use: Callable[..., Awaitable[None]]
) -> None:
    attempt, calls = closed_at_first(3)
    await backend.aclose()
    with pytest.raises(BackendClosed):
        await use(backend, attempt)
    assert len(calls) <= 1


async def test_a_state_that_is_lost_is_logged(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    attempt, _ = closed_at_first(1)
    await backend.aclose()
    with caplog.at_level(logging.ERROR, "asyncresult"):
        await store_at_the_end(backend, "t", "REVOKED", attempt)
    assert caplog.messages == ["task t has ended, but REVOKED was never stored: the loop ends"]
