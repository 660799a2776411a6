"""What one writes by hand with redis-py: subscribe, read, listen; one connection for many, futures in a dict."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import redis.asyncio

from .celery_format import CeleryFormat, key_of

CHUNK = 1000


class PubSub(CeleryFormat):
    def open(self) -> None:
        self.redis = redis.asyncio.from_url(self.url)

    async def warm(self) -> None:
        await self.redis.ping()

    async def close(self) -> None:
        await self.redis.aclose()

    async def one(self, id: str) -> Any:
        return (await self.join([id]))[0]

    async def join(self, ids: Sequence[str]) -> list[Any]:
        waiting = {key_of(id).encode(): asyncio.get_running_loop().create_future() for id in ids}
        keys = list(waiting)
        async with self.redis.pubsub() as pubsub:
            for start in range(0, len(keys), CHUNK):
                await pubsub.subscribe(*keys[start : start + CHUNK])
            listener = asyncio.create_task(self._listen(pubsub, waiting))
            for start in range(0, len(keys), CHUNK):
                chunk = keys[start : start + CHUNK]
                for key, payload in zip(chunk, await self.redis.mget(chunk), strict=True):
                    if payload:
                        _settle(waiting[key], payload)
            values = await asyncio.gather(*waiting.values())
            listener.cancel()
        return values

    async def _listen(self, pubsub: Any, waiting: dict[bytes, Any]) -> None:
        async for message in pubsub.listen():
            if message["type"] == "message":
                _settle(waiting[message["channel"]], message["data"])

    async def fetch(self, ids: Sequence[str]) -> list[Any]:
        found: list[Any] = []
        for start in range(0, len(ids), CHUNK):
            found += await self.redis.mget([key_of(id) for id in ids[start : start + CHUNK]])
        return [json.loads(payload)["result"] for payload in found]

    async def store(self, items: Sequence[tuple[str, Any]]) -> None:
        pipeline = self.redis.pipeline(transaction=False)
        for id, value in items:
            for command in self.commands(id, value):
                if command[0] in ("SETEX", "PUBLISH"):
                    pipeline.execute_command(*command)
        await pipeline.execute()

    async def store_each(self, items: Sequence[tuple[str, Any]]) -> None:
        for item in items:
            await self.store([item])


def _settle(future: Any, payload: bytes) -> None:
    if not future.done():
        future.set_result(json.loads(payload)["result"])


adapter = PubSub
