"""A table of waiters with a loop and a source that the test holds in its hand: nothing happens by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from asyncresult._storage import rounds as _rounds
from asyncresult._storage.waiters import Waiters
from asyncresult.codec import codec
from asyncresult.errors import AsyncResultError, ResultDecodeError
from asyncresult.meta import TaskMeta

__all__ = ["Handle", "Loop", "Table", "Waiter"]


class Handle:
    """A call that is due, unless it is cancelled."""

    def __init__(self, fn: Callable[[], object]) -> None:
        self.fn: Callable[[], object] | None = fn

    def cancel(self) -> None:
        self.fn = None


class Loop:
    """Runs what is due when it is told to: calls of the next turn, and of a LINGER later."""

    def __init__(self) -> None:
        self.due: list[Handle] = []
        self.later: list[Handle] = []
        self.trouble: list[dict[str, Any]] = []

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.trouble.append(context)

    def call_soon(self, fn: Callable[..., object], *args: Any) -> Handle:
        self.due.append(handle := Handle(partial(fn, *args)))
        return handle

    def call_later(self, delay: float, fn: Callable[[], object]) -> Handle:
        handle = Handle(fn)
        (self.due if delay == _rounds.LINGER else self.later).append(handle)
        return handle

    def is_closed(self) -> bool:
        return False

    def run(self) -> None:
        while self.due:
            self.run_once()

    def run_once(self) -> None:
        due, self.due = self.due, []
        for handle in due:
            if handle.fn is not None:
                handle.fn()


class Table(Waiters):
    """A table that is its own source, with a connection that stands."""

    def __init__(self, *, verify_key: bool = False) -> None:
        self.loop = Loop()
        self.subscribed_to: list[bytes] = []
        self.given_up: list[bytes] = []
        self.asked: list[bytes] = []
        self.decoded_at_once: list[int] = []
        self.decoding: list[Callable[[TaskMeta | ResultDecodeError], object]] = []

        def decode(task_id: str, payload: bytes) -> TaskMeta | None:
            if len(payload) >= codec.LARGE_PAYLOAD_BYTES:
                return None
            if payload == b"garbage":
                raise ResultDecodeError("garbage")
            if payload == b"crash":
                raise RecursionError("secret")
            # A payload is the state, and what makes it differ from others of that state.
            status = payload.split()[0].decode() if payload[:1].isupper() else "SUCCESS"
            return TaskMeta(task_id=task_id, status=status, result=payload)

        def decode_many(task_ids: Sequence[str], payloads: Sequence[bytes]) -> list[TaskMeta] | None:
            self.decoded_at_once.append(len(payloads))
            try:
                metas = [meta for meta in map(decode, task_ids, payloads) if meta is not None]
            except (ResultDecodeError, RecursionError):
                return None
            return metas if len(metas) == len(payloads) else None

        source: Any = self
        loop: Any = self.loop

        def decode_later(task_id: str, payload: bytes, done: Callable[[TaskMeta | ResultDecodeError], object]) -> None:
            self.decoding.append(done)

        decoder: Any = SimpleNamespace(at_once=decode, many_at_once=decode_many, later=decode_later)
        super().__init__(source, decoder, loop=loop, safety_interval=30.0, verify_key=verify_key)
        self.connected()

    def subscribe(self, keys: list[bytes]) -> None:
        self.subscribed_to += keys

    def wake(self) -> None: ...

    def unsubscribe(self, keys: list[bytes]) -> None:
        self.given_up += keys

    def fetch(self, keys: list[bytes]) -> None:
        self.asked += keys


class Waiter:
    """Waits for a key; ``again`` makes it wait once more when it is told of an error."""

    _follows = False

    def __init__(self, table: Waiters, key: bytes, *, again: bool = False) -> None:
        self.table, self.key, self.again = table, key, again
        self.metas: list[TaskMeta] = []
        self.errors: list[AsyncResultError] = []
        table.add(key, "t", self)

    @property
    def states(self) -> list[str]:
        """What was seen, with what makes it differ."""
        return [meta.result.decode() if isinstance(meta.result, bytes) else meta.status for meta in self.metas]

    def _follower(self) -> Waiter | None:
        return self if self._follows else None

    def _on_record(self, meta: TaskMeta) -> None:
        self.metas.append(meta)

    def _on_error(self, error: AsyncResultError) -> None:
        self.errors.append(error)
        if self.again:
            self.table.add(self.key, "t", self)
