"""Records in, records out: what handles, workers and control need of a backend.

A :class:`Store` is configuration and verbs. Where its records are is the business of its :class:`Driver`, which makes
its engines (:mod:`.engine`): a store has one for each event loop and process, so the same object serves two successive
``asyncio.run``, per-test loops and forked workers.
"""

from __future__ import annotations

import asyncio
import functools
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from .. import _background
from .._checks import check_count, check_timeout
from ..codec.codec import DEFAULT_MAX_RESULT_BYTES, Codec
from ..errors import AsyncResultError, BackendClosed, BackendError
from ..meta import TaskMeta
from ..states import SUCCESS
from .bulk import Bulk, Encode, Record, Send
from .documents import attempt_of, encode_record, lifetime, precedes
from .engine import BackendStats, Engine, Health, Outcome
from .keys import HISTORY, REVOKE, SENT, Keys
from .marks import Marks
from .options import check_backend_options
from .probed import Probed, report_many, report_stored

if TYPE_CHECKING:
    from .waiters import Waiters

__all__ = ["Driver", "Store", "engine_of", "lifetime_of"]

DEFAULT_EXPIRES = 86400.0
#: What a ping looks for: a key that readers may read, and that nothing writes.
PING_ID = "asyncresult-ping"
#: In place of a state, in what is kept beside records.
_BESIDE = "BESIDE"


class Driver(ABC):
    """Where the records of one store are, and how they are reached."""

    #: Whether each record can have a lifetime of its own. Else it is a setting of the store.
    keeps_lifetimes = True
    #: Whether other processes find what is kept beside a record.
    keeps_notes = True

    @abstractmethod
    def start_engine(self, store: Store) -> Engine:
        """An engine for the running loop."""

    @abstractmethod
    def __str__(self) -> str:
        """The address, without secrets."""


class Companion(Protocol):
    """What is closed with a store."""

    async def aclose(self, *, timeout: float) -> None: ...


class Store(Marks, Bulk, Probed, Keys):
    """Stores records of tasks and reads them. Options: see :class:`asyncresult.Backend`.

    Raises:
        ValueError: An option is invalid.
    """

    def __init__(
        self,
        driver: Driver,
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
        register: bool = False,
    ) -> None:
        check_backend_options(locals())
        if register and not driver.keeps_notes:
            raise ValueError(f"{driver} keeps records only: register=True needs Redis, Valkey or memory://")
        self.registers = register
        self.expires = expires
        self.failure_expires = failure_expires
        self.safety_interval = safety_interval
        self.heartbeat = heartbeat
        self.verify_key = verify_key
        self.result_extended = result_extended
        self.codec: Codec = Codec(
            serializer=serializer,
            accept=accept,
            compression=compression,
            max_result_bytes=max_result_bytes,
            exceptions=exceptions,
        )
        Keys.__init__(self, key_prefix)
        Probed.__init__(self)
        self.driver = driver
        #: Ways to reach whoever runs tasks; see :mod:`asyncresult.control`.
        self.controllers: list[Any] = []
        #: What puts the counters of parts above into the statistics, by a name for each.
        self.counters: dict[str, Callable[[BackendStats], BackendStats]] = {}
        #: What is closed with this one: other stores, connections of an integration.
        self.companions: list[Companion] = []
        #: Failures of tasks that ran here which no handle has seen yet: id, and what will be logged.
        self.unseen_failures: dict[str, str] = {}
        self._address = str(driver)
        self._closed = False

    @abstractmethod
    def _revive(self, form: Any) -> Any:
        """The handle, or group of handles, for Celery's portable form (``as_tuple()``).

        Returns:
            A :class:`.._handles.base.ResultBase`.

        Raises:
            ValueError: Not of that form.
        """

    # -- reading --------------------------------------------------------------------------------------

    async def get_meta(self, task_id: str) -> TaskMeta:
        """The record of one task as it is now; PENDING where there is none.

        Raises:
            BackendUnavailable, BackendPermissionError, BackendClosed: It could not be read.
            ResultDecodeError: It cannot be decoded.

        Wire: one MGET for all reads of a loop tick.
        """
        engine = engine_of(self)
        return await engine.decoder.whole(task_id, await engine.read(self.task_key(task_id)))

    async def get_many(self, ids: Iterable[str]) -> list[TaskMeta]:
        """The records of many tasks, in the order of ``ids``.

        Raises: as :meth:`get_meta`.

        Wire: one MGET for each 1,000 ids.
        """
        from .reading import read_records  # many programs read no bulk (benchmarks: import)

        return await read_records(self, engine_of(self), list(ids))

    async def get_raw(self, task_id: str) -> bytes | None:
        """The stored bytes of a record as they are; None where nothing is stored.

        Raises: as :meth:`get_meta`; of ResultDecodeError only ResultTooLarge, where Redis keeps the records.

        Wire: MGET.
        """
        return await engine_of(self).read(self.task_key(task_id))

    async def get_lifetime(self, task_id: str) -> float | None:
        """Seconds that a record is still kept; None where it is kept forever, or is not there.

        Raises: as :meth:`get_raw`.

        Wire: PTTL.
        """
        return await engine_of(self).lifetime(self.task_key(task_id))

    async def task_ids(self, *, limit: int) -> AsyncIterator[str]:
        """Ids of stored records, in no order; one that is written meanwhile may be missing. For tools, not for programs
        that could know the ids.

        Args:
            limit: How many at the most.

        Raises: as :meth:`get_raw`.

        Wire: SCAN, a thousand keys a step.
        """
        check_count("limit", limit, least=0)
        prefix = self.task_key("")
        seen: set[bytes] = set()
        async for keys in engine_of(self).scan(prefix):
            for key in keys:
                if key not in seen and self.is_task_key(key):  # a scan may meet a key twice
                    seen.add(key)
                    yield key[len(prefix) :].decode(errors="backslashreplace")
                    if len(seen) >= limit:
                        return

    async def command(self, *words: str | bytes | int) -> Any:
        """The server's answer to one command of its own, such as ``INFO``. For tools that examine a server.

        Raises:
            BackendError: There is no server that takes commands, or it refuses this one.
            BackendUnavailable, BackendPermissionError, BackendClosed: As :meth:`get_meta`.
        """
        try:
            return await engine_of(self).command(*words)
        except NotImplementedError:
            raise BackendError(f"{self} has no server that takes commands") from None

    async def ping(self) -> float:
        """Read something small from the store; returns the seconds that it took.

        Raises: as :meth:`get_raw`.

        Wire: STRLEN.
        """
        engine = engine_of(self)
        begun = engine.loop.time()
        await engine.exists(self.task_key(PING_ID))
        return engine.loop.time() - begun

    async def health(self, *, timeout: float = 2.0) -> Health:
        """Whether the store can be used now: for readiness probes. Raises nothing but cancellation.

        Args:
            timeout: Seconds that it may take to answer.
        """
        check_timeout(timeout)
        try:
            async with asyncio.timeout(timeout):
                latency = await self.ping()
        except (TimeoutError, AsyncResultError) as error:  # the block's own TimeoutError has no text
            reason = str(error) or self.stats().last_error or f"no answer within {timeout:g} s"
            return Health(ok=False, connected=False, reason=reason)
        trouble = self.stats().last_error
        return Health(ok=True, latency=latency, connected=trouble is None, reason=trouble)

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

        A SUCCESS is never overwritten, and a state that is not final never overwrites a final one. Nor does any state
        overwrite that of a later attempt (``request.retries``), except a SUCCESS, and STARTED, which begins a run.

        Args:
            result: The value; for FAILURE, RETRY and REVOKED an exception.
            traceback: The traceback text of an exception.
            request: Whoever describes the task as Celery's request does: ``children``, ``group``,
                ``parent_id`` and, with ``result_extended``, ``task``, ``args``, ``kwargs``, ``hostname``,
                ``retries`` and ``delivery_info``; its attribute ``extended`` includes these in any case. ``own_fields``
                is a mapping of further fields, which readers find in :attr:`TaskMeta.extra`.
            expires: Seconds to keep it, instead of the backend's setting.

        Returns:
            Whether it was stored; False if what is there already has precedence.

        Raises:
            ResultEncodeError: The value does not fit the format, or is more than the server takes. Nothing was stored.
            BackendUnavailable, BackendPermissionError, BackendClosed: It may or may not have been stored.
            BackendError: ``expires`` in a store that keeps all records for the same time. Nothing was sent.

        Wire: EVALSHA of a script that does GET, SET with EX, PUBLISH.
        """
        return await self._store(task_id, result, state, traceback=traceback, request=request, expires=expires)

    def _bulk(self, state: str, expires: float | None) -> tuple[Encode, Send]:
        self._check_lifetime(expires)
        engine, seconds = engine_of(self), lifetime_of(self, state, expires)
        fields = self.probe.record_fields() if self.probe is not None else None

        def encode(task_id: str, result: Any) -> Record:
            return self.task_key(task_id), encode_record(self.codec, task_id, result, state, fields=fields)

        def send(records: list[Record]) -> asyncio.Future[list[Outcome]]:
            stored = engine.store_many(records, state, seconds)
            if self.probe is not None:
                stored.add_done_callback(functools.partial(report_many, self.probe, time.perf_counter(), state))
            return stored

        return encode, send

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
        again: bool = False,
        history: int | None = None,
    ) -> asyncio.Future[bool]:
        """:meth:`store_result` with a future that may be left alone: giving it up does not give up the store.

        Args:
            start: Store nothing if there is a request to revoke the task.
            again: This run has stored this state before, and reports that it still runs.
            history: Keep this one, too, and as many before it.
        """
        self._check_lifetime(expires)
        key = self.task_key(task_id)
        fields = self.probe.record_fields() if self.probe is not None else None
        payload = encode_record(
            self.codec, task_id, result, state, traceback, request, fields, extended=self.result_extended
        )
        engine = engine_of(self)
        stored = engine.store(
            key,
            payload,
            state,
            lifetime_of(self, state, expires),
            unless=self.key_beside(task_id, REVOKE) if start else None,
            history=(self.key_beside(task_id, HISTORY), history) if history else None,
            attempt=attempt_of(request, state, again),
        )
        if self.probe is not None:
            stored.add_done_callback(functools.partial(report_stored, self.probe, time.perf_counter(), state))
        return stored

    def _check_lifetime(self, expires: float | None) -> None:
        if expires is not None and not self.driver.keeps_lifetimes:
            raise BackendError(
                f"{self} keeps all records for the same time, which is a setting of the app (result_expires):"
                " leave out expires="
            )

    async def forget(self, *ids: str) -> int:
        """Delete the records of ``ids``, with their histories, requests to revoke them and notes that they were sent.

        Returns: how many records there were. A running task will write its own again.

        Raises:
            BackendUnavailable, BackendPermissionError, BackendClosed: They may or may not have been deleted.

        Wire: DEL.
        """
        if not ids:
            return 0
        engine = engine_of(self)
        beside = engine.delete([self.key_beside(id, what) for id in ids for what in (HISTORY, REVOKE, SENT)])
        records, _ = await asyncio.gather(engine.delete([self.task_key(id) for id in ids]), beside)
        return records

    async def put_beside(self, task_id: str, name: str, value: Any, *, expires: float | None = None) -> None:
        """Keep something about a task beside its record: what a worker, which only writes records, cannot erase.

        On the same node of a cluster, under its own key; stored in the backend's format, as results are.

        Args:
            name: Letters, digits and underscores: that of an application or integration.
            value: What the format can hold.
            expires: Seconds to keep it; None is as long as records are kept.

        Raises:
            ValueError: The id or the name cannot be one.
            ResultEncodeError: The value does not fit the format. Nothing was sent.
            BackendUnavailable, BackendPermissionError, BackendClosed: It may or may not have been stored.

        Wire: SET with EX, PUBLISH.
        """
        key = self.own_key(task_id, name)
        payload = self.codec.encode(TaskMeta(task_id=task_id, status=_BESIDE, result=value))
        await engine_of(self).put(key, payload, lifetime_of(self, _BESIDE, expires))

    async def get_beside(self, task_id: str, name: str) -> Any:
        """What :meth:`put_beside` keeps there; None where there is nothing.

        Raises: as :meth:`get_meta`; ValueError: the id or the name cannot be one.

        Wire: one MGET for all reads of a loop tick.
        """
        engine = engine_of(self)
        return (await engine.decoder.whole(task_id, await engine.read(self.own_key(task_id, name)))).result

    async def save_group(self, group: Any) -> None:
        """Store which results belong to a group, in Celery's form.

        Args:
            group: A :class:`GroupResult` (anything with ``id`` and ``as_tuple()``).

        Raises:
            BackendUnavailable, BackendPermissionError, BackendClosed: It may or may not have been stored.

        Wire: SET with EX, PUBLISH.
        """
        payload = self.codec.encode_group(group.as_tuple())
        await engine_of(self).put(self.group_key(group.id), payload, lifetime_of(self, SUCCESS, None))

    async def restore_group(self, id: str) -> Any:
        """The ``as_tuple`` form of a saved group, or None. See :meth:`GroupResult.restore`.

        Raises: as :meth:`get_meta`.

        Wire: MGET.
        """
        payload = await engine_of(self).read(self.group_key(id))
        if not payload:
            return None
        return await engine_of(self).decoder.group(id, payload)

    async def delete_group(self, id: str) -> None:
        """Delete a saved group; its members' results stay.

        Raises: as :meth:`forget`.

        Wire: DEL.
        """
        await engine_of(self).delete([self.group_key(id)])

    def precedes(self, key: bytes, old: bytes | None, status: str, attempt: int | None = None) -> bool:
        """Whether the record ``old`` under ``key`` may not be replaced by one of ``status``."""
        return precedes(self.codec, self.task_of(key), old, status, attempt) if old else False

    # -- connections --------------------------------------------------------------------------------

    def _start_engine(self) -> Engine:
        engine = self.driver.start_engine(self)
        engine.waiters.backend = self._address
        self._sample_lag(engine)
        return engine

    def _serves(self, table: Waiters) -> bool:
        """Whether ``table`` belongs to an engine that is still open, on whatever loop."""
        return self._engines.serve(table)

    def _engine_ended(self, engine: Engine) -> None:
        """Called by an engine whose loop shuts down: the next use starts another."""
        self._engines.drop(engine)

    async def aclose(self, *, timeout: float = 2.0) -> None:
        """Close the connections of this loop; every wait ends with BackendClosed, at once. (Of very many, 2,000 in each
        turn of the loop.)

        Args:
            timeout: Seconds that writes and revocations under way get to finish. The bound holds, also with a frozen
                server.
        """
        check_timeout(timeout)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            await _background.finish(self, timeout)
        finally:
            await self._close(max(0.0, timeout - (loop.time() - begun)))

    async def _close(self, timeout: float) -> None:
        self._closed = True
        companions, self.companions = self.companions, []
        await self._engines.aclose(timeout)
        for companion in companions:
            await companion.aclose(timeout=timeout)

    @property
    def closed(self) -> bool:
        """Whether the backend was closed."""
        return self._closed

    def stats(self) -> BackendStats:
        """Counters of the connections that were used last; zeros where there are none. (Each loop has its own.)"""
        engine = self._engines.latest
        stats = engine.stats() if engine is not None else BackendStats()
        for put_into in self.counters.values():
            stats = put_into(stats)
        return stats

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    def __str__(self) -> str:
        """The backend's address without secrets."""
        return self._address


def engine_of(store: Store) -> Engine:
    """The engine of the running loop and process, started on first use.

    Raises:
        BackendClosed: The backend was closed.
        RuntimeError: No loop is running.
    """
    loop = asyncio.get_running_loop()
    engine = store._engines.latest
    if engine is not None and engine.loop is loop and engine.forks == Engine.fork_count:
        return engine
    if store._closed:
        raise BackendClosed(f"{store!r} was closed; enter it again, or connect() anew")
    return store._engines.of(loop, store._start_engine)


def lifetime_of(store: Store, state: str, expires: float | None) -> float | None:
    """Seconds to keep a record of ``store``; None forever."""
    return lifetime(state, expires, store.expires, store.failure_expires)
