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

import hiredis

from .servers import HOST, RedisServer, free_port

__all__ = ["Fault", "FaultProxy", "Frames", "Link", "Match", "Request", "Stats", "subscribing"]

T = TypeVar("T")
Direction = Literal["up", "down", "both"]
"""up: from the client to the server; down: from the server to the client."""
Ending = Literal["rst", "fin"]


class Frames:
    """Cuts a stream of RESP 2 or RESP 3 into whole top-level frames, however it is cut when it arrives."""

    def __init__(self) -> None:
        self._stream = bytearray()
        self._position = 0  # everything before it is understood
        self._missing = 1  # elements until the frame is whole

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that became whole with ``data``.

        Raises:
            ValueError: This is not RESP.
        """
        stream, position, missing, start = self._stream, self._position, self._missing, 0
        stream += data
        frames: list[bytes] = []
        while (end := stream.find(b"\r\n", position)) >= 0:
            kind = stream[position]
            after = end + 2
            if kind in b"$!=":
                length = int(stream[position + 1 : end])
                if length >= 0:
                    after += length + 2
                    if after > len(stream):
                        break
                missing -= 1
            elif kind in b"*~>":
                missing += max(int(stream[position + 1 : end]), 0) - 1
            elif kind in b"%|":
                # An attribute ("|") comes before the element that it describes, and counts for none.
                missing += 2 * int(stream[position + 1 : end]) - (kind == ord("%"))
            else:
                missing -= 1
            position = after
            if not missing:
                frames.append(bytes(stream[start:position]))
                start, missing = position, 1
        del stream[:start]
        self._position, self._missing = position - start, missing
        return frames


@dataclass(frozen=True)
class Request:
    """A command as a client sent it."""

    name: str
    """In capitals."""
    args: tuple[bytes, ...]
    raw: bytes
    link: Link = field(repr=False)

    @classmethod
    def parse(cls, raw: bytes, link: Link) -> Self:
        if raw[:1] == b"*":
            reader = hiredis.Reader()
            reader.feed(raw)
            words = reader.gets() or [b""]
        else:
            words = raw.split() or [b""]  # the inline form
        return cls(words[0].decode(errors="replace").upper(), tuple(words[1:]), raw, link)


Match = str | Callable[[Request], bool] | None
"""Which commands: the name of one, several names with blanks between, a predicate, or None for all."""


def _matcher(match: Match) -> Callable[[Request], bool]:
    if match is None:
        return lambda request: True
    if isinstance(match, str):
        names = frozenset(match.upper().split())
        return lambda request: request.name in names
    return match


def _channel_of(frame: bytes) -> bytes | None:
    """The channel, if the frame is a message of a subscription."""
    if frame.startswith(
        (b">3\r\n$7\r\nmessage", b"*3\r\n$7\r\nmessage", b">3\r\n$8\r\nsmessage", b"*3\r\n$8\r\nsmessage")
    ):
        index = 1
    elif frame.startswith((b">4\r\n$8\r\npmessage", b"*4\r\n$8\r\npmessage")):
        index = 2
    else:
        return None
    reader = hiredis.Reader()
    reader.feed(frame)
    message = reader.gets()
    return bytes(message[index])


@dataclass
class Stats:
    """What went through since the proxy was started."""

    accepted: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    commands: Counter[str] = field(default_factory=Counter[str])


# --- the faults


class Fault:
    """A fault that is switched on.

    Attributes:
        hits: To how many commands, replies, connections or writes it happened so far.
    """

    def __init__(self, proxy: FaultProxy) -> None:
        self.hits = 0
        self._proxy = proxy

    def remove(self) -> None:
        """Switch it off; doing it twice is fine."""
        self._proxy._in_loop(self._remove)

    def _remove(self) -> None:
        self._proxy._faults = [fault for fault in self._proxy._faults if fault is not self]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.remove()


class _ForRequests(Fault):
    def __init__(self, proxy: FaultProxy, match: Match) -> None:
        super().__init__(proxy)
        self.matches = _matcher(match)


class _Delay(_ForRequests):
    def __init__(self, proxy: FaultProxy, seconds: float, match: Match, direction: Direction) -> None:
        super().__init__(proxy, match)
        self.seconds, self.direction = seconds, direction


class _Before(_ForRequests):
    def __init__(self, proxy: FaultProxy, match: Match, action: Callable[[Request], Awaitable[object]]) -> None:
        super().__init__(proxy, match)
        self.action = action


class _ReplyError(_ForRequests):
    def __init__(self, proxy: FaultProxy, message: str, match: Match, times: int | None) -> None:
        super().__init__(proxy, match)
        self.message, self.times = message, times


class _DropMessages(Fault):
    def __init__(self, proxy: FaultProxy, only: Callable[[bytes], bool] | None) -> None:
        super().__init__(proxy)
        self.only = only


class _Throttle(Fault):
    def __init__(self, proxy: FaultProxy, bytes_per_second: float, direction: Direction) -> None:
        super().__init__(proxy)
        self.rate, self.direction = bytes_per_second, direction


class _CutAfter(Fault):
    def __init__(self, proxy: FaultProxy, size: int, direction: Direction, how: Ending) -> None:
        super().__init__(proxy)
        self.size, self.direction = size, direction
        self.how: Ending = how
        self.passed: Counter[Link] = Counter()


class _BlackHole(Fault):
    def __init__(self, proxy: FaultProxy, takes_new: bool) -> None:
        super().__init__(proxy)
        self.takes_new = takes_new


class _Refuse(Fault):
    def __init__(self, proxy: FaultProxy, message: str | None) -> None:
        super().__init__(proxy)
        self.message = message

    def _remove(self) -> None:
        super()._remove()
        self._proxy._listen()


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
        for fault in self.proxy._faults:
            if not (isinstance(fault, _ForRequests) and fault.matches(request)):
                continue
            if isinstance(fault, _Delay):
                if fault.direction == "down":
                    continue
                delay += fault.seconds
            elif isinstance(fault, _Before):
                await self.flush()
                await fault.action(request)
            elif isinstance(fault, _ReplyError):
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
        for fault in self.proxy._faults:
            if isinstance(fault, _Delay) and fault.direction != "up":
                delay += fault.seconds
                fault.hits += 1
            elif isinstance(fault, _DropMessages):
                channel = _channel_of(frame)
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
            for fault in self.proxy._faults:
                if isinstance(fault, _CutAfter) and fault.direction in (self.direction, "both"):
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
                for fault in self.proxy._faults
                if isinstance(fault, _Throttle) and fault.direction in (self.direction, "both")
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
        self._faults: list[Fault] = []
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
        self._listen()
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
        self._faults.clear()

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
            proxy._in_loop(stop.set)
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
        return self._add(_Delay(self, seconds, match, direction))

    def before(self, match: Match, action: Callable[[Request], Awaitable[object]]) -> Fault:
        """Await ``action(request)`` before such a command is passed on; its connection waits meanwhile."""
        return self._add(_Before(self, match, action))

    def reply_error(self, message: str, match: Match = None, *, times: int | None = None) -> Fault:
        """Answer such commands with an error, e.g. ``"LOADING …"``; the server never sees them.

        In the middle of a transaction it makes the EXEC fail, as such errors do.
        """
        return self._add(_ReplyError(self, message, match, times))

    def drop_messages(self, only: Callable[[bytes], bool] | None = None) -> Fault:
        """Lose what is published; subscribing and everything else works. ``only``: a predicate of the channel."""
        return self._add(_DropMessages(self, only))

    def throttle(self, bytes_per_second: float, *, direction: Direction = "both") -> Fault:
        """Limit the rate of each connection."""
        return self._add(_Throttle(self, bytes_per_second, direction))

    def cut_after(self, size: int, *, direction: Direction = "down", how: Ending = "rst") -> Fault:
        """End each connection once that many bytes went through it from now on; the rest never arrives."""
        return self._add(_CutAfter(self, size, direction, how))

    def black_hole(self, *, only: Callable[[Link], bool] | None = None) -> Fault:
        """Accept everything and pass on nothing, as behind a broken cable; a lost connection stays lost for ever.

        Args:
            only: Which of the connections open now. None: all, and those that are opened while the fault is on.
        """
        fault = _BlackHole(self, takes_new=only is None)

        def swallow() -> None:
            for link in self.links:
                if only is None or only(link):
                    link.lost = True
                    fault.hits += 1

        self._in_loop(swallow)
        return self._add(fault)

    def refuse(self, message: str | None = None) -> Fault:
        """Let nobody connect: nobody listens; or, with a message, the client is told that error and sent away."""
        fault = _Refuse(self, message)
        if message is None:
            self._in_loop(self._unlisten)
        return self._add(fault)

    def cut(self, how: Ending = "rst", *, only: Callable[[Link], bool] | None = None) -> int:
        """End the open connections now, by RST or FIN; how many."""

        def cut_all() -> int:
            links = [link for link in self.links if only is None or only(link)]
            for link in links:
                link.cut(how)
            return len(links)

        return self._in_loop(cut_all)

    def clear(self) -> None:
        """Switch all faults off."""
        for fault in list(self._faults):
            fault.remove()

    # --- inside

    def _add(self, fault: Fault) -> Fault:
        # A copy: a lane may be going through the list and waiting in the middle of it.
        self._faults = [*self._faults, fault]
        return fault

    def _in_loop(self, do: Callable[[], T]) -> T:
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

    def _listen(self) -> None:
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
            for fault in self._faults:
                if isinstance(fault, _Refuse):
                    fault.hits += 1
                    if fault.message is None:  # it was accepted just before
                        link.cut("rst")
                    else:
                        writer.write(f"-{fault.message}\r\n".encode())
                    return
                if isinstance(fault, _BlackHole) and fault.takes_new:
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
