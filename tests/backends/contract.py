"""What the tests of the contract have in common."""

from __future__ import annotations

import asyncio
import uuid

from asyncresult import Backend


def new_id() -> str:
    return str(uuid.uuid4())


def ids(count: int) -> list[str]:
    return [f"t{n}" for n in range(count)]


async def store(backend: Backend, count: int) -> None:
    """A result for each of :func:`ids`: its number."""
    await asyncio.gather(*(backend.mark_as_done(f"t{n}", n) for n in range(count)))


async def fail(backend: Backend, task_id: str, error: Exception | None = None) -> None:
    await backend.mark_as_failure(task_id, error or ValueError("boom"), traceback="Traceback\nValueError: boom\n")
