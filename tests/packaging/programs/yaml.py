"""Records in YAML."""

from __future__ import annotations

import asyncio

from support import REDIS_URL

import asyncresult


async def main() -> None:
    async with asyncresult.connect(REDIS_URL, serializer="yaml", accept=["yaml"]) as backend:
        await backend.mark_as_done("a", {"x": [1, 2]})
        assert await backend.result("a") == {"x": [1, 2]}


asyncio.run(main())
