"""``memory://``: records in a dictionary of this process.

The same contract as Redis, expiry and notifications included: keys are subscribed, acknowledged, read and
published through the very table that serves the network backends, only without a network. Several loops
and threads of the process may share a store.
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, ClassVar, ParamSpec, Self, TypeVar
from urllib.parse import urlsplit

from ..errors import AsyncResultError, BackendClosed, ResultDecodeError
from ..probe import Source
from .engine import BackendStats, Engine
from .options import split_options
from .store import Driver, Store
from .waiters import Waiters

__all__ = ["MemoryDriver", "MemoryEngine", "Records", "share", "unshare"]

P = ParamSpec("P")
T = TypeVar("T")

#: Writes between two sweeps over expired keys: keeps a store that is only written to bounded.
WRITES_PER_EXPIRY_SWEEP = 1000


class Records:
    """Keys with expiry, and the engines that listen. Guarded by a lock: threads share it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._values: dict[bytes, tuple[bytes, float | None]] = {}
        self._histories: dict[bytes, tuple[list[tuple[str, bytes]], float | None]] = {}
        self._engines: weakref.WeakSet[MemoryEngine] = weakref.WeakSet()
        self._writes = 0
        _every.add(self)

    def start_engine(self, store: Store) -> MemoryEngine:
        """An engine for the running loop."""
        return MemoryEngine(store, self)

    def attach(self, engine: MemoryEngine) -> None:
        with self._lock:
            self._engines.add(engine)

    def detach(self, engine: MemoryEngine) -> None:
        with self._lock:
            self._engines.discard(engine)

    def get(self, key: bytes) -> bytes | None:
        with self._lock:
            held = self._values.get(key)
            if held is None:
                return None
            value, deadline = held
            if deadline is not None and deadline <= time.monotonic():
                del self._values[key]
                return None
            return value

    def set(self, key: bytes, value: bytes, expires: float | None) -> None:
        deadline = time.monotonic() + expires if expires is not None else None
        with self._lock:
            self._values[key] = (value, deadline)
            self._writes += 1
            if self._writes % WRITES_PER_EXPIRY_SWEEP == 0:
                now = time.monotonic()
                tables: tuple[dict[bytes, Any], ...] = (self._values, self._histories)
                for table in tables:
                    for dead in [k for k, (_, d) in table.items() if d is not None and d <= now]:
                        del table[dead]

    def store(
        self,
        key: bytes,
        value: bytes,
        expires: float | None,
        keep: Callable[[bytes | None], bool],
        unless: bytes | None,
        history: tuple[bytes, int] | None,
    ) -> bool:
        """Set and publish, unless ``keep(old value)`` or there is something under ``unless``."""
        with self._lock:
            if keep(self.get(key)) or (unless is not None and self.get(unless)):
                return False
            self.set(key, value, expires)
            if history is not None:
                self.remember(*history, value, expires)
            self.publish(key, value)
            return True

    def put(self, key: bytes, value: bytes, expires: float | None) -> None:
        """Set and publish, whatever is there."""
        with self._lock:
            self.set(key, value, expires)
            self.publish(key, value)

    def increment(self, key: bytes) -> int:
        """Add one to the number under ``key``, which is 0 where there is none; what it is then. Its expiry stays."""
        with self._lock:
            number = int(self.get(key) or b"0") + 1
            _, deadline = self._values.get(key, (None, None))
            self._values[key] = (b"%d" % number, deadline)
            return number

    def expire(self, key: bytes, expires: float | None) -> None:
        """Keep what is there for so long; None forever."""
        with self._lock:
            value = self.get(key)
            if value is not None:
                self.set(key, value, expires)

    def lifetime(self, key: bytes) -> float | None:
        with self._lock:
            _, deadline = self._values.get(key, (None, None))
            return max(0.0, deadline - time.monotonic()) if deadline is not None else None

    def keys(self, prefix: bytes) -> list[bytes]:
        with self._lock:
            return [key for key in self._values if key.startswith(prefix)]

    def delete(self, keys: Sequence[bytes]) -> int:
        with self._lock:
            for key in keys:
                self._histories.pop(key, None)
            return sum(self._values.pop(key, None) is not None for key in keys)

    def remember(self, key: bytes, count: int, value: bytes, expires: float | None) -> None:
        """Add to the history under ``key``; ids are like those of a Redis stream."""
        with self._lock:
            clock = time.monotonic()
            held, deadline = self._histories.get(key, ([], None))
            if deadline is not None and deadline <= clock:
                held = []
            now = time.time_ns() // 1_000_000
            last, number = _parts(held[-1][0]) if held else (0, 0)
            held.append((f"{now}-0" if now > last else f"{last}-{number + 1}", value))
            del held[:-count]
            self._histories[key] = (held, clock + expires if expires is not None else None)

    def history(self, key: bytes, after: str) -> list[tuple[str, bytes]]:
        with self._lock:
            held, deadline = self._histories.get(key, ([], None))
            if deadline is not None and deadline <= time.monotonic():
                del self._histories[key]
                return []
            return [entry for entry in held if _parts(entry[0]) > _parts(after)]

    def publish(self, channel: bytes, message: bytes) -> int:
        """Hand ``message`` to every engine that is subscribed to ``channel``; how many those are."""
        return sum(engine.deliver(channel, message) for engine in self.engines())

    def engines(self) -> list[MemoryEngine]:
        with self._lock:
            return list(self._engines)

    def in_child(self) -> None:
        """After a fork: what is there stays, but a thread that there is not any more may have held the lock."""
        self._lock = threading.RLock()


def _parts(id: str) -> tuple[int, int]:
    time, _, number = id.partition("-")
    return int(time), int(number or 0)


_every: weakref.WeakSet[Records] = weakref.WeakSet()
_shared: dict[str, Records] = {}


def share(name: str, records: Records) -> None:
    """Have ``memory://`` of this name mean these records, from now on."""
    _shared[name] = records


def unshare(name: str) -> None:
    """Forget the records of this name: backends that have them keep them."""
    _shared.pop(name, None)


class MemoryDriver(Driver):
    """Records of this process only.

    Args:
        name: Backends of the same name share their records; without a name each has its own.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.records = _shared.setdefault(name, Records()) if name else Records()

    @classmethod
    def from_url(cls, url: str, given: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """The driver for ``memory://`` and a name, and the options of the store. Raises ValueError."""
        if "@" in url:  # in the place of a server's URL, maybe, with its password
            raise ValueError("memory:// takes a name, and no login")
        place = urlsplit(url)
        options, wrong = split_options(place.query, given)
        if wrong:
            raise ValueError(f"memory:// has no connection, so no option {min(wrong)!r}")
        return cls(place.netloc + place.path), options

    def start_engine(self, store: Store) -> Engine:
        return self.records.start_engine(store)

    def __str__(self) -> str:
        return f"memory://{self.name}"


class MemoryEngine(Engine):
    """One loop's view of a store. Answers come in the next tick, as they would from a network."""

    _origin: ClassVar[Source] = "memory"

    def __init__(self, backend: Store, records: Records) -> None:
        super().__init__(backend.codec)
        self._backend = backend
        self._store = records
        self._channels: set[bytes] = set()
        self.waiters: Waiters = Waiters(
            self,
            self.decoder,
            loop=self.loop,
            safety_interval=backend.safety_interval,
            verify_key=backend.verify_key,
            origin=self._origin,
        )
        self.waiters.connected()
        self._store.attach(self)

    # -- the table's source ---------------------------------------------------------------------------

    def subscribe(self, keys: list[bytes]) -> None:
        self._channels.update(keys)
        self.loop.call_soon(self.waiters.acked, keys)

    def unsubscribe(self, keys: list[bytes]) -> None:
        self._channels.difference_update(keys)

    def wake(self) -> None:
        """There is no connection: for the table, it is established from the start."""

    def deliver(self, channel: bytes, message: bytes) -> bool:
        """Called by the store, on any thread, while it holds its lock: only hand over. Whether it is wanted here."""
        if channel not in self._channels:
            return False
        try:
            self.loop.call_soon_threadsafe(self.waiters.pushed, channel, message)
        except RuntimeError:  # the loop is closed, perhaps since a moment ago
            return False
        return True

    def fetch(self, keys: list[bytes]) -> None:
        self.loop.call_soon(lambda: self.waiters.fetched([(key, self._store.get(key)) for key in keys]))

    # -- verbs ----------------------------------------------------------------------------------------

    def read(self, key: bytes) -> asyncio.Future[bytes | None]:
        return self._answer(self._store.get, key)

    def read_many(self, keys: Sequence[bytes]) -> asyncio.Future[list[bytes | None]]:
        return self._answer(lambda: [self._store.get(key) for key in keys])

    def exists(self, key: bytes) -> asyncio.Future[bool]:
        return self._answer(lambda: bool(self._store.get(key)))

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
        def keep(old: bytes | None) -> bool:
            return self._backend.precedes(key, old, status, attempt)

        def store(keep: Callable[[bytes | None], bool]) -> bool:
            return self._store.store(key, payload, expires, keep, unless, history)

        held = self._peek(key)
        if held is None or self.decoder.is_small(held):
            return self._answer(store, keep)
        future: asyncio.Future[bool] = self.loop.create_future()

        def decided(kept: bool | ResultDecodeError) -> None:
            if self._peek(key) is held:
                stored = self._answer(store, lambda old: kept is True if old is held else keep(old))
            else:  # another was stored meanwhile
                stored = self.store(key, payload, status, expires, unless=unless, history=history, attempt=attempt)
            stored.add_done_callback(functools.partial(_pass_on, future))

        self.decoder.apart(functools.partial(keep, held), decided)
        return future

    def _peek(self, key: bytes) -> bytes | None:
        try:
            return self._store.get(key)
        except AsyncResultError:
            return None  # the store itself will say so

    def history(self, key: bytes, after: str) -> asyncio.Future[list[tuple[str, bytes]]]:
        return self._answer(self._store.history, key, after)

    def put(self, key: bytes, payload: bytes, expires: float | None) -> asyncio.Future[None]:
        return self._answer(self._store.put, key, payload, expires)

    def delete(self, keys: Sequence[bytes], *, forever: bool = False) -> asyncio.Future[int]:
        return self._answer(self._store.delete, keys)

    def lifetime(self, key: bytes) -> asyncio.Future[float | None]:
        return self._answer(self._store.lifetime, key)

    async def scan(self, prefix: bytes) -> AsyncIterator[list[bytes]]:
        yield self._store.keys(prefix)

    def _answer(self, verb: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.loop.create_future()
        try:
            self.loop.call_soon(_settle, future, verb(*args, **kwargs))
        except AsyncResultError as error:
            self.loop.call_soon(_fail, future, error)
        return future

    def stats(self) -> BackendStats:
        return BackendStats(
            connected=True,
            **self.waiters.counts(),
        )

    async def aclose(self, timeout: float) -> None:
        try:
            await self.waiters.close_in_turns(self._closed_error())
        finally:
            self.end()

    def end(self) -> None:
        """Release every waiter. On the engine's loop."""
        self._store.detach(self)
        self._channels.clear()
        self.waiters.close(self._closed_error())

    def _closed_error(self) -> BackendClosed:
        return BackendClosed(f"{self._backend} was closed under the wait")


def _settle(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _pass_on(future: asyncio.Future[Any], answer: asyncio.Future[Any]) -> None:
    error = answer.exception()
    if error is None:
        _settle(future, answer.result())
    elif not future.done():
        future.set_exception(error)


def _fail(future: asyncio.Future[Any], error: AsyncResultError) -> None:
    if not future.done():
        future.set_exception(error)


def _after_fork_in_child() -> None:
    for records in list(_every):
        records.in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
