"""Connecting an app."""

from __future__ import annotations

from typing import Any

from celery.backends.base import Backend as CelerysBackend

from ...backend import Backend
from .awaitable import make_awaitable
from .config import backend_for, backend_of, make_backend

__all__ = ["connect"]


def connect(app: Any, **options: Any) -> Backend:
    """The backend of a Celery app: where its workers store, with its prefix, expiries, serializers, TLS …

    It can revoke the app's tasks. It is the one that the handles of the app's tasks use, and the same at each
    call, open again where a block has closed it; with ``options`` it is a new one, which the app's handles use from
    then on. From now on Celery's own results of this app can be awaited too.

    Args:
        app: The app; or one of Celery's result backends: its app's own, or another.
        options: See :class:`asyncresult.Backend`; they take precedence over the app's settings. Most apps need
            ``exceptions=[…]``: their exception classes, which are constructed from a record by calling them. With
            ``rpc://`` also those of :class:`RpcBackend`.

    Raises:
        ValueError: A setting that cannot be honoured, or is invalid. It is named; no secret is.
        celery.exceptions.ImproperlyConfigured: Celery itself refuses it.
    """
    app = getattr(app, "_get_current_object", lambda: app)()  # celery.current_app is a proxy
    if isinstance(app, CelerysBackend):
        theirs, app = app, app.app
        make_awaitable(app)
        return make_backend(app, theirs, **options) if options else backend_for(app, theirs)
    make_awaitable(app)
    backend = backend_of(app, **options)
    backend._reopen()  # it is the app's only one: a block that was left has closed it for all the others
    return backend
