"""Reaching whoever runs a task.

A backend only stores results. To revoke a task somebody must be reached who runs it: the ways are the
backend's ``controllers``, added by whoever knows one (the Celery integration), and our own workers, if there
are any. Without any way, revoking raises; it never pretends.

How our own workers are reached
-------------------------------

A request to revoke a task is a record under a key beside the task's own, and is published there. Whoever has
the task, from the moment it is accepted, stands in the backend's table of waiters (:mod:`._waiters`) for
that key, as a handle stands there for a result. So a request is lost no more than a result is: subscription,
acknowledgement, read; read again after an outage, and in each sweep. A request that comes before the task is
found by the read, and by the store of STARTED, which does nothing where the key exists.

The answer goes the same way back, under a key beside the task's that the request names.

That there are workers of ours at all is known by a key too, which they renew: most backends only hold the
results of Celery workers, which would never hear of such a request.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ._storage.store import Backend, Engine
from .errors import AsyncResultError, BackendClosed, BackendError
from .meta import TaskMeta

__all__ = ["Controller", "Reply", "Revocation", "revoke", "revoke_by_stamped_headers", "revoke_in_background"]

logger = logging.getLogger("asyncresult")

#: What stands in place of a state in requests and replies: custom words, so they never are final.
REVOKE, REPLY = "REVOKE", "REPLY"
#: Seconds that a request is kept for a task that nobody has yet, and that the last sign of our workers counts.
REQUEST_EXPIRES = PRESENCE_EXPIRES = 86400.0
#: Seconds that a reply is kept for who asked: longer than any wait for it.
REPLY_EXPIRES = 60.0
#: Seconds to wait for replies unless told otherwise. As Celery.
REPLY_TIMEOUT = 1.0


@dataclass(frozen=True, slots=True)
class Reply:
    """One worker's answer.

    Attributes:
        worker: Who answered.
        ok: Whether it did what was asked.
        detail: Its own words.
    """

    worker: str
    ok: bool
    detail: str = ""


class Controller(Protocol):
    """A way to reach workers."""

    async def revoke(
        self, ids: Sequence[str], *, terminate: bool, signal: str | None, wait: bool, timeout: float | None
    ) -> list[Reply]: ...

    async def revoke_by_stamped_headers(
        self, headers: Mapping[str, Any], *, terminate: bool, signal: str | None, wait: bool, timeout: float | None
    ) -> list[Reply]: ...


async def revoke(
    backend: Backend,
    ids: Sequence[str],
    *,
    terminate: bool = False,
    signal: str | None = None,
    wait: bool = False,
    timeout: float | None = None,
) -> list[Reply]:
    """Ask every worker that can be reached not to run ``ids``.

    Args:
        terminate: Also end those that run already in a process. What runs under our own :meth:`Backend.track`,
            or as a coroutine of an Executor, is cancelled in any case.
        signal: How, for Celery's workers: ``"SIGTERM"`` (default), ``"SIGKILL"`` … An Executor kills.
        wait: Wait for the workers' answers.
        timeout: Seconds to wait for them; None is one second.

    Returns:
        The answers; empty without ``wait``. Of our own workers only who has a task answers, and the wait ends
        when there is an answer for each.

    Raises:
        BackendError: Nobody can be reached, or the request could not be sent.
    """
    own = await backend._engine().exists(_presence_key(backend))
    answers = [
        way.revoke(ids, terminate=terminate, signal=signal, wait=wait, timeout=timeout) for way in backend.controllers
    ]
    if own:
        answers.append(_revoke_own(backend, ids, terminate=terminate, wait=wait, timeout=timeout))
    return await _all(backend, answers)


async def revoke_by_stamped_headers(
    backend: Backend,
    headers: Mapping[str, Any],
    *,
    terminate: bool = False,
    signal: str | None = None,
    wait: bool = False,
    timeout: float | None = None,
) -> list[Reply]:
    """Ask every worker not to run tasks that carry one of these stamps. Otherwise as :func:`revoke`.

    Stamps are Celery's: our own workers know none, and are not asked.
    """
    answers = [
        way.revoke_by_stamped_headers(headers, terminate=terminate, signal=signal, wait=wait, timeout=timeout)
        for way in backend.controllers
    ]
    return await _all(backend, answers)


async def _all(backend: Backend, answers: Sequence[Awaitable[list[Reply]]]) -> list[Reply]:
    if not answers:
        raise BackendError(
            f"nobody who runs tasks can be reached through {backend!r}: connect it to a Celery app"
            " (asyncresult[celery]), or run tasks with asyncresult's own Executor or track()"
        )
    return [reply for replies in await asyncio.gather(*answers) for reply in replies]


_revoking: set[asyncio.Task[Any]] = set()


def revoke_in_background(backend: Backend, ids: Sequence[str]) -> None:
    """Revoke without waiting, for code that is being cancelled and may not wait any more."""

    async def send() -> None:
        try:
            await revoke(backend, ids)
        except AsyncResultError as error:
            logger.warning("tasks %s could not be revoked: %s", ", ".join(ids[:3]), error)

    task = asyncio.get_running_loop().create_task(send(), name="asyncresult revoke")
    _revoking.add(task)
    task.add_done_callback(_revoking.discard)


# -- our own workers --------------------------------------------------------------------------------------


class Revocation:
    """The ear of one task: hears requests to revoke it, also those sent before. Made by whoever has the task.

    Args:
        worker: Who answers.
        abort: Called on the loop for each request with its ``terminate``; says whether that works, and details.
    """

    def __init__(self, backend: Backend, task_id: str, worker: str, abort: Callable[[bool], tuple[bool, str]]) -> None:
        self._backend = backend
        self._task_id = task_id
        self._worker = worker
        self._abort = abort
        self._heard: str | None = None  # requests are read again in each sweep
        self._engine = backend._engine()
        self._engine.waiters.add(backend.key_beside(task_id, "revoke"), task_id, self)
        _announce(backend, self._engine)

    def close(self) -> None:
        """Hear nothing any more. Harmless when repeated."""
        self._engine.waiters.discard(self._backend.key_beside(self._task_id, "revoke"), self)

    def _on_record(self, meta: TaskMeta) -> None:
        request = meta.result
        if meta.status != REVOKE or not isinstance(request, dict) or request.get("id") == self._heard:
            return
        self._heard = request.get("id")
        ok, detail = self._abort(bool(request.get("terminate")))
        if request.get("reply"):
            answer = {"worker": self._worker, "ok": ok, "detail": f"{self._task_id}: {detail}"}
            key = _reply_key(self._backend, self._task_id, str(self._heard))
            payload = self._backend.codec.encode(TaskMeta(task_id=self._task_id, status=REPLY, result=answer))
            self._engine.put(key, payload, REPLY_EXPIRES).add_done_callback(_log_failure)

    def _on_error(self, error: AsyncResultError) -> None:
        if not isinstance(error, BackendClosed):
            logger.warning("task %s cannot be revoked: %s", self._task_id, error)


async def _revoke_own(
    backend: Backend, ids: Sequence[str], *, terminate: bool, wait: bool, timeout: float | None
) -> list[Reply]:
    engine = backend._engine()
    request = {"id": uuid.uuid4().hex, "terminate": terminate, "reply": wait}
    replies = _Replies(backend, engine, ids if wait else (), str(request["id"]))
    try:
        sent = []
        for id in ids:
            payload = backend.codec.encode(TaskMeta(task_id=id, status=REVOKE, result=request))
            sent.append(engine.put(backend.key_beside(id, "revoke"), payload, REQUEST_EXPIRES))
        await asyncio.gather(*sent)
        return await replies.collect(timeout) if wait else []
    finally:
        replies.close()


class _Replies:
    """Collects the answers to one request."""

    def __init__(self, backend: Backend, engine: Engine, ids: Iterable[str], request: str) -> None:
        self._found: list[Reply] = []
        self._keys = {id: _reply_key(backend, id, request) for id in ids}
        self._missing = set(self._keys)
        self._table = engine.waiters
        self._all: asyncio.Future[None] = engine.loop.create_future()
        for id, key in self._keys.items():
            self._table.add(key, id, self)

    def _on_record(self, meta: TaskMeta) -> None:
        answer = meta.result
        if meta.status != REPLY or not isinstance(answer, dict):
            return
        reply = Reply(str(answer.get("worker")), bool(answer.get("ok")), str(answer.get("detail")))
        if reply not in self._found:  # published and read
            self._found.append(reply)
        self._missing.discard(meta.task_id)
        if not self._missing and not self._all.done():
            self._all.set_result(None)

    def _on_error(self, error: AsyncResultError) -> None:
        if not self._all.done():
            self._all.set_exception(error)

    async def collect(self, timeout: float | None) -> list[Reply]:
        await asyncio.wait([self._all], timeout=REPLY_TIMEOUT if timeout is None else timeout)
        if self._all.done():
            self._all.result()
        return self._found

    def close(self) -> None:
        if not self._all.cancel():
            self._all.exception()  # looked at, also when sending failed first
        for key in self._keys.values():
            self._table.discard(key, self)


_announced: weakref.WeakKeyDictionary[Engine, float] = weakref.WeakKeyDictionary()


def _announce(backend: Backend, engine: Engine) -> None:
    """Leave a sign that this backend has workers of ours; renewed long before it fades."""
    now = engine.loop.time()
    if now >= _announced.get(engine, now):
        _announced[engine] = now + PRESENCE_EXPIRES / 4
        engine.put(_presence_key(backend), b"1", PRESENCE_EXPIRES).add_done_callback(_log_failure)


def _presence_key(backend: Backend) -> bytes:
    return f"{backend.key_prefix}asyncresult-workers".encode()


def _reply_key(backend: Backend, task_id: str, request: str) -> bytes:
    return backend.key_beside(task_id, f"reply-{request}")


def _log_failure(future: asyncio.Future[None]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        logger.warning("control: %s", error)
