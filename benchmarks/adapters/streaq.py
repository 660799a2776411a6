"""streaq: a subscription of its own for each result that is waited for."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence
from typing import Any

from streaq import Worker

from .base import Adapter, Command


class Streaq(Adapter):
    def commands(self, id: str, value: Any) -> list[Command]:
        record = {"f": "task", "ct": 1, "et": 1, "s": True, "r": value, "st": 1, "ft": 1, "t": 1, "w": "w"}
        worker = Worker(redis_url=self.url)
        payload = pickle.dumps(record)
        return [
            ("MULTI",),
            ("PUBLISH", worker._channel_key + id, payload),
            ("SET", worker.results_key + id, payload, "EX", 300),
            ("EXEC",),
        ]

    async def open(self) -> None:
        self.worker: Any = Worker(redis_url=self.url)
        await self.worker.__aenter__()

    async def close(self) -> None:
        await self.worker.__aexit__(None, None, None)

    async def one(self, id: str) -> Any:
        return (await self.worker.result_by_id(id)).result

    async def join(self, ids: Sequence[str]) -> list[Any]:
        return await asyncio.gather(*[self.one(id) for id in ids])


adapter = Streaq
