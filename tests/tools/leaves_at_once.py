"""A program that ends while a worker process is busy, without leaving the Executor."""

from __future__ import annotations

import asyncio
import time

import asyncresult
from asyncresult import Executor


async def main() -> None:
    backend = asyncresult.connect("memory://")
    executor = Executor(backend)
    await executor.__aenter__()
    handle = executor.options(process=True).submit(time.sleep, 600)
    await handle.until("STARTED", timeout=20)


if __name__ == "__main__":
    asyncio.run(main())
