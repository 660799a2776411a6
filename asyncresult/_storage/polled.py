"""Stores that announce nothing: databases, caches, files, objects. Whoever waits is served by reading, well paced.

::

    waiters ──subscribe, fetch──> Schedule ──batches──> ReaderThread ──> Records (blocking)
       ^                                                     │
       └────── fetched(), pushed(): what has changed <──────┘

The table of waiters is the one that serves Redis. Its subscriptions are acknowledged at once, and a record that has
changed since it was last read counts as published. So streams, joins and ``until()`` work as they do elsewhere; of
states that follow each other faster than the record is read, the latest is seen.

* A request names as many records as the store can answer at once (:mod:`.polling`). One that is under way is not
  repeated.
* Waits spend at most ``share`` of the time in requests, by the measured cost of one: a slow store is read more
  rarely. Explicit reads (``state()``, ``get_meta()``) are not held back.
* A request that fails is an outage: waits go on, it is repeated with a growing delay, ``stats().last_error`` says why.
* What is no record (requests to revoke a task, presence of workers, histories) has no place in such a store, and is
  kept in this process (:mod:`.memory`): so a block under ``track()`` can be revoked, and its history be read, from its
  own process only.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import itertools
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from operator import methodcaller
from typing import Any, ClassVar

from .._checks import check_count, check_seconds
from .._log import Log, get_logger
from ..codec.codec import Codec
from ..errors import BackendClosed, BackendError, BackendUnavailable
from ..probe import Source
from .engine import BackendStats, Engine
from .memory import MemoryDriver, MemoryEngine
from .memory import Records as KeptRecords
from .outage import Outage
from .polling import SINGLE_READS, Listable, ReaderThread, Records, Schedule, Watch, news_of, read_apart
from .questions import Question, Questions, answer_with, first_of, pass_on
from .store import Driver, Store

__all__ = ["PolledDriver", "PolledEngine"]

logger: Log = get_logger("asyncresult")

#: Seconds until a failed request is repeated: first, and at most.
BACKOFF_FIRST, BACKOFF_LAST = 0.1, 5.0
#: Seconds without an answer, at the most, after which another thread goes on; at first two heartbeats.
MOST_PATIENCE = 300.0
#: Ids that are requested at a time, where a store can be listed.
IDS_PER_REQUEST = 500
#: The longest text of a store's error that is passed on.
REASON_CHARACTERS = 300


class PolledDriver(Driver):
    """Records in a store that has to be polled.

    Args:
        open_records: Makes the access to them, given the store's codec. Called on each thread that reads, at its
            first use.
        address: For messages, without secrets.
        min_interval: Seconds between two reads of a record that has just changed, at least.
        max_interval: The same for one that has not changed for long, at most.
        share: The part of the time that waits may spend in requests, above 0 and up to 1.
        readers: Threads that read at the same time, for stores that answer one record at a time.

    Raises:
        ValueError: A number is invalid.
    """

    keeps_lifetimes = False
    keeps_notes = False

    def __init__(
        self,
        open_records: Callable[[Codec], Records],
        address: str,
        *,
        min_interval: float = 0.05,
        max_interval: float = 1.0,
        share: float = 0.2,
        readers: int = 1,
    ) -> None:
        check_seconds("min_interval", min_interval)
        check_seconds("max_interval", max_interval)
        if min_interval > max_interval:
            raise ValueError(f"max_interval must be at least min_interval, not {max_interval!r} ({min_interval!r})")
        part: Any = share
        if not isinstance(part, (int, float)) or not 0 < part <= 1:
            raise ValueError(f"share is a part of the time, above 0 and up to 1, not {share!r}")
        check_count("readers", readers)
        self.open_records = open_records
        self.min_interval = min_interval
        self.max_interval = max_interval
        self.share = share
        self.readers = readers
        # Shared by all backends of this process for the same store: see the top of the file.
        self.beside: KeptRecords = MemoryDriver(f"beside {address}").records
        self._address = address

    def start_engine(self, store: Store) -> Engine:
        return PolledEngine(store, self)

    def __str__(self) -> str:
        return self._address


class PolledEngine(MemoryEngine):
    """One loop's view of such a store: the records by its threads, all else from memory."""

    _origin: ClassVar[Source] = "polled"

    def __init__(self, store: Store, driver: PolledDriver) -> None:
        super().__init__(store, driver.beside)
        self._driver = driver
        self._schedule = Schedule(driver.min_interval, driver.max_interval)
        self._numbers = itertools.count()
        self._threads = [self._new_thread() for _ in range(driver.readers)]
        self._silences = 0
        self._questions = Questions()
        self._next: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writing: set[asyncio.Future[Any]] = set()
        self._put_off_before: set[bytes] = set()
        self._outages = 0
        self._backoff = 0.0
        self._retry_at = 0.0
        self._last_error: str | None = None
        self._outage = Outage(str(driver))
        # asyncio.run cancels every task at its end: that is the end of this engine. An empty context, because it
        # outlives the request that happened to start it.
        self._life = self.loop.create_task(
            _last_for_ever(self.loop), name=f"asyncresult polling {driver}", context=contextvars.Context()
        )
        self._life.add_done_callback(lambda _: self._end())

    def _new_thread(self) -> ReaderThread:
        open_records = functools.partial(self._driver.open_records, self._backend.codec)
        thread = ReaderThread(open_records, f"asyncresult reader {next(self._numbers)}")
        # An engine that is dropped without aclose() must not keep its threads.
        weakref.finalize(self, thread.stop).atexit = False
        return thread

    # -- the table's source -----------------------------------------------------------------------------

    def subscribe(self, keys: list[bytes]) -> None:
        now = self.loop.time()
        beside = []
        records = []
        for key in keys:
            if self._backend.is_task_key(key):
                self._schedule.add(key, self._backend.task_of(key), now)
                records.append(key)
            else:
                beside.append(key)
        # At once: whatever is stored from here on is found by a later read.
        self.waiters.acked(records)
        if beside:
            super().subscribe(beside)
        self._wake()

    def unsubscribe(self, keys: list[bytes]) -> None:
        for key in keys:
            watch = self._schedule.drop(key)
            self._put_off_before.discard(key)
            if watch is not None and (watch.fetch or watch.reported):
                self.loop.call_soon(self.waiters.fetched, [(key, None)])  # it counts the reads that it requested
        super().unsubscribe(keys)

    def fetch(self, keys: list[bytes]) -> None:
        now = self.loop.time()
        beside = [key for key in keys if not self._schedule.fetch(key, now)]
        if beside:
            super().fetch(beside)
        self._wake()

    # -- reading ----------------------------------------------------------------------------------------

    def read(self, key: bytes) -> asyncio.Future[bytes | None]:
        future: asyncio.Future[bytes | None] = self.loop.create_future()
        self.read_many([key]).add_done_callback(functools.partial(first_of, future))
        return future

    def read_many(self, keys: Sequence[bytes]) -> asyncio.Future[list[bytes | None]]:
        question = Question(self.loop, len(keys))
        for index, key in enumerate(keys):
            if self._backend.is_task_key(key):
                self._questions.add(self._backend.task_of(key), question, index)
            elif self._backend.is_group_key(key):
                read = self._run(methodcaller("read_group", self._backend.group_of(key)))
                read.add_done_callback(functools.partial(answer_with, question, index))
            else:
                self.loop.call_soon(question.answer, index, self._store.get(key))
        self._wake()
        return question.future

    def exists(self, key: bytes) -> asyncio.Future[bool]:
        future: asyncio.Future[bool] = self.loop.create_future()
        self.read(key).add_done_callback(lambda read: pass_on(read, future, bool))
        return future

    def _wake(self) -> None:
        """Look for something to read, once all requests of this tick are known."""
        if self._next is None:
            self._next = self.loop.call_soon(self._look)

    def _look(self) -> None:
        """Give the idle threads what is to be read; come back when the next is due."""
        self._next = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for thread in self._threads:
            if thread.idle and not self._read_some(thread):
                break
        if (at := self._next_time()) is not None:
            self._timer = self.loop.call_at(at, self._wake)

    def _next_time(self) -> float | None:
        """When a thread that is idle has something to do; None if all are busy, or nothing is watched."""
        resting = [thread.rests_until for thread in self._threads if thread.idle]
        due = self._schedule.due
        return max(due, min(resting), self._retry_at) if resting and due is not None else None

    def _read_some(self, thread: ReaderThread) -> bool:
        """Have the thread read what was requested, and what is due; whether there was anything."""
        now = self.loop.time()
        watches: list[Watch] = []
        if now >= self._retry_at and now >= thread.rests_until:
            watches = self._schedule.take(self._batch, now)
        questions = self._questions.take(max(self._batch, SINGLE_READS))
        if not questions and not watches:
            return False
        ids = list({**dict.fromkeys(questions), **dict.fromkeys(watch.task_id for watch in watches)})
        thread.idle = False

        def job(records: Records) -> tuple[dict[str, bytes], dict[str, Exception]]:
            self._batch = max(1, records.batch)
            return read_apart(records, ids)

        patience = min(2 * self._backend.heartbeat * 2**self._silences, MOST_PATIENCE)
        thread.overdue = self.loop.call_later(patience, self._silent, thread, questions, watches, patience)
        thread.submit(job, self._on_loop(functools.partial(self._answered, thread, questions, watches)))
        return True

    #: How many records a request can name: known once the first thread has opened the records.
    _batch = 1

    def _answered(
        self,
        thread: ReaderThread,
        questions: Questions,
        watches: list[Watch],
        outcome: tuple[dict[str, bytes], dict[str, Exception]] | None,
        failure: Exception | None,
        cost: float,
    ) -> None:
        now = self.loop.time()
        if thread not in self._threads:
            return  # too late: see _silent()
        thread.idle = True
        thread.in_time()
        if outcome is None:
            thread.failed()
            self._failed(failure, questions, watches, now)
        else:
            found, refused = outcome
            thread.rest(cost, self._driver.share, now)
            self._recovered()
            if cost <= self._backend.heartbeat:  # a slow store keeps its patience
                self._silences = 0
            if self._backend.probe is not None:
                self._backend.probe.polled(cost, len({*questions, *(watch.task_id for watch in watches)}))
            questions.answer(found, {task_id: self._error(why) for task_id, why in refused.items()})
            if refused:
                self._put_off([watch for watch in watches if watch.task_id in refused], refused, now)
            readable = [watch for watch in watches if watch.task_id not in refused]
            self._report([(watch, found.get(watch.task_id)) for watch in readable], now)
        self._wake()

    def _put_off(self, watches: list[Watch], refused: dict[str, Exception], now: float) -> None:
        """Records that the store fails for while it gives others: theirs wait on, and are read rarely."""
        for watch in watches:
            self._schedule.restore(watch, now, delay=self._driver.max_interval)
            if watch.key not in self._put_off_before:
                self._put_off_before.add(watch.key)
                logger.warning(
                    "task %s alone: %s; its wait goes on",
                    watch.task_id,
                    self._error(refused[watch.task_id]),
                    extra={"event": "record refused", "backend": str(self._driver), "task_id": watch.task_id},
                )

    def _report(self, reads: list[tuple[Watch, bytes | None]], now: float) -> None:
        """Give the table what it requested, and what has changed."""
        waiters = self.waiters
        fetched, pushed, changes = news_of(reads, self._schedule)
        if fetched:
            waiters.fetched(fetched)
        for key, payload in pushed:
            waiters.pushed(key, payload)
        for (watch, _), changed in zip(reads, changes, strict=True):
            self._schedule.put_back(watch, now, changed=changed, wanted=waiters.waits_for(watch.key))

    # -- outages ----------------------------------------------------------------------------------------

    def _failed(self, failure: Exception | None, questions: Questions, watches: list[Watch], now: float) -> None:
        error = self._error(failure)
        questions.fail(error)
        for watch in watches:
            self._schedule.restore(watch, now)
        self._backoff = min(max(2 * self._backoff, BACKOFF_FIRST), BACKOFF_LAST)
        self._retry_at = now + self._backoff
        if not isinstance(error, BackendUnavailable):
            self.waiters.fail_all(error)
        else:
            self._outages += self._last_error is None
            reason = str(error).removeprefix(f"{self._driver} ")  # which each line begins with
            self._outage.note(reason, then="waiting goes on, and it is tried again")
        self._last_error = str(error)

    def _silent(self, thread: ReaderThread, questions: Questions, watches: list[Watch], patience: float) -> None:
        """No answer, as over a connection that leads nowhere: another thread goes on, with connections of its own.

        The old one ends when the store's package lets go of it, which may be never: so the next gets twice the time.
        """
        self._silences += 1
        self._threads[self._threads.index(thread)] = self._new_thread()
        thread.stop()
        failure = TimeoutError(f"no answer for {patience:g} s")
        for future in [future for future in self._writing if not future.done()]:  # behind it, or under way
            future.set_exception(self._error(failure))
        self._failed(failure, questions, watches, self.loop.time())
        self._wake()

    def _recovered(self) -> None:
        self._outage.over()
        if self._last_error is not None:
            self._last_error = None
            self._backoff = self._retry_at = 0.0

    def _error(self, failure: Exception | None) -> BackendError:
        """What went wrong, in our words. A store's own may have many lines: the statement, its parameters …"""
        if isinstance(failure, BackendError):
            return failure
        reason = str(failure).partition("\n")[0][:REASON_CHARACTERS]
        error = BackendUnavailable(f"{self._driver} does not answer: {type(failure).__name__}: {reason}")
        error.__cause__ = failure
        return error

    # -- writing ----------------------------------------------------------------------------------------

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
        """See :meth:`Engine.store`. Not atomic: between the look at the old record and the write, another may write.

        How long a record is kept is the store's own setting.
        """
        task_id = self._backend.task_of(key)

        def job(records: Records) -> bool:
            if unless is not None and self._store.get(unless):
                return False
            if self._backend.precedes(key, records.read([task_id]).get(task_id), status, attempt):
                return False
            records.write(task_id, payload, status)
            if history is not None:
                self._store.remember(*history, payload, expires)
            return True

        stored = self._run(job)
        stored.add_done_callback(lambda _: self._written(key))
        return stored

    def _written(self, key: bytes) -> None:
        if self._schedule.hurry([key], self.loop.time()):
            self._wake()

    def put(self, key: bytes, payload: bytes, expires: float | None) -> asyncio.Future[None]:
        if self._backend.is_group_key(key):
            group_id = self._backend.group_of(key)
            return self._run(lambda records: records.write_group(group_id, payload))
        if self._backend.is_task_key(key):
            task_id = self._backend.task_of(key)
            return self._run(lambda records: records.write(task_id, payload, ""))
        return super().put(key, payload, expires)

    def delete(self, keys: Sequence[bytes], *, forever: bool = False) -> asyncio.Future[int]:
        ids = [self._backend.task_of(key) for key in keys if self._backend.is_task_key(key)]
        groups = [self._backend.group_of(key) for key in keys if self._backend.is_group_key(key)]
        if not ids and not groups:
            return super().delete(keys, forever=forever)

        def job(records: Records) -> int:
            there = list(records.read(ids)) if ids else []
            if there:
                records.delete(there)
            for group_id in groups:
                records.delete_group(group_id)
            return len(there) + len(groups)

        return self._run(job)

    async def scan(self, prefix: bytes) -> AsyncIterator[list[bytes]]:
        """Of records: what is kept beside them is in no store."""
        after = ""
        while True:
            ids: Sequence[str] = await self._run(functools.partial(self._list, after))
            if not ids:
                return
            after = ids[-1]
            yield [self._backend.task_key(id) for id in ids if id.isprintable()]

    def _list(self, after: str, records: Records) -> Sequence[str]:
        if not isinstance(records, Listable):
            raise BackendError(f"{self._driver} cannot be listed through Celery: use the tools of the store itself")
        return records.ids(after, IDS_PER_REQUEST)

    def _run(self, job: Callable[[Records], Any]) -> asyncio.Future[Any]:
        """What ``job`` gives. On the first thread, in the order of the calls."""
        future: asyncio.Future[Any] = self.loop.create_future()

        def done(result: Any, failure: Exception | None, cost: float) -> None:
            if not future.done():  # else it was given up
                if failure is None:
                    future.set_result(result)
                else:
                    future.set_exception(self._error(failure))

        self._writing.add(future)
        future.add_done_callback(self._writing.discard)
        self._threads[0].submit(job, self._on_loop(done))
        return future

    def _on_loop(self, function: Callable[..., object]) -> Callable[..., object]:
        """Called on any thread, ``function`` runs on the loop."""
        return functools.partial(self.loop.call_soon_threadsafe, function)

    # -- life -------------------------------------------------------------------------------------------

    @property
    def last_error(self) -> str | None:
        return self._last_error

    def stats(self) -> BackendStats:
        return BackendStats(
            connected=self._last_error is None,
            reconnects=self._outages,
            **self.waiters.counts(),
            last_error=self._last_error,
        )

    async def aclose(self, timeout: float) -> None:
        try:
            await self._finish(timeout)
        finally:
            self._life.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._life

    async def _finish(self, timeout: float) -> None:
        deadline = self.loop.time() + timeout
        await super().aclose(timeout)
        self._stop_looking()
        if self._writing:
            await asyncio.wait(list(self._writing), timeout=timeout)
        ended: list[asyncio.Future[None]] = []
        for thread in self._threads:
            gone: asyncio.Future[None] = self.loop.create_future()
            if thread.stop(self._on_loop(functools.partial(_settle_none, gone))):
                ended.append(gone)
        if ended:
            await asyncio.wait(ended, timeout=max(0.05, deadline - self.loop.time()))
        if all(gone.done() for gone in ended):  # else the store hangs, and its threads end when it answers
            for thread in self._threads:
                thread.join()

    def _stop_looking(self) -> None:
        for handle in (self._next, self._timer, *(thread.overdue for thread in self._threads)):
            if handle is not None:
                handle.cancel()
        self._next = self._timer = None
        self._questions.take(len(self._questions)).fail(BackendClosed(f"{self._driver} was closed before it was read"))

    def _end(self) -> None:
        """The loop is ending, or aclose() is."""
        self._stop_looking()
        self.waiters.close(self._closed_error())
        self._store.detach(self)
        for thread in self._threads:
            thread.stop()
        self._backend._engine_ended(self)


async def _last_for_ever(loop: asyncio.AbstractEventLoop) -> None:
    await loop.create_future()


def _settle_none(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
