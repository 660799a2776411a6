"""A program without a main guard, which a worker process therefore runs when it imports it."""

from __future__ import annotations

import asyncio
import os
import sys

import asyncresult
from asyncresult import Executor


async def main() -> None:
    async with asyncresult.connect("memory://") as backend, Executor(backend) as executor:
        try:
            await executor.options(process=True).submit(os.getpid).get(timeout=30)
        except Exception as error:
            sys.stdout.write(str(error))
            sys.exit(3)


asyncio.run(main())
