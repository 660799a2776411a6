"""Celery's blocking calls over results in memory: what they are given while they wait."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult, GroupResult, ResultSet

from asyncresult import _portal
from tests.integrations.celery_project import client


@pytest.fixture
def app() -> Generator[Celery]:
    with client(broker_url="memory://", result_backend="asyncresult+memory://") as made:
        yield made
    _portal.stop()


def test_records_and_intervals_of_a_set(app: Celery) -> None:
    for number, id in enumerate("abc"):
        app.backend.store_result(id, number, "SUCCESS")
    inner = GroupResult("g", [AsyncResult("c", app=app)], app=app)
    results = ResultSet([AsyncResult("a", app=app), AsyncResult("b", app=app), inner], app=app)
    seen: list[Any] = []
    ticks: list[int] = []
    found = dict(
        app.backend.iter_native(results, timeout=20, on_message=seen.append, on_interval=lambda: ticks.append(1))
    )
    assert found["g"] == inner.children
    assert {id: found[id]["result"] for id in "ab"} == {"a": 0, "b": 1}
    assert sorted(record["task_id"] for record in seen) == ["a", "b"]
    assert ticks
    # What Celery has cached is given again, and nobody waits.
    assert [id for id, _ in app.backend.iter_native(results, on_message=pytest.fail)] == ["a", "b", "g"]
    assert ResultSet([AsyncResult("a", app=app)], app=app).join_native(timeout=20) == [0]


def test_nothing_is_pending(app: Celery) -> None:
    result = AsyncResult("a", app=app)
    assert app.backend.add_pending_results([result]) == [result]
    app.backend.store_result("a", 5, "SUCCESS")
    assert app.backend.wait_for_pending(result, timeout=20) == 5
