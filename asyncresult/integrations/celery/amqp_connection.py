"""A connection to RabbitMQ that kombu has opened, read and written by an event loop.

Kombu opens it, in a thread: URLs, failover, TLS, credentials and errors are its own. Then the loop takes over the
socket, in place of py-amqp's transport. Py-amqp's objects write and read frames; what they would wait for is a future.
There are two channels: one for messages, each of which the broker confirms, and one for declarations, as the broker
closes the channel on which it refuses something.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from operator import methodcaller
from struct import unpack_from
from typing import TYPE_CHECKING, Any

from amqp import spec
from amqp.exceptions import AMQPError, MessageNacked
from kombu.transport import pyamqp

from .amqp_messages import CHANNEL, Declaration, Publication
from .brokers import SendUnconfirmed

if TYPE_CHECKING:
    from .._untyped import Untyped as StockChannel
    from .._untyped import Untyped as StockConnection
    from .._untyped import Untyped as StockSSLTransport
    from .._untyped import Untyped as StockTransport
else:
    from kombu.transport.pyamqp import Channel as StockChannel
    from kombu.transport.pyamqp import Connection as StockConnection
    from kombu.transport.pyamqp import SSLTransport as StockSSLTransport
    from kombu.transport.pyamqp import Transport as StockTransport

__all__ = ["CONFIRM_TIMEOUT", "Connection", "open_connection"]

#: Seconds without any confirm, or any answer to declarations, after which the connection counts as lost.
CONFIRM_TIMEOUT = 30.0
#: Seconds between two looks at heartbeats and confirms.
CHECK_INTERVAL = 5.0
#: Bytes that are read at a time.
READ_SIZE = 1 << 16
#: Bytes of a frame in front of its payload: type, channel, size.
_HEAD = 7
_FRAME_END = 0xCE
_WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class _Answered:
    """A channel or connection of py-amqp's. Once an event loop reads, what it would wait for is a future."""

    #: What is waited for, in order: methods of which one comes, and the future; None before a loop reads.
    expected: deque[tuple[Sequence[Any], asyncio.Future[None]]] | None = None

    def wait(self, method: Any, callback: Any = None, timeout: Any = None, returns_tuple: bool = False) -> Any:
        if self.expected is None:
            return super().wait(method, callback, timeout, returns_tuple)  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
        methods = method if isinstance(method, list) else [method]
        self.expected.append((methods, asyncio.get_running_loop().create_future()))
        return ("", 0, 0) if returns_tuple else None  # what is known of a queue that is declared

    def dispatch_method(self, method_sig: Any, payload: Any, content: Any) -> None:
        super().dispatch_method(method_sig, payload, content)  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
        if self.expected and method_sig in self.expected[0][0]:
            _settle(self.expected.popleft()[1], None)

    def fail(self, error: Exception) -> None:
        """Nothing of what is waited for will come."""
        expected, self.expected = self.expected or (), deque()
        for _, future in expected:
            _settle(future, error)


class _Channel(_Answered, StockChannel):
    """A channel that is opened anew when the broker closes it, because it refuses something."""

    #: Called when it was, with the reason.
    refused: Callable[[Exception], None] | None = None

    def dispatch_method(self, method_sig: Any, payload: Any, content: Any) -> None:
        if method_sig != spec.Channel.Close or self.refused is None:
            super().dispatch_method(method_sig, payload, content)
            return
        expected, self.expected = self.expected, deque()  # opening it is waited for as well
        try:
            super().dispatch_method(method_sig, payload, content)
        except AMQPError as error:
            for _, future in expected or ():
                _settle(future, error)
            self.refused(error)


class _Connection(_Answered, StockConnection):
    Channel = _Channel


class _Transport(StockTransport):
    Connection = _Connection


class _SSLTransport(StockSSLTransport):
    Connection = _Connection


#: What replaces each transport of kombu's.
_OPENING: dict[type, type] = {pyamqp.Transport: _Transport, pyamqp.SSLTransport: _SSLTransport}


def open_connection(app: Any) -> Any:
    """A connection of kombu's to an app's broker, with the two channels. Blocks.

    Each of several URLs is tried.

    Raises: what kombu and py-amqp raise.
    """
    connection = app.connection_for_write()
    transport_cls = connection.get_transport_cls  # called for each URL
    connection.get_transport_cls = lambda: _OPENING[transport_cls()]
    once_each = {"max_retries": max(1, len(connection.alt)), "interval_start": 0, "interval_step": 0}
    try:
        connection.ensure_connection(**once_each, reraise_as_library_errors=False)
        theirs = connection.connection
        theirs.transport.sock.settimeout(CONFIRM_TIMEOUT)  # an answer that never comes must not hold up the thread
        theirs.channel(CHANNEL).confirm_select()
        theirs.channel(CHANNEL + 1)
    except BaseException:
        connection.collect()
        raise
    return connection


class _Batch:
    """Messages that one send has written, and that the broker has not confirmed yet."""

    def __init__(self, loop: asyncio.AbstractEventLoop, size: int) -> None:
        self.future: asyncio.Future[None] = loop.create_future()
        self.size = size
        self._left = size
        self._error: Exception | None = None

    def fail(self, error: Exception) -> None:
        """The broker refuses one of them, whose answer follows."""
        self._error = self._error or error

    def confirm(self) -> None:
        """The broker has answered one of them."""
        self._left -= 1
        if not self._left:
            _settle(self.future, self._error)


class Connection:
    """A connection that kombu has opened, on the running event loop.

    Args:
        opened: What :func:`open_connection` gives.

    Attributes:
        connected: Whether it is open.
        preparing: Held by who declares what several sends count on.
        declared: The names of what was declared so.
        prepared: For which version of the declarations that is all.
    """

    def __init__(self, opened: Any) -> None:
        self.connected: bool = True
        self.preparing: asyncio.Lock = asyncio.Lock()
        self.declared: set[str] = set()
        self.prepared: int = 0
        self._loop = asyncio.get_running_loop()
        self._amqp: Any = opened.connection
        transport = self._amqp.transport
        self._socket: Any = transport.sock
        self._socket.setblocking(False)
        self._received = bytearray(transport._read_buffer)  # that of TLS reads ahead
        self._outgoing = bytearray()
        self._writing = False
        self._flushing: asyncio.Handle | None = None
        self._declaring = asyncio.Lock()
        self._unconfirmed: dict[int, tuple[_Batch, Publication]] = {}
        self._latest = 0
        self._exchanges = {""}
        self._progress = self._loop.time()
        self._channels: list[Any] = [self._amqp.channels[CHANNEL], self._amqp.channels[CHANNEL + 1]]
        self._take_over()
        self._loop.add_reader(self._socket, self._read)
        self._timer = self._loop.call_later(CHECK_INTERVAL, self._check)

    def _take_over(self) -> None:
        publishing, declaring = self._channels
        for answered in (self._amqp, publishing, declaring):
            answered.expected = deque()
        publishing.refused = self._refused
        declaring.refused = _ignored
        self._watch_confirms()
        self._amqp.transport = self
        self._amqp.frame_writer = self._amqp.frame_writer_cls(self._amqp, self)

    def _watch_confirms(self) -> None:
        events = self._channels[0].events
        events["basic_ack"].add(self._confirmed)
        events["basic_nack"].add(self._nacked)
        events["basic_return"].add(self._returned)

    # -- sending ------------------------------------------------------------------------------------------

    async def declare(self, declarations: Sequence[Declaration]) -> None:
        """Declare queues and exchanges.

        Raises:
            amqp.exceptions.AMQPError: The broker refuses one.
            OSError: The connection was lost.
        """
        async with self._declaring:  # whose fault it is that the channel is closed
            channel = self._channels[1]
            if channel.expected:  # by who was cancelled: errors among the answers are not ours
                await self._answers([future for _, future in channel.expected])
            if not self.connected:
                raise ConnectionResetError("the connection to the broker was lost")
            for declaration in declarations:
                declaration(channel)
            futures = [future for _, future in channel.expected]
            if futures:
                await self._answers(futures)
            for future in futures:
                future.result()

    async def _answers(self, futures: Sequence[asyncio.Future[None]]) -> None:
        # No wait_for(): a cancellation must not cancel them, as their answers come all the same.
        _, missing = await asyncio.wait(futures, timeout=CONFIRM_TIMEOUT)
        if missing:
            self._lost(TimeoutError(f"the broker has answered no declaration for {CONFIRM_TIMEOUT:.0f} seconds"))

    async def publish(self, publications: Sequence[Publication]) -> None:
        """Write messages, and wait for their confirms. What is written in one turn of the loop leaves in one piece.

        Raises:
            SendUnconfirmed: The connection was lost, or the broker has closed the channel.
            Exception: The broker refuses the only one.
            OSError: The connection was lost before; nothing was written.
        """
        # A message for an exchange that is not there would close the channel on which others are on their way.
        if unknown := {publication.exchange for publication in publications} - self._exchanges:
            await self.declare([methodcaller("exchange_declare", name, "", passive=True) for name in unknown])
            self._exchanges |= unknown
        if not self.connected:
            raise ConnectionResetError("the connection to the broker was lost")
        batch = _Batch(self._loop, len(publications))
        if not self._unconfirmed:
            self._progress = self._loop.time()
        for publication in publications:
            self._latest += 1
            self._unconfirmed[self._latest] = batch, publication
            self.write(publication.frames)
        await batch.future

    def _confirmed(self, tag: int, multiple: bool) -> None:
        self._progress = self._loop.time()
        for batch in self._answered(tag, multiple):
            batch.confirm()

    def _nacked(self, tag: int, multiple: bool) -> None:
        for batch in self._answered(tag, multiple):
            batch.fail(MessageNacked("the broker has not taken the message: its queue is full, say"))
            batch.confirm()

    def _answered(self, tag: int, multiple: bool) -> list[_Batch]:
        """The batch of each message that an answer is about."""
        if not multiple:
            found = self._unconfirmed.pop(tag, None)
            return [] if found is None else [found[0]]
        tags: list[int] = []
        for number in self._unconfirmed:
            if number > tag:
                break
            tags.append(number)
        return [self._unconfirmed.pop(number)[0] for number in tags]

    def _returned(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        """No queue takes a message; its confirm follows."""
        returned_as = message.properties.get("correlation_id")
        for batch, publication in self._unconfirmed.values():
            if publication.returned_as is not None and publication.returned_as == returned_as:
                batch.fail(error)

    def _refused(self, error: Exception) -> None:
        """The broker has closed the channel of the messages, which is open again, and counts from 1."""
        unconfirmed, self._unconfirmed, self._latest, self._exchanges = self._unconfirmed, {}, 0, {""}
        batches = {batch for batch, _ in unconfirmed.values()}
        alone = len(batches) == 1 and next(iter(batches)).size == 1
        for batch in batches:
            _settle(batch.future, error if alone else _unconfirmed(f"the broker refuses one of several: {error}"))
        self._channels[0].confirm_select()
        self._watch_confirms()

    # -- the socket ---------------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        """Write with all that is written in this turn of the loop. Py-amqp calls this, too."""
        self._outgoing += data
        if self._flushing is None and not self._writing:
            self._flushing = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = None
        try:
            del self._outgoing[: self._socket.send(self._outgoing)]
        except _WOULD_BLOCK:
            pass
        except OSError as error:
            self._lost(error)
            return
        if bool(self._outgoing) != self._writing:
            self._writing = not self._writing
            if self._writing:
                self._loop.add_writer(self._socket, self._flush)
            else:
                self._loop.remove_writer(self._socket)

    def _read(self) -> None:
        try:
            while True:
                data = self._socket.recv(READ_SIZE)
                if not data:
                    raise ConnectionResetError("the broker has closed the connection")
                self._received += data
                if len(data) < READ_SIZE and not isinstance(self._socket, ssl.SSLSocket):
                    break
        except _WOULD_BLOCK:
            pass
        except OSError as error:
            self._lost(error)
            return
        try:
            self._take_frames()
        except Exception as error:  # the broker closes the connection, or does not speak AMQP
            self._lost(error)

    def _take_frames(self) -> None:
        received, position = self._received, 0
        while self.connected and len(received) - position > _HEAD:
            kind, channel, size = unpack_from(">BHI", received, position)
            end = position + _HEAD + size
            if len(received) <= end:
                break
            if received[end] != _FRAME_END:
                raise ValueError("a frame does not end where it should")
            payload = bytes(received[position + _HEAD : end])
            position = end + 1
            self._amqp.on_inbound_frame((kind, channel, payload))
        del received[:position]

    def _check(self) -> None:
        """Send and miss heartbeats, as kombu would; miss confirms."""
        self._timer = self._loop.call_later(CHECK_INTERVAL, self._check)
        try:
            self._amqp.heartbeat_tick()
        except AMQPError as error:
            self._lost(error)
            return
        if self._unconfirmed and self._loop.time() - self._progress > CONFIRM_TIMEOUT:
            self._lost(TimeoutError(f"the broker has confirmed nothing for {CONFIRM_TIMEOUT:.0f} seconds"))

    # -- its end ------------------------------------------------------------------------------------------

    async def aclose(self, timeout: float) -> None:
        """Close it. Messages that have left get ``timeout`` seconds for their confirms."""
        deadline = self._loop.time() + timeout
        if futures := {batch.future for batch, _ in self._unconfirmed.values()}:
            await asyncio.wait(futures, timeout=timeout)
        if self.connected:
            self._amqp.close()
            closed = [future for _, future in self._amqp.expected]
            await asyncio.wait(closed, timeout=max(0.0, deadline - self._loop.time()))
        self._lost(ConnectionAbortedError("it was closed"))

    def close(self) -> None:
        """Close the socket. Py-amqp calls this when the broker has agreed."""
        if not self.connected:
            return
        self.connected = False
        self._timer.cancel()
        if self._flushing is not None:
            self._flushing.cancel()
        if not self._loop.is_closed():
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        self._socket.close()

    def _lost(self, error: Exception) -> None:
        self.close()
        for answered in (self._amqp, *self._channels):
            answered.fail(error)
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        for batch, _ in unconfirmed.values():
            _settle(batch.future, _unconfirmed(f"the connection to the broker was lost: {error}", error))
        if self._amqp.channels is not None:
            self._amqp.collect()


def _ignored(error: Exception) -> None:
    """Who declares has got the reason."""


def _unconfirmed(why: str, cause: Exception | None = None) -> SendUnconfirmed:
    error = SendUnconfirmed(f"the task may have been sent: {why}")
    error.__cause__ = cause
    return error


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    """Give a future its end, also where nobody waits for it any more."""
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
        future.exception()  # retrieved: who waits still gets it
