"""The command connection: everything but SUBSCRIBE goes over a connection that is made here.

:class:`CommandConnection` opens a connection at the first round trip, logs in, and opens another after it was lost.
:class:`_Replies` is one life of it: it counts replies in (a server answers in the order of the commands: Redis
documentation, "Pipelining") and watches for silence.

A round trip may take as long as bytes keep moving: coming in, or, while a large command goes out, leaving the write
buffer. Only silence ends it. An idle connection is sent a PING once in a heartbeat, so one that leads nowhere is
found before anybody needs it.

Source: RESP specification; AUTH, SELECT, CLIENT SETNAME and CLIENT SETINFO command pages.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import hiredis

from ..errors import BackendUnavailable
from ..version import __version__
from .address import Address, Buffered, Dial, dial_address, opened
from .errors import describe, error_reply
from .exceptions import ConnectionError as RedisConnectionError
from .exceptions import InvalidResponse, RedisError, ResponseError
from .exceptions import TimeoutError as RedisTimeoutError
from .options import Options
from .packing import Command, pack
from .sieve import LineTooLong, Sieve

if TYPE_CHECKING:
    from redis.credentials import CredentialProvider

__all__ = ["LIBRARY", "CommandConnection", "Interrupted", "Patience", "Replies", "WithGaps", "credentials", "query"]

#: Seconds for each step of a query to a server that may be gone: to connect, to log in, to be answered.
QUERY_TIMEOUT = 1.0
#: What CLIENT LIST shows of us.
LIBRARY = ("asyncresult", __version__)

#: Bytes of a round trip from which on nothing is parsed that is larger than anybody wants. Less does not stop the loop,
#: and a thousand ordinary records are less: looking for strings would cost them a third (benchmarks: fetch).
SIFTED_FROM = 8 * 1024 * 1024

_PING: bytes = pack(("PING",))
#: hiredis answers False for "not yet".
_NOT_YET = object()


class Interrupted(RedisConnectionError):
    """An established connection was lost, or fell silent, with replies missing."""


class Replies(list[Any]):
    """The replies of one round trip.

    Attributes:
        written: Whether commands have left; so, when replies are missing, whether they may have been executed.
        reconnected: Whether they left over another connection than the first one.
        complete: Called when the last one has come, before who waits for the round trip has its turn.
    """

    written = False
    reconnected = False
    complete: Callable[[], None] | None = None


class WithGaps(list[Any]):
    """An array in which strings, at any depth, may be missing: :class:`.exceptions.TooLargeError` is in their place."""


class Step(NamedTuple):
    """A command of the handshake, and whether a refusal ends it. They leave together, in one round trip."""

    command: Command
    needed: bool


class CommandConnection:
    """One connection, opened at the first round trip and again after it was lost. One round trip at a time.

    Args:
        tls: None for plain text.
        heartbeat: Seconds of silence after which an idle connection is sent a PING, and as many again until it
            counts as dead. A round trip has twice that, unless ``socket_timeout`` says otherwise.
        largest: Bytes of a string that is taken in by a round trip that grows large; see :mod:`.sieve`.
        dial: Opens a connection to ``address``; None is the usual way.
    """

    def __init__(
        self,
        options: Options,
        address: Address,
        tls: ssl.SSLContext | None,
        *,
        heartbeat: float,
        largest: int = sys.maxsize,
        dial: Dial | None = None,
    ) -> None:
        self._options = options
        self._address = address
        self._tls = tls
        self._heartbeat = heartbeat
        self._largest = largest
        self._patience = options.socket_timeout or 2 * heartbeat
        self._retry = None if isinstance(options.retry, (int, float)) else options.retry
        self._dial = dial or self._dial_address
        self._replies: _Replies | None = None
        self._connections = 0

    async def execute(self, commands: list[Command], replies: list[Any]) -> None:
        """One round trip. Appends to ``replies``, in order; those of single commands may be errors.

        Raises:
            RedisError, OSError: The connection was lost, or never established. Commands that
                were answered before have their replies.
        """
        if not commands:
            return
        if self._retry is None:
            await self._round_trip(commands, replies)
            return

        async def again() -> None:
            replies.clear()
            await self._round_trip(commands, replies)

        async def failed(_: Exception) -> None:
            self.abort("the round trip failed")

        from .retries import call_with_retry  # only with redis-py's Retry (benchmarks: first-get)

        await call_with_retry(self._retry, again, failed)

    async def _round_trip(self, commands: list[Command], replies: list[Any]) -> None:
        connection = self._replies
        if connection is None or connection.lost:
            connection = await self._connect()
        if isinstance(replies, Replies):
            replies.written = True
            replies.reconnected = self._connections > 1
        await connection.exchange(b"".join(map(pack, commands)), len(commands), replies)

    async def _dial_address(self, factory: Callable[[], asyncio.BaseProtocol]) -> object:
        return await dial_address(self._address, self._tls, factory)

    async def _connect(self) -> _Replies:
        connection = _Replies(self._heartbeat, self._patience, self._largest)
        try:
            async with asyncio.timeout(self._options.connect_timeout):
                await self._dial(lambda: connection)
                await self._log_in(connection)
        except BaseException as error:
            connection.abort("not connected")
            if isinstance(error, TimeoutError):
                raise RedisTimeoutError("no answer in time") from error
            if isinstance(error, OSError | Interrupted):
                raise RedisConnectionError(describe(error)) from (error.__cause__ or error)
            raise
        self._replies = connection
        self._connections += 1
        return connection

    async def _log_in(self, connection: _Replies) -> None:
        steps = await self._handshake()
        if not steps:
            return
        replies: list[Any] = []
        data = b"".join([pack(step.command) for step in steps])
        try:
            await connection.exchange(data, len(steps), replies)
        except Interrupted:
            # A server that takes nobody in says why in place of the first reply, and hangs up.
            if replies and isinstance(replies[0], RedisConnectionError):
                raise replies[0] from None
            raise
        for step, reply in zip(steps, replies, strict=True):
            if step.needed and isinstance(reply, Exception):
                raise reply

    async def _handshake(self) -> list[Step]:
        """What is sent first. Servers before 7.2 do not know SETINFO, and a user may lack the right to name itself."""
        options = self._options
        username, password = options.username, options.password
        if options.credential_provider is not None:
            try:
                username, password = await credentials(options.credential_provider)
            except BackendUnavailable as error:
                raise RedisConnectionError(str(error)) from None
        table = (
            (password is not None, ("AUTH", *map(_bytes, (username, password) if username else (password,))), True),
            (options.db, ("SELECT", options.db), True),
            (options.client_name, ("CLIENT", "SETNAME", options.client_name), False),
            (True, ("CLIENT", "SETINFO", "LIB-NAME", LIBRARY[0]), False),
            (True, ("CLIENT", "SETINFO", "LIB-VER", LIBRARY[1]), False),
        )
        return [Step(command, needed) for applies, command, needed in table if applies]

    def abort(self, reason: str) -> None:
        """Drop the connection. The next round trip opens another."""
        connection, self._replies = self._replies, None
        if connection is not None:
            connection.abort(reason)


class _Replies(Buffered):
    """One connection, from the first byte to the last."""

    def __init__(self, heartbeat: float, patience: float, largest: int) -> None:
        super().__init__()
        self.lost = False
        self._loop = asyncio.get_running_loop()
        self._heartbeat = heartbeat
        self._patience = patience
        self._transport: asyncio.Transport | None = None
        self._reader = _reader()
        # What has come of an exchange that is not small; from a certain size on it goes through a sieve instead.
        self._largest = largest
        self._begun = bytearray()
        self._sieve: Sieve | None = None
        # The exchange under way: where its replies go, how many are missing, and who waits for them.
        self._replies: list[Any] = []
        self._missing = self._expected = 0  # of them, and with those to PINGs, of all since it began
        self._done: asyncio.Future[None] | None = None
        self._pings = 0  # sent while idle, so their replies come before any other
        self._sign_of_life = self._loop.time()
        self._unsent = 0
        self._watchdog: asyncio.TimerHandle | None = None

    async def exchange(self, data: bytes, count: int, replies: list[Any]) -> None:
        """Send ``data``; append ``count`` replies.

        Raises:
            Interrupted, InvalidResponse: The connection is lost.
        """
        if self._transport is None or self.lost:
            raise Interrupted("the connection was lost")
        self._replies, self._missing, self._expected = replies, count, self._pings + count
        self._done = done = self._loop.create_future()
        self._sign_of_life = self._loop.time()
        self._transport.write(data)
        self._unsent = self._transport.get_write_buffer_size()
        if self._patience < self._heartbeat:
            self._watch_at(self._sign_of_life + self._patience)
        try:
            await done
        except asyncio.CancelledError:
            self.abort("given up")  # half a conversation is of no use to anybody
            raise
        finally:
            self._done = None

    def abort(self, reason: str, error: type[Exception] = Interrupted) -> None:
        """Drop the connection at once, without a farewell that a dead peer would not answer."""
        self._over(error(reason))
        if self._transport is not None and not self._loop.is_closed():  # else see Opened
            self._transport.abort()

    # -- the transport's side ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, not a check: uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        if self.lost:  # given up while dialling
            self._transport.abort()
            return
        opened.add(self, self._transport, self._loop)
        self._watch_at(self._loop.time() + self._heartbeat)

    def buffer_updated(self, nbytes: int) -> None:
        self._sign_of_life = self._loop.time()
        reader = self._reader
        try:
            if self._sieve is None:
                reader.feed(self._buffer, 0, nbytes)  # type: ignore[arg-type]  # it takes every buffer
            else:
                reader.feed(self._sieve.sift(bytes(self._buffer[:nbytes])))
            while (reply := reader.gets()) is not _NOT_YET:
                if self._pings:
                    self._pings -= 1
                elif self._missing:
                    self._replies.append(reply if self._sieve is None else self._marked(reply))
                    self._missing -= 1
                    if not self._missing and self._done is not None and not self._done.done():
                        # First, so that whoever waits for a reply sends its next command before the next round leaves.
                        if isinstance(self._replies, Replies) and self._replies.complete is not None:
                            self._replies.complete()
                        self._done.set_result(None)
                else:
                    # The one thing that a server says unasked, before it hangs up, is an error.
                    said = f": {reply}" if isinstance(reply, ResponseError | RedisConnectionError) else ""
                    self.abort(f"unsolicited reply{said}", InvalidResponse)
                    return
            if self._missing:
                self._keep(nbytes)
            elif self._begun or self._sieve is not None:
                self._begun, self._sieve = bytearray(), None
        except (InvalidResponse, LineTooLong, TypeError, UnicodeDecodeError):
            # TypeError: an array or a map where the key of a map belongs.
            self.abort("the peer does not speak the Redis protocol", InvalidResponse)

    def _keep(self, nbytes: int) -> None:
        """The exchange goes on. If it grows large, start over with a parser that does not see what is too large."""
        if self._sieve is not None:
            return
        self._begun += self._buffer[:nbytes]
        if len(self._begun) < SIFTED_FROM:
            return
        self._sieve, self._reader = Sieve(self._largest), _reader()
        self._reader.feed(self._sieve.sift(bytes(self._begun)))
        for _ in range(self._expected - self._pings - self._missing):
            self._reader.gets()  # is there already
        self._begun = bytearray()

    def _marked(self, reply: Any) -> Any:
        has_dropped = self._sieve is not None and self._sieve.has_dropped
        return WithGaps(reply) if has_dropped and isinstance(reply, list) else reply

    def connection_lost(self, exc: Exception | None) -> None:
        error = Interrupted(describe(exc) if exc is not None else "the server closed the connection")
        error.__cause__ = exc
        self._over(error)

    def _over(self, error: Exception) -> None:
        if self.lost:
            return
        self.lost = True
        opened.remove(self)
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self._done is not None and not self._done.done() and not self._loop.is_closed():
            self._done.set_exception(error)

    # -- silence ----------------------------------------------------------------------------------------

    def _watch_at(self, when: float) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._watchdog = self._loop.call_at(when, self._watch)

    def _watch(self) -> None:
        now = self._loop.time()
        assert self._transport is not None
        unsent, self._unsent = self._unsent, self._transport.get_write_buffer_size()
        if self._unsent < unsent:  # the peer takes what is sent
            self._sign_of_life = now
        patience = self._patience if self._missing else self._heartbeat
        due = self._sign_of_life + patience
        if due > now:
            self._watch_at(due)
        elif self._missing or self._pings:
            self.abort(f"no reply for {now - self._sign_of_life:.1f} s")
        else:
            self._pings += 1
            self._sign_of_life = now
            self._transport.write(_PING)
            self._watch_at(now + self._heartbeat)


def _reader() -> hiredis.Reader:
    return hiredis.Reader(protocolError=InvalidResponse, replyError=error_reply, notEnoughData=_NOT_YET)


class Patience:
    """How long each step of a query may take until a server counts as silent.

    One that is gone must not hold us up, so it is short at first. Where nobody answers in time, the way may be a long
    one: then it is doubled, up to ``most``. Afterwards it is what the latest answer has taken.
    """

    def __init__(self, most: float) -> None:
        self.seconds = QUERY_TIMEOUT
        self._most = most

    def answered(self, took: float) -> None:
        self.seconds = max(QUERY_TIMEOUT, min(took, self._most))

    def in_vain(self, waited: float) -> None:
        if self.seconds <= waited:  # else it was doubled meanwhile, by another query of the same time
            self.seconds = max(self.seconds, min(self.seconds * 2, self._most))


async def query(
    options: Options, address: Address, tls: ssl.SSLContext | None, *commands: Command, patience: Patience
) -> list[Any]:
    """Query one server on a connection of its own, which is given up at the first step that takes too long.

    Raises:
        RedisError, OSError: Nobody answers there, or not us.
    """
    limit = patience.seconds
    # To be tried again is the caller's business: another server may know.
    options = replace(options, socket_timeout=min(limit, options.socket_timeout or limit), retry=0.0)

    async def dial(factory: Callable[[], asyncio.BaseProtocol]) -> object:
        async with asyncio.timeout(limit * 2 if tls is not None else limit):
            return await dial_address(address, tls, factory)

    connection = CommandConnection(options, address, tls, heartbeat=limit, dial=dial)
    replies: list[Any] = []
    clock = asyncio.get_running_loop().time
    began = clock()
    try:
        await connection.execute(list(commands), replies)
    except (RedisError, OSError):
        patience.in_vain(clock() - began)
        raise
    finally:
        connection.abort("the query is over")
    patience.answered(clock() - began)
    return replies


async def credentials(provider: CredentialProvider) -> tuple[str | None, str]:
    """User and password from the provider.

    Raises:
        BackendUnavailable: The provider failed. What it said may hold a secret, and is left out.
    """
    try:
        given = await provider.get_credentials_async()
        username, password = given if len(given) == 2 else (None, given[0])
    except Exception as error:
        raise BackendUnavailable(f"the credential provider failed: {type(error).__name__}") from None
    return username or None, password


def _bytes(word: str | None) -> bytes:
    # surrogateescape: a password given as undecodable bytes in a URL arrives as it was meant.
    return (word or "").encode("utf-8", "surrogateescape")
