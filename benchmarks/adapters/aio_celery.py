"""aio-celery: reads Celery's records, by polling every 0.5 s."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aio_celery import Celery
from aio_celery.backend import create_redis_connection_pool
from aio_celery.result import AsyncResult

from .celery_format import CeleryFormat


class AioCelery(CeleryFormat):
    def open(self) -> None:
        self.app: Any = Celery()
        # As Celery.setup() does, which would connect to a broker too.
        self.app._result_backend_connection_pool = create_redis_connection_pool(url=self.url, pool_size=20)

    async def close(self) -> None:
        await self.app._result_backend_connection_pool.disconnect()

    async def one(self, id: str) -> Any:
        return await AsyncResult(id, app=self.app).get()

    async def join(self, ids: Sequence[str]) -> list[Any]:
        return await asyncio.gather(*[self.one(id) for id in ids])


adapter = AioCelery
