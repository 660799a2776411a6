"""Finding an integration that the core does not import.

An integration announces itself as an entry point of the group ``asyncresult.doors``, under the name of the
package that it opens: ``celery = "asyncresult.integrations.celery"``. It is imported when an object of that
package is handed to us, so not before it is needed; another distribution can bring one along.
"""

from __future__ import annotations

import functools
from typing import Any

__all__ = ["door_for"]

GROUP = "asyncresult.doors"


def door_for(thing: object) -> Any:
    """The integration for the package that the class of ``thing``, or a base of it, comes from.

    Raises:
        TypeError: There is none.
    """
    for cls in type(thing).__mro__:
        door = _door(cls.__module__.partition(".")[0])
        if door is not None:
            return door
    raise TypeError(
        f"{type(thing).__module__}.{type(thing).__qualname__} is neither a URL nor of a package that an"
        f" installed integration opens (entry points of the group {GROUP!r})"
    )


@functools.cache
def _door(package: str) -> Any:
    from importlib.metadata import entry_points  # as slow as the rest of asyncresult together

    for entry in entry_points(group=GROUP, name=package):
        return entry.load()
    return None
