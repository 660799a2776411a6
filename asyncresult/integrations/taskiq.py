"""taskiq, with results that are pushed: ``value = await (await add.kiq(2, 3))``.

::

    broker = install(ListQueueBroker(url).with_result_backend(ResultBackend("redis://localhost:6379/1")))

* :class:`ResultBackend`: taskiq's result backend over asyncresult, with records that any process can await by id.
* :func:`install`: tasks of a broker give a :class:`Task`, which can be awaited, and whose ``wait_result()`` waits for a
  notification, where taskiq's looks each 0.2 seconds.
* :func:`handle`: the handle of any task whose broker has such a result backend.

``asyncresult.connect(broker)`` gives the backend of a broker.
"""

from __future__ import annotations

import asyncio
import functools
import os
import platform
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from .._extensions import without_extra

try:
    from taskiq import AsyncBroker, AsyncResultBackend, TaskiqMessage, TaskiqMiddleware, TaskiqResult
    from taskiq.depends.progress_tracker import TaskProgress
    from taskiq.exceptions import ResultGetError, ResultIsReadyError, TaskiqResultTimeoutError
    from taskiq.task import AsyncTaskiqTask
except ModuleNotFoundError as _error:
    raise without_extra("taskiq", _error) from None

from .._log import Log, get_logger
from .._stored_later import store_later
from ..backend import Backend
from ..backend import connect as connect_url
from ..codec.exceptions import printable
from ..errors import AsyncResultError, BackendError, ResultDecodeError, ResultEncodeError, ResultTimeout
from ..meta import TaskMeta
from ..result import AsyncResult
from ..states import EXCEPTION_STATES, FAILURE, PENDING, PROGRESS, READY_STATES, STARTED, SUCCESS
from ..worker import traceback_text

__all__ = ["ResultBackend", "ResultIsMissing", "Task", "connect", "handle", "install"]

T = TypeVar("T")
AnyBroker = TypeVar("AnyBroker", bound=AsyncBroker)

logger: Log = get_logger("asyncresult.taskiq")

#: The field of a record for what taskiq wants to know besides; and of what is kept beside it, for the progress.
NAME = "taskiq"


class ResultIsMissing(ResultGetError):
    """There is no result of this task, or no more."""

    __template__ = "there is no result of this task"


@dataclass(slots=True)
class _Request:
    """What a record gets besides state and result; see :meth:`asyncresult.Backend.store_result`."""

    own_fields: dict[str, Any]


class ResultBackend(AsyncResultBackend[T]):
    """taskiq's results as records of asyncresult, which are Celery's.

    A result is stored as SUCCESS or FAILURE, with the traceback; values are JSON, as with any other backend of
    asyncresult. What a task reports by its progress tracker is a state that ``updates()`` and web pages show.

    From ``broker.startup()`` to ``broker.shutdown()`` its backend is the current one, for ``AsyncResult(task_id)``.

    Args:
        url: Where results are; as for :func:`asyncresult.connect`. Or a backend.
        keep_results: Whether a result stays when it was read by ``get_result()`` or ``wait_result()``. Handles, and
            awaiting a task, do not delete it in any case.
        options: Of the backend: ``expires`` and all others.

    Attributes:
        backend: The backend.

    Raises:
        ValueError: As :func:`asyncresult.connect`.
    """

    def __init__(self, url: str | Backend | None = None, *, keep_results: bool = True, **options: Any) -> None:
        self.backend: Backend = url if isinstance(url, Backend) else connect_url(url, **options)
        self.keep_results = keep_results

    async def startup(self) -> None:
        """Become the current backend."""
        self.backend._enter()

    async def shutdown(self) -> None:
        """Close the connections, unless somebody else has entered the backend too."""
        if self.backend._leave():
            await self.backend.aclose()

    async def set_result(self, task_id: str, result: TaskiqResult[T]) -> None:
        """Store a result.

        Raises:
            ResultEncodeError: The value does not fit the format. FAILURE is stored, with this error.
            BackendError: It could not be stored. It is stored later, while the process runs and the backend is open.
        """
        beside: dict[str, Any] = {"log": result.log, "execution_time": result.execution_time, "labels": result.labels}
        if not result.is_err:
            try:
                await self._store(task_id, result.return_value, SUCCESS, beside)
            except ResultEncodeError as error:  # who waits must know
                await self._store(task_id, error, FAILURE, beside)
                raise
            return
        if result.return_value is not None:
            beside["return_value"] = result.return_value
        await self._store(task_id, result.error, FAILURE, beside)

    async def _store(self, task_id: str, result: Any, state: str, beside: dict[str, Any]) -> None:
        text = traceback_text(result) if isinstance(result, BaseException) else None
        attempt = functools.partial(
            self.backend.store_result, task_id, result, state, traceback=text, request=_Request({NAME: beside})
        )
        try:
            await attempt()
        except BackendError as error:  # taskiq logs it, and forgets the result
            store_later(self.backend, task_id, state, attempt, error)
            raise

    async def is_result_ready(self, task_id: str) -> bool:
        """Whether the task has ended."""
        return (await self.backend.get_meta(task_id)).ready

    async def get_result(self, task_id: str, with_logs: bool = False) -> TaskiqResult[T]:
        """The result.

        Raises:
            ResultIsMissing: There is none, or none yet.
            AsyncResultError: It cannot be read.
        """
        return await self.result_of(await self.backend.get_meta(task_id), with_logs)

    async def result_of(self, meta: TaskMeta, with_logs: bool = False) -> TaskiqResult[T]:
        """The result of a record that was read. Deletes it, if results are not kept. Raises ResultIsMissing."""
        if not meta.ready:
            raise ResultIsMissing
        if not self.keep_results:
            await self.backend.forget(meta.task_id)
        found = meta.extra.get(NAME)
        beside: dict[str, Any] = found if isinstance(found, dict) else {}
        failed = meta.status != SUCCESS
        time, labels, log = beside.get("execution_time"), beside.get("labels"), beside.get("log")
        return TaskiqResult(
            is_err=failed,
            log=log if with_logs and isinstance(log, str) else None,
            return_value=cast("T", beside.get("return_value") if failed else meta.result),
            execution_time=_seconds(time),
            labels=labels if isinstance(labels, dict) else {},
            error=self.backend.codec.exception(meta) if failed and meta.result is not None else None,
        )

    async def set_progress(self, task_id: str, progress: TaskProgress[Any]) -> None:
        """Report a state of a task that runs. One that would end it, or that is kept for exceptions, is shown as
        PROGRESS; :meth:`get_progress` gives each as it was said."""
        said: dict[str, Any] = progress.model_dump(mode="json")
        state, meta = said["state"], said["meta"]
        shown = PROGRESS if state in (*READY_STATES, *EXCEPTION_STATES, PENDING, "") else state
        # In one pipeline. The second outlives the task, as taskiq's own backends have it.
        await asyncio.gather(
            self.backend.store_result(task_id, meta, shown),
            self.backend.put_beside(task_id, NAME, {"state": state, "meta": meta}),
        )

    async def get_progress(self, task_id: str) -> TaskProgress[Any] | None:
        """What was reported last, also when the task is over; None if nothing was.

        Raises:
            ResultDecodeError: What is kept there is no progress.
            AsyncResultError: It cannot be read.
        """
        said = await self.backend.get_beside(task_id, NAME)
        if said is None:
            return None
        state = said.get("state") if isinstance(said, dict) else None
        if not isinstance(state, str):
            # pydantic's own error would quote what is there.
            message = f"what is kept as the progress of task {printable(task_id)} is none"
            raise ResultDecodeError(message, task_id=task_id)
        return TaskProgress[Any](state=state, meta=said.get("meta"))


def _seconds(time: object) -> float:
    """How long a task took, if the record says so."""
    try:
        return float(time) if isinstance(time, (int, float)) else 0.0
    except OverflowError:  # a whole number with hundreds of digits
        return 0.0


# -- tasks --------------------------------------------------------------------------------------------------


class Task(AsyncTaskiqTask[T]):
    """A task that was sent: ``value = await task``. What a broker gives after :func:`install`.

    All that taskiq's has, it has. Awaiting it gives the value, of the annotated type, or raises what the task raised.
    """

    @functools.cached_property
    def handle(self) -> AsyncResult[T]:
        """asyncresult's handle: ``updates()``, ``then()`` and all the rest.

        Raises:
            TypeError: The broker has another result backend.
        """
        return _handle(self)

    def __asyncresult__(self) -> AsyncResult[T]:
        return self.handle

    def __await__(self) -> Generator[Any, None, T]:
        return self.handle.__await__()

    async def wait_result(
        self, check_interval: float = 0.2, timeout: float = -1.0, with_logs: bool = False
    ) -> TaskiqResult[T]:
        """Wait for the result, also that of a failure. Pushed: nothing is checked at an interval.

        Args:
            check_interval: For other result backends.
            timeout: Seconds; none unless it is above 0.
            with_logs: Whether the result has its log.

        Raises:
            TaskiqResultTimeoutError: It did not come in time.
            ResultIsReadyError: It cannot be waited for.
            ResultGetError: It is gone.
        """
        if not isinstance(self.result_backend, ResultBackend):
            return await super().wait_result(check_interval, timeout, with_logs)
        waiting: AsyncResult[Any] = self.result_backend.backend.result(self.task_id)
        try:
            await waiting.get(timeout if timeout > 0 else None, propagate=False)
            meta = await waiting.meta()
        except ResultTimeout:
            raise TaskiqResultTimeoutError(timeout=timeout) from None
        except AsyncResultError as error:
            raise ResultIsReadyError from error
        known = AsyncTaskiqTask(self.task_id, _Known(self.result_backend, meta), self.return_type)
        return await known.get_result(with_logs)


class _Known(AsyncResultBackend[T]):
    """A result backend that has read the record already: taskiq's own code makes the result of it."""

    def __init__(self, backend: ResultBackend[T], meta: TaskMeta) -> None:
        self._backend = backend
        self._meta = meta

    async def set_result(self, task_id: str, result: TaskiqResult[T]) -> None:
        raise NotImplementedError

    async def is_result_ready(self, task_id: str) -> bool:
        return True

    async def get_result(self, task_id: str, with_logs: bool = False) -> TaskiqResult[T]:
        return await self._backend.result_of(self._meta, with_logs)


def handle(task: AsyncTaskiqTask[T]) -> AsyncResult[T]:
    """The handle of a task that was sent: ``value = await handle(await add.kiq(2, 3))``, with types.

    Raises:
        TypeError: Its broker has another result backend.
    """
    return task.handle if isinstance(task, Task) else _handle(task)


def _handle(task: AsyncTaskiqTask[T]) -> AsyncResult[T]:
    results = task.result_backend
    if not isinstance(results, ResultBackend):
        raise TypeError(
            f"the broker's result backend is a {type(results).__name__}: give it"
            " broker.with_result_backend(asyncresult.integrations.taskiq.ResultBackend(url))"
        )
    type_: Any = Any if task.return_type is None else task.return_type
    return results.backend.result(task.task_id, type=type_)


# -- brokers ------------------------------------------------------------------------------------------------


def _kiq_gives_tasks(kicker: Callable[[], Any]) -> Any:
    """What ``kicker()`` gives, with a ``kiq()`` of ours. (Classes of generics cannot be exchanged.)"""
    made = kicker()
    kiq = made.kiq

    @functools.wraps(kiq)
    async def send(*args: Any, **kwargs: Any) -> Any:
        sent = await kiq(*args, **kwargs)
        return Task(sent.task_id, sent.result_backend, sent.return_type)

    made.kiq = send
    return made


class _Decorated:
    """In front of the class of a broker's tasks."""

    def kicker(self) -> Any:
        return _kiq_gives_tasks(super().kicker)  # type: ignore[misc]


def install(broker: AnyBroker, *, track_started: bool = False) -> AnyBroker:
    """Have the tasks of a broker give a :class:`Task` when they are sent: those it has, and those it will get.

    For shared tasks, ``install(async_shared_broker)`` too.

    Args:
        track_started: Workers store STARTED when they begin, so that ``until("STARTED")`` ends and pages show it: a
            round trip for each task.

    Returns:
        The broker.
    """
    cls: Any = broker.decorator_class
    if not issubclass(cls, _Decorated):
        in_front: Any = type(cls.__name__, (_Decorated, cls), {"__module__": cls.__module__})
        broker.decorator_class = in_front
        for task in [*broker.local_task_registry.values(), *broker.global_task_registry.values()]:
            if task.broker is broker:
                vars(task)["kicker"] = functools.partial(_kiq_gives_tasks, task.kicker)
    if track_started and not any(isinstance(middleware, _Started) for middleware in broker.middlewares):
        broker.add_middlewares(_Started())
    return broker


class _Started(TaskiqMiddleware):
    """Stores STARTED."""

    async def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        results = self.broker.result_backend
        if isinstance(results, ResultBackend):
            try:
                await results.backend.mark_as_started(message.task_id, pid=os.getpid(), hostname=platform.node())
            except AsyncResultError as error:  # the task runs all the same
                about = {"event": "not stored", "backend": str(results.backend), "task_id": message.task_id}
                logger.warning("task %s: %s could not be stored: %s", message.task_id, STARTED, error, extra=about)
        return message


def connect(broker: AsyncBroker, **options: Any) -> Backend:
    """The backend of a broker's :class:`ResultBackend`. What ``asyncresult.connect(broker)`` calls.

    Raises:
        ValueError: The broker has another result backend, or there are options: they belong to :class:`ResultBackend`.
    """
    results = broker.result_backend
    if not isinstance(results, ResultBackend):
        raise ValueError(
            f"the broker's results are in a {type(results).__name__}: give it"
            " broker.with_result_backend(asyncresult.integrations.taskiq.ResultBackend(url))"
        )
    if options:
        raise ValueError(f"give options to ResultBackend(url, …), not to connect(broker): {', '.join(sorted(options))}")
    return results.backend
