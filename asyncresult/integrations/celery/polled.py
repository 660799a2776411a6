"""Backends for whatever is neither Redis nor rpc://: databases, caches, files, objects, read at a measured pace.

What is read is bytes (:mod:`.readers`), so the rules of our codec hold: no pickle, no bomb, no constructor. What is
written goes through Celery's own backend, on the reader's thread.
"""

from __future__ import annotations

import functools
from typing import Any

from celery.exceptions import ImproperlyConfigured
from celery.utils.time import maybe_timedelta
from kombu.utils.url import maybe_sanitize_url

from ..._storage.polled import PolledDriver
from ...codec.codec import Codec
from ...errors import BackendError
from .readers import Reader, reader_for

__all__ = ["make_driver"]

#: Arguments of a driver; all others are the backend's own.
_DRIVER_OPTIONS = ("min_interval", "max_interval", "share", "readers")


def make_driver(app: Any, cls: type, url: str | None, options: dict[str, Any]) -> PolledDriver:
    """The driver for a Celery backend of this class, and its options, which are taken out of ``options``.

    Raises:
        ValueError: An option is invalid.
    """
    chosen = {name: options.pop(name) for name in _DRIVER_OPTIONS if name in options}
    open_records = functools.partial(_open_records, app)
    address = _address(app, cls)
    from . import postgres  # here, not above: it builds on this one's reader

    if (dsn := postgres.find_dsn(app, cls, url)) is not None:
        table, schema = postgres.table_of(app, cls)
        listen_dsn = options.pop("listen_dsn", None) or dsn
        return postgres.PostgresDriver(
            open_records, address, listen_dsn=listen_dsn, table=table, schema=schema, **chosen
        )
    if "listen_dsn" in options:
        raise ValueError(f"listen_dsn is for results in PostgreSQL, with psycopg 3 installed; not for {address}")
    return PolledDriver(open_records, address, **chosen)


def expires_of(app: Any) -> float | None:
    """Celery's ``result_expires`` in seconds, where the store keeps to it."""
    expires: Any = maybe_timedelta(app.conf.result_expires)  # typed as if None came never out
    return expires.total_seconds() if expires is not None else None


def _open_records(app: Any, codec: Codec) -> Reader:
    """Called on the reader's thread: Celery makes a backend for each thread."""
    try:
        return reader_for(app.backend, codec)
    except (ImproperlyConfigured, ImportError) as error:
        raise BackendError(f"Celery cannot open its result backend: {error}") from error


def _address(app: Any, cls: type) -> str:
    """For messages: no password, and nothing of the query, where some have theirs."""
    chosen = str(app.backend_cls or app.conf.result_backend)
    if "://" not in chosen:
        return f"{cls.__module__}.{cls.__qualname__}"
    return str(maybe_sanitize_url(chosen)).partition("?")[0]
