"""Waits by the thousand, and what became of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import hiredis

from asyncresult import AsyncResult, Backend
from asyncresult._storage.store import engine_of
from tests.backends.waiting import until
from tests.tools.servers import RedisServer

KEY = "celery-task-meta-"

pack: Any = hiredis.pack_command  # typed as if it took one word only


def record(id: str, result: Any = 1) -> str:
    """What a stock worker would store."""
    return f'{{"status": "SUCCESS", "result": {result}, "traceback": null, "children": [], "task_id": "{id}"}}'


def start_waits(backend: Backend, ids: Sequence[str], timeout: float | None = None) -> list[asyncio.Task[Any]]:
    return [asyncio.ensure_future(AsyncResult[Any](id, backend=backend).get(timeout)) for id in ids]


async def subscribed(backend: Backend, count: int) -> None:
    await until(lambda: backend.stats().subscribed >= count, timeout=30)


def store(server: RedisServer, ids: Sequence[str], *, publish: bool = True) -> None:
    """Store a result for each id, as another process would; ``result`` is the index. Blocks."""
    import socket

    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        commands = []
        for index, id in enumerate(ids):
            commands.append(pack(("SET", KEY + id, record(id, index))))
            if publish:
                commands.append(pack(("PUBLISH", KEY + id, record(id, index))))
        connection.sendall(b"".join(commands))
        reader, answers = hiredis.Reader(), 0
        while answers < len(commands):
            reader.feed(connection.recv(1 << 20))
            while (answer := reader.gets()) is not False:
                assert not isinstance(answer, hiredis.ReplyError), answer
                answers += 1


async def stored_elsewhere(server: RedisServer, ids: Sequence[str], *, publish: bool = True) -> None:
    """:func:`store`, on a thread, while the loop goes on."""
    await asyncio.to_thread(store, server, ids, publish=publish)


async def outcome(waits: Sequence[asyncio.Task[Any]], within: float) -> float:
    """Wait for all, each with its own index as value; the seconds it took. Lost waits fail the test."""
    start = time.monotonic()
    _, lost = await asyncio.wait(waits, timeout=within)
    took = time.monotonic() - start
    for wait in lost:
        wait.cancel()
    if lost:
        await asyncio.wait(lost)
    assert not lost, f"{len(lost)} of {len(waits)} waits were lost ({within} s)"
    assert [wait.result() for wait in waits] == list(range(len(waits))), "every wait got its own value"
    return took


async def nothing_left(server: RedisServer, backend: Backend) -> None:
    """No channel, no entry, no listener is left behind."""
    await until(lambda: not server.channels() and not engine_of(backend).waiters._entries)
    stats = backend.stats()
    assert (stats.pending, stats.subscribed) == (0, 0)
