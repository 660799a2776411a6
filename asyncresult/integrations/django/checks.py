"""System checks of the setting ``ASYNCRESULT``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.urls import NoReverseMatch, reverse

from .settings import KEYS, authorize_function, get_backend, own_setting

__all__ = ["check_settings"]


def check_settings(**_: Any) -> list[checks.CheckMessage]:
    """What is wrong with ``ASYNCRESULT``."""
    try:
        given = own_setting()
    except ImproperlyConfigured as error:
        return [checks.Error(str(error), id="asyncresult.E001")]
    return [*_keys(given), *_tried(get_backend, "asyncresult.E003"), *_authorize(given), *_web(given)]


def _keys(given: dict[str, Any]) -> Iterator[checks.CheckMessage]:
    for name in sorted(set(given) - set(KEYS), key=str):
        yield checks.Error(
            f"ASYNCRESULT has an unknown key {name!r}.", hint=f"Known are {', '.join(KEYS)}.", id="asyncresult.E002"
        )


def _authorize(given: dict[str, Any]) -> Iterator[checks.CheckMessage]:
    if given.get("AUTHORIZE") is None:
        if _urls_are_included():
            yield checks.Error(
                "The URLs of asyncresult are included, and ASYNCRESULT['AUTHORIZE'] is not set.",
                hint="AUTHORIZE names a function (request, task_id) that says who may see a task.",
                id="asyncresult.E004",
            )
        return
    yield from _tried(authorize_function, "asyncresult.E005")


def _web(given: dict[str, Any]) -> Iterator[checks.CheckMessage]:
    if given.get("WEB_OPTIONS"):
        from .views import make_app  # not before it is needed: the web part takes a while to import

        yield from _tried(lambda: make_app(wsgi=True), "asyncresult.E006")


def _urls_are_included() -> bool:
    if not getattr(settings, "ROOT_URLCONF", None):
        return False
    try:
        reverse("asyncresult:status", args=["-"])
    except NoReverseMatch:
        return False
    except Exception:  # Django's own checks say what is wrong with the URLs
        return False
    return True


def _tried(use: Callable[[], object], id: str) -> Iterator[checks.CheckMessage]:
    try:
        use()
    except Exception as error:  # whatever the modules of the project raise when they are imported
        text = (
            str(error) if isinstance(error, ImproperlyConfigured) else f"ASYNCRESULT: {type(error).__name__}: {error}"
        )
        yield checks.Error(text, id=id)
