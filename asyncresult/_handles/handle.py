"""A handle on the result of one task.

A handle is a name, a backend and what it has learned. It costs nothing until somebody waits: then it
stands in the backend's table of waiters (:mod:`._waiters`) as the listener of its key, and itself keeps a
list of who wants to know: callbacks ``(handle, error)`` that fire once, and feeds that see every record.
Both awaiting and joining are such callbacks; a join hands the same callback to all its members.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from .._extensions import integration_for
from .._storage.store import LOOK_ONCE_TIMEOUT, Backend, check_task_id, check_timeout, handles
from .._thenable import Thenable
from ..backend import current_backend
from ..codec.codec import convert
from ..errors import AsyncResultError, NotReady, ResultTimeout
from ..meta import TaskMeta
from ..states import EXCEPTION_STATES, PENDING, PROPAGATE_STATES, READY_STATES, SUCCESS
from .updates import Observer, Updates

if TYPE_CHECKING:
    from .._storage.waiters import Waiters
    from ..control import Reply
    from ..graph import DependencyGraph
    from ..promise import Promise
    from .sets import GroupResult

__all__ = ["AsyncResult", "Callback"]

T_co = TypeVar("T_co", covariant=True)

Callback = Callable[["AsyncResult[Any]", AsyncResultError | None], None]
"""Told once when the handle is done (None) or its wait is over without a record (the error)."""

_EXPIRED: Any = object()


class AsyncResult(Thenable[T_co]):
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

    __slots__ = (
        "__weakref__",
        "_backend",
        "_callbacks",
        "_error",
        "_feeds",
        "_meta",
        "_table",
        "_type",
        "_value",
        "id",
        "ignored",
        "parent",
    )

    #: Joins use one notification channel for all members, as Celery asks its backends.
    supports_native_join = True

    def __init__(
        self,
        id: str | uuid.UUID,
        *,
        backend: Backend | None = None,
        parent: AsyncResult[Any] | GroupResult[Any] | None = None,
        type: Any = Any,
    ) -> None:
        self.id = check_task_id(id)
        self.parent = parent
        self.ignored = False
        self._backend = backend
        self._type = type
        self._meta: TaskMeta | None = None
        self._error: AsyncResultError | None = None
        self._value: Any = _EXPIRED
        self._callbacks: Callback | list[Callback] | None = None
        self._feeds: list[Observer] | None = None
        self._table: Waiters | None = None  # the table in which this handle stands as a listener

    # -- what this handle knows: memory only --------------------------------------------------------------

    @property
    def task_id(self) -> str:
        """The task's id, under Celery's other name."""
        return self.id

    @property
    def backend(self) -> Backend:
        """The backend; the current one from the first use on, where none was given.

        Raises:
            RuntimeError: None was given and none is entered.
        """
        if self._backend is None:
            self._backend = current_backend()
        return self._backend

    def done(self) -> bool:
        """Whether this handle has learned how the task ended, or that its record cannot be had."""
        return self._error is not None or self._is_ready()

    def _is_ready(self) -> bool:
        meta = self._meta
        return meta is not None and meta.status in READY_STATES

    @property
    def value(self) -> T_co:
        """The value that this handle has learned.

        Raises:
            NotReady: Nothing was learned yet.
            Exception: The task's own, rebuilt; or why the record cannot be had.
        """
        if self._is_ready():
            return self._outcome(propagate=True)  # type: ignore[no-any-return]
        self._raise_unknown()

    @property
    def exception(self) -> Exception | None:
        """The task's exception, a fresh instance at each access; None when it succeeded. Or why there is no record.

        Raises:
            NotReady: Nothing was learned yet.
        """
        if self._is_ready():
            assert self._meta is not None
            return self._failure(self._meta)
        if self._error is not None:
            return self._error
        self._raise_unknown()

    @property
    def snapshot(self) -> TaskMeta | None:
        """The latest record that this handle has seen, final or not."""
        return self._meta

    def _raise_unknown(self) -> NoReturn:
        if self._error is not None:
            raise self._error
        raise NotReady(f"the result of task {self.id} is not known yet: await the handle first")

    def _outcome(self, *, propagate: bool) -> Any:
        meta = self._meta
        assert meta is not None
        if meta.status == SUCCESS:
            if self._type is Any:
                return meta.result
            if self._value is _EXPIRED:
                self._value = convert(meta.result, self._type, task_id=self.id)
            return self._value
        error = self._failure(meta)
        if propagate and error is not None:
            raise error
        return error

    def _failure(self, meta: TaskMeta) -> Exception | None:
        """The exception that a record holds, a fresh instance each time: tracebacks must not pile up."""
        return self.backend.codec.exception(meta) if meta.status in EXCEPTION_STATES else None

    # -- waiting ------------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, T_co]:
        if self.parent is not None or self.ignored or type(self).get is not AsyncResult.get:
            return self.get().__await__()
        return self._await()

    def _await(self) -> Generator[Any, None, T_co]:
        """``get()`` for a task without parents. Two frames less: a quarter of the memory of a task that
        waits, and of the time to wake it (benchmarks: gather, waiting-tasks)."""
        if not self._is_ready():
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            wake = functools.partial(_wake, future)
            self._listen(wake)
            try:
                yield from future
            finally:
                self._unlisten(wake)
        return self._outcome(propagate=True)  # type: ignore[no-any-return]

    async def get(
        self,
        timeout: float | None = None,
        *,
        propagate: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], object] | None = None,
        on_message: Callable[[TaskMeta], object] | None = None,
        on_timeout: str = "detach",
        on_cancel: str = "detach",
    ) -> T_co:
        """Wait until the task is over.

        Args:
            timeout: The total budget in seconds; None waits for ever, 0 looks once.
            propagate: Raise what the task raised; False returns the exception instead.
            follow_parents: Also end with the exception of a parent that failed.
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
            ValueError: An argument makes no sense.
            RuntimeError: No backend is entered; or somebody waits for this very handle on another event loop.

        Wire: SUBSCRIBE, its acknowledgement, then MGET; UNSUBSCRIBE when nobody waits any more.

        Source: celery/result.py (5.7), AsyncResult.get.
        """
        for name, choice in (("on_timeout", on_timeout), ("on_cancel", on_cancel)):
            if choice not in ("detach", "revoke"):
                raise ValueError(f"{name} is 'detach' or 'revoke', not {choice!r}")
        if self.ignored:
            return None  # type: ignore[return-value]
        if not self._is_ready():
            try:
                await self._wait(timeout, self._ancestors() if propagate and follow_parents else (), on_message)
            except ResultTimeout:
                if on_timeout == "revoke":
                    await self.revoke()
                raise
            except asyncio.CancelledError:
                if on_cancel == "revoke":
                    from ..control import revoke_in_background

                    revoke_in_background(self.backend, [self.id])
                raise
        value = self._outcome(propagate=propagate)
        if callback is not None:
            callback(self.id, value)
        return value  # type: ignore[no-any-return]

    wait = get

    async def _wait(
        self,
        timeout: float | None,
        ancestors: Iterator[AsyncResult[Any]] | tuple[()],
        on_message: Callable[[TaskMeta], object] | None,
    ) -> None:
        """Return when the handle is done; raise what ends the wait otherwise."""
        if check_timeout(timeout):
            return await self._look_once(timeout)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        wake: Callback = functools.partial(_wake, future)
        watching: list[tuple[AsyncResult[Any], Callback]] = []
        feed = _MessageFeed(on_message, future) if on_message is not None else None
        timer = None
        try:
            for ancestor in ancestors:
                failing: Callback = functools.partial(_ancestor_ended, future)
                watching.append((ancestor, failing))
                ancestor._listen(failing)
            self._listen(wake)
            if feed is not None:
                self._observe(feed)
            if timeout is not None:
                timer = loop.call_later(timeout, _expire, future)
            if await future is _EXPIRED:
                raise self._timed_out(timeout)
        finally:
            if timer is not None:
                timer.cancel()
            self._unlisten(wake)
            if feed is not None:
                self._unobserve(feed)
            for ancestor, failing in watching:
                ancestor._unlisten(failing)

    async def _look_once(self, timeout: float | None) -> None:
        loop = asyncio.get_running_loop()
        look = self._look()
        timer = loop.call_later(LOOK_ONCE_TIMEOUT, look.cancel)
        try:
            await asyncio.wait([look])
        finally:
            timer.cancel()
        if look.cancelled() or not look.result().ready:
            raise self._timed_out(timeout)

    def _timed_out(self, timeout: float | None) -> ResultTimeout:
        error = f"task {self.id} did not end within {timeout} s"
        trouble = self.backend._engine().last_error
        if trouble:
            error += f" (and {self.backend} is not reachable: {trouble})"
        return ResultTimeout(error, task_id=self.id, timeout=timeout)

    def _ancestors(self) -> Iterator[AsyncResult[Any]]:
        """The parents whose failure is this task's too: their leaves, nearest first."""
        node: Any = self.parent
        while node is not None:
            yield from node._leaves()
            node = node.parent

    def _leaves(self) -> Iterator[AsyncResult[Any]]:
        yield self

    async def until(self, *states: str, timeout: float | None = None) -> TaskMeta:
        """Wait until the task is in one of ``states``, or over.

        Args:
            states: Names of states: ``"STARTED"``, ``"PROGRESS"``, or any custom word.
            timeout: The total budget in seconds; None waits for ever, 0 looks once.

        Returns:
            The record that ended the wait. It may be a final one of another state: then ``states`` will
            not come any more.

        Raises: as :meth:`get`, but never what the task raised.
        """
        async with self.updates(timeout=timeout) as updates:
            async for meta in updates:
                if meta.status in states or meta.ready:
                    return meta
        raise AssertionError("a stream of updates ends with a final record")

    def updates(self, *, timeout: float | None = None, maxsize: int = 64, since: str | None = None) -> Updates:
        """The task's states as they are published; see :class:`Updates`.

        Args:
            timeout: Seconds for the whole stream; None is for ever, 0 looks once.
            maxsize: States kept for a slow reader; beyond that the oldest are dropped.
            since: Go on behind this :attr:`Updates.last_id`, for tasks that keep a history; "0" from the start.

        Raises:
            ValueError: ``maxsize`` or ``since`` makes no sense.
        """
        return Updates(self, timeout=timeout, maxsize=maxsize, since=since)

    # -- the table's side, and who wants to know ------------------------------------------------------------

    def _listen(self, callback: Callback, *, read_early: bool = True) -> None:
        """Have ``callback`` called once: with the end, or with what ends the wait. Never at once.

        ``read_early``: see :meth:`._waiters.Waiters.add`.
        """
        if self._is_ready():
            asyncio.get_running_loop().call_soon(callback, self, None)
            return
        self._stand_in_table(read_early)
        held = self._callbacks
        if held is None:
            self._callbacks = callback
        elif isinstance(held, list):
            held.append(callback)
        else:
            self._callbacks = [held, callback]

    def _unlisten(self, callback: Callback) -> int:
        """Take ``callback`` off, every time it is there; how often it was."""
        held = self._callbacks
        if isinstance(held, list):
            kept = [other for other in held if other is not callback and other != callback]
            removed = len(held) - len(kept)
            self._callbacks = kept or None
        elif held is not None and (held is callback or held == callback):
            self._callbacks = None
            removed = 1
        else:
            return 0
        self._leave_table_if_unwanted()
        return removed

    def _observe(self, feed: Observer) -> None:
        """Have ``feed`` see every record until the end."""
        self._stand_in_table()
        self._feeds = [*(self._feeds or ()), feed]

    def _unobserve(self, feed: Observer) -> None:
        if self._feeds is not None:
            self._feeds = [other for other in self._feeds if other is not feed] or None
            self._leave_table_if_unwanted()

    def _stand_in_table(self, read_early: bool = True) -> None:
        backend = self.backend
        table = backend._engine().waiters
        if self._table is table:
            return
        if self._table is not None:
            # Another loop's. If that one still lives, its waiters would be woken from the wrong thread.
            if backend._serves(self._table):
                raise RuntimeError(f"{self!r} is awaited on another event loop: make a handle of its own for each loop")
            self._callbacks = self._feeds = None
        self._error = None
        self._table = table
        table.add(backend.task_key(self.id), self.id, self, read_early=read_early)

    def _leave_table_if_unwanted(self) -> None:
        if self._callbacks is None and self._feeds is None and self._table is not None:
            table, self._table = self._table, None
            table.discard(self.backend.task_key(self.id), self)

    def _on_record(self, meta: TaskMeta) -> None:
        """Called by the table. First final record wins; what was both read and published is seen once."""
        if self._is_ready() or meta == self._meta:
            return
        self._meta = meta
        if self._feeds is not None:
            for feed in tuple(self._feeds):
                feed.put(meta)
        if meta.status in READY_STATES:
            self._error = None
            self._table = None
            self._feeds = None
            self._fire(None)

    def _on_error(self, error: AsyncResultError) -> None:
        """Called by the table: the wait is over without a record."""
        self._error = error
        self._table = None
        feeds, self._feeds = self._feeds, None
        for feed in feeds or ():
            feed.fail(error)
        self._fire(error)

    def _fire(self, error: AsyncResultError | None) -> None:
        callbacks, self._callbacks = self._callbacks, None
        if isinstance(callbacks, list):
            for callback in callbacks:
                callback(self, error)
        elif callbacks is not None:
            callbacks(self, error)

    def _learn(self, meta: TaskMeta) -> bool:
        """Take a record that was read for this handle; whether the task is over now."""
        if self._is_ready():
            return True
        if meta.status not in READY_STATES:
            if meta.status != PENDING:
                self._on_record(meta)
            else:
                self._meta = meta
            return False
        table = self._table
        if table is None:  # nobody to tell (benchmarks: join-stored)
            self._meta = meta
            self._error = None
        else:
            self._on_record(meta)
            table.discard(self.backend.task_key(self.id), self)
        return True

    # -- callbacks, promises, futures -----------------------------------------------------------------------

    def _promise(self) -> Promise[T_co]:
        from ..promise import Promise  # few handles become promises (benchmarks: import)

        promise: Promise[T_co] = Promise()
        promise._silence()  # hidden: what is derived from it reports a rejection that nobody sees

        def settle(handle: AsyncResult[Any], error: AsyncResultError | None) -> None:
            try:
                if error is not None:
                    raise error
                promise._resolve(handle._outcome(propagate=True))
            except Exception as failure:
                promise._reject(failure.with_traceback(None))  # this frame holds the promise: no cycle

        self._listen(settle)
        return promise

    def add_done_callback(self, fn: Callable[[AsyncResult[T_co]], object]) -> None:
        """Call ``fn(handle)`` once, on the event loop, when :meth:`done` has become true.

        Raises: as :meth:`then`.
        """
        self._listen(_DoneCallback(fn))

    def remove_done_callback(self, fn: Callable[[AsyncResult[T_co]], object]) -> int:
        """Take ``fn`` off; how often it was there."""
        return self._unlisten(_DoneCallback(fn))

    def as_future(self) -> asyncio.Future[T_co]:
        """A future of this loop with the task's outcome, for ``asyncio.wait`` and friends.

        Cancelling it ends the wait, not the task. Raises: as :meth:`then`.
        """
        future: asyncio.Future[T_co] = asyncio.get_running_loop().create_future()
        self._settle_later(future)
        return future

    def as_concurrent_future(self) -> concurrent.futures.Future[T_co]:
        """A future for other threads. Must be called where an event loop runs.

        Cancelling it, from any thread, ends the wait, not the task. Raises: as :meth:`then`.
        """
        future: concurrent.futures.Future[T_co] = concurrent.futures.Future()
        self._settle_later(future)
        return future

    def _settle_later(self, future: Any) -> None:
        loop = asyncio.get_running_loop()

        def settle(handle: AsyncResult[Any], error: AsyncResultError | None) -> None:
            if future.done():
                return
            try:
                if error is not None:
                    raise error
                outcome = handle._outcome(propagate=True)
            except Exception as failure:
                _unless_cancelled(future.set_exception, failure)
            else:
                _unless_cancelled(future.set_result, outcome)

        def given_up(ended: Any) -> None:
            if ended.cancelled() and not loop.is_closed():
                loop.call_soon_threadsafe(self._unlisten, settle)

        self._listen(settle)
        future.add_done_callback(given_up)

    # -- one read each ----------------------------------------------------------------------------------

    def _look(self) -> asyncio.Future[TaskMeta]:
        """Read the record once and learn from it."""
        backend = self.backend
        engine = backend._engine()
        look: asyncio.Future[TaskMeta] = engine.loop.create_future()

        def answered(reply: asyncio.Future[bytes | None]) -> None:
            try:
                backend._decode_then(self.id, reply.result(), seen)
            except AsyncResultError as error:
                seen(error)

        def seen(outcome: TaskMeta | AsyncResultError) -> None:
            if not isinstance(outcome, AsyncResultError):
                self._learn(outcome)
                if not look.done():
                    look.set_result(outcome)
            elif not look.done():
                look.set_exception(outcome)
                look.exception()  # looked at: a stream that was left early does not ask any more

        engine.read(backend.task_key(self.id)).add_done_callback(answered)
        return look

    async def meta(self) -> TaskMeta:
        """The record as it is now; reads of one loop tick travel together. Final records are remembered.

        Raises:
            BackendUnavailable, BackendPermissionError, BackendClosed: It could not be read.
            ResultDecodeError: It makes no sense.
            RuntimeError: No backend is entered.

        Wire: MGET, unless the record is known to be final.
        """
        if self._is_ready():
            assert self._meta is not None
            return self._meta
        return await self._look()

    async def state(self) -> str:
        """The task's state: PENDING, STARTED, SUCCESS … Raises: as :meth:`meta`."""
        return (await self.meta()).status

    status = state

    async def result(self) -> Any:
        """The value, the task's exception (not raised), or what the state tells.

        Raises: as :meth:`meta`; ResultTypeError when the value is not of the ``type``.
        """
        return self._told(await self.meta())

    info = result

    def _told(self, meta: TaskMeta) -> Any:
        if meta.status == SUCCESS:
            return self._outcome(propagate=False)
        return self._failure(meta) or meta.result

    async def traceback(self) -> str | None:
        """The worker's traceback text; None without a failure. Raises: as :meth:`meta`."""
        return (await self.meta()).traceback

    async def children(self) -> list[AsyncResult[Any] | GroupResult[Any]] | None:
        """Handles on what the task sent while it ran; None where the record does not say.

        Raises: as :meth:`meta`; ResultDecodeError also when the children are not in Celery's form.
        """
        from .tree import children_of

        return children_of(self, await self.meta())

    async def date_done(self) -> datetime | None:
        """When the task ended, timezone-aware; None while it has not.

        Raises: as :meth:`meta`; ResultDecodeError also when it is not a time.
        """
        return (await self.meta()).date_done

    async def name(self) -> str | None:
        """The task's name, where the worker records it (``result_extended``). Raises: as :meth:`meta`."""
        return (await self.meta()).name

    async def args(self) -> Any:
        """The positional arguments, where the worker records them. Raises: as :meth:`meta`."""
        return (await self.meta()).args

    async def kwargs(self) -> Any:
        """The keyword arguments, where the worker records them. Raises: as :meth:`meta`."""
        return (await self.meta()).kwargs

    async def worker(self) -> str | None:
        """The worker that ran it, where that is recorded. Raises: as :meth:`meta`."""
        return (await self.meta()).worker

    async def queue(self) -> str | None:
        """The queue it came through, where the worker records it. Raises: as :meth:`meta`."""
        return (await self.meta()).queue

    async def retries(self) -> int | None:
        """How often it was tried again, where the worker records it. Raises: as :meth:`meta`."""
        return (await self.meta()).retries

    async def ready(self) -> bool:
        """Whether the task is over. Raises: as :meth:`meta`, never what the task raised."""
        return (await self.meta()).ready

    async def successful(self) -> bool:
        """Whether the task returned. Raises: as :meth:`meta`."""
        return (await self.meta()).successful

    async def failed(self) -> bool:
        """Whether the task raised; a revoked task did not. Raises: as :meth:`meta`."""
        return (await self.meta()).failed

    async def exists(self) -> bool:
        """Whether a record is stored, without fetching it.

        Raises: as :meth:`meta`, but not ResultDecodeError.

        Wire: STRLEN.
        """
        backend = self.backend
        return await backend._engine().exists(backend.task_key(self.id))

    async def forget(self) -> None:
        """Delete the record and those of the parents, and what this handle knows.

        A task that still runs will write its record again.

        Raises: BackendError, BackendClosed.

        Wire: DEL.
        """
        ids = [self.id]
        node: Any = self.parent
        while node is not None:
            ids += [leaf.id for leaf in node._leaves()]
            node = node.parent
        await self.backend.forget(*ids)
        self._forgotten()

    def _forgotten(self) -> None:
        self._meta = self._error = None
        self._value = _EXPIRED

    # -- control ------------------------------------------------------------------------------------------

    async def revoke(
        self, *, terminate: bool = False, signal: str | None = None, wait: bool = False, timeout: float | None = None
    ) -> list[Reply]:
        """Ask whoever has the task not to run it.

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
        meta = await self.meta()
        value = self._outcome(propagate=propagate) if meta.ready else await self.result()
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    # -- the tree of tasks ----------------------------------------------------------------------------------

    async def collect(self, intermediate: bool = False, *, timeout: float | None = None) -> AsyncIterator[Any]:
        """Wait for this task and all it sent, breadth first; gives ``(handle, value)``.

        Args:
            intermediate: Celery's; nothing depends on it, as each task is waited for before its children are
                looked at.
            timeout: Seconds for the whole walk.

        Raises: as :meth:`get`; the first failing task ends the walk.
        """
        from .tree import collect

        async for pair in collect(self, intermediate, timeout):
            yield pair

    async def get_leaf(self, *, timeout: float | None = None) -> Any:
        """The value of the last task of the tree. Raises: as :meth:`collect`."""
        return [value async for _, value in self.collect(timeout=timeout)][-1]

    async def iterdeps(self, intermediate: bool = False) -> AsyncIterator[Any]:
        """Walk the tree breadth first without waiting; gives ``(parent or None, node)``.

        Args:
            intermediate: Go on below tasks that still run.

        Raises: as :meth:`meta`; NotReady when a node still runs and ``intermediate`` is False.
        """
        from .tree import iterdeps

        async for pair in iterdeps(self, intermediate):
            yield pair

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
    def from_celery(result: Any) -> AsyncResult[Any] | GroupResult[Any]:
        """The handle for a result of Celery's: of a task, a group, a chain or chord with its parents.

        Raises:
            TypeError: It is none.
        """
        handle: AsyncResult[Any] | GroupResult[Any] = integration_for(result).from_celery(result)
        return handle

    def to_celery(self, app: Any) -> Any:
        """Celery's own result for this task, and its parents.

        Args:
            app: The Celery app that it shall belong to.

        Raises:
            TypeError: ``app`` is none.
        """
        return integration_for(app).to_celery(self, app)

    def as_tuple(self) -> tuple[tuple[str, Any], None]:
        """Celery's portable form: ``((id, parent's form or None), None)``."""
        return (self.id, self.parent.as_tuple() if self.parent is not None else None), None

    def as_list(self) -> list[str]:
        """The ids of this task and its parents, nearest first; a group's id stands before its members'."""
        return [self.id, *(self.parent.as_list() if self.parent is not None else ())]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return self.id == other.id
        return self.id == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        state = f" {self._meta.status}" if self._meta is not None else ""
        return f"<{type(self).__name__}: {self.id}{state}>"

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


class _DoneCallback:
    """A user's callback as the handle keeps it: equal when the function is, keeps its context."""

    __slots__ = ("_context", "_fn")

    def __init__(self, fn: Callable[[Any], object]) -> None:
        if not callable(fn):
            raise TypeError(f"a callback must be callable, not {type(fn).__name__}")
        self._fn = fn
        self._context = contextvars.copy_context()

    def __call__(self, handle: AsyncResult[Any], error: AsyncResultError | None) -> None:
        # In a tick of its own: what it raises reaches the loop's exception handler, not the next waiter.
        asyncio.get_running_loop().call_soon(self._fn, handle, context=self._context)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _DoneCallback) and self._fn == other._fn

    __hash__ = None  # type: ignore[assignment]


class _MessageFeed:
    """``get(on_message=…)``: a feed that keeps nothing. What the function raises ends the wait."""

    __slots__ = ("_fn", "_future")

    def __init__(self, fn: Callable[[TaskMeta], object], future: asyncio.Future[Any]) -> None:
        self._fn = fn
        self._future = future

    def put(self, meta: TaskMeta) -> None:
        try:
            self._fn(meta)
        except Exception as error:
            if not self._future.done():
                self._future.set_exception(error)

    def fail(self, error: AsyncResultError) -> None: ...


def _unpickle(cls: type[AsyncResult[Any]], id: str, parent: Any, type: Any, ignored: bool) -> AsyncResult[Any]:
    handle = cls(id, parent=parent, type=type)
    handle.ignored = ignored
    return handle


def _wake(future: asyncio.Future[Any], handle: AsyncResult[Any], error: AsyncResultError | None) -> None:
    if not future.done():
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def _ancestor_ended(future: asyncio.Future[Any], handle: AsyncResult[Any], error: AsyncResultError | None) -> None:
    # An ancestor whose record cannot be had says nothing about this task.
    if error is None and not future.done() and handle._meta is not None and handle._meta.status in PROPAGATE_STATES:
        failure = handle.exception
        assert failure is not None
        future.set_exception(failure)


def _expire(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(_EXPIRED)


def _unless_cancelled(settle: Callable[[Any], None], outcome: Any) -> None:
    """Settle a concurrent future, which another thread may have cancelled meanwhile."""
    try:
        settle(outcome)
    except (asyncio.InvalidStateError, concurrent.futures.InvalidStateError):
        pass


handles.result = AsyncResult
