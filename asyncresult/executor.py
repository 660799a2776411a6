"""Running functions as tasks, in this process: the embedded default, when there is no queue.

Each accepted task is one asyncio task of its own, from :meth:`Executor.submit` until its final state is
stored. It waits for the handles among its arguments, then for a slot, then runs under the same
:class:`.worker.TaskContext` that ``Backend.track`` gives; what can be revoked when is decided in one place,
:meth:`_Job.abort`.

anyio, which threads and processes are borrowed from, is imported at the first plain function.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import random
import uuid
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, overload

from ._checks import check_task_id
from ._handles.result import AsyncResult
from ._handles.sets import GroupResult, ResultSet
from .backend import Backend, current_backend
from .codec.codec import Codec
from .control import Revocation
from .errors import TaskFailed
from .meta import TaskMeta
from .states import FAILURE
from .worker import TaskContext, current_task, traceback_text

if TYPE_CHECKING:
    import anyio


__all__ = ["Executor", "Submitter", "value_of"]

logger = logging.getLogger("asyncresult")

P = ParamSpec("P")
T = TypeVar("T")
X = TypeVar("X")

#: Seconds between two attempts at most, however often the delay was doubled.
BACKOFF_LAST = 300.0


@overload
def value_of(handle: AsyncResult[T]) -> T: ...
@overload
def value_of(handle: ResultSet[T]) -> list[T]: ...
def value_of(handle: Any) -> Any:
    """``handle``, as an argument for ``submit()``: to the type checker it is the value that the task will get."""
    return handle


@dataclass(frozen=True, slots=True)
class _Options:
    """See :meth:`Executor.options`."""

    task_id: str | None = None
    name: str | None = None
    timeout: float | None = None
    expires: float | None = None
    retries: int = 0
    backoff: float = 1.0
    retry_on: tuple[type[Exception], ...] = (Exception,)
    process: bool = False
    history: int | None = None


class Submitter:
    """Accepts tasks with the same options. Made by :meth:`Executor.options`."""

    def __init__(self, executor: Executor, options: _Options) -> None:
        self._executor = executor
        self._options = options

    @overload
    def submit(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncResult[T]: ...
    @overload
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[T]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> AsyncResult[Any]:
        """Have ``fn(*args, **kwargs)`` run: a coroutine function on the loop, any other function in a thread.

        A handle, or set of handles, among the arguments is awaited first, and its value takes its place; if it
        fails, so does this task. The handle returned has it as its parent. (:func:`value_of` makes a type
        checker agree.)

        Returns:
            The handle. Until there is a slot its state is PENDING.

        Raises:
            asyncio.QueueFull: ``max_pending`` tasks wait already; see :meth:`Executor.room`.
            RuntimeError: The executor is not entered, or is closing.
            TypeError: ``fn`` cannot be called, or ``process=True`` and it is a coroutine function.
            ValueError: The ``task_id`` cannot be one, or runs here already.
        """
        return self._executor._accept(self._options, fn, args, kwargs, None)

    @overload
    def map(self, fn: Callable[[X], Coroutine[Any, Any, T]], items: Iterable[X]) -> GroupResult[T]: ...
    @overload
    def map(self, fn: Callable[[X], T], items: Iterable[X]) -> GroupResult[T]: ...
    def map(self, fn: Callable[..., Any], items: Iterable[Any]) -> GroupResult[Any]:
        """``submit(fn, item)`` for each item: the handles, in the order of the items, as a group.

        Raises: as :meth:`submit`. Nothing is accepted then.
        """
        items = list(items)
        self._executor._check_room(len(items))
        group = str(uuid.uuid4())
        members = [self._executor._accept(self._options, fn, (item,), {}, group) for item in items]
        made: GroupResult[Any] = GroupResult(group, members, backend=self._executor.backend)
        return made


class Executor(Submitter):
    """Runs functions in the background, as tasks whose results any process can await.

    ::

        async with asyncresult.connect("redis://…") as backend, Executor(backend) as executor:
            handle = executor.submit(resize, "cat.png", width=100)
            ...                                        # or elsewhere: await AsyncResult(id)

    Leaving the block waits for all tasks. A block that fails or is cancelled cancels them. Whatever was
    accepted has a final state in the end: what did not run is REVOKED.

    A coroutine function runs on the loop, and is cancelled by a revoke or timeout. A plain function runs in a
    worker thread of anyio. A thread cannot be stopped from outside: the function is asked, and hears it when it
    calls ``anyio.from_thread.check_cancelled()``; if it ends by itself first, that counts. With
    ``options(process=True)`` a plain function runs in a worker process, which a timeout or a revoke with
    ``terminate=True`` kills.

    Args:
        backend: Where states and results are stored; None is the current one.
        concurrency: Tasks that run at a time. A task that awaits another one keeps its slot meanwhile.
        max_pending: Tasks that may wait for their turn.
        cancel_pending: Do not run what waits when the block ends.
        heartbeat: Seconds between signs of life of the tasks that run; see :meth:`Backend.track`.
        worker: The name of this worker in records and replies.

    Raises:
        ValueError: ``concurrency`` or ``max_pending`` is less than 1.
    """

    def __init__(
        self,
        backend: Backend | None = None,
        *,
        concurrency: int = 10,
        max_pending: int = 1000,
        cancel_pending: bool = False,
        heartbeat: float | None = None,
        worker: str | None = None,
    ) -> None:
        for name, number in (("concurrency", concurrency), ("max_pending", max_pending)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, not {number!r}")
        super().__init__(self, _Options())
        self._backend = backend
        self._concurrency = concurrency
        self._max_pending = max_pending
        self._cancel_pending = cancel_pending
        self._heartbeat = heartbeat
        self._worker = worker
        self._jobs: dict[str, _Job] = {}
        self._open = False
        self._slots = asyncio.Semaphore(concurrency)
        self._changed = asyncio.Event()
        self._limiter: anyio.CapacityLimiter | None = None

    @property
    def backend(self) -> Backend:
        """Where states and results are stored. Raises RuntimeError: none was given and none is entered."""
        if self._backend is None:
            self._backend = current_backend()
        return self._backend

    @property
    def pending(self) -> int:
        """Tasks that wait for their turn."""
        return sum(not job.started for job in self._jobs.values())

    @property
    def running(self) -> int:
        """Tasks that were started and are not over."""
        return len(self._jobs) - self.pending

    def options(
        self,
        *,
        task_id: str | None = None,
        name: str | None = None,
        timeout: float | None = None,
        expires: float | None = None,
        retries: int = 0,
        backoff: float = 1.0,
        retry_on: type[Exception] | tuple[type[Exception], ...] = Exception,
        process: bool = False,
        history: int | None = None,
    ) -> Submitter:
        """``executor.options(timeout=10, retries=3).submit(fn, …)``: options of the tasks to be submitted.

        Args:
            task_id: For one task; None makes a new id.
            name: The task's name; None is the function's.
            timeout: Seconds for one attempt. Then the task fails with TimeoutError.
            expires: Seconds within which the task must be started, or else it is REVOKED.
            retries: How often it is tried again after a failure. RETRY is stored meanwhile.
            backoff: Seconds before the first retry; doubled for each further one, and drawn between half and all.
            retry_on: Failures of other classes are final.
            process: Run a plain function in a worker process: it and its arguments must be picklable.
            history: See :meth:`Backend.track`.
        """
        classes = retry_on if isinstance(retry_on, tuple) else (retry_on,)
        chosen = _Options(task_id, name, timeout, expires, retries, backoff, classes, process, history)
        return Submitter(self, chosen)

    async def room(self, count: int = 1) -> None:
        """Wait until ``count`` more tasks can be submitted.

        Raises:
            ValueError: That many may never wait.
        """
        if count > self._max_pending:
            raise ValueError(f"there never is room for {count} tasks where {self._max_pending} may wait")
        while self.pending + count > self._max_pending:
            self._changed.clear()
            await self._changed.wait()

    def _check_room(self, count: int) -> None:
        if not self._open:
            raise RuntimeError("tasks can be submitted inside 'async with Executor(…):' only")
        if self.pending + count > self._max_pending:
            raise asyncio.QueueFull(
                f"{self.pending} tasks wait already, of at most {self._max_pending}: await executor.room() first"
            )

    def _accept(
        self, options: _Options, fn: Callable[..., Any], args: Any, kwargs: dict[str, Any], group: str | None
    ) -> AsyncResult[Any]:
        self._check_room(1)
        if not callable(fn):
            raise TypeError(f"a task is a function, not {type(fn).__name__}")
        if options.process and _is_coroutine_function(fn):
            raise TypeError("process=True takes a plain function")
        id = check_task_id(options.task_id if options.task_id is not None else uuid.uuid4())
        if id in self._jobs:
            raise ValueError(f"task {id} runs here already")
        sender = current_task()
        awaited = [argument for argument in (*args, *kwargs.values()) if _is_handle(argument)]
        parent = _parent(awaited)
        backend = self.backend
        storable = backend.codec._storable
        context = backend.track(
            id,
            name=options.name or _name(fn),
            args=[storable(argument) for argument in args] if backend.result_extended else None,
            kwargs={key: storable(value) for key, value in kwargs.items()} if backend.result_extended else None,
            worker=self._worker,
            parent_id=getattr(parent, "id", None) or (sender.id if sender is not None else None),
            group_id=group,
            heartbeat=self._heartbeat,
            history=options.history,
        )
        context.listens = False
        handle: AsyncResult[Any] = AsyncResult(id, backend=backend, parent=parent)
        if sender is not None:
            sender.add_child(handle)
        self._jobs[id] = _Job(self, context, options, functools.partial(fn, *args, **kwargs))
        return handle

    def _ended(self, id: str) -> None:
        del self._jobs[id]
        self._changed.set()

    def _abort(self, *, started: bool = True) -> None:
        """Cancel what waits, and what is started too unless told otherwise."""
        for job in list(self._jobs.values()):
            if started or not job.started:
                job.abort("cancelled", terminate=True)

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if exc is not None:
            self._open = False
            self._abort()
        elif self._cancel_pending:
            self._open = False
            self._abort(started=False)
        interrupted: asyncio.CancelledError | None = None
        while self._jobs:  # tasks that run may submit others
            try:
                await asyncio.wait([job.task for job in self._jobs.values()])
            except asyncio.CancelledError as error:
                interrupted = error
                self._open = False
                self._abort()
        self._open = False
        if interrupted is not None:
            raise interrupted


class _Job:
    """One accepted task, from acceptance to its final state."""

    def __init__(
        self, executor: Executor, context: TaskContext, options: _Options, call: functools.partial[Any]
    ) -> None:
        self.started = False
        self._executor = executor
        self._context = context
        self._options = options
        self._call = call
        self._scope: anyio.CancelScope | None = None  # around a function in a thread or process
        self._ear = Revocation(
            executor.backend,
            context.id,
            context.request.hostname,
            lambda terminate: self.abort("terminated" if terminate else "revoked", terminate=terminate),
        )
        self.task = asyncio.create_task(self._run(), name=f"asyncresult task {context.id}")

    def abort(self, reason: str, *, terminate: bool) -> tuple[bool, str]:
        """Keep the task from running, or from running on. Whether that works, and words for it."""
        context = self._context
        if context.revoked is not None or context.over:
            return context.revoked is not None, context.revoked or "is over"
        if self._scope is None:
            context.revoked = reason
            self.task.cancel()
            return True, reason
        if not self._options.process:
            context.revoked = reason
            self._scope.cancel()
            return True, "asked to stop: it runs in a thread"
        if terminate:
            context.revoked = reason
            self._scope.cancel()
            return True, reason
        return False, "runs in a process, which only terminate=True ends"

    async def _run(self) -> None:
        context = self._context
        try:
            await self._wait_and_run()
        except asyncio.CancelledError:
            if not context.over:
                await context.end_revoked()
        except (Exception, SystemExit) as error:
            if not context.over:
                await self._end_failed(error)
        finally:
            self._ear.close()
            self._executor._ended(context.id)

    async def _end_failed(self, error: BaseException) -> None:
        """Before the first attempt, or because a state could not be stored."""
        try:
            await self._context.end_failed(error)
        except Exception:
            logger.exception("task %s failed, which could not be stored", self._context.id)

    async def _wait_and_run(self) -> None:
        context, slots = self._context, self._executor._slots
        try:
            async with asyncio.timeout(self._options.expires):
                call = await self._with_values()
                await slots.acquire()
        except TimeoutError:  # an argument's own comes as TaskFailed
            context.revoked = "expired"
            await context.end_revoked()
            return
        self.started = True
        self._executor._changed.set()
        delay = self._options.backoff
        while True:
            try:
                if await self._attempt(call):
                    return
            finally:
                slots.release()
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, BACKOFF_LAST)
            await slots.acquire()

    async def _attempt(self, call: functools.partial[Any]) -> bool:
        """Run the function once, under the task's context. False if it is to be tried again."""
        context = self._context
        async with context:
            try:
                value = await self._outcome(call)
            except self._options.retry_on as error:
                if context.request.retries >= self._options.retries or context.revoked is not None:
                    raise
                await context.retry(error)
                return False
            context.set_result(value)
        return True

    async def _outcome(self, call: functools.partial[Any]) -> Any:
        if _is_coroutine_function(call.func):
            outcome = call()
        else:
            outcome = await self._outcome_elsewhere(call)
            if not inspect.iscoroutine(outcome):
                return outcome
        limit = asyncio.timeout(self._options.timeout)
        try:
            async with limit:
                return await outcome
        except TimeoutError as error:
            if limit.expired():
                raise self._timed_out() from error
            raise

    async def _outcome_elsewhere(self, call: functools.partial[Any]) -> Any:
        """In a worker thread or process; asked to end, or killed, when the time is up or it is revoked."""
        import anyio
        import anyio.to_process
        import anyio.to_thread

        executor = self._executor
        if executor._limiter is None:
            executor._limiter = anyio.CapacityLimiter(executor._concurrency)
        with anyio.move_on_after(self._options.timeout) as self._scope:
            try:
                if not self._options.process:
                    return await anyio.to_thread.run_sync(call, limiter=executor._limiter)
                value, failure = await anyio.to_process.run_sync(
                    _in_process, call, cancellable=True, limiter=executor._limiter
                )
                if failure is not None:
                    error = executor.backend.codec.exception(failure)
                    assert error is not None
                    raise error
                return value
            finally:
                self._scope = None
        if self._context.revoked is not None:
            raise asyncio.CancelledError(self._context.revoked)
        raise self._timed_out()

    def _timed_out(self) -> TimeoutError:
        return TimeoutError(f"the task did not end within {self._options.timeout} s")

    async def _with_values(self) -> functools.partial[Any]:
        """The call with values in place of handles."""
        call = self._call
        args = [await self._value(argument) for argument in call.args]
        kwargs = {name: await self._value(argument) for name, argument in call.keywords.items()}
        return functools.partial(call.func, *args, **kwargs)

    async def _value(self, argument: Any) -> Any:
        if not _is_handle(argument):
            return argument
        try:
            return await argument
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise TaskFailed(f"task {argument}, whose result is an argument of this one, failed: {reason}") from error


def _in_process(call: functools.partial[Any]) -> tuple[Any, TaskMeta | None]:
    """The value, or the failure as a record: an exception would lose its traceback on the way, or not make it."""
    try:
        return call(), None
    except Exception as error:
        stored = Codec().encode_exception(error)
        return None, TaskMeta(status=FAILURE, result=stored, traceback=traceback_text(error))


def _is_coroutine_function(fn: Any) -> bool:
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


def _is_handle(argument: Any) -> bool:
    return isinstance(argument, (AsyncResult, ResultSet))


def _parent(awaited: list[Any]) -> AsyncResult[Any] | GroupResult[Any] | None:
    """What must succeed first, as one handle."""
    if not awaited or (len(awaited) == 1 and isinstance(awaited[0], (AsyncResult, GroupResult))):
        return awaited[0] if awaited else None
    group: GroupResult[Any] = GroupResult(results=[leaf for handle in awaited for leaf in handle._leaves()])
    return group


def _name(fn: Any) -> str | None:
    return f"{fn.__module__}.{fn.__qualname__}" if hasattr(fn, "__qualname__") else None
