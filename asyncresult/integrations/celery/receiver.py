"""The thread that receives the replies of an app: one kombu consumer, on a queue of this process.

Theory of operation
-------------------

Celery's own reply queue is one for each thread and is deleted by the broker when its consumer's connection drops, with
all that is in it. This one outlives a lost connection (durable, not auto_delete, ``x-expires``), and a message is
acknowledged only after it has been taken. So what a lost connection carried comes again: nothing is lost, and who
takes the messages has to expect some of them twice.

The connection is the app's own: its URLs with their alternates, TLS, login method and transport options are kombu's
business, so every transport works. What kombu's virtual transports (Redis, memory, SQS …) do differently is said where
it matters.

::

    start() ──> connect ──> declare ──> consume ──> drain … stop() ──> acknowledge, close
                  ▲  └────────── lost or refused <──────┘
                  └── a moment later
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from amqp.exceptions import AccessRefused, NotAllowed, PreconditionFailed
from kombu.common import maybe_declare
from kombu.entity import Queue
from kombu.message import Message
from kombu.messaging import Consumer

from ..._log import Log, get_logger
from ...codec.compression import compressed_record
from ...errors import BackendError, BackendPermissionError

__all__ = ["Receiver"]

logger: Log = get_logger("asyncresult.rpc")

#: How the backend is named; a broker's own address may hold a password.
ADDRESS = "rpc://"

#: Messages that the broker sends ahead of their acknowledgement.
PREFETCH = 1000
#: AMQP acknowledges many at once: so many, or those of so many seconds.
ACK_BATCH, ACK_DELAY = 100, 0.02
#: Seconds between two looks at whether the thread is to stop, and between two at the heartbeat.
POLL_INTERVAL, HEARTBEAT_CHECK_INTERVAL = 0.2, 1.0
#: Seconds between two attempts to connect: the first, what each adds, the longest.
RETRY_START, RETRY_STEP, RETRY_MAX = 0.1, 0.2, 0.9
#: Seconds until the next attempt when the broker has refused the queue or the login.
REFUSED_DELAY = 5.0


#: Kombu's names of transports over Redis.
_REDIS = ("redis", "rediss", "sentinel")


class _Stop(Exception):
    """The thread is to end while it tries to connect."""


class _AsSent(Message):
    """A message that stays compressed: kombu would decompress it as it comes, however large that makes it.

    Its body becomes what a store holds of a compressed record, so the codec decompresses it, within its limits.
    """

    def __init__(self, body: Any = None, headers: Mapping[str, Any] | None = None, **fields: Any) -> None:
        others = dict(headers or {})
        compression = others.pop("compression", None)
        super().__init__(body, headers=others, **fields)  # type: ignore[no-untyped-call]
        if compression:
            stream = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
            self.body = compressed_record(str(compression), stream)


class _ReplyQueue(Queue):
    """That it was there once says nothing: it expires."""

    can_cache_declaration: Any = False


# kombu has types in part.
_declare: Any = maybe_declare
_Consumer: Any = Consumer
_make_queue: Any = _ReplyQueue


class Receiver:
    """Receives what comes on a reply queue.

    Args:
        app: The Celery app, whose broker it is.
        queue: The name of the queue.
        expires: Seconds until the broker deletes the queue when nobody is connected to it.
        heartbeat: Seconds between heartbeats, where the protocol has them.
        take: Called in the thread with each message, in their order. A message that it raises for is lost.
        refused: Called in the thread when the broker refuses the login or the queue.

    Attributes:
        queue: As given.
        connected: Whether the consumer is registered.
        declared: Whether the queue is there, as far as is known: what is sent now will find it.
        received: Messages so far.
        reconnects: Connections lost so far.
        last_error: Why there is no connection, if there is none.
    """

    def __init__(
        self,
        app: Any,
        *,
        queue: str,
        expires: float,
        heartbeat: float,
        take: Callable[[Any], object],
        refused: Callable[[BackendError], object],
    ) -> None:
        self.queue = queue
        self.connected: bool = False
        self.declared: bool = False
        self.received: int = 0
        self.reconnects: int = 0
        self.last_error: str | None = None
        self._app = app
        self._expires = expires
        self._heartbeat = max(1, round(heartbeat))
        self._take = take
        self._refused = refused
        self._others: list[str] = []
        self._lock = threading.Lock()
        # Kombu's transport in memory replaces a queue, and what is in it, if two threads declare it at the same time.
        self._declaring = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._delete_queue = False
        self._consumer: Any = None
        self._last: Any = None  # the latest message that is not acknowledged, and how many there are
        self._unacknowledged = 0
        self._acks_many = False
        self._failures = 0
        self._answered_at = 0.0
        self._overdue_after: float | None = None
        self._made = False  # whether there is a queue to be deleted in the end

    # -- from any thread ----------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Have a thread receive. Returns at once; harmless when one does."""
        if self._thread is not None and not self._stopping.is_set():
            return
        with self._lock:
            if self._thread is not None and self._stopping.is_set():
                self._thread.join()
                self._thread = None
            if self._thread is None:
                self._stopping.clear()
                self._delete_queue = False
                self._thread = threading.Thread(target=self._run, name="asyncresult-rpc", daemon=True)
                self._thread.start()

    def stop(self, *, delete_queue: bool = False, timeout: float = 0.0) -> None:
        """Have the thread end, and wait for that so long. The queue stays, with what comes, unless it is to go."""
        if delete_queue and self._made and not self.running:
            self.start()  # to delete it takes a connection
        thread = self._thread
        if thread is not None:
            self._delete_queue = self._delete_queue or delete_queue
            self._stopping.set()
            thread.join(timeout)

    def declare(self, channel: Any, name: str | None = None) -> None:
        """Make sure that the queue is there before a task is sent on ``channel`` whose replies go to it.

        Args:
            name: Another queue, from which replies are received, too.

        Raises: what kombu raises: the connection is lost, or the broker refuses the queue.
        """
        if self.declared and (name is None or name in self._others):
            return
        with self._declaring:
            if name is not None and name not in self._others:
                _declare(self._queue(name)(channel), retry=True)
                self._others.append(name)
            if not self.declared:
                _declare(self._queue(self.queue)(channel), retry=True)
                self.declared = self._made = True

    # -- the thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            # The worker sends replies to where it sends everything: not to a broker_read_url.
            connection = self._app.connection_for_write(heartbeat=self._heartbeat)
            try:
                self._receive(connection)
                connection.close()
                return
            except _Stop:
                return
            except Exception as error:  # whatever the transport raises: a thread that ended would let all wait forever
                self._lost(error)
                if self._stopping.is_set():  # cannot be reached any more: the queue expires by itself
                    return
                self._stopping.wait(REFUSED_DELAY if isinstance(error, _REFUSALS) else RETRY_START)
            finally:
                connection.collect()  # no farewell, for which a dead connection would have us wait
                self.connected = self.declared = False
                self._consumer = self._last = None
                self._unacknowledged = 0

    def _receive(self, connection: Any) -> None:
        if connection.transport_cls in _REDIS:
            # Kombu sends commands in between, whose answers may never come.
            wait = connection.transport_options.get("polling_interval") or 1  # of the server's, for a message
            connection.transport_options.setdefault("socket_timeout", wait + 2 * self._heartbeat)
        connection.ensure_connection(
            errback=self._not_connected,
            callback=self._check_stop,
            interval_start=RETRY_START,
            interval_step=RETRY_STEP,
            interval_max=RETRY_MAX,
            reraise_as_library_errors=False,
        )
        channel = connection.default_channel
        # The virtual transports ignore that an acknowledgement is for several.
        self._acks_many = connection.transport.driver_type == "amqp"
        if connection.transport.driver_name == "py-amqp":
            # An answer that never comes, say to a declaration, must not hold up the thread forever.
            connection.connection.sock.settimeout(2 * self._heartbeat)
        with self._declaring:
            self._consumer = self._consume(channel, [self.queue, *self._others])
            self.declared = self._made = True
        self._watch_for_silence(channel)
        self.connected = True
        self.last_error = None
        if self._failures:
            self._failures = 0
            logger.warning("connected again; replies are received", extra={"event": "back", "backend": ADDRESS})
        self._drain(connection)
        self._acknowledge()
        self._consumer.cancel()
        if self._delete_queue:
            self._made = False
            for name in (self.queue, *self._others):
                channel.queue_delete(name)

    def _watch_for_silence(self, channel: Any) -> None:
        """Redis knows no heartbeats; but it answers each of kombu's BRPOPs, by default within a second.

        Kombu 5.7 finds one that is overdue after 26 s, and goes on over other connections of its pool that lead nowhere
        either: the next reply is taken from the list, and lost.
        """
        self._overdue_after = None
        handlers = getattr(channel, "handlers", None)
        if isinstance(handlers, dict) and "BRPOP" in handlers and channel.brpop_timeout:
            read = handlers["BRPOP"]

            def answered() -> Any:
                self._answered_at = time.monotonic()
                return read()

            handlers["BRPOP"] = answered
            self._answered_at = time.monotonic()
            self._overdue_after = channel.brpop_timeout + 2 * self._heartbeat

    def _check_silence(self, channel: Any) -> None:
        """Called when nothing is there to be read: so what is overdue has not come meanwhile."""
        silence = time.monotonic() - self._answered_at
        if self._overdue_after is not None and silence > self._overdue_after:
            if channel._in_poll:
                channel._in_poll.disconnect()  # else kombu would wait for its answer to close it
            raise ConnectionResetError(f"no answer for {silence:.1f} s")

    def _consume(self, channel: Any, names: Sequence[str]) -> Any:
        queues = [self._queue(name) for name in names]
        # Before kombu's own class in the order of methods comes that of the transport, which calls it.
        channel.Message = type("Message", (channel.Message, _AsSent), {})
        consumer = _Consumer(
            channel,
            queues,
            on_message=self._on_message,
            on_decode_error=self._on_unreadable,
            prefetch_count=PREFETCH,
        )
        consumer.consume()
        return consumer

    def _queue(self, name: str) -> Any:
        # Others with the same name and other arguments are refused: what changes here needs another name.
        return _make_queue(name, routing_key=name, durable=True, auto_delete=False, expires=self._expires)

    def _drain(self, connection: Any) -> None:
        checks = bool(connection.supports_heartbeats)
        next_check = time.monotonic() + HEARTBEAT_CHECK_INTERVAL
        while not self._stopping.is_set():
            try:
                connection.drain_events(timeout=ACK_DELAY if self._unacknowledged else POLL_INTERVAL)
            except TimeoutError as error:
                if error.errno is not None:  # that of the operating system: the connection is dead
                    raise
                self._acknowledge()
                self._check_silence(connection.default_channel)
            for name in self._others:
                if not self._consumer.consuming_from(name):
                    self._consumer.add_queue(self._queue(name))
                    self._consumer.consume()
            if checks and time.monotonic() >= next_check:
                connection.heartbeat_check()
                next_check = time.monotonic() + HEARTBEAT_CHECK_INTERVAL

    def _on_message(self, message: Any) -> None:
        self.received += 1
        try:
            self._take(message)
        except Exception:
            logger.exception("a reply could not be taken", extra={"event": "reply refused", "backend": ADDRESS})
        if not self._acks_many:
            message.ack()
            return
        self._last = message
        self._unacknowledged += 1
        if self._unacknowledged >= ACK_BATCH:
            self._acknowledge()

    def _on_unreadable(self, message: Any, error: Exception) -> None:
        """Kombu cannot encode the body of a message. As it is, it is for whoever waits for its task.

        If this raised, the connection would be given up, and the broker would deliver the message again on the next.
        """
        if not isinstance(message, Message):  # it is not even one of kombu's, and cannot be acknowledged
            raise error
        self._on_message(message)

    def _acknowledge(self) -> None:
        if self._last is not None:
            self._last.ack(multiple=True)
            self._last = None
            self._unacknowledged = 0

    # -- without a connection -----------------------------------------------------------------------------

    def _check_stop(self) -> None:
        if self._stopping.is_set():
            raise _Stop

    def _not_connected(self, error: Exception, interval: float) -> None:
        self._check_stop()
        self._note(error)

    def _lost(self, error: Exception) -> None:
        self.declared = False  # who sends from now on declares it first
        self.reconnects += self.connected
        self._note(error)
        if isinstance(error, _REFUSALS):
            kind = BackendError if isinstance(error, PreconditionFailed) else BackendPermissionError
            self._refused(kind(f"the broker refuses the reply queue {self.queue!r}: {error}"))

    def _note(self, error: Exception) -> None:
        """Log the first failure, and then at each doubling of their number."""
        self.last_error = f"{type(error).__name__}: {error}"
        self._failures += 1
        if self._failures & (self._failures - 1) == 0:
            logger.warning(
                "no replies can be received (failure %d): %s",
                self._failures,
                self.last_error,
                extra={"event": "lost", "backend": ADDRESS},
            )


_REFUSALS = (AccessRefused, NotAllowed, PreconditionFailed)
