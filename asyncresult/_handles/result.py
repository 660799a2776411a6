"""The handle as users hold it."""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

from .._checks import DetachOrRevoke, check_choice
from .._extensions import integration_for
from .._storage.store import Store
from ..codec.exceptions import printable
from ..errors import ResultTimeout
from ..meta import TaskMeta
from ..promise import Promise
from ..states import PENDING, RECEIVED, STARTED
from .base import HasHandle, N, Node, T_co
from .futures import DoneCallback, concurrent_future, result_future, result_promise
from .handle import Handle, listen, unlisten_equal
from .known import fresh, info_of, is_ready, is_settled, outcome
from .measured import Measured, RecordWatch, probe_of
from .reads import Readable
from .updates import Updates
from .waiting import await_outcome, raise_reason, wait

if TYPE_CHECKING:
    from ..control import Reply
    from ..graph import DependencyGraph

__all__ = ["AsyncResult"]

#: The states in which a task has not come to this one yet. To a custom one it may never come.
BEFORE = {STARTED: (PENDING, RECEIVED), RECEIVED: (PENDING,)}


class AsyncResult(Readable[T_co]):
    """The result of a task that runs somewhere else.

    ``await r`` is ``await r.get()``. Cancelling an await, a timeout or dropping the handle never reaches
    the task. Two handles are equal when their ids are. A handle that somebody waits for belongs to the event
    loop of that wait; for another loop make another.

    Args:
        id: The task's id: text, or a UUID.
        backend: Where its result is stored; None is the current backend at the first use.
        parent: The handle of the task that must succeed before this one runs (a chain).
        type: What the value is to be converted to and checked against: a dataclass, TypedDict,
            msgspec Struct, pydantic model, ``list[int]`` …

    Attributes:
        id: The task's id.
        parent: As given.
        ignored: Whether the task's result is thrown away by its worker; ``get()`` gives None at once then.

    Raises:
        TypeError, ValueError: The id cannot be one.
    """

    __slots__ = ()

    #: Joins use one notification channel for all members, as Celery requires of its backends.
    supports_native_join = True

    if TYPE_CHECKING:  # nothing but types: at run time it is the constructor of Handle

        @overload
        def __init__(
            self, id: str | uuid.UUID, *, backend: Store | None = None, parent: Node[Any] | None = None
        ) -> None: ...
        @overload
        def __init__(
            self,
            id: str | uuid.UUID,
            *,
            backend: Store | None = None,
            parent: Node[Any] | None = None,
            type: builtins.type[T_co],
        ) -> None: ...
        @overload  # for what is no class: unions, Annotated …
        def __init__(
            self, id: str | uuid.UUID, *, backend: Store | None = None, parent: Node[Any] | None = None, type: Any
        ) -> None: ...
        def __init__(self, id: Any, *, backend: Any = None, parent: Any = None, type: Any = Any) -> None: ...

    # -- waiting ------------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, T_co]:
        # A subclass that has a get() of its own is awaited through it.
        if self.ignored or type(self).get is not AsyncResult.get:
            return self.get().__await__()
        return await_outcome(self)

    @overload
    async def get(
        self,
        timeout: float | None = None,
        *,
        propagate: Literal[True] = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], object] | None = None,
        on_message: Callable[[TaskMeta], object] | None = None,
        on_timeout: DetachOrRevoke = "detach",
        on_cancel: DetachOrRevoke = "detach",
    ) -> T_co: ...
    @overload
    async def get(
        self,
        timeout: float | None = None,
        *,
        propagate: bool,
        follow_parents: bool = True,
        callback: Callable[[str, Any], object] | None = None,
        on_message: Callable[[TaskMeta], object] | None = None,
        on_timeout: DetachOrRevoke = "detach",
        on_cancel: DetachOrRevoke = "detach",
    ) -> T_co | Exception: ...
    async def get(
        self,
        timeout: float | None = None,
        *,
        propagate: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], object] | None = None,
        on_message: Callable[[TaskMeta], object] | None = None,
        on_timeout: DetachOrRevoke = "detach",
        on_cancel: DetachOrRevoke = "detach",
    ) -> T_co | Exception:
        """Wait until the task is over.

        Args:
            timeout: The total budget in seconds; None waits forever, 0 looks once.
            propagate: Raise what the task raised; False returns the exception instead.
            follow_parents: Also end with the exception of a parent that failed: of several, the first to run.
            callback: Called with id and value before returning.
            on_message: Called with each record of this task that arrives.
            on_timeout, on_cancel: ``"detach"`` leaves the task alone; ``"revoke"`` revokes it.

        Returns:
            The value, converted to the handle's ``type``.

        Raises:
            Exception: What the task raised, rebuilt; TaskFailed where that cannot be; TaskRevoked. Also what
                ``callback`` or ``on_message`` raises.
            ResultTimeout: The budget is used up. The handle can be awaited again.
            ResultDecodeError: The record cannot be read (ResultTypeError: is not of the ``type``).
            BackendPermissionError, BackendError: The store refuses; or ``on_timeout="revoke"`` reached nobody. An
                outage does not end a wait.
            BackendClosed: The backend was closed, before or meanwhile.
            ValueError: An argument is invalid.
            RuntimeError: No backend is entered; or somebody waits for this very handle on another event loop.

        Wire: SUBSCRIBE, its acknowledgement, then MGET; UNSUBSCRIBE when nobody waits any more.

        Source: celery/result.py (5.7), AsyncResult.get.
        """
        if on_timeout != "detach" or on_cancel != "detach":
            check_choice("on_timeout", on_timeout, "detach", "revoke")
            check_choice("on_cancel", on_cancel, "detach", "revoke")
        if self.ignored:
            return None  # type: ignore[return-value]
        failed: Handle[Any] | None = None
        if not (is_settled(self) or (is_ready(self) and not follow_parents)):
            try:
                with Measured(self.backend.probe, (self,)) as measured:
                    failed = await wait(self, timeout, follow_parents, on_message, measured)
            except ResultTimeout:
                if on_timeout == "revoke":
                    from ..control import revoke_attended

                    await revoke_attended(self.backend, [self.id])
                raise
            except asyncio.CancelledError:
                if on_cancel == "revoke":
                    from ..control import revoke_cancelled

                    await revoke_cancelled(self.backend, [self.id])
                raise
        if failed is not None and propagate:
            raise_reason(failed)
        value: Any = fresh(failed) if failed is not None else outcome(self, propagate=propagate, own=not follow_parents)
        if callback is not None:
            callback(self.id, value)
        return value  # type: ignore[no-any-return]

    wait = get

    async def until(self, *states: str, timeout: float | None = None) -> TaskMeta:
        """Wait until the task is in one of ``states``, or over.

        A task in any later state has been RECEIVED and STARTED, too: PROGRESS, RETRY and states of one's own are set
        by a worker that has taken it.

        Args:
            states: Names of states: ``"STARTED"``, ``"PROGRESS"``, or any custom name.
            timeout: The total budget in seconds; None waits forever, 0 looks once.

        Returns:
            The record that ended the wait. It may be a final one of another state: then ``states`` will
            not come any more.

        Raises: as :meth:`get`, but never what the task raised.
        """
        with Measured(probe_of((self,)), (self,)) as measured:
            async with self.updates(timeout=timeout) as updates:
                with RecordWatch(measured, self) as watch:
                    async for meta in updates:
                        if meta.ready or any(state == meta.status or _is_past(state, meta.status) for state in states):
                            watch.ended_with(meta)
                            return meta
        return await self.meta()  # of an ignored result there are no updates

    def updates(self, *, timeout: float | None = None, maxsize: int = 64, since: str | None = None) -> Updates:
        """The task's states as they are published; see :class:`Updates`.

        Args:
            timeout: Seconds for the whole stream; None is forever, 0 looks once.
            maxsize: States kept for a slow reader; beyond that the oldest are dropped.
            since: Go on behind this :attr:`Updates.last_id`, for tasks that keep a history; "0" from the start.

        Raises:
            ValueError: ``maxsize`` or ``since`` is invalid.
        """
        return Updates(self, timeout=timeout, maxsize=maxsize, since=since)

    # -- callbacks and futures ----------------------------------------------------------------------------

    def add_done_callback(self, fn: Callable[[AsyncResult[T_co]], object]) -> None:
        """Call ``fn(handle)`` once, on the event loop, when :meth:`done` has become true.

        Raises: as :meth:`then`.
        """
        listen(self, DoneCallback(fn))

    def remove_done_callback(self, fn: Callable[[AsyncResult[T_co]], object]) -> int:
        """Take ``fn`` off; how often it was there."""
        return unlisten_equal(self, DoneCallback(fn))

    def as_future(self) -> asyncio.Future[T_co]:
        """A future of this loop with the task's outcome, for ``asyncio.wait`` and friends.

        Cancelling it, or dropping it when nobody is to be called, ends the wait, not the task.

        Raises: as :meth:`then`.
        """
        return result_future(self)

    def as_concurrent_future(self) -> concurrent.futures.Future[T_co]:
        """A future for other threads. Must be called where an event loop runs.

        Cancelling it, from any thread, ends the wait, not the task; so does dropping it when nobody is to be called.

        Raises: as :meth:`then`.
        """
        return concurrent_future(self)

    def _promise(self) -> Promise[T_co]:
        return result_promise(self)

    # -- control ------------------------------------------------------------------------------------------

    async def revoke(
        self, *, terminate: bool = False, signal: str | None = None, wait: bool = False, timeout: float | None = None
    ) -> list[Reply]:
        """Request that the task is not run.

        Args:
            terminate: Also end a task that runs already in a process. What runs under :meth:`Backend.track`, or as
                a coroutine of an Executor, is cancelled in any case.
            signal: How, for Celery's workers: ``"SIGTERM"`` (default), ``"SIGKILL"`` …
            wait: Wait for the workers' answers.
            timeout: Seconds to wait for them; None is one second.

        Returns:
            The answers; empty without ``wait``.

        Raises:
            BackendError: Nobody can be reached, or the request could not be sent. It never pretends.
            BackendClosed: The backend was closed.
        """
        from ..control import revoke  # as slow to import as the handles themselves (benchmarks: import)

        return await revoke(self.backend, [self.id], terminate=terminate, signal=signal, wait=wait, timeout=timeout)

    async def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any],
        *,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> list[Reply]:
        """Have Celery's workers revoke every task that carries one of these stamps.

        Args:
            headers: Names of stamps, and their value or a list of values.
            terminate, signal, wait, timeout: As of :meth:`revoke`.

        Returns, raises: as :meth:`revoke`.
        """
        from ..control import revoke_by_stamped_headers

        return await revoke_by_stamped_headers(
            self.backend, headers, terminate=terminate, signal=signal, wait=wait, timeout=timeout
        )

    # -- raising on demand ----------------------------------------------------------------------------------

    async def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], object] | None = None) -> Any:
        """Look once: raise what the task raised, or give its value; None (or the state's info) if it runs.

        Args:
            propagate: False gives the exception instead of raising it.
            callback: Called with id and value, unless raised.

        Raises: what the task raised; otherwise as :meth:`meta`.
        """
        return self._maybe_throw(await self.meta(), propagate, callback)

    def _maybe_throw(self, meta: TaskMeta, propagate: bool, callback: Callable[[str, Any], object] | None) -> Any:
        value = outcome(self, propagate=propagate, own=True) if is_ready(self) else info_of(self, meta)
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    # -- the tree of tasks ----------------------------------------------------------------------------------

    def collect(self, intermediate: bool = False, *, timeout: float | None = None) -> AsyncIterator[Any]:
        """Wait for this task and all it sent, breadth first; gives ``(handle, value)``.

        Args:
            intermediate: Celery's; nothing depends on it, as each task is waited for before its children are
                looked at.
            timeout: Seconds for the whole walk.

        Raises: as :meth:`get`; the first failing task ends the walk.
        """
        from .tree import Collected

        return Collected(self, timeout)

    async def get_leaf(self, *, timeout: float | None = None) -> Any:
        """The value of the last task of the tree. Raises: as :meth:`collect`."""
        return [value async for _, value in self.collect(timeout=timeout)][-1]

    def iterdeps(self, intermediate: bool = False) -> AsyncIterator[Any]:
        """Walk the tree breadth first without waiting; gives ``(parent or None, node)``.

        Args:
            intermediate: Go on below tasks that still run.

        Raises: as :meth:`meta`; NotReady when a node still runs and ``intermediate`` is False.
        """
        from .tree import Dependencies

        return Dependencies(self, intermediate)

    async def build_graph(self, intermediate: bool = False, formatter: Any = None) -> DependencyGraph[Any]:
        """The tree as a :class:`DependencyGraph`.

        Args:
            intermediate: As of :meth:`iterdeps`.
            formatter: How nodes are labelled where the graph is drawn.

        Raises: as :meth:`iterdeps`.
        """
        from .tree import build_graph

        return await build_graph(self, intermediate, formatter)

    async def graph(self) -> DependencyGraph[Any]:
        """``build_graph()``, under the name of Celery's property."""
        return await self.build_graph()

    # -- forms ------------------------------------------------------------------------------------------

    @staticmethod
    @overload
    def from_celery(result: N) -> N: ...
    @staticmethod
    @overload
    def from_celery(result: HasHandle[N]) -> N: ...
    @staticmethod
    @overload
    def from_celery(result: Any) -> Any: ...
    @staticmethod
    def from_celery(result: Any) -> Any:
        """The handle for a result of Celery's: of a task, a group, a chain or chord with its parents.

        A handle is given back as it is.

        Raises:
            TypeError: It is none.
        """
        if isinstance(result, Node):
            return result
        return integration_for(result, "a result of Celery's").from_celery(result)

    def to_celery(self, app: Any) -> Any:
        """Celery's own result for this task, and its parents.

        Args:
            app: The Celery app that it is to belong to.

        Raises:
            TypeError: ``app`` is none.
        """
        return integration_for(app, "a Celery app").to_celery(self, app)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return self.id == other.id
        return self.id == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        state = f" {printable(self._meta.status)}" if self._meta is not None else ""
        return f"<{type(self).__name__}: {printable(self.id)}{state}>"

    def __copy__(self) -> AsyncResult[T_co]:
        twin: AsyncResult[T_co] = type(self)(self.id, backend=self._backend, parent=self.parent, type=self._type)
        twin.ignored = self.ignored
        twin._meta = self._meta
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> AsyncResult[T_co]:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        # The backend stays behind: it may hold a password. A copy belongs to the reader's current backend.
        return _unpickle, (type(self), self.id, self.parent, self._type, self.ignored)


def _unpickle(cls: type[AsyncResult[Any]], id: str, parent: Any, type: Any, ignored: bool) -> AsyncResult[Any]:
    handle = cls(id, parent=parent, type=type)
    handle.ignored = ignored
    return handle


def _is_past(state: str, now: str) -> bool:
    """Whether a task that is in the state ``now`` must have been in ``state``."""
    return state in BEFORE and now not in BEFORE[state]
