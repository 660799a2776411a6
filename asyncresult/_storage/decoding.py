"""Decoding for an event loop: small records at once, large ones on a thread while the loop goes on.

Whoever runs on a loop reads records through a :class:`Decoder`. Nothing else uses what the codec has for small and for
large records (``tests/test_layers.py``), so none can be decoded on a loop that has no time for it.

The thread is not the loop's default executor: that is the application's, and may be full of its own blocking calls for
any time. One record at a time, because each may become many times its size in memory, and because two at once would
not be faster: they share the GIL. The thread ends when there is nothing left to decode, so nothing has to be closed; a
program that ends does not wait for it.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..codec.codec import Codec
from ..errors import ResultDecodeError
from ..meta import TaskMeta
from ..states import PENDING

__all__ = ["DECODED_AT_ONCE", "Decoder", "DecodingThread"]

#: Records that are decoded in one go, if none of them is out of the ordinary: a tenth of a millisecond.
DECODED_AT_ONCE = 100

T = TypeVar("T")


class Decoder:
    """Decodes for one event loop, on which its methods are called.

    Attributes:
        at_once: Gives the record of a task, or None for one that the loop has no time for, which is for :meth:`later`.
            Raises ResultDecodeError. It is the codec's own method: a call more for each of 10,000 results is
            measurable (benchmarks: join, join-stored). Where that does not matter: :meth:`then`, :meth:`whole`.
        many_at_once: Gives the records of some tasks, or None unless all of them are ordinary ones.
    """

    def __init__(self, codec: Codec, loop: asyncio.AbstractEventLoop) -> None:
        self.at_once: Callable[[str, bytes], TaskMeta | None] = codec.decode_small
        self.many_at_once: Callable[[Sequence[str], Sequence[bytes | None]], list[TaskMeta] | None] = codec.decode_many
        self._codec = codec
        self._loop = loop
        self._thread = DecodingThread(loop)

    def later(self, task_id: str, payload: bytes, done: Callable[[TaskMeta | ResultDecodeError], object]) -> None:
        """Decode a large record on the thread, in pieces, then call ``done`` on the loop."""
        self._thread.submit(functools.partial(self._codec.decode_large, task_id, payload), done)

    def then(self, task_id: str, payload: bytes | None, done: Callable[[TaskMeta | ResultDecodeError], object]) -> None:
        """Decode a record whatever its size, then call ``done``: at once for a small one, later for a large one."""
        outcome: TaskMeta | ResultDecodeError | None
        try:
            outcome = self.at_once(task_id, payload) if payload else TaskMeta(task_id=task_id, status=PENDING)
        except ResultDecodeError as error:
            outcome = error
        if outcome is None:
            self.later(task_id, payload or b"", done)
        else:
            done(outcome)

    async def whole(self, task_id: str, payload: bytes | None) -> TaskMeta:
        """The record, whatever its size. Raises ResultDecodeError."""
        meta = self.at_once(task_id, payload) if payload else TaskMeta(task_id=task_id, status=PENDING)
        return await self.on_thread(self._codec.decode_large, task_id, payload) if meta is None else meta

    def is_small(self, payload: bytes) -> bool:
        """Whether the loop has the time to decode it, whatever it is."""
        return self._codec.is_small(payload)

    def apart(self, work: Callable[[], T], done: Callable[[T | ResultDecodeError], object]) -> None:
        """Run ``work``, which decodes a large record, on the thread, then ``done`` on the loop with what it gives."""
        self._thread.submit(work, done)

    async def group(self, group_id: str, payload: bytes) -> Any:
        """The ``as_tuple`` form of a saved group, whatever its size. Raises ResultDecodeError."""
        if self.is_small(payload):
            return self._codec.decode_group(group_id, payload)
        return await self.on_thread(self._codec.decode_group, group_id, payload)

    async def on_thread(self, decode: Callable[..., T], *args: Any) -> T:
        """What ``decode`` returns, or the ResultDecodeError that it raises, on the thread."""
        decoded: asyncio.Future[T | ResultDecodeError] = self._loop.create_future()

        def done(outcome: T | ResultDecodeError) -> None:
            if not decoded.done():  # given up meanwhile
                decoded.set_result(outcome)

        self._thread.submit(functools.partial(decode, *args), done)
        outcome = await decoded
        if isinstance(outcome, ResultDecodeError):
            raise outcome
        return outcome


class DecodingThread:
    """Runs what takes long, for one event loop. :meth:`submit` is called on that loop only."""

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
