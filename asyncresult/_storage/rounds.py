"""What the table of waiters sends: subscriptions and reads in bulk, once a tick of the loop, and sweeps by the clock.

:class:`Rounds` has the entries, and gathers what is wanted of each. Reads go out in chunks, one chunk in flight. A
key whose last listener has gone lingers for a moment, and is then unsubscribed with others. What happens upon the
answers is decided above, in :mod:`.waiters`.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from .._log import Log, get_logger
from .entries import (
    ACKED,
    EARLY,
    IDLE,
    NONE,
    ON_ITS_WAY,
    QUEUED,
    SENT,
    SURE,
    WANTED,
    Entry,
    Progress,
    progress_of,
)

__all__ = ["AT_ONCE", "READ_CHUNK", "Rounds", "Source"]

logger: Log = get_logger("asyncresult")

#: Keys a read. Larger chunks gain nothing measurable (benchmarks: stored) and delay the first answer.
READ_CHUNK = 1000
#: Waits that are begun, or ended, between two turns of the loop: some milliseconds.
AT_ONCE = 2000
#: Seconds that a key without listeners stays subscribed.
LINGER = 0.05
#: Keys that are subscribed, or unsubscribed, between two turns of the loop.
KEYS_AT_ONCE = 10_000
#: Unsubscribing costs as much as subscribing: while so many keys more lose their listeners in each LINGER, the rest of
#: a bulk is arriving, and it waits (benchmarks: join) for so many LINGERs at most.
BULK, PATIENCE_WITH_BULK = 100, 20


class Source(Protocol):
    """What the table needs of the connections."""

    def subscribe(self, keys: list[bytes]) -> None:
        """Have :meth:`Waiters.acked` called for each key, as long as the connection lasts."""

    def unsubscribe(self, keys: list[bytes]) -> None: ...

    def wake(self) -> None:
        """Connect: somebody waits. :meth:`Waiters.connected` is called in time."""

    def fetch(self, keys: list[bytes]) -> None:
        """Have :meth:`Waiters.fetched`, or ``not_fetched``, called for all of them, in any number of slices."""


class Rounds:
    """The entries, and what is to be sent for them.

    Args:
        source: Where subscriptions and reads go.
        loop: Its ``call_soon``, ``call_later`` and nothing else.
        safety_interval: Seconds between two sweeps that read every waited-for key again.
        read_chunk: Keys a read, at most.

    Attributes:
        backend: The address of the store, for the log.
    """

    def __init__(
        self, source: Source, *, loop: asyncio.AbstractEventLoop, safety_interval: float, read_chunk: int
    ) -> None:
        self.backend: str = ""
        self.sweeps: int = 0
        #: Results that a sweep has found, and whose notification never came.
        self.lost: int = 0
        # What the sweep that came last reads again. What of it was there though no message had come: since the last
        # LINGER; and longer, so that it is lost if it is still missing at the next one.
        self._swept: set[bytes] = set()
        self._unannounced: set[bytes] = set()
        self._overdue: set[bytes] = set()
        #: Finds out whether any of many keys is stored, where reading them costs more, and calls :meth:`searched`.
        self.search: Callable[[list[bytes]], None] | None = None
        self._to_search: list[Entry] = []  # what is left of a sweep
        self._searching = False
        self._source = source
        self._loop = loop
        self._safety_interval = safety_interval
        self._read_chunk = read_chunk
        self._entries: dict[bytes, Entry] = {}
        self._connected = False
        self._to_subscribe: list[Entry] = []
        self._to_read: deque[Entry] = deque()  # a list would be copied for each chunk of a sweep
        self._reading = 0
        self._idle: list[Entry] = []
        self._idle_before = 0
        self._put_off = 0
        self._flush_handle: asyncio.Handle | None = None
        self._reap_handle: asyncio.TimerHandle | None = None
        self._sweep_handle: asyncio.TimerHandle | None = None

    # -- what is wanted -------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Look for the record of every waited-for key: notifications may have been lost."""
        if self._searching:
            return  # the one before has not come through: the server does not answer
        self._swept.clear()
        self._to_search = list(self._entries.values())
        self._search_next()

    def _search_next(self) -> None:
        """Look for the next chunk. What is known to be stored is read: it may have changed."""
        while self._to_search:
            chunk = self._to_search[-self._read_chunk :]
            del self._to_search[-self._read_chunk :]
            keys: list[bytes] = []
            if self.search is not None:  # the rule is that nothing is stored (benchmarks: million)
                keys = [e.key for e in chunk if e.progress is None and e.read == IDLE and e.listeners is not None]
                chunk = [e for e in chunk if e.progress is not None] if len(keys) < len(chunk) else []
            for entry in chunk:
                self._read_again(entry)
            if keys and self.search is not None:
                self._searching = True
                self.search(keys)
                return

    def searched(self, keys: Sequence[bytes], *, found: bool) -> None:
        """Whether any of ``keys`` is stored, or may be."""
        self._searching = False
        if found:
            for key in keys:
                entry = self._entries.get(key)
                if entry is not None:
                    self._read_again(entry)
        self._search_next()

    def _read_again(self, entry: Entry) -> None:
        if entry.listeners is not None and entry.read == IDLE:
            self._want_read(entry)
            if entry.subscription == ACKED:
                self._swept.add(entry.key)

    def overdue(self) -> None:
        """The reads under way take long: nothing else waits for them any more."""
        self._reading = 0
        if self._to_read:
            self._schedule_flush()

    def _want_read(self, entry: Entry) -> None:
        if entry.read != QUEUED:
            # While one is in flight another is queued: the first may have been sent too early to count.
            entry.read = QUEUED
            self._to_read.append(entry)
        self._schedule_flush()

    def _want_barrier(self, entry: Entry, progress: Progress) -> None:
        if progress.barrier != ON_ITS_WAY:  # else another one follows it
            progress.barrier = WANTED
            self._to_subscribe.append(entry)
            self._schedule_flush()

    def _went_idle(self, entry: Entry) -> None:
        entry.listeners = None
        progress = entry.progress
        entry.progress = None
        if progress is not None and progress.backlog is not None:
            # It may be wanted again before this has been decoded: no need to begin anew.
            progress_of(entry).backlog = progress.backlog
        self._idle.append(entry)
        self._reap_later()

    def _answers(self, count: int) -> None:
        """So many of the keys of the chunk in flight have been answered."""
        self._reading = max(0, self._reading - count)
        if self._to_read and not self._reading:
            self._schedule_flush()

    def _drop_everything(self) -> list[Entry]:
        """Forget all entries, and what was to be sent; returns the entries."""
        for handle in (self._flush_handle, self._reap_handle, self._sweep_handle):
            if handle is not None:
                handle.cancel()
        self._flush_handle = self._reap_handle = self._sweep_handle = None
        entries = list(self._entries.values())
        self._entries.clear()
        self._to_subscribe.clear()
        self._to_read.clear()
        self._to_search.clear()
        self._idle.clear()
        self._swept.clear()
        self._forget_unannounced()
        self._idle_before = self._put_off = 0
        self._reading = 0
        return entries

    # -- once a tick, and by the clock ----------------------------------------------------------------

    def _schedule_flush(self) -> None:
        if self._flush_handle is None:
            self._flush_handle = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Send what was requested in this tick: one SUBSCRIBE series, one chunk of reads."""
        self._flush_handle = None
        if self._to_subscribe and self._connected:
            keys = []
            entries, self._to_subscribe = self._to_subscribe[:KEYS_AT_ONCE], self._to_subscribe[KEYS_AT_ONCE:]
            for entry in entries:
                if entry.listeners is None:
                    continue
                progress = entry.progress
                if entry.subscription == NONE:
                    entry.subscription = SENT
                    keys.append(entry.key)
                elif progress is not None and progress.barrier == WANTED and entry.subscription == ACKED:
                    progress.barrier, progress.covered = ON_ITS_WAY, progress.waiting
                    keys.append(entry.key)
            if self._to_subscribe:
                self._schedule_flush()
            if keys:
                self._source.subscribe(keys)
        elif self._to_subscribe:
            self._source.wake()  # connected() will subscribe all of them
            self._to_subscribe.clear()
        if self._to_read and not self._reading:
            self._send_reads()

    def _send_reads(self) -> None:
        keys: list[bytes] = []
        while self._to_read and len(keys) < self._read_chunk:
            entry = self._to_read.popleft()
            if entry.read == QUEUED and entry.listeners is not None:
                entry.read = SURE if entry.subscription == ACKED else EARLY
                if entry.progress is not None:
                    entry.progress.arrived_at_read = entry.progress.arrived
                keys.append(entry.key)
            elif entry.read == QUEUED:
                entry.read = IDLE
        if keys:
            self._reading = len(keys)
            self._source.fetch(keys)

    def _reap_later(self) -> None:
        # Of a loop that was closed under a wait, which is collected later or given up elsewhere, nothing is subscribed.
        if self._reap_handle is None and not self._loop.is_closed():
            self._reap_handle = self._loop.call_later(LINGER, self._reap)

    def _reap(self) -> None:
        """Unsubscribe what nobody wants any more."""
        self._reap_handle = None
        if len(self._idle) - self._idle_before >= BULK and self._put_off < PATIENCE_WITH_BULK:
            self._put_off += 1
            self._idle_before = len(self._idle)
            self._reap_later()
            return
        self._put_off = self._idle_before = 0
        self._count_lost()
        unwanted = []
        idle, self._idle = self._idle[:KEYS_AT_ONCE], self._idle[KEYS_AT_ONCE:]
        for entry in idle:
            if entry.listeners is None and self._entries.get(entry.key) is entry:
                del self._entries[entry.key]
                if entry.subscription != NONE:
                    unwanted.append(entry.key)
        if self._idle:  # very many: the others in their turn
            self._idle_before = len(self._idle)
            self._reap_later()
        if len(self._to_read) > 2 * len(self._entries) + self._read_chunk:
            # Nothing can be read just now, and most of those who queued have given up meanwhile. What lingers stays: it
            # counts as queued if it is wanted again.
            self._to_read = deque(entry for entry in self._to_read if self._entries.get(entry.key) is entry)
        if unwanted:
            self._source.unsubscribe(unwanted)
        if not self._entries and self._sweep_handle is not None:
            self._sweep_handle.cancel()
            self._sweep_handle = None

    def _announced(self, key: bytes) -> None:
        """A message has come."""
        self._unannounced.discard(key)
        self._overdue.discard(key)

    def _forget_unannounced(self) -> None:
        """Messages that were on their way will never come, which is the outage's doing."""
        self._unannounced.clear()
        self._overdue.clear()

    def _count_lost(self) -> None:
        """What has been overdue for a LINGER was never announced."""
        if self._overdue:
            self.lost += len(self._overdue)
            logger.info(
                "a sweep has found %d results whose notification never came",
                len(self._overdue),
                extra={"event": "lost notifications", "backend": self.backend},
            )
        self._overdue, self._unannounced = self._unannounced, set()
        if self._overdue:
            self._reap_later()

    def _schedule_sweep(self) -> None:
        # Jittered, so that a thousand processes that started together do not sweep together.
        delay = self._safety_interval * random.uniform(0.9, 1.0)
        self._sweep_handle = self._loop.call_later(delay, self._sweep)

    def _sweep(self) -> None:
        """Read every waited-for key: a lost or never sent notification costs one interval at most."""
        self.sweeps += 1
        self.sweep()
        self._schedule_sweep()
