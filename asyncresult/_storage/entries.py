"""A key that somebody waits for: its listeners, its two states, and the order of what has come for it.

One :class:`Entry` has two states side by side. Who changes them: :mod:`.waiters` by what has happened, :mod:`.rounds`
by what it sends.

============ ============================== =================================================================
subscription on                             to
============ ============================== =================================================================
NONE         SUBSCRIBE is sent              SENT
SENT         the acknowledgement            ACKED; the key is read, unless a read is queued already
any          the connection is lost, or     NONE; a read that is SURE becomes EARLY; what is held back is handed
             the server ends it             on; it is subscribed anew
any          the server refuses it          NONE; the waits end with the error
============ ============================== =================================================================

============ ============================== =================================================================
read         on                             to
============ ============================== =================================================================
any          a read is wanted               QUEUED, also while one is in flight: that one may not count
QUEUED       its chunk is sent              SURE if the subscription is ACKED, else EARLY
QUEUED       its chunk, with nobody waiting IDLE
EARLY        the answer                     IDLE; a miss does not count: QUEUED again, once the subscription is ACKED
SURE         the answer                     IDLE; a miss counts: the result is not there, and will be published
============ ============================== =================================================================

A second SUBSCRIBE of the key is the *barrier* behind which messages are held back: NO_BARRIER, WANTED, ON_ITS_WAY
(sent), NO_BARRIER again with its acknowledgement.
"""

from __future__ import annotations

from collections import deque
from typing import Literal, NamedTuple, Protocol, TypeAlias

from ..codec.exceptions import printable
from ..errors import AsyncResultError, ResultDecodeError
from ..meta import TaskMeta

__all__ = [
    "ACKED",
    "BACKLOG_BYTES",
    "EARLY",
    "HELD",
    "IDLE",
    "NONE",
    "NO_BARRIER",
    "ON_ITS_WAY",
    "QUEUED",
    "SENT",
    "SURE",
    "WANTED",
    "Entry",
    "Found",
    "Listener",
    "Looked",
    "Progress",
    "Read",
    "progress_of",
    "undecodable",
]

# The two states of an entry. Plain ints: compared once or twice a message.
NONE, SENT, ACKED = 0, 1, 2
IDLE, QUEUED, EARLY, SURE = 0, 1, 2, 3


#: Messages of a key that are held back, and bytes of large records that wait for their turn, at most.
HELD, BACKLOG_BYTES = 1000, 64 * 1024 * 1024

# Of the second SUBSCRIBE behind which messages are held back.
NO_BARRIER, WANTED, ON_ITS_WAY = 0, 1, 2


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


class Progress:
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
        self.found: list[Found] = []
        self.held: deque[tuple[bytes, TaskMeta]] = deque(maxlen=HELD)
        # The final record, while states before it may be on their way to those who follow them.
        self.final: TaskMeta | None = None
        # How many of those that were found were so before the barrier that is on its way was sent.
        self.barrier, self.covered = NO_BARRIER, 0
        # Messages so far, and how many there were when the last read was sent.
        self.arrived = self.arrived_at_read = 0
        # What was published and could not be read: only a hint, so the key is read before anybody fails.
        self.suspicion: tuple[ResultDecodeError, bytes] | None = None
        # A large record is being decoded: what came behind it, with the read that found it (None: a message).
        self.backlog: deque[tuple[bytes, Read | None]] | None = None

    @property
    def waiting(self) -> int:
        """How many records wait for the barrier."""
        return len(self.found) + (self.final is not None)

    def take_found(self, count: int) -> list[Found]:
        """Take the first of what was found away."""
        taken = self.found[:count]
        del self.found[:count]
        self.covered = max(0, self.covered - count)
        return taken

    def forget_order(self) -> None:
        """What comes from here on is newer than all that was handed on."""
        self.found.clear()
        self.held.clear()
        self.barrier, self.covered = NO_BARRIER, 0


class Found(NamedTuple):
    """A state that a read has found; without a record if that was handed on."""

    payload: bytes
    meta: TaskMeta | None


class Read(NamedTuple):
    """A read that was answered: when it was sent, as a state of the entry and in messages."""

    sent: int
    arrived: int


class Entry:
    """One key that is waited for."""

    __slots__ = ("key", "listeners", "progress", "read", "subscription", "task_id")

    def __init__(self, key: bytes, task_id: str, listener: Listener) -> None:
        self.key = key
        self.task_id = task_id
        # Nearly always one: a dict would triple the memory of a waiting key. Keyed by id(), because
        # handles compare equal by task id.
        self.listeners: Listener | dict[int, Listener] | None = listener
        self.subscription = NONE
        self.read = IDLE
        self.progress: Progress | None = None  # most tasks end without

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


def progress_of(entry: Entry) -> Progress:
    if entry.progress is None:
        entry.progress = Progress()
    return entry.progress


def undecodable(entry: Entry, error: Exception) -> ResultDecodeError:
    """The error of a record, whatever reading it has raised. Its text stays out: it may quote the record."""
    if isinstance(error, ResultDecodeError):
        return error.with_traceback(None)
    return ResultDecodeError(
        f"the record of task {printable(entry.task_id)} cannot be read: {type(error).__name__}", task_id=entry.task_id
    )
