"""What is known about one task, and who wants to know.

A handle is a name, a store and what it has learned. It costs nothing until somebody waits: then it is in the
store's table of waiters (:mod:`.._storage.waiters`) as the listener of its key, and itself keeps a list of who
wants to know: callbacks ``(handle, error)`` that fire once, and feeds that see every record. Both awaiting and joining
are such callbacks; a join hands the same callback to all its members.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from .._checks import check_task_id
from .._storage.current import current_store
from .._storage.store import Store
from ..codec.convert import convert
from ..errors import AsyncResultError, NotReady
from ..meta import TaskMeta
from ..promise import Promise
from ..states import EXCEPTION_STATES, PENDING, READY_STATES, SUCCESS
from .base import Node, T_co

if TYPE_CHECKING:
    from .._storage.waiters import Waiters

__all__ = ["Callback", "Handle", "Observer"]

Callback = Callable[[Any, AsyncResultError | None], None]
"""Called once with the handle: when it is done (None), or when its wait is over without a record (the error)."""

_NOT_CONVERTED: Any = object()


class Observer(Protocol):
    """Who sees every record of a handle."""

    def put(self, meta: TaskMeta, /) -> None: ...
    def fail(self, error: AsyncResultError, /) -> None: ...


class Handle(Node[T_co]):
    """One task: what is known about it, and who listens. Users hold it as :class:`.result.AsyncResult`."""

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

    def __init__(
        self,
        id: str | uuid.UUID,
        *,
        backend: Store | None = None,
        parent: Node[Any] | None = None,
        type: Any = Any,
    ) -> None:
        self.id: str = check_task_id(id)
        self.parent: Node[Any] | None = parent
        self.ignored: bool = False
        self._backend = backend
        self._type = type
        self._meta: TaskMeta | None = None
        self._error: AsyncResultError | None = None
        self._value: Any = _NOT_CONVERTED
        self._callbacks: Callback | list[Callback] | None = None
        self._feeds: list[Observer] | None = None
        self._table: Waiters | None = None  # the table in which this handle is a listener

    # -- what this handle knows: memory only --------------------------------------------------------------

    @property
    def task_id(self) -> str:
        """The task's id, under Celery's other name."""
        return self.id

    @property
    def backend(self) -> Store:
        """The backend; the current one from the first use on, where none was given.

        Raises:
            RuntimeError: None was given and none is entered.
        """
        if self._backend is None:
            self._backend = current_store()
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
            if self._value is _NOT_CONVERTED:
                self._value = convert(meta.result, self._type, task_id=self.id)
            return self._value
        error = self._failure(meta)
        if propagate and error is not None:
            raise error
        return error

    def _forgotten(self) -> None:
        self._meta = self._error = None
        self._value = _NOT_CONVERTED

    def _failure(self, meta: TaskMeta) -> Exception | None:
        """The exception that a record holds, a fresh instance each time: tracebacks must not pile up."""
        return self.backend.codec.exception(meta) if meta.status in EXCEPTION_STATES else None

    def _leaves(self) -> Iterator[Handle[Any]]:
        yield self

    def _values(self, propagate: bool) -> Any:
        if self.ignored:
            return None
        if self._is_ready():
            return self._outcome(propagate=propagate)
        assert self._error is not None
        if propagate:
            raise self._error
        return self._error

    # -- the table's side, and who wants to know ------------------------------------------------------------

    def _listen(self, callback: Callback, *, read_early: bool = True) -> None:
        """Have ``callback`` called once: with the end, or with what ends the wait. Never at once.

        ``read_early``: see :meth:`._waiters.Waiters.add`.
        """
        if self._is_ready():
            asyncio.get_running_loop().call_soon(callback, self, None)
            return
        self._enter_table(read_early)
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
        self._enter_table()
        self._feeds = [*(self._feeds or ()), feed]

    def _unobserve(self, feed: Observer) -> None:
        if self._feeds is not None:
            self._feeds = [other for other in self._feeds if other is not feed] or None
            self._leave_table_if_unwanted()

    def _enter_table(self, read_early: bool = True) -> None:
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

    # -- one read -----------------------------------------------------------------------------------------

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

    def _told(self, meta: TaskMeta) -> Any:
        if meta.status == SUCCESS:
            return self._outcome(propagate=False)
        return self._failure(meta) or meta.result

    # -- as a promise ---------------------------------------------------------------------------------------

    def _promise(self) -> Promise[T_co]:
        promise: Promise[T_co] = Promise()
        promise._silence()  # hidden: what is derived from it reports a rejection that nobody sees

        def settle(handle: Handle[Any], error: AsyncResultError | None) -> None:
            try:
                if error is not None:
                    raise error
                promise._resolve(handle._outcome(propagate=True))
            except Exception as failure:
                promise._reject(failure.with_traceback(None))  # this frame holds the promise: no cycle

        self._listen(settle)
        return promise
