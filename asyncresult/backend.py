"""Where records are stored and announced: :func:`connect` picks the kind by the URL.

:mod:`.base` says what a backend is; each other module is one kind.
"""

from __future__ import annotations

import os
from typing import Any

from ._extensions import integration_for
from ._storage.store import Backend, entered_backend

__all__ = ["connect", "current_backend"]

URL_VARIABLE = "ASYNCRESULT_URL"
_SINGLE_SERVER = ("redis", "rediss", "unix", "valkey", "valkeys", "valkey+unix", "redis+socket")
_SENTINEL = ("sentinel", "sentinels")
_CLUSTER = ("redis+cluster", "rediss+cluster", "valkey+cluster", "valkeys+cluster")
KNOWN_SCHEMES = (*_SINGLE_SERVER, *_SENTINEL, *_CLUSTER, "memory")

_default: Backend | None = None


def connect(url: Any = None, **options: Any) -> Backend:
    """Make a backend. Nothing is connected before it is used.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://``, ``valkey://``, ``valkeys://``, ``sentinel://``,
            ``sentinels://``, ``redis+cluster://``, ``rediss+cluster://`` or ``memory://``. None is
            ``$ASYNCRESULT_URL``, or else ``memory://``. Or an application of an installed integration: a
            Celery app gives the backend of its own configuration.
        options: Those of :class:`Backend`, and of the connections (docs/reference/options.md); nearly all may
            stand in the URL's query, too.

    Returns:
        The backend: ``async with connect(url):`` makes it the current one and closes it at the end.

    Raises:
        TypeError: Neither a URL nor an application that an integration knows.
        ValueError: Unknown scheme or option, or a value that makes no sense. Names the known ones; holds no
            secret.
    """
    if url is None:
        url = os.environ.get(URL_VARIABLE) or "memory://"
    if not isinstance(url, str):
        backend: Backend = integration_for(url).connect(url, **options)
        return backend
    scheme, separator, rest = url.partition("://")
    if scheme in _SINGLE_SERVER and separator:
        from ._redis.engine import RedisBackend  # not before it is needed: redis-py takes long to import

        return RedisBackend(url, **options)
    if scheme in _SENTINEL and separator:
        from ._redis.sentinel import SentinelBackend

        return SentinelBackend(url, **options)
    if scheme in _CLUSTER and separator:
        from ._redis.cluster import ClusterBackend

        return ClusterBackend(url, **options)
    if scheme == "memory" and separator:
        from ._storage.memory import MemoryBackend

        return MemoryBackend.from_url(rest, options)
    known = ", ".join(f"{known}://" for known in KNOWN_SCHEMES)
    named = f"scheme {scheme!r}" if separator else "a text without scheme"
    raise ValueError(f"a backend's URL begins with one of {known}; not with {named}")


def current_backend() -> Backend:
    """The backend that the innermost ``connect()`` block entered; else one for ``$ASYNCRESULT_URL``.

    Raises:
        RuntimeError: No block is entered, and the variable is not set.
    """
    backend = entered_backend()
    if backend is not None:
        return backend
    global _default
    if _default is None:
        if not os.environ.get(URL_VARIABLE):
            raise RuntimeError(
                f"no backend: enter 'async with asyncresult.connect(url):', pass backend=, or set ${URL_VARIABLE}"
            )
        _default = connect()
    return _default
