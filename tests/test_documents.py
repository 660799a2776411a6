"""The rules of a record: which one may replace which, and how long each is kept."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from asyncresult._storage import documents
from asyncresult._storage.documents import encode_record, lifetime, precedes
from asyncresult.codec import Codec

STATES = ["STARTED", "PROGRESS", "RETRY", "FAILURE", "REVOKED", "SUCCESS"]
FINAL = ["FAILURE", "REVOKED", "SUCCESS"]


def record(status: str, **fields: object) -> bytes:
    return json.dumps({"task_id": "t", "status": status, "result": None, **fields}).encode()


@pytest.mark.parametrize("held", STATES)
@pytest.mark.parametrize("new", STATES)
def test_which_record_may_replace_which(held: str, new: str) -> None:
    """SUCCESS is never overwritten; an end only by an end; anything else by anything."""
    kept = held == "SUCCESS" or (held in FINAL and new not in FINAL)
    assert precedes(Codec(), "t", record(held), new) is kept


def test_an_earlier_attempt_replaces_nothing_of_a_later_one() -> None:
    held = record("STARTED", retries=2)
    assert precedes(Codec(), "t", held, "SUCCESS", 1)
    assert not precedes(Codec(), "t", held, "SUCCESS", 2)
    assert not precedes(Codec(), "t", record("STARTED"), "SUCCESS", 1), "stock Celery numbers nothing"


def test_what_cannot_be_read_protects_nothing() -> None:
    assert not precedes(Codec(), "t", b"\x80garbage", "STARTED")


@pytest.mark.parametrize(
    ("state", "given", "expires", "failure_expires", "seconds"),
    [
        ("SUCCESS", None, 60, None, 60),
        ("SUCCESS", None, 60, 600, 60),
        ("FAILURE", None, 60, 600, 600),
        ("FAILURE", None, 60, None, 60),
        ("FAILURE", 5, 60, 600, 5),
        ("SUCCESS", 0, 60, None, None),
        ("SUCCESS", None, 0, None, None),
        ("SUCCESS", None, None, None, None),
        ("SUCCESS", 1.9, None, None, 1),
    ],
)
def test_how_long_it_is_kept(
    state: str, given: float | None, expires: float | None, failure_expires: float | None, seconds: int | None
) -> None:
    assert lifetime(state, given, expires, failure_expires) == seconds


@pytest.mark.parametrize("microsecond", [1, 120_000, 999_999])
def test_the_date_is_written_as_by_celery(monkeypatch: pytest.MonkeyPatch, microsecond: int) -> None:
    date = datetime(2026, 12, 31, 23, 59, 59, microsecond, UTC)
    since = (date - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    monkeypatch.setattr(documents, "time_ns", lambda: since * 1000 + 999)
    assert json.loads(encode_record(Codec(), "t", 1, "SUCCESS"))["date_done"] == date.isoformat()
