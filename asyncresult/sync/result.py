"""The blocking handle on one result, with the names and shapes of ``celery.result.AsyncResult``.

One blocking handle wraps one async handle, which belongs to the portal's loop (:mod:`._portal`). What the
async handle has learned is read from memory, on any thread; everything else goes through the portal.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import cached_property
from time import monotonic
from typing import Any, ClassVar, Literal, Self, overload

from .._checks import DetachOrRevoke
from .._handles.base import T_co
from .._handles.known import is_ready, is_settled, outcome
from .._handles.result import AsyncResult as AsyncHandle
from .._portal import run, start
from ..codec.exceptions import printable
from ..control import Reply
from ..errors import ResultTimeout
from ..graph import DependencyGraph
from ..meta import TaskMeta
from ..states import EXCEPTION_STATES, PROPAGATE_STATES, SUCCESS
from .base import OnMessage, Stream, Updates, async_backend, blocking, blocking_get
from .celery import assert_will_not_block, celerys_terms, in_celerys_terms
from .reads import Readable

__all__ = ["AsyncResult"]


class AsyncResult(Readable[T_co]):
    """The result of a task that runs somewhere else, for code without an event loop.

    Takes the place of ``celery.result.AsyncResult``. May be used by any number of threads. Two handles
    are equal when their ids are.

    Args:
        id: The task's id: text, or a UUID.
        backend: Where its result is stored; None is the current backend at the first use.
        task_name: Ignored, as in Celery.
        app: A Celery app, whose result backend is meant if ``backend`` is None.
        parent: The result of the task that must succeed before this one runs.
        type: What the value is to be converted to and checked against; see :class:`asyncresult.AsyncResult`.

    Raises:
        TypeError, ValueError: The id cannot be one.
        RuntimeError, from whatever would wait: The thread runs an event loop. Nothing was done.
    """

    #: What :meth:`get` raises when time is up. Where Celery is loaded, it is a ``celery.exceptions.TimeoutError`` too.
    TimeoutError: ClassVar[type[ResultTimeout]] = ResultTimeout
    #: Joins use one notification channel for all members.
    supports_native_join = True

    @overload
    def __init__(
        self,
        id: str,
        backend: Any = None,
        task_name: str | None = None,
        app: Any = None,
        parent: Any = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        id: str,
        backend: Any = None,
        task_name: str | None = None,
        app: Any = None,
        parent: Any = None,
        *,
        type: builtins.type[T_co],
    ) -> None: ...
    @overload  # for what is no class: unions, Annotated …
    def __init__(
        self,
        id: str,
        backend: Any = None,
        task_name: str | None = None,
        app: Any = None,
        parent: Any = None,
        *,
        type: Any,
    ) -> None: ...
    def __init__(
        self,
        id: str,
        backend: Any = None,
        task_name: str | None = None,
        app: Any = None,
        parent: Any = None,
        *,
        type: Any = Any,
    ) -> None:
        self.app = app
        self._handle = AsyncHandle(
            id,
            backend=async_backend(backend, app),
            parent=parent._async() if parent is not None else None,
            type=type,
        )

    @classmethod
    def _of(cls, handle: AsyncHandle[Any], app: Any = None) -> Self:
        """The blocking handle around an async one."""
        new = cls.__new__(cls)
        new.app = app
        new._handle = handle
        return new

    def _async(self) -> AsyncHandle[T_co]:
        return self._handle

    def _leaves(self) -> Iterator[AsyncResult[Any]]:
        yield self

    # -- what this handle knows: memory only --------------------------------------------------------------

    @property
    def id(self) -> str:
        """The task's id. Set it to make this a handle on another task, of which nothing is known."""
        return self._handle.id

    @id.setter
    def id(self, id: str) -> None:
        old = self._handle
        self._handle = AsyncHandle(id, backend=old._backend, parent=old.parent, type=old._type)

    task_id = id

    @property
    def parent(self) -> Any:
        """The result of the task before this one, or None."""
        above = self._handle.parent
        return blocking(above) if above is not None else None

    @parent.setter
    def parent(self, parent: Any) -> None:
        self._handle.parent = parent._async() if parent is not None else None

    @property
    def backend(self) -> Any:
        """The backend; the current one from the first use on, where none was given."""
        return blocking(self._handle.backend)

    @property
    def ignored(self) -> bool:
        """Whether the task's result is thrown away by its worker; ``get()`` gives None at once then."""
        return self._handle.ignored

    @ignored.setter
    def ignored(self, ignored: bool) -> None:
        self._handle.ignored = ignored

    def done(self) -> bool:
        """Whether this handle has learned how the task ended, or that its record cannot be had."""
        return self._handle.done()

    @property
    def value(self) -> T_co:
        """The value that this handle has learned. Raises NotReady, or what the task raised."""
        with celerys_terms:
            return self._handle.value

    @property
    def exception(self) -> Exception | None:
        """The exception that this handle has learned, None if the task succeeded. Raises NotReady."""
        with celerys_terms:
            return in_celerys_terms(self._handle.exception)

    @property
    def snapshot(self) -> TaskMeta | None:
        """The latest record that this handle has seen, final or not."""
        return self._handle.snapshot

    # -- waiting ------------------------------------------------------------------------------------------

    @overload
    def get(
        self,
        timeout: float | None = None,
        propagate: Literal[True] = True,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], object] | None = None,
        on_message: OnMessage | None = None,
        on_interval: Callable[[], object] | None = None,
        disable_sync_subtasks: bool = True,
        EXCEPTION_STATES: Any = ...,
        PROPAGATE_STATES: Any = ...,
        *,
        on_timeout: DetachOrRevoke = "detach",
        on_cancel: DetachOrRevoke = "detach",
    ) -> T_co: ...
    @overload
    def get(
        self,
        timeout: float | None,
        propagate: bool,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], object] | None = None,
        on_message: OnMessage | None = None,
        on_interval: Callable[[], object] | None = None,
        disable_sync_subtasks: bool = True,
        EXCEPTION_STATES: Any = ...,
        PROPAGATE_STATES: Any = ...,
        *,
        on_timeout: DetachOrRevoke = "detach",
        on_cancel: DetachOrRevoke = "detach",
    ) -> T_co | Exception: ...
    @overload
    def get(
        self,
        timeout: float | None = None,
        *,
        propagate: bool,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], object] | None = None,
        on_message: OnMessage | None = None,
        on_interval: Callable[[], object] | None = None,
        disable_sync_subtasks: bool = True,
        EXCEPTION_STATES: Any = ...,
        PROPAGATE_STATES: Any = ...,
        on_timeout: DetachOrRevoke = "detach",
        on_cancel: DetachOrRevoke = "detach",
    ) -> T_co | Exception: ...
    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], object] | None = None,
        on_message: OnMessage | None = None,
        on_interval: Callable[[], object] | None = None,
        disable_sync_subtasks: bool = True,
        EXCEPTION_STATES: Any = EXCEPTION_STATES,
        PROPAGATE_STATES: Any = PROPAGATE_STATES,
        *,
        on_timeout: DetachOrRevoke = "detach",
        on_cancel: DetachOrRevoke = "detach",
    ) -> T_co | Exception:
        """Wait until the task is over. Callbacks are called in this thread.

        Args:
            timeout: The total budget in seconds; None waits forever, 0 looks once.
            propagate: Raise what the task raised; False returns the exception instead.
            interval: Seconds between two calls of ``on_interval``. Nothing is polled.
            no_ack, EXCEPTION_STATES, PROPAGATE_STATES: Accepted for Celery's sake, without effect.
            follow_parents: Also end with the exception of a parent that failed.
            callback: Called with id and value (or exception) before returning.
            on_message: Called with each record of this task that arrives, as a dict.
            on_interval: Called each ``interval`` seconds of waiting; what it raises ends the wait.
            disable_sync_subtasks: Refuse to wait inside a Celery task; see :func:`allow_join_result`.
            on_timeout, on_cancel: ``"detach"`` leaves the task alone, ``"revoke"`` revokes it, when time is
                up, or on Ctrl-C.

        Returns:
            The value, converted to the handle's ``type``.

        Raises: as :meth:`asyncresult.AsyncResult.get`, and
            RuntimeError: Called inside a Celery task, or on a thread whose event loop runs.
            KeyboardInterrupt: At once. The task goes on.

        Source: celery/result.py (5.7), AsyncResult.get.
        """
        if self.ignored:
            return None  # type: ignore[return-value]
        if disable_sync_subtasks:
            assert_will_not_block()
        handle = self._handle
        with celerys_terms:
            if is_settled(handle) or (is_ready(handle) and not follow_parents):
                value = outcome(handle, propagate=propagate, own=not follow_parents)
            else:
                value = blocking_get(
                    handle,
                    timeout,
                    interval=interval,
                    on_interval=on_interval,
                    on_message=on_message,
                    propagate=propagate,
                    follow_parents=follow_parents,
                    on_timeout=on_timeout,
                    on_cancel=on_cancel,
                )
        in_celerys_terms(value)
        if callback is not None:
            callback(self.id, value)
        return value  # type: ignore[no-any-return]

    wait = get

    def until(self, *states: str, timeout: float | None = None) -> TaskMeta:
        """Wait until the task is in one of ``states``, or over; see :meth:`asyncresult.AsyncResult.until`."""
        with celerys_terms:
            return run(self._handle.until, *states, timeout=timeout)

    def updates(self, *, timeout: float | None = None, maxsize: int = 64, since: str | None = None) -> Updates:
        """The task's states as they are published: ``for meta in r.updates()``.

        Args and behaviour: :meth:`asyncresult.AsyncResult.updates`.
        """
        return Updates(self._handle.updates(timeout=timeout, maxsize=maxsize, since=since))

    def as_concurrent_future(self) -> Future[T_co]:
        """A future with the task's outcome, for ``concurrent.futures.wait`` and friends.

        Cancelling it ends the wait, not the task.
        """
        return start(self._handle.get)

    # -- control ------------------------------------------------------------------------------------------

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> list[Reply]:
        """Request of the worker that has the task not to run it; see :func:`asyncresult.control.revoke`.

        Args:
            connection: Accepted for Celery's sake, without effect.
        """
        return run(self._handle.revoke, terminate=terminate, signal=signal, wait=wait, timeout=timeout)

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any],
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> list[Reply]:
        """Revoke every task with these stamps. Otherwise as :meth:`revoke`."""
        return run(
            self._handle.revoke_by_stamped_headers,
            headers,
            terminate=terminate,
            signal=signal,
            wait=wait,
            timeout=timeout,
        )

    # -- raising on demand ----------------------------------------------------------------------------------

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], object] | None = None) -> Any:
        """Look once: raise what the task raised, or give its value; None (or the state's info) if it runs.

        Args:
            propagate: False gives the exception instead of raising it.
            callback: Called with id and value, unless raised.
        """
        value = self.result
        if propagate and is_ready(self._handle) and isinstance(value, Exception) and self.state != SUCCESS:
            raise value
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    def throw(self, exc: BaseException, tb: Any = None) -> None:
        """Raise ``exc``, with the traceback ``tb`` if one is given."""
        raise exc if tb is None else exc.with_traceback(tb)

    # -- the tree of tasks ----------------------------------------------------------------------------------

    def collect(self, intermediate: bool = False, **kwargs: Any) -> Iterator[tuple[Any, Any]]:
        """Wait for this task and all it sent, breadth first; gives ``(handle, value)``.

        Args:
            intermediate: Look at the children of tasks that still run, too.
            kwargs: For ``get()`` of each node; ``timeout`` is the budget for the whole walk.

        Raises: as :meth:`get`; the first failing task ends the walk.
        """
        timeout = kwargs.pop("timeout", None)
        deadline = None if timeout is None else monotonic() + timeout
        for _, node in self.iterdeps(intermediate=intermediate):
            left = None if deadline is None else max(0.0, deadline - monotonic())
            yield node, node.get(timeout=left, **kwargs)

    def get_leaf(self, *, timeout: float | None = None) -> Any:
        """The value of the last task of the tree. Raises: as :meth:`collect`."""
        value = None
        for _, node_value in self.collect(timeout=timeout):
            value = node_value
        return value

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[Any, Any]]:
        """Walk the tree breadth first without waiting; gives ``(parent or None, node)``.

        Raises:
            NotReady: A node still runs and ``intermediate`` is False.
        """

        def as_node(node: Any) -> Any:
            return self if node is self._handle else node and blocking(node)

        return Stream(self._handle.iterdeps(intermediate), lambda pair: (as_node(pair[0]), as_node(pair[1])))

    def build_graph(self, intermediate: bool = False, formatter: Any = None) -> DependencyGraph[Any]:
        """The tree as a :class:`DependencyGraph`. Raises: as :meth:`iterdeps`."""
        graph: DependencyGraph[Any] = DependencyGraph(formatter=formatter)
        for parent, node in self.iterdeps(intermediate=intermediate):
            graph.add_arc(node)
            if parent is not None:
                graph.add_edge(parent, node)
        return graph

    @cached_property
    def graph(self) -> DependencyGraph[Any]:
        """``build_graph()``, made once."""
        return self.build_graph()

    # -- forms ------------------------------------------------------------------------------------------

    @staticmethod
    def from_celery(result: Any) -> Any:
        """The blocking handle for a result of Celery's, or group, with its parents.

        Raises:
            TypeError: It is none.
        """
        return blocking(AsyncHandle.from_celery(result))

    def as_tuple(self) -> tuple[tuple[str, Any], None]:
        """Celery's portable form: ``((id, parent's form or None), None)``."""
        return self._handle.as_tuple()

    def as_list(self) -> list[str]:
        """The ids of this task and its parents, nearest first; a group's id comes before its members'."""
        return self._handle.as_list()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return self.id == other.id
        return self.id == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {printable(self.id)}>"

    def __copy__(self) -> Self:
        return self._of(self._handle.__copy__(), self.app)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        # As with async handles, the backend stays behind: it may hold a password. So does the app.
        return self._of, (self._handle,)


blocking.register(AsyncHandle, AsyncResult._of)
