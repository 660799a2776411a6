"""The blocking side of a backend, and which backend a blocking handle belongs to."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self, TypeVar, overload
from weakref import WeakValueDictionary

from .. import backend as backends
from .._portal import refuse_running_loop, run, run_future
from .._storage.engine import BackendStats, Health
from ..meta import TaskMeta
from ..probe import Probe
from ..states import SUCCESS
from .base import Blocking, async_backend, blocking
from .groups import GroupResult
from .result import AsyncResult
from .sets import ResultSet

__all__ = ["Backend", "connect", "current_backend"]

T = TypeVar("T")


def connect(url: Any = None, **options: Any) -> Backend:
    """Make a backend, from a URL or a Celery app. Nothing is connected before it is used.

    See :func:`asyncresult.connect`.

    ``with connect(url):`` makes it the current one of this thread, and of threads that are in no block if none was
    entered before, and closes it at the end. An app gives the same object each time.
    """
    backend: Backend = blocking(backends.connect(url, **options))
    return backend


def current_backend() -> Backend:
    """The backend of the innermost ``with connect()`` block that this code is in.

    Outside of any block it is the backend that was entered first and is still open; where there is none, one for
    ``$ASYNCRESULT_URL``; else, where Celery is loaded, that of its current app. See
    :func:`asyncresult.current_backend`.

    Raises:
        RuntimeError: There is none of these.
        ValueError: The results of Celery's current app are not where asyncresult can read them.
    """
    backend: Backend = blocking(async_backend() or backends.current_backend())
    return backend


class Backend(Blocking):
    """Stores results of tasks, and wakes who waits for them. Made by :func:`connect`.

    All threads share its connections, two for each process. Equal to another one of the same async backend.
    """

    def __init__(self, backend: backends.Backend) -> None:
        self._backend = backend

    def _async(self) -> backends.Backend:
        return self._backend

    def __enter__(self) -> Self:
        self._backend._enter()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._backend._leave():
            self.close()

    def close(self, *, timeout: float = 2.0) -> None:
        """Close the connections; every wait ends with BackendClosed, at once.

        Args:
            timeout: Seconds that writes under way get to finish.
        """
        run(self._backend.aclose, timeout=timeout)

    @property
    def closed(self) -> bool:
        """Whether the backend was closed."""
        return self._backend.closed

    def stats(self) -> BackendStats:
        """Counters of the connections; zeros where there are none yet."""
        return self._backend.stats()

    def add_probe(self, probe: Probe) -> None:
        """Have a probe see what happens from now on, on the loop's thread; see :class:`asyncresult.Probe`."""
        self._backend.add_probe(probe)

    def remove_probe(self, probe: Probe) -> None:
        """Take a probe off. Harmless when it is not there."""
        self._backend.remove_probe(probe)

    def ping(self) -> float:
        """Read something small from the store; returns the seconds that it took."""
        return run(self._backend.ping)

    def health(self, *, timeout: float = 2.0) -> Health:
        """Whether the store can be used now: for readiness probes."""
        return run(self._backend.health, timeout=timeout)

    # -- handles --------------------------------------------------------------------------------------

    @overload
    def result(self, id: str, *, parent: Any = None) -> AsyncResult[Any]: ...
    @overload
    def result(self, id: str, *, type: builtins.type[T], parent: Any = None) -> AsyncResult[T]: ...
    @overload
    def result(self, id: str, *, type: Any, parent: Any = None) -> AsyncResult[Any]: ...
    def result(self, id: str, *, type: Any = Any, parent: Any = None) -> AsyncResult[Any]:
        """A handle on the result of task ``id``; touches nothing."""
        return AsyncResult(id, backend=self, parent=parent, type=type)

    @overload
    def results(self, ids: Iterable[str]) -> ResultSet[Any]: ...
    @overload
    def results(self, ids: Iterable[str], *, type: builtins.type[T]) -> ResultSet[T]: ...
    @overload
    def results(self, ids: Iterable[str], *, type: Any) -> ResultSet[Any]: ...
    def results(self, ids: Iterable[str], *, type: Any = Any) -> ResultSet[Any]:
        """Handles on several results, to be waited for together; touches nothing."""
        return ResultSet([self.result(id, type=type) for id in ids])

    # -- records: each as the coroutine of this name, see :class:`asyncresult.Backend` ------------------------

    def get_meta(self, task_id: str) -> TaskMeta:
        """The record of one task as it is now; PENDING where there is none."""
        return run(self._backend.get_meta, task_id)

    def get_many(self, ids: Iterable[str]) -> list[TaskMeta]:
        """The records of many tasks, in the order of ``ids``."""
        return run(self._backend.get_many, ids)

    def store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        *,
        traceback: str | None = None,
        request: Any = None,
        expires: float | None = None,
    ) -> bool:
        """Store a state of a task and announce it, in one atomic step; whether it was stored."""
        refuse_running_loop(self._backend.store_result)
        return run_future(
            self._backend._store, task_id, result, state, traceback=traceback, request=request, expires=expires
        )

    def store_many(
        self, results: Iterable[tuple[str, Any]], state: str = SUCCESS, *, expires: float | None = None
    ) -> list[bool]:
        """Store one state of many tasks with one call; for each, whether it was stored."""
        return run(self._backend.store_many, results, state, expires=expires)

    def mark_as_started(self, task_id: str, **meta: Any) -> bool:
        """Store STARTED; ``meta`` says who runs it."""
        return run(self._backend.mark_as_started, task_id, **meta)

    def mark_as_done(self, task_id: str, result: Any, *, request: Any = None, expires: float | None = None) -> bool:
        """Store SUCCESS with the value."""
        refuse_running_loop(self._backend.mark_as_done)
        return self.store_result(task_id, result, SUCCESS, request=request, expires=expires)

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        *,
        traceback: str | None = None,
        request: Any = None,
        expires: float | None = None,
    ) -> bool:
        """Store FAILURE with the exception and its traceback text."""
        return run(self._backend.mark_as_failure, task_id, exc, traceback=traceback, request=request, expires=expires)

    def mark_as_retry(
        self, task_id: str, exc: BaseException | None, *, traceback: str | None = None, request: Any = None
    ) -> bool:
        """Store RETRY with the exception that made a retry necessary."""
        return run(self._backend.mark_as_retry, task_id, exc, traceback=traceback, request=request)

    def mark_as_revoked(self, task_id: str, reason: str = "revoked", *, request: Any = None) -> bool:
        """Store REVOKED."""
        return run(self._backend.mark_as_revoked, task_id, reason, request=request)

    def forget(self, *ids: str) -> int:
        """Delete the records of ``ids``; how many there were."""
        return run(self._backend.forget, *ids)

    def register(self, task_id: str, *, name: str | None = None, expires: float | None = None) -> None:
        """Note that a task is sent: call it before the task is given to a queue."""
        run(self._backend.register, task_id, name=name, expires=expires)

    def put_beside(self, task_id: str, name: str, value: Any, *, expires: float | None = None) -> None:
        """Keep something about a task beside its record."""
        run(self._backend.put_beside, task_id, name, value, expires=expires)

    def get_beside(self, task_id: str, name: str) -> Any:
        """What :meth:`put_beside` keeps there; None where there is nothing."""
        return run(self._backend.get_beside, task_id, name)

    def save_group(self, group: GroupResult[Any]) -> None:
        """Store which results belong to a group."""
        run(self._backend.save_group, group)

    def restore_group(self, id: str) -> Any:
        """The ``as_tuple`` form of a saved group, or None; see :meth:`GroupResult.restore`."""
        return run(self._backend.restore_group, id)

    def delete_group(self, id: str) -> None:
        """Delete a saved group; its members' results stay."""
        run(self._backend.delete_group, id)

    # -- forms ------------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return self._backend is other._backend if isinstance(other, Backend) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._backend)

    def __repr__(self) -> str:
        return f"<blocking {self._backend!r}>"

    def __str__(self) -> str:
        """The backend's address without secrets."""
        return str(self._backend)


_blocking: WeakValueDictionary[backends.Backend, Backend] = WeakValueDictionary()


@blocking.register
def _(backend: backends.Backend) -> Backend:
    """The same object each time, as long as somebody has it."""
    return _blocking.get(backend) or _blocking.setdefault(backend, Backend(backend))
