"""What an engine is: the connections of one store on one event loop of one process."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from ..codec.codec import Codec
from .decoding import Decoder

if TYPE_CHECKING:
    from .waiters import Waiters

__all__ = ["BackendStats", "Engine", "Health", "Outcome"]

Outcome = bool | BaseException
"""Of one store among many: whether it was stored, or why that failed."""


# No dataclass: the first one costs more than the rest of this module (benchmarks: import).
class BackendStats(msgspec.Struct, frozen=True):
    """A look at the connections that a backend has on an event loop.

    Attributes:
        connected: Whether the subscription is established right now.
        pending: Keys that somebody waits for.
        subscribed: Keys whose subscription is acknowledged (for a moment, some that nobody waits for any more).
        reconnects: Subscription connections lost so far.
        sweeps: Safety sweeps so far.
        decode_errors: Records that could not be read so far.
        pushed: Results that somebody waited for and that came as a notification, so far.
        read: Results that somebody waited for and that were found by reading, so far: they were stored before, or
            during an outage.
        lost: Those among them that a sweep has found, and whose notification never came.
        last_error: Why the subscription is down, if it is.
        received: Replies that came so far (``rpc://``).
        refused: Those among them that belong to no task, or cannot be read.
        sent: Tasks that were sent on the event loop (``adelay()`` of a Celery app), in this process.
        sent_by_threads: Calls that Celery sent in a thread.
        thread_reason: Why it does so for all; None where it does not.
        streams: Streams of events that the web part of this process has open.
        streamed: Events that it has sent on streams so far.
        slow_streams: Streams so far whose client has not read for as long as the ``ping``.
        dropped: States so far that were never sent to clients, as these read too slowly.
        refused_streams: Streams so far that were refused, as there were too many.
    """

    connected: bool = False
    pending: int = 0
    subscribed: int = 0
    reconnects: int = 0
    sweeps: int = 0
    decode_errors: int = 0
    pushed: int = 0
    read: int = 0
    lost: int = 0
    last_error: str | None = None
    received: int = 0
    refused: int = 0
    sent: int = 0
    sent_by_threads: int = 0
    thread_reason: str | None = None
    streams: int = 0
    streamed: int = 0
    slow_streams: int = 0
    dropped: int = 0
    refused_streams: int = 0


class Health(msgspec.Struct, frozen=True):
    """What :meth:`Backend.health` has found.

    Attributes:
        ok: Whether the store answered in time.
        latency: Seconds of that round trip; None if it did not answer.
        connected: Whether the connections that are needed are established; true where nothing waits.
        reason: What is wrong, without secrets; None if nothing is.
    """

    ok: bool
    latency: float | None = None
    connected: bool = True
    reason: str | None = None


class Engine(ABC):
    """The connections of one backend on one event loop.

    Its methods return futures at once and may only be called on the loop. Cancelling such a future gives
    up the answer, never the connection: the I/O is done by the engine's own tasks.
    """

    #: Forks on the way to this process: an engine that was made at another count is a parent's.
    fork_count: ClassVar[int] = 0

    waiters: Waiters

    def __init__(self, codec: Codec) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.forks: int = Engine.fork_count
        self.codec = codec
        self.decoder: Decoder = Decoder(codec, self.loop)

    @abstractmethod
    def read(self, key: bytes) -> asyncio.Future[bytes | None]:
        """The stored record, or None. All reads of one loop tick travel together."""

    @abstractmethod
    def read_many(self, keys: Sequence[bytes]) -> asyncio.Future[list[bytes | None]]:
        """Like :meth:`read`, one future for all; in the order of ``keys``."""

    @abstractmethod
    def exists(self, key: bytes) -> asyncio.Future[bool]:
        """Whether something is stored, without fetching it."""

    @abstractmethod
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
        """Store and publish in one atomic step, unless a record of higher precedence is there already.

        Args:
            unless: A key beside ``key``: where it exists, nothing is stored.
            history: A key beside ``key``, and how many of the latest records to keep there, too.
            attempt: See :meth:`.Store.precedes`.

        Returns: whether it was stored.
        """

    def store_many(
        self, records: Sequence[tuple[bytes, bytes]], status: str, expires: float | None
    ) -> asyncio.Future[list[Outcome]]:
        """Like :meth:`store`, one future for all keys and payloads, which never raises; in their order."""
        stores = [self.store(key, payload, status, expires) for key, payload in records]
        return asyncio.gather(*stores, return_exceptions=True)

    @abstractmethod
    def history(self, key: bytes, after: str) -> asyncio.Future[list[tuple[str, bytes]]]:
        """The kept records that came after the one of that id, with their ids; "0" comes before all."""

    @abstractmethod
    def put(self, key: bytes, payload: bytes, expires: float | None) -> asyncio.Future[None]:
        """Store and publish unconditionally (saved groups)."""

    @abstractmethod
    def delete(self, keys: Sequence[bytes], *, forever: bool = False) -> asyncio.Future[int]:
        """Delete keys; how many there were. ``forever``: go on trying, however long an outage lasts."""

    @abstractmethod
    def lifetime(self, key: bytes) -> asyncio.Future[float | None]:
        """Seconds that a key is still kept; None where it is kept forever, or is not there."""

    @abstractmethod
    def scan(self, prefix: bytes) -> AsyncIterator[list[bytes]]:
        """The keys that begin so, in some order, in batches; a key that changes meanwhile may come twice, or not."""

    def command(self, *words: str | bytes | int) -> asyncio.Future[Any]:
        """Send one command to the server, where there is one that takes commands.

        Raises:
            NotImplementedError: There is none.
        """
        raise NotImplementedError

    @abstractmethod
    def stats(self) -> BackendStats: ...

    @abstractmethod
    async def aclose(self, timeout: float) -> None:
        """Release every waiter, give what is being written ``timeout`` seconds, close the connections."""

    @property
    def last_error(self) -> str | None:
        """Why the subscription is down, if it is. (``stats()`` counts the waits, which takes long for many.)"""
        return None


def _after_fork_in_child() -> None:
    Engine.fork_count += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
