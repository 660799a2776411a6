"""The setting ``ASYNCRESULT``: {"CELERY_APP": "shop.celery:app"}."""

from __future__ import annotations

import functools
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

__all__ = ["celery_app", "own_setting"]


def own_setting() -> dict[str, Any]:
    """``ASYNCRESULT``; empty where it is not set."""
    return dict(getattr(settings, "ASYNCRESULT", None) or {})


@functools.cache
def celery_app(path: str) -> Any:
    """The app of ``"shop.celery:app"``.

    Raises:
        ImproperlyConfigured: There is none.
    """
    try:
        return import_string(path.replace(":", "."))
    except ImportError as error:
        raise ImproperlyConfigured(f"CELERY_APP: no Celery app {path!r}: {error}") from error
