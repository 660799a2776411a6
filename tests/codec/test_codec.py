"""Reading records: the fast way and the slow one, and what a record must be."""

from __future__ import annotations

import json
import zlib
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncresult.codec import (
    LARGE_PAYLOAD_BYTES,
    Codec,
    codec,
    compression,
    pieces,
)
from asyncresult.errors import (
    ResultDecodeError,
    ResultEncodeError,
    TaskFailed,
)
from asyncresult.meta import TaskMeta
from asyncresult.states import EXCEPTION_STATES, FAILURE, PENDING, RETRY, SUCCESS
from tests.codec.records import (
    CAPTURED,
    DOCUMENTS,
    ID,
    PLAIN,
    VAGUE,
    VALUES,
    VECTORS,
    WIDE,
    compressed,
    outcome,
    raw,
    record,
    slow,
    spelled,
)


def agree(payload: bytes) -> None:
    assert outcome(PLAIN.decode, ID, payload) == outcome(slow, payload)


@settings(max_examples=150)
@given(spelled())
def test_the_fast_way_agrees_with_the_slow_one(payload: bytes) -> None:
    agree(payload)


@settings(max_examples=150)
@given(
    st.sampled_from([raw(VECTORS[name]) for name in CAPTURED if name.startswith("json/")]),
    st.integers(0, 400),
    st.integers(0, 3),
    st.binary(max_size=3) | st.sampled_from([b"NaN", b"\\u005f", b'"', b"-0", b"1e999", b"\\ud800", b"\xed\xa0\x80"]),
)
def test_the_two_ways_agree_about_damaged_records(payload: bytes, at: int, cut: int, put: bytes) -> None:
    payload = payload[:at] + put + payload[at + cut :]
    named = json.dumps(ID)[1:-1].encode()
    agree(payload)
    agree(payload.replace(b'"task_id": "', b'"task_id": "' + named + b'", "x": "', 1))


@settings(max_examples=150)
@given(st.from_regex(rb"-?[0-9]{1,30}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?", fullmatch=True))
def test_the_two_ways_agree_about_numbers(number: bytes) -> None:
    agree(
        b'{"status": "SUCCESS", "result": [' + number + b'], "retries": ' + number + b', "task_id": "%s"}' % ID.encode()
    )


@pytest.mark.parametrize(
    "value",
    [
        b"-0",
        b"-0.0",
        b"1E400",
        b"-1e400",
        b"1e-400",
        b"18446744073709551616",
        b"-9223372036854775809",
        b"9" * 4300,
        b"9" * 4301,
        b"9" * 400 + b".5",
        b"5e-324",
        b"2.2250738585072011e-308",
        b"NaN",
        b"-Infinity",
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'"\\ud83d\\ude00"',
        b'"\\ud83d\\u0041"',
        b'"\xed\xa0\x80"',
        b'"\xff"',
        b'"\x00"',
        b'"\t"',
        b'"\x7f"',
        b'"\\/"',
        b'"\\x"',
        b"01",
        b"1.",
        b".5",
        b"+1",
        b"[1,]",
        b"[,1]",
        b"{,}",
        b'{"a":1,"a":2}',
        b'{"a":1,"b":3,"a":2}',
        b"nul",
        b"tru",
        b"[" * 500 + b"]" * 500,
        b"[" * 99999,
        b"1\x00",
    ],
)
def test_the_two_ways_agree_about_odd_values(value: bytes) -> None:
    agree(b'{"status": "SUCCESS", "result": ' + value + b', "task_id": "%s"}' % ID.encode())


def test_the_fast_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Codec, "_plain", lambda *_: pytest.fail("the slow way"))
    values: list[Any] = [5, "tëxt \n\u2028", [1.5, None, True], {"a": {"b": []}}, 2**70]
    for result in values:
        assert PLAIN.decode(ID, record(result=result)).result == result
    extended = record(name="t", args=[1], kwargs={}, worker="w@h", queue="q", retries=0, group_id="g", parent_id="p")
    assert PLAIN.decode(ID, extended).queue == "q"


@pytest.mark.parametrize("result", [None, {"a": [1.5, 'é"\\']}, date(2024, 1, 2), b"\xff", float("nan")], ids=repr)
@pytest.mark.parametrize("date_done", [None, "2024-01-02T00:00:00+00:00"])
def test_the_short_way_of_writing_writes_the_same(result: object, date_done: str | None) -> None:
    meta = TaskMeta(task_id=ID, status="SUCCESS", result=result, _date_done=date_done)
    assert PLAIN.encode_plain(ID, "SUCCESS", result, date_done) == PLAIN.encode(meta)


@pytest.mark.parametrize("key", ["__type__", r"\u005f_type__", r"__t\u0079pe__", r"__typ\u0065\u005F_"])
def test_a_tag_is_one_however_it_is_spelled(key: str) -> None:
    payload = record(result="?").replace(b'"?"', b'{"%s": "date", "__value__": "2024-01-02"}' % key.encode())
    assert PLAIN.decode(ID, payload).result == date(2024, 1, 2)
    assert PLAIN.decode_large(ID, payload).result == date(2024, 1, 2)


@pytest.mark.parametrize("key", ["(extra)", r"\u0028extra)", r"(e\u0078tra)"])
def test_no_field_of_the_record_can_be_forged(key: str) -> None:
    """The Struct's own name for `extra` is just another unknown field."""
    payload = record(stamp="?").replace(b'"stamp"', b'"%s"' % key.encode())
    assert PLAIN.decode(ID, payload).extra == {"(extra)": "?"}
    payload = payload.replace(b'"?"', b'{"status": "x"}')
    assert PLAIN.decode(ID, payload).extra == {"(extra)": {"status": "x"}}
    assert PLAIN.decode(ID, payload.replace(b'{"status": "x"}', b"null")).extra == {}


def test_an_empty_record_is_that_of_a_pending_task() -> None:
    assert PLAIN.decode(ID, b"") == PLAIN.decode_large(ID, b"") == TaskMeta(task_id=ID, status=PENDING)


@pytest.mark.parametrize(
    "payload", [b'{"status": "X"}', b'{"status": "X", "task_id": null}', b'{"status": "X", "task_id": ""}']
)
def test_a_record_without_id_belongs_to_its_key(payload: bytes) -> None:
    assert PLAIN.decode(ID, payload) == TaskMeta(task_id=ID, status="X")


def test_unknown_fields_are_kept() -> None:
    meta = PLAIN.decode(ID, record(stamped_headers=["k"], k={"__type__": "bytes", "__value__": "v"}))
    assert meta.extra == {"stamped_headers": ["k"], "k": b"v"}


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b'{"status": "SUCCESS", "task_id": "other"}', "another task, other"),
        (b'{"status": "SUCCESS", "task_id": "a\\nb"}', r"another task, a\\nb"),
        (b'{"status": "SUCCESS", "task_id": 5}', "another task, 5"),
        (b'{"status": "SUCCESS", "task_id": []}', r"another task, \[\]"),
        (b'{"status": "SUCCESS", "task_id": ' + json.dumps(VAGUE).encode() + b"}", "another task, <Vague object whose"),
        (b'{"result": 1}', "'status' is missing or not a text"),
        (b'{"status": 1}', "'status' is missing or not a text"),
        (b"[]", "of type list, not a mapping"),
        (b"null", "of type NoneType, not a mapping"),
        (b'"x"', "of type str, not a mapping"),
        (b"{", "Expecting property name"),
        (b"   ", "Expecting value"),
        (b'\xef\xbb\xbf{"status": "X"}', "JSONDecodeError"),
        (b'{"status": "X"}\x00', "Extra data"),
        (b'{"status": "\xff"}', "UnicodeDecodeError"),
        (b'{"status": "X", "result": ' + b"9" * 5000 + b"}", "4300 digits"),
        (b'{"status": "X", "result": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"status": "X", "result": {"__type__": "no", "__value__": 1}}', "no decoder is registered for .* 'no'"),
        (b'{"status": "X", "result": {"__type__": [], "__value__": 1}}', "unhashable"),
        (b'{"status": "X", "result": {"__type__": "uuid", "__value__": "x"}}', "uuid"),
        (b"\x80\x04}\x94.", "pickle, which is never loaded: set result_serializer='json'"),
        (b"(dp0\nVstatus\np1\n", "pickle, which is never loaded"),
        (b"}q\x00(X\x06\x00\x00\x00status", "pickle, which is never loaded"),
        (b"\x86\xa6status\xa7SUCCESS", r"looks like MessagePack: accept=\('json', 'msgpack'\)"),
        (b"\xde\x00\x10", "looks like MessagePack"),
        (b"children: []\nstatus: SUCCESS\n", r"looks like YAML: accept=\('json', 'yaml'\)"),
    ],
)
def test_unreadable(payload: bytes, words: str) -> None:
    for read in (PLAIN.decode, PLAIN.decode_large):
        with pytest.raises(ResultDecodeError, match=words) as caught:
            read(ID, payload)
        assert type(caught.value) is ResultDecodeError
        assert caught.value.task_id == ID
        assert ID in str(caught.value)
        assert caught.value.raw == payload[:200]
        # Or else the error would keep the whole document alive.
        assert caught.value.__context__ is None
        assert caught.value.__cause__ is None


def test_bad_times_and_children_do_not_hide_the_result() -> None:
    meta = PLAIN.decode(ID, record(result=1, date_done="yesterday", children="abc"))
    assert (meta.result, meta.children) == (1, "abc")
    with pytest.raises(ResultDecodeError, match="not an ISO 8601 time"):
        _ = meta.date_done


@settings(max_examples=150)
@given(
    st.binary(max_size=60) | st.binary(max_size=20).map(lambda b: compression.COMPRESSED + b"application/x-gzip\0" + b)
)
def test_arbitrary_bytes_raise_nothing_else(payload: bytes) -> None:
    for reader in (PLAIN, Codec(accept=("json", "msgpack")), Codec(serializer="msgpack", accept=())):
        for read in (reader.decode, reader.decode_large, reader.decode_group):
            outcome(read, ID, payload)


@settings(max_examples=150)
@given(spelled(st.fixed_dictionaries({"result": VALUES, "status": st.just(FAILURE)}) | DOCUMENTS | VALUES))
def test_arbitrary_documents_raise_nothing_else(payload: bytes) -> None:
    outcome(PLAIN.decode_group, ID, payload)
    try:
        meta = PLAIN.decode(ID, payload)
    except ResultDecodeError:
        return
    exc = PLAIN.exception(meta)
    assert (exc is None) is (meta.status not in EXCEPTION_STATES or (meta.status == RETRY and not meta.result))


def test_groups() -> None:
    tree = (("g", None), [(("a", None), None), (("b", (("p", None), None)), None)])
    payload = PLAIN.encode_group(tree)
    assert payload == b'{"result": [["g", null], [[["a", null], null], [["b", [["p", null], null]], null]]]}'
    assert PLAIN.decode_group("g", payload) == [["g", None], [[["a", None], None], [["b", [["p", None], None]], None]]]
    assert PLAIN.decode_group("g", b"") is None
    for broken in (b"[]", b"{}", b"{", b"\x80\x04N."):
        with pytest.raises(ResultDecodeError, match="'g'"):
            PLAIN.decode_group("g", broken)
    with pytest.raises(ResultEncodeError):
        PLAIN.encode_group(object())


def test_a_state_that_is_null_is_one_that_is_not_final() -> None:
    """Celery's update_state(meta=…) without a state."""
    meta = PLAIN.decode(ID, record(result={"percent": 50}, status=None))
    assert (meta.status, meta.ready, meta.result) == ("", False, {"percent": 50})
    assert PLAIN.decode_large(ID, record(status=None)).status == ""


def test_ids_may_be_tagged_as_uuids() -> None:
    def tagged(id: str) -> dict[str, Any]:
        return {"__type__": "uuid", "__value__": {"hex": id.replace("-", "")}}

    other = "5ac6d4a9-7f0c-4d0c-8a3e-1f4f4fb2a111"
    payload = json.dumps({"status": SUCCESS, "parent_id": tagged(other), "group_id": tagged(ID), "task_id": tagged(ID)})
    meta = PLAIN.decode(ID, payload.encode())
    assert (meta.task_id, meta.parent_id, meta.group_id) == (ID, other, ID)
    with pytest.raises(ResultDecodeError, match=f"another task, {ID}"):
        PLAIN.decode(other, payload.encode())


@pytest.mark.parametrize("value", [5, 1.5, True, {}, {"a": 1}, [], [1], ["x", None]])
@pytest.mark.parametrize("name", ["traceback", "name", "worker", "queue", "parent_id", "group_id", "retries"])
def test_an_optional_field_of_an_odd_type_does_not_cost_the_result(name: str, value: Any) -> None:
    """Other languages write numbers here, and a stamp may have the name of a field."""
    payload = record(result=1, **{name: value})
    for meta in (PLAIN.decode(ID, payload), PLAIN.decode_large(ID, payload)):
        assert meta.result == 1
        if name == "retries" and type(value) is int:
            assert meta.retries == value
        elif name == "traceback" and value == []:
            assert meta.traceback == ""
        else:
            assert getattr(meta, name) is None
            assert meta.extra == {name: value}
            assert PLAIN.decode(ID, PLAIN.encode(meta)) == meta  # kept as it was
    exc = PLAIN.exception(PLAIN.decode(ID, record(status=FAILURE, **{name: value})))
    assert type(exc) is TaskFailed


def test_a_traceback_in_lines() -> None:
    assert PLAIN.decode(ID, record(traceback=["Traceback\n", "  x\n", "E: y"])).traceback == "Traceback\n  x\nE: y"


# -- what an event loop has the time for ---------------------------------------------------------------------------


def test_small_is_what_is_small_when_it_is_read() -> None:
    pytest.importorskip("yaml")
    large = record(result="x" * LARGE_PAYLOAD_BYTES)
    assert PLAIN.decode_small(ID, record(result="x" * 1000)) is not None
    assert PLAIN.decode_small(ID, large) is None
    assert PLAIN.decode_small(ID, compressed("application/x-gzip", zlib.compress(large))) is None
    assert PLAIN.decode_small(ID, compressed("application/x-gzip", zlib.compress(record(result=1)))) is not None
    yaml = b"status: SUCCESS\nresult: " + b"x" * 2000
    assert WIDE.decode_small(ID, yaml) is None
    assert WIDE.decode_small(ID, yaml[:500]) is not None
    assert WIDE.decode(ID, yaml).result == "x" * 2000


@pytest.mark.parametrize("number", ["1e300", "-5e-324", "1.7976931348623157e308", "1E+300", "2.5e-310"])
def test_numbers_on_which_msgspec_takes_long_are_left_to_the_library(
    number: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number takes it 20 us, which makes a second of 250 kB."""
    text = b'{"status": "SUCCESS", "task_id": "%s", "result": [%s]}'
    payload = text % (ID.encode(), b", ".join([number.encode()] * 2000))
    monkeypatch.setattr(codec, "_fast_decode", lambda _: pytest.fail("read by msgspec"))
    fast = pieces._fast_decode
    monkeypatch.setattr(
        pieces, "_fast_decode", lambda text: fast(text) if len(text) < 4096 else pytest.fail("read by msgspec")
    )
    monkeypatch.setattr(pieces, "PIECE_BYTES", 8192)
    small = PLAIN.decode_small(ID, payload)
    assert small is not None
    assert small.result == PLAIN.decode_large(ID, payload).result == [float(number)] * 2000
    monkeypatch.undo()
    taken: list[bytes] = []
    whole = codec._fast_decode
    monkeypatch.setattr(codec, "_fast_decode", lambda payload: taken.append(payload) or whole(payload))
    ids = b", ".join([b'"0ce123f6-e1e3-1e45-0e99-00001e300000"'] * 200)
    assert len(PLAIN.decode(ID, text % (ID.encode(), ids)).result) == 200
    assert taken


# -- as a mapping --------------------------------------------------------------------------------------------------


def test_a_record_as_a_mapping() -> None:
    meta = PLAIN.decode(ID, record(result=1, children=[], date_done="2024-01-02T00:00:00+00:00", stamp="s", name="n"))
    fields = meta.to_dict()
    assert json.loads(json.dumps(fields)) == fields
    assert fields == {
        "status": "SUCCESS", "task_id": ID, "result": 1, "traceback": None, "children": [], "group_id": None,
        "parent_id": None, "name": "n", "args": None, "kwargs": None, "worker": None, "retries": None, "queue": None,
        "heartbeat": None, "traceparent": None, "extra": {"stamp": "s"}, "date_done": "2024-01-02T00:00:00+00:00",
    }  # fmt: skip


def test_a_record_is_a_type_for_pydantic() -> None:
    pydantic = pytest.importorskip("pydantic")
    adapter = pydantic.TypeAdapter(TaskMeta)
    meta = PLAIN.decode(ID, record(result={"a": [1]}, children=[[["c", None], None]], stamp="s"))
    written = adapter.dump_python(meta, mode="json")
    assert written == meta.to_dict()
    assert adapter.validate_python(meta) is meta
    assert adapter.validate_python(written) == meta
    for wrong in (5, {"status": "X", "nonsense": 1}, {}):
        with pytest.raises(pydantic.ValidationError):
            adapter.validate_python(wrong)
    schema = adapter.json_schema(mode="serialization")
    assert set(schema["properties"]) == set(written)
    assert schema["required"] == ["status", "task_id"]


def test_an_endpoint_of_fastapi_may_return_a_record() -> None:
    fastapi = pytest.importorskip("fastapi")
    meta = PLAIN.decode(ID, record(result=1))
    app = fastapi.FastAPI()

    async def state() -> TaskMeta:
        return meta

    app.get("/state")(state)
    state.__annotations__["return"] = TaskMeta
    answer = app.openapi()["paths"]["/state"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer["properties"]["status"] == {"type": "string"}
