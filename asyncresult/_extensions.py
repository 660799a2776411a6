"""Finding an integration that the core does not import.

An integration announces itself as an entry point of the group ``asyncresult.integrations``, under the name of the
package that it serves: ``celery = "asyncresult.integrations.celery"``. It is imported when an object of that
package is handed to us, so not before it is needed; another distribution can bring one along.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

__all__ = ["current_app", "integration_for", "loaded"]

GROUP = "asyncresult.integrations"


def integration_for(thing: object) -> Any:
    """The integration for the package that the class of ``thing``, or a base of it, comes from.

    Raises:
        TypeError: There is none.
    """
    for cls in type(thing).__mro__:
        found = _integration(cls.__module__.partition(".")[0])
        if found is not None:
            return found
    raise TypeError(
        f"{type(thing).__module__}.{type(thing).__qualname__} is neither a URL nor of a package that an"
        f" installed integration serves (entry points of the group {GROUP!r})"
    )


@functools.cache
def _integration(package: str) -> Any:
    from importlib.metadata import entry_points  # as slow as the rest of asyncresult together

    for entry in entry_points(group=GROUP, name=package):
        return entry.load()
    return None


def loaded(module: str, name: str) -> Any:
    """An attribute of a module, or None where that is not loaded (or only just being loaded)."""
    return getattr(sys.modules.get(module), name, None)


def current_app() -> Any:
    """Celery's current app, if it has a result backend, else None. This neither imports Celery nor makes an app."""
    app = getattr(loaded("celery._state", "_tls"), "current_app", None) or loaded("celery._state", "default_app")
    return app if app is not None and (app.backend_cls or app.conf.result_backend) else None
