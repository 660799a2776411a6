"""Django's tasks, with results that can be awaited: ``await wait(await send.aenqueue("a@b.c"))``."""

from __future__ import annotations

from .backends import CeleryBackend
from .waiting import handle, wait

__all__ = ["CeleryBackend", "handle", "wait"]
