"""dramatiq: a blocking list command for each result, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dramatiq import Message
from dramatiq.results.backends import RedisBackend

from .base import Adapter, Command

PATIENCE = 120_000  # ms


class Dramatiq(Adapter):
    blocking = True

    def __init__(self, url: str, variant: str) -> None:
        super().__init__(url, variant)
        self.backend = RedisBackend(url=url)

    def message(self, id: str) -> Any:
        return Message(queue_name="default", actor_name="task", args=(), kwargs={}, options={}, message_id=id)

    def commands(self, id: str, value: Any) -> list[Command]:
        from dramatiq.results.result import wrap_result

        key = self.backend.build_message_key(self.message(id))
        return [
            ("MULTI",),
            ("DEL", key),
            ("LPUSH", key, self.backend.encoder.encode(wrap_result(value))),
            ("PEXPIRE", key, 600_000),
            ("EXEC",),
        ]

    def one(self, id: str) -> Any:
        return self.backend.get_result(self.message(id), block=True, timeout=PATIENCE)

    def join(self, ids: Sequence[str]) -> list[Any]:
        return [self.one(id) for id in ids]

    def store(self, items: Sequence[tuple[str, Any]]) -> None:
        for id, value in items:
            self.backend.store_result(self.message(id), value, 600_000)

    store_each = store


adapter = Dramatiq
