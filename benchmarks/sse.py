"""Many server-sent event streams in one process: ``python -m benchmarks.sse [STREAMS]``.

uvicorn serves ``create_app()`` over a private server; a second process opens the streams, each of another task; then
all tasks but a few end at once, and the server gets SIGTERM. Printed are the memory of a stream, the CPU of the server
while nothing happens, the time until every client has the last event, and how long the server took to end, with the
streams that were left. Needs as many file descriptors as streams, in each process.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import asyncresult
from asyncresult.web import create_app
from tests.tools.servers import RedisServer, free_port

IDLE_SECONDS = 5.0
UNENDED = 200
"""Streams of tasks that do not end."""
BATCH = 100


def main(streams: int) -> None:
    with RedisServer() as redis:
        found = measure(redis.url(), streams)
    print(f"{streams + UNENDED} streams: {found['kb_each']:.0f} kB each, idle CPU {found['idle_cpu_percent']:.1f} %")
    print(f"{streams} had the end {found['wall_s']:.2f} s after the first was stored")
    print(f"server CPU of each {found['cpu_each_us']:.0f} us")
    print(f"with {UNENDED} streams open the server ended {found['stopped_s']:.2f} s after SIGTERM")


def measure(url: str, streams: int) -> dict[str, float]:
    """Open them, do nothing for a while, end all but some, end the server; what that cost the server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, streams + UNENDED + 200)), hard))
    context = multiprocessing.get_context("spawn")
    port = free_port()
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(url, port, streams), daemon=True)
    clients = context.Process(target=follow, args=(port, streams, theirs), daemon=True)
    server.start()
    try:
        wait_for_port(port)
        before = resident(server.pid)
        clients.start()
        ours.recv()  # all have their first event
        grown = resident(server.pid) - before
        began, cpu = time.monotonic(), cpu_of(server.pid)
        time.sleep(IDLE_SECONDS)
        idle = (cpu_of(server.pid) - cpu) / (time.monotonic() - began)
        began, cpu = time.monotonic(), cpu_of(server.pid)
        asyncio.run(end_all(url, streams))
        ours.recv()  # all have the last one
        took, cpu = time.monotonic() - began, cpu_of(server.pid) - cpu
        return {
            "wall_s": took,
            "cpu_each_us": cpu / streams * 1e6,
            "kb_each": grown / (streams + UNENDED) / 1000,
            "idle_cpu_percent": idle * 100,
            "stopped_s": stop(server),
        }
    finally:
        for process in (clients, server):
            if process.pid is not None:
                process.kill()


def stop(server: SpawnProcess) -> float:
    """Seconds from SIGTERM until it has ended."""
    began = time.monotonic()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGTERM)
    server.join(60)
    return time.monotonic() - began


def serve(url: str, port: int, streams: int) -> None:
    import uvicorn

    async def run() -> None:
        async with asyncresult.connect(url):
            most = streams + UNENDED
            app = create_app(authorize=everybody, max_streams=most, max_streams_per_client=most)
            config = uvicorn.Config(app, port=port, log_level="warning", backlog=4096, lifespan="off")
            await uvicorn.Server(config).serve()

    asyncio.run(run())


def everybody(request: Any, task_id: str) -> bool:
    return True


def follow(port: int, streams: int, done: Connection) -> None:
    async def run() -> None:
        opened: list[Callable[[], Any]] = []
        for start in range(0, streams + UNENDED, BATCH):
            numbers = range(start, min(start + BATCH, streams + UNENDED))
            opened += await asyncio.gather(*(open_stream(port, n) for n in numbers))
        done.send("open")
        await asyncio.gather(*(end() for end in opened[:streams]))
        done.send("ended")
        await asyncio.gather(*(end() for end in opened[streams:]), return_exceptions=True)

    asyncio.run(run())


async def open_stream(port: int, number: int) -> Callable[[], Any]:
    """Follow a task as far as its first event; returns what waits for the end of the stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /t{number}/events HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
    await reader.readuntil(b"data: ")

    async def end() -> None:
        await reader.readuntil(b"event: done")
        writer.close()

    return end


async def end_all(url: str, streams: int) -> None:
    async with asyncresult.connect(url) as backend:
        for start in range(0, streams, BATCH):
            numbers = range(start, min(start + BATCH, streams))
            await asyncio.gather(*(backend.store_result(f"t{n}", n, "SUCCESS") for n in numbers))


def wait_for_port(port: int) -> None:
    """Until the server accepts connections."""
    import socket

    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError("the server has not started")


def resident(pid: int | None) -> int:
    """Bytes."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_of(pid: int | None) -> float:
    """Seconds so far."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
