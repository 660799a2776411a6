"""SAQ: one pattern subscription for all jobs of a queue, and a read of each job that has ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from saq import Job, Queue, Status

from .base import Adapter, Command


class Saq(Adapter):
    def __init__(self, url: str, variant: str) -> None:
        super().__init__(url, variant)
        logging.getLogger("saq").setLevel(logging.WARNING)

    def _queue(self) -> Any:
        return Queue.from_url(self.url)

    def job(self, id: str, **fields: Any) -> Any:
        return Job(function="task", key=id, queue=self.queue, **fields)

    def before(self, id: str) -> list[Command]:
        self.queue = self._queue()
        job = self.job(id, status=Status.ACTIVE)
        return [("SET", job.id, self.queue.serialize(job))]

    def commands(self, id: str, value: Any) -> list[Command]:
        self.queue = self._queue()
        # Without the time of its completion SAQ would wait for a job that has ended.
        job = self.job(id, status=Status.COMPLETE, result=value, completed=1)
        return [
            ("MULTI",),
            ("LREM", "saq:default:active", 1, job.id),
            ("ZREM", "saq:default:incomplete", job.id),
            ("SETEX", job.id, 600, self.queue.serialize(job)),
            ("EXEC",),
            ("PUBLISH", job.id, str(job.status.value)),
        ]

    async def open(self) -> None:
        self.queue = self._queue()
        await self.queue.connect()

    async def close(self) -> None:
        await self.queue.disconnect()

    async def one(self, id: str) -> Any:
        job = self.job(id)
        await job.refresh(0)
        return job.result

    async def join(self, ids: Sequence[str]) -> list[Any]:
        return await asyncio.gather(*[self.one(id) for id in ids])

    async def fetch(self, ids: Sequence[str]) -> list[Any]:
        return [job.result for job in await self.queue.jobs(ids)]

    async def store(self, items: Sequence[tuple[str, Any]]) -> None:
        await asyncio.gather(*[self.queue.finish(self.job(id), Status.COMPLETE, result=value) for id, value in items])

    async def store_each(self, items: Sequence[tuple[str, Any]]) -> None:
        for id, value in items:
            await self.queue.finish(self.job(id), Status.COMPLETE, result=value)


adapter = Saq
