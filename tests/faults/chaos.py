"""Random faults against a live load: ``python3 dev chaos --seconds 60 --seed 7``.

Waits of every kind begin at a steady rate, each on a task of its own that is stored about the time when it is awaited.
Meanwhile two hands do harm, one to the server and one to the way there. In the end the world is mended, and then there
must be 0 waits that are lost (still waiting), 0 that are wrong (another's value, an error that is not the task's), and
0 left over (channels, entries of the table, asyncio tasks, sockets).

The same seed gives the same waits and the same faults in the same order; the moments at which they meet are up to the
machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import heapq
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import hiredis
import pytest

from asyncresult import AsyncResult, Backend, ResultDecodeError, ResultSet, ResultTimeout, connect
from asyncresult._storage.store import engine_of
from tests.tools.leaks import _sockets
from tests.tools.proxy import FaultProxy
from tests.tools.servers import RedisServer

from .load import KEY

__all__ = ["Report", "run"]

#: Seconds in which every wait must end once the world is mended. They need one or two.
GRACE = 15.0


@dataclass
class Report:
    """What became of it."""

    seed: int
    waits: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    reconnects: int = 0
    last: float = 0.0
    """Seconds from the end of the faults to the end of the last wait."""
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.lost or self.wrong or self.left)

    def __str__(self) -> str:
        def counts(counter: Counter[str]) -> str:
            return ", ".join(f"{count} {name}" for name, count in sorted(counter.items()))

        lines = [
            f"seed {self.seed}",
            f"{self.waits.total()} waits: {counts(self.waits)}",
            f"{self.faults.total()} faults: {counts(self.faults)}",
            f"{self.reconnects} reconnects; the last wait ended {self.last:.1f} s after the last fault",
            f"{len(self.lost)} lost, {len(self.wrong)} wrong, {len(self.left)} left over",
            *(f"  {problem}" for problem in (*self.lost, *self.wrong, *self.left)),
        ]
        return "\n".join(lines)


class Worker:
    """Stores and publishes what is due, as another process would, straight to the server, until it is acknowledged."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._due: list[tuple[float, int, str, bytes]] = []
        self._scheduled = 0

    def store(self, delay: float, id: str, status: str, result: str) -> None:
        document = f'{{"status": "{status}", "result": {result}, "traceback": null, "children": [], "task_id": "{id}"}}'
        self.store_bytes(delay, id, document.encode())

    def store_bytes(self, delay: float, id: str, document: bytes) -> None:
        self._scheduled += 1  # equal times go out in this order
        heapq.heappush(self._due, (time.monotonic() + delay, self._scheduled, id, document))

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                reader, writer = await asyncio.open_connection(self._server.host, self._server.port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            try:
                while True:
                    await self._store_due(reader, writer)
            except (OSError, EOFError, hiredis.ReplyError):
                pass  # once more, on a new connection
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def _store_due(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        batch = []
        while self._due and self._due[0][0] <= time.monotonic():
            batch.append(heapq.heappop(self._due))
        if not batch:
            await asyncio.sleep(0.005)
            return
        try:
            for _, _, id, document in batch:
                for command in (("SET", KEY + id, document, "EX", 120), ("PUBLISH", KEY + id, document)):
                    writer.write(hiredis.pack_command(command))  # type: ignore[arg-type]
            replies, answered = hiredis.Reader(), 0
            while answered < 2 * len(batch):
                if not (data := await reader.read(1 << 16)):
                    raise EOFError
                replies.feed(data)
                while (reply := replies.gets()) is not False:
                    if isinstance(reply, hiredis.ReplyError):
                        raise reply
                    answered += 1
        except BaseException:
            for item in batch:
                heapq.heappush(self._due, item)
            raise


class Load:
    """The waits."""

    def __init__(self, backend: Backend, worker: Worker, report: Report) -> None:
        self.choice = random.Random(report.seed)
        self.waiting: dict[asyncio.Task[None], str] = {}
        self._backend = backend
        self._worker = worker
        self._report = report
        self._number = 0

    async def run(self, seconds: float, rate: int) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(rate // 50):
                kind = self.choice.choice(KINDS)
                name = kind.__name__
                task = asyncio.create_task(self._one(name, kind(self)))
                self.waiting[task] = f"{name} of task {self._number}"
                task.add_done_callback(self.waiting.pop)
            await asyncio.sleep(0.02)

    async def _one(self, name: str, wait: Awaitable[None]) -> None:
        self._report.waits[name] += 1
        try:
            await wait
        except (Exception, pytest.fail.Exception) as error:
            self._report.wrong.append(f"{name}: {error!r}")

    def task(self, *earlier: str, failing: bool = False) -> tuple[AsyncResult[Any], int]:
        """A handle, and the value that its task will give a moment before or after now."""
        id, number = self._new_id()
        delay = self._moment()
        for status in earlier:
            self._worker.store(delay, id, status, str(number))
            delay += self.choice.uniform(0.0, 0.1)
        if failing:
            failure = f'{{"exc_type": "KeyError", "exc_message": [{number}], "exc_module": "builtins"}}'
            self._worker.store(delay, id, "FAILURE", failure)
        else:
            self._worker.store(delay, id, "SUCCESS", str(number))
        return AsyncResult(id, backend=self._backend), number

    def _new_id(self) -> tuple[str, int]:
        self._number += 1
        return f"chaos-{self._report.seed}-{self._number}", self._number

    def _moment(self) -> float:
        """Seconds from now, a few of them ago."""
        return self.choice.uniform(-0.05, 0.4)

    # -- the kinds

    async def get(self) -> None:
        handle, value = self.task()
        assert await handle == value

    async def failing(self) -> None:
        handle, value = self.task(failing=True)
        with pytest.raises(KeyError) as caught:
            await handle
        assert caught.value.args == (value,)

    async def hostile(self) -> None:
        """What is stored and published for it is no record, or another task's: an error of its own, nobody else's."""
        id, number = self._new_id()
        forged = b'{"status": "SUCCESS", "result": 1, "task_id": "chaos-%d-%d"}' % (self._report.seed, number - 1)
        self._worker.store_bytes(self._moment(), id, self.choice.choice([b"garbage", b"\xff", b"[]", forged]))
        with pytest.raises(ResultDecodeError) as caught:
            await AsyncResult(id, backend=self._backend)
        assert caught.value.task_id == id

    async def shared(self) -> None:
        """Several handles and waiters for one task; one of them gives up."""
        handle, value = self.task()
        other = AsyncResult[Any](handle.id, backend=self._backend)
        given_up = asyncio.ensure_future(other.get())
        asyncio.get_running_loop().call_later(self.choice.random() / 5, given_up.cancel)
        assert await asyncio.gather(handle.get(), other.get()) == [value, value]
        await asyncio.wait([given_up])

    async def join(self) -> None:
        handles, values = zip(*(self.task() for _ in range(5)), strict=True)
        assert await ResultSet[Any](handles) == list(values)

    async def as_completed(self) -> None:
        values = {handle.id: value for handle, value in (self.task() for _ in range(5))}
        handles = [AsyncResult[Any](id, backend=self._backend) for id in values]
        async for done in ResultSet[Any](handles).as_completed():
            assert done.value == values.pop(done.id)
        assert not values

    async def updates(self) -> None:
        handle, value = self.task("STARTED", "PROGRESS")
        records = [meta async for meta in handle.updates()]
        assert [meta.ready for meta in records] == [False] * (len(records) - 1) + [True]
        assert all(meta.result in (value, None) for meta in records)
        assert records[-1].result == value

    async def then(self) -> None:
        handle, value = self.task()
        assert await handle.then(lambda result: (result, result)) == (value, value)

    async def cancelled(self) -> None:
        handle, value = self.task()
        wait = asyncio.ensure_future(handle.get())
        asyncio.get_running_loop().call_later(self.choice.random() / 2, wait.cancel)
        await asyncio.wait([wait])
        assert wait.cancelled() or wait.result() == value

    async def timed_out(self) -> None:
        handle, value = self.task()
        timeout = self.choice.random() / 2
        try:
            assert await handle.get(timeout) == value
        except ResultTimeout:
            pass

    async def broken_off(self) -> None:
        handle, _ = self.task("STARTED")
        async with handle.updates() as records:
            async for _ in records:
                break


KINDS: list[Callable[[Load], Awaitable[None]]] = [
    Load.get,
    Load.failing,
    Load.hostile,
    Load.shared,
    Load.join,
    Load.as_completed,
    Load.updates,
    Load.then,
    Load.cancelled,
    Load.timed_out,
    Load.broken_off,
]


class Harm:
    """Two hands: what is done to the server, and what to the way there, each one thing at a time."""

    def __init__(self, server: RedisServer, proxy: FaultProxy, report: Report) -> None:
        self._server = server
        self._proxy = proxy
        self._report = report
        self.over = False

    async def do(self, faults: list[Fault], choice: random.Random) -> None:
        """One fault after another, until it is over; each is mended before the next."""
        while not self.over:
            fault = choice.choice(faults)
            self._report.faults[fault.__name__.replace("_", " ")] += 1
            async with contextlib.asynccontextmanager(fault)(self, choice):
                await asyncio.sleep(choice.uniform(0.05, 0.6))
            await asyncio.sleep(choice.uniform(0.0, 0.4))

    # -- to the server

    async def killed(self, choice: random.Random) -> AsyncGenerator[None]:
        await asyncio.to_thread(self._server.kill)
        yield
        await asyncio.to_thread(self._server.start)

    async def stopped(self, choice: random.Random) -> AsyncGenerator[None]:
        self._server.pause()
        yield
        self._server.resume()

    async def clients_killed(self, choice: random.Random) -> AsyncGenerator[None]:
        await asyncio.to_thread(self._server.kill_clients, choice.choice(["pubsub", "normal"]))
        yield

    # -- to the way there

    async def cut(self, choice: random.Random) -> AsyncGenerator[None]:
        self._proxy.cut(choice.choice(["rst", "fin"]))
        yield

    async def swallowed(self, choice: random.Random) -> AsyncGenerator[None]:
        """All connections that are open now lead nowhere; new ones are good."""
        with self._proxy.black_hole(only=lambda link: True):
            yield

    async def delayed(self, choice: random.Random) -> AsyncGenerator[None]:
        with self._proxy.delay(choice.uniform(0.01, 0.1), choice.choice(["SUBSCRIBE", "MGET", "SUBSCRIBE MGET"])):
            yield

    async def messages_dropped(self, choice: random.Random) -> AsyncGenerator[None]:
        with self._proxy.drop_messages():
            yield

    async def refused(self, choice: random.Random) -> AsyncGenerator[None]:
        message = choice.choice([None, "-ERR max number of clients reached"])
        with self._proxy.refuse(message):
            self._proxy.cut()
            yield

    async def error_replies(self, choice: random.Random) -> AsyncGenerator[None]:
        message = choice.choice(
            ["LOADING Redis is loading the dataset in memory", "BUSY Redis is busy running a script"]
        )
        with self._proxy.reply_error(message, choice.choice(["SUBSCRIBE", "MGET", "HELLO", "SUBSCRIBE MGET HELLO"])):
            yield


Fault = Callable[[Harm, random.Random], AsyncGenerator[None]]
TO_THE_SERVER: list[Fault] = [Harm.killed, Harm.stopped, Harm.clients_killed]
TO_THE_WAY: list[Fault] = [
    Harm.cut,
    Harm.swallowed,
    Harm.delayed,
    Harm.messages_dropped,
    Harm.refused,
    Harm.error_replies,
]


async def run(seconds: float, seed: int, *, rate: int = 300) -> Report:
    """Go through it; ``rate`` is about how many waits begin in a second."""
    report = Report(seed)
    with RedisServer(aof=True) as server:
        before, tasks = _sockets().keys(), asyncio.all_tasks()
        async with (
            FaultProxy(server) as proxy,
            connect(proxy.url(), heartbeat=0.3, safety_interval=0.5) as backend,
        ):
            worker = Worker(server)
            load = Load(backend, worker, report)
            harm = Harm(server, proxy, report)
            working = asyncio.create_task(worker.run())
            hands = [
                asyncio.create_task(harm.do(faults, random.Random(f"{seed} {number}")))
                for number, faults in enumerate((TO_THE_SERVER, TO_THE_WAY))
            ]
            await load.run(seconds, rate)
            harm.over = True
            await asyncio.gather(*hands)
            mended = time.monotonic()
            if load.waiting:
                await asyncio.wait(load.waiting, timeout=GRACE)
            report.last = time.monotonic() - mended
            report.lost += load.waiting.values()
            await _ended(working, *load.waiting)
            await _nothing_left(report, server, backend)
            report.reconnects = backend.stats().reconnects
        await _until(lambda: asyncio.all_tasks() <= tasks and _sockets().keys() <= before)
        report.left += [f"task {task!r}" for task in asyncio.all_tasks() - tasks]
        report.left += [f"socket {inode}" for inode in _sockets().keys() - before]
    return report


async def _ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancel these; a failure in one is a defect of this tool, and raised."""
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(outcome, (asyncio.CancelledError, type(None))):
            raise outcome


async def _nothing_left(report: Report, server: RedisServer, backend: Backend) -> None:
    table = engine_of(backend).waiters
    await _until(lambda: not server.channels() and not table._entries)
    report.left += [f"channel {channel}" for channel in sorted(server.channels())]
    report.left += [f"entry {key!r}" for key in table._entries]


async def _until(condition: Callable[[], bool]) -> None:
    """Wait for it, a few seconds at most."""
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        await asyncio.sleep(0.01)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 dev chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, printed")
    parser.add_argument("--rate", type=int, default=300, help="waits begun in a second")
    options = parser.parse_args()
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    sys.stdout.write(f"chaos for {options.seconds:g} s, seed {seed}\n")
    sys.stdout.flush()
    logging.basicConfig(level=logging.ERROR)  # that connections are lost is no news here
    report = asyncio.run(run(options.seconds, seed, rate=options.rate))
    sys.stdout.write(f"{report}\n")
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
