"""Reaching the worker that runs a task.

A backend only stores results. To revoke a task somebody must be reached who runs it: the ways are the
backend's ``controllers``, added by whoever knows one (the Celery integration), and our own workers, if there
are any. Without any way, revoking raises; it never pretends.

How our own workers are reached
-------------------------------

A request to revoke a task is a record under a key beside the task's own, and is published there. The worker that has
the task, from the moment it accepts it, is a listener for that key in the backend's table of waiters
(:mod:`._storage.waiters`), as a handle is for a result. So a request is lost no more than a result is: subscription,
acknowledgement, read; read again after an outage, and in each sweep. A request that comes before the task is found by
the read, and by the store of STARTED, which does nothing where the key exists.

The answer goes the same way back, under a key beside the task's that the request names.

That there are workers of ours at all is known by a key too: most backends only hold the results of Celery workers,
which would never see such a request. Workers renew the key with their tasks, and after each reconnect, since a server
that was restarted may have lost it. Where it is missing all the same (flushed, evicted), a request counts as delivered
once a worker has answered it.
"""

from __future__ import annotations

import asyncio
import functools
import re
import uuid
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from . import _background
from ._checks import check_task_id, check_timeout
from ._log import Log, get_logger
from ._storage.engine import Engine
from ._storage.keys import REVOKE as REVOKE_REQUEST
from ._storage.store import Store, engine_of
from ._stored_later import even_at_the_end, wait_at_the_end
from .errors import AsyncResultError, BackendClosed, BackendError, ResultDecodeError
from .meta import TaskMeta
from .states import READY_STATES

__all__ = [
    "Controller",
    "Reply",
    "Revocation",
    "revoke",
    "revoke_attended",
    "revoke_by_stamped_headers",
    "revoke_cancelled",
]

logger: Log = get_logger("asyncresult")

#: In place of a state, in requests and replies: custom states, which are never final.
REVOKE, REPLY = "REVOKE", "REPLY"
#: Seconds that a request is kept for a task that nobody has yet, and that our workers count as present.
REQUEST_EXPIRES = PRESENCE_EXPIRES = 86400.0
#: Seconds after which a worker that takes a task announces itself again: the key may be gone without a reconnect.
ANNOUNCE_INTERVAL = 60.0
#: Seconds after which a worker listens again for requests, where what lies in their place ended its listening.
LISTEN_AGAIN = 0.5
#: Seconds that a reply is kept: longer than any wait for it.
REPLY_EXPIRES = 60.0
#: Seconds to wait for replies by default. As Celery.
REPLY_TIMEOUT = 1.0
#: What requests are called: uuid4().hex. A worker writes its reply under a key that is made of it.
_REQUEST_ID = re.compile(r"[0-9a-f]{32}\Z")


@dataclass(frozen=True, slots=True)
class Reply:
    """One worker's answer.

    Attributes:
        worker: Who answered.
        ok: Whether it did what was requested.
        detail: What became of the request, in words.
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
    backend: Store,
    ids: Sequence[str],
    *,
    terminate: bool = False,
    signal: str | None = None,
    wait: bool = False,
    timeout: float | None = None,
) -> list[Reply]:
    """Request of every worker that can be reached not to run ``ids``.

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
        TypeError, ValueError: One of ``ids`` cannot be a task's id, or ``timeout`` no budget.
    """
    check_timeout(timeout)
    ids = [check_task_id(id) for id in ids]
    present = await engine_of(backend).exists(backend.workers_key())
    answers = [
        way.revoke(ids, terminate=terminate, signal=signal, wait=wait, timeout=timeout) for way in backend.controllers
    ]
    if present or not answers:
        answers.append(_revoke_own(backend, ids, terminate=terminate, wait=wait, timeout=timeout, present=present))
    return await _all(answers)


async def revoke_by_stamped_headers(
    backend: Store,
    headers: Mapping[str, Any],
    *,
    terminate: bool = False,
    signal: str | None = None,
    wait: bool = False,
    timeout: float | None = None,
) -> list[Reply]:
    """Request of every worker not to run tasks that carry one of these stamps. Otherwise as :func:`revoke`.

    Stamps are Celery's: the request does not go to our own workers, which know none.
    """
    check_timeout(timeout)
    answers = [
        way.revoke_by_stamped_headers(headers, terminate=terminate, signal=signal, wait=wait, timeout=timeout)
        for way in backend.controllers
    ]
    if not answers:
        raise _unreachable(backend)
    return await _all(answers)


async def _all(answers: Sequence[Awaitable[list[Reply]]]) -> list[Reply]:
    return [reply for replies in await asyncio.gather(*answers) for reply in replies]


def _unreachable(backend: Store) -> BackendError:
    return BackendError(
        f"nobody who runs tasks can be reached through {backend!r}: connect it to a Celery app"
        " (asyncresult[celery]), or run tasks with asyncresult's own Executor or track()"
    )


async def revoke_cancelled(backend: Store, ids: Sequence[str]) -> None:
    """Revoke without waiting, for code that is being cancelled. ``backend.aclose()`` waits for it within its bound.

    Where the event loop ends, and nobody closes the backend, this waits for it.
    """
    revoking = _background.start(backend, _revoke_unattended(backend, ids), name="revoke")
    await wait_at_the_end(backend, revoking)


async def revoke_attended(backend: Store, ids: Sequence[str]) -> None:
    """Revoke, and wait for that. If the caller is cancelled, or the backend closed, it goes on as in the background.

    Raises: as :func:`revoke`.
    """
    failure: Exception | None = None

    async def send() -> None:
        nonlocal failure
        try:
            await _revoke_even_at_the_end(backend, ids)
        except (asyncio.CancelledError, TimeoutError):
            failure = BackendClosed(f"{backend!r} was closed before tasks were revoked")
        except Exception as error:
            failure = error
        if failure is not None and not attended:
            _log_not_revoked(backend, ids, f": {failure}")

    attended = True
    sending = _background.start(backend, send(), name="revoke")
    try:
        await asyncio.wait([sending])
    except asyncio.CancelledError:
        attended = False
        await wait_at_the_end(backend, sending)
        raise
    if failure is not None:
        raise failure


async def _revoke_unattended(backend: Store, ids: Sequence[str]) -> None:
    try:
        await _revoke_even_at_the_end(backend, ids)
    except (asyncio.CancelledError, TimeoutError):
        _log_not_revoked(backend, ids, " before the backend was closed")
        raise
    except Exception as error:  # of a broker's client, too: it must not be lost in a task
        _log_not_revoked(backend, ids, f": {error}")


async def _revoke_even_at_the_end(backend: Store, ids: Sequence[str]) -> None:
    await even_at_the_end(backend, functools.partial(revoke, backend, ids))


def _log_not_revoked(backend: Store, ids: Sequence[str], why: str) -> None:
    about = {"event": "not revoked", "backend": str(backend)}
    logger.warning("tasks %s could not be revoked%s", ", ".join(ids[:3]), why, extra=about)


# -- our own workers --------------------------------------------------------------------------------------


class Revocation:
    """Listens for requests to revoke one task, including any sent before it was accepted. Made by who has the task.

    Args:
        worker: Who answers.
        abort: Called on the loop for each request with its ``terminate``; says whether that works, and details.
    """

    _follows: bool = False

    def __init__(self, backend: Store, task_id: str, worker: str, abort: Callable[[bool], tuple[bool, str]]) -> None:
        self._backend = backend
        self._task_id = task_id
        self._worker = worker
        self._abort = abort
        self._seen: str | None = None  # the last request: it is read again in each sweep
        self._engine = engine_of(backend)
        self._key = backend.key_beside(task_id, REVOKE_REQUEST)
        self._again: asyncio.TimerHandle | None = None
        self._engine.waiters.add(self._key, task_id, self)
        _announce(backend, self._engine)

    def close(self) -> None:
        """Stop listening. Harmless when repeated."""
        if self._again is not None:
            self._again.cancel()
        self._engine.waiters.discard(self._key, self)
        self._abort = _too_late  # no reference back to who has the task, and to what its function was called with

    def _listen_again(self, reason: object) -> None:
        """What is stored in place of a request has ended the wait, as a result does: a request may replace it."""
        if self._again is None:
            logger.warning(
                "task %s cannot be revoked until a request replaces what asyncresult did not write: %s",
                self._task_id,
                reason,
                extra=self._about("not revocable"),
            )
        self._again = self._engine.loop.call_later(LISTEN_AGAIN, self._listen)

    def _listen(self) -> None:
        if self._backend._serves(self._engine.waiters):
            self._engine.waiters.add(self._key, self._task_id, self)

    def _on_record(self, meta: TaskMeta) -> None:
        if meta.status in READY_STATES:
            self._listen_again(f"a record in the state {meta.status}")
            return
        request = meta.result
        if meta.status != REVOKE or not isinstance(request, dict):
            return
        id = request.get("id")
        if not (isinstance(id, str) and _REQUEST_ID.match(id)):
            text = "task %s: a request to revoke it is ignored, as asyncresult did not write it"
            logger.warning(text, self._task_id, extra=self._about("request ignored"))
            return
        if id == self._seen:
            return
        self._seen = id
        ok, detail = self._abort(request.get("terminate") is True)
        if request.get("reply") is True:
            answer = {"worker": self._worker, "ok": ok, "detail": f"{self._task_id}: {detail}"}
            payload = self._backend.codec.encode(TaskMeta(task_id=self._task_id, status=REPLY, result=answer))
            sent = self._engine.put(self._backend.reply_key(self._task_id, id), payload, REPLY_EXPIRES)
            about = self._about("not sent")
            sent.add_done_callback(
                functools.partial(_background.log_failure, what="a reply could not be sent", about=about)
            )

    def _follower(self) -> None:
        """Requests are stored in no final state."""

    def _on_error(self, error: AsyncResultError) -> None:
        if isinstance(error, ResultDecodeError):
            self._listen_again(error)
        elif not isinstance(error, BackendClosed):
            logger.warning("task %s cannot be revoked: %s", self._task_id, error, extra=self._about("not revocable"))

    def _about(self, event: str) -> dict[str, str]:
        return {"event": event, "backend": str(self._backend), "task_id": self._task_id}


def _too_late(terminate: bool) -> tuple[bool, str]:
    return False, "over"


async def _revoke_own(
    backend: Store, ids: Sequence[str], *, terminate: bool, wait: bool, timeout: float | None, present: bool
) -> list[Reply]:
    """Send the request. Unless workers are ``present`` it is withdrawn if none of them answers."""
    engine = engine_of(backend)
    request = {"id": uuid.uuid4().hex, "terminate": terminate, "reply": wait or not present}
    replies = _Replies(backend, engine, ids if request["reply"] else (), str(request["id"]))
    keys = [backend.key_beside(id, REVOKE_REQUEST) for id in ids]
    try:
        sent = []
        for id, key in zip(ids, keys, strict=True):
            payload = backend.codec.encode(TaskMeta(task_id=id, status=REVOKE, result=request))
            sent.append(engine.put(key, payload, REQUEST_EXPIRES))
        await asyncio.gather(*sent)
        if present:
            return await replies.collect(timeout) if wait else []
        if ids and not await replies.first():
            await engine.delete(keys)
            raise _unreachable(backend)
        return await replies.collect(timeout) if wait else []
    finally:
        replies.close()


class _Replies:
    """Collects the answers to one request."""

    _follows: bool = False

    def __init__(self, backend: Store, engine: Engine, ids: Iterable[str], request: str) -> None:
        self._found: list[Reply] = []
        self._keys = {id: backend.reply_key(id, request) for id in ids}
        self._missing = set(self._keys)
        self._table = engine.waiters
        self._all: asyncio.Future[None] = engine.loop.create_future()
        self._any = asyncio.Event()
        for id, key in self._keys.items():
            self._table.add(key, id, self)

    def _on_record(self, meta: TaskMeta) -> None:
        answer = meta.result
        if meta.status != REPLY or not isinstance(answer, dict):
            return
        reply = Reply(str(answer.get("worker")), bool(answer.get("ok")), str(answer.get("detail")))
        if reply not in self._found:  # published and read
            self._found.append(reply)
            self._any.set()
        self._missing.discard(meta.task_id)
        if not self._missing and not self._all.done():
            self._all.set_result(None)

    def _follower(self) -> None:
        """Answers are stored in no final state."""

    def _on_error(self, error: AsyncResultError) -> None:
        if not self._all.done():
            self._all.set_exception(error)

    async def first(self) -> bool:
        """Whether anybody answers within a moment."""
        try:
            async with asyncio.timeout(REPLY_TIMEOUT):
                await self._any.wait()
        except TimeoutError:
            pass
        return bool(self._found)

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


def _announce(backend: Store, engine: Engine) -> None:
    """Say that this backend has workers of ours, unless that was said a moment ago."""
    now = engine.loop.time()
    last = _announced.get(engine)
    if last is None:
        engine.waiters.on_connected = functools.partial(_announce_now, backend, weakref.ref(engine))
    if last is None or now >= last + ANNOUNCE_INTERVAL:
        _announce_now(backend, weakref.ref(engine))


def _announce_now(backend: Store, engine_ref: weakref.ref[Engine]) -> None:
    engine = engine_ref()
    if engine is not None:
        _announced[engine] = engine.loop.time()
        sent = engine.put(backend.workers_key(), b"1", PRESENCE_EXPIRES)
        about = {"event": "not sent", "backend": str(backend)}
        sent.add_done_callback(
            functools.partial(_background.log_failure, what="workers could not be announced", about=about)
        )
