"""Celery's own AsyncResult, which blocks.

Variants, joined by ``+``: ``thread`` runs the wait in a worker thread of asyncio; ``nosleep`` takes out the
``time.sleep(0)`` that Celery calls for every message it has drained. That call costs some 100 us since
CPython 3.11 and half a microsecond before (CPython issue 125997): with the patch the comparison tells
about Celery, without it about what its users have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import celery.backends.asynchronous
from celery import Celery
from celery.result import AsyncResult, ResultSet

from .celery_format import CeleryFormat


class CeleryClient(CeleryFormat):
    def __init__(self, url: str, variant: str) -> None:
        super().__init__(url, variant)
        self.blocking = "thread" not in variant

    def open(self) -> None:
        if "nosleep" in self.variant:
            celery.backends.asynchronous.sleep = lambda seconds: None
        self.app = Celery(broker="memory://", backend=self.url)
        self.app.set_current()

    def warm(self) -> None:
        self.app.backend.store_result("warm", 1, "SUCCESS")
        AsyncResult("warm", app=self.app).get()

    def results(self, ids: Sequence[str]) -> list[Any]:
        return [AsyncResult(id, app=self.app) for id in ids]

    def one(self, id: str) -> Any:
        result = AsyncResult(id, app=self.app)
        if "thread" in self.variant:
            return asyncio.to_thread(result.get)
        return result.get()

    def join(self, ids: Sequence[str]) -> Any:
        results = ResultSet(self.results(ids), app=self.app)
        return asyncio.to_thread(results.join_native) if "thread" in self.variant else results.join_native()

    def store(self, items: Sequence[tuple[str, Any]]) -> Any:
        for id, value in items:
            self.app.backend.store_result(id, value, "SUCCESS")

    store_each = store


adapter = CeleryClient
