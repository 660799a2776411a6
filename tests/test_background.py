"""Leaving without aclose(), and shutdowns: what a program leaves behind, it leaves quietly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.servers import RedisServer

ROOT = Path(__file__).parents[1]

USE = """
import asyncio, gc, sys
import asyncresult
async def use():
    backend = asyncresult.connect(sys.argv[1])
    backend.result("pending").add_done_callback(print)
    await backend.get_meta("a")
    await asyncio.sleep(0.05)
    return backend
"""


def complaints(script: str, server: RedisServer) -> list[str]:
    """The lines on stderr of a program that must end well."""
    command = [sys.executable, "-W", "default", "-c", script, server.url()]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stderr.splitlines()


@pytest.mark.parametrize(
    "end",
    [
        "loop.run_until_complete(use()); loop.close(); del loop; gc.collect()",
        "loop.run_until_complete(use()); loop.close()",
        """
async def main():
    await use()
    gc.collect()
    await asyncio.sleep(0.05)
loop.run_until_complete(main())
gc.collect()
loop.close()
""",
    ],
    ids=["the loop is closed and gone", "the loop is closed", "the backend is dropped"],
)
def test_a_dropped_backend(redis_server: RedisServer, end: str) -> None:
    """One warning, of our own, at most; asyncio has nothing to say about tasks or coroutines of ours."""
    found = complaints(f"{USE}\nloop = asyncio.new_event_loop()\n{end}", redis_server)
    warnings = [line for line in found if "ResourceWarning" in line]
    assert len(warnings) <= 1
    assert all("dropped without aclose()" in line for line in warnings)
    assert [line for line in found if line not in warnings and "warnings.warn" not in line] == []


def test_the_warning_of_a_dropped_backend(redis_server: RedisServer) -> None:
    script = """
import asyncio, gc, sys
import asyncresult
async def main():
    backend = asyncresult.connect(sys.argv[1])
    await backend.get_meta("a")
    del backend
    gc.collect()
    await asyncio.sleep(0.01)
    gc.collect()
asyncio.run(main())
"""
    assert sum("ResourceWarning: redis://" in line for line in complaints(script, redis_server)) == 1


def test_promises_that_are_pending_when_the_backend_is_closed(redis_server: RedisServer) -> None:
    """They are rejected with BackendClosed, as is right; but a clean shutdown is no failure to report."""
    script = """
import asyncio, sys
import asyncresult
kept = []
async def main():
    async with asyncresult.connect(sys.argv[1]) as backend:
        kept.append(backend.result("a").then(print))
        backend.result("b").then(print).finally_(print)
        backend.result("c").as_future()
        asyncresult.ResultSet([backend.result("d"), backend.result("e")]).then(print)
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.05)
asyncio.run(main())
"""
    assert complaints(script, redis_server) == []
