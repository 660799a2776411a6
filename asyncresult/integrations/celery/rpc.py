"""``rpc://``: results that come as messages, to the process that sent the task.

Celery's workers send each state of a task to the queue that its request names (``reply_to``). Here that is one queue
of the process, whatever thread sends; a :class:`.receiver.Receiver` takes what comes, and puts it into records in the
memory of the process. From there on it is a backend like any other: who waits, on any event loop, and who asks later,
is served by the records (:mod:`..._storage.memory`). Every state is a message of its own, so the records have the
history of each task too, and ``updates(since=…)`` misses nothing.

How every send comes to name our queue: Celery asks ``app._local.oid`` for it, in ``send_task()`` and when a signature
is frozen. :class:`_Local` stands there instead of Celery's object.

Source: celery/backends/rpc.py, celery/app/base.py (``thread_oid``), celery/canvas.py (``freeze``), 5.5 to 5.7.
"""

from __future__ import annotations

import logging
import os
import threading
from asyncio import sleep
from typing import Any, ClassVar, NoReturn

from celery.backends.rpc import RPCBackend

from ..._storage.memory import MemoryBackend, MemoryEngine
from ..._storage.store import BackendStats, Engine
from ...errors import BackendError
from ...meta import stored_fields
from .backend import Waiting
from .config import kind_of_backend
from .replies import Replies

__all__ = ["RpcBackend", "RpcResultBackend", "replies_of", "watch"]

logger = logging.getLogger("asyncresult.rpc")

_making = threading.RLock()


def _after_fork_in_child() -> None:
    global _making
    _making = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


# -- the app ------------------------------------------------------------------------------------------------


class _Local(threading.local):
    """In place of ``app._local``, where Celery keeps the name of the reply queue and the backend of each thread.

    For an app whose results do not come by ``rpc://`` it does what any ``threading.local`` does.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    @property
    def oid(self) -> str:
        if kind_of_backend(self.app) == "rpc":
            return replies_of(self.app).queue
        try:
            name: str = self.__dict__["oid"]
        except KeyError:
            raise AttributeError("oid") from None
        return name

    @oid.setter
    def oid(self, name: str) -> None:
        self.__dict__["oid"] = name

    @property
    def backend(self) -> Any:
        if kind_of_backend(self.app) == "rpc":
            replies_of(self.app)
            return self.app._backend_cache
        return self.__dict__.get("backend")

    @backend.setter
    def backend(self, backend: Any) -> None:
        self.__dict__["backend"] = backend


def watch(app: Any) -> None:
    """See to it that what is sent before :func:`connect` names our queue, too, if the app's results come by rpc."""
    with _making:
        if not isinstance(app._local, _Local):
            app._local = _Local(app)


def replies_of(app: Any) -> Replies:
    """The replies of an app with ``rpc://``. From now on all that it sends, in any thread, names their queue."""
    replies: Replies | None = getattr(app, "_asyncresult_replies", None)
    if replies is None:
        with _making:
            replies = getattr(app, "_asyncresult_replies", None)
            if replies is None:
                replies = app._asyncresult_replies = Replies(app)
                watch(app)
                if not isinstance(app._backend_cache, RpcResultBackend):
                    app._backend_cache = RpcResultBackend(app=app)
    return replies


# -- the backend --------------------------------------------------------------------------------------------


class RpcBackend(MemoryBackend):
    """The results of an app whose ``result_backend`` is ``rpc://``. Made by ``asyncresult.connect(app)``.

    Results come to the process that sent the task, and to no other. They are kept in its memory, each until it has
    expired or, once it was read, ten thousand others have been.

    Args:
        app: The Celery app.
        reply_expires: Seconds that the process may be cut off from the broker: so long it keeps what comes meanwhile.
        reply_queue: A fixed name for the queue, which one process may use; started again it finds there what has come
            meanwhile. By default each process has a queue of its own, which is deleted when it ends.
        max_unread: Results that nobody has read; beyond that the oldest are dropped, with a warning.
        options: See :class:`Backend`.

    Raises:
        ValueError: An option makes no sense; or reply_expires or reply_queue come after the queue was made.
    """

    scheme: ClassVar[str] = "rpc"

    def __init__(
        self,
        app: Any,
        *,
        reply_expires: float | None = None,
        reply_queue: str | None = None,
        max_unread: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.replies = replies_of(app)
        self.records = self.replies.records
        self.replies.configure(self, reply_expires, reply_queue, max_unread)

    def _start_engine(self) -> Engine:
        return RpcEngine(self)

    def _store(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise BackendError("rpc:// stores nothing: only the worker that got a task can reply to who sent it")

    def track(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not with ``rpc://``: only the worker that got a task can reply. Raises BackendError."""
        self._store()

    def __str__(self) -> str:
        return "rpc://"


class RpcEngine(MemoryEngine):
    """One loop's view of the replies."""

    def __init__(self, backend: RpcBackend) -> None:
        super().__init__(backend)
        self.replies = backend.replies
        self._safety_interval = backend.safety_interval
        # When a wait began for a task that this process has not sent.
        self._strangers: dict[bytes, float] = {}
        self._warned = False
        self._task_id = len(backend.task_key(""))
        self.replies.receiver.start()

    def subscribe(self, keys: list[bytes]) -> None:
        super().subscribe(keys)
        now = self.loop.time()
        for key in keys:
            if not self.replies.expects(self._id(key)):
                self._strangers[key] = now

    def unsubscribe(self, keys: list[bytes]) -> None:
        super().unsubscribe(keys)
        for key in keys:
            self._strangers.pop(key, None)

    def fetch(self, keys: list[bytes]) -> None:
        super().fetch(keys)
        if self._strangers and not self._warned:
            long_ago = self.loop.time() - self._safety_interval
            for key in keys:
                if self._strangers.get(key, long_ago) < long_ago and self.replies.records.peek(key) is None:
                    self._warn(self._id(key))
                    break

    def _warn(self, task_id: str) -> None:
        self._warned = True
        logger.warning(
            "nothing has come for task %s, which was not sent from here. rpc:// results reach only the process that"
            " sent the task (or the chain or group that it is of): any other waits in vain",
            task_id,
            extra={"event": "unknown task", "task_id": task_id},
        )

    def _id(self, key: bytes) -> str:
        return key[self._task_id :].decode()

    def stats(self) -> BackendStats:
        receiver, table = self.replies.receiver, self.waiters
        return BackendStats(
            connected=receiver.connected,
            pending=table.pending,
            subscribed=table.subscribed,
            reconnects=receiver.reconnects,
            sweeps=table.sweeps,
            decode_errors=table.decode_errors,
            last_error=receiver.last_error,
            received=receiver.received,
            refused=self.replies.refused,
        )

    @property
    def last_error(self) -> str | None:
        return self.replies.receiver.last_error

    async def aclose(self, timeout: float) -> None:
        """The queue stays, for who connects again: what comes meanwhile waits in it."""
        await super().aclose(timeout)
        if any(not engine.loop.is_closed() for engine in self.replies.records.engines()):
            return
        receiver = self.replies.receiver
        receiver.stop()
        deadline = self.loop.time() + timeout
        while receiver.running and self.loop.time() < deadline:
            await sleep(0.01)


# -- Celery's side ------------------------------------------------------------------------------------------


class RpcResultBackend(Waiting, RPCBackend):  # type: ignore[misc]
    """Celery's rpc backend, but for receiving and waiting. It serves all threads."""

    def __init__(self, app: Any, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self._replies = replies_of(app)

    @property
    def oid(self) -> str:
        return self._replies.queue

    def on_task_call(self, producer: Any, task_id: str) -> None:
        self._replies.expect(producer.channel, task_id)

    def get_task_meta(self, task_id: str, *_: object, **__: object) -> Any:
        """The record as it is now; PENDING where nothing has come."""
        backend = self._awaited
        payload = self._replies.records.get(backend.task_key(task_id))
        meta = backend.codec.decode(task_id, payload or b"")
        return self.meta_from_decoded(stored_fields(meta))

    poll = get_task_meta

    def _forget(self, task_id: str) -> None:
        backend = self._awaited
        self._replies.records.delete([backend.task_key(task_id), backend.key_beside(task_id, "history")])
