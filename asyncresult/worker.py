"""The worker's side: a block of code whose outcome is a task's result.

:meth:`Backend.track` makes a :class:`TaskContext`. It stores one state with one round trip, publishes what
it stores, and hears requests to revoke the task as long as its block runs.

What is written when::

    enter ──STARTED──> progress() ──PROGRESS──> leave ──SUCCESS    the block ended
      │                   ▲   at most every       ├──FAILURE       an exception left it
      │                   └── progress_interval   ├──REVOKED       it was cancelled, or revoked
      └──REVOKED   revoked before                 └──              retry() was called: RETRY stands
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import time
import traceback as tracebacks
import uuid
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ._storage.store import Backend, check_task_id, handles
from .control import Revocation
from .errors import AsyncResultError, ResultEncodeError, TaskRevoked
from .states import FAILURE, PROGRESS, READY_STATES, RETRY, REVOKED, STARTED, SUCCESS

if TYPE_CHECKING:
    from .result import AsyncResult, GroupResult

__all__ = ["Request", "TaskContext", "current_task", "traceback_text"]

logger = logging.getLogger("asyncresult")

#: Seconds that a cancelled block takes to store that it was: a dead server must not hold up a shutdown.
REVOKED_STORE_TIMEOUT = 2.0

_current: ContextVar[TaskContext | None] = ContextVar("asyncresult_current_task", default=None)


def current_task() -> TaskContext | None:
    """The task whose block or function this code runs in, also in a worker thread of an Executor."""
    return _current.get()


@dataclass(slots=True, kw_only=True)
class Request:
    """What a task tells about itself, in the words of Celery's request. See :meth:`Backend.track`."""

    task: str | None
    args: Sequence[Any] | None
    kwargs: Mapping[str, Any] | None
    hostname: str
    delivery_info: Mapping[str, Any]
    retries: int
    parent_id: str | None
    group: str | None
    children: list[AsyncResult[Any] | GroupResult[Any]] = field(default_factory=list)
    heartbeat: Mapping[str, float] | None = None
    extended: bool = True


class TaskContext:
    """A task that runs in this block. Made by :meth:`Backend.track`, whose arguments it takes.

    Attributes:
        id: The task's id.
        request: What is stored about it besides state and result.
        revoked: Why it is not to run, or to run on: ``"revoked"``, ``"terminated"`` …; None while it is.
        over: Whether its final state is stored, or being stored.
    """

    def __init__(
        self,
        backend: Backend,
        task_id: str | None,
        *,
        name: str | None,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        worker: str | None,
        queue: str | None,
        retries: int,
        parent_id: str | None,
        group_id: str | None,
        ignore_result: bool,
        expires: float | None,
        failure_expires: float | None,
        heartbeat: float | None,
        history: int | None,
        progress_interval: float,
    ) -> None:
        if heartbeat is not None and not heartbeat > 0:
            raise ValueError(f"heartbeat must be a number of seconds above 0, not {heartbeat!r}")
        if history is not None and history < 1:
            raise ValueError(f"history must be a number of states above 0, not {history!r}")
        self.id = check_task_id(task_id if task_id is not None else uuid.uuid4())
        self.request = Request(
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
        self.over = False
        self._backend = backend
        self._ignore_result = ignore_result
        self._expires = expires
        self._failure_expires = failure_expires if failure_expires is not None else expires
        self._heartbeat = heartbeat
        self._history = history
        self._progress_interval = progress_interval
        #: An Executor switches this off: it hears for its tasks itself, also while they wait for their turn.
        self.listens = True
        self._revocation: Revocation | None = None
        self._outer: TaskContext | None = None
        self._block: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._running = self._cancelled = self._retrying = False
        self._result: Any = None
        self._shown: tuple[Any, str, str | None] = (None, STARTED, None)
        self._beat_timer: asyncio.TimerHandle | None = None
        self._untold: dict[str, Any] | None = None
        self._telling = False
        self._tell_timer: asyncio.TimerHandle | None = None

    # -- for the block --------------------------------------------------------------------------------

    def set_result(self, value: Any) -> None:
        """What is stored with SUCCESS when the block ends; None by default."""
        self._result = value

    async def progress(self, current: float | None = None, total: float | None = None, **info: Any) -> None:
        """Tell how far the task is: PROGRESS with ``{"current": …, "total": …, **info}``.

        Cheap enough for a tight loop. It does not wait for the store, and an outage does not fail it; the
        latest value is always stored in the end, before the final state at the latest. From a function in a
        worker thread: ``anyio.from_thread.run(task.progress, 3, 10)``.

        Raises:
            RuntimeError: The block does not run.
            ResultEncodeError: The value does not fit the format (if it was this call's turn to be stored).
        """
        if not self._running:
            raise RuntimeError(f"task {self.id} does not run")
        counts = {"current": current, "total": total}
        self._untold = {name: number for name, number in counts.items() if number is not None} | info
        if not self._telling:
            self._tell()
        await asyncio.sleep(0)  # a loop that does nothing else must not starve the connection

    async def retry(self, exc: BaseException | None = None) -> None:
        """Store RETRY: the task ends here without a final state, and will be run again.

        Whoever runs it again passes ``retries=`` one higher, or enters this context again.

        Raises: as :meth:`Backend.store_result`.
        """
        self._retrying = True
        self._tell_rest()
        await self._store(exc, RETRY, traceback_text(exc) if exc is not None else None)
        self.request.retries += 1

    def add_child(self, handle: AsyncResult[Any] | GroupResult[Any]) -> None:
        """Record that this task has sent another one. An Executor does that by itself."""
        self.request.children.append(handle)

    # -- the block's ends -----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Raises: TaskRevoked: somebody asked to revoke the task. Otherwise as :meth:`Backend.store_result`."""
        self._block = asyncio.current_task()
        assert self._block is not None
        self._cancelling = self._block.cancelling()
        self._retrying = self._telling = False
        self._untold = None
        if self.listens:
            self._revocation = Revocation(self._backend, self.id, self.request.hostname, self._abort)
        try:
            await self._start()
        except asyncio.CancelledError:
            await self.end_revoked()
            self._leave()
            raise
        except BaseException:
            self._leave()
            raise
        self._outer = _current.get()
        _current.set(self)
        self._running = True
        return self

    async def _start(self) -> None:
        stored = await self._store({"pid": os.getpid(), "hostname": self.request.hostname}, STARTED, start=True)
        if not stored and self.revoked is None:
            # Revoked, or its result is ignored, or the queue delivers again what is over: that is its business.
            marker = self._backend.key_beside(self.id, "revoke")
            if await self._backend._engine().exists(marker):
                self.revoked = "revoked"
        if self.revoked is not None:
            await self.end_revoked()
            raise self._revoked_error()
        if self._heartbeat is not None:
            self._beat_timer = asyncio.get_running_loop().call_later(self._heartbeat, self._beat)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._leave()
        ours = False  # whether nobody but a revocation cancels this block
        if self._cancelled:
            assert self._block is not None
            ours = self._block.uncancel() <= self._cancelling
        if isinstance(exc, asyncio.CancelledError):
            await self.end_revoked()
            if ours:
                raise self._revoked_error() from exc
        elif isinstance(exc, GeneratorExit):
            return  # the coroutine was closed: it cannot await any more
        elif exc is not None:
            await self.end_failed(exc)
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
        for timer in (self._beat_timer, self._tell_timer):
            if timer is not None:
                timer.cancel()
        if _current.get() is self:  # no ContextVar.reset(): a fixture may leave in another context than it entered
            _current.set(self._outer)

    async def end_failed(self, exc: BaseException) -> None:
        """Store FAILURE."""
        await self._end(exc, FAILURE, traceback_text(exc))

    async def end_revoked(self) -> None:
        """Store REVOKED, although this task is being cancelled. Never raises; what fails is logged."""
        self.revoked = self.revoked or "cancelled"
        try:
            future = self._end(self._revoked_error(), REVOKED)
        except AsyncResultError as error:
            logger.warning("task %s was %s, which could not be stored: %s", self.id, self.revoked, error)
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + REVOKED_STORE_TIMEOUT
        while not future.done() and (left := deadline - loop.time()) > 0:
            try:
                await asyncio.wait([future], timeout=left)
            except asyncio.CancelledError:
                pass  # once more, or by an anyio scope at every await: it goes on when this is done
        if not future.done():
            logger.warning("task %s was %s, which could not be stored in time", self.id, self.revoked)
        future.add_done_callback(self._look)

    def _revoked_error(self) -> TaskRevoked:
        reason = self.revoked or "revoked"
        return TaskRevoked(reason, exc_type="TaskRevokedError", exc_args=(reason,), task_id=self.id)

    def _abort(self, terminate: bool) -> tuple[bool, str]:
        """Somebody asked to revoke the task. Whether that works, and words for it."""
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
        self._shown = (result, state, traceback)
        beating = self._heartbeat is not None and state not in (*READY_STATES, RETRY)
        self.request.heartbeat = {"at": time.time(), "interval": self._heartbeat or 0.0} if beating else None
        return self._backend._store(
            self.id,
            result,
            state,
            traceback=traceback,
            request=self.request,
            expires=self._failure_expires if state == FAILURE else self._expires,
            start=start,
            history=None if beat else self._history,
        )

    def _end(self, result: Any, state: str, traceback: str | None = None) -> asyncio.Future[bool]:
        """The final state, after the last progress."""
        self._tell_rest()
        future = self._store(result, state, traceback)
        self.over = True
        return future

    def _beat(self) -> None:
        assert self._heartbeat is not None
        try:
            self._store(*self._shown, beat=True).add_done_callback(self._look)
        except AsyncResultError as error:
            logger.warning("task %s: no sign of life could be given: %s", self.id, error)
        self._beat_timer = asyncio.get_running_loop().call_later(self._heartbeat, self._beat)

    def _tell(self) -> None:
        """Store what progress() was told last. One store at a time, and an interval between two."""
        self._telling = False
        if self._untold is not None:
            told, self._untold = self._untold, None
            future = self._store(told, PROGRESS)
            self._telling = True
            future.add_done_callback(self._told)

    def _told(self, future: asyncio.Future[bool]) -> None:
        self._look(future)
        if self._running:
            loop = asyncio.get_running_loop()
            self._tell_timer = loop.call_later(self._progress_interval, self._tell_rest)

    def _tell_rest(self) -> None:
        try:
            self._tell()
        except AsyncResultError as error:
            logger.warning("task %s: its progress could not be stored: %s", self.id, error)

    def _look(self, future: asyncio.Future[bool]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            logger.warning("task %s: a state could not be stored: %s", self.id, error)


def traceback_text(exc: BaseException) -> str:
    """The traceback as Celery stores it, with causes, groups and notes, without the frames that lead to the task."""
    tb = exc.__traceback__
    while tb is not None and tb.tb_next is not None and _leads_to_task(tb):
        tb = tb.tb_next
    return "".join(tracebacks.format_exception(type(exc), exc, tb))


def _leads_to_task(tb: TracebackType) -> bool:
    module: str = tb.tb_frame.f_globals.get("__name__", "")
    return module.partition(".")[0] in ("asyncresult", "anyio")


handles.track = TaskContext
