"""A record as users hold it: dates, heartbeats, and its form for web responses."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from asyncresult import ResultDecodeError, TaskMeta
from asyncresult.meta import MISSED_HEARTBEATS, stored_fields
from tests.codec.records import Vague


@pytest.mark.parametrize(
    ("stored", "date"),
    [
        ("2024-05-06T07:08:09.000010+00:00", datetime(2024, 5, 6, 7, 8, 9, 10, UTC)),
        ("2024-05-06T07:08:09+02:00", datetime(2024, 5, 6, 7, 8, 9, tzinfo=timezone(timedelta(hours=2)))),
        ("2024-05-06T07:08:09", datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)),
        (datetime(2024, 5, 6), datetime(2024, 5, 6, tzinfo=UTC)),
        ("", None),
        (None, None),
    ],
)
def test_when_it_ended(stored: Any, date: datetime | None) -> None:
    done = TaskMeta(status="SUCCESS", _date_done=stored).date_done
    assert done == date
    assert done is None or done.tzinfo is not None


@pytest.mark.parametrize("stored", ["yesterday", "2024-13-01", 5, ["2024"], Vague()])
def test_what_is_no_date_is_an_error_of_the_record(stored: Any) -> None:
    with pytest.raises(ResultDecodeError, match="'t' is not an ISO 8601 time"):
        _ = TaskMeta(status="SUCCESS", task_id="t", _date_done=stored).date_done


@pytest.mark.parametrize("late", [True, False])
def test_a_worker_that_has_missed_its_heartbeats(late: bool) -> None:
    at = time.time() - MISSED_HEARTBEATS * 10 + (-5 if late else 5)
    meta = TaskMeta(status="STARTED", heartbeat={"at": at, "interval": 10})
    assert meta.stale is late
    assert meta.stale_at == pytest.approx(at + MISSED_HEARTBEATS * 10)
    assert not TaskMeta(status="SUCCESS", heartbeat=meta.heartbeat).stale


@pytest.mark.parametrize("beat", [None, 5, {}, {"at": "x", "interval": 1}, {"at": 10**400, "interval": 1}])
@pytest.mark.parametrize("strange", [float("nan"), float("inf"), None])
def test_a_strange_heartbeat_promises_nothing(beat: Any, strange: float | None) -> None:
    assert TaskMeta(status="STARTED", heartbeat=beat).stale_at is None
    assert TaskMeta(status="STARTED", heartbeat={"at": strange, "interval": 1}).stale_at is None


def test_both_plain_forms() -> None:
    done = datetime(2024, 5, 6, tzinfo=UTC)
    meta = TaskMeta(status="SUCCESS", task_id="t", _children=(["c", None],), _date_done=done, _extra={"stamps": 1})
    shown = meta.to_dict()
    assert (shown["children"], shown["extra"], shown["date_done"]) == ([["c", None]], {"stamps": 1}, done.isoformat())
    stored = stored_fields(meta)
    assert (stored["children"], stored["stamps"], stored["date_done"]) == ([["c", None]], 1, done)
    assert not any(name.startswith("_") for name in {**shown, **stored})


def test_in_a_model_of_pydantic() -> None:
    """As the field of a model: what to_dict() gives is read back, and anything else is refused by name."""
    pydantic = pytest.importorskip("pydantic")
    adapter = pydantic.TypeAdapter(TaskMeta)
    meta = TaskMeta(status="FAILURE", task_id="t", _children=(["c", None],), _extra={"stamps": 1})
    assert adapter.validate_python(meta) is meta
    assert adapter.validate_python(adapter.dump_python(meta)) == meta
    assert adapter.validate_json(adapter.dump_json(meta)) == meta
    for wrong in (5, {"task_id": "t"}, {"status": "S", "nonsense": 1}):
        with pytest.raises(pydantic.ValidationError):
            adapter.validate_python(wrong)
    assert adapter.json_schema()["required"] == ["status", "task_id"]
