"""Finding an integration that the core does not import, and the store that is meant where none is named.

An integration announces itself as an entry point of the group ``asyncresult.integrations``, under the name of the
package that it serves: ``celery = "asyncresult.integrations.celery"``. It is imported when an object of that
package is handed to us, so not before it is needed; another distribution can bring one along.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["current_app", "default_store", "integration_for", "loaded", "provide_default", "without_extra"]

GROUP = "asyncresult.integrations"

_make_default: Callable[[], Any]


def provide_default(make: Callable[[], Any]) -> None:
    """Say what gives a store where none is named. Called once, by the package itself, before all else."""
    global _make_default
    _make_default = make


def default_store() -> Any:
    """The store where none is named.

    Raises:
        RuntimeError: There is none.
    """
    return _make_default()


def integration_for(thing: object, expected: str) -> Any:
    """The integration for the package that the class of ``thing``, or a base of it, comes from.

    Args:
        expected: What ``thing`` should be, for the error.

    Raises:
        TypeError: There is none.
    """
    for cls in type(thing).__mro__:
        found = _integration(cls.__module__.partition(".")[0])
        if found is not None:
            return found
    raise TypeError(
        f"expected {expected}, not {type(thing).__module__}.{type(thing).__qualname__}, for whose package no"
        f" integration is installed (entry points of the group {GROUP!r})"
    )


@functools.cache
def _integration(package: str) -> Any:
    from importlib.metadata import entry_points  # as slow as the rest of asyncresult together

    for entry in entry_points(group=GROUP, name=package):
        return entry.load()
    return None


def without_extra(extra: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """The error for an integration whose package is not installed: it says what installs it."""
    return ModuleNotFoundError(f"{error.msg}: pip install 'asyncresult[{extra}]'", name=error.name, path=error.path)


def loaded(module: str, name: str) -> Any:
    """An attribute of a module, or None where that is not loaded (or only just being loaded)."""
    return getattr(sys.modules.get(module), name, None)


def current_app() -> Any:
    """Celery's current app, if it has a result backend, else None. This neither imports Celery nor makes an app."""
    app = getattr(loaded("celery._state", "_tls"), "current_app", None) or loaded("celery._state", "default_app")
    return app if app is not None and (app.backend_cls or app.conf.result_backend) else None
