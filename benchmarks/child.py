"""A client or a producer, in a process and a virtual environment of its own.

It is told what to do by one JSON document on its command line and by lines on its standard input, and
answers with JSON lines. It imports nothing but the standard library, hiredis and its own contender.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
import json
import random
import socket
import sys
import time
from typing import Any

BEGAN = time.monotonic_ns()
CPU_WHEN_BEGUN = time.process_time()


def say(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def hear() -> None:
    """Wait for the runner's next word."""
    if not sys.stdin.readline():
        sys.exit("the runner is gone")


def make_adapter(job: dict[str, Any]) -> Any:
    module = importlib.import_module(f"benchmarks.adapters.{job['adapter']}")
    return module.adapter(job["url"], job["variant"])


# -- the client -----------------------------------------------------------------------------------------------


def client(job: dict[str, Any]) -> None:
    from benchmarks.adapters.base import Unsupported, id_of, value_of

    factory = None
    if job["variant"] == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    adapter = make_adapter(job)
    ids = [id_of(job["run"], index) for index in range(job["n"])]
    values = [value_of(index, job["padding"]) for index in range(job["n"])]
    method = job["method"]
    argument: Any = list(zip(ids, values, strict=True)) if method.startswith("store") else ids
    with asyncio.Runner(loop_factory=factory) as runner:

        def finish(outcome: Any) -> Any:
            return runner.run(outcome) if inspect.iscoroutine(outcome) else outcome

        finish(adapter.open())
        if job["warm"]:
            finish(adapter.warm())
            gc.collect()  # what the runner needs and has left behind is not the contender's to collect
        say("ready")
        hear()
        cpu = time.process_time()
        started = time.monotonic_ns()
        try:
            returned = finish(getattr(adapter, method)(argument))
        except Unsupported as error:
            say("unsupported", reason=str(error))
            return
        facts: dict[str, Any] = {
            "started": started,
            "ended": time.monotonic_ns(),
            "cpu": time.process_time(),
            "cpu_used": time.process_time() - cpu,
            "began": BEGAN,
            "cpu_began": CPU_WHEN_BEGUN,
        }
        if method == "single":
            facts["times"] = [when for _, when in returned]
            returned = [value for value, _ in returned]
        if method.startswith("store"):
            returned = finish(adapter.fetch(ids))
        correct = adapter.values(returned) == values
        say("done", correct=correct, **facts, **finish(facts_of(adapter)))
        finish(adapter.close())


async def facts_of(adapter: Any) -> dict[str, Any]:
    """Asked on the loop: what an engine counts belongs to it."""
    facts: dict[str, Any] = adapter.facts()
    return facts


# -- the producer ---------------------------------------------------------------------------------------------


class Wire:
    """A socket on which Redis is told not to answer, so that producing costs as little as can be."""

    def __init__(self, url: str) -> None:
        host, port = url.split("://")[1].split("/")[0].split(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(b"CLIENT REPLY OFF\r\n")

    def settle(self) -> None:
        """Return when Redis has done everything."""
        self.socket.sendall(b"CLIENT REPLY ON\r\n")
        assert self.socket.recv(16) == b"+OK\r\n"
        self.socket.sendall(b"CLIENT REPLY OFF\r\n")


def producer(job: dict[str, Any]) -> None:
    import hiredis

    from benchmarks.adapters.base import id_of, value_of

    def packed(commands: list[Any]) -> bytes:
        return b"".join(hiredis.pack_command(command) for command in commands)

    adapter = make_adapter(job)
    wire = Wire(job["url"])
    indexes = range(job["n"])
    ids = [id_of(job["run"], index) for index in indexes]
    wire.socket.sendall(b"".join(packed(adapter.before(id)) for id in ids))
    wire.settle()
    progress = [packed(adapter.progress(id, step)) for step in range(job["steps"]) for id in ids]
    final = [
        packed(adapter.commands(id, value_of(index, job["padding"]))) for id, index in zip(ids, indexes, strict=True)
    ]
    everything = b"".join(progress + final)
    say("ready")
    hear()
    times = [time.monotonic_ns()]
    if job["pause"]:
        times = []
        drawn = random.Random(1)
        for stored in final:
            time.sleep(job["pause"] * drawn.uniform(0.5, 1.5))
            times.append(time.monotonic_ns())
            wire.socket.sendall(stored)
    else:
        wire.socket.sendall(everything)
    wire.settle()
    say("done", times=times, settled=time.monotonic_ns())


if __name__ == "__main__":
    _job = json.loads(sys.argv[1])
    {"client": client, "producer": producer}[_job["role"]](_job)
