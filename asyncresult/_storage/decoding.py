"""A thread that decodes large records, one after another, while the event loop goes on.

Not the loop's default executor: that is the application's, and may be full of its own blocking calls for any time. One
record at a time, because each may become many times its size in memory, and because two at once would not be faster:
they share the GIL. The thread ends when there is nothing left to decode, so nothing has to be closed; a program that
ends does not wait for it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import ResultDecodeError

__all__ = ["DecodingThread"]

T = TypeVar("T")


class DecodingThread:
    """Decodes for one event loop. :meth:`submit` is called on that loop only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._jobs: deque[tuple[Callable[[], Any], Callable[[Any], object]]] = deque()
        self._runs = False

    def submit(self, decode: Callable[[], T], done: Callable[[T | ResultDecodeError], object]) -> None:
        """Run `decode` on the thread, then `done` on the loop, with its value or the ResultDecodeError it raised."""
        with self._lock:
            self._jobs.append((decode, done))
            if self._runs:
                return
            self._runs = True
        threading.Thread(target=self._run, name="asyncresult-decoding", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._runs = False
                    return
                job = self._jobs.popleft()
            try:
                self._loop.call_soon_threadsafe(job[1], _outcome(job[0]))
            except RuntimeError:  # the loop is closed, and with it all that waited
                with self._lock:
                    self._jobs.clear()
            del job  # or the thread would keep the record while it decodes the next


def _outcome(decode: Callable[[], Any]) -> Any:
    try:
        return decode()
    except ResultDecodeError as error:
        return error.with_traceback(None)
    except Exception as error:  # a bug, or no memory: the wait ends all the same
        return ResultDecodeError(f"a record could not be decoded: {type(error).__name__}")
