"""The limit of the protocol: one asyncio.Protocol with hiredis.Reader, no futures, nothing decoded."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

import hiredis

from .celery_format import CeleryFormat, key_of

CHUNK = 1000


class _Protocol(asyncio.Protocol):
    """Counts replies down; ``wanted`` is the only future, one for all of them."""

    def __init__(self) -> None:
        self.reader = hiredis.Reader()
        self.replies: list[Any] = []
        self.left = 0
        self.done: asyncio.Future[None]
        self.transport: asyncio.Transport

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        gets, replies, left = self.reader.gets, self.replies, self.left
        while (reply := gets()) is not False:
            if reply.__class__ is list and reply[0] == b"subscribe":
                continue
            replies.append(reply)
            left -= 1
        self.left = left
        if not left:
            self.done.set_result(None)

    def expect(self, count: int) -> asyncio.Future[None]:
        self.replies = []
        self.left = count
        self.done = asyncio.get_running_loop().create_future()
        return self.done

    def send(self, *commands: tuple[Any, ...]) -> None:
        self.transport.write(b"".join(hiredis.pack_command(command) for command in commands))


class _Single(_Protocol):
    """Notes when each message came."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[int] = []

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        super().data_received(data)
        self.times += [now] * (len(self.replies) - len(self.times))


class Raw(CeleryFormat):
    async def open(self) -> None:
        self.protocol: _Protocol = await self._connect(_Protocol)

    async def _connect(self, factory: Any) -> Any:
        host, port = self.url.split("://")[1].split("/")[0].split(":")
        _, protocol = await asyncio.get_running_loop().create_connection(factory, host, int(port))
        return protocol

    def close(self) -> None:
        self.protocol.transport.close()

    async def single(self, ids: Sequence[str]) -> list[tuple[Any, int]]:
        # All subscribed beforehand: without a read after the acknowledgement a message may be missed.
        noting: _Single = await self._connect(_Single)
        self.protocol = noting
        return list(zip(await self.join(ids), noting.times, strict=True))

    async def join(self, ids: Sequence[str]) -> list[Any]:
        done = self.protocol.expect(len(ids))
        keys = [key_of(id) for id in ids]
        for start in range(0, len(keys), CHUNK):
            self.protocol.send(("SUBSCRIBE", *keys[start : start + CHUNK]))
        await done
        return self.protocol.replies

    async def fetch(self, ids: Sequence[str]) -> list[Any]:
        found: list[Any] = []
        for start in range(0, len(ids), CHUNK):
            done = self.protocol.expect(1)
            self.protocol.send(("MGET", *[key_of(id) for id in ids[start : start + CHUNK]]))
            await done
            found += self.protocol.replies[0]
        return found

    join_stored = fetch

    async def store(self, items: Sequence[tuple[str, Any]]) -> None:
        commands = [
            command for id, value in items for command in self.commands(id, value) if command[0] in ("SETEX", "PUBLISH")
        ]
        done = self.protocol.expect(len(commands))
        self.protocol.send(*commands)
        await done

    async def store_each(self, items: Sequence[tuple[str, Any]]) -> None:
        for item in items:
            await self.store([item])

    def values(self, returned: Any) -> list[Any]:
        payloads = [reply[2] if isinstance(reply, list) else reply for reply in returned]
        return sorted((json.loads(payload)["result"] for payload in payloads), key=lambda value: value["n"])


adapter = Raw
