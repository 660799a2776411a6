"""Who wants to know about one task.

A handle is a name, a store and what it has learned (:mod:`.known`). It costs nothing until somebody waits: then
it is in the store's table of waiters (:mod:`.._storage.waiters`) as the listener of its key, and itself keeps a list
of who wants to know: callbacks ``(handle, reason)`` that fire once, and feeds that see every record. Awaiting, joining,
futures and promises are all such callbacks, so what ends one of them ends all: the final record, the failure of a
task before this one in a chain, an error of the store. A join hands the same callback to all its members.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

from .._checks import LOOK_ONCE_TIMEOUT, check_no_url, check_task_id
from .._storage.store import Store, engine_of
from ..errors import AsyncResultError
from ..meta import TaskMeta, same_record
from ..states import PROPAGATE_STATES, READY_STATES, SUCCESS
from .base import Node, ResultBase, T_co, members_in
from .known import UNKNOWN, Known, Reason, has_failed, is_ready, needs_cause, saw_failure, set_cause

if TYPE_CHECKING:
    from .._storage.waiters import Waiters

__all__ = [
    "Callback",
    "Handle",
    "Observer",
    "ancestors",
    "end_with",
    "learn",
    "listen",
    "looks_at",
    "observe",
    "read_record",
    "unlisten",
    "unlisten_all",
    "unlisten_equal",
    "unobserve",
    "unwatch",
    "watch",
]

Callback: TypeAlias = "Callable[[Any, Reason | None], None]"
"""Called once with the handle: when it is done (None), or when its wait is over without a record (the reason)."""


class Observer(Protocol):
    """Who sees every record of a handle.

    Attributes:
        follows: Whether it must see each state in its order; else the latest will do.
    """

    follows: ClassVar[bool]

    def put(self, meta: TaskMeta, /) -> None: ...
    def fail(self, reason: Reason, /) -> None: ...


def ancestors(node: ResultBase[Any]) -> list[Handle[Any]]:
    """The tasks before this one in a chain, whose failure is its failure too, the first to run first.

    Where one of them is a group, its members and what comes before each of these are among them.
    """
    found: dict[int, Any] = {}
    todo: list[Any] = [node.parent]
    while todo:
        above = todo.pop()
        if above is None or id(above) in found:
            continue
        found[id(above)] = above
        todo.append(above.parent)
        todo += members_in(above)
    return [above for above in reversed(found.values()) if isinstance(above, Handle)]


def watch(tasks: Iterable[Handle[Any]], owner: Dependent) -> list[_Watcher]:
    """Have ``owner`` called when one of ``tasks`` fails, never at once; until :func:`unwatch`."""
    watchers: list[_Watcher] = []
    for task in tasks:
        if has_failed(task):
            _call_when_explained(task, functools.partial(owner._ancestor_failed, task))
        elif not task.ignored and not is_ready(task):
            watcher = _Watcher(task, owner)
            try:
                observe(task, watcher)
            except (AsyncResultError, RuntimeError):
                continue  # what cannot be waited for says nothing about those behind it
            watchers.append(watcher)
    return watchers


def unwatch(watchers: Iterable[_Watcher]) -> None:
    for watcher in watchers:
        unobserve(watcher.task, watcher)


class Dependent(Protocol):
    """What ends when a task before it fails: a handle, or the members of a group."""

    def _ancestor_failed(self, ancestor: Handle[Any], /) -> None: ...


class _Watcher:
    """Sees the records of a task on which others depend."""

    __slots__ = ("owner", "task")
    follows: ClassVar[bool] = False

    def __init__(self, task: Handle[Any], owner: Dependent) -> None:
        self.task = task
        self.owner = owner

    def put(self, meta: TaskMeta) -> None:
        if meta.status in PROPAGATE_STATES:
            _call_when_explained(self.task, functools.partial(self.owner._ancestor_failed, self.task))

    def fail(self, reason: Reason) -> None:
        """A record that cannot be had says nothing about the tasks behind it."""


class _Follower:
    """Those who follow the states of a task that has ended, while states before the end may be on their way."""

    __slots__ = ("_feeds", "_handle")
    _follows: bool = True

    def __init__(self, handle: Handle[Any], feeds: list[Observer]) -> None:
        self._handle = handle
        self._feeds = feeds

    def _follower(self) -> _Follower:
        return self

    def _on_record(self, meta: TaskMeta) -> None:
        known = self._handle._meta
        for feed in self._feeds:
            self._handle._guarded(feed.put, known if known is not None and meta.ready else meta)

    def _on_error(self, error: AsyncResultError) -> None:
        """The wait is over, but the end is known."""
        known = self._handle._meta
        for feed in self._feeds:
            if known is not None:
                self._handle._guarded(feed.put, known)
            else:
                self._handle._guarded(feed.fail, error)


class Handle(Known[T_co]):
    """One task: what is known about it, and who listens. Users hold it as :class:`.result.AsyncResult`."""

    __slots__ = ("__weakref__", "_callbacks", "_feeds", "_table", "_watchers")

    def __init__(
        self,
        id: str | uuid.UUID,
        *,
        backend: Store | None = None,
        parent: Node[Any] | None = None,
        type: Any = Any,
    ) -> None:
        # The rule, without a call (benchmarks: join-stored).
        self.id: str = id if isinstance(id, str) and id and id.isprintable() else check_task_id(id)
        self.parent: Node[Any] | None = parent
        self.ignored: bool = False
        if isinstance(backend, str):  # the rule, without a call
            check_no_url(backend)  # type: ignore[unreachable]  # to who is typed
        self._backend = backend
        self._type = type
        self._meta = self._error = None
        self._cause = self._value = UNKNOWN
        # By id(): a list would have to be searched for each of 10,000 tasks that stop waiting.
        self._callbacks: Callback | dict[int, Callback] | None = None
        self._feeds: dict[int, Observer] | None = None
        self._watchers: list[_Watcher] | None = None  # on the tasks before this one, while somebody waits
        self._table: Waiters | None = None  # the table in which this handle is a listener

    def _leaves(self) -> Iterator[Handle[Any]]:
        yield self

    # -- the table's side, and who wants to know ------------------------------------------------------------

    def _enter_table(self, read_early: bool = True) -> None:
        backend = self.backend
        table = engine_of(backend).waiters
        if self._table is table:
            return
        if self._table is not None:
            # Another loop's. If that one is still open, its waiters would be woken from the wrong thread.
            if backend._serves(self._table):
                raise RuntimeError(f"{self!r} is awaited on another event loop: make a handle of its own for each loop")
            self._callbacks = self._feeds = self._watchers = None
        self._error = None
        self._table = table
        table.add(backend.task_key(self.id), self.id, self, read_early=read_early)

    def _leave_table_if_unwanted(self) -> None:
        if self._callbacks is None:
            if self._watchers is not None:
                self._unwatch()
            if self._feeds is None and self._table is not None:
                table, self._table = self._table, None
                table.discard(self.backend.task_key(self.id), self)

    def _unwatch(self) -> None:
        watchers, self._watchers = self._watchers, None
        unwatch(watchers or ())

    def _on_record(self, meta: TaskMeta) -> None:
        """Called by the table. First final record wins."""
        if self._meta is not None and is_ready(self):
            return
        self._meta = meta
        ready = meta.status in READY_STATES
        if self._feeds is not None:
            feeds = tuple(self._feeds.values())
            if ready:
                self._feeds = None
            for feed in feeds:
                try:  # _guarded(), without a call (benchmarks: updates)
                    feed.put(meta)
                except Exception as error:
                    self._report(error)
        if ready:
            self._error = None
            self._table = None
            if self._watchers is not None:
                self._unwatch()
            if meta.status != SUCCESS:
                saw_failure(self)
                if self._callbacks is not None and needs_cause(self):
                    _call_when_explained(self, functools.partial(self._fire, None))
                    return
            callback = self._callbacks
            if callback is None or isinstance(callback, dict):
                self._fire(None)
                return
            self._callbacks = None
            try:  # one is the rule: no call for it (benchmarks: join)
                callback(self, None)
            except Exception as error:
                self._report(error)

    @property
    def _follows(self) -> bool:
        """Read by the table: whether each state matters, and its order."""
        return self._feeds is not None and any(feed.follows for feed in self._feeds.values())

    def _follower(self) -> _Follower | None:
        """Called by the table: the end was read, and states before it may be on their way to those who follow them."""
        if self._feeds is None:
            return None
        following = {key: feed for key, feed in self._feeds.items() if feed.follows}
        if not following:
            return None
        self._feeds = {key: feed for key, feed in self._feeds.items() if key not in following} or None
        return _Follower(self, list(following.values()))

    def _on_error(self, error: AsyncResultError) -> None:
        """Called by the table: the wait is over without a record."""
        self._error = error
        self._table = None
        feeds, self._feeds = self._feeds, None
        if self._watchers is not None:
            self._unwatch()
        for feed in (feeds or {}).values():
            self._guarded(feed.fail, error)
        self._fire(error)

    def _ancestor_failed(self, ancestor: Handle[Any]) -> None:
        """A task before this one has failed, so this one will not run."""
        if self._callbacks is None or is_ready(self):
            return
        # As in Celery, the first of them that is known to have failed: the order in which they become known is chance.
        end_with(self, next((one for one in ancestors(self) if has_failed(one)), ancestor))

    def _fire(self, reason: Reason | None) -> None:
        callbacks, self._callbacks = self._callbacks, None
        if isinstance(callbacks, dict):
            for callback in callbacks.values():
                self._guarded(callback, self, reason)
        elif callbacks is not None:
            self._guarded(callbacks, self, reason)

    def _guarded(self, fn: Callable[..., object], *args: Any) -> None:
        """Call one of those who want to know. What it raises is its own trouble, not that of the others."""
        try:
            fn(*args)
        except Exception as error:
            self._report(error)

    def _report(self, error: Exception) -> None:
        asyncio.get_running_loop().call_exception_handler(
            {"message": f"a callback for the result of task {self.id} failed", "exception": error}
        )

    # -- one read -----------------------------------------------------------------------------------------

    async def meta(self) -> TaskMeta:
        """The record as it is now; reads of one loop tick travel together. Final records are remembered.

        Raises:
            BackendUnavailable, BackendPermissionError, BackendClosed: It could not be read.
            ResultDecodeError: It cannot be decoded.
            RuntimeError: No backend is entered.

        Wire: MGET, unless the record is known to be final.
        """
        if is_ready(self):
            assert self._meta is not None
            return self._meta
        return await read_record(self)


# What the other modules of this folder do with a handle. Not methods: all that is public on a handle is the users'.


def listen(handle: Handle[Any], callback: Callback, *, read_early: bool = True) -> None:
    """Have ``callback`` called once: with the end, or with what ends the wait. Never at once.

    ``read_early``: see :meth:`.Waiters.add`.
    """
    if handle.ignored or is_ready(handle):
        _call_when_explained(handle, functools.partial(callback, handle, None))
        return
    handle._enter_table(read_early)
    held = handle._callbacks
    if held is None:
        handle._callbacks = callback
    elif isinstance(held, dict):
        held[id(callback)] = callback
    else:
        handle._callbacks = {id(held): held, id(callback): callback}
    if handle.parent is not None and handle._watchers is None:
        handle._watchers = watch(ancestors(handle), handle)


def unlisten(handle: Handle[Any], callback: Callback) -> None:
    """Take ``callback`` off. Harmless when it is not there."""
    held = handle._callbacks
    if isinstance(held, dict):
        held.pop(id(callback), None)
        if held:
            return
    elif held is not callback:
        return
    handle._callbacks = None
    handle._leave_table_if_unwanted()


def unlisten_equal(handle: Handle[Any], callback: Callback) -> int:
    """Take off all that are equal to ``callback``; how many there were."""
    held = handle._callbacks
    equal = [other for other in (held.values() if isinstance(held, dict) else (held,)) if other == callback]
    for other in equal:
        assert other is not None
        unlisten(handle, other)
    return len(equal)


def observe(handle: Handle[Any], feed: Observer) -> None:
    """Have ``feed`` see every record until the end."""
    handle._enter_table()
    if handle._feeds is None:
        handle._feeds = {}
    handle._feeds[id(feed)] = feed


def unobserve(handle: Handle[Any], feed: Observer) -> None:
    """Take ``feed`` off. Harmless when it is not there."""
    if handle._feeds is not None and handle._feeds.pop(id(feed), None) is not None and not handle._feeds:
        handle._feeds = None
        handle._leave_table_if_unwanted()


def unlisten_all(handles: Iterable[Handle[Any]], callback: Callback) -> None:
    """Take ``callback`` off each of them that still has one."""
    for handle in handles:
        if handle._callbacks is not None:
            unlisten(handle, callback)


def end_with(handle: Handle[Any], reason: Reason) -> bool:
    """End the wait, but for those who only want to see this task's own record.

    Returns:
        False, and nothing happened, where nobody waits.
    """
    if handle._callbacks is None:
        return False
    handle._error = reason
    callbacks, handle._callbacks = handle._callbacks, None
    handle._leave_table_if_unwanted()
    handle._callbacks = callbacks
    handle._fire(reason)
    return True


def learn(handle: Handle[Any], meta: TaskMeta) -> bool:
    """Take a record that was read beside the table; whether the task is over now."""
    if is_ready(handle):
        return True
    table = handle._table
    if meta.status not in READY_STATES:
        if table is None:  # else the table knows better what is the latest
            handle._meta = meta
        return False
    if table is None:  # nobody waits (benchmarks: join-stored)
        handle._meta = meta
        handle._error = None
        if meta.status != SUCCESS:
            saw_failure(handle)
    else:
        key = handle.backend.task_key(handle.id)
        table.looked(key, None, meta, 0)
        if not is_ready(handle):  # it is in the table under another key, or not any more
            handle._on_record(meta)
            table.discard(key, handle)
    return True


def read_record(handle: Handle[Any]) -> asyncio.Future[TaskMeta]:
    """Read the record once and learn from it."""
    backend = handle.backend
    engine = engine_of(backend)
    key = backend.task_key(handle.id)
    look: asyncio.Future[TaskMeta] = engine.loop.create_future()
    before = handle._meta
    arrived = handle._table.arrived(key) if handle._table is not None else 0
    payload: bytes | None = None

    def answered(reply: asyncio.Future[bytes | None]) -> None:
        nonlocal payload
        try:
            payload = reply.result()
            engine.decoder.then(handle.id, payload, seen)
        except asyncio.CancelledError:
            look.cancel()
        except Exception as error:
            fail(error)

    def seen(outcome: TaskMeta | AsyncResultError) -> None:
        if isinstance(outcome, AsyncResultError):
            fail(outcome)
            return
        if handle._table is not None and not is_ready(handle):
            looked = handle._table.looked(key, payload, outcome, arrived)
            # Of equal ones those who observe get the one that they have seen.
            known = handle._meta
            is_known = looked == "older" or (looked == "latest" and (payload or known is not before))
            if (looked == "latest" and payload) and (
                known is None or not same_record(known, outcome, incomparable=True)
            ):
                handle._meta = outcome  # the table had it from others before this handle came to it
            elif known is not None and is_known:
                outcome = known  # what was learned meanwhile, by a message or by the table's own read, is newer
            elif looked == "latest" and not payload:
                handle._meta = outcome  # what comes before this is looked at is newer: see is_of_look()
        elif is_ready(handle) and handle._meta is not None:
            outcome = handle._meta
        learn(handle, outcome)
        if not look.done():
            look.set_result(outcome)

    def fail(error: Exception) -> None:
        if not look.done():
            look.set_exception(error.with_traceback(None))  # it holds answered(), which holds this future
            look.exception()  # looked at: a stream that was left early does not look any more

    engine.read(key).add_done_callback(answered)
    return look


def looks_at(tasks: Iterable[Handle[Any]]) -> list[asyncio.Future[TaskMeta]]:
    """Reads of those whose end is not known. What cannot be read says nothing."""
    looks: list[asyncio.Future[TaskMeta]] = []
    for task in tasks:
        if not task.ignored and not is_ready(task):
            with contextlib.suppress(AsyncResultError, RuntimeError):
                looks.append(read_record(task))
    return looks


def _call_when_explained(handle: Handle[Any], fn: Callable[[], object]) -> None:
    """Call ``fn`` when it is known whose failure that of a task is, if it is one that has failed; never at once."""
    loop = asyncio.get_running_loop()
    if not needs_cause(handle):
        loop.call_soon(fn)
        return
    before = ancestors(handle)
    looks = asyncio.gather(*looks_at(before), return_exceptions=True)
    timer = loop.call_later(LOOK_ONCE_TIMEOUT, looks.cancel)

    def looked(_: object) -> None:
        timer.cancel()
        if not looks.cancelled():
            looks.exception()  # looked at
        set_cause(handle, before)
        fn()

    looks.add_done_callback(looked)
