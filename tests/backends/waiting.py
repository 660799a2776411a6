"""Waiting for a condition in tests, without a sleep that hopes to be long enough."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from asyncresult import Backend


async def until(condition: Callable[[], object], *, timeout: float = 30.0) -> None:
    """Let the loop run until ``condition()`` holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition was never met"
        await asyncio.sleep(0.001)


async def waits_for(backend: Backend, keys: int) -> None:
    """Until ``keys`` keys are waited for, and their subscriptions stand."""
    await until(lambda: backend.stats().pending == keys and backend.stats().subscribed >= keys)
