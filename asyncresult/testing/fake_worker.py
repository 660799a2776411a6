"""A worker that does what the test says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from .._storage.documents import document_of
from .._storage.store import lifetime_of
from ..backend import Backend
from ..control import Reply
from ..errors import BackendUnavailable, TaskRevoked
from ..states import FAILURE, PROGRESS, RETRY, REVOKED, STARTED, SUCCESS
from ..worker import traceback_text
from .memory import FakeRecords

__all__ = ["FakeWorker"]


class FakeWorker:
    """Stores the states of tasks, as a worker would, in a backend of :func:`memory_backend`.

    Its methods can be called from coroutines and from blocking code, in any thread. A task is meant by its id, or by
    its handle. Each takes ``delay``, the seconds until it happens, and ``notify=False``, which loses the notification:
    who waits finds the record with the next sweep.

    What it does during an :meth:`outage` it does when that is over.

    Args:
        backend: Where it stores.

    Attributes:
        backend: Where it stores.
        revoked: The ids of the tasks that were requested to be revoked, in that order. They are stored as REVOKED.

    Raises:
        TypeError: The backend is another one.
    """

    def __init__(self, backend: Backend) -> None:
        self.revoked: list[str] = []
        self._timers: set[threading.Timer] = set()
        self._lock = threading.Lock()
        self._held: list[Callable[[], object]] = []
        self.use(backend)

    def use(self, backend: Backend) -> None:
        """Store in this backend from now on. Raises: as the class."""
        records = getattr(backend.driver, "records", None)
        if not isinstance(records, FakeRecords):
            raise TypeError(f"a fake worker stores in a backend of memory_backend(), not in {backend!r}")
        self.backend = backend
        self._records = records
        backend.controllers.append(_Controller(self))

    # -- states -------------------------------------------------------------------------------------------

    def start(self, task: Any, *, delay: float = 0.0, notify: bool = True) -> None:
        """STARTED: a worker has taken the task."""
        self.store(task, STARTED, {"pid": 1, "hostname": "fake@worker"}, delay=delay, notify=notify)

    def progress(
        self,
        task: Any,
        current: float | None = None,
        total: float | None = None,
        *,
        delay: float = 0.0,
        notify: bool = True,
        **info: Any,
    ) -> None:
        """PROGRESS, with ``{"current": …, "total": …, **info}``."""
        counts = {name: value for name, value in (("current", current), ("total", total)) if value is not None}
        self.store(task, PROGRESS, counts | info, delay=delay, notify=notify)

    def succeed(self, task: Any, result: Any = None, *, delay: float = 0.0, notify: bool = True) -> None:
        """SUCCESS, with this value."""
        self.store(task, SUCCESS, result, delay=delay, notify=notify)

    def fail(self, task: Any, error: Exception, *, delay: float = 0.0, notify: bool = True) -> None:
        """FAILURE, with this exception, and its traceback where it was raised."""
        self.store(task, FAILURE, error, traceback=traceback_text(error), delay=delay, notify=notify)

    def retry(self, task: Any, error: Exception | None = None, *, delay: float = 0.0, notify: bool = True) -> None:
        """RETRY: the task will run again, because of this exception."""
        text = traceback_text(error) if error is not None else None
        self.store(task, RETRY, error, traceback=text, delay=delay, notify=notify)

    def revoke(self, task: Any, *, delay: float = 0.0, notify: bool = True) -> None:
        """REVOKED: the worker has dropped the task."""
        error = TaskRevoked("revoked", exc_type="TaskRevokedError", exc_args=("revoked",), task_id=_id_of(task))
        self.store(task, REVOKED, error, delay=delay, notify=notify)

    def store(
        self,
        task: Any,
        state: str,
        result: Any = None,
        *,
        traceback: str | None = None,
        delay: float = 0.0,
        notify: bool = True,
    ) -> None:
        """Store any state. A SUCCESS stays, and so does a final state before one that is not.

        Raises:
            ResultEncodeError: The value does not fit the format.
        """
        backend, id = self.backend, _id_of(task)
        key = backend.task_key(id)
        codec = backend.codec
        document = document_of(codec, id, result, state, traceback, None, extended=backend.result_extended)
        payload = codec.encode(document)
        expires = lifetime_of(backend, state, None)

        def keep(old: bytes | None) -> bool:
            return backend.precedes(key, old, state)

        def write() -> None:
            if notify:
                self._records.store(key, payload, expires, keep, None, None)
            elif not keep(self._records.get(key)):
                self._records.set(key, payload, expires)

        self._later(delay, write)

    # -- outages ------------------------------------------------------------------------------------------

    @contextmanager
    def outage(self) -> Generator[None]:
        """Inside the block nobody reaches the backend: waits go on, everything else raises BackendUnavailable.

        Like a server that is restarted, with its data kept. ``with``, also in coroutines.
        """
        self._records.set_down(True)
        try:
            yield
        finally:
            with self._lock:
                self._records.set_down(False)
                held, self._held = self._held, []
                for write in held:
                    write()

    # -- inside -------------------------------------------------------------------------------------------

    def _later(self, delay: float, write: Callable[[], object]) -> None:
        if delay <= 0:
            self._try(write)
            return

        def fire() -> None:
            self._timers.discard(timer)
            self._try(write)

        timer = threading.Timer(delay, fire)
        timer.daemon = True
        self._timers.add(timer)
        timer.start()

    def _try(self, write: Callable[[], object]) -> None:
        with self._lock:  # no outage ends between the attempt and the note of it
            try:
                write()
            except BackendUnavailable:
                self._held.append(write)

    def close(self) -> None:
        """Drop what is still to come."""
        for timer in list(self._timers):
            timer.cancel()
            timer.join()
        self._timers.clear()
        self._held.clear()


class _Controller:
    """How requests to revoke reach the fake worker; see :mod:`asyncresult.control`."""

    def __init__(self, worker: FakeWorker) -> None:
        self._worker = worker

    async def revoke(
        self, ids: Sequence[str], *, terminate: bool, signal: str | None, wait: bool, timeout: float | None
    ) -> list[Reply]:
        for id in ids:
            self._worker.revoked.append(id)
            self._worker.revoke(id)
        return [Reply("fake@worker", ok=True, detail="revoked")] if wait else []

    async def revoke_by_stamped_headers(
        self, headers: Mapping[str, Any], *, terminate: bool, signal: str | None, wait: bool, timeout: float | None
    ) -> list[Reply]:
        return []


def _id_of(task: Any) -> str:
    return str(getattr(task, "id", task))
