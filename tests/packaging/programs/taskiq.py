"""A broker in memory, with results in Redis."""

from __future__ import annotations

import asyncio
from typing import Any

from support import REDIS_URL
from taskiq import InMemoryBroker

import asyncresult
from asyncresult.integrations.taskiq import ResultBackend, handle, install

broker = install(InMemoryBroker().with_result_backend(ResultBackend(REDIS_URL)))


@broker.task
async def add(x: int, y: int) -> int:
    return x + y


async def main() -> None:
    await broker.startup()
    task: Any = await add.kiq(2, 3)
    assert await task == await handle(task) == 5
    assert asyncresult.connect(broker) is asyncresult.current_backend()
    await broker.shutdown()


asyncio.run(main())
