"""The result backend for Celery's settings: ``result_backend = "asyncresult+redis://…"``.

Everything that is stored, and everything that workers do, is Celery's own code. Only waiting is ours: no
subscription is made when a task is sent, and who waits, in whatever thread, waits on the one connection of
the process (:mod:`.._portal`). So the bytes are Celery's by construction, and the switch is the URL alone.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from celery.backends.redis import RedisBackend, SentinelBackend

from ...backend import Backend
from .config import make_backend, once
from .rpc import RpcResultBackend, replies_of
from .waiting import Waiting

__all__ = ["ResultBackend", "SentinelResultBackend", "result_backend", "sending"]


def result_backend(*, app: Any, url: str, **options: Any) -> Any:
    """What Celery calls for ``asyncresult+<url>``.

    Args:
        url: What stands behind the first ``+``: ``redis://``, ``rediss://``, ``socket://`` (also as
            ``redis+socket://``), ``sentinel://`` or ``rpc://``.

    Raises:
        ValueError: It is something else.
    """
    if not url or "://" not in url:
        raise ValueError(
            'result_backend = "asyncresult" says how to wait, but not where results are: write'
            ' "asyncresult+redis://host:port/db" (or asyncresult+rediss://, asyncresult+redis+socket://,'
            " asyncresult+sentinel://)"
        )
    url = url.removeprefix("redis+")
    scheme = url.partition("://")[0]
    if scheme == "rpc":
        replies_of(app, make_backend)
        return RpcResultBackend(app=app, url=url, **options)
    if scheme == "sentinel":
        return SentinelResultBackend(app=app, url=url, **options)
    if scheme in ("redis", "rediss", "socket"):
        return ResultBackend(app=app, url=url, **options)
    raise ValueError(f"asyncresult+{scheme}:// is not known; known are redis, rediss, redis+socket, sentinel and rpc")


class _OnRedis(Waiting):
    """Waiting for records in Redis."""

    @property
    def _awaited(self) -> Backend:
        app: Any = self.app  # type: ignore[attr-defined]
        backend: Backend = once(app, "_asyncresult_waiting", lambda: make_backend(app))
        return backend


class ResultBackend(_OnRedis, RedisBackend):  # type: ignore[misc]
    """Celery's Redis backend, but for waiting."""


class SentinelResultBackend(_OnRedis, SentinelBackend):  # type: ignore[misc]
    """Celery's Sentinel backend, but for waiting."""


@contextmanager
def sending(app: Any) -> Generator[None]:
    """Have Celery send, in this thread, through a backend that makes no subscriptions.

    Nobody needs one that is made at send time: a handle subscribes when it is awaited, and Celery's own
    ``get()`` subscribes once more. It is one backend for all threads, where Celery's own would open connections
    in each thread that sends a chord.
    """
    once(app, "_asyncresult_pool", lambda: app.producer_pool)  # two threads would make two
    backend = app.backend
    if isinstance(backend, Waiting) or app._backend_cache is not None or not isinstance(backend, RedisBackend):
        yield  # it is ours, or its user wants one for all threads, or it is of another kind
        return

    def make() -> Any:
        return type("SendingBackend", (_OnRedis, type(backend)), {})(app=app, url=backend.url)

    app._local.backend = once(app, "_asyncresult_sender", make)
    try:
        yield
    finally:
        app._local.backend = backend
