"""Where servers listen, and how to reach them.

Both connections are opened here, so that a name, a certificate and a fork mean the same to both:

* A name may have several addresses, and the first may lead nowhere (a node that is gone, IPv6 without a route): the
  next one is tried while the first still is (RFC 8305, "Happy Eyeballs", with its Connection Attempt Delay).
* Looking a name up blocks a thread. The application may have filled the threads of its event loop with work of its
  own: then a thread of ours looks it up, too.
* A child of fork has copies of all sockets. They are closed in the child at once, lest it keep a connection open that
  the parent has closed, or writes into the parent's conversation.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .. import _background

__all__ = ["Address", "Buffered", "Dial", "Opened", "dial_address", "is_ipv6", "is_name"]

#: Seconds until the next address of a name is tried as well (RFC 8305, section 8: 250 ms recommended).
ATTEMPT_DELAY = 0.25
#: Seconds that the event loop gets to look up a name before a thread of our own does so as well.
LOOKUP_PATIENCE = 0.25
#: Bytes that one read takes at the most.
BUFFER_BYTES = 256 * 1024

#: A part of a name, between dots (RFC 1035, section 2.3.4: 63 octets). Some resolvers take underscores, for one.
_LABEL = re.compile(r"[^\s.:@/?#\[\]\\\"'<>|^`{},;%\x00-\x1f\x7f]{1,63}")

Dial = Callable[[Callable[[], asyncio.BaseProtocol]], Awaitable[object]]
"""Opens a transport for the protocol that the factory makes; raises OSError."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: ``host`` and ``port``, or the ``path`` of a unix socket."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None

    def __str__(self) -> str:
        return self.path if self.path is not None else f"{self.host}:{self.port}"


class Buffered(asyncio.BufferedProtocol):
    """A protocol that keeps the buffer for what comes.

    Without one, asyncio would make bytes of 256 kB for each read, which the allocator fetches from the kernel and gives
    back each time: a fifth of a store (benchmarks: store-each, single).
    """

    def __init__(self) -> None:
        # A view: asyncio slices it for TLS, and a slice of a bytearray would be a copy.
        self._buffer = memoryview(bytearray(BUFFER_BYTES))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer


async def dial_address(
    address: Address, tls: ssl.SSLContext | None, factory: Callable[[], asyncio.BaseProtocol]
) -> asyncio.Transport:
    """Connect to ``address``.

    Raises:
        OSError: Nobody answers, or TLS fails (ssl.SSLError is one).
    """
    loop = asyncio.get_running_loop()
    transport: asyncio.Transport
    try:
        if address.path is not None:
            transport, _ = await loop.create_unix_connection(factory, address.path, ssl=tls)
            return transport
        sock = await _connected_socket(loop, await _look_up(loop, address.host, address.port))
        try:
            server_hostname = address.host if tls is not None else None
            transport, _ = await loop.create_connection(factory, sock=sock, ssl=tls, server_hostname=server_hostname)
        except BaseException:
            sock.close()
            raise
    except Exception:
        if loop.is_closed():  # under this coroutine, which is being closed: asyncio has put an error in place of that
            raise GeneratorExit from None
        raise
    return transport


def is_ipv6(text: str) -> bool:
    """Whether a text is an IPv6 address, possibly with a zone."""
    try:
        socket.inet_pton(socket.AF_INET6, text.partition("%")[0])
    except OSError:
        return False
    return True


def is_name(text: str) -> bool:
    """Whether a text can be looked up as the name of a host.

    What cannot be encoded would be an error at each attempt to connect, and none of the network's.
    """
    if not all(map(_LABEL.fullmatch, text.removesuffix(".").split("."))):
        return False
    try:
        return text.isascii() or bool(text.encode("idna"))
    except UnicodeError:
        return False


# -- names ------------------------------------------------------------------------------------------------------------

_Info = tuple[Any, ...]


async def _look_up(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[_Info]:
    """The socket addresses of a host, as getaddrinfo gives them."""
    with contextlib.suppress(socket.gaierror):  # a number needs no thread
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    query = loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    lookups: set[asyncio.Future[Any]] = {loop.create_task(query, name=f"asyncresult lookup {host}")}
    try:
        done, _ = await asyncio.wait(lookups, timeout=LOOKUP_PATIENCE)
        if not done:
            lookups.add(_look_up_on_a_thread(loop, host, port))
            done, _ = await asyncio.wait(lookups, return_when=asyncio.FIRST_COMPLETED)
        infos: list[_Info] = done.pop().result()
    finally:
        for lookup in lookups:
            lookup.cancel()
    if not infos:
        raise OSError(f"the name {host} has no address")
    return infos


def _look_up_on_a_thread(loop: asyncio.AbstractEventLoop, host: str, port: int) -> asyncio.Future[list[_Info]]:
    future: asyncio.Future[list[_Info]] = loop.create_future()

    def settle(infos: list[_Info], error: OSError | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(infos)
        else:
            future.set_exception(error)

    def look_up() -> None:
        infos: list[_Info] = []
        error = None
        try:
            infos = list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, infos, error)

    threading.Thread(target=look_up, name=f"asyncresult lookup {host}", daemon=True).start()
    return future


# -- addresses --------------------------------------------------------------------------------------------------------


async def _connected_socket(loop: asyncio.AbstractEventLoop, infos: Iterable[_Info]) -> socket.socket:
    """A socket that is connected to one of the addresses: to the first that answers, in their order."""
    waiting = list(infos)
    attempts: set[asyncio.Task[socket.socket]] = set()
    trouble: BaseException | None = None
    try:
        while waiting or attempts:
            if waiting:
                attempts.add(_background.keep_alive(_connect(loop, waiting.pop(0)), name="connecting"))
            timeout = ATTEMPT_DELAY if waiting else None
            done, attempts = await asyncio.wait(attempts, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            connected = [attempt for attempt in done if attempt.exception() is None]
            if connected:
                for other in connected[1:]:
                    other.result().close()
                return connected[0].result()
            for attempt in done:
                trouble = trouble or attempt.exception()
    finally:
        for attempt in () if loop.is_closed() else attempts:
            attempt.cancel()
            attempt.add_done_callback(_close_late)
    raise trouble or OSError("no address")


def _close_late(attempt: asyncio.Task[socket.socket]) -> None:
    """An attempt that ended although another one was first, or all were given up."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


async def _connect(loop: asyncio.AbstractEventLoop, info: _Info) -> socket.socket:
    family, kind, protocol, _, address = info
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


# -- fork -------------------------------------------------------------------------------------------------------------


class Opened:
    """Transports that a child of fork has to let go of, and this process when their loop was closed under them."""

    def __init__(self) -> None:
        self._transports: dict[object, tuple[asyncio.Transport, asyncio.AbstractEventLoop]] = {}

    def add(self, owner: object, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        """Note a transport; its protocol owns it."""
        for other, (left, its_loop) in list(self._transports.items()):
            if its_loop.is_closed():
                self.remove(other)
                # What the loop would have called: it closes the socket. Others' transports do so when they go.
                getattr(left, "_call_connection_lost", _nothing)(None)
        self._transports[owner] = transport, loop

    def remove(self, owner: object) -> None:
        self._transports.pop(owner, None)

    def close_copies(self) -> None:
        """In the child: make the descriptors lead nowhere.

        Not by the transports' own means: those would take the socket out of the epoll set, which parent and child
        share, and the parent would never receive anything again.
        """
        transports, self._transports = list(self._transports.values()), {}
        if not transports:
            return
        nowhere = os.open(os.devnull, os.O_RDWR)
        try:
            for transport, _ in transports:
                sock = transport.get_extra_info("socket")
                if sock is not None and sock.fileno() >= 0:
                    os.dup2(nowhere, sock.fileno(), inheritable=False)
        finally:
            os.close(nowhere)


def _nothing(_: object) -> None: ...


opened = Opened()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=opened.close_copies)
