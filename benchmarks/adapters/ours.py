"""asyncresult. Variants: ``asyncio`` and ``uvloop`` name the event loop; ``frozen`` freezes what was loaded."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence
from typing import Any

import asyncresult
from asyncresult import AsyncResult, ResultSet

from .celery_format import CeleryFormat

READERS = 1000


class Ours(CeleryFormat):
    backend: asyncresult.Backend

    async def open(self) -> None:
        self.backend = asyncresult.connect(self.url)

    async def warm(self) -> None:
        await self.backend.mark_as_done("warm", 1)
        await AsyncResult("warm", backend=self.backend)
        if self.variant == "frozen":
            gc.freeze()

    async def close(self) -> None:
        await self.backend.aclose()

    def handles(self, ids: Sequence[str]) -> list[AsyncResult[Any]]:
        return [AsyncResult(id, backend=self.backend) for id in ids]

    async def one(self, id: str) -> Any:
        return await AsyncResult(id, backend=self.backend)

    async def join(self, ids: Sequence[str]) -> list[Any]:
        return await ResultSet(self.handles(ids))

    async def gather(self, ids: Sequence[str]) -> list[Any]:
        return await asyncio.gather(*self.handles(ids))

    async def fetch(self, ids: Sequence[str]) -> list[Any]:
        return [meta.result for meta in await self.backend.get_many(ids)]

    async def store(self, items: Sequence[tuple[str, Any]]) -> None:
        await asyncio.gather(*[self.backend.mark_as_done(id, value) for id, value in items])

    async def store_many(self, items: Sequence[tuple[str, Any]]) -> None:
        await self.backend.store_many(items)

    async def store_each(self, items: Sequence[tuple[str, Any]]) -> None:
        for id, value in items:
            await self.backend.mark_as_done(id, value)

    # -- what only we have

    async def then(self, ids: Sequence[str]) -> list[Any]:
        """A chain of two callbacks on each, and a join of the promises."""
        promises = [handle.then(lambda value: [value]).then(lambda value: value[0]) for handle in self.handles(ids)]
        return await asyncresult.Promise.all(promises)

    async def updates(self, ids: Sequence[str]) -> list[Any]:
        """A reader for each task; for a single task, a thousand."""
        handles = self.handles(ids) if len(ids) > 1 else [AsyncResult(ids[0], backend=self.backend)] * READERS
        self.seen = 0

        async def read(handle: AsyncResult[Any]) -> Any:
            result = None
            async for meta in handle.updates():
                self.seen += 1
                result = meta.result
            return result

        values = await asyncio.gather(*[read(handle) for handle in handles])
        return values if len(ids) > 1 else values[:1]

    async def blocked(self, ids: Sequence[str]) -> list[Any]:
        """Wait for all of them, but let the loop stand still for some seconds while they come in."""
        joining = asyncio.ensure_future(self.join(ids))
        while self.backend.stats().subscribed < len(ids):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        time.sleep(5)  # noqa: ASYNC251 - that is the point
        return await joining

    def facts(self) -> dict[str, Any]:
        stats = self.backend.stats()
        return {"reconnects": stats.reconnects, "sweeps": stats.sweeps, "seen": getattr(self, "seen", 0)}


adapter = Ours
