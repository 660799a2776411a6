"""The setting ``ASYNCRESULT``.

::

    ASYNCRESULT = {
        "URL": "redis://localhost:6379/0",       # where results are; or
        "CELERY_APP": "shop.celery:app",         # where the workers of this app store them
        "OPTIONS": {"exceptions": [OutOfStock]}, # of asyncresult.connect()
        "AUTHORIZE": "shop.views.may_see",       # who may see a task over HTTP
        "WEB_OPTIONS": {"reveal_errors": True},  # of asyncresult.web.Settings
    }
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils.module_loading import import_string

from ..._locks import ProcessLock
from ...backend import Backend, connect

__all__ = ["KEYS", "authorize_function", "celery_app", "get_backend", "is_url", "own_setting", "place_of_results"]

KEYS = ("URL", "CELERY_APP", "OPTIONS", "AUTHORIZE", "WEB_OPTIONS")

_made: list[Backend] = []
_making = ProcessLock()


def own_setting() -> dict[str, Any]:
    """``ASYNCRESULT``; empty where it is not set.

    Raises:
        ImproperlyConfigured: It is no dict.
    """
    given = getattr(settings, "ASYNCRESULT", None)
    if given is not None and not isinstance(given, dict):
        raise ImproperlyConfigured(f"ASYNCRESULT is a dict, not {type(given).__name__}")
    return dict(given or {})


def place_of_results() -> Any:
    """Where the settings say that results are: a URL, or a Celery app or its path; None where they do not.

    ``ASYNCRESULT`` says so; else the first of ``TASKS`` that names a Celery app.
    """
    given = own_setting()
    if place := given.get("URL") or given.get("CELERY_APP"):
        return place
    apps = (params.get("OPTIONS", {}).get("CELERY_APP") for params in (getattr(settings, "TASKS", None) or {}).values())
    return next(filter(None, apps), None)


def celery_app(path: Any) -> Any:
    """The app of ``"shop.celery:app"``; or a Celery app itself.

    Raises:
        ImproperlyConfigured: There is none.
    """
    if not isinstance(path, str):
        return path
    try:
        return import_string(path.replace(":", "."))
    except ImportError as error:
        raise ImproperlyConfigured(f"CELERY_APP: no Celery app {path!r}: {error}") from error


def authorize_function() -> Callable[[Any, str], Any]:
    """``AUTHORIZE``: ``(request, task_id)``, with Django's request.

    Raises:
        ImproperlyConfigured: It is not set, or is no function.
    """
    given = own_setting().get("AUTHORIZE")
    if given is None:
        raise ImproperlyConfigured(
            "ASYNCRESULT['AUTHORIZE'] is required: a function (request, task_id) that says who may see a task"
        )
    try:
        found = import_string(given) if isinstance(given, str) else given
    except ImportError as error:
        raise ImproperlyConfigured(f"ASYNCRESULT['AUTHORIZE']: {error}") from error
    if not callable(found):
        raise ImproperlyConfigured(f"ASYNCRESULT['AUTHORIZE'] is not a function: {given!r:.60}")
    function: Callable[[Any, str], Any] = found
    return function


def get_backend() -> Backend:
    """The backend of the settings, the same at each call.

    It is that of ``ASYNCRESULT``, else of the Celery app that ``TASKS`` names, else of ``$ASYNCRESULT_URL``, else in
    the memory of the process.

    Raises:
        ImproperlyConfigured: A setting is invalid. It is named; no secret is.
    """
    with _making():
        if not _made:
            _made.append(_make())
        return _made[0]


def _make() -> Backend:
    options = own_setting().get("OPTIONS") or {}
    place = place_of_results()
    if place is not None and not own_setting().get("URL"):
        place = celery_app(place)
    try:
        return connect(place, **options)
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"ASYNCRESULT: {error}") from error


def is_url(place: Any) -> bool:
    """Whether a place is a URL, and not a Celery app or its path."""
    return isinstance(place, str) and "://" in place


@receiver(setting_changed, dispatch_uid="asyncresult.settings")  # type: ignore[untyped-decorator]
def _forget(*, setting: str, **_: Any) -> None:
    """Tests override settings."""
    if setting in ("ASYNCRESULT", "TASKS"):
        with _making():
            _made.clear()
