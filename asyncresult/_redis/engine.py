"""The engine of Redis and Valkey: verbs become commands, and a topology sends them (:mod:`.topology`).

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
import re
from collections.abc import AsyncIterator, Callable, Sequence
from hashlib import sha1
from typing import Any

from .._log import Log, get_logger
from .._storage.engine import BackendStats, Engine, Outcome
from .._storage.rounds import READ_CHUNK
from .._storage.store import Store
from .._storage.waiters import Waiters
from ..errors import AsyncResultError, BackendClosed, ResultTooLarge
from .errors import first_error
from .exceptions import NoPermissionError
from .options import Options
from .packing import Command, KeysCommand
from .pump import Call, Pump
from .reads import Read, Receiver
from .topology import Links, Topology
from .writes import OneOfMany, Outcomes, Script, Terms, Write, WriteBatch, fail, settle

__all__ = ["RedisEngine"]

logger: Log = get_logger("asyncresult")

#: Keys looked at by one step of a scan: a step holds up the server for well under a millisecond.
SCAN_COUNT = 1000


class RedisEngine(Engine):
    """A topology, and the table of waiters that it serves.

    Args:
        topology: Makes it.
    """

    def __init__(self, backend: Store, options: Options, topology: Callable[[Links, Waiters], Topology]) -> None:
        super().__init__(backend.codec)
        self._backend = backend
        self._name = str(backend)
        self._publish = "SPUBLISH" if options.sharded else "PUBLISH"
        self._script = Script(self._publish)
        self._filling: WriteBatch | None = None
        self._patience = options.retry if isinstance(options.retry, (int, float)) else 0.0
        self._looking: set[asyncio.Task[None]] = set()
        self._reads: dict[bytes, list[asyncio.Future[bytes | None]]] = {}
        self.waiters = Waiters(
            self,
            self.decoder,
            loop=self.loop,
            safety_interval=backend.safety_interval,
            # Channels know no databases: a message may be about a record in another one. The key decides.
            verify_key=backend.verify_key or options.db != 0,
        )
        links = Links(options, name=self._name, heartbeat=backend.heartbeat, largest=backend.codec.limit)
        self._topology = topology(links, self.waiters)
        # asyncio.run cancels every task at its end. Take that as the end of this engine: whoever comes
        # back on another loop gets a fresh one.
        self._topology.ended.add_done_callback(lambda _: self._loop_ended())
        if not self._topology.one_by_one:
            self.waiters.search = self._search

    def login_again(self, username: str | None, password: str) -> None:
        """Use fresh credentials on the established connections; new ones get them from the provider."""
        for subscriber in self._topology.subscribers:
            subscriber.login_again(username, password)
        words = (username, password) if username else (password,)
        for pump in self._topology.pumps:
            pump.submit(Call([("AUTH", *words)], self._logged_in, lambda error: None, 0.0))

    def _logged_in(self, replies: list[Any]) -> None:
        if error := first_error(replies, self._name):
            about = {"event": "credentials", "backend": self._name}
            logger.warning("%s: the renewed credentials are refused: %s", self._name, error, extra=about)

    # -- the table's source -----------------------------------------------------------------------------

    def subscribe(self, keys: list[bytes]) -> None:
        self._topology.subscribe(keys)

    def unsubscribe(self, keys: list[bytes]) -> None:
        self._topology.unsubscribe(keys)

    def wake(self) -> None:
        self._topology.wake()

    def fetch(self, keys: list[bytes]) -> None:
        # A read for each owner: what one server has does not wait for another one.
        for own in self._topology.by_owner(keys):
            self._read(own, _ForWaiters(self.waiters), None)

    def _search(self, keys: list[bytes]) -> None:
        """One number says that none of them is stored: a fifth of what reading them costs (benchmarks: million)."""

        def done(replies: list[Any]) -> None:
            if isinstance(replies[0], NoPermissionError):
                self.waiters.search = None  # a right that only this needs
            self.waiters.searched(keys, found=replies[0] != 0)

        def failed(error: AsyncResultError) -> None:
            self.waiters.searched(keys, found=True)  # to be read, which ends the waits with the error

        self._topology.submit(Call([KeysCommand(("EXISTS", *keys))], done, failed, None))

    def _read(self, keys: Sequence[bytes], receiver: Receiver, patience: float | None) -> None:
        send, one_by_one = self._topology.submit, self._topology.one_by_one
        for i in range(0, len(keys), READ_CHUNK):
            part = keys[i : i + READ_CHUNK]
            send(Read(part, receiver, send, patience, one_by_one=one_by_one, address=self._name))

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
            distinct = list(dict.fromkeys(keys))
            self._read(distinct, _Collected(keys, len(distinct), future), self._patience)
        else:
            future.set_result([])
        return future

    def exists(self, key: bytes) -> asyncio.Future[bool]:
        # STRLEN, not EXISTS: an empty value counts as no record, as in Celery.
        return self._submit([("STRLEN", key)], lambda replies: replies[0] > 0)

    def delete(self, keys: Sequence[bytes], *, forever: bool = False) -> asyncio.Future[int]:
        if self._topology.one_by_one:
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
        attempt: int | None = None,
    ) -> asyncio.Future[bool]:
        future: asyncio.Future[bool] = self.loop.create_future()
        stream, kept = history or (None, 0)
        terms = Terms.of(status, expires, second=unless is not None, kept=kept, attempt=attempt)
        keys = tuple(one for one in (key, unless, stream) if one is not None)
        self._store(Write(future, keys, payload, status, terms))
        return future

    def store_many(
        self, records: Sequence[tuple[bytes, bytes]], status: str, expires: float | None
    ) -> asyncio.Future[list[Outcome]]:
        future: asyncio.Future[list[Outcome]] = self.loop.create_future()
        outcomes = Outcomes(future, len(records))
        terms = Terms.of(status, expires, second=False, kept=0, attempt=None)
        self._store(*[OneOfMany(outcomes, i, key, payload, status, terms) for i, (key, payload) in enumerate(records)])
        return future

    def _store(self, *writes: Write) -> None:
        if self._filling is None or not self._filling.add(*writes):
            self._filling = WriteBatch(
                writes,
                self._script,
                self._topology.records_per_call,
                self._store,
                self._look_at_predecessor,
                address=self._name,
                patience=self._patience,
            )
            self._topology.submit(self._filling)

    def _look_at_predecessor(self, write: Write) -> None:
        task = self.loop.create_task(self._store_with_look(write), name=f"asyncresult store {self._name}")
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    async def _store_with_look(self, write: Write) -> None:
        """The script could not read the old record: read it here, and replace exactly that one."""
        key = write.keys[0]
        try:
            old = await self.read(key)
        except ResultTooLarge:  # it protects nothing, and nor does what may be there by then if it is as large
            write.terms = write.terms._replace(seen=f">{self._backend.codec.limit}")
            self._store(write)
            return
        except AsyncResultError as error:
            write.end(error)
            return
        given = write.terms.attempt
        attempt = given if isinstance(given, int) else None
        if await self.decoder.on_thread(self._backend.precedes, key, old, write.status, attempt):
            write.end(False)
        else:
            write.terms = write.terms._replace(seen=sha1(old or b"", usedforsecurity=False).hexdigest())
            self._store(write)

    def lifetime(self, key: bytes) -> asyncio.Future[float | None]:
        return self._submit([("PTTL", key)], lambda replies: replies[0] / 1000 if replies[0] >= 0 else None)

    def command(self, *words: str | bytes | int) -> asyncio.Future[Any]:
        return self._submit([words], lambda replies: replies[0], through=next(iter(self._topology.pumps), None))

    def send_once(self, commands: list[Command], patience: float | None) -> asyncio.Future[list[Any]]:
        """Send commands that must not be executed twice, over an outage of ``patience`` seconds (None: forever).

        Raises:
            Unanswered: They have left, and no answer came: they may have been executed, or some of them.
            BackendError: One was refused. BackendUnavailable, BackendPermissionError: Nothing was executed.
            BackendClosed: The backend was closed before an answer came.
        """
        return self._submit(commands, lambda replies: replies, patience=patience, once=True)

    async def scan(self, prefix: bytes) -> AsyncIterator[list[bytes]]:
        # Wire: SCAN, whose cursor "0" is the first and, as an answer, the last.
        if not self._topology.servers:
            await self.exists(prefix)  # a cluster has to be queried for its nodes first
        for pump in self._topology.servers:
            cursor: Any = 0
            while True:
                words = ("SCAN", cursor, "MATCH", _glob_escaped(prefix) + b"*", "COUNT", SCAN_COUNT)
                cursor, keys = await self._submit([words], lambda replies: replies[0], through=pump)
                if keys:
                    yield keys
                if int(cursor) == 0:
                    break

    def history(self, key: bytes, after: str) -> asyncio.Future[list[tuple[str, bytes]]]:
        def records(replies: list[Any]) -> list[tuple[str, bytes]]:
            kept = [(id.decode(), dict(zip(fields[::2], fields[1::2], strict=True))) for id, fields in replies[0]]
            # Without what was too large to be taken in, and what others have put there: nothing of it can be shown.
            return [(id, record) for id, fields in kept if isinstance(record := fields.get(b"record"), bytes)]

        # Forever: somebody waits for it, and an outage does not end a wait.
        return self._submit([("XRANGE", key, f"({after}", "+")], records, forever=True)

    def _submit(
        self,
        commands: list[Command],
        convert: Callable[[list[Any]], Any],
        forever: bool = False,
        through: Pump | None = None,
        patience: float | None = None,
        once: bool = False,
    ) -> asyncio.Future[Any]:
        """Answers of the server that the keys belong to, or of the one at the end of ``through``."""
        future: asyncio.Future[Any] = self.loop.create_future()

        def done(replies: list[Any]) -> None:
            error = first_error(replies, self._name)
            if error is not None:
                fail(future, error)
            else:
                settle(future, convert(replies))

        if not once:
            patience = None if forever else self._patience
        job = Call(commands, done, functools.partial(fail, future), patience, once=once)
        (through or self._topology).submit(job)
        return future

    # -- life -----------------------------------------------------------------------------------------

    @property
    def last_error(self) -> str | None:
        return self._topology.last_error

    def stats(self) -> BackendStats:
        return BackendStats(
            connected=self._topology.is_connected,
            reconnects=sum(subscriber.reconnects for subscriber in self._topology.subscribers),
            **self.waiters.counts(),
            last_error=self.last_error,
        )

    async def aclose(self, timeout: float) -> None:
        deadline = self.loop.time() + timeout
        try:
            await self.waiters.close_in_turns(self._closed_error())
            ending = self._topology.stop_listening()
            await self._topology.drain(max(0.0, deadline - self.loop.time()))
        finally:  # a cancelled aclose() leaves no connection behind: see _loop_ended()
            commands = self._topology.close()
        ending |= commands
        # A frozen server must not hold us: what has not ended by then ends with the loop.
        await asyncio.wait(ending, timeout=max(0.05, deadline - self.loop.time()))

    def _closed_error(self) -> BackendClosed:
        return BackendClosed(f"{self._backend} was closed under the wait")

    def _loop_ended(self) -> None:
        self._topology.stop_listening()
        self.waiters.close(self._closed_error())
        self._backend._engine_ended(self)


class _ForWaiters:
    """Hands what was read to the table of waiters."""

    def __init__(self, waiters: Waiters) -> None:
        self._fetched = waiters.fetched
        self.failed = waiters.not_fetched

    def found(self, keys: Sequence[bytes], values: Sequence[bytes | None]) -> None:
        self._fetched(list(zip(keys, values, strict=True)))


class _ForReaders:
    """Hands each value to those who wait for its key."""

    def __init__(self, futures: dict[bytes, list[asyncio.Future[bytes | None]]]) -> None:
        self._futures = futures

    def found(self, keys: Sequence[bytes], values: Sequence[bytes | None]) -> None:
        for key, value in zip(keys, values, strict=True):
            for future in self._futures[key]:
                settle(future, value)

    def failed(self, keys: Sequence[bytes], error: AsyncResultError) -> None:
        for key in keys:
            for future in self._futures[key]:
                fail(future, error)


class _Collected:
    """Hands over all values at once, in the order in which they were requested."""

    def __init__(self, keys: Sequence[bytes], distinct: int, future: asyncio.Future[list[bytes | None]]) -> None:
        self._keys = keys
        self._future = future
        self._values: dict[bytes, bytes | None] = {}
        self._missing = distinct

    def found(self, keys: Sequence[bytes], values: Sequence[bytes | None]) -> None:
        if len(values) == len(self._keys):  # the rule: all in one answer, in their order (benchmarks: fetch)
            settle(self._future, values)
            return
        self._values.update(zip(keys, values, strict=True))
        self._missing -= len(values)
        if not self._missing:
            settle(self._future, [self._values[key] for key in self._keys])

    def failed(self, keys: Sequence[bytes], error: AsyncResultError) -> None:
        fail(self._future, error)


def _glob_escaped(text: bytes) -> bytes:
    """A text that a pattern of the server matches literally."""
    return re.sub(rb"([][?*^\\\\])", rb"\\\1", text)
