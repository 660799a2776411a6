"""What ``ready()``, ``state()`` and their like return: a coroutine that cannot be mistaken for its answer.

A plain coroutine is true and equals nothing, so ``if handle.ready():`` and ``handle.state() == "SUCCESS"`` would go
wrong in silence, as everybody writes them who comes from Celery's properties.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Coroutine, Generator
from typing import Any, NoReturn, TypeVar

__all__ = ["Lookup", "lookup"]

T_co = TypeVar("T_co", covariant=True)
F = TypeVar("F", bound=Callable[[Any], Coroutine[Any, Any, Any]])


class Lookup(Coroutine[Any, Any, T_co]):
    """A coroutine to be awaited, once. Whatever would take it for its answer raises TypeError."""

    __slots__ = ("__weakref__", "_coroutine")

    def __init__(self, coroutine: Coroutine[Any, Any, T_co]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, None, T_co]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        return self._coroutine.send(value)

    def throw(self, *exception: Any) -> Any:
        return self._coroutine.throw(*exception)

    def close(self) -> None:
        self._coroutine.close()

    def __repr__(self) -> str:
        return f"<{_name(self._coroutine)}(): a coroutine, to be awaited>"

    def __getattr__(self, name: str) -> Any:
        # Of the coroutine: cr_frame, cr_await, __qualname__ … by which debuggers and asyncio name a task.
        if name.startswith(("cr_", "__")):
            return getattr(self._coroutine, name)
        raise AttributeError(f"{self._await_it()} (it has no attribute {name!r})")

    def _await_it(self) -> str:
        return f"{_name(self._coroutine)}() is a coroutine: await it"

    def _misused(self, *_: object) -> NoReturn:
        raise TypeError(self._await_it())

    def __eq__(self, other: object) -> bool:
        return self is other or self._misused()

    def __ne__(self, other: object) -> bool:
        return self is not other and self._misused()

    __hash__ = object.__hash__
    __bool__ = __str__ = __format__ = __lt__ = __le__ = __gt__ = __ge__ = _misused


def _name(coroutine: object) -> str:
    return getattr(coroutine, "__qualname__", type(coroutine).__name__)


def lookup(method: F) -> F:
    """Make a coroutine method return a :class:`Lookup`.

    For type checkers it goes on to be what it is: they know of plain coroutines more that goes wrong.
    """

    @functools.wraps(method)
    def looked_up(self: Any) -> Lookup[Any]:
        coroutine: Any = method(self)
        coroutine.__qualname__ = f"{type(self).__name__}.{method.__name__}"  # not that of the base that defines it
        return Lookup(coroutine)

    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(looked_up)
    return looked_up  # type: ignore[return-value]
