"""When to read which record, and the thread that reads: the parts of :mod:`.polled` that know no event loop.

How often a record is read follows how long nothing has happened: a tenth of the time since it last changed, within
``min_interval`` and ``max_interval``. So a task of half a second is noticed within 50 ms, one of five minutes within a
second, and a bar of progress that moves is followed at its own pace.

A request costs nearly the same for one record as for hundreds. So whenever one record is due, the request is filled
up with those that would be due next.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heappop, heappush
from itertools import count
from math import inf
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar, runtime_checkable

from ..errors import BackendError

__all__ = ["Listable", "ReaderThread", "Records", "Schedule", "Watch", "news_of", "read_apart"]

T = TypeVar("T")

#: The interval between two reads of a record, as a part of the time since it last changed.
PART_OF_AGE = 0.1
#: How many records a thread reads in one go where each takes a request of its own.
SINGLE_READS = 16
#: How much the latest request counts in the smoothed cost of one.
WEIGHT_OF_LATEST = 0.3


class Records(Protocol):
    """Where records are kept. Made on a thread of ours, and used and closed by that thread only; it may block.

    Any method may raise. A :class:`asyncresult.BackendError` means that no later attempt can succeed, and ends the
    waits; anything else counts as an outage: waits go on, and the read is tried again.

    Attributes:
        batch: How many records one request can name; :meth:`read` is called with no more.
    """

    batch: int

    def read(self, ids: Sequence[str]) -> Mapping[str, bytes]:
        """The records of these tasks, as Celery's Redis backend would store them; none where nothing is stored."""
        ...

    def write(self, task_id: str, payload: bytes, status: str) -> None:
        """Store a record of this status."""

    def delete(self, ids: Sequence[str]) -> None:
        """Delete records; those that do not exist are no error."""

    def read_group(self, group_id: str) -> bytes | None:
        """A saved group, in the form of Celery's Redis backend."""

    def write_group(self, group_id: str, payload: bytes) -> None: ...

    def delete_group(self, group_id: str) -> None: ...

    def close(self) -> None: ...


@runtime_checkable
class Listable(Protocol):
    """Records that can be listed, for tools."""

    def ids(self, after: str, count: int) -> Sequence[str]:
        """Ids of records, in an order of the store's own: those after ``after``, at most ``count``."""
        ...


#: Read to find out whether a store answers at all: nothing is ever kept under it.
_PROBE = "asyncresult-probe"


def read_apart(records: Records, ids: Sequence[str]) -> tuple[dict[str, bytes], dict[str, Exception]]:
    """Read all, and those that the store fails for apart from the others.

    Returns:
        What was found; and for ids that cannot be read, while others can, the reason.

    Raises:
        Exception: Nothing can be read.
    """
    found: dict[str, bytes] = {}
    failed: dict[str, Exception] = {}
    batch = max(1, records.batch)
    parts = [ids[start : start + batch] for start in range(0, len(ids), batch)]
    answers = False
    while parts:
        part = parts.pop()
        try:
            found.update(records.read(part))
            answers = True
            continue
        except BackendError:
            raise
        except Exception as error:
            if not answers:
                try:
                    records.read([_PROBE])
                except Exception:
                    raise error from None  # an outage: to request the parts would take as many failures
                answers = True
            if len(part) == 1:
                failed[part[0]] = error
        if len(part) > 1:
            middle = len(part) // 2
            parts += [part[:middle], part[middle:]]
    return found, failed


class Watch:
    """A record that somebody waits for."""

    __slots__ = ("again", "changed", "due", "fetch", "key", "payload", "reported", "task_id")

    def __init__(self, key: bytes, task_id: str, now: float) -> None:
        self.key = key
        self.task_id = task_id
        #: When it is to be read again. None while it is being read, and once it is dropped.
        self.due: float | None = None
        self.changed = now
        self.payload: bytes | None = None
        #: The table of waiters has requested a read that has not begun; and for the one that is under way.
        self.fetch = False
        self.reported = False
        #: It may have changed since the read that is under way began.
        self.again = False


class Schedule:
    """The records that are watched, by the time when each is to be read. All times are given."""

    def __init__(self, min_interval: float, max_interval: float) -> None:
        self.min_interval = min_interval
        self.max_interval = max_interval
        #: Whether a request is filled up with what is not due yet.
        self.fill = True
        self._watches: dict[bytes, Watch] = {}
        self._heap: list[tuple[float, int, Watch]] = []
        self._number = count()

    def __contains__(self, key: bytes) -> bool:
        return key in self._watches

    def __len__(self) -> int:
        return len(self._watches)

    def add(self, key: bytes, task_id: str, now: float) -> None:
        """Watch a record, from the next interval on."""
        if key not in self._watches:
            watch = self._watches[key] = Watch(key, task_id, now)
            self._put(watch, now + self.min_interval)

    def drop(self, key: bytes) -> Watch | None:
        """Watch it no more."""
        watch = self._watches.pop(key, None)
        if watch is not None:
            watch.due = None
        return watch

    def fetch(self, key: bytes, now: float) -> bool:
        """Read it at once, for the table of waiters. Whether it is watched."""
        watch = self._watches.get(key)
        if watch is None:
            return False
        watch.fetch = True
        self._hurry(watch, now)
        return True

    def hurry(self, keys: Iterable[bytes], now: float) -> bool:
        """Read those of ``keys`` that are watched at once. Whether any is."""
        watches = [watch for key in keys if (watch := self._watches.get(key)) is not None]
        for watch in watches:
            self._hurry(watch, now)
        return bool(watches)

    def hurry_all(self, now: float) -> None:
        """Read everything at once."""
        self.hurry(list(self._watches), now)

    def _hurry(self, watch: Watch, now: float) -> None:
        if watch.due is None:
            watch.again = True
        elif watch.due > now:
            self._put(watch, now)

    def _put(self, watch: Watch, due: float) -> None:
        watch.due = due
        heappush(self._heap, (due, next(self._number), watch))

    @property
    def due(self) -> float | None:
        """When the next one is due; None where nothing is."""
        heap = self._heap
        while heap:
            due, _, watch = heap[0]
            if watch.due == due:
                return due
            heappop(heap)  # it was hurried, taken or dropped meanwhile
        return None

    def take(self, batch: int, now: float) -> list[Watch]:
        """What is to be read now: what is due, and to fill up a request of ``batch`` what would be due next."""
        taken: list[Watch] = []
        due = self.due
        if due is not None and due <= now:
            room, until = (batch, inf if self.fill else now) if batch > 1 else (SINGLE_READS, now)
            while len(taken) < room and (due := self.due) is not None and due <= until:
                watch = heappop(self._heap)[2]
                watch.due = None
                watch.reported, watch.fetch, watch.again = watch.fetch, False, False
                taken.append(watch)
        return taken

    def put_back(self, watch: Watch, now: float, *, changed: bool = False, wanted: bool = True) -> None:
        """It was read. ``wanted``: somebody still waits for more of it."""
        if self._watches.get(watch.key) is not watch:
            return
        if changed:
            watch.changed = now
        interval = self.max_interval
        if wanted:
            interval = min(interval, max(self.min_interval, PART_OF_AGE * (now - watch.changed)))
        self._put(watch, now if watch.again else now + interval)

    def restore(self, watch: Watch, now: float, *, delay: float = 0.0) -> None:
        """It could not be read: it is due as it was, or in a while."""
        if self._watches.get(watch.key) is watch:
            watch.fetch = watch.fetch or watch.reported
            self._put(watch, now + delay)


def news_of(
    reads: Iterable[tuple[Watch, bytes | None]], schedule: Schedule
) -> tuple[list[tuple[bytes, bytes | None]], list[tuple[bytes, bytes]], list[bool]]:
    """What was read: for the table of waiters, which had requested it; what else has changed; and which did."""
    fetched: list[tuple[bytes, bytes | None]] = []
    pushed: list[tuple[bytes, bytes]] = []
    changes: list[bool] = []
    for watch, payload in reads:
        changed = payload is not None and payload != watch.payload
        changes.append(changed)
        watch.payload = payload
        if watch.reported:
            watch.reported = False
            if watch.key in schedule:  # else it was answered when it was dropped
                fetched.append((watch.key, payload))
        elif changed and payload is not None:
            pushed.append((watch.key, payload))
    return fetched, pushed, changes


class ReaderThread:
    """A daemon thread that runs jobs, one after another, on records that it opens for the first.

    It starts with the first job, and refers to nothing between two of them: so whoever submits can be collected.
    """

    def __init__(self, open_records: Callable[[], Records], name: str) -> None:
        self.idle = True
        #: No request for the sake of waits before this time, so that they take no more than their share of it.
        self.rests_until = 0.0
        #: A timer of whoever waits for the answer to a request.
        self.overdue: Any = None
        self._cost: float | None = None
        self._warm = False
        self._open = open_records
        self._name = name
        self._thread: threading.Thread | None = None
        self.queue: SimpleQueue[tuple[Callable[[Records], Any] | None, Callable[..., object] | None]] = SimpleQueue()

    def submit(self, job: Callable[[Records], T], done: Callable[[T | None, Exception | None, float], object]) -> None:
        """Have ``done`` called, on the thread, with what ``job`` gives or raises, and the seconds that it took."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=_run_jobs, args=(self.queue, self._open), name=self._name, daemon=True
            )
            self._thread.start()
        self.queue.put((job, done))

    def in_time(self) -> None:
        """The request was answered."""
        if self.overdue is not None:
            self.overdue.cancel()
            self.overdue = None

    def rest(self, cost: float, share: float, now: float) -> None:
        """A request took ``cost`` seconds: rest, so that requests take no more than ``share`` of the time."""
        if not self._warm:  # the first opens connections, and imports what it needs: it says nothing about the others
            self._warm = True
            return
        if self._cost is None or cost < self._cost:
            self._cost = cost
        else:  # one that was slow by chance counts little
            self._cost += WEIGHT_OF_LATEST * (cost - self._cost)
        self.rests_until = now + self._cost * (1 / share - 1)

    def failed(self) -> None:
        """A request failed: the next has to open connections again."""
        self._warm = False

    def stop(self, done: Callable[[], object] | None = None) -> bool:
        """Close the records behind the jobs that were submitted, and end. Whether it runs, and will call ``done``."""
        if self._thread is None:
            return False
        self.queue.put((None, done))
        return True

    def join(self) -> None:
        """Wait until the thread that has called ``done`` is gone, which it is nearly."""
        if self._thread is not None:
            self._thread.join(1.0)


def _run_jobs(queue: SimpleQueue[Any], open_records: Callable[[], Records]) -> None:
    records: Records | None = None
    while True:
        job, done = queue.get()
        if job is None:
            break
        result, failure, began = None, None, time.perf_counter()
        try:
            if records is None:
                records = open_records()
            result = job(records)
        except Exception as error:
            failure = error
        if not _call(done, result, failure, time.perf_counter() - began):
            break
        del job, done, result, failure
    if records is not None:
        try:
            records.close()
        except Exception:
            pass  # a connection that is broken anyway
    if done is not None:
        _call(done)


def _call(done: Callable[..., object], *args: object) -> bool:
    try:
        done(*args)
    except RuntimeError:  # the event loop is closed: nobody waits for anything any more
        return False
    return True
