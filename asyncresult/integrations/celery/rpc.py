"""``rpc://``: results that come as messages, to the process that sent the task.

Celery's workers send each state of a task to the queue that its request names (``reply_to``). Here that is one queue
of the process, whatever thread sends; a :class:`.receiver.Receiver` takes what comes, and puts it into records in the
memory of the process. From there on it is a backend like any other: who waits, on any event loop, and who reads later,
is served by the records (:mod:`..._storage.memory`). Every state is a message of its own, so the records have the
history of each task too, and ``updates(since=…)`` misses nothing.

How every send comes to name our queue: Celery reads it from ``app._local.oid``, in ``send_task()`` and when a signature
is frozen. :class:`_Local` is there instead of Celery's object.

Source: celery/backends/rpc.py, celery/app/base.py (``thread_oid``), celery/canvas.py (``freeze``), 5.5 to 5.7.
"""

from __future__ import annotations

import threading
from asyncio import sleep
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from celery.app.backends import by_url

from ..._locks import ProcessLock
from ..._log import Log, get_logger
from ..._storage.engine import BackendStats, Engine
from ..._storage.keys import HISTORY
from ..._storage.memory import MemoryEngine
from ..._storage.store import Driver, Store
from ...backend import Backend
from ...errors import BackendError
from ...meta import stored_fields
from ...probe import Source
from .receiver import ADDRESS
from .replies import Replies
from .waiting import Waiting

if TYPE_CHECKING:
    from .._untyped import Untyped as RPCBackend
else:
    from celery.backends.rpc import RPCBackend

__all__ = ["RpcBackend", "RpcResultBackend", "is_rpc", "replies_of", "watch"]

logger: Log = get_logger("asyncresult.rpc")

_making = ProcessLock()


# -- the app ------------------------------------------------------------------------------------------------


class _Local(threading.local):
    """In place of ``app._local``, where Celery keeps the name of the reply queue and the backend of each thread.

    For an app whose results do not come by ``rpc://`` it does what any ``threading.local`` does.
    """

    def __init__(self, app: Any, make_backend: Callable[[Any], Backend]) -> None:
        self.app = app
        self._make_backend = make_backend

    #: What is_rpc() says, while something is sent: it reads a setting, which takes long in Celery (benchmarks: send).
    is_rpc: bool | None = None

    def _replies(self) -> Replies | None:
        if is_rpc(self.app) if self.is_rpc is None else self.is_rpc:
            try:
                return replies_of(self.app, self._make_backend)
            except ValueError:  # we cannot read what its workers send: who connects or awaits gets that error
                pass
        return None

    @property
    def oid(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]  # it may change, so is not cached
        replies = self._replies()
        if replies is not None:
            return replies.queue
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
        if self._replies() is not None:
            return self.app._backend_cache
        return self.__dict__.get("backend")

    @backend.setter
    def backend(self, backend: Any) -> None:
        self.__dict__["backend"] = backend


def is_rpc(app: Any) -> bool:
    """Whether the results of an app come as messages, whatever name its settings have for that."""
    chosen = app.backend_cls or app.conf.result_backend
    scheme, separator, _ = chosen.partition("://") if isinstance(chosen, str) else ("", "", "")
    if separator and scheme not in app.loader.override_backends:
        return scheme in ("rpc", "asyncresult+rpc")
    try:
        found, url = by_url(chosen, app.loader)
    except ImportError:
        return False
    return issubclass(found, RPCBackend) if isinstance(found, type) else str(url).startswith("rpc://")


@contextmanager
def settled(app: Any) -> Generator[None]:
    """Take the kind of result backend, in this thread, as it is now: it is looked up a dozen times for each task."""
    local = app._local
    if not isinstance(local, _Local) or local.is_rpc is not None:
        yield
        return
    local.is_rpc = is_rpc(app)
    try:
        yield
    finally:
        local.is_rpc = None


def watch(app: Any, make_backend: Callable[[Any], Backend]) -> None:
    """See to it that what is sent before :func:`connect` names our queue, too, if the app's results come by rpc.

    Args:
        make_backend: Makes an :class:`RpcBackend` for the app.
    """
    with _making():
        if not isinstance(app._local, _Local):
            before = getattr(app._local, "backend", None)
            app._local = _Local(app, make_backend)
            if before is not None and not is_rpc(app):
                app._local.backend = before


def replies_of(app: Any, make_backend: Callable[[Any], Backend]) -> Replies:
    """The replies of an app with ``rpc://``. From now on all that it sends, in any thread, names their queue.

    Args:
        make_backend: Makes an :class:`RpcBackend` for the app.

    Raises:
        ValueError: What ``make_backend`` raises.
    """
    replies: Replies | None = getattr(app, "_asyncresult_replies", None)
    if replies is None or replies.rules is None:
        with _making():
            replies = getattr(app, "_asyncresult_replies", None)
            if replies is None:  # else another thread has made them meanwhile, or make_backend() needs them here
                replies = app._asyncresult_replies = Replies(app, make_backend)
                try:
                    make_backend(app)
                except BaseException:
                    del app._asyncresult_replies
                    raise
                watch(app, make_backend)
                if not isinstance(app._backend_cache, RpcResultBackend):
                    app._backend_cache = RpcResultBackend(app=app)
    return replies


# -- the backend --------------------------------------------------------------------------------------------


class RpcDriver(Driver):
    """Records of what came to this process."""

    keeps_notes = False

    def __init__(self, replies: Replies) -> None:
        self.replies = replies

    def start_engine(self, store: Store) -> Engine:
        return RpcEngine(store, self.replies)

    def __str__(self) -> str:
        return ADDRESS


class RpcBackend(Backend):
    """The results of an app whose ``result_backend`` is ``rpc://``. Made by ``asyncresult.connect(app)``.

    Results come to the process that sent the task, and to no other. They are kept in its memory, each until it has
    expired or, once it was read, ten thousand others have been.

    Args:
        replies: What comes for the app.
        reply_expires: Seconds that the process may be cut off from the broker: so long it keeps what comes meanwhile.
            1800 by default.
        reply_queue: A fixed name for the queue, which one process may use; started again it finds there what has come
            meanwhile. By default each process has a queue of its own, which is deleted when it ends.
        max_unread: Results that nobody has read; beyond that the oldest are dropped, with a warning. 100,000 by
            default.
        options: See :class:`asyncresult.Backend`.

    Raises:
        ValueError: An option is invalid; or reply_expires or reply_queue come after the queue was made.
    """

    def __init__(
        self,
        replies: Replies,
        *,
        reply_expires: float | None = None,
        reply_queue: str | None = None,
        max_unread: int | None = None,
        **options: Any,
    ) -> None:
        self.replies = replies
        super().__init__(RpcDriver(replies), **options)
        replies.configure(self, reply_expires, reply_queue, max_unread)

    def _store(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise BackendError("rpc:// stores nothing: only the worker that got a task can reply to its sender")

    def _bulk(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._store()

    def track(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not with ``rpc://``: only the worker that got a task can reply. Raises BackendError."""
        self._store()


class RpcEngine(MemoryEngine):
    """One loop's view of the replies."""

    _origin: ClassVar[Source] = "pushed"

    def __init__(self, backend: Store, replies: Replies) -> None:
        super().__init__(backend, replies.records)
        self.replies = replies
        self._task_of = backend.task_of
        self._safety_interval = backend.safety_interval
        # When a wait began for a task that this process has not sent.
        self._strangers: dict[bytes, float] = {}
        self._warned = False
        self.replies.receiver.start()

    def subscribe(self, keys: list[bytes]) -> None:
        super().subscribe(keys)
        now = self.loop.time()
        for key in keys:
            if not self.replies.expects(self._task_of(key)):
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
                    self._warn(self._task_of(key))
                    break

    def _warn(self, task_id: str) -> None:
        self._warned = True
        logger.warning(
            "nothing has come for task %s, which was not sent from here. rpc:// results reach only the process that"
            " sent the task (or the chain or group that it is of): any other waits in vain",
            task_id,
            extra={"event": "unknown task", "backend": ADDRESS, "task_id": task_id},
        )

    def stats(self) -> BackendStats:
        receiver = self.replies.receiver
        return BackendStats(
            connected=receiver.connected,
            reconnects=receiver.reconnects,
            **self.waiters.counts(),
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
        while receiver.running and self.loop.time() < deadline:  # noqa: ASYNC110 - a thread sets no event of a loop
            await sleep(0.01)


# -- Celery's side ------------------------------------------------------------------------------------------


class RpcResultBackend(Waiting, RPCBackend):
    """Celery's rpc backend, but for receiving and waiting. It serves all threads."""

    def __init__(self, app: Any, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self._replies: Replies = app._asyncresult_replies

    @property
    def _awaited(self) -> Backend:
        return self._replies.waiting

    @property
    def oid(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]  # it may change, so is not cached
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
        self._replies.records.delete([backend.task_key(task_id), backend.key_beside(task_id, HISTORY)])
