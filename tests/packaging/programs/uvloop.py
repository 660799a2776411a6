"""The loop of uvloop."""

from __future__ import annotations

import uvloop
from support import REDIS_URL

import asyncresult


async def main() -> None:
    async with asyncresult.connect(REDIS_URL) as backend:
        await backend.mark_as_done("a", 1)
        assert await backend.result("a").get(timeout=10) == 1


uvloop.run(main())
