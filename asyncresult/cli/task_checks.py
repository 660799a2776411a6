"""What ``doctor ID`` looks at: one task, and the probable reason why its result does not come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from ..backend import Backend
from ..errors import AsyncResultError, BackendError, ResultDecodeError
from .findings import Finding
from .output import describe
from .server import Refused, Server

__all__ = ["examine"]

SCANNED_KEYS = 200_000
WORKER_SECONDS = 1.0


async def examine(backend: Backend, id: str, app: Any) -> AsyncIterator[Finding]:
    """Where the record is, what it says, who waits for it; and what follows."""
    key = backend.task_key(id)
    shown = key.decode(errors="backslashreplace")
    yield Finding("key", "note", f"key and channel: {shown}")
    server = Server(backend)
    yield await _subscribers(server, key)
    raw = await backend.get_raw(id)
    if raw is not None:
        async for finding in _stored(backend, id, len(raw)):
            yield finding
        return
    elsewhere = await _elsewhere(server, id)
    if elsewhere:
        yield elsewhere
        return
    at_work = await asyncio.to_thread(_at_workers, app, id) if app is not None else None
    yield at_work or Finding(
        "reason",
        "warning",
        "nothing is stored for this id: the task has not run yet, ignores its result, has expired, or never existed",
        "compare the id; look whether a worker runs and consumes its queue"
        + ("" if app is not None else "; give -A PROJ to have the workers asked"),
    )


async def _subscribers(server: Server, key: bytes) -> Finding:
    try:
        reply = await server.call("PUBSUB", "NUMSUB", key)
        return Finding("subscribers", "note", f"{int(reply[1])} connections listen for it")
    except (Refused, IndexError, TypeError, ValueError) as error:
        return Finding("subscribers", "note", f"not known: {error}")


async def _stored(backend: Backend, id: str, size: int) -> AsyncIterator[Finding]:
    ttl = await backend.get_lifetime(id)
    kept = "for ever" if ttl is None else f"for {ttl:.0f} s more"
    try:
        meta = await backend.get_meta(id)
    except ResultDecodeError as error:
        yield Finding(
            "reason", "error", f"the record ({size} bytes, kept {kept}) cannot be read: {error}", "see the message"
        )
        return
    yield Finding("record", "note", f"{meta.status}, {size} bytes, kept {kept}: {describe(meta)[:200]}")
    async for finding in _history(backend, id):
        yield finding
    if meta.ready:
        yield Finding(
            "reason",
            "ok",
            f"the task has ended ({meta.status}), and the result is here",
            "a reader that does not get it uses another URL, database, key prefix or id",
        )
    elif meta.stale:
        yield Finding(
            "reason",
            "error",
            f"{meta.status}, but its worker gives no sign of life",
            "the worker has died or hangs: send it again",
        )
    else:
        yield Finding("reason", "note", f"the task has not ended yet: it is {meta.status}")


async def _history(backend: Backend, id: str) -> AsyncIterator[Finding]:
    try:
        states = [meta.status async for meta in backend.result(id).updates(since="0", timeout=0)]
    except AsyncResultError:
        return
    if len(states) > 1:
        yield Finding("states", "note", " > ".join(states[-10:]))


async def _elsewhere(server: Server, id: str) -> Finding | None:
    """The record under another prefix, in the same database."""
    cursor: Any = 0
    for _ in range(SCANNED_KEYS // 1000):
        try:
            cursor, keys = await server.call("SCAN", cursor, "MATCH", f"*celery-task-meta-{id}", "COUNT", 1000)
        except (Refused, BackendError):
            return None
        if keys:
            found = keys[0].decode(errors="backslashreplace")
            return Finding(
                "reason",
                "error",
                f"the result is stored under another key: {found}",
                f"the writer has the key prefix {found.partition('celery-task-meta-')[0]!r}: set key_prefix"
                " (Celery: global_keyprefix) the same",
            )
        if int(cursor) == 0:
            return None
    return None


def _at_workers(app: Any, id: str) -> Finding | None:
    """Whether a worker has the task. In a thread: Celery's inspection blocks."""
    try:
        replies = app.control.inspect(timeout=WORKER_SECONDS).query_task(id)
    except Exception as error:  # whatever the broker's client raises
        return Finding(
            "workers", "warning", f"the workers cannot be asked: {type(error).__name__}", "is the broker up?"
        )
    if not replies:
        return Finding("reason", "error", "no worker answers", "start one: celery -A PROJ worker")
    for worker, tasks in replies.items():
        if id in tasks:
            state, _ = tasks[id]
            return Finding("reason", "note", f"{worker} has the task: it is {state}")
    return Finding(
        "reason",
        "warning",
        f"none of {len(replies)} workers has the task, and nothing is stored: it waits in a queue, or is lost",
        "look whether these workers consume its queue; whether the task ignores its result",
    )
