"""What ``doctor ID`` looks at: one task, and the probable reason why its result does not come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ..._redis.driver import RedisDriver
from ...backend import Backend
from ...errors import BackendError, ResultDecodeError, ResultTooLarge
from ..output import describe, shortened
from ..server import Refused, Server, text_of
from . import records
from .findings import Finding
from .topology import servers_of

__all__ = ["examine_task", "look_for_task"]

STATES_SHOWN = 10


async def examine_task(backend: Backend, id: str, app: Any, *, timeout: float) -> AsyncIterator[Finding]:
    """Where the record is, what it says, who waits for it; and what follows."""
    key = backend.task_key(id)
    redis = Server.of(backend) if isinstance(backend.driver, RedisDriver) else None
    if redis is not None:
        yield Finding("key", "note", f"key and channel: {shortened(key.decode(errors='backslashreplace'))}")
        yield await _subscribers(backend, key)
        kind = text_of(await redis.try_call("TYPE", key))
        if kind not in (None, "none", "string"):
            yield Finding(
                "reason",
                "error",
                f"the key holds a {kind}, which is no record",
                "something else uses keys of that name: give results a database or a key_prefix of their own",
            )
            return
    try:
        raw = await backend.get_raw(id)
    except ResultTooLarge as error:
        yield Finding("reason", "error", str(error), "raise max_result_bytes, or store large things elsewhere")
        return
    if raw is not None:
        async for finding in _stored(backend, id, len(raw)):
            yield finding
        return
    if redis is not None:
        place = await records.elsewhere(backend, redis, id)
        if place is not None:
            yield Finding("reason", "error", place.message, place.fix)
            return
    yield await look_for_task(app, id, timeout=timeout)


async def look_for_task(app: Any, id: str, *, timeout: float) -> Finding:
    """Where a task is that has stored nothing: at a worker, in a queue, or nowhere."""
    unseen = Finding(
        "reason",
        "warning",
        "nothing is stored for this id: the task has not run yet, ignores its result, has expired, or never existed",
        "compare the id; look whether a worker runs and consumes its queue"
        + ("" if app is not None else "; give -A PROJ to have the workers and the queues looked at"),
    )
    if app is None:
        return unseen
    return await asyncio.to_thread(_at_work, app, id, timeout) or unseen


async def _subscribers(backend: Backend, key: bytes) -> Finding:
    count = 0
    try:
        for server in await servers_of(backend):  # each knows those of its own connections
            reply = await server.call("PUBSUB", "NUMSUB", key)
            count += int(reply[1])
    except Refused as error:
        return Finding("subscribers", "note", f"not known: {error}")
    return Finding("subscribers", "note", f"{count} connections listen for it")


async def _stored(backend: Backend, id: str, size: int) -> AsyncIterator[Finding]:
    try:
        ttl = await backend.get_lifetime(id) if records.has_lifetimes(backend) else None
        kept = "" if not records.has_lifetimes(backend) else " forever" if ttl is None else f" for {ttl:.0f} s more"
    except BackendError:
        kept = " (for how long is not known)"
    try:
        meta = await backend.get_meta(id)
    except ResultDecodeError as error:
        yield Finding(
            "reason",
            "error",
            f"the record ({size} bytes, kept{kept}) cannot be read: {error}",
            "let the worker and the reader agree: result_serializer, result_accept_content, compression",
        )
        return
    yield Finding("record", "note", f"{meta.status}, {size} bytes, kept{kept}: {describe(meta)[:200]}")
    states = [state async for state in records.history(backend, id)]
    if len(states) > 1:
        yield Finding("states", "note", " > ".join(states[-STATES_SHOWN:]))
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
            f"{meta.status}, but its worker sends no heartbeat",
            "the worker has died or hangs: send the task again",
        )
    else:
        yield Finding("reason", "note", f"the task has not ended yet: it is {meta.status}")


# -- at Celery's workers ------------------------------------------------------------------------------------


def _at_work(app: Any, id: str, timeout: float) -> Finding | None:
    """Where the task is. In a thread: Celery's inspection blocks."""
    from . import broker

    try:
        with broker.open_broker(app, timeout) as connection:
            if connection.transport.driver_type == "memory":
                return None
            inspect = app.control.inspect(timeout=broker.WORKER_SECONDS, connection=connection)
            replies: Mapping[str, Any] = inspect.query_task(id) or {}
            for worker, tasks in replies.items():
                if id in tasks:
                    return _has_it(worker, tasks[id][0])
            if waiting := broker.waiting_in(app, connection, id):
                return waiting
            for worker, ids in (inspect.revoked() or {}).items():
                if id in ids:
                    return Finding(
                        "reason",
                        "warning",
                        f"the task was revoked, as {worker} reports",
                        "send it again, if it is to run",
                    )
    except Exception as error:  # whatever the transport raises
        found = broker.unreachable(app, error)
        return Finding(
            "reason", "warning", f"nothing is stored, and workers cannot be queried: {found.message}", found.fix
        )
    if not replies:
        return Finding(
            "reason", "error", "nothing is stored, and no worker answers", "start one: celery -A PROJ worker"
        )
    return Finding(
        "reason",
        "warning",
        f"never seen: nothing is stored, none of {len(replies)} workers has the task, and it waits in no queue that can"
        " be looked into",
        "compare the id; see whether the task ignores its result, was sent to another broker, or has expired",
    )


def _has_it(worker: str, state: str) -> Finding:
    words = {
        "active": "it runs now",
        "reserved": "it waits there for its turn",
        "scheduled": "it waits for its time (eta)",
    }
    return Finding("reason", "note", f"{worker} has the task: {words.get(state, state)}")
