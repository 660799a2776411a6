"""What a backend is: records in, records out, and who is told when one changes.

A :class:`Backend` is configuration and verbs. The connections belong to an :class:`Engine`, and an engine
belongs to one event loop of one process: a backend makes one at the first use on a loop and another after
a fork, so the same object serves two successive ``asyncio.run``, per-test loops and forked workers.
"""

from __future__ import annotations

import asyncio
import math
import os
import uuid
import weakref
from abc import ABC, abstractmethod
from asyncio.events import _get_running_loop
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import msgspec

from .. import _background
from ..codec.codec import DEFAULT_MAX_RESULT_BYTES, LARGE_PAYLOAD_BYTES, Codec, LargeRecord
from ..errors import BackendClosed, ResultDecodeError
from ..meta import TaskMeta
from ..states import EXCEPTION_STATES, FAILURE, PENDING, READY_STATES, RETRY, REVOKED, STARTED, SUCCESS

if TYPE_CHECKING:
    from ..result import AsyncResult, ResultSet
    from ..worker import TaskContext
    from .waiters import Waiters

__all__ = ["Backend", "BackendStats", "Engine", "check_task_id", "check_timeout", "entered_backend", "handles"]

DEFAULT_EXPIRES = 86400.0
#: Seconds that a look with ``timeout=0`` may take: one round trip, even a slow one, but never a hang.
LOOK_ONCE_TIMEOUT = 1.0

_fork_count = 0


def _after_fork_in_child() -> None:
    global _fork_count
    _fork_count += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


# No dataclass: the first one costs more than the rest of this room (benchmarks: import).
class BackendStats(msgspec.Struct, frozen=True):
    """A look at the connections that a backend has on an event loop.

    Attributes:
        connected: Whether the subscription stands right now.
        pending: Keys that somebody waits for.
        subscribed: Keys whose subscription is acknowledged (for a moment, some that nobody waits for any more).
        reconnects: Subscription connections lost so far.
        sweeps: Safety sweeps so far.
        decode_errors: Records that could not be read so far.
        last_error: Why the subscription is down, if it is.
    """

    connected: bool = False
    pending: int = 0
    subscribed: int = 0
    reconnects: int = 0
    sweeps: int = 0
    decode_errors: int = 0
    last_error: str | None = None


class Engine(ABC):
    """The connections of one backend on one event loop.

    Its methods return futures at once and may only be called on the loop. Cancelling such a future gives
    up the answer, never the connection: the I/O is done by the engine's own tasks.
    """

    waiters: Waiters

    def __init__(self, backend: Backend) -> None:
        self.loop = asyncio.get_running_loop()
        self.forks = _fork_count
        self.codec = backend.codec

    @abstractmethod
    def read(self, key: bytes) -> asyncio.Future[bytes | None]:
        """The stored record, or None. All reads of one loop tick travel together."""

    @abstractmethod
    def read_many(self, keys: Sequence[bytes]) -> asyncio.Future[list[bytes | None]]:
        """Like :meth:`read`, one future for all; in the order of ``keys``."""

    @abstractmethod
    def exists(self, key: bytes) -> asyncio.Future[bool]:
        """Whether something is stored, without fetching it."""

    @abstractmethod
    def store(
        self,
        key: bytes,
        payload: bytes,
        status: str,
        expires: float | None,
        *,
        unless: bytes | None = None,
        history: tuple[bytes, int] | None = None,
    ) -> asyncio.Future[bool]:
        """Store and publish in one atomic step, unless a record of higher precedence is there already.

        Args:
            unless: A key beside ``key``: where it exists, nothing is stored.
            history: A key beside ``key``, and how many of the latest records to keep there, too.

        Returns: whether it was stored.
        """

    @abstractmethod
    def history(self, key: bytes, after: str) -> asyncio.Future[list[tuple[str, bytes]]]:
        """The kept records that came after the one of that id, with their ids; "0" comes before all."""

    @abstractmethod
    def put(self, key: bytes, payload: bytes, expires: float | None) -> asyncio.Future[None]:
        """Store and publish unconditionally (saved groups)."""

    @abstractmethod
    def delete(self, keys: Sequence[bytes]) -> asyncio.Future[int]:
        """Delete keys; how many there were."""

    @abstractmethod
    def stats(self) -> BackendStats: ...

    @abstractmethod
    async def aclose(self, timeout: float) -> None:
        """Release every waiter, give what is being written ``timeout`` seconds, close the connections."""

    @property
    def last_error(self) -> str | None:
        """Why the subscription is down, if it is. (``stats()`` counts the waits, which takes long for many.)"""
        return None

    def decode_large(
        self, task_id: str, payload: bytes, done: Callable[[TaskMeta | ResultDecodeError], object]
    ) -> None:
        """See :meth:`.._waiters.Source.decode_large`: on a worker thread, in pieces, so the loop stays alive."""

        def decode() -> TaskMeta | ResultDecodeError:
            try:
                return self.codec.decode_large(task_id, payload)
            except ResultDecodeError as error:
                return error

        def hand_over(future: asyncio.Future[TaskMeta | ResultDecodeError]) -> None:
            if not future.cancelled():
                done(future.result())

        self.loop.run_in_executor(None, decode).add_done_callback(hand_over)


class _Handles:
    """What backends make but rooms above this one define: each announces itself here when imported."""

    result: Any
    results: Any
    group: Any
    track: Any
    #: Imports the room of a public name. The face sets it.
    load: Callable[[str], Any]

    def __getattr__(self, name: str) -> Any:
        # Not announced yet (benchmarks: import).
        return self.load({"results": "ResultSet", "group": "GroupResult", "track": "TaskContext"}[name])


handles = _Handles()

# What connect() entered: a context variable for code that runs inside the block, and the list for code
# that does not (request handlers are not children of the lifespan task that entered it).
_entered: list[Backend] = []
_current: ContextVar[Backend | None] = ContextVar("asyncresult_current_backend", default=None)


def entered_backend() -> Backend | None:
    """The backend that the innermost ``connect()`` block entered, if one is."""
    backend = _current.get()
    if backend is not None and backend in _entered:
        return backend
    return _entered[-1] if _entered else None


class Backend(ABC):
    """Stores results of tasks, and tells who waits for them.

    Use as an async context manager (that makes it the current backend and closes it at the end), or call
    :meth:`aclose` yourself. Made by :func:`asyncresult.connect`.

    Args:
        expires: Seconds a record is kept; None or 0 for ever. Celery's ``result_expires``.
        failure_expires: The same for FAILURE; None as ``expires``. Celery's ``result_failure_expires``.
        key_prefix: In front of every key and channel, by the rule of Celery's ``global_keyprefix``: an
            underscore is put between, unless it ends in one of ``: _ - .``.
        safety_interval: Seconds between two sweeps over everything waited for (lost notifications).
        heartbeat: Seconds of silence until the server is asked for a sign of life, and from there until
            the connection counts as dead.
        max_result_bytes: Larger records are refused with ResultTooLarge.
        exceptions: Exception classes that may be constructed from a record (their ``__init__`` runs).
        verify_key: Take a notification as a hint only and always read the key.
        serializer, accept, compression: What is written, what is read; see :class:`asyncresult.codec.Codec`.
        result_extended: Write name, args, kwargs, worker, retries and queue of the request too.

    Raises:
        ValueError: An option makes no sense.
    """

    scheme: ClassVar[str]

    def __init__(
        self,
        *,
        expires: float | None = DEFAULT_EXPIRES,
        failure_expires: float | None = None,
        key_prefix: str = "",
        safety_interval: float = 30.0,
        heartbeat: float = 5.0,
        max_result_bytes: int = DEFAULT_MAX_RESULT_BYTES,
        exceptions: Iterable[type[Exception]] = (),
        verify_key: bool = False,
        serializer: str = "json",
        accept: Iterable[str] = ("json",),
        compression: str | None = None,
        result_extended: bool = False,
    ) -> None:
        for name, number in (("safety_interval", safety_interval), ("heartbeat", heartbeat)):
            if not number > 0:
                raise ValueError(f"{name} must be a number of seconds above 0, not {number!r}")
        if expires is not None and not expires >= 0:
            raise ValueError(f"expires must be None or a number of seconds, not {expires!r}")
        self.expires = expires
        self.failure_expires = failure_expires
        self.safety_interval = safety_interval
        self.heartbeat = heartbeat
        self.verify_key = verify_key
        self.result_extended = result_extended
        self.codec = Codec(
            serializer=serializer,
            accept=accept,
            compression=compression,
            max_result_bytes=max_result_bytes,
            exceptions=exceptions,
        )
        self.key_prefix = _with_separator(key_prefix)
        self._task_prefix = f"{self.key_prefix}celery-task-meta-".encode()
        self._group_prefix = f"{self.key_prefix}celery-taskset-meta-".encode()
        #: Ways to reach whoever runs tasks; see :mod:`asyncresult.control`.
        self.controllers: list[Any] = []
        self._engines: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Engine] = weakref.WeakKeyDictionary()
        self._latest: Engine | None = None
        self._closed = False

    # -- handles --------------------------------------------------------------------------------------

    def result(self, id: str | uuid.UUID, *, type: Any = Any, parent: Any = None) -> AsyncResult[Any]:
        """A handle on the result of task ``id``; touches nothing."""
        handle: AsyncResult[Any] = handles.result(id, backend=self, parent=parent, type=type)
        return handle

    def results(self, ids: Iterable[str | uuid.UUID], *, type: Any = Any) -> ResultSet[Any]:
        """Handles on several results, to be awaited together; touches nothing."""
        results: ResultSet[Any] = handles.results([self.result(id, type=type) for id in ids])
        return results

    # -- reading --------------------------------------------------------------------------------------

    async def get_meta(self, task_id: str) -> TaskMeta:
        """The record of one task as it is now; PENDING where there is none.

        Raises:
            BackendUnavailable, BackendPermissionError, BackendClosed: It could not be read.
            ResultDecodeError: It makes no sense.

        Wire: one MGET for all reads of a loop tick.
        """
        return await self._decoded(task_id, await self._engine().read(self.task_key(task_id)))

    async def get_many(self, ids: Iterable[str]) -> list[TaskMeta]:
        """The records of many tasks, in the order of ``ids``.

        Raises: as :meth:`get_meta`.

        Wire: one MGET for each 1,000 ids.
        """
        ids = list(ids)
        payloads = await self._engine().read_many([self.task_key(id) for id in ids])
        decode = self._decode
        metas: list[TaskMeta] = []
        size = 0
        for id, payload in zip(ids, payloads, strict=True):
            try:
                metas.append(decode(id, payload))
            except LargeRecord:
                metas.append(await self._decoded(id, payload))
            size += len(payload or b"")
            if size >= LARGE_PAYLOAD_BYTES:  # many small ones are large, too: a breath for others
                size = 0
                await asyncio.sleep(0)
        return metas

    def _decode(self, task_id: str, payload: bytes | None) -> TaskMeta:
        """The record, if it is small enough for the loop; LargeRecord if not."""
        if not payload:
            return TaskMeta(status=PENDING, task_id=task_id)
        return self.codec.decode(task_id, payload, small=True)

    async def _decoded(self, task_id: str, payload: bytes | None) -> TaskMeta:
        """The record, whatever its size."""
        try:
            return self._decode(task_id, payload)
        except LargeRecord:
            pass
        engine = self._engine()
        decoded: asyncio.Future[TaskMeta | ResultDecodeError] = engine.loop.create_future()

        def done(outcome: TaskMeta | ResultDecodeError) -> None:
            if not decoded.done():  # given up meanwhile
                decoded.set_result(outcome)

        engine.decode_large(task_id, payload or b"", done)
        outcome = await decoded
        if isinstance(outcome, ResultDecodeError):
            raise outcome
        return outcome

    def _decode_then(
        self, task_id: str, payload: bytes | None, done: Callable[[TaskMeta | ResultDecodeError], object]
    ) -> None:
        """Give the record to ``done``: at once, or a large one when it has been decoded."""
        outcome: TaskMeta | ResultDecodeError
        try:
            outcome = self._decode(task_id, payload)
        except LargeRecord:
            self._engine().decode_large(task_id, payload or b"", done)
            return
        except ResultDecodeError as error:
            outcome = error
        done(outcome)

    # -- writing --------------------------------------------------------------------------------------

    async def store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        *,
        traceback: str | None = None,
        request: Any = None,
        expires: float | None = None,
    ) -> bool:
        """Store a state of a task and announce it, in one atomic step and one round trip.

        A SUCCESS is never overwritten, and a state that is not final never overwrites a final one.

        Args:
            result: The value; for FAILURE, RETRY and REVOKED an exception.
            traceback: The traceback text of an exception.
            request: Whoever describes the task as Celery's request does: ``children``, ``group``,
                ``parent_id`` and, with ``result_extended``, ``task``, ``args``, ``kwargs``, ``hostname``,
                ``retries`` and ``delivery_info``; its attribute ``extended`` asks for these in any case.
            expires: Seconds to keep it, instead of the backend's setting.

        Returns:
            Whether it was stored; False if what is there already has precedence.

        Raises:
            ResultEncodeError: The value does not fit the format. Nothing was sent.
            BackendUnavailable, BackendPermissionError, BackendClosed: It may or may not have been stored.

        Wire: EVALSHA of a script that does GET, SET with EX, PUBLISH.
        """
        return await self._store(task_id, result, state, traceback=traceback, request=request, expires=expires)

    def _store(
        self,
        task_id: str,
        result: Any,
        state: str,
        *,
        traceback: str | None = None,
        request: Any = None,
        expires: float | None = None,
        start: bool = False,
        history: int | None = None,
    ) -> asyncio.Future[bool]:
        """:meth:`store_result` with a future that may be left alone: giving it up does not give up the store.

        Args:
            start: Store nothing if somebody asked to revoke the task.
            history: Keep this one, too, and as many before it.
        """
        key = self.task_key(task_id)
        payload = self.codec.encode(self._record(task_id, result, state, traceback, request))
        return self._engine().store(
            key,
            payload,
            state,
            self._lifetime(state, expires),
            unless=self.key_beside(task_id, "revoke") if start else None,
            history=(self.key_beside(task_id, "history"), history) if history else None,
        )

    async def mark_as_started(self, task_id: str, **meta: Any) -> bool:
        """Store STARTED; ``meta`` says who runs it (Celery's workers give pid and hostname).

        Returns, raises: as :meth:`store_result`.
        """
        return await self.store_result(task_id, meta, STARTED)

    async def mark_as_done(
        self, task_id: str, result: Any, *, request: Any = None, expires: float | None = None
    ) -> bool:
        """Store SUCCESS with the value. Args, returns, raises: as :meth:`store_result`."""
        return await self.store_result(task_id, result, SUCCESS, request=request, expires=expires)

    async def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        *,
        traceback: str | None = None,
        request: Any = None,
        expires: float | None = None,
    ) -> bool:
        """Store FAILURE with the exception and its traceback text. Args, returns, raises: as :meth:`store_result`."""
        return await self.store_result(task_id, exc, FAILURE, traceback=traceback, request=request, expires=expires)

    async def mark_as_retry(
        self, task_id: str, exc: BaseException | None, *, traceback: str | None = None, request: Any = None
    ) -> bool:
        """Store RETRY with the exception that made a retry necessary, if one did.

        Args, returns, raises: as :meth:`store_result`.
        """
        return await self.store_result(task_id, exc, RETRY, traceback=traceback, request=request)

    async def mark_as_revoked(self, task_id: str, reason: str = "revoked", *, request: Any = None) -> bool:
        """Store REVOKED. Readers see TaskRevoked, those of stock Celery its TaskRevokedError, with that reason.

        Returns, raises: as :meth:`store_result`.
        """
        revoked = {"exc_type": "TaskRevokedError", "exc_message": [reason], "exc_module": "celery.exceptions"}
        return await self.store_result(task_id, revoked, REVOKED, request=request)

    async def forget(self, *ids: str) -> int:
        """Delete the records of ``ids``, with their histories and requests to revoke them.

        Returns: how many records there were. A running task will write its own again.

        Raises:
            BackendUnavailable, BackendPermissionError, BackendClosed: They may or may not have been deleted.

        Wire: DEL.
        """
        if not ids:
            return 0
        engine = self._engine()
        beside = engine.delete([self.key_beside(id, what) for id in ids for what in ("history", "revoke")])
        records, _ = await asyncio.gather(engine.delete([self.task_key(id) for id in ids]), beside)
        return records

    async def save_group(self, group: Any) -> None:
        """Store which results belong to a group, in Celery's form.

        Args:
            group: A :class:`GroupResult` (anything with ``id`` and ``as_tuple()``).

        Raises:
            BackendUnavailable, BackendPermissionError, BackendClosed: It may or may not have been stored.

        Wire: SET with EX, PUBLISH.
        """
        payload = self.codec.encode_group(group.as_tuple())
        await self._engine().put(self.group_key(group.id), payload, self._lifetime(SUCCESS, None))

    async def restore_group(self, id: str) -> Any:
        """The ``as_tuple`` form of a saved group, or None. See :meth:`GroupResult.restore`.

        Raises: as :meth:`get_meta`.

        Wire: MGET.
        """
        payload = await self._engine().read(self.group_key(id))
        return self.codec.decode_group(id, payload) if payload else None

    async def delete_group(self, id: str) -> None:
        """Delete a saved group; its members' results stay.

        Raises: as :meth:`forget`.

        Wire: DEL.
        """
        await self._engine().delete([self.group_key(id)])

    def _record(self, task_id: str, result: Any, state: str, traceback: str | None, request: Any) -> TaskMeta:
        """The document of one state. Source: celery/backends/base.py (5.7), ``_get_result_meta``."""
        if state in EXCEPTION_STATES and isinstance(result, BaseException):
            result = self.codec.encode_exception(result)
        fields: dict[str, Any] = {
            "task_id": str(task_id),
            "status": state,
            "result": result,
            "traceback": traceback,
            "date_done_raw": datetime.now(UTC).isoformat() if state in READY_STATES else None,
        }
        if request is not None:
            fields["children_raw"] = tuple(child.as_tuple() for child in getattr(request, "children", None) or ())
            fields["group_id"] = getattr(request, "group", None)
            fields["parent_id"] = getattr(request, "parent_id", None)
            fields["heartbeat"] = getattr(request, "heartbeat", None)
            if self.result_extended or getattr(request, "extended", False):
                delivery = getattr(request, "delivery_info", None) or {}
                fields |= {
                    "name": getattr(request, "task", None),
                    "args": getattr(request, "args", None),
                    "kwargs": getattr(request, "kwargs", None),
                    "worker": getattr(request, "hostname", None),
                    "retries": getattr(request, "retries", None),
                    "queue": delivery.get("routing_key"),
                }
        return TaskMeta(**fields)

    def _lifetime(self, state: str, expires: float | None) -> float | None:
        """Seconds to keep a record; None for ever. Celery's rule: whole seconds, and 0 means for ever."""
        if expires is None:
            expires = self.failure_expires if state == FAILURE else None
            if expires is None:
                expires = self.expires
        return int(expires) or None if expires is not None else None

    # -- running tasks --------------------------------------------------------------------------------

    def track(
        self,
        task_id: str | None = None,
        *,
        name: str | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        worker: str | None = None,
        queue: str | None = None,
        retries: int = 0,
        parent_id: str | None = None,
        group_id: str | None = None,
        ignore_result: bool = False,
        expires: float | None = None,
        failure_expires: float | None = None,
        heartbeat: float | None = None,
        history: int | None = None,
        progress_interval: float = 0.1,
    ) -> TaskContext:
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
            heartbeat: Seconds between signs of life, by which readers tell a task that runs from one whose
                process died (:attr:`TaskMeta.stale`). None gives none.
            history: Keep the last so many states for readers that ask for them by ``updates(since=…)``. None
                keeps the latest state only.
            progress_interval: Seconds between two stores of PROGRESS. Of what is told in between, the latest
                is stored.

        Returns:
            The context; ``async with`` gives it to the block. See :class:`TaskContext`.

        Raises:
            ValueError: The id, or a number, makes no sense.
        """
        context: TaskContext = handles.track(
            self,
            task_id,
            name=name,
            args=args,
            kwargs=kwargs,
            worker=worker,
            queue=queue,
            retries=retries,
            parent_id=parent_id,
            group_id=group_id,
            ignore_result=ignore_result,
            expires=expires,
            failure_expires=failure_expires,
            heartbeat=heartbeat,
            history=history,
            progress_interval=progress_interval,
        )
        return context

    # -- keys -----------------------------------------------------------------------------------------

    def task_key(self, task_id: str) -> bytes:
        """The key, and channel, of a task's record.

        Raises:
            ValueError: The id cannot be part of a key.
        """
        try:
            return self._task_prefix + task_id.encode()
        except (UnicodeEncodeError, AttributeError):
            raise ValueError(f"not a task id: {task_id!r}") from None

    def precedes(self, key: bytes, old: bytes | None, status: str) -> bool:
        """Whether the record ``old`` under ``key`` may not be replaced by one of ``status``.

        SUCCESS is never overwritten, and what is not final never overwrites what is. An unreadable record
        protects nothing.
        """
        if not old:
            return False
        try:
            held = self.codec.decode(key[len(self._task_prefix) :].decode(), old).status
        except ResultDecodeError:
            return False
        return held == SUCCESS or (held in READY_STATES and status not in READY_STATES)

    def key_beside(self, task_id: str, what: str) -> bytes:
        """A key for something about the task, on the same node of a cluster as its record."""
        key = self.task_key(task_id)
        # What stands in the first braces decides: the record's own name, unless that has braces itself.
        return (key if b"{" in key else b"{" + key + b"}") + f".{what}".encode()

    def group_key(self, id: str) -> bytes:
        """The key of a saved group."""
        return self._group_prefix + str(id).encode()

    # -- life -----------------------------------------------------------------------------------------

    @abstractmethod
    def _start_engine(self) -> Engine:
        """An engine for the running loop."""

    def _engine(self) -> Engine:
        """The engine of the running loop and process, started on first use.

        Raises:
            BackendClosed: The backend was closed.
            RuntimeError: No loop is running.
        """
        engine = self._latest
        if engine is not None and engine.loop is _get_running_loop() and engine.forks == _fork_count:
            return engine
        if self._closed:
            raise BackendClosed(f"{self!r} was closed; enter it again, or connect() anew")
        loop = asyncio.get_running_loop()
        for other in [other for other in self._engines if other.is_closed()]:
            del self._engines[other]
        engine = self._engines.get(loop)
        if engine is None or engine.forks != _fork_count:
            engine = self._engines[loop] = self._start_engine()
        self._latest = engine
        return engine

    def _serves(self, table: Waiters) -> bool:
        """Whether ``table`` belongs to an engine that still lives, on whatever loop."""
        return any(
            engine.waiters is table and engine.forks == _fork_count and not loop.is_closed()
            for loop, engine in list(self._engines.items())
        )

    def _engine_ended(self, engine: Engine) -> None:
        """Called by an engine whose loop shuts down: the next use starts another."""
        if self._latest is engine:
            self._latest = None
        if self._engines.get(engine.loop) is engine:
            del self._engines[engine.loop]

    async def aclose(self, *, timeout: float = 2.0) -> None:
        """Close the connections of this loop; every wait ends with BackendClosed, at once.

        Args:
            timeout: Seconds that writes and revocations under way get to finish. The bound holds, also with a frozen
                server.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            await _background.finish(self, timeout)
        finally:
            await self._close(max(0.0, timeout - (loop.time() - begun)))

    async def _close(self, timeout: float) -> None:
        self._closed = True
        while self in _entered:
            _entered.remove(self)
        self._latest = None
        here = asyncio.get_running_loop()
        engines = list(self._engines.items())
        self._engines.clear()
        own = None
        for loop, engine in engines:
            if engine.forks != _fork_count or loop.is_closed():
                continue
            if loop is here:
                own = engine
            else:  # another thread's loop: it closes its engine itself
                asyncio.run_coroutine_threadsafe(engine.aclose(timeout), loop)
        if own is not None:
            await own.aclose(timeout)

    async def __aenter__(self) -> Self:
        self._enter()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._leave():
            await self.aclose()

    def _enter(self) -> None:
        """Become the current backend, of this context and of those that have none of their own."""
        self._closed = False
        _entered.append(self)
        _current.set(self)

    def _leave(self) -> bool:
        """Undo one :meth:`_enter`. Whether that was the last of them."""
        # No ContextVar.reset(): a fixture may leave in another context than it entered.
        if _current.get() is self:
            _current.set(None)
        if self in _entered:
            _entered.reverse()
            _entered.remove(self)
            _entered.reverse()
        return self not in _entered

    @property
    def closed(self) -> bool:
        """Whether the backend was closed."""
        return self._closed

    def stats(self) -> BackendStats:
        """Counters of the connections that were used last; zeros where there are none. (Each loop has its own.)"""
        engine = self._latest
        return engine.stats() if engine is not None else BackendStats()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    def __str__(self) -> str:
        """The backend's address without secrets."""
        return f"{self.scheme}://"


def check_task_id(id: object) -> str:
    """The id as text.

    Raises:
        TypeError: Neither text nor a UUID.
        ValueError: Empty, or with characters that cannot be part of a key.
    """
    if isinstance(id, str):
        if id and id.isprintable():
            return id
    elif isinstance(id, uuid.UUID):
        return str(id)
    elif id is not None:
        raise TypeError(f"a task id is text or a UUID, not {type(id).__name__}: {id!r:.60}")
    if not id:
        raise ValueError(f"a task id must not be empty: {id!r}")
    try:
        id.encode()
    except UnicodeEncodeError:
        raise ValueError(f"a task id must be encodable as UTF-8: {id!r:.60}") from None
    if any(ord(c) < 32 or ord(c) == 127 for c in id):
        raise ValueError(f"a task id must not hold control characters: {id!r:.60}")
    return id


def check_timeout(timeout: float | None) -> bool:
    """Whether a wait with this budget is a mere look.

    Raises:
        ValueError: It is NaN, of which no comparison is true, so no wait would ever end.
    """
    if timeout is None:
        return False
    if math.isnan(timeout):
        raise ValueError("timeout is not a number")
    return timeout <= 0


def _with_separator(prefix: str) -> str:
    """Celery's rule for ``global_keyprefix``. Source: celery/backends/base.py (5.7), KeyValueStoreBackend."""
    return f"{prefix}_" if prefix and prefix[-1] not in ":_-." else prefix
