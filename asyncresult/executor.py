"""Running functions as tasks, in this process: the embedded default, when there is no queue.

What an accepted task goes through is in :mod:`._jobs`; here is who accepts it, and how that ends.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import uuid
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

from ._calls import Options, is_coroutine_function, is_handle
from ._checks import check_count, check_seconds, check_task_id
from ._handles.base import handles_in
from ._handles.groups import GroupResult
from ._handles.result import AsyncResult
from ._handles.sets import ResultSet
from ._jobs import Job, JobContext, Session
from .backend import Backend, current_backend
from .worker import current_task

__all__ = ["Executor", "Submitter", "value_of"]

P = ParamSpec("P")
T = TypeVar("T")
X = TypeVar("X")


@overload
def value_of(handle: AsyncResult[T]) -> T: ...
@overload
def value_of(handle: ResultSet[T]) -> list[T]: ...
def value_of(handle: Any) -> Any:
    """``handle``, as an argument for ``submit()``: to the type checker it is the value that the task will get."""
    return handle


class Submitter:
    """Accepts tasks with the same options. Made by :meth:`Executor.options`."""

    def __init__(self, executor: Executor, options: Options) -> None:
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
            asyncio.QueueFull: ``max_pending`` tasks wait already; see :meth:`Executor.wait_for_capacity`.
            RuntimeError: The executor is not entered, or is closing, or was entered on another event loop.
            TypeError: ``fn`` cannot be called, or ``process=True`` and it is a coroutine function.
            ValueError: The ``task_id`` cannot be one, or is already running here.
        """
        self._executor._check_capacity()
        return self._executor._accept(self._options, fn, args, kwargs, None)

    @overload
    def map(self, fn: Callable[[X], Coroutine[Any, Any, T]], items: Iterable[X]) -> GroupResult[T]: ...
    @overload
    def map(self, fn: Callable[[X], T], items: Iterable[X]) -> GroupResult[T]: ...
    def map(self, fn: Callable[..., Any], items: Iterable[Any]) -> GroupResult[Any]:
        """``submit(fn, item)`` for each item: the handles, in the order of the items, as a group.

        The items are accepted together, however many they are, if one more task may wait. Only ``concurrency`` of
        them run at a time; while more than ``max_pending`` wait, nothing else is accepted.

        Raises: as :meth:`submit`; ValueError also for several items with one ``task_id``. Nothing is accepted then, or
        where ``max_pending`` tasks wait already.
        """
        items = list(items)
        if self._options.task_id is not None and len(items) > 1:
            raise ValueError(f"task_id={self._options.task_id!r} is the id of one task, and these are {len(items)}")
        if items:
            self._executor._check_capacity()
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

    Leaving the block waits for all tasks. A block that fails or is cancelled cancels them. Whatever was accepted has a
    final state in the end: what did not run is REVOKED. While the backend cannot be reached, tasks wait until their
    states are stored. A failure that nobody looks at is logged.

    A coroutine function runs on the loop, and is cancelled by a revoke or timeout. A plain function runs in a worker
    thread of anyio. A thread cannot be stopped from outside: the function is requested to stop, which it notices when
    it calls ``anyio.from_thread.check_cancelled()``; if it ends by itself first, that counts. With
    ``options(process=True)`` a plain function runs in a worker process, which a timeout or a revoke with
    ``terminate=True`` kills.

    An executor may be entered again, also on another event loop.

    Args:
        backend: Where states and results are stored; None is the one that is current when the block is entered.
        concurrency: Tasks that run at a time. A task that awaits another one keeps its slot meanwhile.
        max_pending: Tasks that may wait for their turn, before more are refused. :meth:`map` is accepted whole.
        cancel_pending: Do not run what waits when the block ends.
        shutdown_timeout: Seconds that leaving the block waits for tasks that it has cancelled, and for final states
            that an outage holds up. What has not ended then is left behind, REVOKED if it still ran.
        heartbeat: Seconds between heartbeats of the tasks that run; see :meth:`Backend.track`.
        worker: The name of this worker in records and replies.

    Raises:
        ValueError: ``concurrency`` or ``max_pending`` is no whole number from 1, or ``shutdown_timeout`` or
            ``heartbeat`` no number of seconds.
    """

    def __init__(
        self,
        backend: Backend | None = None,
        *,
        concurrency: int = 10,
        max_pending: int = 1000,
        cancel_pending: bool = False,
        shutdown_timeout: float = 10.0,
        heartbeat: float | None = None,
        worker: str | None = None,
    ) -> None:
        if backend is not None and not isinstance(backend, Backend):
            raise TypeError(f"backend must be a Backend, as connect() makes one, not {type(backend).__name__}")
        check_count("concurrency", concurrency)
        check_count("max_pending", max_pending)
        check_seconds("shutdown_timeout", shutdown_timeout, least=0.0)
        if heartbeat is not None:
            check_seconds("heartbeat", heartbeat)
        super().__init__(self, Options())
        self._backend = backend
        self._concurrency = concurrency
        self._max_pending = max_pending
        self._cancel_pending = cancel_pending
        self._shutdown_timeout = shutdown_timeout
        self._heartbeat = heartbeat
        self._worker = worker
        self._in_use: Backend | None = None
        self._session: Session | None = None
        self._open = False

    @property
    def backend(self) -> Backend:
        """Where states and results are stored. Raises RuntimeError: none was given and none is entered."""
        if self._in_use is not None:
            return self._in_use
        return self._backend if self._backend is not None else current_backend()

    @property
    def pending(self) -> int:
        """Tasks that wait for their turn."""
        return self._session.pending if self._session is not None else 0

    @property
    def running(self) -> int:
        """Tasks that were started and are not over."""
        return len(self._session.jobs) - self._session.pending if self._session is not None else 0

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

        Raises:
            ValueError: One of the numbers is none that can be counted, or waited for.
        """
        for option, seconds in (("timeout", timeout), ("expires", expires), ("backoff", backoff)):
            if seconds is not None:
                check_seconds(option, seconds, least=0.0)
        check_count("retries", retries, least=0)
        if history is not None:
            check_count("history", history)
        classes = retry_on if isinstance(retry_on, tuple) else (retry_on,)
        chosen = Options(task_id, name, timeout, expires, retries, backoff, classes, process, history)
        return Submitter(self, chosen)

    async def wait_for_capacity(self, count: int = 1) -> None:
        """Wait until ``count`` more tasks can be submitted.

        Raises:
            RuntimeError: The executor is not entered, or was entered on another event loop.
            ValueError: That many may never wait, or ``count`` is no whole number from 1.
        """
        check_count("count", count)
        if count > self._max_pending:
            raise ValueError(f"cannot queue {count} tasks: max_pending is {self._max_pending}")
        session = self._entered()
        await session.until(lambda: session.pending + count <= self._max_pending)

    room = wait_for_capacity

    def _entered(self) -> Session:
        session = self._session
        if session is None or session.loop.is_closed():
            raise RuntimeError("tasks can be submitted only inside 'async with Executor(…):'")
        try:
            if asyncio.get_running_loop() is session.loop:
                return session
        except RuntimeError:
            pass  # a thread without one
        raise RuntimeError(
            "tasks are submitted on the event loop on which the Executor was entered. In a function that it runs in a"
            " thread: anyio.from_thread.run_sync(executor.submit, …); in other threads: loop.call_soon_threadsafe(),"
            " or asyncresult.sync.Executor"
        )

    def _check_capacity(self) -> None:
        session = self._entered()
        if not self._open:
            raise RuntimeError("the executor is closing: it accepts no more tasks")
        if session.pending >= self._max_pending:
            raise asyncio.QueueFull(
                f"executor is full ({session.pending} of {self._max_pending} tasks pending):"
                " await executor.wait_for_capacity() first"
            )

    def _accept(
        self, options: Options, fn: Callable[..., Any], args: Any, kwargs: dict[str, Any], group: str | None
    ) -> AsyncResult[Any]:
        session = self._entered()
        if not callable(fn):
            raise _not_a_function(fn)
        if options.process and is_coroutine_function(fn):
            raise TypeError("process=True takes a plain function")
        id = check_task_id(options.task_id if options.task_id is not None else uuid.uuid4())
        if id in session.jobs:
            raise ValueError(f"task {id} is already running here")
        sender = current_task()
        awaited = [argument for argument in (*args, *kwargs.values()) if is_handle(argument)]
        parent = _parent(awaited)
        backend = session.backend
        storable = backend.codec._storable
        context = JobContext(
            backend,
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
        handle: AsyncResult[Any] = AsyncResult(id, backend=backend, parent=parent)
        Job(session, context, options, functools.partial(fn, *args, **kwargs), handle)
        if sender is not None:
            sender.add_child(handle)
        return handle

    def _abort(self, *, started: bool = True) -> None:
        """Cancel what waits, and what is started too unless ``started`` is False."""
        if self._session is not None:
            self._session.abort(started=started)

    async def __aenter__(self) -> Self:
        """Raises: RuntimeError: No backend was given and none is current; or it has already been entered."""
        if "multiprocessing.process" in sys.modules:
            from ._processes import refuse_while_main_is_imported

            refuse_while_main_is_imported()
        if self._session is not None and not self._session.loop.is_closed():
            raise RuntimeError("this Executor has already been entered")
        self._in_use = None
        self._in_use = self.backend
        self._session = Session(self._in_use, self._concurrency)
        self._open = True
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        session = self._session
        if session is None or session.loop.is_closed():
            return  # left already
        task = current_task()
        if task is not None and task.id in session.jobs:
            raise RuntimeError(f"task {task.id} cannot wait for the end of the Executor that runs it")
        try:
            if exc is not None:
                self._open = False
                await session.finish_aborted(self._shutdown_timeout)
            else:
                if self._cancel_pending:
                    self._open = False
                    self._abort(started=False)
                await session.finish(self._shutdown_timeout)  # tasks that run may submit others meanwhile
        finally:
            self._open = False
            self._session = self._in_use = None
            await session.close()


def _parent(awaited: list[Any]) -> AsyncResult[Any] | GroupResult[Any] | None:
    """What must succeed first, as one handle."""
    if not awaited or (len(awaited) == 1 and isinstance(awaited[0], (AsyncResult, GroupResult))):
        return awaited[0] if awaited else None
    group: GroupResult[Any] = GroupResult(results=[leaf for handle in awaited for leaf in handles_in(handle)])
    return group


def _name(fn: Any) -> str | None:
    return f"{fn.__module__}.{fn.__qualname__}" if hasattr(fn, "__qualname__") else None


def _not_a_function(given: object) -> TypeError:
    hint = ": give the function and its arguments, submit(fn, x), not submit(fn(x))"
    return TypeError(f"a task is a function, not {type(given).__name__}{hint if isinstance(given, Coroutine) else ''}")
