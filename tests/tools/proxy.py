"""A TCP proxy that misbehaves on demand: ``async with FaultProxy(server) as proxy: …``.

Clients connect to ``proxy.port``. Each fault is a method that switches it on and returns a handle; ``with`` switches
it off again at the end of the block::

    with proxy.delay(0.03, "SUBSCRIBE"):    # what is behind a delayed command waits too, as behind a slow server
        ...

How bytes travel: each direction of a connection is a lane. A lane cuts its stream into whole RESP frames (commands
one way, replies and pushes the other), asks the faults about each frame, and queues what remains with the time at
which it is due. A second task writes what is due. Order is kept within a lane, always.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeVar

from .frames import Frames, Match, Request, channel_of
from .servers import HOST, RedisServer, free_port
from .switches import (
    Before,
    BlackHole,
    CutAfter,
    Delay,
    Direction,
    DropMessages,
    Ending,
    Fault,
    ForRequests,
    Refuse,
    ReplyError,
    Throttle,
)

__all__ = ["Fault", "FaultProxy", "Frames", "Link", "Match", "Request", "Stats", "subscribing"]

T = TypeVar("T")


@dataclass
class Stats:
    """What went through since the proxy was started."""

    accepted: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    commands: Counter[str] = field(default_factory=Counter[str])


# --- a connection


class Link:
    """A client's connection and the one to the server that belongs to it.

    Attributes:
        number: Counts from 1 in the order of acceptance.
        commands: What the client sent over it.
        lost: It fell into a black hole: nothing comes through any more, in either direction.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.commands: Counter[str] = Counter()
        self.lost = False
        self.writers: list[asyncio.StreamWriter] = []
        self.errors: deque[str] = deque()  # to be put in the place of the replies to _REFUSED

    def __repr__(self) -> str:
        return f"<Link {self.number} {dict(self.commands)}>"

    def cut(self, how: Ending) -> None:
        for writer in self.writers:
            _end(writer, how)


def subscribing(link: Link) -> bool:
    """For ``only=``: the connections that have subscribed to something."""
    return bool(link.commands["SUBSCRIBE"] or link.commands["SSUBSCRIBE"] or link.commands["PSUBSCRIBE"])


def _end(writer: asyncio.StreamWriter, how: Ending) -> None:
    if how == "fin":
        writer.close()
    elif not writer.transport.is_closing():
        # Closing with a linger time of 0 sends RST. Through a duplicate: uvloop's sockets are not real ones.
        with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as duplicate:
            duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


# What is sent to the server instead of a command that is to fail: AUTH without its arguments, which is refused for
# that whatever the state of the connection (before AUTH, loading, subscribed), in the right place among the other
# replies, so that nothing has to be counted. In a transaction it makes the EXEC fail, as a refused command does.
# (An unknown command will not do: before AUTH, newer Valkey servers answer that with NOAUTH.)
_REFUSED = b"*1\r\n$4\r\nAUTH\r\n"
_REFUSAL = re.compile(rb"-ERR wrong number of arguments for 'auth' command")


class _Lane:
    """One direction of a connection."""

    def __init__(
        self,
        proxy: FaultProxy,
        link: Link,
        direction: Literal["up", "down"],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.proxy, self.link, self.direction = proxy, link, direction
        self.reader, self.writer = reader, writer
        self.frames = Frames() if proxy.parse else None
        self.batch: list[bytes] = []  # frames that arrived together and have the same delay: they leave together too
        self.batch_delay = 0.0
        self.last_due = 0.0
        # Bounded, so that a client that does not read is felt by the server.
        self.queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(100)

    async def run(self) -> None:
        """Pass on, until the stream ends or the connection breaks."""
        receiving = asyncio.create_task(self.receive())
        try:
            await self.send()
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)

    async def receive(self) -> None:
        """Read, ask the faults, and queue."""
        try:
            while data := await self.read():
                if self.link.lost:
                    continue
                for frame in self.frames.feed(data) if self.frames else [data]:
                    await (self.handle_request(frame) if self.direction == "up" else self.handle_reply(frame))
                await self.flush()
        except Exception as error:
            message = "error in the proxy: in a callback of the test, or this is not RESP (then use parse=False)"
            asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})
        if self.link.lost and self.direction == "down":
            return  # that the server is gone does not come through either
        await self.flush()
        await self.queue.put((self.last_due, b""))

    async def read(self) -> bytes:
        try:
            data = await self.reader.read(1 << 16)
        except OSError:
            return b""
        if self.direction == "up":
            self.proxy.stats.bytes_up += len(data)
        else:
            self.proxy.stats.bytes_down += len(data)
        return data

    async def handle_request(self, frame: bytes) -> None:
        delay = 0.0
        if self.frames:
            request = Request.parse(frame, self.link)
            self.link.commands[request.name] += 1
            self.proxy.stats.commands[request.name] += 1
            self.proxy._notify()
        else:
            request = Request("", (), frame, self.link)
        for fault in self.proxy.faults:
            if not (isinstance(fault, ForRequests) and fault.matches(request)):
                continue
            if isinstance(fault, Delay):
                if fault.direction == "down":
                    continue
                delay += fault.seconds
            elif isinstance(fault, Before):
                await self.flush()
                await fault.action(request)
            elif isinstance(fault, ReplyError):
                if fault.times is not None and fault.hits >= fault.times:
                    continue
                self.link.errors.append(fault.message)
                frame = _REFUSED
            fault.hits += 1
        await self.put(frame, delay)

    async def handle_reply(self, frame: bytes) -> None:
        delay = 0.0
        if self.link.errors and _REFUSAL.match(frame):
            frame = b"-%s\r\n" % self.link.errors.popleft().encode()
        for fault in self.proxy.faults:
            if isinstance(fault, Delay) and fault.direction != "up":
                delay += fault.seconds
                fault.hits += 1
            elif isinstance(fault, DropMessages):
                channel = channel_of(frame)
                if channel is not None and (fault.only is None or fault.only(channel)):
                    fault.hits += 1
                    return
        await self.put(frame, delay)

    async def put(self, frame: bytes, delay: float) -> None:
        if delay != self.batch_delay:
            await self.flush()
            self.batch_delay = delay
        self.batch.append(frame)

    async def flush(self) -> None:
        if self.batch:
            data = b"".join(self.batch)
            self.batch.clear()
            self.last_due = max(self.last_due, asyncio.get_running_loop().time() + self.batch_delay)
            await self.queue.put((self.last_due, data))

    async def send(self) -> None:
        """Write what is due, until the stream ends."""
        loop = asyncio.get_running_loop()
        while True:
            due, data = await self.queue.get()
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            if not data:
                return
            if self.link.lost:
                continue
            for fault in self.proxy.faults:
                if isinstance(fault, CutAfter) and fault.direction in (self.direction, "both"):
                    room = fault.size - fault.passed[self.link]
                    fault.passed[self.link] += len(data)
                    if len(data) > room:
                        fault.hits += 1
                        await self.write(data[:room])
                        self.link.cut(fault.how)
                        return
            await self.write(data)

    async def write(self, data: bytes) -> None:
        while data:
            rates = [
                fault
                for fault in self.proxy.faults
                if isinstance(fault, Throttle) and fault.direction in (self.direction, "both")
            ]
            if not rates:
                self.writer.write(data)
                break
            slowest = min(rates, key=lambda fault: fault.rate)
            slowest.hits += 1
            size = max(1, int(slowest.rate / 100))
            self.writer.write(data[:size])
            data = data[size:]
            await asyncio.sleep(size / slowest.rate)
        await self.writer.drain()


# --- the proxy


class FaultProxy:
    """A proxy for one server. Without faults it is transparent.

    Its methods may be called in the event loop that it runs in, and from other threads.

    Args:
        upstream: The server, or its host and port.
        parse: False for what is not RESP (TLS): then a fault sees pieces of the stream instead of commands.

    Attributes:
        port: Where it listens (127.0.0.1), from :meth:`start` to :meth:`aclose`.
        upstream: Host and port. May be changed, for connections to come.
        stats: What went through.
        links: The open connections.
    """

    def __init__(self, upstream: RedisServer | tuple[str, int], *, parse: bool = True) -> None:
        self.upstream = (upstream.host, upstream.port) if isinstance(upstream, RedisServer) else upstream
        self.host = HOST
        self.port = free_port()
        self.parse = parse
        self.stats = Stats()
        self.links: list[Link] = []
        self._server = upstream if isinstance(upstream, RedisServer) else None
        self.faults: list[Fault] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: socket.socket | None = None
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed: list[asyncio.Future[None]] = []

    def url(self, db: int = 0, **options: Any) -> str:
        """The server's URL, through the proxy; options as for :meth:`RedisServer.url`."""
        assert self._server is not None, "the upstream is an address, not a RedisServer"
        return self._server.url(db, port=self.port, **options)

    async def start(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self.listen()
        return self

    async def aclose(self) -> None:
        """Stop listening, and end every connection."""
        self._closed = True
        self._unlisten()
        for link in self.links:
            for writer in link.writers:
                writer.transport.abort()  # what is not sent yet may never be
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.faults.clear()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    @classmethod
    @contextmanager
    def in_thread(cls, upstream: RedisServer | tuple[str, int], *, parse: bool = True) -> Generator[Self]:
        """The proxy in a thread and loop of its own, for clients that block."""
        ready = threading.Event()
        proxy = cls(upstream, parse=parse)
        stop = asyncio.Event()

        async def serve() -> None:
            async with proxy:
                ready.set()
                await stop.wait()

        thread = threading.Thread(target=asyncio.run, args=(serve(),), name="proxy", daemon=True)
        thread.start()
        ready.wait(10)
        try:
            yield proxy
        finally:
            proxy.in_loop(stop.set)
            thread.join()

    async def until(self, condition: Callable[[], bool], *, timeout: float = 30.0) -> None:
        """Wait for something about ``links`` or ``stats.commands`` to become true, e.g. for a command to have come by.

        Only in the loop of the proxy.

        Raises:
            TimeoutError: It did not.
        """
        async with asyncio.timeout(timeout):
            while not condition():
                change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._changed.append(change)
                await change

    # --- the faults

    def delay(self, seconds: float, match: Match = None, *, direction: Direction = "up") -> Fault:
        """Hold commands (up), replies and pushes (down; all of them, whatever ``match`` says) or both back."""
        return self._add(Delay(self, seconds, match, direction))

    def before(self, match: Match, action: Callable[[Request], Awaitable[object]]) -> Fault:
        """Await ``action(request)`` before such a command is passed on; its connection waits meanwhile."""
        return self._add(Before(self, match, action))

    def reply_error(self, message: str, match: Match = None, *, times: int | None = None) -> Fault:
        """Answer such commands with an error, e.g. ``"LOADING …"``; the server never sees them.

        In the middle of a transaction it makes the EXEC fail, as such errors do.
        """
        return self._add(ReplyError(self, message, match, times))

    def drop_messages(self, only: Callable[[bytes], bool] | None = None) -> Fault:
        """Lose what is published; subscribing and everything else works. ``only``: a predicate of the channel."""
        return self._add(DropMessages(self, only))

    def throttle(self, bytes_per_second: float, *, direction: Direction = "both") -> Fault:
        """Limit the rate of each connection."""
        return self._add(Throttle(self, bytes_per_second, direction))

    def cut_after(self, size: int, *, direction: Direction = "down", how: Ending = "rst") -> Fault:
        """End each connection once that many bytes went through it from now on; the rest never arrives."""
        return self._add(CutAfter(self, size, direction, how))

    def black_hole(self, *, only: Callable[[Link], bool] | None = None) -> Fault:
        """Accept everything and pass on nothing, as behind a broken cable; a lost connection stays lost for ever.

        Args:
            only: Which of the connections open now. None: all, and those that are opened while the fault is on.
        """
        fault = BlackHole(self, takes_new=only is None)

        def swallow() -> None:
            for link in self.links:
                if only is None or only(link):
                    link.lost = True
                    fault.hits += 1

        self.in_loop(swallow)
        return self._add(fault)

    def refuse(self, message: str | None = None) -> Fault:
        """Let nobody connect: nobody listens; or, with a message, the client is told that error and sent away."""
        fault = Refuse(self, message)
        if message is None:
            self.in_loop(self._unlisten)
        return self._add(fault)

    def cut(self, how: Ending = "rst", *, only: Callable[[Link], bool] | None = None) -> int:
        """End the open connections now, by RST or FIN; how many."""

        def cut_all() -> int:
            links = [link for link in self.links if only is None or only(link)]
            for link in links:
                link.cut(how)
            return len(links)

        return self.in_loop(cut_all)

    def clear(self) -> None:
        """Switch all faults off."""
        for fault in list(self.faults):
            fault.remove()

    # --- inside

    def _add(self, fault: Fault) -> Fault:
        # A copy: a lane may be going through the list and waiting in the middle of it.
        self.faults = [*self.faults, fault]
        return fault

    def in_loop(self, do: Callable[[], T]) -> T:
        """Call it in the thread of the loop: here, or there."""
        assert self._loop is not None, "not started"
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here or not self._loop.is_running():
            return do()

        async def call() -> T:
            return do()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(10)

    def _notify(self) -> None:
        changed, self._changed = self._changed, []
        for change in changed:
            if not change.done():
                change.set_result(None)

    def listen(self) -> None:
        assert self._loop is not None
        if self._listener is None and not self._closed:
            self._listener = socket.socket()
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((self.host, self.port))
            self._listener.listen(1024)
            self._listener.setblocking(False)
            self._loop.add_reader(self._listener, self._accept, self._listener)

    def _unlisten(self) -> None:
        assert self._loop is not None
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        assert self._loop is not None
        try:
            connection, _ = listener.accept()
        except OSError:  # gone again
            return
        self.stats.accepted += 1
        task = self._loop.create_task(self._serve(connection, Link(self.stats.accepted)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: connection.close())  # it may have been cancelled before it began

    async def _serve(self, connection: socket.socket, link: Link) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader, writer = await asyncio.open_connection(sock=connection)
        link.writers.append(writer)
        self.links.append(link)
        self._notify()
        tasks: list[asyncio.Task[None]] = []
        try:
            for fault in self.faults:
                if isinstance(fault, Refuse):
                    fault.hits += 1
                    if fault.message is None:  # it was accepted just before
                        link.cut("rst")
                    else:
                        writer.write(f"-{fault.message}\r\n".encode())
                    return
                if isinstance(fault, BlackHole) and fault.takes_new:
                    fault.hits += 1
                    link.lost = True
            if link.lost:
                while await reader.read(1 << 16):
                    pass
                return
            try:
                server_reader, server_writer = await asyncio.open_connection(*self.upstream)
            except OSError:
                link.cut("rst")
                return
            link.writers.append(server_writer)
            up = _Lane(self, link, "up", reader, server_writer)
            down = _Lane(self, link, "down", server_reader, writer)
            tasks = [asyncio.create_task(lane.run()) for lane in (up, down)]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)  # the end of one is the end of both
        finally:
            for writer in link.writers:
                writer.close()
            for task in tasks:
                task.cancel()
            self.links.remove(link)
            self._notify()
            await asyncio.gather(*tasks, *(writer.wait_closed() for writer in link.writers), return_exceptions=True)
