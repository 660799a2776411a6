"""Locks of a whole process, which a child of fork finds free.

A lock that another thread held at the moment of the fork stays locked in the child forever, as that thread is not there
to release it. So the child gets new ones, before anything else runs in it.
"""

from __future__ import annotations

import os
import threading

__all__ = ["ProcessLock"]

_all: list[ProcessLock] = []


class ProcessLock:
    """A lock of a module, for the whole process: ``with lock():``. The thread that holds it may take it again."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _all.append(self)

    def __call__(self) -> threading.RLock:
        """That of this process; a ``with`` block releases the one that it has taken, also where it forks."""
        return self._lock

    def renew(self) -> None:
        """In the child."""
        self._lock = threading.RLock()


def _after_fork_in_child() -> None:
    for lock in _all:
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
