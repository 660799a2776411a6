"""The subscription connection: a thin asyncio shell around :mod:`.wire`, and what keeps it alive.

:class:`SubscriptionConnection` is one connection: it feeds the wire, hands messages to the table of waiters and
writes what the wire gives. :class:`Subscriber` sees to it that there is one as long as anybody waits: it dials, backs
off, notices a dead peer, and starts a new generation after each loss. An outage never ends a wait. Refused credentials
do if they were never accepted before, because then no later attempt will make them right.

Life of a subscriber::

    asleep ──somebody waits──> dial ──> handshake ──> up ──EOF, error, silence──> back off ──> dial
                                 │           ├──refused, never let in before──> every wait fails;  asleep again
                                 └───────────┴──refused, timed out──> back off ──> dial

The watchdog takes any byte as an answer. After ``heartbeat`` seconds of silence it sends a PING; after
as long again without a byte the connection is aborted, not closed: a half-open peer would not answer a
polite farewell either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, cast

from .. import _background
from .._log import Log, get_logger
from .._storage.outage import Outage
from ..errors import AsyncResultError, BackendError, BackendUnavailable
from .address import Buffered, Dial, opened
from .backoff import Backoff, Health
from .errors import describe, is_refusal, permission_error, refuses_ours, typed_error
from .exceptions import RedisError
from .wire import Acked, Denied, Dropped, Event, ProtocolError, Ready, Refused, Wire

__all__ = ["Sink", "Subscriber", "SubscriptionConnection"]

logger: Log = get_logger("asyncresult")


class Sink(Protocol):
    """The table's side (see :class:`.._storage.waiters.Waiters`)."""

    @property
    def wanted(self) -> bool: ...
    def connected(self) -> None: ...
    def disconnected(self) -> None: ...
    def acked(self, keys: list[bytes]) -> None: ...
    def dropped(self, keys: list[bytes]) -> None: ...
    def refused(self, keys: list[bytes], error: AsyncResultError) -> None: ...
    def fail_all(self, error: AsyncResultError) -> None: ...
    def pushed_many(self, messages: list[bytes]) -> None: ...


class SubscriptionConnection(Buffered):
    """One connection, from the first byte to the last."""

    def __init__(self, wire: Wire, sink: Sink, loop: asyncio.AbstractEventLoop, *, address: str) -> None:
        super().__init__()
        self.wire = wire
        self.up = loop.create_future()  # True when ready; an error when it never will be
        self.lost = loop.create_future()  # the reason, once it is over
        self.last_byte = loop.time()
        self.served = loop.create_future()  # it has subscribed something: more than a server that hangs up again
        self._loop = loop
        self._sink = sink
        self._address = address
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, not a check: uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        if self.lost.done():  # given up while dialling
            self._transport.abort()
        else:
            opened.add(self, self._transport, self._loop)
            self._transport.write(self.wire.start())

    def buffer_updated(self, nbytes: int) -> None:
        self.last_byte = self._loop.time()
        try:
            messages, events = self.wire.receive(self._buffer[:nbytes])
        except ProtocolError as error:
            self.abort(f"protocol error: {error}")
            return
        if messages:
            self._sink.pushed_many(messages)
        for event in events:
            self._happened(event)
        self.send()

    def _happened(self, event: Event) -> None:
        if isinstance(event, Acked):
            if not self.served.done():
                self.served.set_result(None)
            self._sink.acked(event.channels)
        elif isinstance(event, Ready):
            if not self.up.done():  # else it is being given up at this very moment
                self.up.set_result(True)
                self._sink.connected()
        elif isinstance(event, Denied):
            self._deny(permission_error(event.reason, self._address))
        elif isinstance(event, Refused):
            if event.reason.startswith("NOPERM"):
                self._refused(event)
            elif self.wire.sharded and event.reason.startswith(("MOVED", "CLUSTERDOWN")):
                self._sink.dropped(event.channels)  # only these channels, and not forever
            else:  # LOADING, a proxy's own words: a fresh connection will see
                self.abort(f"SUBSCRIBE was answered with {event.reason}")
        elif isinstance(event, Dropped):
            self._sink.dropped(event.channels)

    def _refused(self, event: Refused) -> None:
        if len(event.channels) == 1:
            self._sink.refused(event.channels, permission_error(event.reason, self._address))
        else:  # one forbidden channel takes the whole command with it: subscribe to each alone
            for channel in event.channels:
                self.wire.subscribe([channel])

    def _deny(self, error: BackendError) -> None:
        if not self.up.done():
            self.up.set_exception(error)
        self.abort(str(error))

    @property
    def is_ready(self) -> bool:
        """Whether the handshake is over and the connection not lost."""
        return self.up.done() and not self.lost.done()

    def send(self) -> None:
        """Write what the wire has to say."""
        data = self.wire.data_to_send()
        if data and self._transport is not None:
            self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if refuses_ours(exc) and exc is not None and not self.up.done():
            self.up.set_exception(exc)
        self._over(describe(exc) if exc is not None else "the server closed the connection")

    def abort(self, reason: str) -> None:
        """Drop the connection at once, without a farewell that a dead peer would not answer."""
        self._over(reason)
        if self._transport is not None and not self._loop.is_closed():  # else see Opened
            self._transport.abort()

    def _over(self, reason: str) -> None:
        if not self.lost.done():
            opened.remove(self)
            if self._loop.is_closed():
                return  # under all who would have to know
            self.lost.set_result(reason)
            if not self.up.done():
                self.up.set_exception(BackendUnavailable(reason))
            elif not self.up.cancelled() and self.up.exception() is None:
                # Synchronously: no acknowledgement of this generation may count from here on.
                self._sink.disconnected()


class Subscriber:
    """Keeps a subscription connection while anybody waits.

    Args:
        dial: Opens the transport; called anew for each attempt.
        locate: Awaited before that, with limits of its own: finds out where the primary is.
        wire: Makes the wire of a connection (credentials and names); may await a credential provider.
        sink: The table of waiters.
        address: For messages; holds no secret.
        heartbeat: Seconds of silence until a PING, and from there until the connection counts as dead.
        connect_timeout: Seconds for dialling and handshake together.
        health: Of the command connections: where those were let in, a refusal is an outage.
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
        health: Health | None = None,
        locate: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self.reconnects = 0
        self.outage = Outage(f"subscription to {address}")
        self._health = health if health is not None else Health()
        self._proven = False  # for itself alone: HELLO takes a password where AUTH is refused since there is none
        self._dial = dial
        self._locate = locate
        self._wire = wire
        self._sink = sink
        self._address = address
        self._heartbeat = heartbeat
        self._connect_timeout = connect_timeout
        self._loop = asyncio.get_running_loop()
        self._link: SubscriptionConnection | None = None
        self._needed = asyncio.Event()
        self._watchdog: asyncio.TimerHandle | None = None
        self._task = _background.keep_alive(self._run(), name=f"subscriber {address}")

    # -- the table's side -----------------------------------------------------------------------------

    def subscribe(self, keys: list[bytes]) -> None:
        """See :meth:`.._storage.waiters.Source.subscribe`."""
        self._needed.set()
        if self._link is not None and keys:
            self._link.wire.subscribe(keys)
            self._link.send()

    def unsubscribe(self, keys: list[bytes]) -> None:
        """See :meth:`.._storage.waiters.Source.unsubscribe`."""
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

    def wake(self) -> None:
        """Connect, if there is no connection: somebody waits."""
        self._needed.set()

    @property
    def up(self) -> bool:
        """Whether a connection is established: the server has accepted us, and has answered within its time."""
        return self._link is not None and self._link.is_ready

    @property
    def last_error(self) -> str | None:
        """Why there is no connection, if that is an outage."""
        return self.outage.reason

    def abort(self, reason: str) -> None:
        """Drop the connection; it is dialled anew if anybody waits (a failover was announced)."""
        if self._link is not None:
            self._link.abort(reason)

    def close(self) -> asyncio.Task[None]:
        """Stop. Returns the task that is ending, to be awaited with a bound."""
        self._task.cancel()
        return self._task

    # -- the life -------------------------------------------------------------------------------------

    async def _run(self) -> None:
        backoff = Backoff()
        try:
            while True:
                await self._needed.wait()
                try:
                    link = await self._connect()
                except Exception as error:
                    if is_refusal(error) and not (self._proven or self._health.proven):
                        # No later attempt will make it right: end what waits.
                        refusal = typed_error(error, self._address)
                        then = "no attempt will make it right, so the waits end"
                        self.outage.note(describe(refusal), log=self._sink.wanted, then=then)
                        self._needed.clear()
                        self._sink.fail_all(refusal)
                        continue
                    if not isinstance(error, OSError | BackendError | RedisError):
                        # A dead subscriber would be a wait that never ends: go on, and loudly.
                        about = {"event": "unexpected error", "backend": self._address}
                        logger.exception("subscription to %s: unexpected error", self._address, extra=about)
                    self._note(describe(error))
                else:
                    self._proven = True
                    self._note(await self._serve(link))
                    self.reconnects += 1
                    if link.served.done():
                        backoff.reset()
                if not self._sink.wanted:
                    self._needed.clear()
                else:
                    await asyncio.sleep(backoff.next())
        finally:
            if self._link is not None:
                self._link.abort("the backend was closed")
                self._link = None

    async def _connect(self) -> SubscriptionConnection:
        """Get the credentials; find the server; dial and shake hands. Each has a budget of its own."""
        async with asyncio.timeout(self._connect_timeout):
            wire = await self._wire()
        if self._locate is not None:
            await self._locate()
        link = SubscriptionConnection(wire, self._sink, self._loop, address=self._address)
        self._link = link  # before the handshake ends: connected() brings wishes at once
        dialling = _background.keep_alive(self._dial_for(link), name=f"dialling {self._address}")
        # No wait_for: on Python 3.11 it can swallow a cancellation.
        expiry = self._loop.call_later(self._connect_timeout, link.abort, "no answer in time")
        try:
            await link.up
        except GeneratorExit:  # the loop may be closed
            raise
        except BaseException:
            self._link = None
            link.abort("given up")
            dialling.cancel()
            raise
        finally:
            expiry.cancel()
        return link

    async def _dial_for(self, link: SubscriptionConnection) -> None:
        try:
            await self._dial(lambda: link)
        except Exception as error:
            if not link.up.done():
                link.up.set_exception(error)

    async def _serve(self, link: SubscriptionConnection) -> str:
        """Watch over an established connection, until it is lost; returns why."""
        self.outage.over(log=not self._sink.wanted)
        self._watchdog = self._loop.call_later(self._heartbeat, self._watch, link, None)
        try:
            # wait() throughout: closing cancels this task, not the future, and the sink is called then too.
            # A server that greets and hangs up, or refuses each SUBSCRIBE, is not back: the log would say so each time.
            await asyncio.wait([link.lost, link.served], timeout=self._heartbeat, return_when=asyncio.FIRST_COMPLETED)
            if not link.lost.done():
                self.outage.over()
            await asyncio.wait([link.lost])
            reason: str = link.lost.result()
            return reason
        finally:
            self._watchdog.cancel()
            self._link = None
            link.abort("the backend was closed")

    def _watch(self, link: SubscriptionConnection, pinged: float | None) -> None:
        """``pinged`` is when the unanswered PING was sent."""
        now = self._loop.time()
        if pinged is not None and link.last_byte < pinged:
            link.abort(f"no answer for {now - link.last_byte:.1f} s")
            return
        due = link.last_byte + self._heartbeat
        if due <= now:
            link.wire.ping()
            link.send()
            self._watchdog = self._loop.call_later(self._heartbeat, self._watch, link, now)
        else:
            self._watchdog = self._loop.call_at(due, self._watch, link, None)

    def _note(self, reason: str) -> None:
        self.outage.note(reason, log=self._sink.wanted)
