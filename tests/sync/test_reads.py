"""Streams of the blocking face, of a task and of many."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from asyncresult import ResultTimeout
from asyncresult.sync import AsyncResult, Backend, ResultSet, as_completed
from tests.sync.waiting import FOREVER, when_waiting
from tests.tools.processes import wait_until


class TestStreams:
    def test_updates(self, backend: Backend) -> None:
        seen = []
        with AsyncResult("t").updates(timeout=FOREVER) as updates:
            for meta in updates:
                seen.append((meta.status, meta.result))
                if meta.status == "PENDING":
                    backend.store_result("t", 50, "PROGRESS")
                elif meta.status == "PROGRESS":
                    backend.mark_as_done("t", "done")
        assert seen == [("PENDING", None), ("PROGRESS", 50), ("SUCCESS", "done")]

    def test_leaving_early(self, backend: Backend) -> None:
        with AsyncResult("t").updates() as updates:
            assert next(updates).status == "PENDING"
            assert backend.stats().pending == 1
        assert backend.stats().pending == 0
        with pytest.raises(StopIteration):
            next(updates)

    def test_leaving_early_without_a_block(self, backend: Backend) -> None:
        backend.mark_as_done("done", 1)
        several = ResultSet([AsyncResult("done"), AsyncResult("t")])
        streams: list[Callable[[], Iterable[Any]]] = [
            AsyncResult("t").updates,
            several.updates,
            several.as_completed,
            several.iter_native,
        ]
        for begin in streams:
            for _ in begin():
                assert backend.stats().pending >= 1
                break
            wait_until(lambda: backend.stats().pending == backend.stats().subscribed == 0, "nobody waits")

    def test_time_is_up(self, memory: Backend) -> None:
        with pytest.raises(ResultTimeout):
            list(AsyncResult("t").updates(timeout=0.01))

    def test_until(self, memory: Backend) -> None:
        writer = when_waiting(memory, lambda: memory.mark_as_started("t"))
        assert AsyncResult("t").until("STARTED", timeout=FOREVER).status == "STARTED"
        writer.join()

    def test_as_completed(self, backend: Backend) -> None:
        results = [AsyncResult(id) for id in "abc"]
        backend.mark_as_done("b", 2)
        seen = []
        for result in as_completed(results, timeout=FOREVER):
            seen.append((result, result.value))
            if result == "b":
                backend.mark_as_done("c", 3)
            elif result == "c":
                backend.mark_as_done("a", 1)
        assert seen == [("b", 2), ("c", 3), ("a", 1)]
        assert all(any(result is given for given in results) for result, _ in seen)

    def test_iter_native(self, memory: Backend) -> None:
        memory.mark_as_done("a", 1)
        memory.mark_as_failure("b", ValueError("no"))
        records = dict(ResultSet([AsyncResult("a"), AsyncResult("b")]).iter_native(timeout=FOREVER))
        assert (records["a"]["result"], repr(records["b"]["result"])) == (1, "ValueError('no')")

    def test_updates_of_a_set(self, memory: Backend) -> None:
        memory.mark_as_done("a", 1)
        memory.mark_as_done("b", 2)
        results = ResultSet([AsyncResult("a"), AsyncResult("b")])
        assert {(result.id, meta.result) for result, meta in results.updates(timeout=FOREVER)} == {("a", 1), ("b", 2)}
