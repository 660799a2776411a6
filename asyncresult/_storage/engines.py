"""The engines of one store: one for each event loop, and others after a fork."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from .engine import Engine

if TYPE_CHECKING:
    from .waiters import Waiters

__all__ = ["Engines"]


class Engines:
    """One engine for each event loop of this process, started at the first use."""

    def __init__(self) -> None:
        #: The one used last: nearly always the one that is wanted next.
        self.latest: Engine | None = None
        #: Threads share it without a lock: what is done with it is atomic, which it would not be with a
        #: WeakKeyDictionary. An engine holds its loop anyway.
        self._by_loop: dict[asyncio.AbstractEventLoop, Engine] = {}
        self._dropped: tuple[weakref.ref[asyncio.AbstractEventLoop], float] | None = None

    def of(self, loop: asyncio.AbstractEventLoop, start: Callable[[], Engine]) -> Engine:
        """The engine of ``loop``, the running one; made by ``start`` if there is none."""
        for other in list(self._by_loop):
            if other.is_closed():
                self._by_loop.pop(other, None)
        engine = self._by_loop.get(loop)
        if engine is None or engine.forks != Engine.fork_count:
            engine = self._by_loop[loop] = start()
        self.latest = engine
        return engine

    def all(self) -> list[Engine]:
        """Those of this process."""
        return [engine for engine in list(self._by_loop.values()) if engine.forks == Engine.fork_count]

    def serve(self, table: Waiters) -> bool:
        """Whether ``table`` belongs to an engine that is still open, on whatever loop."""
        return any(
            engine.waiters is table and engine.forks == Engine.fork_count and not loop.is_closed()
            for loop, engine in list(self._by_loop.items())
        )

    def drop(self, engine: Engine) -> None:
        """Forget an engine whose loop shuts down: the next use starts another."""
        self._dropped = weakref.ref(engine.loop), engine.loop.time()
        if self.latest is engine:
            self.latest = None
        if self._by_loop.get(engine.loop) is engine:
            self._by_loop.pop(engine.loop, None)

    def dropped_within(self, seconds: float) -> bool:
        """Whether the engine of the running loop was dropped so short a time ago."""
        if self._dropped is None:
            return False
        ref, at = self._dropped
        loop = asyncio.get_running_loop()
        return ref() is loop and loop.time() < at + seconds

    async def aclose(self, timeout: float) -> None:
        """Close all; those of other loops close on theirs, and are not waited for."""
        self.latest = None
        here = asyncio.get_running_loop()
        engines = list(self._by_loop.items())
        self._by_loop.clear()
        own = None
        for loop, engine in engines:
            if engine.forks != Engine.fork_count or loop.is_closed():
                continue
            if loop is here:
                own = engine
            else:  # another thread's loop: it closes its engine itself
                asyncio.run_coroutine_threadsafe(engine.aclose(timeout), loop)
        if own is not None:
            await own.aclose(timeout)
