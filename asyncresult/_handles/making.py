"""Making many handles of a portable form, away from the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from .._storage.store import Store, engine_of

__all__ = ["make_handles"]

T = TypeVar("T")

#: From so many handles on, they are made on a thread: a thousand take some milliseconds.
MANY = 1000


async def make_handles(store: Store, form: Any, make: Callable[[], T]) -> T:
    """What ``make`` makes of a form: at once, or of a large one on the thread that decodes large records.

    ``make`` raises nothing but ResultDecodeError.
    """
    if _is_large(form):
        return await engine_of(store).decoder.on_thread(make)
    return make()


def _is_large(form: Any) -> bool:
    todo, count = [form], 0
    while todo:
        parts = todo.pop()
        if isinstance(parts, list | tuple):
            count += 1
            if count + len(parts) > 2 * MANY:  # a handle is two lists
                return True
            todo += parts
    return False
