"""arq: polls every 0.5 s, with a transaction each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from arq import ArqRedis
from arq.constants import default_queue_name, result_key_prefix
from arq.jobs import Job, serialize_result
from redis.asyncio import BlockingConnectionPool

from .base import Adapter, Command


class Arq(Adapter):
    def before(self, id: str) -> list[Command]:
        return [("ZADD", default_queue_name, 1, id)]

    def commands(self, id: str, value: Any) -> list[Command]:
        payload = serialize_result("task", (), {}, 1, 1, True, value, 1, 1, "task", default_queue_name, id)
        return [
            ("MULTI",),
            ("SET", result_key_prefix + id, payload, "PX", 3_600_000),
            ("ZREM", default_queue_name, id),
            ("EXEC",),
        ]

    def open(self) -> None:
        # Its own pool has no bound: as many connections as there are waiters.
        self.redis: Any = ArqRedis(BlockingConnectionPool.from_url(self.url, max_connections=20, timeout=None))

    async def close(self) -> None:
        await self.redis.aclose()

    async def one(self, id: str) -> Any:
        return await Job(id, self.redis).result()

    async def join(self, ids: Sequence[str]) -> list[Any]:
        return await asyncio.gather(*[self.one(id) for id in ids])

    async def fetch(self, ids: Sequence[str]) -> list[Any]:
        async def get(id: str) -> Any:
            info = await Job(id, self.redis).result_info()
            return info.result if info is not None else None

        return await asyncio.gather(*[get(id) for id in ids])


adapter = Arq
