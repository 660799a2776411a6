"""What a contender has to be able to do, and the results that all of them carry."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

__all__ = ["Adapter", "Command", "Unsupported", "id_of", "value_of"]

Command = tuple[Any, ...]

#: Threads of a program that blocks, such as a server with a thread for each request.
THREADS = 8


class Unsupported(Exception):
    """The contender has no way to do this; the text says why."""


def id_of(run: int, index: int) -> str:
    """The id of a task: like a UUID, and different in each run."""
    return f"{run:08x}-0000-4000-8000-{index:012x}"


def value_of(index: int, padding: int = 0) -> Any:
    """What the task returned; ``padding`` makes it bigger."""
    return {"n": index, "text": f"result {index}" + "x" * padding}


class Adapter:
    """One contender. Its methods are plain where it blocks, and coroutine functions where it is awaited.

    ``commands`` and ``before`` run in the producer's process, the others in the client's; both run in the
    contender's own virtual environment.
    """

    #: Whether its methods block instead of being awaited.
    blocking = False

    def __init__(self, url: str, variant: str) -> None:
        self.url = url
        self.variant = variant

    # -- the producer's side

    def before(self, id: str) -> list[Command]:
        """What is in Redis while the task runs (some contenders refuse to wait for what is not there)."""
        return []

    def commands(self, id: str, value: Any) -> list[Command]:
        """What the contender's own worker sends when the task has ended."""
        raise NotImplementedError

    # -- the client's side

    def open(self) -> Any:
        """Set up what a process needs once."""

    def warm(self) -> Any:
        """Have the connections stand and the code loaded, before anything is measured (but the first get)."""

    def close(self) -> Any: ...

    def one(self, id: str) -> Any:
        """Wait for one result; gives the value."""
        raise Unsupported("cannot wait")

    def join(self, ids: Sequence[str]) -> Any:
        """Wait for all; gives the values in order."""
        raise Unsupported("cannot wait for many")

    def gather(self, ids: Sequence[str]) -> Any:
        """The same with a task each, where that is another thing than a join."""
        return self.join(ids)

    def fetch(self, ids: Sequence[str]) -> Any:
        """Get results that are stored already."""
        return self.join(ids)

    def join_stored(self, ids: Sequence[str]) -> Any:
        """Wait for results that are stored already, as one who cannot know that they are."""
        return self.join(ids)

    def store(self, items: Sequence[tuple[str, Any]]) -> Any:
        """Store (and announce) them all at once."""
        raise Unsupported("has no way to store a result outside its worker")

    def store_many(self, items: Sequence[tuple[str, Any]]) -> Any:
        """The same with one call, where there is one."""
        return self.store(items)

    def store_each(self, items: Sequence[tuple[str, Any]]) -> Any:
        """Store one after the other."""
        raise Unsupported("has no way to store a result outside its worker")

    def store_threads(self, items: Sequence[tuple[str, Any]]) -> None:
        """Store one after the other in each of :data:`THREADS` threads."""
        if not self.blocking:
            raise Unsupported("is awaited")
        with ThreadPoolExecutor(THREADS) as threads:
            for stored in [threads.submit(self.store_each, items[start::THREADS]) for start in range(THREADS)]:
                stored.result()

    def single(self, ids: Sequence[str]) -> Any:
        """Wait for one after the other; gives values and the times at which each was there."""
        if not self.blocking:
            return self._single(ids)
        return [(self.one(id), time.monotonic_ns()) for id in ids]

    async def _single(self, ids: Sequence[str]) -> list[tuple[Any, int]]:
        return [(await self.one(id), time.monotonic_ns()) for id in ids]

    def values(self, returned: Any) -> list[Any]:
        """Make what a method returned comparable; outside what is measured."""
        return list(returned)

    def facts(self) -> dict[str, Any]:
        """What to record about the run."""
        return {}
