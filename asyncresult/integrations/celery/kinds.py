"""Which kind of result backend an app has, recognised by its class: nothing is made, and nothing is connected."""

from __future__ import annotations

from typing import Any

from celery.app.backends import by_url
from celery.backends.base import DisabledBackend
from celery.backends.redis import RedisBackend
from celery.backends.rpc import RPCBackend
from celery.exceptions import ImproperlyConfigured

__all__ = ["backend_class", "is_polled"]


def backend_class(app: Any) -> tuple[Any, str | None]:
    """What Celery makes of ``result_backend``: the class, or a function in its place, and the URL.

    Raises:
        ValueError: Its package cannot be imported.
    """
    chosen = app.backend_cls or app.conf.result_backend
    try:
        found: tuple[Any, str | None] = by_url(chosen, app.loader)
    except (ImportError, ImproperlyConfigured) as error:
        if chosen is None or "://" not in str(chosen):
            return None, None
        raise ValueError(f"{app!r} cannot be connected: its result_backend cannot be imported: {error}") from error
    return found


def is_polled(cls: Any) -> bool:
    """Whether results in this class of backend have to be read again and again: whatever is not Redis or rpc://."""
    return isinstance(cls, type) and not issubclass(cls, (RedisBackend, RPCBackend, DisabledBackend))
