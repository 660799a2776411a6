"""A program that ends while one worker process is idle and one is busy, without leaving the Executor."""

from __future__ import annotations

import asyncio
import time

import asyncresult
from asyncresult import Executor


async def main() -> None:
    backend = asyncresult.connect("memory://")
    executor = Executor(backend)
    await executor.__aenter__()
    in_process = executor.options(process=True)
    idle, busy = in_process.submit(time.sleep, 0.5), in_process.submit(time.sleep, 600)
    await busy.until("STARTED", timeout=20)
    await idle.get(timeout=30)


if __name__ == "__main__":
    asyncio.run(main())
