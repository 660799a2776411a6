"""The result backend for Celery's settings: ``result_backend = "asyncresult+redis://…"``.

Everything that is stored, and everything that workers do, is Celery's own code. Only waiting is ours: no
subscription is made when a task is sent, and who waits, in whatever thread, waits on the one connection of
the process (:mod:`.._portal`). So the bytes are Celery's by construction, and the switch is the URL alone.
"""

from __future__ import annotations

from asyncio.events import _get_running_loop
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..._locks import ProcessLock
from ...backend import Backend
from .config import make_backend, once
from .memory import StoredInMemory
from .rpc import RpcResultBackend, replies_of
from .settings import UnknownBackendURL
from .waiting import Waiting

if TYPE_CHECKING:
    from .._untyped import Untyped as RedisBackend
    from .._untyped import Untyped as SentinelBackend
else:
    from celery.backends.redis import RedisBackend, SentinelBackend

__all__ = ["MemoryResultBackend", "ResultBackend", "SentinelResultBackend", "result_backend", "sending", "sent"]


def result_backend(*, app: Any, url: str | None = None, **options: Any) -> Any:
    """What Celery calls for ``asyncresult+<url>``.

    Args:
        url: What comes after the first ``+``: ``redis://``, ``rediss://``, ``socket://`` (also as
            ``redis+socket://``), ``sentinel://``, ``rpc://``, or ``memory://`` for tests.

    Raises:
        ValueError: It is something else.
    """
    if not url or "://" not in url:
        raise UnknownBackendURL(
            'result_backend = "asyncresult" says how to wait, but not where results are: write'
            ' "asyncresult+redis://host:port/db" (or asyncresult+rediss://, asyncresult+redis+socket://,'
            " asyncresult+sentinel://)"
        )
    url = url.removeprefix("redis+")
    scheme = url.partition("://")[0]
    if scheme == "rpc":
        replies_of(app, make_backend)
        return RpcResultBackend(app=app, url=url, **options)
    if scheme == "memory":
        return MemoryResultBackend(app=app, url=url, **options)
    if scheme == "sentinel":
        return SentinelResultBackend(app=app, url=url, **options)
    if scheme in ("redis", "rediss", "socket"):
        return ResultBackend(app=app, url=url, **options)
    raise UnknownBackendURL(
        f"asyncresult+{scheme}:// is not known; known are redis, rediss, redis+socket, sentinel, rpc and memory"
    )


class _OnOwnBackend(Waiting):
    """Waiting on a backend of ours that is made from the app's configuration."""

    @property
    def _awaited(self) -> Backend:
        app: Any = self.app  # type: ignore[attr-defined]
        backend: Backend = once(app, "_asyncresult_waiting", lambda: make_backend(app))
        return backend


class ResultBackend(_OnOwnBackend, RedisBackend):
    """Celery's Redis backend, but for waiting."""


class SentinelResultBackend(_OnOwnBackend, SentinelBackend):
    """Celery's Sentinel backend, but for waiting."""


class MemoryResultBackend(_OnOwnBackend, StoredInMemory):  # pyright: ignore[reportIncompatibleMethodOverride]
    """Results in this process, for tests: Celery's half stores, and ours waits."""


class _Sender(_OnOwnBackend):
    """In place of a thread's backend while a task is sent."""

    app: Any


@contextmanager
def sending(app: Any, *, always: bool = False) -> Generator[None]:
    """Have Celery send, in this thread, through a backend that makes no subscriptions.

    Celery subscribes to each task that is sent, in the name of a ``get()`` that may follow. Who awaits the result needs
    no such subscription, and nobody would read what comes by it. It is one backend for all threads, where Celery's own
    would open connections in each thread that sends a chord.

    Args:
        always: Also where no event loop runs. By default sending from blocking code is left as it is.
    """
    if not always and _get_running_loop() is None:
        yield
        return
    _make_pool(app)
    backend = app.backend
    if isinstance(backend, Waiting) or app._backend_cache is not None or not isinstance(backend, RedisBackend):
        yield  # it is ours, or its user wants one for all threads, or it is of another kind
        return

    def make() -> Any:
        return type("SendingBackend", (_Sender, type(backend)), {})(app=app, url=backend.url)

    app._local.backend = once(app, "_asyncresult_sender", make)
    try:
        yield
    finally:
        app._local.backend = backend


def sent(result: Any) -> Any:
    """A result that was made while :func:`sending`: from now on it has the backend of this thread, as Celery's own."""
    backend = getattr(result, "backend", None)
    if isinstance(backend, _Sender):
        result.backend = backend.app.backend
    return result


_pools = ProcessLock()


def _make_pool(app: Any) -> None:
    """Have the app make its connections to the broker, in one of the threads that send first: two would make two."""
    if "_asyncresult_pool" in vars(app):
        return
    _ = app.conf.broker_url  # configures the app, which may run code of its own that sends: before the lock is taken
    with _pools():
        once(app, "_asyncresult_pool", lambda: app.producer_pool)
