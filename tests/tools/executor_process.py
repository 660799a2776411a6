"""A worker process: takes task ids from a Redis list and runs a task for each in an Executor.

``python -m tests.tools.executor_process URL LIST``. Each step is written to the list ``log`` by the task itself, so
that what the records say can be compared with what happened: ``took``, ``begun``, ``ended``, each with id and pid.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from typing import Any

import redis.asyncio as aioredis

from asyncresult import Executor, connect

__all__ = ["main"]


async def main(url: str, name: str) -> None:
    # Its own types say bytes; it would not wait longer than 5 s for a task.
    client: Any = aioredis.from_url(url, decode_responses=True, socket_timeout=None)
    async with (
        client as queue,
        connect(url) as backend,
        Executor(backend, concurrency=3, heartbeat=0.1, worker=name) as executor,
    ):

        async def log(what: str, task_id: str) -> None:
            await queue.rpush("log", f"{what} {task_id} {os.getpid()}")

        async def work(task_id: str) -> str:
            await log("begun", task_id)
            await asyncio.sleep(random.uniform(0.0, 0.06))
            await log("ended", task_id)
            return task_id

        await queue.incr("ready")
        while True:
            await executor.wait_for_capacity()
            _, task_id = await queue.blpop([name])
            await log("took", task_id)
            executor.options(task_id=task_id).submit(work, task_id)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
