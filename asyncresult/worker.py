"""The worker's side: a block of code whose outcome is a task's result.

:meth:`Backend.track` makes a :class:`TaskContext`. It stores one state with one round trip, publishes what
it stores, and listens for requests to revoke the task as long as its block runs.

What is written when::

    enter ──STARTED──> progress() ──PROGRESS──> leave ──SUCCESS    the block ended
      │                   ▲   at most every       ├──FAILURE       an exception left it
      │                   └── progress_interval   ├──REVOKED       it was cancelled, or revoked
      └──REVOKED   revoked before                 └──              retry() was called: RETRY stays

A final state that cannot be stored because of an outage is stored later: a background task of the backend goes on
trying until it succeeds or the backend is closed.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import os
import platform
import sys
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self

from . import _background
from ._checks import check_count, check_lifetime, check_seconds, check_task_id
from ._handles.base import Node
from ._log import Log, get_logger
from ._request import Request, TrackOptions
from ._storage.keys import REVOKE
from ._storage.store import Store, engine_of
from ._stored_later import Delays, even_at_the_end, log_never_stored, store_at_the_end, store_later
from .codec.tracebacks import traceback_text
from .control import Revocation
from .errors import AsyncResultError, BackendClosed, BackendError, ResultEncodeError, TaskRevoked, add_note
from .probe import outcome_of_state
from .states import EXCEPTION_STATES, FAILURE, PROGRESS, READY_STATES, RETRY, REVOKED, STARTED, SUCCESS

__all__ = ["Request", "TaskContext", "TrackOptions", "current_task", "traceback_text"]

logger: Log = get_logger("asyncresult")

#: Seconds that a cancelled block takes to store that it was: a dead server must not hold up a shutdown.
REVOKED_STORE_TIMEOUT = 2.0

_current: ContextVar[TaskContext | None] = ContextVar("asyncresult_current_task", default=None)


def current_task() -> TaskContext | None:
    """The task whose block or function this code runs in, also in a worker thread of an Executor."""
    return _current.get()


class TaskContext:
    """A task that runs in this block. Made by :meth:`Backend.track`, whose arguments it takes.

    Attributes:
        id: The task's id.
        request: What is stored about it besides state and result.
        revoked: Why it is not to run, or to run on: ``"revoked"``, ``"terminated"`` …; None while it is.
        over: Whether its final state is stored, or being stored.
    """

    #: Whether it listens for requests to revoke it. An Executor does so itself, from the moment it accepts a task.
    listens = True
    #: Whether it waits until a state is stored, however long an outage lasts. Otherwise the outage is raised.
    patient = False

    def __init__(
        self,
        backend: Store,
        task_id: str | None = None,
        *,
        name: str | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        worker: str | None = None,
        queue: str | None = None,
        retries: int = 0,
        parent_id: str | None = None,
        group_id: str | None = None,
        ignore_result: bool = False,
        expires: float | None = None,
        failure_expires: float | None = None,
        heartbeat: float | None = None,
        history: int | None = None,
        progress_interval: float = 0.1,
    ) -> None:
        if heartbeat is not None:
            check_seconds("heartbeat", heartbeat)
        if history is not None:
            check_count("history", history)
        check_seconds("progress_interval", progress_interval, least=0.0)
        check_lifetime("expires", expires)
        check_lifetime("failure_expires", failure_expires)
        self.id: str = check_task_id(task_id if task_id is not None else uuid.uuid4())
        self.request: Request = Request(
            task=name,
            args=args,
            kwargs=kwargs,
            hostname=worker or f"asyncresult@{platform.node()}",
            delivery_info={"routing_key": queue},
            retries=retries,
            parent_id=parent_id,
            group=group_id,
        )
        self.revoked: str | None = None
        self.over: bool = False
        self._begun = time.perf_counter()
        self._backend = backend
        self._ignore_result = ignore_result
        self._expires = expires
        self._failure_expires = failure_expires if failure_expires is not None else expires
        self._heartbeat = heartbeat
        self._history = history
        self._progress_interval = progress_interval
        self._revocation: Revocation | None = None
        self._outer: TaskContext | None = None
        self._block: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._cancelling = 0
        self._running = self._cancelled = self._retrying = False
        self._result: Any = None
        self._shown: tuple[Any, str, str | None] | None = (None, STARTED, None)
        self._beat_timer: asyncio.TimerHandle | None = None
        self._beats: deque[float] = deque(maxlen=64)  # times of the heartbeats in the latest records
        self._keeping: asyncio.Task[None] | None = None  # goes on storing the final state
        self._ending: asyncio.Task[None] | None = None  # stores it while the loop ends
        self._attended = False  # whether anybody waits until it is stored
        self._unsent_progress: dict[str, Any] | None = None
        self._sending_progress = False
        self._progress_timer: asyncio.TimerHandle | None = None

    # -- for the block --------------------------------------------------------------------------------

    def set_result(self, value: Any) -> None:
        """Set what is stored with SUCCESS when the block ends; None by default."""
        self._result = value

    async def progress(self, current: float | None = None, total: float | None = None, **info: Any) -> None:
        """Report how far the task is: PROGRESS with ``{"current": …, "total": …, **info}``.

        Cheap enough for a tight loop. It does not wait for the store, and an outage does not fail it; the
        latest value is always stored in the end, before the final state at the latest, unless a later attempt of the
        task runs elsewhere. From a function in a
        worker thread: ``anyio.from_thread.run(task.progress, 3, 10)``. After :meth:`retry` it does nothing.

        Raises:
            RuntimeError: The block does not run.
            ResultEncodeError: The value does not fit the format (if it was this call's turn to be stored).
        """
        if not self._running:
            raise RuntimeError(f"task {self.id} does not run")
        if self._retrying:
            return
        counts = {"current": current, "total": total}
        self._unsent_progress = {name: number for name, number in counts.items() if number is not None} | info
        if not self._sending_progress:
            self._send_progress()
        await asyncio.sleep(0)  # a loop that does nothing else must not starve the connection

    async def retry(self, exc: BaseException | None = None) -> None:
        """Store RETRY: the task ends here without a final state, and will be run again.

        The next run passes ``retries=`` one higher, or enters this context again. RETRY stays, whatever
        happens in the rest of the block (unless it is revoked): an exception may leave it, progress and heartbeats
        are stored no more.

        Raises: as :meth:`Backend.store_result`. The task has not ended then.
        """
        self._send_last_progress()
        self._stop_timers()
        self._retrying = True
        try:
            await self._stored(exc, RETRY, traceback_text(exc) if exc is not None else None)
        except AsyncResultError:
            self._retrying = False
            raise
        self.request.retries += 1

    def add_child(self, handle: Node[Any]) -> None:
        """Record that this task has sent another one. An Executor does that by itself."""
        self.request.children.append(handle)

    # -- the block's ends -----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Raises: TaskRevoked: there is a request to revoke the task. Otherwise as :meth:`Backend.store_result`."""
        self._begun = time.perf_counter()
        self._block = asyncio.current_task()
        assert self._block is not None
        self._loop = asyncio.get_running_loop()
        self._cancelling = self._block.cancelling()
        self._retrying = self._sending_progress = self.over = False
        self._unsent_progress = self._result = None
        if self.listens:
            self._revocation = Revocation(self._backend, self.id, self.request.hostname, self._abort)
        if self._backend.probe is not None:
            self._backend.probe.task_started(self)
        try:
            await self._start()
        except asyncio.CancelledError:
            await self.end_revoked()
            self._leave()
            raise
        except GeneratorExit:
            self._end_closed()
            raise
        except BaseException as error:
            self._leave()
            self._report_left(None, error)
            raise
        self._outer = _current.get()
        _current.set(self)
        self._running = True
        return self

    async def _start(self) -> None:
        started_by = {"pid": os.getpid(), "hostname": self.request.hostname}
        stored = await self._stored(started_by, STARTED, start=True)
        if not stored and self.revoked is None:
            # Revoked, or its result is ignored, or the queue delivers again what is over: that is its business.
            marker = self._backend.key_beside(self.id, REVOKE)
            if await engine_of(self._backend).exists(marker):
                self.revoked = "revoked"
        if self.revoked is not None:
            await self.end_revoked()
            raise self._revoked_error()
        if self._heartbeat is not None:
            self._beat_timer = asyncio.get_running_loop().call_later(self._heartbeat, self._beat)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if isinstance(exc, GeneratorExit):
            block = sys._getframe().f_back
            # An async generator's aclose() can wait, and must at the end of the loop; a coroutine's close() cannot.
            self._attended = block is not None and bool(block.f_code.co_flags & inspect.CO_ASYNC_GENERATOR)
            storing = self._end_closed()
            if storing is not None and self._attended and not self._backend.closed:
                await self._wait_closed(storing)
            return
        self._leave()
        ours = False  # whether nothing but a revocation cancels this block
        if self._cancelled:
            assert self._block is not None
            ours = self._block.uncancel() <= self._cancelling
        if self.over or (self._retrying and not ours):
            self._report_left(RETRY, exc)
            return
        if isinstance(exc, asyncio.CancelledError):
            await self.end_revoked()
            if ours:
                raise self._revoked_error() from exc
        elif exc is not None:
            try:
                await self.end_failed(exc)
            except BackendError as error:  # it will be stored later; the failure itself is what the caller has to know
                add_note(exc, f"asyncresult: FAILURE of task {self.id} is not stored yet: {error}")
        elif not self._retrying:
            try:
                await self._end(self._result, SUCCESS)
            except ResultEncodeError as error:
                await self.end_failed(error)
                raise

    def _leave(self) -> None:
        self._running = False
        if self._revocation is not None:
            self._revocation.close()
        self._stop_timers()
        if _current.get() is self:  # no ContextVar.reset(): a fixture may leave in another context than it entered
            _current.set(self._outer)

    def _stop_timers(self) -> None:
        for timer in (self._beat_timer, self._progress_timer):
            if timer is not None:
                timer.cancel()

    def _end_closed(self) -> asyncio.Future[bool] | None:
        """The block's coroutine or generator is closed: store REVOKED, unless the state is final or RETRY."""
        try:
            running = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            running = False
        if not running:  # garbage, found after the loop's end or by another thread
            self._log(logging.ERROR, "not stored", "task %s was given up without a final state: its event loop is gone")
            return None
        self._leave()
        if self.over or self._retrying:
            return None
        self.revoked = self.revoked or "closed"
        return self.end_unattended(self._revoked_error(), REVOKED)

    async def _wait_closed(self, storing: asyncio.Future[bool]) -> None:
        """Wait until REVOKED is stored, but not long. It goes on where this is given up."""
        try:
            async with asyncio.timeout(REVOKED_STORE_TIMEOUT):
                await even_at_the_end(self._backend, functools.partial(self._settled, storing))
        except TimeoutError:
            self._log_late()

    def _log_late(self) -> None:
        self._log(logging.ERROR, "not stored", "task %s was %s, which could not be stored in time", self.revoked)

    async def end_failed(self, exc: BaseException) -> None:
        """Store FAILURE; where the server refuses its size, with that for an error."""
        try:
            await self._end(exc, FAILURE, traceback_text(exc))
        except ResultEncodeError as error:
            await self._end(error, FAILURE, traceback_text(error))

    async def end_revoked(self) -> None:
        """Store REVOKED, although this task is being cancelled. Never raises; what fails is logged."""
        self.revoked = self.revoked or "cancelled"
        self._attended = True
        future = self.end_unattended(self._revoked_error(), REVOKED)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + REVOKED_STORE_TIMEOUT
        waited: asyncio.Future[Any] = future
        while (left := deadline - loop.time()) > 0:
            try:
                await asyncio.wait([waited], timeout=left)
            except asyncio.CancelledError:
                continue  # once more, or by an anyio scope at every await: it goes on when this is done
            if not waited.done() or self._ending in (None, waited):
                break
            waited = self._ending
        if not waited.done():
            self._log_late()

    def end_unattended(self, result: Any, state: str) -> asyncio.Future[bool]:
        """Store a final state that is not waited for. Never raises; what fails is logged, and tried again."""
        text = traceback_text(result) if state == FAILURE else None
        future = self._store_last(result, state, text)
        future.add_done_callback(functools.partial(self._keep_storing, result, state, text))
        return future

    def _revoked_error(self) -> TaskRevoked:
        reason = self.revoked or "revoked"
        return TaskRevoked(reason, exc_type="TaskRevokedError", exc_args=(reason,), task_id=self.id)

    def _abort(self, terminate: bool) -> tuple[bool, str]:
        """Cancel the block. Returns whether the task will stop, and why (for the reply)."""
        if self.revoked is None:
            self.revoked = "terminated" if terminate else "revoked"
            if self._running:
                assert self._block is not None
                self._cancelled = True
                self._block.cancel()
        return True, self.revoked

    # -- storing --------------------------------------------------------------------------------------

    def _store(
        self, result: Any, state: str, traceback: str | None = None, *, start: bool = False, beat: bool = False
    ) -> asyncio.Future[bool]:
        """One state, one round trip. The future may be left alone."""
        if self._ignore_result:
            nothing: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            nothing.set_result(False)
            return nothing
        # For the next heartbeat. None follows a failure, which must not be kept: its frames hold this context.
        self._shown = (result, state, traceback) if state not in EXCEPTION_STATES else None
        beating = self._heartbeat is not None and state not in (*READY_STATES, RETRY)
        self.request.heartbeat = None
        if beating:
            now = time.time()
            self._beats.append(now)
            self.request.heartbeat = {"at": now, "interval": self._heartbeat or 0.0}
        return self._backend._store(
            self.id,
            result,
            state,
            traceback=traceback,
            request=self.request,
            expires=self._failure_expires if state == FAILURE else self._expires,
            start=start,
            again=beat,
            history=None if beat else self._history,
        )

    async def _stored(self, result: Any, state: str, traceback: str | None = None, *, start: bool = False) -> bool:
        """Store a state that is not final; if this context is patient, as often as it takes."""
        delays = Delays()
        while True:
            try:
                return await self._store(result, state, traceback, start=start)
            except BackendError as error:
                if not self.patient:
                    raise
                if delays.first:
                    text = "task %s: %s could not be stored, trying again: %s"
                    self._log(logging.ERROR, "store delayed", text, state, error)
            await delays.sleep()

    def _store_last(self, result: Any, state: str, traceback: str | None) -> asyncio.Future[bool]:
        """The final state, after the last progress."""
        self._send_last_progress()
        try:
            future = self._store(result, state, traceback)
        except BackendClosed as error:
            future = asyncio.get_running_loop().create_future()
            future.set_exception(error)
        self.over = True
        if self._backend.probe is not None:
            self._backend.probe.task_ended(
                time.perf_counter() - self._begun, self.request.task, outcome_of_state(state)
            )
            self._report_left(state, result if state in EXCEPTION_STATES else None)
        return future

    def _report_left(self, state: str | None, error: BaseException | None) -> None:
        if self._backend.probe is not None:
            self._backend.probe.task_left(self, state, error)

    async def _end(self, result: Any, state: str, traceback: str | None = None) -> None:
        """Store the final state. Raises what prevents that; if it is an outage, it is stored later all the same."""
        self._attended = True
        future = self._store_last(result, state, traceback)
        future.add_done_callback(functools.partial(self._keep_storing, result, state, traceback))
        await self._settled(future)
        if self._keeping is not None and self.patient:
            await asyncio.wait([self._keeping])
        elif self._ending is None:
            future.result()

    async def _settled(self, storing: asyncio.Future[bool]) -> None:
        """Wait for the attempt to store the final state, and for the next one if the end of the loop broke it off."""
        await asyncio.wait([storing])  # not the future itself: who gives up this wait must not give up the store
        if self._ending is not None:
            await asyncio.wait([self._ending])

    def _keep_storing(self, result: Any, state: str, traceback: str | None, first: asyncio.Future[bool]) -> None:
        """Go on with storing a final state, if the ``first`` attempt met an outage or the end of the loop."""
        error = None if first.cancelled() else first.exception()
        attempt = functools.partial(self._store, result, state, traceback)
        if isinstance(error, BackendError):
            self._keeping = store_later(self._backend, self.id, state, attempt, error)
        elif isinstance(error, BackendClosed):
            if self._attended and not self._backend.closed:
                self._ending = store_at_the_end(self._backend, self.id, state, attempt)
            else:
                log_never_stored(self._backend, self.id, state, error)

    def _beat(self) -> None:
        """Renew the record, if it is still one of this run: a later run of the task may have begun elsewhere."""
        assert self._heartbeat is not None
        self._beat_timer = asyncio.get_running_loop().call_later(self._heartbeat, self._beat)
        try:
            reading = engine_of(self._backend).read(self._backend.task_key(self.id))
        except AsyncResultError as error:
            self._log(logging.WARNING, "not stored", "task %s: its heartbeat could not be stored: %s", error)
        else:
            reading.add_done_callback(self._beat_after)

    def _beat_after(self, reading: asyncio.Future[bytes | None]) -> None:
        self._log_failure(reading)
        if not self._running or self._retrying or reading.cancelled() or reading.exception() is not None:
            return
        shown = self._shown
        if shown is not None and self._is_ours(reading.result()):
            try:
                self._store(*shown, beat=True).add_done_callback(self._log_failure)
            except AsyncResultError as error:
                self._log(logging.WARNING, "not stored", "task %s: its heartbeat could not be stored: %s", error)

    def _is_ours(self, payload: bytes | None) -> bool:
        """Whether this run has written the record. (One that is gone, or cannot be read, is nobody else's.)"""
        if not payload:
            return True
        try:
            found = engine_of(self._backend).decoder.at_once(self.id, payload)
        except AsyncResultError:
            return True
        if found is None:  # a large one is not worth a thread: later runs begin with a small one
            return True
        return isinstance(found.heartbeat, dict) and found.heartbeat.get("at") in self._beats

    def _send_progress(self) -> None:
        """Store the latest progress. One store at a time, and an interval between two."""
        self._sending_progress = False
        if self._unsent_progress is not None:
            progress, self._unsent_progress = self._unsent_progress, None
            future = self._store(progress, PROGRESS)
            self._sending_progress = True
            future.add_done_callback(self._progress_sent)

    def _progress_sent(self, future: asyncio.Future[bool]) -> None:
        self._log_failure(future)
        if self._running and not self._retrying:
            loop = asyncio.get_running_loop()
            self._progress_timer = loop.call_later(self._progress_interval, self._send_last_progress)

    def _send_last_progress(self) -> None:
        try:
            self._send_progress()
        except AsyncResultError as error:
            self._log(logging.WARNING, "not stored", "task %s: its progress could not be stored: %s", error)

    def _log_failure(self, future: asyncio.Future[Any]) -> None:
        what = f"task {self.id}: a state could not be stored"
        _background.log_failure(future, what, self._about("not stored"))

    def _about(self, event: str) -> dict[str, str]:
        """The extra fields of a line of the log."""
        return {"event": event, "backend": str(self._backend), "task_id": self.id}

    def _log(self, level: int, event: str, text: str, *arguments: object) -> None:
        """A line whose text begins with the task's id."""
        logger.log(level, text, self.id, *arguments, extra=self._about(event))
