"""Three processes: two executors, of which one is killed at random again and again, and a reader, which is us."""

from __future__ import annotations

import asyncio
import functools
import os
import random
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

import asyncresult
from asyncresult import AsyncResult, Backend, TaskMeta
from tests.tools.processes import Child, private_directory
from tests.tools.servers import RedisServer

ROOT = Path(__file__).parents[1]
TASKS = 60
KILLS = 4


@pytest.fixture
def start(redis_server: RedisServer) -> Iterator[Callable[[str], Child]]:
    children: list[Child] = []
    log = private_directory() / "log"
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

    def start(name: str) -> Child:
        command = [sys.executable, "-m", "tests.tools.executor_process", redis_server.url(), name]
        children.append(Child(command, log=log, env={**os.environ, "PYTHONPATH": path}))
        return children[-1]

    yield start
    for child in children:
        child.kill()


@pytest.fixture
async def backend(redis_url: str) -> AsyncIterator[Backend]:
    async with asyncresult.connect(redis_url) as backend:
        yield backend


class Log:
    """What happened, by the tasks' own words."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    def of(self, what: str) -> dict[str, int]:
        """Task id to the pid of the process in which it took place."""
        lines = (line.decode().split() for line in self._server.cli("LRANGE", "log", 0, -1))
        return {task_id: int(pid) for word, task_id, pid in lines if word == what}

    def reached(self, begun: int) -> bool:
        """Whether so many tasks have begun, or none is left to be taken (a killed process never says what it took)."""
        left = sum(self._server.cli("LLEN", name) for name in ("mortal", "survivor"))
        return len(self.of("begun")) >= begun or not left

    def ready(self, starts: int) -> bool:
        """Whether so many processes have started so far."""
        return int(self._server.cli("GET", "ready") or 0) == starts


async def asked(answer: Callable[[], object], *, timeout: float = 30.0) -> None:
    async with asyncio.timeout(timeout):
        while not answer():
            await asyncio.sleep(0.01)


async def follow(task_id: str) -> TaskMeta:
    """The final record, or the one that says that nobody runs the task any more."""
    async for meta in AsyncResult[str](task_id).updates():
        if meta.ready or meta.stale:
            return meta
    raise AssertionError("a stream of updates ends with a final record")


async def test_every_task_ends_in_a_truthful_state(
    backend: Backend, redis_server: RedisServer, start: Callable[[str], Child]
) -> None:
    log = Log(redis_server)
    mortal, survivor = start("mortal"), start("survivor")
    await asked(functools.partial(log.ready, 2))
    names = {f"{name}-{number}": name for number in range(TASKS) for name in ("mortal", "survivor")}
    readers = {task_id: asyncio.create_task(follow(task_id)) for task_id in names}
    for task_id, name in names.items():
        redis_server.cli("RPUSH", name, task_id)
    killed: set[int] = set()
    for number in range(KILLS):
        # At a point of its work that is chosen by chance, not after a time.
        goal = len(log.of("begun")) + random.randint(1, 2 * TASKS // (KILLS + 2))
        await asked(functools.partial(log.reached, goal))
        mortal.kill()
        killed.add(mortal.pid)
        # What it had taken is gone with it, if it was waiting; what is in the list is for its successor.
        mortal = start("mortal")
        await asked(functools.partial(log.ready, number + 3))
    redis_server.cli("RPUSH", "mortal", "mortal-last")
    await AsyncResult[str]("mortal-last").get(timeout=30)  # then the living have said what they took before

    def nobody_has(task_id: str) -> bool:
        # A task may be killed between its STARTED and its own word that it has begun; then the reader must tell.
        lost = names[task_id] == "mortal" and log.of("took").get(task_id) in {*killed, None}
        return lost and not redis_server.cli("EXISTS", backend.task_key(task_id))

    await asked(lambda: all(reader.done() or nobody_has(task_id) for task_id, reader in readers.items()))
    records = {task_id: await backend.get_meta(task_id) for task_id in names}
    for reader in readers.values():
        reader.cancel()
    await asyncio.wait(readers.values())
    took, begun, ended = log.of("took"), log.of("begun"), log.of("ended")
    for task_id, meta in records.items():
        died = took.get(task_id) in {*killed, None}  # killed after taking it out of the list, before it could say so
        if meta.status == "SUCCESS":
            assert task_id in ended
        elif meta.status == "STARTED":
            assert died
            assert meta.stale, "the reader can tell"
        else:
            assert meta.status == "PENDING"
            assert died
            assert task_id not in begun
    assert all(meta.status == "SUCCESS" for task_id, meta in records.items() if names[task_id] == "survivor")
    records["mortal-last"] = await backend.get_meta("mortal-last")  # of the others each may have been killed
    assert {meta.worker for meta in records.values() if meta.status == "SUCCESS"} == {"mortal", "survivor"}
    # And the living one still hears us.
    assert survivor.running
    redis_server.cli("RPUSH", "survivor", "last")
    assert await AsyncResult[str]("last").get(timeout=10) == "last"
