"""The JSON encoder that is kept: it writes what the library's would, from any thread, and says what that would say."""

from __future__ import annotations

import json
import json.encoder
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import date
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncresult.codec import json as kombu_json
from asyncresult.codec import register_type
from asyncresult.errors import ResultDecodeError, ResultEncodeError
from asyncresult.meta import TaskMeta
from asyncresult.states import SUCCESS
from tests.codec.records import (
    ID,
    PLAIN,
    record,
)

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.datetimes() | st.uuids()
keys = st.text() | st.integers() | st.booleans() | st.none() | st.floats()
values = st.recursive(leaves, lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(keys, inner))


@pytest.fixture
def made_anew() -> Iterator[None]:
    kombu_json.json_codec.cache_clear()
    yield
    kombu_json.json_codec.cache_clear()


@pytest.fixture(scope="module")
def kept() -> Callable[[Any], str]:
    """The kept encoder, without the library's to fall back to."""

    def refuse(self: json.JSONEncoder, value: Any) -> str:
        raise AssertionError(f"the library was asked to write {value!r}")

    kombu_json.json_codec.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json.JSONEncoder, "encode", refuse)
        encode, _ = kombu_json.json_codec()
    kombu_json.json_codec.cache_clear()
    return encode


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="there is none")
@given(value=values)
def test_it_writes_what_the_library_writes(kept: Callable[[Any], str], value: Any) -> None:
    assert kept(value) == json.dumps(value, default=kombu_json._tagged)


@pytest.mark.parametrize("instead", [None, lambda markers, default: None], ids=["missing", "of another form"])
def test_without_it_the_library_writes(
    instead: Callable[..., Any] | None, monkeypatch: pytest.MonkeyPatch, made_anew: None
) -> None:
    monkeypatch.setattr(json.encoder, "c_make_encoder", instead)
    encode, _ = kombu_json.json_codec()
    monkeypatch.undo()
    assert encode([UUID(int=1), "é"]) == json.dumps([UUID(int=1), "é"], default=kombu_json._tagged)


def test_a_value_that_contains_itself_is_refused_as_by_the_library_and_leaves_nothing_behind() -> None:
    encode, _ = kombu_json.json_codec()
    inner: list[Any] = []
    outer = {"a": inner}
    inner.append(outer)
    for _ in range(2):
        with pytest.raises(ValueError, match="Circular reference detected") as caught:
            encode(outer)
        assert caught.value.__context__ is None
    inner.clear()
    assert encode(outer) == '{"a": []}'


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="there is none")
def test_two_threads_may_write_the_same_value_at_the_same_time(kept: Callable[[Any], str]) -> None:
    within, go_on = threading.Event(), threading.Event()

    class Slow:
        def __json__(self) -> str:
            if threading.current_thread() is not threading.main_thread():
                within.set()
                assert go_on.wait(10)
            return "slow"

    value = [{"a": Slow()}]
    written: list[str] = []
    thread = threading.Thread(target=lambda: written.append(kept(value)))
    thread.start()
    assert within.wait(10)  # the thread stands within the value
    mine = kept(value)
    go_on.set()
    thread.join(10)
    assert [mine, *written] == ['[{"a": "slow"}]'] * 2


class _Point:
    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Point) and (self.x, self.y) == (other.x, other.y)

    __hash__ = object.__hash__


def test_registered_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kombu_json, "_registered_encoders", {})
    monkeypatch.setattr(kombu_json, "_registered_decoders", {})
    register_type(_Point, "point", lambda p: [p.x, p.y], lambda xy: _Point(*xy))
    meta = TaskMeta(task_id=ID, status=SUCCESS, result=[_Point(1, 2)])
    payload = PLAIN.encode(meta)
    assert b'[{"__type__": "point", "__value__": [1, 2]}]' in payload
    assert PLAIN.decode(ID, payload) == PLAIN.decode_large(ID, payload) == meta
    with pytest.raises(ResultDecodeError, match="TypeError"):
        PLAIN.decode(ID, payload.replace(b"[1, 2]}", b"[1]}"))
    register_type(_Point, None, lambda p: {"x": p.x})
    assert b'[{"x": 1}]' in PLAIN.encode(meta)


def test_types_that_are_registered_with_kombu_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = pytest.importorskip("kombu.utils.json")
    monkeypatch.setattr(theirs, "_encoders", dict(theirs._encoders))
    monkeypatch.setattr(theirs, "_decoders", dict(theirs._decoders))
    meta = TaskMeta(task_id=ID, status=SUCCESS, result=[_Point(1, 2)])
    with pytest.raises(ResultEncodeError):
        PLAIN.encode(meta)
    theirs.register_type(_Point, "their-point", lambda p: [p.x, p.y], lambda xy: _Point(*xy))
    payload = PLAIN.encode(meta)
    assert b'{"__type__": "their-point", "__value__": [1, 2]}' in payload
    assert PLAIN.decode(ID, payload) == PLAIN.decode_large(ID, payload) == meta
    # A type of kombu's own, registered anew: dates stay text.
    theirs.register_type(date, "date", date.isoformat, str)
    dated = PLAIN.encode(TaskMeta(task_id=ID, status=SUCCESS, result=date(2024, 5, 6)))
    assert PLAIN.decode(ID, dated).result == "2024-05-06"
    # What is registered here goes first.
    monkeypatch.setattr(kombu_json, "_registered_encoders", {})
    monkeypatch.setattr(kombu_json, "_registered_decoders", {})
    register_type(date, "date", date.isoformat, lambda text: f"ours {text}")
    assert PLAIN.decode(ID, dated).result == "ours 2024-05-06"


def test_large_bytes_are_read_in_pieces_where_kombu_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kombu.utils.json")
    monkeypatch.setattr(kombu_json, "_from_base64", lambda text: b"in pieces")
    assert PLAIN.decode(ID, record(result={"__type__": "base64", "__value__": "eA=="})).result == b"in pieces"
