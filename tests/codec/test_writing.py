"""Writing records: Celery's bytes, and errors that say where."""

from __future__ import annotations

import gc
import json
from datetime import UTC, datetime, time, timedelta, timezone
from enum import Enum, IntEnum
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncresult.codec import (
    Codec,
)
from asyncresult.errors import (
    ResultEncodeError,
    TaskRevoked,
)
from asyncresult.meta import TaskMeta
from asyncresult.states import REVOKED, SUCCESS
from tests.codec.records import (
    ID,
    LEAVES,
    PLAIN,
    TEXTS,
    Word,
    failed,
    record,
)


class _Json:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __json__(self) -> Any:
        return self.value


class _Number(IntEnum):
    ONE = 1


class _Pair(NamedTuple):
    a: int
    b: Any


ZONES = st.sampled_from([None, UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=3))])
RICH = (
    LEAVES
    | st.binary()
    | st.datetimes(timezones=ZONES)
    | st.dates()
    | st.times()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.sampled_from([_Number.ONE, Word.A])
)


def rich_values(names: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    keys = names | st.integers() | st.floats() | st.booleans() | st.none()
    return st.recursive(
        RICH,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.tuples(inner, inner)
            | st.builds(_Pair, st.integers(), inner)
            | st.builds(_Json, inner)
            | st.dictionaries(keys, inner, max_size=4)
        ),
        max_leaves=15,
    )


@settings(max_examples=150)
@given(rich_values(TEXTS))
def test_writes_the_bytes_of_kombu(value: Any) -> None:
    kombu = pytest.importorskip("kombu.utils.json")
    assert Codec().encode_group(value) == kombu.dumps({"result": value}).encode()


def plain(value: Any) -> Any:
    """What is read of what was written."""
    if isinstance(value, _Json):
        return plain(value.value)
    if isinstance(value, dict):
        return {json.loads(json.dumps({k: 0})).popitem()[0]: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (datetime, time)):
        return value.replace(fold=0)  # ISO 8601 has no word for it
    return value.value if isinstance(value, Enum) else value


@settings(max_examples=150)
@given(rich_values(TEXTS.filter(lambda name: name != "__type__")))
def test_round_trip(value: Any) -> None:
    meta = TaskMeta(task_id=ID, status=SUCCESS, result=value)
    payload = PLAIN.encode(meta)
    for read in (PLAIN.decode, PLAIN.decode_large):
        assert repr(read(ID, payload).result) == repr(plain(value))


def test_a_record_of_plain_values_is_nothing_for_the_garbage_collector() -> None:
    assert not gc.is_tracked(PLAIN.decode(ID, record(result=1, children=[])))
    assert gc.is_tracked(PLAIN.decode(ID, record(result=1, children=[[["a", None], None]])))


@pytest.mark.parametrize("children", [None, [], [[["a", None], None]], "abc", {}])
def test_children_are_a_list_whichever_way_they_were_read(children: Any) -> None:
    payload = record(result=1, children=children)
    escaped = payload.replace(b"SUCCESS", rb"\u0053UCCESS")  # the slow way
    assert PLAIN.decode(ID, payload).children == children
    assert PLAIN.decode(ID, escaped) == PLAIN.decode(ID, payload) == PLAIN.decode_large(ID, payload)


def test_fields_are_written_in_celerys_order() -> None:
    meta = TaskMeta(
        task_id=ID, status=SUCCESS, result=1, traceback="t", _children=(),
        _date_done=datetime(2024, 1, 2, tzinfo=UTC),
        group_id="g", parent_id="p", name="n", args=(1,), kwargs={"k": 2}, worker="w", retries=0, queue="q",
        _extra={"stamped_headers": ["s"], "s": 1, "status": "forged", "task_id": "forged"},
    )  # fmt: skip
    assert PLAIN.encode(meta).decode() == (
        '{"status": "SUCCESS", "result": 1, "traceback": "t", "children": [], '
        '"date_done": "2024-01-02T00:00:00+00:00", '
        '"group_id": "g", "parent_id": "p", "name": "n", "args": [1], "kwargs": {"k": 2}, "worker": "w", "retries": 0, '
        f'"queue": "q", "stamped_headers": ["s"], "s": 1, "task_id": "{ID}"}}'
    )
    assert PLAIN.encode(TaskMeta(task_id=ID, status="STARTED")).decode() == (
        '{"status": "STARTED", "result": null, "traceback": null, "children": null, "date_done": null, '
        f'"task_id": "{ID}"}}'
    )
    native = TaskMeta(task_id=ID, status=SUCCESS, _date_done=datetime(2024, 1, 2, 3, tzinfo=UTC))
    assert b'"date_done": "2024-01-02T03:00:00+00:00"' in PLAIN.encode(native)


CIRCLE: list[Any] = []
CIRCLE.append({"again": CIRCLE})
DEEP: Any = 0
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "path", "words"),
    [
        (object(), "result", "object"),
        ({"rows": [1, 2, 3, {1}]}, "result['rows'][3]", "set"),
        ({"rows": [0, _Json({"id": 1, "when": object()})]}, "result['rows'][1].when", "object"),
        ({"rows": [_Json({"two words": 1j})]}, "result['rows'][0]['two words']", "complex"),
        ([_Json(_Json([1j]))], "result[0][0]", "complex"),
        (({"a": (1, 1j)},), "result[0]['a'][1]", "complex"),
        ({"a": {(1, 2): 3}}, "result['a']", r"the key \(1, 2\)"),
        ({b"k": 1}, "result", "the key b'k'"),
        ([0, {"x": 9**5000}], "result[1]['x']", "4300 digits"),
        (CIRCLE, "result[0]['again']", "contains itself"),
        (DEEP, "result", "nested too deeply"),
        ([_Json(CIRCLE)], "result[0][0]['again']", "contains itself"),
        (timedelta(1), "result", "timedelta"),
    ],
)
def test_what_cannot_be_stored_is_named(value: Any, path: str, words: str) -> None:
    with pytest.raises(ResultEncodeError, match=words) as caught:
        PLAIN.encode(TaskMeta(task_id=ID, status=SUCCESS, result=value))
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path} cannot be stored as json: ")


def test_other_fields_are_named_too() -> None:
    with pytest.raises(ResultEncodeError) as caught:
        PLAIN.encode(TaskMeta(task_id=ID, status=SUCCESS, kwargs={"image": object()}))
    assert caught.value.path == "kwargs['image']"
    with pytest.raises(ResultEncodeError) as caught:
        Codec(serializer="msgpack").encode_group([[1, {2}]])
    assert caught.value.path == "result[0][1]"


class _Broken:
    def __json__(self) -> Any:
        raise SystemError("broken")

    def __repr__(self) -> str:
        raise SystemError("broken")


def test_objects_that_misbehave() -> None:
    with pytest.raises(ResultEncodeError, match="SystemError: broken") as caught:
        PLAIN.encode(TaskMeta(task_id=ID, status=SUCCESS, result=[_Broken()]))
    assert caught.value.path == "result[0]"
    assert PLAIN.encode_exception(ValueError(_Broken()))["exc_message"] == ["<_Broken object whose repr() fails>"]


def test_stock_celery_reads_what_we_write() -> None:
    celery = pytest.importorskip("celery")
    backend = celery.Celery(backend="cache+memory://", set_as_current=False).backend
    when = datetime(2024, 1, 2, tzinfo=UTC)
    meta = backend.decode_result(
        PLAIN.encode(TaskMeta(task_id=ID, status=SUCCESS, result={"when": when, "b": b"\xff"}, _date_done=when))
    )
    assert meta["result"] == {"when": when, "b": b"\xff"}
    meta = backend.decode_result(PLAIN.encode(failed(KeyError("k"), traceback="tb")))
    assert repr(meta["result"]) == "KeyError('k')"
    meta = backend.decode_result(PLAIN.encode(failed(TaskRevoked("terminated"), REVOKED)))
    assert repr(meta["result"]) == "TaskRevokedError('terminated')"
