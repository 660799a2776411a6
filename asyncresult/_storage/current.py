"""Which store is meant where none is given.

Entering a store (``async with connect(url):``) makes it the current one of that context, so of the code of that task
and of the tasks that it starts; leaving gives the context its former one back. Code that runs in no such block, as a
request handler does whose server entered a store in another task, gets the store that was entered first and is still
open: what a request enters for itself is never another one's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from .._extensions import default_store
from .._locks import ProcessLock
from .store import Store

__all__ = [
    "current_store",
    "enter",
    "entered_store",
    "leave",
    "named_store",
    "provide_configured",
]

#: All that are entered, in that order; one that was entered twice is there twice.
_entered: list[Store] = []
_lock = ProcessLock()
#: The blocks that this context is in, the innermost last. One of another task's may have been left meanwhile.
_blocks: ContextVar[tuple[Store, ...]] = ContextVar("asyncresult_entered", default=())
_find_configured: Callable[[], Store | None] | None = None


def provide_configured(find: Callable[[], Store | None]) -> None:
    """Say what gives the store that the settings of a framework name, or None. Called by its integration."""
    global _find_configured
    _find_configured = find


def entered_store() -> Store | None:
    """The store of the innermost block; outside of any block the one that was entered first."""
    for store in reversed(_blocks.get()):
        if store in _entered:
            return store
    return next((store for store in _entered), None)


def named_store() -> Store | None:
    """:func:`entered_store`; else that of the settings of a framework."""
    store = entered_store()
    return store if store is not None or _find_configured is None else _find_configured()


def current_store() -> Store:
    """:func:`named_store`; else the default.

    Raises:
        RuntimeError: None is entered, and there is no default.
    """
    found = named_store()
    if found is None:
        found = default_store()
    return found


def enter(store: Store) -> None:
    """Make ``store`` the current one of this context."""
    with _lock():
        _entered.append(store)
    _blocks.set((*_blocks.get(), store))


def leave(store: Store) -> bool:
    """Undo one :func:`enter`. Whether that was the last of them."""
    # No ContextVar.reset(): a fixture may leave in another context than it entered.
    blocks = list(reversed(_blocks.get()))
    if store in blocks:
        blocks.remove(store)
        _blocks.set(tuple(reversed(blocks)))
    with _lock():
        if store in _entered:
            del _entered[len(_entered) - 1 - _entered[::-1].index(store)]
        return store not in _entered


def closed(store: Store) -> None:
    """Forget a store that was closed inside its blocks."""
    with _lock():
        _entered[:] = [other for other in _entered if other is not store]
