"""The subscription connection: a thin asyncio shell around :mod:`._wire`, and what keeps it alive.

:class:`_Link` is one connection: it feeds the wire, hands messages to the table of waiters and writes
what the wire gives. :class:`Subscriber` sees to it that there is a link as long as anybody waits: it
dials, backs off, notices a dead peer, and starts a new generation after each loss. An outage never ends a
wait; refused credentials do, because no later attempt will make them right.

Life of a subscriber::

    asleep ──somebody waits──> dial ──> handshake ──> up ──EOF, error, silence──> back off ──> dial
                                 │           └──denied──> every waiter is told; asleep again
                                 └──refused, timed out──> back off ──> dial

The watchdog takes any byte as a sign of life. After ``heartbeat`` seconds of silence it sends a PING; after
as long again without a byte the connection is aborted, not closed: a half-open peer would not answer a
polite farewell either.

This is the only module that touches sockets.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, cast

from ..errors import AsyncResultError, BackendError, BackendPermissionError, BackendUnavailable
from .wire import Acked, Denied, Dropped, Event, ProtocolError, Ready, Refused, Wire

__all__ = ["Address", "Dial", "Sink", "Subscriber", "dial_address", "permission_error"]

logger = logging.getLogger("asyncresult")

#: Seconds between attempts: doubled from the first to the last, each drawn between 0 and that (full jitter),
#: so that the processes of a site do not come back in step.
BACKOFF_FIRST, BACKOFF_LAST = 0.05, 1.0

Dial = Callable[[Callable[[], asyncio.Protocol]], Awaitable[object]]
"""Opens a transport for the protocol that the factory makes; raises OSError."""


class Sink(Protocol):
    """The table's side (see :class:`._waiters.Waiters`)."""

    @property
    def wanted(self) -> bool: ...
    def connected(self) -> None: ...
    def disconnected(self) -> None: ...
    def acked(self, keys: list[bytes]) -> None: ...
    def dropped(self, keys: list[bytes]) -> None: ...
    def refused(self, keys: list[bytes], error: AsyncResultError) -> None: ...
    def fail_all(self, error: AsyncResultError) -> None: ...
    def pushed(self, key: bytes, payload: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: ``host`` and ``port``, or the ``path`` of a unix socket."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None

    def __str__(self) -> str:
        return self.path if self.path is not None else f"{self.host}:{self.port}"


async def dial_address(
    address: Address, tls: ssl.SSLContext | None, factory: Callable[[], asyncio.Protocol]
) -> asyncio.Transport:
    """Connect to ``address``.

    Raises:
        OSError: Nobody answers, or TLS fails (ssl.SSLError is one).
    """
    loop = asyncio.get_running_loop()
    if address.path is not None:
        transport, _ = await loop.create_unix_connection(factory, address.path, ssl=tls)
    else:
        transport, _ = await loop.create_connection(factory, address.host, address.port, ssl=tls)
    return transport


def permission_error(reason: str) -> BackendPermissionError:
    """The typed error for a refusal, with the ACL rule that would mend it."""
    if not reason.startswith("NOPERM"):
        advice = "check the user and password of the backend's URL"
    elif "channel" in reason:
        advice = "give the user the channels, '&celery-task-meta-* &{celery-task-meta-* &asyncresult-workers'"
    elif "key" in reason:
        advice = "give the user the keys, '~celery-task-meta-* ~{celery-task-meta-* ~celery-taskset-meta-*'"
    else:
        advice = (
            "give the user the commands, '+subscribe +unsubscribe +ping +mget +strlen +del', and to store results"
            " '+get +set +publish +eval +evalsha +exists +xadd +xrange +expire'"
        )
    if reason.startswith("NOPERM"):
        advice += "; with the key prefix in front of the patterns, where one is set; see docs/reference/acl.md"
    return BackendPermissionError(f"Redis refuses: {reason}; {advice}")


def tls_error(error: ssl.SSLCertVerificationError) -> BackendUnavailable:
    """The typed error for a certificate that does not convince."""
    return BackendUnavailable(
        f"TLS: {error.verify_message or error}; name the authority with ssl_ca_certs=, or see ssl_check_hostname="
    )


class _Link(asyncio.Protocol):
    """One connection, from the first byte to the last."""

    def __init__(self, wire: Wire, sink: Sink, loop: asyncio.AbstractEventLoop) -> None:
        self.wire = wire
        self.up = loop.create_future()  # True when ready; an error when it never will be
        self.lost = loop.create_future()  # the reason, once it is over
        self.last_byte = loop.time()
        self.served = False  # it has subscribed something: more than a server that hangs up again
        self._loop = loop
        self._sink = sink
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, not a check: uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        if self.lost.done():  # given up while dialling
            self._transport.abort()
        else:
            self._transport.write(self.wire.start())

    def data_received(self, data: bytes) -> None:
        self.last_byte = self._loop.time()
        try:
            messages, events = self.wire.receive(data)
        except ProtocolError as error:
            self.abort(f"protocol error: {error}")
            return
        pushed = self._sink.pushed
        in_turn = iter(messages)
        for channel, payload in zip(in_turn, in_turn, strict=True):
            pushed(channel, payload)
        for event in events:
            self._happened(event)
        self.send()

    def _happened(self, event: Event) -> None:
        if isinstance(event, Acked):
            self.served = True
            self._sink.acked(event.channels)
        elif isinstance(event, Ready):
            if not self.up.done():  # else it is being given up at this very moment
                self.up.set_result(True)
                self._sink.connected()
        elif isinstance(event, Denied):
            self._deny(permission_error(event.reason))
        elif isinstance(event, Refused):
            if event.reason.startswith("NOPERM"):
                self._refused(event)
            elif event.reason.startswith(("MOVED", "CLUSTERDOWN")):  # only these channels, and not for ever
                self._sink.dropped(event.channels)
            else:  # LOADING, a proxy's own words: a fresh connection will see
                self.abort(f"SUBSCRIBE was answered with {event.reason}")
        elif isinstance(event, Dropped):
            self._sink.dropped(event.channels)

    def _refused(self, event: Refused) -> None:
        if len(event.channels) == 1:
            self._sink.refused(event.channels, permission_error(event.reason))
        else:  # one forbidden channel takes the whole command with it: ask for each alone
            for channel in event.channels:
                self.wire.subscribe([channel])

    def _deny(self, error: BackendPermissionError) -> None:
        if not self.up.done():
            self.up.set_exception(error)
        self.abort(str(error))

    def send(self) -> None:
        """Write what the wire has to say."""
        data = self.wire.data_to_send()
        if data and self._transport is not None:
            self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._over(str(exc) if exc is not None else "the server closed the connection")

    def abort(self, reason: str) -> None:
        """Drop the connection at once, without a farewell that a dead peer would not answer."""
        self._over(reason)
        if self._transport is not None:
            self._transport.abort()

    def _over(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)
            if not self.up.done():
                self.up.set_exception(BackendUnavailable(reason))
            elif not self.up.cancelled() and self.up.exception() is None:
                # Synchronously: no acknowledgement of this generation may count from here on.
                self._sink.disconnected()


class Subscriber:
    """Keeps a subscription connection while anybody waits.

    Args:
        dial: Opens the transport; asked anew for each attempt, so that it may look up where the primary is.
        wire: Makes the wire of a connection (credentials and names); may await a credential provider.
        sink: The table of waiters.
        address: For messages; holds no secret.
        heartbeat: Seconds of silence until a PING, and from there until the connection counts as dead.
        connect_timeout: Seconds for dialling and handshake together.
    """

    def __init__(
        self,
        *,
        dial: Dial,
        wire: Callable[[], Awaitable[Wire]],
        sink: Sink,
        address: str,
        heartbeat: float,
        connect_timeout: float,
    ) -> None:
        self.reconnects = 0
        self.last_error: str | None = None
        self._dial = dial
        self._wire = wire
        self._sink = sink
        self._address = address
        self._heartbeat = heartbeat
        self._connect_timeout = connect_timeout
        self._loop = asyncio.get_running_loop()
        self._link: _Link | None = None
        self._needed = asyncio.Event()
        self._watchdog: asyncio.TimerHandle | None = None
        # An empty context: the connection outlives the request that happened to start it, and must not
        # keep that request's context variables, or a cancel scope of its task, alive.
        self._task = self._loop.create_task(
            self._run(), name=f"asyncresult subscriber {address}", context=contextvars.Context()
        )

    # -- the table's side -----------------------------------------------------------------------------

    def subscribe(self, keys: list[bytes]) -> None:
        """See :meth:`._waiters.Source.subscribe`."""
        self._needed.set()
        if self._link is not None and keys:
            self._link.wire.subscribe(keys)
            self._link.send()

    def unsubscribe(self, keys: list[bytes]) -> None:
        """See :meth:`._waiters.Source.unsubscribe`."""
        if self._link is not None:
            self._link.wire.unsubscribe(keys)
            self._link.send()

    def login_again(self, username: str | None, password: str) -> None:
        """Use fresh credentials from now on: on the living connection where RESP3 allows it."""
        if self._link is not None:
            if self._link.wire.resp3:
                self._link.wire.login_again(username, password)
                self._link.send()
            else:
                self._link.abort("the credentials were renewed")

    @property
    def up(self) -> bool:
        """Whether a connection stands."""
        return self._link is not None

    def abort(self, reason: str) -> None:
        """Drop the connection; it is dialled anew if anybody waits (a failover was heard of)."""
        if self._link is not None:
            self._link.abort(reason)

    def close(self) -> asyncio.Task[None]:
        """Stop. Returns the task that is ending, to be awaited with a bound."""
        self._task.cancel()
        return self._task

    # -- the life -------------------------------------------------------------------------------------

    async def _run(self) -> None:
        backoff = BACKOFF_FIRST
        try:
            while True:
                await self._needed.wait()
                try:
                    link = await self._connect()
                except (BackendPermissionError, ssl.SSLCertVerificationError) as error:
                    # No later attempt will make these right: tell whoever waits.
                    self._note(str(error))
                    self._needed.clear()
                    self._sink.fail_all(error if isinstance(error, BackendError) else tls_error(error))
                    continue
                except (OSError, BackendError) as error:
                    self._note(str(error) or type(error).__name__)
                except Exception as error:
                    # A dead subscriber would be a wait that never ends: go on, and loudly.
                    logger.exception("subscription to %s: unexpected error", self._address)
                    self.last_error = str(error)
                else:
                    self._note(await self._serve(link))
                    self.reconnects += 1
                    if link.served:
                        backoff = BACKOFF_FIRST
                if not self._sink.wanted:
                    self._needed.clear()
                else:
                    await asyncio.sleep(backoff * random.random())
                    backoff = min(backoff * 2, BACKOFF_LAST)
        finally:
            if self._link is not None:
                self._link.abort("the backend was closed")
                self._link = None

    async def _connect(self) -> _Link:
        """Ask for the credentials; dial and shake hands, within one budget each."""
        async with asyncio.timeout(self._connect_timeout):
            wire = await self._wire()
        link = _Link(wire, self._sink, self._loop)
        self._link = link  # before the handshake ends: connected() brings wishes at once
        dialling = self._loop.create_task(self._dial_for(link), context=contextvars.Context())
        # No wait_for: on Python 3.11 it can swallow a cancellation.
        expiry = self._loop.call_later(self._connect_timeout, link.abort, "no answer in time")
        try:
            await link.up
        except BaseException:
            self._link = None
            link.abort("given up")
            dialling.cancel()
            raise
        finally:
            expiry.cancel()
        return link

    async def _dial_for(self, link: _Link) -> None:
        try:
            await self._dial(lambda: link)
        except Exception as error:
            if not link.up.done():
                link.up.set_exception(error)

    async def _serve(self, link: _Link) -> str:
        """Watch over a connection that stands, until it is lost; returns why."""
        if self.last_error is not None:
            logger.info("subscription to %s is back", self._address)
            self.last_error = None
        self._watchdog = self._loop.call_later(self._heartbeat, self._watch, link, None)
        try:
            await asyncio.wait([link.lost])  # closing cancels this task, not the future: the sink is told then too
            reason: str = link.lost.result()
            return reason
        finally:
            self._watchdog.cancel()
            self._link = None
            link.abort("the backend was closed")

    def _watch(self, link: _Link, asked: float | None) -> None:
        """``asked`` is when the unanswered PING was sent."""
        now = self._loop.time()
        if asked is not None and link.last_byte < asked:
            link.abort(f"no sign of life for {now - link.last_byte:.1f} s")
            return
        due = link.last_byte + self._heartbeat
        if due <= now:
            link.wire.ping()
            link.send()
            self._watchdog = self._loop.call_later(self._heartbeat, self._watch, link, now)
        else:
            self._watchdog = self._loop.call_at(due, self._watch, link, None)

    def _note(self, reason: str) -> None:
        """Tell the log about a trouble once, not at every attempt."""
        if self._sink.wanted and self.last_error is None:
            logger.warning("subscription to %s lost: %s; waiting goes on, reconnecting", self._address, reason)
        self.last_error = reason
