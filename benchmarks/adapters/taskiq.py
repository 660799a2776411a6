"""taskiq with the Redis result backend, JSON as its serializer; waiting is polling every 0.2 s."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from taskiq import TaskiqResult
from taskiq.serializers import JSONSerializer
from taskiq.task import AsyncTaskiqTask
from taskiq_redis import RedisAsyncResultBackend

from .base import Adapter, Command


class Taskiq(Adapter):
    def __init__(self, url: str, variant: str) -> None:
        super().__init__(url, variant)
        self.serializer = JSONSerializer()

    def commands(self, id: str, value: Any) -> list[Command]:
        return [("SET", id, self.serializer.dumpb(_result(value).model_dump(mode="json")))]

    def open(self) -> None:
        # Without a bound its pool would open as many connections as there are waiters.
        self.backend: Any = RedisAsyncResultBackend(self.url, max_connection_pool_size=20, serializer=self.serializer)

    async def close(self) -> None:
        await self.backend.shutdown()

    async def one(self, id: str) -> Any:
        return (await AsyncTaskiqTask(id, self.backend).wait_result()).return_value

    async def join(self, ids: Sequence[str]) -> list[Any]:
        return await asyncio.gather(*[self.one(id) for id in ids])

    async def store(self, items: Sequence[tuple[str, Any]]) -> None:
        await asyncio.gather(*[self.backend.set_result(id, _result(value)) for id, value in items])

    async def store_each(self, items: Sequence[tuple[str, Any]]) -> None:
        for id, value in items:
            await self.backend.set_result(id, _result(value))


def _result(value: Any) -> Any:
    return TaskiqResult(is_err=False, return_value=value, execution_time=0.0)


adapter = Taskiq
