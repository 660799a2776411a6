"""The app of ``INSTALLED_APPS``: ``"asyncresult.integrations.django"``."""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING

from django.core import checks

from ..._storage import current

if TYPE_CHECKING:
    from .._untyped import Untyped as AppConfig
else:
    from django.apps import AppConfig

__all__ = ["AsyncResultConfig"]


class AsyncResultConfig(AppConfig):
    """Makes the backend of the settings the default one, and registers the checks."""

    name = "asyncresult.integrations.django"
    label = "asyncresult"
    verbose_name: str = "Results of background tasks"

    def ready(self) -> None:
        from .checks import check_settings
        from .settings import get_backend, place_of_results

        checks.register(check_settings)
        # The check of TASKS comes with the framework, which a project may not import before its URLs are looked at.
        for framework in ("django.tasks", "django_tasks.checks"):
            with contextlib.suppress(ImportError):
                importlib.import_module(framework)
                break
        current.provide_configured(lambda: get_backend() if place_of_results() is not None else None)
