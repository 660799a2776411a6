"""Key -> who waits: the table between the handles, the subscription and the reads.

Theory of operation
-------------------

A key that somebody waits for has one :class:`_Entry`, whatever the number of handles on it: one channel,
one read, one decode. Two things happen to an entry side by side, and each has its own small state::

    subscription:  NONE ──flush──> SENT ──ack──> ACKED          a lost connection: everything back to NONE
    read:          IDLE ──> QUEUED ──> EARLY (sent before the ack) or SURE (sent after it) ──> IDLE

The rule that loses nothing: **a miss counts only if the read was sent after the acknowledgement.** An
earlier read may find a result (then nobody has to wait for the acknowledgement), but its miss is followed
by another read once the acknowledgement is there. The order SUBSCRIBE, acknowledgement, read closes the
gap between "not stored yet" and "published before I listened": whatever is stored after the read is
published to a subscription that stands.

Reads go out in chunks, one chunk in flight. Keys whose acknowledgement arrives while they still queue are
therefore read once, after it: 10,000 waits cost about one read a key, not two.

Nobody waiting implies nothing subscribed: an entry that lost its last listener lingers for a moment (the
key may be wanted again: a second ``await``, the next ``state()``) and is then unsubscribed in bulk.

The table is told what happened (:meth:`Waiters.connected`, ``acked``, ``pushed``, ``read`` …) and says
what is to be done through its :class:`Source`. It does no I/O and starts no task; of the loop it uses
``call_soon`` and ``call_later`` only, so that a simulation can walk through every interleaving.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from ..codec.codec import LargeRecord
from ..errors import AsyncResultError, ResultDecodeError
from ..meta import TaskMeta
from ..states import READY_STATES

__all__ = ["Listener", "Source", "Waiters"]

#: Keys a read. Larger chunks gain nothing measurable (benchmarks: stored) and delay the first answer.
READ_CHUNK = 1000
#: Seconds that a key without listeners stays subscribed.
LINGER = 0.05
#: Unsubscribing costs as much as subscribing: while so many keys more lose their listeners in each LINGER, the rest of
#: a bulk is arriving, and it waits (benchmarks: join) for so many LINGERs at most.
BULK, PATIENCE_WITH_BULK = 100, 20

# The two states of an entry. Plain ints: compared once or twice a message.
_NONE, _SENT, _ACKED = 0, 1, 2
_IDLE, _QUEUED, _EARLY, _SURE = 0, 1, 2, 3


class Listener(Protocol):
    """Who waits for a key. Called on the loop, never from inside :meth:`Waiters.add`."""

    def _on_record(self, meta: TaskMeta) -> None:
        """The key's record; when it is ready the listener has been taken off the table."""

    def _on_error(self, error: AsyncResultError) -> None:
        """The wait is over without a record; the listener has been taken off the table."""


class Source(Protocol):
    """What the table asks of the connections."""

    def subscribe(self, keys: list[bytes]) -> None:
        """Have :meth:`Waiters.acked` called for each key, as long as the connection lasts."""

    def unsubscribe(self, keys: list[bytes]) -> None: ...

    def fetch(self, keys: list[bytes]) -> None:
        """Have :meth:`Waiters.read` called for all of them, at once or in slices, however long it takes."""

    def decode_large(
        self, task_id: str, payload: bytes, done: Callable[[TaskMeta | ResultDecodeError], object]
    ) -> None:
        """Decode away from the loop, then call ``done`` on it."""


class _Entry:
    """One key that is waited for."""

    __slots__ = ("key", "listeners", "overtaken", "read", "subscription", "suspicion", "task_id")

    def __init__(self, key: bytes, task_id: str, listener: Listener) -> None:
        self.key = key
        self.task_id = task_id
        # Nearly always one: a dict would triple the memory of a waiting key. Keyed by id(), because
        # handles compare equal by task id.
        self.listeners: Listener | dict[int, Listener] | None = listener
        self.subscription = _NONE
        self.read = _IDLE
        # What was published and could not be read: only a hint, so the key is asked before anybody fails.
        self.suspicion: tuple[ResultDecodeError, bytes] | None = None
        # Since the last read was sent a state was published: what that read finds may be older.
        self.overtaken = False

    def add(self, listener: Listener) -> None:
        held = self.listeners
        if held is None:
            self.listeners = listener
        elif isinstance(held, dict):
            held[id(listener)] = listener
        else:
            self.listeners = {id(held): held, id(listener): listener}

    def discard(self, listener: Listener) -> bool:
        """Whether that was the last one."""
        held = self.listeners
        if isinstance(held, dict):
            held.pop(id(listener), None)
            return not held
        return held is listener

    def all(self) -> list[Listener]:
        held = self.listeners
        if held is None:
            return []
        return list(held.values()) if isinstance(held, dict) else [held]


class Waiters:
    """The table of one engine.

    Args:
        source: Where subscriptions and reads go.
        decode: :meth:`.codec.Codec.decode`, or one like it; told to be small.
        loop: Its ``call_soon``, ``call_later`` and nothing else.
        safety_interval: Seconds between two sweeps that read every waited-for key again.
        verify_key: Take a published final record as a hint only and read the key.
    """

    def __init__(
        self,
        source: Source,
        decode: Callable[[str, bytes, bool], TaskMeta],
        *,
        loop: asyncio.AbstractEventLoop,
        safety_interval: float,
        verify_key: bool = False,
        read_chunk: int = READ_CHUNK,
    ) -> None:
        self.sweeps = 0
        self.decode_errors = 0
        #: Called after each new connection, if set.
        self.on_connected: Callable[[], object] | None = None
        self._source = source
        self._decode = decode
        self._loop = loop
        self._safety_interval = safety_interval
        self._verify_key = verify_key
        self._read_chunk = read_chunk
        self._entries: dict[bytes, _Entry] = {}
        self._connected = False
        self._to_subscribe: list[_Entry] = []
        self._to_read: deque[_Entry] = deque()  # a list would be copied for each chunk of a sweep
        self._reading = 0
        self._idle: list[_Entry] = []
        self._idle_before = 0
        self._put_off = 0
        self._flush_handle: asyncio.Handle | None = None
        self._reap_handle: asyncio.TimerHandle | None = None
        self._sweep_handle: asyncio.TimerHandle | None = None

    # -- the handles' side ----------------------------------------------------------------------------

    def add(self, key: bytes, task_id: str, listener: Listener, *, read_early: bool = True) -> None:
        """Have ``listener`` told about ``key`` until its record is final or :meth:`discard` is called.

        Args:
            read_early: Read beside the SUBSCRIBE, too; not only behind its acknowledgement, where it counts.
        """
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(key, task_id, listener)
            self._to_subscribe.append(entry)
        elif entry.listeners is not None:
            entry.add(listener)  # the subscription stands and has brought nothing final: nothing to do
            return
        else:
            entry.add(listener)  # while it lingered its messages were not looked at
            if entry.subscription == _NONE:
                self._to_subscribe.append(entry)
        if read_early or entry.subscription == _ACKED:
            self._want_read(entry)
        else:
            self._schedule_flush()
        if self._sweep_handle is None:
            self._schedule_sweep()

    def discard(self, key: bytes, listener: Listener) -> None:
        """Take ``listener`` off. Harmless when it is not there."""
        entry = self._entries.get(key)
        if entry is not None and entry.listeners is not None and entry.discard(listener):
            self._went_idle(entry)

    def close(self, error: AsyncResultError) -> None:
        """Release every listener with ``error`` and forget everything. The table can be used again."""
        for handle in (self._flush_handle, self._reap_handle, self._sweep_handle):
            if handle is not None:
                handle.cancel()
        self._flush_handle = self._reap_handle = self._sweep_handle = None
        entries = list(self._entries.values())
        self._entries.clear()
        self._to_subscribe.clear()
        self._to_read.clear()
        self._idle.clear()
        self._idle_before = self._put_off = 0
        self._reading = 0
        for entry in entries:
            for listener in entry.all():
                listener._on_error(error)

    def fail_all(self, error: AsyncResultError) -> None:
        """End every wait with ``error``: the credentials are refused, no wait can come true."""
        for entry in list(self._entries.values()):
            self._fail(entry, error)

    def sweep(self) -> None:
        """Read every waited-for key: notifications may have been lost."""
        for entry in self._entries.values():
            if entry.listeners is not None and entry.read == _IDLE:
                self._want_read(entry)

    def overdue(self) -> None:
        """The reads under way take long: nothing else waits for them any more."""
        self._reading = 0
        if self._to_read:
            self._schedule_flush()

    @property
    def wanted(self) -> bool:
        """Whether a connection is needed: somebody waits, or something is still subscribed."""
        return bool(self._entries)

    @property
    def pending(self) -> int:
        """Keys that somebody waits for."""
        return sum(entry.listeners is not None for entry in self._entries.values())

    @property
    def subscribed(self) -> int:
        """Keys with an acknowledged subscription, lingering ones included."""
        return sum(entry.subscription == _ACKED for entry in self._entries.values())

    # -- what happened --------------------------------------------------------------------------------

    def connected(self) -> None:
        """A new connection stands: a new generation, on which nothing is subscribed yet."""
        self._connected = True
        self._to_subscribe = [entry for entry in self._entries.values() if entry.listeners is not None]
        self._schedule_flush()
        if self.on_connected is not None:
            self.on_connected()

    def disconnected(self) -> None:
        """The connection is lost: no acknowledgement counts any more."""
        self._connected = False
        for entry in list(self._entries.values()):
            if entry.listeners is None:
                del self._entries[entry.key]  # the lost connection has unsubscribed it
                continue
            entry.subscription = _NONE
            if entry.read == _SURE:
                entry.read = _EARLY

    def acked(self, keys: Iterable[bytes]) -> None:
        """The subscription of ``keys`` stands."""
        for key in keys:
            entry = self._entries.get(key)
            if entry is not None and entry.subscription == _SENT:
                entry.subscription = _ACKED
                # EARLY: its miss will not count, and then it is read again. QUEUED: it will be SURE.
                if entry.read == _IDLE and entry.listeners is not None:
                    self._want_read(entry)

    def dropped(self, keys: Iterable[bytes]) -> None:
        """The server ended these subscriptions: subscribe and read again."""
        for key in keys:
            entry = self._entries.get(key)
            if entry is not None and entry.subscription != _NONE:
                entry.subscription = _NONE
                if entry.read == _SURE:
                    entry.read = _EARLY
                self._to_subscribe.append(entry)
                self._schedule_flush()

    def refused(self, keys: Iterable[bytes], error: AsyncResultError) -> None:
        """These keys may not be subscribed: their waits end."""
        for key in keys:
            entry = self._entries.get(key)
            if entry is not None:
                entry.subscription = _NONE
                self._fail(entry, error)

    def unreadable(self, keys: Iterable[bytes], error: AsyncResultError) -> None:
        """These keys may not be read: their waits end. Their subscriptions stand, and are to be given up."""
        for key in keys:
            entry = self._entries.get(key)
            if entry is not None:
                self._fail(entry, error)

    def pushed(self, key: bytes, payload: bytes) -> None:
        """A message arrived on ``key``'s channel."""
        entry = self._entries.get(key)
        if entry is None or entry.listeners is None:
            return
        try:
            meta = self._decode(entry.task_id, payload, True)
        except LargeRecord:
            self._decode_large(entry, payload)
            return
        except ResultDecodeError as error:
            self._suspect(entry, error, payload)
            return
        self._take(entry, meta, pushed=True)

    def read(self, values: Sequence[tuple[bytes, bytes | None]]) -> None:
        """The stored values of keys that were asked for, in any number of slices."""
        for key, payload in values:
            self._reading -= 1
            entry = self._entries.get(key)
            if entry is None:
                continue
            sent = entry.read
            if sent >= _EARLY:
                entry.read = _IDLE
            if entry.listeners is None:
                continue
            if not payload:
                self._missed(entry, sent)
            else:
                try:
                    meta = self._decode(entry.task_id, payload, True)
                except LargeRecord:
                    if entry.suspicion is not None and entry.suspicion[1] == payload:
                        self._missed(entry, sent)  # a bomb need not go off twice
                    else:
                        self._decode_large(entry, payload, sent)
                    continue
                except ResultDecodeError as error:
                    self.decode_errors += 1
                    self._fail(entry, error)
                    continue
                self._take(entry, meta, pushed=False)
                if not meta.ready:
                    self._missed(entry, sent)
        if self._reading <= 0:
            self._reading = 0
            if self._to_read:
                self._schedule_flush()

    # -- consequences ---------------------------------------------------------------------------------

    def _take(self, entry: _Entry, meta: TaskMeta, *, pushed: bool) -> None:
        """Hand a record on; a final one ends the waits."""
        if meta.status not in READY_STATES:
            if pushed:
                entry.overtaken = True
            elif entry.overtaken:
                return
            for listener in entry.all():
                listener._on_record(meta)
        elif pushed and self._verify_key:
            self._want_read(entry)
        else:
            listeners = entry.listeners
            self._went_idle(entry)
            if isinstance(listeners, dict):
                for listener in list(listeners.values()):
                    listener._on_record(meta)
            elif listeners is not None:  # one is the rule: no list for it (benchmarks: join)
                listeners._on_record(meta)

    def _missed(self, entry: _Entry, sent: int) -> None:
        """The key held nothing final when it was read."""
        if entry.suspicion is not None and sent != _QUEUED:
            self._fail(entry, entry.suspicion[0])
        elif sent == _EARLY and entry.subscription == _ACKED:
            self._want_read(entry)

    def _suspect(self, entry: _Entry, error: ResultDecodeError, payload: bytes) -> None:
        """A message was unreadable. The stored key is the truth: fail only if that does not help."""
        self.decode_errors += 1
        entry.suspicion = error, payload
        self._want_read(entry)

    def _fail(self, entry: _Entry, error: AsyncResultError) -> None:
        listeners = entry.all()
        if listeners:
            self._went_idle(entry)
            for listener in listeners:
                listener._on_error(error)

    def _decode_large(self, entry: _Entry, payload: bytes, sent: int | None = None) -> None:
        """Decode what was pushed, or what a read that was ``sent`` in this state has found."""

        def done(outcome: TaskMeta | ResultDecodeError) -> None:
            if entry.listeners is None or self._entries.get(entry.key) is not entry:
                return
            if not isinstance(outcome, ResultDecodeError):
                self._take(entry, outcome, pushed=sent is None)
                if sent is not None and not outcome.ready:
                    self._missed(entry, sent)
            elif sent is None:
                self._suspect(entry, outcome, payload)
            else:
                self.decode_errors += 1
                self._fail(entry, outcome)

        self._source.decode_large(entry.task_id, payload, done)

    def _want_read(self, entry: _Entry) -> None:
        if entry.read != _QUEUED:
            # While one is in flight another is queued: the first may have been sent too early to count.
            entry.read = _QUEUED
            self._to_read.append(entry)
        self._schedule_flush()

    def _went_idle(self, entry: _Entry) -> None:
        entry.listeners = None
        entry.suspicion = None
        self._idle.append(entry)
        if self._reap_handle is None:
            self._reap_handle = self._loop.call_later(LINGER, self._reap)

    # -- once a tick, and by the clock ----------------------------------------------------------------

    def _schedule_flush(self) -> None:
        if self._flush_handle is None:
            self._flush_handle = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Send what this tick asked for: one SUBSCRIBE series, one chunk of reads."""
        self._flush_handle = None
        if self._to_subscribe and self._connected:
            keys = []
            for entry in self._to_subscribe:
                if entry.subscription == _NONE and entry.listeners is not None:
                    entry.subscription = _SENT
                    keys.append(entry.key)
            self._to_subscribe.clear()
            if keys:
                self._source.subscribe(keys)
        elif self._to_subscribe:
            self._source.subscribe([])  # wakes the connection; connected() will ask for all of them
            self._to_subscribe.clear()
        if self._to_read and not self._reading:
            self._send_reads()

    def _send_reads(self) -> None:
        keys: list[bytes] = []
        while self._to_read and len(keys) < self._read_chunk:
            entry = self._to_read.popleft()
            if entry.read == _QUEUED and entry.listeners is not None:
                entry.read = _SURE if entry.subscription == _ACKED else _EARLY
                entry.overtaken = False
                keys.append(entry.key)
            elif entry.read == _QUEUED:
                entry.read = _IDLE
        if keys:
            self._reading = len(keys)
            self._source.fetch(keys)

    def _reap(self) -> None:
        """Unsubscribe what nobody wants any more."""
        self._reap_handle = None
        if len(self._idle) - self._idle_before >= BULK and self._put_off < PATIENCE_WITH_BULK:
            self._put_off += 1
            self._idle_before = len(self._idle)
            self._reap_handle = self._loop.call_later(LINGER, self._reap)
            return
        self._put_off = self._idle_before = 0
        unwanted = []
        for entry in self._idle:
            if entry.listeners is None and self._entries.get(entry.key) is entry:
                del self._entries[entry.key]
                if entry.subscription != _NONE:
                    unwanted.append(entry.key)
        self._idle.clear()
        if len(self._to_read) > 2 * len(self._entries) + self._read_chunk:
            # Nothing can be read just now, and most of those who queued have given up meanwhile.
            self._to_read = deque(entry for entry in self._to_read if entry.listeners is not None)
        if unwanted and self._connected:
            self._source.unsubscribe(unwanted)
        if not self._entries and self._sweep_handle is not None:
            self._sweep_handle.cancel()
            self._sweep_handle = None

    def _schedule_sweep(self) -> None:
        # Jittered, so that a thousand processes that started together do not sweep together.
        delay = self._safety_interval * random.uniform(0.9, 1.0)
        self._sweep_handle = self._loop.call_later(delay, self._sweep)

    def _sweep(self) -> None:
        """Read every waited-for key: a lost or never sent notification costs one interval at most."""
        self.sweeps += 1
        self.sweep()
        self._schedule_sweep()
