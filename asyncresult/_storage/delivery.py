"""What has come for a key is handed to its listeners, in its order.

**States come in order.** While a task runs, reads and messages bring its states on two connections, and either may
be the slower one. A read that was sent before a message arrived may have found what came before that message: it is
passed over. What a read has found may be newer than messages that are still on their way, so who follows the states
(a stream) is given it behind these; and messages that arrive after the read are held back until the order is known.
That is when the message of what was read arrives itself (all before it are older), or when a second SUBSCRIBE of the
key is acknowledged (then all that was published before the read has arrived, and if the state that was read is not
among it, all of it is newer). So no state that was published to an acknowledged subscription is skipped because a read
was faster. Who waits for the end alone is given what was read at once.

A large record is decoded away from the loop: what comes behind it meanwhile waits in the entry's backlog.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from ..errors import AsyncResultError
from ..meta import TaskMeta
from ..probe import Source as RecordSource
from .entries import BACKLOG_BYTES, HELD, NO_BARRIER, NONE, Entry, Found, Listener, Looked, Progress, Read, progress_of
from .rounds import Rounds, Source

__all__ = ["Delivery"]


class Delivery(Rounds):
    """The entries, and who is given what of what has come.

    Args:
        source, loop, safety_interval, read_chunk: As of :class:`.rounds.Rounds`.
        verify_key: Only what is read counts; messages are no more than hints.
        origin: Where messages come from.

    Attributes:
        source: Where what is being handed on comes from.
        source_of_reads: And what is read, but by a sweep.
    """

    def __init__(
        self,
        source: Source,
        *,
        loop: asyncio.AbstractEventLoop,
        safety_interval: float,
        read_chunk: int,
        verify_key: bool,
        origin: RecordSource,
    ) -> None:
        super().__init__(source, loop=loop, safety_interval=safety_interval, read_chunk=read_chunk)
        self._verify_key = verify_key
        self.source: RecordSource = origin
        self.source_of_reads: RecordSource = "memory" if origin == "memory" else "read"
        #: Final records that came as messages, and by reads.
        self.received: int = 0
        self.read: int = 0
        #: Called with each that came as a message, if set.
        self.on_received: Callable[[TaskMeta], object] | None = None

    def discard(self, key: bytes, listener: Listener) -> None:
        """Take ``listener`` off. Harmless when it is not there."""
        entry = self._entries.get(key)
        if entry is not None and entry.listeners is not None and entry.discard(listener):
            self._went_idle(entry)

    # -- in their order --------------------------------------------------------------------------------

    def _ended(self, entry: Entry, meta: TaskMeta) -> None:
        """A final record was published: all that was published before it has arrived."""
        progress = entry.progress
        if progress is None or progress.final is None:  # else a read was faster
            self.received += 1
            if self.on_received is not None:
                self.on_received(meta)
        if progress is not None:
            if progress.backlog is not None and self._end_for_most(entry, meta):
                return  # a state before it is being decoded
            self._release(entry, progress)
            if entry.listeners is None:
                return
        self._finish(entry, meta)

    def _found_final(self, entry: Entry, meta: TaskMeta) -> None:
        """A read has found a final record: what was published before it may be on its way."""
        if entry.progress is None or entry.progress.final is None:
            self.read += 1
            if entry.key in self._swept:
                self._unannounced.add(entry.key)
        if entry.subscription == NONE or self._verify_key or not self._end_for_most(entry, meta):
            self._finish(entry, meta)
        else:
            self._want_barrier(entry, progress_of(entry))

    def _end_for_most(self, entry: Entry, meta: TaskMeta) -> bool:
        """Hand on a final record to all but those who follow the states before it. Whether there are such."""
        listeners = entry.all()
        followers = [follower for one in listeners if (follower := one._follower()) is not None]
        if not followers:
            return False
        progress = progress_of(entry)
        entry.listeners = {id(follower): follower for follower in followers}
        progress.final = progress.final or meta
        for listener in listeners:
            if id(listener) not in entry.listeners:
                self._hand_on(listener, meta)
        return True

    def _finish(self, entry: Entry, meta: TaskMeta) -> None:
        """Hand on a final record, which ends the waits."""
        listeners = entry.listeners
        if entry.progress is None:  # _went_idle(), without a call (benchmarks: join)
            entry.listeners = None
            self._idle.append(entry)
            if self._reap_handle is None:
                self._reap_later()
        else:
            self._went_idle(entry)
        if isinstance(listeners, dict):
            for listener in list(listeners.values()):
                self._hand_on(listener, meta)
        elif listeners is not None:  # one is the rule: no call for it (benchmarks: join)
            try:
                listeners._on_record(meta)
            except Exception as error:
                self._listener_failed(listeners, error)

    def _published(self, entry: Entry, progress: Progress, payload: bytes, meta: TaskMeta) -> None:
        """A state was published that is not final; see "States come in order" above."""
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

    def _found(self, entry: Entry, payload: bytes, meta: TaskMeta, arrived: int) -> Looked:
        """A state that is not final was found by a read that was sent when so many messages had arrived."""
        progress = progress_of(entry)
        if progress.final is not None:
            return "older"
        if payload == progress.latest:
            return "latest"
        if any(payload == other for other, _ in (*progress.found, *progress.held)):
            return "ahead"
        if not progress.found and progress.arrived != arrived:
            return "older"  # overtaken
        if entry.subscription != NONE and not self._verify_key:  # else no message is on its way that counts
            if len(progress.found) >= HELD:
                progress.take_found(1)
            if any(listener._follows for listener in entry.all()):
                progress.found.append(Found(payload, meta))
                self._want_barrier(entry, progress)
                return "ahead"
            progress.found.append(Found(payload, None))
        progress.latest = payload
        self._hand_on_to_all(entry, meta)
        return "latest"

    def _passed(self, entry: Entry, progress: Progress) -> None:
        """The barrier is acknowledged: what was published before it was sent has arrived."""
        progress.barrier = NO_BARRIER
        if progress.backlog is not None:
            return  # but it has not been decoded
        if progress.covered == progress.waiting:
            self._release(entry, progress)
        else:
            self._want_barrier(entry, progress)
            self._hand_on_states(entry, progress, progress.take_found(progress.covered))

    def _release(self, entry: Entry, progress: Progress) -> None:
        """All that was published before the last read has arrived; what is not among it is older than what is."""
        states = [*progress.found, *progress.held]
        progress.forget_order()
        self._hand_on_states(entry, progress, states)
        if progress.final is not None and entry.progress is progress:
            self._finish(entry, progress.final)

    def _hand_on_states(
        self, entry: Entry, progress: Progress, states: Iterable[tuple[bytes, TaskMeta | None]]
    ) -> None:
        for payload, meta in states:
            if meta is not None:
                progress.latest = payload
                self._hand_on_to_all(entry, meta)

    def _hand_on_to_all(self, entry: Entry, meta: TaskMeta) -> None:
        listeners = entry.listeners
        if listeners is None or isinstance(listeners, dict):
            for listener in entry.all():
                self._hand_on(listener, meta)
        else:  # one is the rule: no list and no call for it (benchmarks: updates)
            try:
                listeners._on_record(meta)
            except Exception as error:
                self._listener_failed(listeners, error)

    def _queue(self, progress: Progress, payload: bytes, read: Read | None) -> None:
        """Have a record wait behind the large one that is being decoded."""
        backlog = progress.backlog
        assert backlog is not None
        backlog.append((payload, read))
        while len(backlog) > HELD or (len(backlog) > 1 and sum(len(held) for held, _ in backlog) > BACKLOG_BYTES):
            backlog.popleft()  # a state that the next one replaces

    # -- to the listeners -----------------------------------------------------------------------------

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

    def _release_all(self, entry: Entry, error: AsyncResultError) -> None:
        """Release the listeners of an entry that is not in the table any more."""
        listeners = entry.all()
        entry.listeners = None  # nor is it given what came with the same read of the socket
        for listener in listeners:
            self._hand_error(listener, error)

    def _fail(self, entry: Entry, error: AsyncResultError) -> None:
        listeners = entry.all()
        if listeners:
            self._went_idle(entry)
            for listener in listeners:
                self._hand_error(listener, error)
