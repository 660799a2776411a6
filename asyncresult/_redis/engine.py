"""``redis://``, ``rediss://``, ``unix://`` and their ``valkey`` twins: one server.

Two connections, for a reason that was measured: everything written to a subscribed client counts against
Redis' ``client-output-buffer-limit pubsub`` (32 MB, or 8 MB for 60 s). With reads on the same connection,
1,000 stored results of 100 kB never arrive: the server closes the connection again and again. So one
connection only subscribes (:mod:`.subscriber`), the other reads and stores (:mod:`.pump`, :mod:`.connection`).

Keys and channels are Celery's: ``<prefix>celery-task-meta-<id>`` holds the record and is the channel on
which each new record is published, byte for byte.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from hashlib import sha1
from typing import Any, ClassVar, Self

from redis.credentials import StreamingCredentialProvider

from .._storage.engine import BackendStats, Engine
from .._storage.store import Driver, Store
from .._storage.waiters import READ_CHUNK, Waiters
from ..errors import AsyncResultError, BackendClosed
from .address import Address, Dial, dial_address
from .connection import LIBRARY, Command, CommandConnection, credentials
from .errors import first_error
from .options import Options
from .outage import Health
from .pump import Execute, Job, Pump
from .reads import Read, Receiver
from .subscriber import Sink, Subscriber
from .urls import parse
from .wire import Wire
from .writes import RECORDS_PER_CALL, Script, Write, WriteBatch, fail, settle

__all__ = ["RedisDriver", "RedisEngine"]

logger = logging.getLogger("asyncresult")

#: Keys looked at by one step of a scan: a step holds up the server for well under a millisecond.
SCAN_COUNT = 1000


class RedisDriver(Driver):
    """Records in one Redis or Valkey server.

    Its URL is ``redis://[[user]:password@]host[:port][/db][?option=value&…]``, ``rediss://`` for TLS,
    ``unix:///path/to/socket``; ``valkey://`` and ``valkeys://`` mean the same.
    """

    scheme: ClassVar[str] = "redis"

    def __init__(self, options: Options) -> None:
        self.options = options
        self._engines: weakref.WeakSet[RedisEngine] = weakref.WeakSet()
        provider = options.credential_provider
        if isinstance(provider, StreamingCredentialProvider):
            # It awaits what these return, whatever its annotations say (redis-py: auth/token_manager.py).
            streaming: Any = provider
            streaming.on_next(self._credentials_renewed)
            streaming.on_error(self._credentials_not_renewed)

    @classmethod
    def from_url(cls, url: str, options: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """The driver, and those of the options that are the store's own.

        Args:
            options: Those of :class:`asyncresult.Backend`, and of the connections: ``db``, ``username``,
                ``password``, ``credential_provider`` (redis-py's), ``client_name``, ``protocol`` (2: do not try
                RESP3), ``retry`` (seconds a failed command is tried again, or a redis-py ``Retry``),
                ``socket_timeout``, ``socket_connect_timeout`` (seconds), ``ssl_cert_reqs``, ``ssl_ca_certs``,
                ``ssl_ca_path``, ``ssl_ca_data``, ``ssl_certfile``, ``ssl_keyfile``, ``ssl_password``,
                ``ssl_check_hostname``, ``ssl_ciphers``.

        Raises:
            ValueError: The URL or an option is invalid. The message names the known ones, and no secret.
        """
        common, own = cls._parse(url, options)
        return cls(own), common

    @staticmethod
    def _parse(url: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], Options]:
        return parse(url, options)

    def start_engine(self, store: Store) -> Engine:
        engine = self._make_engine(store)
        self._engines.add(engine)
        return engine

    def _make_engine(self, store: Store) -> RedisEngine:
        return RedisEngine(store, self.options)

    async def _credentials_renewed(self, token: Any) -> None:
        """The provider has a new token: every connection of every loop logs in again. Called on any thread."""
        username, password = token.try_get("oid"), token.get_value()
        for engine in list(self._engines):
            if not engine.loop.is_closed():
                engine.loop.call_soon_threadsafe(engine.login_again, username, password)

    async def _credentials_not_renewed(self, error: Exception) -> None:
        logger.warning("%s: the credential provider failed: %s", self, type(error).__name__)

    def __str__(self) -> str:
        scheme = "rediss" if self.options.tls else self.scheme
        address = self.options.addresses[0]
        if address.path is not None:
            return f"unix://{address.path}?db={self.options.db}"
        return f"{scheme}://{address}/{self.options.db}"


class RedisEngine(Engine):
    """Two connections to one server, and the table of waiters between them."""

    records_per_call = RECORDS_PER_CALL
    one_by_one = False  # whether each key is read by a command of its own

    def __init__(self, backend: Store, options: Options) -> None:
        super().__init__(backend.codec)
        self._backend = backend
        self._options = options
        self._publish = "SPUBLISH" if options.sharded else "PUBLISH"
        self._script = Script(self._publish)
        self._filling: WriteBatch | None = None
        self.health = Health()
        self._patience = options.retry if isinstance(options.retry, (int, float)) else 0.0
        self._tls = options.ssl_context()
        self._looking: set[asyncio.Task[None]] = set()
        self._reads: dict[bytes, list[asyncio.Future[bytes | None]]] = {}
        self.waiters = Waiters(
            self,
            self.codec.decode_small,
            loop=self.loop,
            safety_interval=backend.safety_interval,
            # Channels know no databases: a message may tell of a record in another one. The key decides.
            verify_key=backend.verify_key or options.db != 0,
        )
        # asyncio.run cancels every task at its end. Take that as the end of this engine: whoever comes
        # back on another loop gets a fresh one.
        self._open().add_done_callback(lambda _: self._loop_ended())

    # -- connections ----------------------------------------------------------------------------------

    def _open(self) -> asyncio.Task[None]:
        """Make the connections. Returns a task that lasts until they are closed."""
        connection = self._make_connection(self._options.addresses[0])
        self._commands = self._make_pump(connection.execute, connection.abort)
        self._subscriber = self._make_subscriber(self._dial, self.waiters)
        self.subscribe = self._subscriber.subscribe
        self.unsubscribe = self._subscriber.unsubscribe
        return self._commands.ended

    def _make_subscriber(self, dial: Dial, sink: Sink) -> Subscriber:
        return Subscriber(
            dial=dial,
            wire=self._make_wire,
            sink=sink,
            address=str(self._backend),
            heartbeat=self._backend.heartbeat,
            connect_timeout=self._options.connect_timeout,
            health=self.health,
        )

    def _make_pump(self, execute: Execute, reset: Callable[[str], None]) -> Pump:
        return Pump(execute, reset, address=str(self._backend), health=self.health)

    async def _dial(self, factory: Callable[[], asyncio.Protocol]) -> object:
        return await dial_address(self._options.addresses[0], self._tls, factory)

    async def _make_wire(self) -> Wire:
        username, password = self._options.username, self._options.password
        provider = self._options.credential_provider
        if provider is not None:
            username, password = await credentials(provider)
        return Wire(
            username=username,
            password=password,
            client_name=self._options.client_name,
            library=LIBRARY,
            resp3=self._options.protocol == 3,
            sharded=self._options.sharded,
        )

    def _make_connection(self, address: Address) -> CommandConnection:
        return CommandConnection(self._options, address, self._tls, heartbeat=self._backend.heartbeat)

    def login_again(self, username: str | None, password: str) -> None:
        """Use fresh credentials on the connections that stand; new ones ask the provider."""
        for subscriber in self._subscribers:
            subscriber.login_again(username, password)
        words = (username, password) if username else (password,)
        for commands in self._pumps:
            commands.submit(Job([("AUTH", *words)], self._logged_in, lambda error: None, 0.0))

    def _logged_in(self, replies: list[Any]) -> None:
        if error := first_error(replies, self._backend):
            logger.warning("%s: the renewed credentials are refused: %s", self._backend, error)

    @property
    def _subscribers(self) -> Sequence[Subscriber]:
        return (self._subscriber,)

    @property
    def _pumps(self) -> Sequence[Pump]:
        return (self._commands,)

    # -- the table's source (subscribe and unsubscribe are the subscriber's) -----------------------------

    def fetch(self, keys: list[bytes]) -> None:
        self._read(keys, _ForWaiters(self.waiters), None)

    def _read(self, keys: Sequence[bytes], receiver: Receiver, patience: float | None) -> None:
        for i in range(0, len(keys), READ_CHUNK):
            self._send(
                Read(
                    keys[i : i + READ_CHUNK],
                    receiver,
                    self._send,
                    patience,
                    one_by_one=self.one_by_one,
                    address=self._backend,
                )
            )

    # -- where commands go: everything to the one server -----------------------------------------------

    def _send(self, job: Job) -> None:
        self._commands.submit(job)

    # -- verbs ----------------------------------------------------------------------------------------

    def read(self, key: bytes) -> asyncio.Future[bytes | None]:
        future: asyncio.Future[bytes | None] = self.loop.create_future()
        if not self._reads:
            self.loop.call_soon(self._send_reads)
        self._reads.setdefault(key, []).append(future)
        return future

    def _send_reads(self) -> None:
        """All the reads of one tick, each key once."""
        reads, self._reads = self._reads, {}
        self._read(list(reads), _ForReaders(reads), self._patience)

    def read_many(self, keys: Sequence[bytes]) -> asyncio.Future[list[bytes | None]]:
        future: asyncio.Future[list[bytes | None]] = self.loop.create_future()
        if keys:
            self._read(list(dict.fromkeys(keys)), _Collected(keys, future), self._patience)
        else:
            future.set_result([])
        return future

    def exists(self, key: bytes) -> asyncio.Future[bool]:
        # STRLEN, not EXISTS: an empty value counts as no record, as in Celery.
        return self._submit([("STRLEN", key)], lambda replies: replies[0] > 0)

    def delete(self, keys: Sequence[bytes], *, forever: bool = False) -> asyncio.Future[int]:
        if self.one_by_one:
            return self._submit([("DEL", key) for key in keys], sum, forever)
        return self._submit([("DEL", *keys[i : i + READ_CHUNK]) for i in range(0, len(keys), READ_CHUNK)], sum, forever)

    def put(self, key: bytes, payload: bytes, expires: float | None) -> asyncio.Future[None]:
        lifetime = ("EX", int(expires)) if expires is not None else ()
        return self._submit([("SET", key, payload, *lifetime), (self._publish, key, payload)], lambda replies: None)

    def store(
        self,
        key: bytes,
        payload: bytes,
        status: str,
        expires: float | None,
        *,
        unless: bytes | None = None,
        history: tuple[bytes, int] | None = None,
    ) -> asyncio.Future[bool]:
        future: asyncio.Future[bool] = self.loop.create_future()
        if unless is None and history is None:
            self._store(Write(future, (key,), payload, status, expires, (0, 0)))
        else:
            stream, count = history or (None, 0)
            keys = tuple(one for one in (key, unless, stream) if one is not None)
            self._store(Write(future, keys, payload, status, expires, (int(unless is not None), count)))
        return future

    def _store(self, write: Write) -> None:
        if self._filling is None or not self._filling.add(write):
            self._filling = WriteBatch(
                self._script,
                self.records_per_call,
                self._store,
                self._look_at_predecessor,
                address=str(self._backend),
                patience=self._patience,
            )
            self._filling.add(write)
            self._send(self._filling)

    def _look_at_predecessor(self, write: Write) -> None:
        task = self.loop.create_task(self._store_with_look(write))
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    async def _store_with_look(self, write: Write) -> None:
        """The script could not read the old record: read it here, and replace exactly that one."""
        key = write.keys[0]
        try:
            old = await self.read(key)
        except AsyncResultError as error:
            fail(write.future, error)
            return
        if await self.on_thread(lambda: self._backend.precedes(key, old, write.status)):
            settle(write.future, False)
        else:
            write.seen = sha1(old or b"", usedforsecurity=False).hexdigest().encode()
            self._store(write)

    def lifetime(self, key: bytes) -> asyncio.Future[float | None]:
        return self._submit([("PTTL", key)], lambda replies: replies[0] / 1000 if replies[0] >= 0 else None)

    def command(self, *words: str | bytes | int) -> asyncio.Future[Any]:
        return self._submit([words], lambda replies: replies[0], through=next(iter(self._pumps), None))

    async def scan(self, prefix: bytes) -> AsyncIterator[list[bytes]]:
        # Wire: SCAN, whose cursor "0" is the first and, as an answer, the last.
        for commands in self._pumps:
            cursor: Any = 0
            while True:
                words = ("SCAN", cursor, "MATCH", _glob_escaped(prefix) + b"*", "COUNT", SCAN_COUNT)
                cursor, keys = await self._submit([words], lambda replies: replies[0], through=commands)
                if keys:
                    yield keys
                if int(cursor) == 0:
                    break

    def history(self, key: bytes, after: str) -> asyncio.Future[list[tuple[str, bytes]]]:
        def records(replies: list[Any]) -> list[tuple[str, bytes]]:
            return [
                (id.decode(), dict(zip(fields[::2], fields[1::2], strict=True))[b"record"]) for id, fields in replies[0]
            ]

        # Forever: somebody waits for it, and an outage does not end a wait.
        return self._submit([("XRANGE", key, f"({after}", "+")], records, forever=True)

    def _submit(
        self,
        commands: list[Command],
        convert: Callable[[list[Any]], Any],
        forever: bool = False,
        through: Pump | None = None,
    ) -> asyncio.Future[Any]:
        """Answers of the server that the keys belong to, or of the one at the end of ``through``."""
        future: asyncio.Future[Any] = self.loop.create_future()

        def done(replies: list[Any]) -> None:
            error = first_error(replies, self._backend)
            if error is not None:
                fail(future, error)
            else:
                settle(future, convert(replies))

        patience = None if forever else self._patience
        job = Job(commands, done, functools.partial(fail, future), patience)
        if through is not None:
            through.submit(job)
        else:
            self._send(job)
        return future

    # -- life -----------------------------------------------------------------------------------------

    @property
    def last_error(self) -> str | None:
        outages = [subscriber.outage for subscriber in self._subscribers] + [pump.outage for pump in self._pumps]
        return next((outage.reason for outage in outages if outage.reason is not None), None)

    @property
    def _is_connected(self) -> bool:
        """Whether the subscription stands, and nothing is known to be wrong with the command connection."""
        subscribers = self._subscribers
        return (
            bool(subscribers)
            and all(subscriber.up for subscriber in subscribers)
            and all(pump.outage.reason is None for pump in self._pumps)
        )

    def stats(self) -> BackendStats:
        table = self.waiters
        return BackendStats(
            connected=self._is_connected,
            pending=table.pending,
            subscribed=table.subscribed,
            reconnects=sum(subscriber.reconnects for subscriber in self._subscribers),
            sweeps=table.sweeps,
            decode_errors=table.decode_errors,
            last_error=self.last_error,
        )

    async def aclose(self, timeout: float) -> None:
        deadline = self.loop.time() + timeout
        self.waiters.close(self._closed_error())
        ending = self._stop_listening()
        await self._drain(timeout)
        ending |= self._stop_commands()
        # A frozen server must not hold us: what has not ended by then ends with the loop.
        await asyncio.wait(ending, timeout=max(0.05, deadline - self.loop.time()))

    def _stop_listening(self) -> set[asyncio.Task[None]]:
        """Close everything but the command connections; returns the tasks that are ending."""
        return {subscriber.close() for subscriber in self._subscribers}

    async def _drain(self, timeout: float) -> None:
        await self._commands.drain(timeout)

    def _stop_commands(self) -> set[asyncio.Task[None]]:
        return {self._commands.close()}

    def _closed_error(self) -> BackendClosed:
        return BackendClosed(f"{self._backend} was closed under the wait")

    def _loop_ended(self) -> None:
        self._stop_listening()
        self.waiters.close(self._closed_error())
        self._backend._engine_ended(self)


class _ForWaiters:
    """Hands what was read to the table of waiters."""

    def __init__(self, waiters: Waiters) -> None:
        self.found = waiters.fetched
        self.failed = waiters.not_fetched


class _ForReaders:
    """Hands each value to those who wait for its key."""

    def __init__(self, futures: dict[bytes, list[asyncio.Future[bytes | None]]]) -> None:
        self._futures = futures

    def found(self, values: list[tuple[bytes, bytes | None]]) -> None:
        for key, value in values:
            for future in self._futures[key]:
                settle(future, value)

    def failed(self, keys: Sequence[bytes], error: AsyncResultError) -> None:
        for key in keys:
            for future in self._futures[key]:
                fail(future, error)


class _Collected:
    """Hands over all values at once, in the order in which they were asked for."""

    def __init__(self, keys: Sequence[bytes], future: asyncio.Future[list[bytes | None]]) -> None:
        self._keys = keys
        self._future = future
        self._values: dict[bytes, bytes | None] = {}
        self._missing = len(set(keys))

    def found(self, values: list[tuple[bytes, bytes | None]]) -> None:
        self._values.update(values)
        self._missing -= len(values)
        if not self._missing:
            settle(self._future, [self._values[key] for key in self._keys])

    def failed(self, keys: Sequence[bytes], error: AsyncResultError) -> None:
        fail(self._future, error)


def _glob_escaped(text: bytes) -> bytes:
    """A text that a pattern of the server matches as it stands."""
    return re.sub(rb"([][?*^\\\\])", rb"\\\1", text)
