"""asyncresult.sync: the same, for code without an event loop of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asyncresult import sync

from .celery_format import CeleryFormat


class OursSync(CeleryFormat):
    blocking = True

    def open(self) -> None:
        self.backend = sync.connect(self.url)

    def warm(self) -> None:
        self.backend.mark_as_done("warm", 1)
        self.one("warm")

    def close(self) -> None:
        self.backend.close()

    def one(self, id: str) -> Any:
        return sync.AsyncResult(id, backend=self.backend).get()

    def join(self, ids: Sequence[str]) -> Any:
        return sync.ResultSet([sync.AsyncResult(id, backend=self.backend) for id in ids]).get()

    def store(self, items: Sequence[tuple[str, Any]]) -> None:
        for id, value in items:
            self.backend.mark_as_done(id, value)

    def store_many(self, items: Sequence[tuple[str, Any]]) -> None:
        self.backend.store_many(items)

    store_each = store


adapter = OursSync
