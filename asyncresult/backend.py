"""Backends: a store that also makes handles and contexts, and can be entered. :func:`connect` makes one from a URL."""

from __future__ import annotations

import builtins
import functools
import inspect
import os
import uuid
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, Unpack, overload

from ._extensions import current_app, integration_for
from ._handles.result import AsyncResult
from ._storage import current
from ._storage.notes import Note, put_notes
from ._storage.store import Driver, Store

if TYPE_CHECKING:
    from ._handles.base import Node
    from ._handles.sets import ResultSet
    from .worker import TaskContext, TrackOptions

__all__ = ["Backend", "connect", "current_backend"]

P = ParamSpec("P")
T = TypeVar("T")

URL_VARIABLE = "ASYNCRESULT_URL"
_SINGLE_SERVER = ("redis", "rediss", "unix", "valkey", "valkeys", "valkey+unix", "redis+socket")
_SENTINEL = ("sentinel", "sentinels")
_CLUSTER = ("redis+cluster", "rediss+cluster", "valkey+cluster", "valkeys+cluster")
_PLACES = "a URL as text, or an app: Celery's, a broker of taskiq's, or that of another integration"
KNOWN_SCHEMES = (*_SINGLE_SERVER, *_SENTINEL, *_CLUSTER, "memory")


class Backend(Store):
    """Stores results of tasks, and wakes who waits for them.

    Use as an async context manager (that makes it the current backend and closes it at the end), or call
    :meth:`aclose` yourself. Made by :func:`asyncresult.connect`.

    Args:
        driver: Where its records are; ``connect()`` picks one by the URL.
        expires: Seconds a record is kept; None or 0 forever. Celery's ``result_expires``.
        failure_expires: The same for FAILURE; None as ``expires``. Celery's ``result_failure_expires``.
        key_prefix: In front of every key and channel, by the rule of Celery's ``global_keyprefix``: an
            underscore is put between, unless it ends in one of ``: _ - .``.
        safety_interval: Seconds between two sweeps over everything waited for (lost notifications).
        heartbeat: Seconds of silence until the server is sent a PING, and from there until
            the connection counts as dead.
        max_result_bytes: Larger records are refused with ResultTooLarge.
        exceptions: Exception classes that may be constructed from a record (their ``__init__`` runs).
        verify_key: Take a notification as a hint only and always read the key.
        serializer, accept, compression: What is written, what is read; see :class:`asyncresult.codec.Codec`.
        result_extended: Write name, args, kwargs, worker, retries and queue of the request too.
        register: Note of each task that it is sent (a Celery app's), so that unknown ids differ from pending ones.
            Authors of queues call :meth:`register`.

    Raises:
        ValueError: An option is invalid.
    """

    @property
    def options(self) -> Any:
        """How the connections are set up, without secrets in its repr; None where there are no connections."""
        return getattr(self.driver, "options", None)

    # -- handles --------------------------------------------------------------------------------------

    @overload
    def result(self, id: str | uuid.UUID, *, parent: Node[Any] | None = None) -> AsyncResult[Any]: ...
    @overload
    def result(
        self, id: str | uuid.UUID, *, type: builtins.type[T], parent: Node[Any] | None = None
    ) -> AsyncResult[T]: ...
    @overload
    def result(self, id: str | uuid.UUID, *, type: Any, parent: Node[Any] | None = None) -> AsyncResult[Any]: ...
    def result(self, id: str | uuid.UUID, *, type: Any = Any, parent: Node[Any] | None = None) -> AsyncResult[Any]:
        """A handle on the result of task ``id``; touches nothing."""
        return AsyncResult(id, backend=self, parent=parent, type=type)

    @overload
    def results(self, ids: Iterable[str | uuid.UUID]) -> ResultSet[Any]: ...
    @overload
    def results(self, ids: Iterable[str | uuid.UUID], *, type: builtins.type[T]) -> ResultSet[T]: ...
    @overload
    def results(self, ids: Iterable[str | uuid.UUID], *, type: Any) -> ResultSet[Any]: ...
    def results(self, ids: Iterable[str | uuid.UUID], *, type: Any = Any) -> ResultSet[Any]:
        """Handles on several results, to be awaited together; touches nothing."""
        from ._handles.sets import ResultSet  # many programs have no sets (benchmarks: import)

        return ResultSet([self.result(id, type=type) for id in ids])

    def _revive(self, form: Any) -> Node[Any]:
        from ._handles.forms import result_from_tuple

        node: Node[Any] = result_from_tuple(form, self)
        return node

    async def register(self, task_id: str, *, name: str | None = None, expires: float | None = None) -> None:
        """Note that a task is sent: call it before the task is given to a queue.

        From then on the task is :meth:`.AsyncResult.known`, and :meth:`.AsyncResult.sent` says when. What workers store
        does not erase it; :meth:`forget` does.

        Args:
            name: The task's name.
            expires: Seconds to keep the note; None is as long as records are kept.

        Raises:
            BackendUnavailable, BackendPermissionError, BackendClosed: It may or may not have been noted.
            BackendError: The store is one of Celery's that keeps records only.

        Wire: SET with EX, PUBLISH.
        """
        await put_notes(self, [Note(task_id, name, expires=expires)])

    # -- running tasks --------------------------------------------------------------------------------

    def track(self, task_id: str | None = None, **options: Unpack[TrackOptions]) -> TaskContext:
        """An async context manager whose block is the task: its states are stored, and it can be revoked.

        ::

            async with backend.track(task_id, name="resize") as task:   # STARTED
                await task.progress(3, 10)                              # PROGRESS
                task.set_result(url)                                    # SUCCESS on leaving, or FAILURE

        An exception that leaves the block is stored as FAILURE and goes on. A block that is cancelled is
        stored as REVOKED. A revoke, sent from any process, cancels the block, which then raises TaskRevoked;
        one that was sent before keeps the block from being entered.

        Args:
            task_id: None makes a new id.
            name, args, kwargs, worker, queue, retries: Recorded as with Celery's ``result_extended``. The
                arguments must fit the format. ``worker`` is by default ``asyncresult@`` and the host's name.
            parent_id, group_id: The task that sent this one; the group of which it is a member.
            ignore_result: Store nothing. The block can still be revoked.
            expires: Seconds to keep the records, instead of the backend's setting.
            failure_expires: The same for FAILURE; None as ``expires``.
            heartbeat: Seconds between heartbeats, by which readers distinguish a task that runs from one whose
                process died (:attr:`TaskMeta.stale`). None gives none.
            history: Keep the last so many states for readers that request them by ``updates(since=…)``. None
                keeps the latest state only.
            progress_interval: Seconds between two stores of PROGRESS. Of what is reported in between, the latest
                is stored.

        Returns:
            The context; ``async with`` gives it to the block. See :class:`TaskContext`.

        Raises:
            ValueError: The id, or a number, is invalid.
        """
        from .worker import TaskContext  # most programs only wait (benchmarks: import)

        return TaskContext(self, task_id, **options)

    def tracked(
        self, *, id: Callable[..., str | uuid.UUID] | None = None, **options: Unpack[TrackOptions]
    ) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Coroutine[Any, Any, T]]]:
        """Decorate a coroutine function: each call of it is a task, as a block of :meth:`track` is.

        ::

            @backend.tracked(id=lambda job: job["id"], heartbeat=5)
            async def resize(job: dict[str, Any]) -> str: ...

        What it returns is stored with SUCCESS, and returned; what it raises with FAILURE, and raised.
        :func:`current_task` gives the :class:`TaskContext` inside.

        Args:
            id: Called with the arguments of each call: the task's id. None makes a new one.
            options: Those of :meth:`track`. ``name`` is by default that of the function.

        Raises:
            TypeError: What is decorated is no coroutine function.
        """

        def decorate(fn: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
            if not inspect.iscoroutinefunction(fn):
                raise TypeError(f"tracked() decorates coroutine functions, not {fn!r:.60}")
            named: TrackOptions = {"name": f"{fn.__module__}.{fn.__qualname__}", **options}

            @functools.wraps(fn)
            async def run(*args: P.args, **kwargs: P.kwargs) -> T:
                async with self.track(str(id(*args, **kwargs)) if id is not None else None, **named) as task:
                    value = await fn(*args, **kwargs)
                    task.set_result(value)
                return value

            return run

        return decorate

    # -- being the current one ------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._enter()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._leave():
            await self.aclose()

    def _enter(self) -> None:
        """Become the current backend of this context, and of code in no block if none was entered before."""
        self._reopen()
        current.enter(self)

    def _reopen(self) -> None:
        self._closed = False

    def _leave(self) -> bool:
        """Undo one :meth:`_enter`. Whether that was the last of them."""
        return current.leave(self)

    async def _close(self, timeout: float) -> None:
        current.closed(self)
        await super()._close(timeout)


def connect(url: Any = None, **options: Any) -> Backend:
    """Make a backend. Nothing is connected before it is used.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://``, ``valkey://``, ``valkeys://``, ``sentinel://``,
            ``sentinels://``, ``redis+cluster://``, ``rediss+cluster://`` or ``memory://``. None is
            ``$ASYNCRESULT_URL``, or else ``memory://``. Or an application of an installed integration: a
            Celery app gives the backend of its own configuration.
        options: Those of :class:`Backend`, and of the connections (docs/reference/options.md); nearly all may
            be given in the URL's query, too.

    Returns:
        The backend: ``async with connect(url):`` makes it the current one and closes it at the end.

    Raises:
        TypeError: Neither a URL nor an application that an integration knows.
        ValueError: Unknown scheme or option, or an invalid value. Names the known ones; holds no
            secret.
    """
    if url is None:
        url = os.environ.get(URL_VARIABLE) or "memory://"
    if not isinstance(url, str):
        backend: Backend = integration_for(url, _PLACES).connect(url, **options)
        return backend
    if url != url.strip("\"' \t\r\n"):
        raise ValueError("a backend's URL has white space or quotation marks around it, as in a file or a variable")
    scheme, separator, _ = url.partition("://")
    found = _driver(scheme, url, options) if separator else None
    if found is not None:
        driver, common = found
        return Backend(driver, **common)
    if scheme == "rpc":
        raise ValueError("results by rpc:// reach only the app that sent the tasks: pass that app, connect(app)")
    # Only what can be a scheme is quoted: it might be part of a password that has "://" in it.
    named = "a backend's URL has no scheme"
    if separator:
        can_be_one = scheme.isascii() and scheme.replace("+", "").isalnum()
        named = f"unknown scheme {scheme!r}" if can_be_one else "a backend's URL begins with what is no scheme"
    known = ", ".join(f"{known}://" for known in KNOWN_SCHEMES)
    raise ValueError(f"{named}; known are {known}. Other result backends of Celery are read by its app: connect(app)")


def _driver(scheme: str, url: str, options: dict[str, Any]) -> tuple[Driver, dict[str, Any]] | None:
    """The driver for a URL, and the options that are the backend's own; None for an unknown scheme."""
    if scheme in _SINGLE_SERVER:
        from ._redis.driver import RedisDriver  # not before it is needed: redis-py takes long to import

        return RedisDriver.from_url(url, options)
    if scheme in _SENTINEL:
        from ._redis.sentinel import SentinelDriver

        return SentinelDriver.from_url(url, options)
    if scheme in _CLUSTER:
        from ._redis.cluster import ClusterDriver

        return ClusterDriver.from_url(url, options)
    if scheme == "memory":
        from ._storage.memory import MemoryDriver

        return MemoryDriver.from_url(url, options)
    return None


_default: Backend | None = None


def default_backend() -> Backend:
    """That of the environment, made at its first use; else that of Celery's current app."""
    global _default
    if os.environ.get(URL_VARIABLE):
        if _default is None:
            _default = connect()
        return _default
    app = current_app()
    if app is not None:
        return connect(app)
    raise RuntimeError(
        f"no backend: enter 'async with asyncresult.connect(url):', pass backend=, or set ${URL_VARIABLE}"
    )


def current_backend() -> Backend:
    """The backend of the innermost ``connect()`` block that this code is in.

    Outside of any block it is the backend that was entered first and is still open; where there is none, that of
    Django's settings, if they name one; else one for ``$ASYNCRESULT_URL``; else, where Celery is loaded, that of its
    current app. The same holds for blocking code.

    Raises:
        RuntimeError: There is none of these.
        ValueError: The results of Celery's current app are not where asyncresult can read them.
    """
    backend = current.current_store()
    assert isinstance(backend, Backend)
    return backend
