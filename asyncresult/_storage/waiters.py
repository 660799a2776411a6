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

**States come in order.** While a task runs, reads and messages tell of its states on two connections, and either may
be the slower one. A read that was sent before a message arrived may have found what came before that message: it is
passed over. What a read has found may be newer than messages that are still on their way, so who follows the states
(a stream) is given it behind these; and messages that arrive after the read are held back until the order is known.
That is when the message of what was read arrives itself (all before it are older), or when a second SUBSCRIBE of the
key is acknowledged (then all that was published before the read has arrived, and if the state that was read is not
among it, all of it is newer). So no state that was published to a subscription that stands is skipped because a read
was faster. Who waits for the end alone is given what was read at once.

Nobody waiting implies nothing subscribed: an entry that lost its last listener lingers for a moment (the
key may be wanted again: a second ``await``, the next ``state()``) and is then unsubscribed in bulk.

The table is called with what happened (:meth:`Waiters.connected`, ``acked``, ``pushed``, ``fetched`` …) and says
what is to be done through its :class:`Source`. A listener that raises, or a record that does, ends its own wait
only: none of these calls raises. It does no I/O and starts no task; of the loop it uses
``call_soon`` and ``call_later`` only, so that a simulation can walk through every interleaving.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias

from ..codec.codec import LARGE_PAYLOAD_BYTES
from ..errors import AsyncResultError, ResultDecodeError
from ..meta import TaskMeta
from ..states import READY_STATES

__all__ = ["Listener", "Looked", "Source", "Waiters"]

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


#: Messages of a key that are held back, and bytes of large records that wait for their turn, at most.
HELD, BACKLOG_BYTES = 1000, 64 * 1024 * 1024

# Of the second SUBSCRIBE behind which messages are held back.
_NO_BARRIER, _WANTED, _ON_ITS_WAY = 0, 1, 2


Looked: TypeAlias = Literal["latest", "older", "ahead"]
"""What a look has found: the latest record; an older one than is known; a newer one than the table has handed on yet,
because states before it may be on their way."""


class Listener(Protocol):
    """Who waits for a key. Called on the loop, never from inside :meth:`Waiters.add`."""

    def _on_record(self, meta: TaskMeta) -> None:
        """The key's record; when it is ready the listener has been taken off the table."""

    def _on_error(self, error: AsyncResultError) -> None:
        """The wait is over without a record; the listener has been taken off the table."""

    @property
    def _follows(self) -> bool:
        """Whether it wants each state in its order; else the latest will do."""
        ...

    def _follower(self) -> Listener | None:
        """A final record was read, and states before it may be on their way: who is still to be given these, and it."""


class Source(Protocol):
    """What the table asks of the connections."""

    def subscribe(self, keys: list[bytes]) -> None:
        """Have :meth:`Waiters.acked` called for each key, as long as the connection lasts."""

    def unsubscribe(self, keys: list[bytes]) -> None: ...

    def wake(self) -> None:
        """Connect: somebody waits. :meth:`Waiters.connected` is called in time."""

    def fetch(self, keys: list[bytes]) -> None:
        """Have :meth:`Waiters.fetched`, or ``not_fetched``, called for all of them, in any number of slices."""

    def decode_large(
        self, task_id: str, payload: bytes, done: Callable[[TaskMeta | ResultDecodeError], object]
    ) -> None:
        """Decode away from the loop, then call ``done`` on it."""


class _Progress:
    """What has come for a key and did not end the wait: states of a task that runs, and what could not be read."""

    __slots__ = (
        "arrived",
        "arrived_at_read",
        "backlog",
        "barrier",
        "covered",
        "final",
        "found",
        "held",
        "latest",
        "suspicion",
    )

    def __init__(self) -> None:
        # The state that was handed on last, as it was stored.
        self.latest: bytes | None = None
        # What reads have found whose messages have not come, if they will; and the messages that came since.
        self.found: list[_Found] = []
        self.held: deque[tuple[bytes, TaskMeta]] = deque(maxlen=HELD)
        # The final record, while states before it may be on their way to those who follow them.
        self.final: TaskMeta | None = None
        # How many of those that were found were so before the barrier that is on its way was sent.
        self.barrier, self.covered = _NO_BARRIER, 0
        # Messages so far, and how many there were when the last read was sent.
        self.arrived = self.arrived_at_read = 0
        # What was published and could not be read: only a hint, so the key is read before anybody fails.
        self.suspicion: tuple[ResultDecodeError, bytes] | None = None
        # A large record is being decoded: what came behind it, with the read that found it (None: a message).
        self.backlog: deque[tuple[bytes, _Read | None]] | None = None

    @property
    def waiting(self) -> int:
        """How many records wait for the barrier."""
        return len(self.found) + (self.final is not None)

    def take_found(self, count: int) -> list[_Found]:
        """Take the first of what was found away."""
        taken = self.found[:count]
        del self.found[:count]
        self.covered = max(0, self.covered - count)
        return taken

    def forget_order(self) -> None:
        """What comes from here on is newer than all that was handed on."""
        self.found.clear()
        self.held.clear()
        self.barrier, self.covered = _NO_BARRIER, 0


class _Found(NamedTuple):
    """A state that a read has found; without a record if that was handed on."""

    payload: bytes
    meta: TaskMeta | None


class _Read(NamedTuple):
    """A read that was answered: when it was sent, as a state of the entry and in messages."""

    sent: int
    arrived: int


class _Entry:
    """One key that is waited for."""

    __slots__ = ("key", "listeners", "progress", "read", "subscription", "task_id")

    def __init__(self, key: bytes, task_id: str, listener: Listener) -> None:
        self.key = key
        self.task_id = task_id
        # Nearly always one: a dict would triple the memory of a waiting key. Keyed by id(), because
        # handles compare equal by task id.
        self.listeners: Listener | dict[int, Listener] | None = listener
        self.subscription = _NONE
        self.read = _IDLE
        self.progress: _Progress | None = None  # most tasks end without

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
        decode: :meth:`.codec.Codec.decode_small`, or one like it: None for a record that is too large for the loop.
        loop: Its ``call_soon``, ``call_later`` and nothing else.
        safety_interval: Seconds between two sweeps that read every waited-for key again.
        verify_key: Take a published final record as a hint only and read the key.
    """

    def __init__(
        self,
        source: Source,
        decode: Callable[[str, bytes], TaskMeta | None],
        *,
        loop: asyncio.AbstractEventLoop,
        safety_interval: float,
        verify_key: bool = False,
        read_chunk: int = READ_CHUNK,
    ) -> None:
        self.sweeps: int = 0
        self.decode_errors: int = 0
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
            if entry.progress is not None and entry.progress.final is not None:
                self._want_read(entry)  # or it has, and waits for states that were published before
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
                self._hand_error(listener, error)

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
            self._unsubscribed(entry)
            if entry.listeners is None and self._entries.get(entry.key) is entry:
                del self._entries[entry.key]  # the lost connection has unsubscribed it

    def acked(self, keys: Iterable[bytes]) -> None:
        """The subscription of ``keys`` stands."""
        for key in keys:
            entry = self._entries.get(key)
            if entry is None:
                continue
            progress = entry.progress
            if entry.subscription == _SENT:
                entry.subscription = _ACKED
                # EARLY: its miss will not count, and then it is read again. QUEUED: it will be SURE.
                if entry.read == _IDLE and entry.listeners is not None:
                    self._want_read(entry)
                if progress is not None and progress.barrier == _WANTED:
                    self._want_barrier(entry, progress)  # now it can be sent
            elif progress is not None and progress.barrier == _ON_ITS_WAY:
                self._passed(entry, progress)

    def dropped(self, keys: Iterable[bytes]) -> None:
        """The server ended these subscriptions: subscribe and read again."""
        for key in keys:
            entry = self._entries.get(key)
            if entry is not None and entry.subscription != _NONE:
                self._unsubscribed(entry)
                self._to_subscribe.append(entry)
                self._schedule_flush()

    def _unsubscribed(self, entry: _Entry) -> None:
        entry.subscription = _NONE
        if entry.read == _SURE:
            entry.read = _EARLY
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

    def pushed(self, key: bytes, payload: bytes) -> None:
        """A message arrived on ``key``'s channel."""
        entry = self._entries.get(key)
        if entry is None or entry.listeners is None:
            return
        if self._verify_key:
            self._want_read(entry)  # whatever it says
            return
        try:
            meta = self._decode(entry.task_id, payload)
        except Exception as error:
            self._suspect(entry, _undecodable(entry, error), payload)
        else:
            if meta is None:
                _progress_of(entry).arrived += 1
                self._decode_large(entry, payload, None)
            elif meta.status in READY_STATES:
                self._ended(entry, meta)
            else:
                _progress_of(entry).arrived += 1
                self._published(entry, payload, meta)

    def fetched(self, values: Sequence[tuple[bytes, bytes | None]]) -> None:
        """The stored values of keys that were to be read, in any number of slices."""
        size = 0
        for i, (key, payload) in enumerate(values, 1):
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
        """These keys cannot be read: their waits end. Their subscriptions stand, and are to be given up."""
        for key in keys:
            entry = self._entries.get(key)
            if entry is not None:
                entry.read = _IDLE
                self._fail(entry, error)
        self._answers(len(keys))

    def looked(self, key: bytes, payload: bytes | None, meta: TaskMeta, arrived: int) -> Looked:
        """The record of ``key`` was read for one handle alone, when :meth:`arrived` gave that number."""
        entry = self._entries.get(key)
        if entry is None or entry.listeners is None:
            return "latest"
        if meta.status in READY_STATES:
            self._found_final(entry, meta)
            return "latest"
        if payload:
            return self._found(entry, payload, meta, arrived)
        return "latest" if self.arrived(key) == arrived else "older"

    def arrived(self, key: bytes) -> int:
        """How many messages of ``key`` have arrived so far."""
        entry = self._entries.get(key)
        return entry.progress.arrived if entry is not None and entry.progress is not None else 0

    # -- consequences ---------------------------------------------------------------------------------

    def _answered(self, entry: _Entry, payload: bytes, sent: int) -> None:
        """A read of the entry's key has found something."""
        progress = entry.progress
        if progress is None:
            self._read_record(entry, payload, _Read(sent, 0))
        elif progress.suspicion is not None and progress.suspicion[1] == payload:
            self._missed(entry, sent)  # a bomb need not go off twice
        else:
            self._read_record(entry, payload, _Read(sent, progress.arrived_at_read))

    def _read_record(self, entry: _Entry, payload: bytes, read: _Read | None) -> None:
        """Decode what a read has found; without a read, a message that had to wait for its turn."""
        try:
            meta = self._decode(entry.task_id, payload)
        except Exception as error:
            self._decoded(entry, payload, _undecodable(entry, error), read)
        else:
            if meta is None:
                self._decode_large(entry, payload, read)
            else:
                self._decoded(entry, payload, meta, read)

    def _decoded(
        self, entry: _Entry, payload: bytes, outcome: TaskMeta | ResultDecodeError, read: _Read | None
    ) -> None:
        if isinstance(outcome, ResultDecodeError):
            if read is None:
                self._suspect(entry, outcome, payload)
            else:
                self.decode_errors += 1
                self._fail(entry, outcome)
        elif outcome.status in READY_STATES:
            if read is None:
                self._ended(entry, outcome)
            else:
                self._found_final(entry, outcome)
        elif read is None:
            self._published(entry, payload, outcome)
        elif entry.progress is not None and entry.progress.backlog is not None:
            self._queue(entry.progress, payload, read)
        else:
            self._found(entry, payload, outcome, read.arrived)
            self._missed(entry, read.sent)

    def _answers(self, count: int) -> None:
        """So many of the keys of the chunk in flight have been answered."""
        self._reading = max(0, self._reading - count)
        if self._to_read and not self._reading:
            self._schedule_flush()

    def _ended(self, entry: _Entry, meta: TaskMeta) -> None:
        """A final record was published: all that was published before it has arrived."""
        progress = entry.progress
        if progress is not None:
            if progress.backlog is not None and self._end_for_most(entry, meta):
                return  # a state before it is being decoded
            self._release(entry, progress)
            if entry.listeners is None:
                return
        self._finish(entry, meta)

    def _found_final(self, entry: _Entry, meta: TaskMeta) -> None:
        """A read has found a final record: what was published before it may be on its way."""
        if entry.subscription == _NONE or self._verify_key or not self._end_for_most(entry, meta):
            self._finish(entry, meta)
        else:
            self._want_barrier(entry, _progress_of(entry))

    def _end_for_most(self, entry: _Entry, meta: TaskMeta) -> bool:
        """Hand on a final record to all but those who follow the states before it. Whether there are such."""
        listeners = entry.all()
        followers = [follower for one in listeners if (follower := one._follower()) is not None]
        if not followers:
            return False
        progress = _progress_of(entry)
        entry.listeners = {id(follower): follower for follower in followers}
        progress.final = progress.final or meta
        for listener in listeners:
            if id(listener) not in entry.listeners:
                self._hand_on(listener, meta)
        return True

    def _finish(self, entry: _Entry, meta: TaskMeta) -> None:
        """Hand on a final record, which ends the waits."""
        listeners = entry.listeners
        self._went_idle(entry)
        if isinstance(listeners, dict):
            for listener in list(listeners.values()):
                self._hand_on(listener, meta)
        elif listeners is not None:  # one is the rule: no call for it (benchmarks: join)
            try:
                listeners._on_record(meta)
            except Exception as error:
                self._listener_failed(listeners, error)

    def _published(self, entry: _Entry, payload: bytes, meta: TaskMeta) -> None:
        """A state was published that is not final; see "States come in order" above."""
        progress = _progress_of(entry)
        if progress.backlog is not None:
            self._queue(progress, payload, None)
            return
        if not progress.found:
            if payload != progress.latest:
                progress.latest = payload
                self._hand_on_to_all(entry, meta)
            return
        place = next((i for i, found in enumerate(progress.found) if found.payload == payload), None)
        if place is None:
            progress.held.append((payload, meta))
            self._want_barrier(entry, progress)
            return
        *before, found = progress.take_found(place + 1)
        held = list(progress.held)
        progress.held.clear()
        if found.meta is not None:  # else what was held is older than what was handed on
            self._hand_on_states(entry, progress, [*before, *held, found])

    def _found(self, entry: _Entry, payload: bytes, meta: TaskMeta, arrived: int) -> Looked:
        """A state that is not final was found by a read that was sent when so many messages had arrived."""
        progress = _progress_of(entry)
        if progress.final is not None:
            return "older"
        if payload == progress.latest:
            return "latest"
        if any(payload == other for other, _ in (*progress.found, *progress.held)):
            return "ahead"
        if not progress.found and progress.arrived != arrived:
            return "older"  # overtaken
        if entry.subscription != _NONE and not self._verify_key:  # else no message is on its way that counts
            if len(progress.found) >= HELD:
                progress.take_found(1)
            if any(listener._follows for listener in entry.all()):
                progress.found.append(_Found(payload, meta))
                self._want_barrier(entry, progress)
                return "ahead"
            progress.found.append(_Found(payload, None))
        progress.latest = payload
        self._hand_on_to_all(entry, meta)
        return "latest"

    def _want_barrier(self, entry: _Entry, progress: _Progress) -> None:
        if progress.barrier != _ON_ITS_WAY:  # else another one follows it
            progress.barrier = _WANTED
            self._to_subscribe.append(entry)
            self._schedule_flush()

    def _passed(self, entry: _Entry, progress: _Progress) -> None:
        """The barrier is acknowledged: what was published before it was sent has arrived."""
        progress.barrier = _NO_BARRIER
        if progress.backlog is not None:
            return  # but it has not been decoded
        if progress.covered == progress.waiting:
            self._release(entry, progress)
        else:
            self._want_barrier(entry, progress)
            self._hand_on_states(entry, progress, progress.take_found(progress.covered))

    def _release(self, entry: _Entry, progress: _Progress) -> None:
        """All that was published before the last read has arrived; what is not among it is older than what is."""
        states = [*progress.found, *progress.held]
        progress.forget_order()
        self._hand_on_states(entry, progress, states)
        if progress.final is not None and entry.progress is progress:
            self._finish(entry, progress.final)

    def _hand_on_states(
        self, entry: _Entry, progress: _Progress, states: Iterable[tuple[bytes, TaskMeta | None]]
    ) -> None:
        for payload, meta in states:
            if meta is not None:
                progress.latest = payload
                self._hand_on_to_all(entry, meta)

    def _hand_on_to_all(self, entry: _Entry, meta: TaskMeta) -> None:
        for listener in entry.all():
            self._hand_on(listener, meta)

    def _hand_on(self, listener: Listener, meta: TaskMeta) -> None:
        try:
            listener._on_record(meta)
        except Exception as error:
            self._listener_failed(listener, error)

    def _listener_failed(self, listener: Listener, error: Exception) -> None:
        """The wait of a listener that raised ends, and no other one."""
        self._loop.call_exception_handler(
            {"message": f"asyncresult: {type(listener).__name__} failed on a record", "exception": error}
        )
        for entry in [entry for entry in self._entries.values() if listener in entry.all()]:
            self.discard(entry.key, listener)
        self._hand_error(listener, AsyncResultError(f"a record could not be handed on: {type(error).__name__}"))

    def _hand_error(self, listener: Listener, error: AsyncResultError) -> None:
        try:
            listener._on_error(error)
        except Exception as failure:
            self._loop.call_exception_handler(
                {"message": f"asyncresult: {type(listener).__name__} failed on an error", "exception": failure}
            )

    def _missed(self, entry: _Entry, sent: int) -> None:
        """The key held nothing final when it was read."""
        progress = entry.progress
        if progress is not None and progress.suspicion is not None and sent != _QUEUED:
            self._fail(entry, progress.suspicion[0])
        elif sent == _EARLY and entry.subscription == _ACKED:
            self._want_read(entry)

    def _suspect(self, entry: _Entry, error: ResultDecodeError, payload: bytes) -> None:
        """A message was unreadable. The stored key is the truth: fail only if that does not help."""
        self.decode_errors += 1
        _progress_of(entry).suspicion = error, payload
        self._want_read(entry)

    def _fail(self, entry: _Entry, error: AsyncResultError) -> None:
        listeners = entry.all()
        if listeners:
            self._went_idle(entry)
            for listener in listeners:
                self._hand_error(listener, error)

    def _decode_large(self, entry: _Entry, payload: bytes, read: _Read | None) -> None:
        """Decode a record away from the loop: one of a key at a time, and the same one once."""
        progress = _progress_of(entry)
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

        self._source.decode_large(entry.task_id, payload, done)

    def _caught_up(self, entry: _Entry) -> None:
        """What came behind a large record has been looked at; a barrier that was passed meanwhile did not count."""
        progress = entry.progress
        if progress is not None and progress.backlog is None and progress.waiting:
            self._want_barrier(entry, progress)

    def _queue(self, progress: _Progress, payload: bytes, read: _Read | None) -> None:
        """Have a record wait behind the large one that is being decoded."""
        backlog = progress.backlog
        assert backlog is not None
        backlog.append((payload, read))
        while len(backlog) > HELD or (len(backlog) > 1 and sum(len(held) for held, _ in backlog) > BACKLOG_BYTES):
            backlog.popleft()  # a state that the next one replaces

    def _want_read(self, entry: _Entry) -> None:
        if entry.read != _QUEUED:
            # While one is in flight another is queued: the first may have been sent too early to count.
            entry.read = _QUEUED
            self._to_read.append(entry)
        self._schedule_flush()

    def _went_idle(self, entry: _Entry) -> None:
        entry.listeners = None
        progress = entry.progress
        entry.progress = None
        if progress is not None and progress.backlog is not None:
            # It may be wanted again before this has been decoded: no need to begin anew.
            _progress_of(entry).backlog = progress.backlog
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
                if entry.listeners is None:
                    continue
                progress = entry.progress
                if entry.subscription == _NONE:
                    entry.subscription = _SENT
                    keys.append(entry.key)
                elif progress is not None and progress.barrier == _WANTED and entry.subscription == _ACKED:
                    progress.barrier, progress.covered = _ON_ITS_WAY, progress.waiting
                    keys.append(entry.key)
            self._to_subscribe.clear()
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
            if entry.read == _QUEUED and entry.listeners is not None:
                entry.read = _SURE if entry.subscription == _ACKED else _EARLY
                if entry.progress is not None:
                    entry.progress.arrived_at_read = entry.progress.arrived
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


def _progress_of(entry: _Entry) -> _Progress:
    if entry.progress is None:
        entry.progress = _Progress()
    return entry.progress


def _undecodable(entry: _Entry, error: Exception) -> ResultDecodeError:
    """The error of a record, whatever reading it has raised. Its text stays out: it may quote the record."""
    if isinstance(error, ResultDecodeError):
        return error
    return ResultDecodeError(
        f"the record of task {entry.task_id} cannot be read: {type(error).__name__}", task_id=entry.task_id
    )
