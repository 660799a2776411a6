"""``memory://`` for tests: the same contract, and an outage when a test wants one."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from .._storage import current
from .._storage.engine import BackendStats
from .._storage.memory import MemoryEngine, Records, share, unshare
from .._storage.store import Store
from ..backend import Backend, connect
from ..errors import BackendUnavailable

__all__ = ["FakeRecords", "memory_backend"]

_WHY = "the outage of a test"


class FakeRecords(Records):
    """Records that cannot be reached for a while, by anybody."""

    def __init__(self) -> None:
        super().__init__()
        self._down = False

    @property
    def down(self) -> bool:
        """Whether they cannot be reached."""
        return self._down

    def set_down(self, down: bool) -> None:
        """Begin or end an outage."""
        with self._lock:
            self._down = down
            engines = self.engines()
        for engine in engines:
            if isinstance(engine, _Engine):
                engine.call(engine.reconnected if not down else engine.disconnected)

    def start_engine(self, store: Store) -> MemoryEngine:
        return _Engine(store, self)

    def _check(self) -> None:
        if self._down:
            raise BackendUnavailable(f"memory:// cannot be reached: {_WHY}")

    # -- what others call; what they call among themselves is held by the lock ----------------------------

    def get(self, key: bytes) -> bytes | None:
        self._check()
        return super().get(key)

    def set(self, key: bytes, value: bytes, expires: float | None) -> None:
        self._check()
        super().set(key, value, expires)

    def lifetime(self, key: bytes) -> float | None:
        self._check()
        return super().lifetime(key)

    def keys(self, prefix: bytes) -> list[bytes]:
        self._check()
        return super().keys(prefix)

    def delete(self, keys: Sequence[bytes]) -> int:
        self._check()
        return super().delete(keys)

    def history(self, key: bytes, after: str) -> list[tuple[str, bytes]]:
        self._check()
        return super().history(key, after)


class _Engine(MemoryEngine):
    """A loop's view of records that may be away."""

    _store: FakeRecords

    def __init__(self, backend: Store, records: FakeRecords) -> None:
        super().__init__(backend, records)
        self._unread: list[bytes] = []
        self._reconnects = 0
        if records.down:
            self.waiters.disconnected()

    def call(self, function: Callable[[], object]) -> None:
        """On the engine's loop, from any thread."""
        try:
            self.loop.call_soon_threadsafe(function)
        except RuntimeError:  # closed, perhaps since a moment ago
            pass

    def disconnected(self) -> None:
        """Like a connection that is lost: every wait goes on."""
        self.waiters.disconnected()

    def reconnected(self) -> None:
        """Like one that is made again: subscribe, and read."""
        if not self._store.down:
            self._reconnects += 1
            self.waiters.connected()
            unread, self._unread = self._unread, []
            if unread:
                self.fetch(unread)

    def fetch(self, keys: list[bytes]) -> None:
        if self._store.down:
            self._unread += keys
            return

        def read() -> None:
            try:
                values = [(key, self._store.get(key)) for key in keys]
            except BackendUnavailable:  # since a moment ago
                self._unread += keys
            else:
                self.waiters.fetched(values)

        self.loop.call_soon(read)

    def stats(self) -> BackendStats:
        return msgspec.structs.replace(
            super().stats(), connected=not self._store.down, reconnects=self._reconnects, last_error=self.last_error
        )

    @property
    def last_error(self) -> str | None:
        return _WHY if self._store.down else None


@contextmanager
def memory_backend(**options: Any) -> Generator[Backend]:
    """A backend without a server: the current one, everywhere in the process that is in no other block.

    ::

        with memory_backend() as backend:
            ...

    It has an address of its own, ``str(backend)``: whoever connects to that shares its records. After the block every
    wait ends with BackendClosed.

    Args:
        options: See :class:`asyncresult.Backend`. ``safety_interval`` is half a second unless it is given.

    Raises:
        ValueError: An option is invalid.
    """
    name = f"test-{uuid.uuid4().hex}"
    records = FakeRecords()
    share(name, records)
    try:
        backend = connect(f"memory://{name}", **{"safety_interval": 0.5, **options})
        backend._enter()
        try:
            yield backend
        finally:
            backend._leave()
            close(backend, records)
    finally:
        unshare(name)


def close(backend: Backend, records: Records) -> None:
    """Close a backend without waiting for the event loops that have used it: they may run in other threads, or never
    again."""
    current.closed(backend)
    backend._closed = True
    for engine in records.engines():
        try:
            engine.loop.call_soon_threadsafe(engine.end)
        except RuntimeError:  # its loop is closed, and its waits with it
            pass
