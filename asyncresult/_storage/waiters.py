"""Key -> who waits: the table between the handles, the subscription and the reads.

Theory of operation
-------------------

A key that somebody waits for has one :class:`Entry`, whatever the number of handles on it: one channel,
one read, one decode. Two things happen to an entry side by side, and each has its own small state::

    subscription:  NONE ──flush──> SENT ──ack──> ACKED          a lost connection: everything back to NONE
    read:          IDLE ──> QUEUED ──> EARLY (sent before the ack) or SURE (sent after it) ──> IDLE

The rule that loses nothing: **a miss counts only if the read was sent after the acknowledgement.** An
earlier read may find a result (then nobody has to wait for the acknowledgement), but its miss is followed
by another read once the acknowledgement is there. The order SUBSCRIBE, acknowledgement, read closes the
gap between "not stored yet" and "published before the subscription": whatever is stored after the read is
published to an acknowledged subscription.

Reads go out in chunks, one chunk in flight. Keys whose acknowledgement arrives while they still queue are
therefore read once, after it: 10,000 waits cost about one read a key, not two.

How the states of a task that runs are brought into their order: :mod:`.delivery`.

Nobody waiting implies nothing subscribed: an entry that lost its last listener lingers for a moment (the
key may be wanted again: a second ``await``, the next ``state()``) and is then unsubscribed in bulk.

The table is called with what happened (:meth:`Waiters.connected`, ``acked``, ``pushed``, ``fetched`` …) and says
what is to be done through its :class:`Source`. A listener that raises, or a record that does, ends its own wait
only: none of these calls raises. It does no I/O and starts no task; of the loop it uses
``call_soon``, ``call_later`` and ``is_closed`` only, so that a simulation can walk through every interleaving.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypedDict

from ..codec.codec import LARGE_PAYLOAD_BYTES
from ..errors import AsyncResultError, ResultDecodeError
from ..meta import TaskMeta
from ..probe import Source as RecordSource
from ..states import READY_STATES
from .decoding import DECODED_AT_ONCE, Decoder
from .delivery import Delivery
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
    Listener,
    Looked,
    Read,
    progress_of,
    undecodable,
)
from .rounds import AT_ONCE, READ_CHUNK, Source

__all__ = ["Waiters"]


class Counts(TypedDict):
    """See the fields of that name of :class:`asyncresult.BackendStats`."""

    pending: int
    subscribed: int
    sweeps: int
    decode_errors: int
    pushed: int
    read: int
    lost: int


class Waiters(Delivery):
    """The table of one engine.

    Args:
        source: Where subscriptions and reads go.
        decoder: What decodes the records.
        loop: Its ``call_soon``, ``call_later``, ``is_closed`` and nothing else.
        safety_interval: Seconds between two sweeps that read every waited-for key again.
        verify_key: Take a published final record as a hint only and read the key.
        origin: What messages are to who measures: notifications, or what a poll has found.
    """

    source: RecordSource

    def __init__(
        self,
        source: Source,
        decoder: Decoder,
        *,
        loop: asyncio.AbstractEventLoop,
        safety_interval: float,
        verify_key: bool = False,
        read_chunk: int = READ_CHUNK,
        origin: RecordSource = "pushed",
    ) -> None:
        super().__init__(
            source,
            loop=loop,
            safety_interval=safety_interval,
            read_chunk=read_chunk,
            verify_key=verify_key,
            origin=origin,
        )
        self.decode_errors: int = 0
        #: Called after each new connection, if set.
        self.on_connected: Callable[[], object] | None = None
        self._decoder = decoder
        self._decode = decoder.at_once
        self._decode_many = decoder.many_at_once

    # -- the handles' side ----------------------------------------------------------------------------

    def add(self, key: bytes, task_id: str, listener: Listener, *, read_early: bool = True) -> None:
        """Have ``listener`` called with what comes for ``key`` until its record is final or :meth:`discard` is called.

        Args:
            read_early: Read beside the SUBSCRIBE, too; not only behind its acknowledgement, where it counts.
        """
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = Entry(key, task_id, listener)
            self._to_subscribe.append(entry)
        elif entry.listeners is not None:
            entry.add(listener)  # the subscription is there and has brought nothing final: nothing to do
            if entry.progress is not None and entry.progress.final is not None:
                self._want_read(entry)  # or it has, and waits for states that were published before
            return
        else:
            entry.add(listener)  # while it lingered its messages were not looked at
            if entry.subscription == NONE:
                self._to_subscribe.append(entry)
        if self._swept:
            self._swept.discard(key)  # that was for who waited then
        if read_early or entry.subscription == ACKED:
            self._want_read(entry)
        else:
            self._schedule_flush()
        if self._sweep_handle is None:
            self._schedule_sweep()

    def close(self, error: AsyncResultError) -> None:
        """Release every listener with ``error`` and forget everything. The table can be used again."""
        for entry in self._drop_everything():
            self._release_all(entry, error)

    async def close_in_turns(self, error: AsyncResultError) -> None:
        """:meth:`close`, with pauses where very many wait. A cancelled one releases the others at once."""
        keys = list(self._entries) if len(self._entries) > AT_ONCE else []
        try:
            for start in range(0, len(keys), AT_ONCE):
                for key in keys[start : start + AT_ONCE]:
                    entry = self._entries.pop(key, None)
                    if entry is not None:
                        self._release_all(entry, error)
                await asyncio.sleep(0)
        finally:
            self.close(error)

    def fail_all(self, error: AsyncResultError) -> None:
        """End every wait with ``error``: the credentials are refused, no wait can come true."""
        for entry in list(self._entries.values()):
            self._fail(entry, error)

    @property
    def wanted(self) -> bool:
        """Whether a connection is needed: somebody waits, or something is still subscribed."""
        return bool(self._entries)

    def waits_for(self, key: bytes) -> bool:
        """Whether somebody waits for ``key``."""
        entry = self._entries.get(key)
        return entry is not None and entry.listeners is not None

    @property
    def pending(self) -> int:
        """Keys that somebody waits for."""
        return sum(entry.listeners is not None for entry in self._entries.values())

    @property
    def subscribed(self) -> int:
        """Keys with an acknowledged subscription, lingering ones included."""
        return sum(entry.subscription == ACKED for entry in self._entries.values())

    def counts(self) -> Counts:
        """What the statistics of a backend say of the table."""
        return {
            "pending": self.pending,
            "subscribed": self.subscribed,
            "sweeps": self.sweeps,
            "decode_errors": self.decode_errors,
            "pushed": self.received,
            "read": self.read,
            "lost": self.lost,
        }

    # -- what happened --------------------------------------------------------------------------------

    def connected(self) -> None:
        """A new connection is established: a new generation, on which nothing is subscribed yet."""
        self._connected = True
        self._to_subscribe = [entry for entry in self._entries.values() if entry.listeners is not None]
        self._schedule_flush()
        if self.on_connected is not None:
            self.on_connected()

    def disconnected(self) -> None:
        """The connection is lost: no acknowledgement counts any more."""
        self._connected = False
        self._forget_unannounced()
        for entry in list(self._entries.values()):
            self._unsubscribed(entry)
            if entry.listeners is None and self._entries.get(entry.key) is entry:
                del self._entries[entry.key]  # the lost connection has unsubscribed it

    def acked(self, keys: Iterable[bytes]) -> None:
        """The subscription of ``keys`` is acknowledged."""
        for key in keys:
            entry = self._entries.get(key)
            if entry is None:
                continue
            progress = entry.progress
            if entry.subscription == SENT:
                entry.subscription = ACKED
                # EARLY: its miss will not count, and then it is read again. QUEUED: it will be SURE.
                if entry.read == IDLE and entry.listeners is not None:
                    self._want_read(entry)
                if progress is not None and progress.barrier == WANTED:
                    self._want_barrier(entry, progress)  # now it can be sent
            elif progress is not None and progress.barrier == ON_ITS_WAY:
                self._passed(entry, progress)

    def dropped(self, keys: Iterable[bytes]) -> None:
        """The server ended these subscriptions: subscribe and read again."""
        for key in keys:
            entry = self._entries.get(key)
            if entry is not None and entry.subscription != NONE:
                self._unsubscribed(entry)
                self._to_subscribe.append(entry)
                self._schedule_flush()

    def _unsubscribed(self, entry: Entry) -> None:
        entry.subscription = NONE
        self._swept.discard(entry.key)  # nothing is announced to it until it is subscribed again
        if entry.read == SURE:
            entry.read = EARLY
        progress = entry.progress
        if progress is not None:
            if any(found.meta is None for found in progress.found):
                progress.held.clear()  # it may be older than that
            progress.found.clear()  # it may be newer than what is held; it will be read again
            self._release(entry, progress)

    def refused(self, keys: Iterable[bytes], error: AsyncResultError) -> None:
        """These keys may not be subscribed: their waits end."""
        for key in keys:
            entry = self._entries.get(key)
            if entry is not None:
                self._unsubscribed(entry)
                self._fail(entry, error)

    def pushed_many(self, messages: Sequence[bytes]) -> None:
        """Messages arrived: channel and payload in turn."""
        for start in range(0, len(messages), 2 * DECODED_AT_ONCE):
            some = messages[start : start + 2 * DECODED_AT_ONCE]
            self._pushed_some(some[::2], some[1::2])

    def _pushed_some(self, keys: Sequence[bytes], payloads: Sequence[bytes]) -> None:
        """Decode ordinary records in one go (benchmarks: join); whatever else there is, each by itself."""
        metas = None
        entries = [entry for entry in map(self._entries.get, keys) if entry is not None]
        if 1 < len(entries) == len(keys) and not (self._verify_key or self._unannounced or self._overdue):
            metas = self._decode_many([entry.task_id for entry in entries], payloads)
        if metas is None:
            for key, payload in zip(keys, payloads, strict=True):
                self.pushed(key, payload)
            return
        for entry, payload, meta in zip(entries, payloads, metas, strict=True):
            if entry.listeners is None:
                continue  # what was done with those before it may have ended its wait, too
            if meta.status in READY_STATES:
                self._ended(entry, meta)
            else:
                self._pushed_state(entry, payload, meta)

    def pushed(self, key: bytes, payload: bytes) -> None:
        """A message arrived on ``key``'s channel."""
        entry = self._entries.get(key)
        if self._unannounced or self._overdue:
            self._announced(key)
        if entry is None or entry.listeners is None:
            return
        if self._verify_key:
            self._want_read(entry)  # whatever it says
            return
        try:
            meta = self._decode(entry.task_id, payload)
        except Exception as error:
            self._suspect(entry, undecodable(entry, error), payload)
        else:
            if meta is None:
                progress_of(entry).arrived += 1
                self._decode_large(entry, payload, None)
            elif meta.status in READY_STATES:
                self._ended(entry, meta)
            else:
                self._pushed_state(entry, payload, meta)

    def _pushed_state(self, entry: Entry, payload: bytes, meta: TaskMeta) -> None:
        progress = entry.progress or progress_of(entry)
        progress.arrived += 1
        self._published(entry, progress, payload, meta)

    def fetched(self, values: Sequence[tuple[bytes, bytes | None]]) -> None:
        """The stored values of keys that were to be read, in any number of slices."""
        size = 0
        for i, (key, payload) in enumerate(values, 1):
            entry = self._entries.get(key)
            if entry is None:
                continue
            sent = entry.read
            if sent >= EARLY:
                entry.read = IDLE
            if entry.listeners is None:
                continue
            if not payload:
                self._missed(entry, sent)
                continue
            self._answered(entry, payload, sent)
            size += len(payload)
            if size >= LARGE_PAYLOAD_BYTES and i < len(values):
                # Many small records add up: let others run.
                self._answers(i)
                self._loop.call_soon(self.fetched, values[i:])
                return
        self._answers(len(values))

    def not_fetched(self, keys: Sequence[bytes], error: AsyncResultError) -> None:
        """These keys cannot be read: their waits end. Their subscriptions remain, and are to be given up."""
        self.decode_errors += len(keys) if isinstance(error, ResultDecodeError) else 0
        for key in keys:
            entry = self._entries.get(key)
            if entry is not None:
                entry.read = IDLE
                self._fail(entry, error)
        self._answers(len(keys))

    def looked(self, key: bytes, payload: bytes | None, meta: TaskMeta, arrived: int) -> Looked:
        """The record of ``key`` was read for one handle alone, when :meth:`arrived` gave that number."""
        entry = self._entries.get(key)
        if entry is None or entry.listeners is None:
            return "latest"
        if meta.status not in READY_STATES and not payload:
            return "latest" if self.arrived(key) == arrived else "older"
        origin, self.source = self.source, self.source_of_reads
        looked: Looked = "latest"
        if meta.status in READY_STATES:
            self._found_final(entry, meta)
        elif payload:
            looked = self._found(entry, payload, meta, arrived)
        self.source = origin
        return looked

    def arrived(self, key: bytes) -> int:
        """How many messages of ``key`` have arrived so far."""
        entry = self._entries.get(key)
        return entry.progress.arrived if entry is not None and entry.progress is not None else 0

    # -- consequences ---------------------------------------------------------------------------------

    def _answered(self, entry: Entry, payload: bytes, sent: int) -> None:
        """A read of the entry's key has found something."""
        progress = entry.progress
        if progress is None:
            self._read_record(entry, payload, Read(sent, 0))
        elif progress.suspicion is not None and progress.suspicion[1] == payload:
            self._missed(entry, sent)  # a bomb need not go off twice
        else:
            self._read_record(entry, payload, Read(sent, progress.arrived_at_read))

    def _read_record(self, entry: Entry, payload: bytes, read: Read | None) -> None:
        """Decode what a read has found; without a read, a message that had to wait for its turn."""
        try:
            meta = self._decode(entry.task_id, payload)
        except Exception as error:
            self._decoded(entry, payload, undecodable(entry, error), read)
        else:
            if meta is None:
                self._decode_large(entry, payload, read)
            else:
                self._decoded(entry, payload, meta, read)

    def _decoded(self, entry: Entry, payload: bytes, outcome: TaskMeta | ResultDecodeError, read: Read | None) -> None:
        if read is not None:
            origin, self.source = self.source, "swept" if entry.key in self._swept else self.source_of_reads
            self._decoded_read(entry, payload, outcome, read)
            self.source = origin
        elif isinstance(outcome, ResultDecodeError):
            self._suspect(entry, outcome, payload)
        elif outcome.status in READY_STATES:
            self._ended(entry, outcome)
        else:
            self._published(entry, progress_of(entry), payload, outcome)

    def _decoded_read(self, entry: Entry, payload: bytes, outcome: TaskMeta | ResultDecodeError, read: Read) -> None:
        if isinstance(outcome, ResultDecodeError):
            self.decode_errors += 1
            self._fail(entry, outcome)
        elif outcome.status in READY_STATES:
            self._found_final(entry, outcome)
        elif entry.progress is not None and entry.progress.backlog is not None:
            self._queue(entry.progress, payload, read)
        else:
            self._found(entry, payload, outcome, read.arrived)
            self._missed(entry, read.sent)

    def _missed(self, entry: Entry, sent: int) -> None:
        """The key held nothing final when it was read."""
        progress = entry.progress
        if progress is not None and progress.suspicion is not None and sent != QUEUED:
            self._fail(entry, progress.suspicion[0])
        elif sent == EARLY and entry.subscription == ACKED:
            self._want_read(entry)

    def _suspect(self, entry: Entry, error: ResultDecodeError, payload: bytes) -> None:
        """A message was unreadable. The stored key is the truth: fail only if that does not help."""
        self.decode_errors += 1
        progress_of(entry).suspicion = error, payload
        self._want_read(entry)

    def _decode_large(self, entry: Entry, payload: bytes, read: Read | None) -> None:
        """Decode a record away from the loop: one of a key at a time, and the same one once."""
        progress = progress_of(entry)
        if progress.backlog is not None:
            self._queue(progress, payload, read)
            return
        backlog = progress.backlog = deque()

        def done(outcome: TaskMeta | ResultDecodeError) -> None:
            if entry.progress is None or entry.progress.backlog is not backlog:
                return
            entry.progress.backlog = None
            for other, its_read in ((payload, read), *backlog):
                if entry.listeners is None or self._entries.get(entry.key) is not entry:
                    return
                if other == payload:
                    self._decoded(entry, payload, outcome, its_read)
                else:
                    self._read_record(entry, other, its_read)
            self._caught_up(entry)

        self._decoder.later(entry.task_id, payload, done)

    def _caught_up(self, entry: Entry) -> None:
        """What came behind a large record has been looked at; a barrier that was passed meanwhile did not count."""
        progress = entry.progress
        if progress is not None and progress.backlog is None and progress.waiting:
            self._want_barrier(entry, progress)
