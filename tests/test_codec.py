"""The codec against records of real workers, against Celery's own encoder, and against hostile bytes."""

from __future__ import annotations

import base64
import bz2
import gc
import importlib.util
import json
import lzma
import math
import pickle
import sys
import traceback
import tracemalloc
import types
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncresult.codec import Codec, RemoteTraceback, codec, convert, register_type
from asyncresult.codec import exceptions as _failures
from asyncresult.codec import json as _values
from asyncresult.errors import (
    ResultDecodeError,
    ResultEncodeError,
    ResultTimeout,
    ResultTooLarge,
    ResultTypeError,
    TaskFailed,
    TaskRevoked,
)
from asyncresult.meta import TaskMeta
from asyncresult.states import EXCEPTION_STATES, FAILURE, PENDING, PROPAGATE_STATES, RETRY, REVOKED, SUCCESS

DATA = Path(__file__).parent / "data"
VECTORS = {vector["name"]: vector for vector in json.loads((DATA / "celery-vectors.json").read_text("utf-8"))}
READABLE = [name for name, vector in VECTORS.items() if vector["kind"] in ("result", "synthetic", "group")]
ID = "25baadff-294c-4052-ba25-e6470da86411"
WIDE = Codec(accept=("json", "msgpack", "yaml"))
PLAIN = Codec()


def raw(vector: dict[str, Any]) -> bytes:
    text = vector["raw_value"]
    if text is None:
        return b""  # no key: to the codec, an empty record
    return base64.b64decode(text) if vector["raw_encoding"] == "base64" else text.encode()


def record(**fields: Any) -> bytes:
    return json.dumps({"status": SUCCESS, "result": None, **fields, "task_id": ID}).encode()


def failure(exc_type: Any = "ValueError", args: Any = ("x",), module: Any = "builtins", **fields: Any) -> TaskMeta:
    stored = {"exc_type": exc_type, "exc_message": args, "exc_module": module}
    return TaskMeta(task_id=ID, status=FAILURE, result=stored, **fields)


def raised(stored: Any, status: str = FAILURE, reader: Codec = PLAIN) -> Exception:
    exc = reader.exception(TaskMeta(task_id=ID, status=status, result=stored))
    assert exc is not None
    return exc


def failed(exc: BaseException, status: str = FAILURE, **fields: Any) -> TaskMeta:
    return TaskMeta(task_id=ID, status=status, result=PLAIN.encode_exception(exc), **fields)


def slow(payload: bytes) -> TaskMeta:
    return PLAIN._read(ID, payload)


@pytest.fixture
def vexc() -> Iterator[types.ModuleType]:
    """The module of the workers' exceptions, imported by the reader."""
    spec = importlib.util.spec_from_file_location("vexc", DATA / "vexc.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["vexc"] = module
    yield module
    del sys.modules["vexc"]


# -- records of real workers -------------------------------------------------------------------------------------

#: What we read differently from stock Celery: names, the aspect that differs, what our exception is instead, why.
#: The first row that fits counts. A difference that is gone fails the test, as one that is not in the table does.
INTENDED: list[tuple[str, str, str, str]] = [
    ("pickle/failure_unimportable", "", "", "no pickle is loaded, but this one was unreadable for stock, too"),
    ("pickle*/*", "readable", "", "no pickle is loaded"),
    ("*/failure_custom_not_imported", "exception", "TaskFailed", "stock makes a class up, which no except can name"),
    ("*/failure_unimportable", "exception", "TaskFailed", "likewise"),
    ("synthetic/exc_missing_*", "exception", "TaskFailed", "likewise"),
    ("synthetic/exc_dotted_missing", "exception", "TaskFailed", "likewise"),
    ("synthetic/exc_no_module_key", "exception", "TaskFailed", "likewise: no module, no look-up"),
    ("synthetic/exc_module_null", "exception", "TaskFailed", "likewise"),
    ("json/user_failure_without_module", "exception", "TaskFailed", "likewise"),
    ("json/failure_local_class", "exception", "TaskFailed", "the wrapper is unwrapped; the class is nowhere"),
    ("*/failure_ctor_mismatch", "exception", "Mismatch", "the wrapper is unwrapped: what the task raised"),
    ("json/failure_exception_group", "exception", "TaskFailed", "cannot be rebuilt; stock has a bare Exception"),
    ("synthetic/exc_message_not_fitting", "exception", "TwoArgs", "no constructor has to take the arguments"),
    ("json/failure_stopiteration", "exception", "TaskFailed", "it could not leave a coroutine"),
    ("json/failure_cancellederror", "exception", "TaskFailed", "it would cancel the caller"),
    ("synthetic/exc_system_exit", "exception", "TaskFailed", "it would end the caller"),
    ("synthetic/exc_keyboard_interrupt", "exception", "TaskFailed", "likewise"),
    ("*revoked*", "exception", "TaskRevoked", "one class, with or without Celery"),
    ("json/expired", "exception", "TaskRevoked", "likewise"),
    ("synthetic/exc_through_attributes", "exception", "TaskFailed", "the walk does not cross modules"),
    ("synthetic/exc_os_system", "readable", "TaskFailed", "a forged class is a failed task, not the reader's error"),
    ("synthetic/exc_builtins_eval", "readable", "TaskFailed", "likewise"),
    ("synthetic/exc_popen", "readable", "TaskFailed", "likewise"),
    ("synthetic/exc_int", "readable", "TaskFailed", "likewise"),
    ("synthetic/exc_not_an_exception", "readable", "TaskFailed", "likewise"),
    ("synthetic/exc_module_attribute", "readable", "TaskFailed", "likewise"),
    ("synthetic/exc_module_itself", "readable", "TaskFailed", "likewise"),
    ("synthetic/exc_no_type", "readable", "TaskFailed", "a failure without a type is a failure"),
    ("synthetic/exc_string", "readable", "TaskFailed", "likewise"),
    ("synthetic/exc_number", "readable", "TaskFailed", "likewise"),
    ("synthetic/exc_null", "exception", "TaskFailed", "likewise: stock's get() dies of having nothing to raise"),
    ("synthetic/exc_empty_dict", "exception", "TaskFailed", "likewise"),
    ("synthetic/date_done_[015]", "date_done", "", "a time without offset is UTC"),
    ("synthetic/date_done_tagged", "date_done", "", "likewise"),
    ("synthetic/children_bare_id", "children", "", "the codec leaves children as they are; the handles normalise"),
    ("synthetic/children_bad", "readable", "", "bad children are an error of who asks for them"),
]


def shown(exc: Exception | None) -> Any:
    if exc is None:
        return None
    name = f"{type(exc).__module__}.{type(exc).__qualname__}"
    return {"type": name, "args_repr": repr(exc.args), "str": str(exc), "repr": repr(exc)}


def observed(vector: dict[str, Any]) -> dict[str, Any]:
    """What we make of a record, in the words of the vectors."""
    reader = Codec(accept=("json", *{vector["celery_config"].get("result_serializer", "json")} - {"pickle"}))
    if vector["kind"] == "group":
        try:
            return {"as_tuple": reader.decode_group(vector["group_id"], raw(vector))}
        except ResultDecodeError:
            return {"readable": False}
    try:
        meta = reader.decode(vector["task_id"], raw(vector))
    except ResultDecodeError:
        return {"readable": False}
    exc = reader.exception(meta)
    value = exc if meta.status in EXCEPTION_STATES else meta.result
    seen: dict[str, Any] = {
        "readable": True,
        "exception": shown(exc),
        "result_type": f"{type(value).__module__}.{type(value).__qualname__}",
        "result_repr": repr(value),
        "traceback_present": meta.traceback is not None,
        "get": {True: "returns", False: None}[meta.successful] if meta.status not in PROPAGATE_STATES else "raises",
    }
    if meta.traceback:
        seen["traceback_last_line"] = meta.traceback.strip().splitlines()[-1]
    try:
        seen["date_done"] = meta.date_done and meta.date_done.isoformat()
    except ResultDecodeError:
        seen["date_done"] = "unreadable"
    for name in ("status", "ready", "successful", "failed", "children", *codec._OPTIONAL_FIELDS):
        seen[name] = getattr(meta, name)
    return seen


def expected(vector: dict[str, Any]) -> dict[str, Any]:
    """What stock Celery made of it, in the same shape."""
    stock = dict(vector["expected"])
    if "read_raises" in stock or "state_raises" in stock:
        return {"readable": False}
    if vector["kind"] == "group":
        return {"as_tuple": stock["as_tuple"]}
    exc = stock.get("exception")
    stock["exception"] = exc and {key: exc[key] for key in ("type", "args_repr", "str", "repr")}
    if "date_done_raises" in stock:
        stock["date_done"] = "unreadable"
    return {"readable": True, "get": None, "group_id": None, "parent_id": None, **stock}


@pytest.mark.parametrize("name", READABLE)
def test_reads_what_celery_wrote(name: str, request: pytest.FixtureRequest) -> None:
    """Each captured record is what stock Celery makes of it, but for the differences in the table."""
    for module in ("celery.exceptions", "celery.utils.serialization", "billiard.exceptions", "kombu.exceptions"):
        pytest.importorskip(module)
    vector = VECTORS[name]
    if vector["celery_config"].get("result_serializer") == "yaml":
        pytest.importorskip("yaml")
    if "brotli" in vector["celery_config"].get("result_compression", ""):
        pytest.importorskip("brotli")
    if "vexc" in vector["reader_modules"]:
        request.getfixturevalue("vexc")
    ours, stock = observed(vector), expected(vector)
    if ours.get("readable") is not stock.get("readable"):
        different = {"readable"}
    else:
        different = {key for key in ours if key in stock and ours[key] != stock[key]}
    if "exception" in different:
        different -= {"result_type", "result_repr"}  # they show the exception, too
    aspect, type_name = next((row[1:3] for row in INTENDED if fnmatchcase(name, row[0])), ("", ""))
    assert different == ({aspect} if aspect else set())
    if type_name:
        assert ours["exception"]["type"].rpartition(".")[2] == type_name


def test_every_intended_difference_is_about_a_record() -> None:
    unused = [row[0] for row in INTENDED if not any(fnmatchcase(name, row[0]) for name in READABLE)]
    assert unused == []


CAPTURED = [name for name in READABLE if VECTORS[name]["kind"] != "synthetic" and VECTORS[name]["raw_value"]]


@pytest.mark.parametrize(
    "name", [n for n in CAPTURED if not n.startswith("pickle") and n != "json/success_tag_unknown"]
)
def test_writes_what_celery_wrote(name: str) -> None:
    """Read and written again, each captured record is the same, byte for byte; so are the states published before."""
    vector = VECTORS[name]
    serializer = vector["celery_config"].get("result_serializer", "json")
    if serializer == "yaml":
        pytest.importorskip("yaml")
    if "result_compression" in vector["celery_config"]:
        pytest.skip("the bytes depend on the version of the compressor")
    writer = Codec(serializer=serializer)
    payloads = [raw(vector)]
    for message in vector["published"]:
        data = message["data"]
        payloads.append(base64.b64decode(data) if message["encoding"] == "base64" else data.encode())
    for payload in payloads:
        if vector["kind"] == "group":
            written = writer.encode_group(writer.decode_group(vector["group_id"], payload))
        else:
            written = writer.encode(writer.decode(vector["task_id"], payload))
        assert written == payload


# -- the fast way and the slow way -------------------------------------------------------------------------------

# Letters that matter to one decoder or another.
TEXTS = st.text(list('aet_ "\\/,:[]{}0-.\n\x00\x1f\x7f\u00e9\u2028\ud7ff\ue000\uffff\U0001f600')) | st.sampled_from(
    ["__type__", "__value__", "(extra)", "task_id", "\x00", ""]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=20
)
NAMES = sorted(codec._FIELDS - {"task_id", "status"})
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from([SUCCESS, FAILURE, RETRY, REVOKED, "PROGRESS", ""]) | LEAVES,
        "task_id": st.sampled_from([ID, "", "other"]) | LEAVES,
        **dict.fromkeys(NAMES, VALUES),
        "traceback": st.none() | TEXTS | LEAVES,
        "retries": st.none() | st.integers() | LEAVES,
        "(extra)": st.none() | VALUES,
        "stamp": VALUES,
    },
)


@st.composite
def spelled(draw: st.DrawFn, documents: st.SearchStrategy[Any] = DOCUMENTS) -> bytes:
    """A JSON text of a document, in one of the many ways to write it."""
    text = json.dumps(
        draw(documents),
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, 0, 2, "\t"])),
        separators=draw(st.sampled_from([None, (",", ":"), (" , ", " : ")])),
    )
    if draw(st.booleans()):
        letter = draw(st.sampled_from(list('_aet"1.5{')))
        escape = f"\\u{ord(letter):04x}"
        text = text.replace(letter, draw(st.sampled_from([escape, escape.upper().replace("U", "u"), letter])), 3)
    return text.encode("utf-8", "surrogatepass")


def outcome(read: Any, *args: Any) -> str:
    """What a reader makes of it, in a form in which NaN equals NaN and 1 is not 1.0."""
    try:
        return repr(read(*args))
    except ResultDecodeError:
        return "refused"


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
    for result in (5, "tëxt \n\u2028", [1.5, None, True], {"a": {"b": []}}, 2**70):
        assert PLAIN.decode(ID, record(result=result)).result == result
    extended = record(name="t", args=[1], kwargs={}, worker="w@h", queue="q", retries=0, group_id="g", parent_id="p")
    assert PLAIN.decode(ID, extended).queue == "q"


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
    assert PLAIN.decode(ID, payload.replace(b'{"status": "x"}', b"null")).extra is None


# -- what a record has to be -------------------------------------------------------------------------------------


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
        (b'{"result": 1}', "'status' is missing or not a text"),
        (b'{"status": 1}', "'status' is missing or not a text"),
        (b'{"status": null}', "'status' is missing or not a text"),
        (b'{"status": "X", "name": 5}', "'name' is not a text"),
        (b'{"status": "X", "worker": []}', "'worker' is not a text"),
        (b'{"status": "X", "queue": {}}', "'queue' is not a text"),
        (b'{"status": "X", "traceback": true}', "'traceback' is not a text"),
        (b'{"status": "X", "parent_id": 5}', "'parent_id' is not a text"),
        (b'{"status": "X", "group_id": 5}', "'group_id' is not a text"),
        (b'{"status": "X", "retries": 1.0}', "'retries' is not a whole number"),
        (b'{"status": "X", "retries": true}', "'retries' is not a whole number"),
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
    with pytest.raises(ResultDecodeError, match="yesterday"):
        _ = meta.date_done


@settings(max_examples=150)
@given(st.binary(max_size=60) | st.binary(max_size=20).map(lambda b: _values.COMPRESSED + b"application/x-gzip\0" + b))
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


# -- size and compression ----------------------------------------------------------------------------------------


def compressed(content_type: str, body: bytes) -> bytes:
    return _values.COMPRESSED + content_type.encode() + b"\0" + body


def test_too_large_names_both_sizes_and_the_option() -> None:
    reader = Codec(max_result_bytes=100)
    payload = record(result="x" * 100)
    for read in (reader.decode, reader.decode_large, reader.decode_group):
        with pytest.raises(ResultTooLarge, match=rf"{ID}.* has {len(payload)} bytes.*max_result_bytes=100$"):
            read(ID, payload)
    fits = b'{"status": "SUCCESS", "task_id": "i"}'
    assert Codec(max_result_bytes=len(fits)).decode("i", fits).successful
    with pytest.raises(ResultTooLarge):
        Codec(max_result_bytes=len(fits) - 1).decode("i", fits)


@pytest.mark.parametrize("name", ["gzip", "zlib", "bzip2", "bzip", "lzma", "xz", "brotli", "zstd", "zstandard"])
def test_compression_round_trip(name: str) -> None:
    try:
        writer = Codec(compression=name)
    except ValueError as missing:
        pytest.skip(str(missing))
    meta = TaskMeta(task_id=ID, status=SUCCESS, result=["é" * 10, {"n": [1, 2, 3]}] * 6000)
    payload = writer.encode(meta)
    assert payload.startswith(b"\0celery-compressed\0application/")
    assert PLAIN.decode(ID, payload) == PLAIN.decode_large(ID, payload) == meta
    tree = [["g", None], []]
    assert PLAIN.decode_group("g", writer.encode_group(tree)) == tree
    kombu = pytest.importorskip("kombu.compression")
    base = pytest.importorskip("celery.backends.base")
    if hasattr(base, "decompress_payload"):
        assert base.decompress_payload(payload) == PLAIN.encode(meta)
    body, content_type = kombu.compress(PLAIN.encode(meta), name)
    assert PLAIN.decode(ID, compressed(content_type, body)) == meta
    for broken in (payload[:-1], payload[:-5], payload[:60], payload[:40], payload[:45] + b"xx" + payload[47:]):
        with pytest.raises(ResultDecodeError, match="cannot be read"):
            PLAIN.decode(ID, broken)


@pytest.mark.parametrize("size", [0, _values.CHUNK_BYTES, _values.CHUNK_BYTES - 1, 2 * _values.CHUNK_BYTES])
@pytest.mark.parametrize("name", ["gzip", "bzip2", "lzma", "brotli", "zstd"])
def test_content_that_ends_with_a_chunk(name: str, size: int) -> None:
    try:
        content_type, module = _values.compression(name)
    except ValueError as missing:
        pytest.skip(str(missing))
    text = b" " * size
    assert b"".join(_values.decompressed(content_type, module.compress(text))) == text


@pytest.mark.parametrize("name", ["gzip", "bzip2", "lzma", "brotli", "zstd"])
def test_a_bomb_does_not_go_off(name: str) -> None:
    """It is given up at the limit, with hardly more memory than that."""
    try:
        content_type, module = _values.compression(name)
    except ValueError as missing:
        pytest.skip(str(missing))
    limit = 4 * 1024 * 1024
    bomb = compressed(content_type, module.compress(b"[" * (8 * limit)))
    reader = Codec(max_result_bytes=limit)
    tracemalloc.start()
    try:
        for read in (reader.decode, reader.decode_large, reader.decode_group):
            with pytest.raises(
                ResultTooLarge, match=rf"has {len(bomb)} bytes .* at least \d{{7}}.*max_result_bytes={limit}"
            ):
                read(ID, bomb)
        dictionary = 12 * 1024 * 1024 if name == "lzma" else 0
        assert tracemalloc.get_traced_memory()[1] < 2 * limit + dictionary
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (compressed("application/x-nope", b"abc"), "unknown compression 'application/x-nope'"),
        (compressed("application/x-gzip", b"abc"), "incorrect header"),
        (compressed("application/x-gzip", b""), "cut short"),
        (compressed("application/x-gzip", zlib.compress(b"{}" * 99)[:-6]), "cut short"),
        (compressed("application/x-bz2", bz2.compress(b"{}" * 99)[:-6]), "cut short"),
        (compressed("application/x-lzma", lzma.compress(b"{}" * 99)[:-6]), "cut short"),
        (compressed("application/x-gzip", zlib.compress(pickle.dumps({}))), "pickle"),
        (compressed("application/x-gzip", zlib.compress(b"[1]")), "of type list"),
        (b"\0celery-compressed\0\xff\0", "UnicodeDecodeError"),
        (b"\0celery-compressed\0", "unknown compression ''"),
        (b"\0something", "Expecting value"),
    ],
)
def test_broken_compression(payload: bytes, words: str) -> None:
    for read in (PLAIN.decode, PLAIN.decode_large):
        with pytest.raises(ResultDecodeError, match=words):
            read(ID, payload)


def test_a_stream_does_not_get_all_the_memory_it_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = compressed("application/x-lzma", lzma.compress(record(), preset=9))
    assert PLAIN.decode(ID, payload).successful
    monkeypatch.setattr(_values, "_LZMA_MEMORY", 32 * 1024 * 1024)
    with pytest.raises(ResultDecodeError, match="Memory usage limit"):
        PLAIN.decode(ID, payload)


def test_twice_compressed_is_not_unwrapped_twice() -> None:
    once = Codec(compression="gzip").encode(TaskMeta(task_id=ID, status=SUCCESS))
    with pytest.raises(ResultDecodeError):
        PLAIN.decode(ID, compressed("application/x-gzip", zlib.compress(once)))


def test_a_missing_module_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_values._modules, "application/zstd", None)
    with pytest.raises(ValueError, match=r"zstd needs Python 3\.14 or the package backports\.zstd"):
        Codec(compression="zstd")
    with pytest.raises(ResultDecodeError, match=r"backports\.zstd"):
        PLAIN.decode(ID, compressed("application/zstd", b"x"))


# -- other serializers -------------------------------------------------------------------------------------------


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="never loads pickles"):
        Codec(serializer="pickle")
    with pytest.raises(ValueError, match="never loads pickles"):
        Codec(accept=("json", "application/x-python-serialize"))
    with pytest.raises(ValueError, match="unknown serializer 'cbor'"):
        Codec(accept=("cbor",))
    with pytest.raises(ValueError, match="unknown compression 'zip'"):
        Codec(compression="zip")
    with pytest.raises(ValueError, match="positive"):
        Codec(max_result_bytes=0)
    for cls in (KeyboardInterrupt, StopIteration, ExceptionGroup, ResultTimeout, "ValueError", len):
        with pytest.raises(ValueError, match="exceptions="):
            Codec(exceptions=(cls,))  # type: ignore[arg-type]  # on purpose
    assert Codec(accept="application/json").decode(ID, b"").status == PENDING


def test_yaml_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ValueError, match=r"pip install 'asyncresult\[yaml\]'"):
        Codec(accept=("json", "yaml"))


def test_only_what_is_accepted_is_read() -> None:
    pytest.importorskip("yaml")
    meta = TaskMeta(task_id=ID, status=SUCCESS, result={"n": [1, 2.5, None, "é"], "b": b"\xff"})
    for name in ("msgpack", "yaml"):
        payload = Codec(serializer=name).encode(meta)
        assert Codec(accept=("json", name)).decode(ID, payload) == meta
        assert Codec(serializer=name).decode_large(ID, payload) == meta
        with pytest.raises(ResultDecodeError, match="looks like"):
            PLAIN.decode(ID, payload)
    with pytest.raises(ResultDecodeError, match=r"looks like JSON: accept=\('json',\)"):
        Codec(serializer="msgpack", accept=()).decode(ID, record())
    # JSON is YAML, too.
    assert Codec(serializer="yaml", accept=()).decode(ID, record(result=[1])).result == [1]


@pytest.mark.parametrize(
    "value",
    [
        date(2024, 1, 2),
        Decimal(1),
        uuid.UUID(int=5),
        {1},
        {date(2024, 1, 2): 1},
        object(),
        2**70,
        "\ud800",
        [{"a": {1}}],
    ],
)
def test_msgpack_writes_nothing_that_it_could_not_read(value: Any) -> None:
    with pytest.raises(ResultEncodeError):
        Codec(serializer="msgpack").encode(TaskMeta(task_id=ID, status=SUCCESS, result=value))


@pytest.mark.parametrize(
    "text",
    [
        "status: SUCCESS\nresult: &a [*a]\n",
        "status: X\na: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)),
    ],
)
def test_yaml_that_multiplies(text: str) -> None:
    pytest.importorskip("yaml")
    with pytest.raises(ResultDecodeError, match="multiply beyond all measure"):
        WIDE.decode(ID, text.encode())


@pytest.mark.parametrize(
    "text", ["status: [", "- 1", "status: X\n1: 2", "? [1]\n: 2", "status: 2024-99-99", "!!python/object:os.system {}"]
)
def test_yaml_that_is_no_record(text: str) -> None:
    pytest.importorskip("yaml")
    with pytest.raises(ResultDecodeError):
        WIDE.decode(ID, text.encode())


def test_yaml_may_refer_to_itself_in_moderation() -> None:
    pytest.importorskip("yaml")
    shared = [1, 2]
    meta = TaskMeta(task_id=ID, status=SUCCESS, result=[shared, shared], date_done_raw="2024-01-02T00:00:00+00:00")
    payload = Codec(serializer="yaml").encode(meta)
    assert b"*id001" in payload
    assert WIDE.decode(ID, payload) == meta


# -- in pieces ---------------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(
    spelled() | spelled(VALUES.map(lambda value: {"status": SUCCESS, "result": value})), st.sampled_from([12, 40, 200])
)
def test_pieces_make_the_same_record(payload: bytes, piece_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_values, "PIECE_BYTES", piece_bytes)
        assert outcome(PLAIN.decode_large, ID, payload) == outcome(PLAIN.decode, ID, payload)


@settings(max_examples=150)
@given(spelled(VALUES), st.sampled_from([12, 40]), st.integers(0, 200), st.integers(0, 3), st.binary(max_size=2))
def test_pieces_take_nothing_that_is_not_json(text: bytes, piece_bytes: int, at: int, cut: int, put: bytes) -> None:
    """What decode_in_pieces takes is what json takes, and what it calls broken is broken; also of a damaged text."""
    text = text[:at] + put + text[at + cut :]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_values, "PIECE_BYTES", piece_bytes)
        try:
            value = _values.decode_in_pieces(text)
        except _values.NotInPieces:
            return
        except (ValueError, TypeError):
            with pytest.raises((ValueError, TypeError)):
                _values.json_decode(text.decode())
            return
    assert repr(value) == repr(_values.json_decode(text.decode()))


LONG = '"' + "long, " * 20 + '"'
NOT_JSON = r"""
[,] [,1] [1,] [1,,2] {,} {,"a":1} {"a":1,} [1}2} [1} {"a":1] [1]1 [1]] [LONG,] [,LONG] [LONG,,1] [LONG1] [LONG}
{"a":LONG] {"a":LONG,} {"a"LONG} {"a",LONG} {LONG} {1:LONG} {:LONG} [LONG [LONG, {"a":LONG {"a":LONG, {"a":
{"a [[LONG] LONG1 LONG,
"\xLONG" "\u12LONG" LONGLONG [LONG]LONG [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25} [
"""


@pytest.mark.parametrize("text", ["", " ", "[ , 1]", "[1 2]", LONG[:-1], "1" * 200, *NOT_JSON.split()])
@pytest.mark.parametrize("piece_bytes", [16, 64, 4096])
def test_pieces_are_as_strict_as_json(text: str, piece_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_values, "PIECE_BYTES", piece_bytes)
    with pytest.raises((_values.NotInPieces, ValueError)):
        _values.decode_in_pieces(text.replace("LONG", LONG).encode())


@pytest.mark.parametrize("piece_bytes", range(12, 60))
def test_characters_are_not_cut(piece_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither between the halves of a surrogate pair, nor in an escape, nor in a character of UTF-8."""
    monkeypatch.setattr(_values, "PIECE_BYTES", piece_bytes)
    text = "\U0001f600\n\\é" * 40
    for ascii_only in (True, False):
        assert _values.decode_in_pieces(json.dumps(text, ensure_ascii=ascii_only).encode()) == text


@pytest.mark.parametrize(
    "text",
    ["{SPACE}", "[SPACE]", '{"a": {SPACE}}', "[1, 2SPACE]", "[trueSPACE]", '{"a"SPACE:SPACE[1]SPACE}', "[-1.DIGITS]"],
)
@pytest.mark.parametrize("piece_bytes", [16, 64])
def test_what_is_only_unusual_is_not_called_broken(
    text: str, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_values, "PIECE_BYTES", piece_bytes)
    text = text.replace("SPACE", " \n" * 100).replace("DIGITS", "5" * 200)
    try:
        assert _values.decode_in_pieces(text.encode()) == json.loads(text)
    except _values.NotInPieces:
        pass
    assert PLAIN.decode_large(ID, f'{{"status": "X", "result": {text}}}'.encode()).result == json.loads(text)


RECORDS = ", ".join(f'{{"id": {n}, "tags": ["a", "b"]}}' for n in range(2000))


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (f"[{RECORDS}, nul, {RECORDS}]", r"Expecting value, about byte \d{5} \(read as json\)$"),
        (f"[{RECORDS}, {{1: 2}}, {RECORDS}]", "Expecting property name .*, about byte"),
        (f"[{RECORDS}, , {RECORDS}]", "Expecting value, about byte"),
        (f"[{RECORDS},]", "a comma has nothing after it, about byte"),
        (f"[{RECORDS}}}", "Expecting|a comma or the end is missing, about byte"),
        (f'{{"a": [{RECORDS}], 5: [{RECORDS}]}}', "a key is missing, about byte"),
        (f'{{"a": [{RECORDS}], "b"; [{RECORDS}]}}', "a colon is missing, about byte"),
        (f"[{RECORDS}]}} x", "more follows after its end, about byte"),
        (f'[{RECORDS}, {{"__type__": "nope", "__value__": 1}}]', "no decoder is registered for .*'nope'"),
        (f'[{RECORDS}, "\udcff"]', "UnicodeDecodeError"),
    ],
)
def test_what_is_broken_is_not_decoded_as_a_whole(result: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That would stop the event loop for as long as a good record of the size would."""
    payload = f'{{"status": "SUCCESS", "result": {result}}}'.encode(errors="surrogateescape")
    with pytest.raises(ResultDecodeError):
        PLAIN.decode(ID, payload)
    monkeypatch.setattr(_values, "PIECE_BYTES", 4096)
    monkeypatch.setattr(codec, "_fast_decode", lambda _: pytest.fail("decoded as a whole"))
    with pytest.raises(ResultDecodeError, match=words) as caught:
        PLAIN.decode_large(ID, payload)
    assert caught.value.__context__ is None


def test_a_text_that_is_cut_short_is_noticed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = record(result=[[n] for n in range(2000)])[:-5]
    monkeypatch.setattr(_values, "PIECE_BYTES", 4096)
    monkeypatch.setattr(codec, "_fast_decode", lambda _: pytest.fail("decoded as a whole"))
    with pytest.raises(ResultDecodeError, match="it is cut short"):
        PLAIN.decode_large(ID, payload)


@settings(max_examples=150)
@given(st.binary(max_size=150), st.integers(0, 200), st.integers(0, 3), st.binary(max_size=2))
def test_base64_in_pieces_is_what_it_is_as_a_whole(value: bytes, at: int, cut: int, put: bytes) -> None:
    """Also where it is damaged: Python's decoder skips what it does not know, and so does Celery."""
    text = base64.b64encode(value)
    text = text[:at] + put + text[at + cut :]

    def read(decode: Any) -> Any:
        try:
            return decode(text)
        except ValueError:
            return "refused"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_values, "PIECE_BYTES", 16)
        assert read(_values._from_base64) == read(base64.b64decode)


def full_collections() -> int:
    count: int = gc.get_stats()[-1]["collections"]
    return count


@pytest.fixture
def eager_collector(thawed_collector: None) -> Iterator[None]:
    """Thresholds so low that a short text brings full collections."""
    before = gc.get_threshold()
    gc.set_threshold(500, 5, 5)
    gc.collect()
    yield
    gc.set_threshold(*before)


MANY_CONTAINERS = record(result=[[[]] for _ in range(300_000)])


@pytest.mark.usefixtures("eager_collector")
def test_no_full_collection_while_a_large_record_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would stop all threads for as long as it takes to look at every container of the process."""
    monkeypatch.setattr(_values, "PIECE_BYTES", 4096)
    monkeypatch.setattr(_values._FullCollections, "_possible", False)
    before = full_collections()
    meta = PLAIN.decode_large(ID, MANY_CONTAINERS)
    if full_collections() == before:
        pytest.skip("this Python's collector works in another way")
    monkeypatch.undo()
    monkeypatch.setattr(_values, "PIECE_BYTES", 4096)
    before = full_collections()
    assert PLAIN.decode_large(ID, MANY_CONTAINERS) == meta
    assert full_collections() == before
    assert gc.get_freeze_count() <= _values._FullCollections.FROZEN_BY_PYTHON
    assert gc.isenabled()


@pytest.mark.usefixtures("thawed_collector")
def test_full_collections_are_not_put_off_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_values, "PIECE_BYTES", 4096)
    freezes: list[None] = []
    monkeypatch.setattr(gc, "freeze", lambda: freezes.append(None))
    monkeypatch.setattr(gc, "get_stats", lambda: [{"collections": 1}])  # it never comes
    reader = _values._FullCollections()
    monkeypatch.setattr(_values._FullCollections, "LIMIT", len(MANY_CONTAINERS) // 2)
    monkeypatch.setattr(_values, "_full_collections", reader)
    PLAIN.decode_large(ID, MANY_CONTAINERS)
    pieces = len(MANY_CONTAINERS) // 4096
    assert 0.4 * pieces < len(freezes) < 0.6 * pieces
    before = len(freezes)
    PLAIN.decode_large(ID, record(result="x" * 5000))
    assert len(freezes) == before
    monkeypatch.setattr(gc, "get_stats", lambda: [{"collections": 2}])  # now it came
    PLAIN.decode_large(ID, record(result="x" * 5000))
    assert len(freezes) > before


@pytest.mark.usefixtures("thawed_collector")
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen by the application", "collector switched off"])
def test_the_applications_own_settings_of_the_collector_stand(frozen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_values, "PIECE_BYTES", 4096)
    monkeypatch.setattr(gc, "unfreeze", lambda: pytest.fail("thawed what the application froze"))
    try:
        if frozen:
            gc.freeze()
        else:
            gc.disable()
        count = gc.get_freeze_count()
        PLAIN.decode_large(ID, MANY_CONTAINERS)
        assert (gc.get_freeze_count(), gc.isenabled()) == (count, frozen)
    finally:
        gc.enable()
        monkeypatch.undo()
        gc.unfreeze()


def test_nothing_is_lost_beside_a_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of a mapping is decoded with a key of our own, which must not be one of the mapping's."""
    monkeypatch.setattr(_values, "PIECE_BYTES", 80)
    value = {"\0": 0, "__type__": 1, "long": "x" * 200}
    assert PLAIN.decode_large(ID, record(result=value)).result == value


SHAPES: dict[str, Any] = {
    "records": [{"id": i, "name": f"name {i}", "tags": ["a", {"b": [i]}], "v": i * 1.5} for i in range(3000)],
    "numbers": list(range(40_000)),
    "pairs": [[i, -i] for i in range(20_000)],
    "texts": [f'some "text" {i}, é\n' for i in range(9000)],
    "mapping of lists": {f"key {i}": list(range(50)) for i in range(800)},
    "big in big": {"a": {"b": {"c": [list(range(9000)), {"d": "e" * 30_000}, 5]}, "f": None}},
    "one text": "plain text, " * 20_000,
    "one text with escapes": 'é "\\ \n\U0001f600' * 10_000,
    "bytes": b"\xff\x00 bytes" * 20_000,
    "not a number": [[math.inf, 1, {"x": 2}]] * 9000,
    "tags": [{"when": datetime(2024, 1, 2, tzinfo=UTC), "sum": Decimal("1.50")}] * 3000,
    "almost a tag": {"__type__": "datetime", "__value__": "junk", "third": "x" * 20_000},
    "spread tag": {"__type__": "nope", "more": list(range(9000)), "__value__": "x"},
}


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_pieces_are_small(shape: str, ascii_only: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No call into a decoder, and no search for the end of a piece, gets more than a piece."""
    payload = Codec().encode(TaskMeta(task_id=ID, status=SUCCESS, result=SHAPES[shape]))
    if not ascii_only:
        payload = json.dumps(json.loads(payload), ensure_ascii=False).encode()
    whole = repr(PLAIN.decode(ID, payload))
    sizes: list[int] = []

    def counted(decode: Any) -> Any:
        def call(text: Any) -> Any:
            sizes.append(len(text))
            return decode(text)

        return call

    monkeypatch.setattr(_values, "PIECE_BYTES", 4096)
    monkeypatch.setattr(_values, "_fast_decode", counted(_values._fast_decode))
    monkeypatch.setattr(_values, "json_decode", counted(_values.json_decode))
    monkeypatch.setattr(codec, "_fast_decode", lambda _: pytest.fail("decoded as a whole"))
    assert repr(PLAIN.decode_large(ID, payload)) == whole
    assert max(sizes) <= 4096 + 32
    assert len(sizes) >= len(payload) // 4096


def test_deep_nesting_is_left_to_the_decoder() -> None:
    value: Any = 0
    for _ in range(300):
        value = [value, {"k": value}] if not value else [value]
    payload = record(result=[value] * 300)
    assert PLAIN.decode_large(ID, payload) == PLAIN.decode(ID, payload)
    with pytest.raises(_values.NotInPieces):
        _values.decode_in_pieces(payload)


# -- exceptions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "exc",
    [
        ValueError("boom"),
        KeyError("k"),
        RuntimeError(),
        OSError("only text"),
        OSError(2, "No such file"),
        FileNotFoundError(2, "No such file"),
        BlockingIOError(11, "again"),
        TimeoutError("t"),
        ConnectionError(104, "r"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        UnicodeEncodeError("ascii", "é", 0, 1, "no"),
        UnicodeTranslateError("é", 0, 1, "no"),
        SyntaxError("invalid syntax", ("f.py", 3, 5, "x =", 3, 6)),
        SyntaxError("plain"),
        IndentationError("unexpected", ("f.py", 1, 2, " x", 1, 3)),
        ImportError("no module"),
        ModuleNotFoundError("no module"),
        AttributeError("attr"),
        NameError("name"),
        ZeroDivisionError("by zero"),
        MemoryError(),
        RecursionError("deep"),
        AssertionError({"a": 1}, [2]),
        EOFError(None),
        UserWarning("w"),
        LookupError(datetime(2024, 1, 2, tzinfo=UTC), Decimal("1.5"), b"\xff", uuid.UUID(int=7)),
        NotImplementedError("no"),
    ],
    ids=repr,
)
def test_builtin_exceptions_come_back_whole(exc: Exception) -> None:
    meta = failed(exc)
    back = PLAIN.exception(PLAIN.decode(ID, PLAIN.encode(meta)))
    assert type(back) is type(exc)
    assert (str(back), repr(back), back.args) == (str(exc), repr(exc), exc.args)
    for name in ("errno", "strerror", "filename", "msg", "lineno", "text", "object", "start", "reason"):
        assert getattr(back, name, None) == getattr(exc, name, None)
    assert back.__traceback__ is None


def test_errno_and_filename_are_understood() -> None:
    exc = raised({"exc_type": "OSError", "exc_message": [13, "denied", "f.txt"], "exc_module": "builtins"})
    assert type(exc) is PermissionError
    assert (exc.errno, exc.filename, str(exc)) == (13, "f.txt", "[Errno 13] denied: 'f.txt'")


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("UnicodeDecodeError", ["x"]),
        ("SyntaxError", ["m", [1]]),
        ("ExceptionGroup", ["m", ["x"]]),
    ],
)
def test_arguments_that_do_not_fit_a_builtin(name: str, args: list[Any]) -> None:
    exc = raised({"exc_type": name, "exc_message": args, "exc_module": "builtins"})
    assert type(exc) is TaskFailed
    assert (exc.exc_type, exc.exc_module, exc.exc_args) == (name, "builtins", tuple(args))


def test_each_exception_is_fresh() -> None:
    meta = failure(traceback="Traceback …\nValueError: x\n")
    first, second = PLAIN.exception(meta), PLAIN.exception(meta)
    assert first is not second
    assert first is not None
    assert second is not None
    assert first.__cause__ is not second.__cause__
    assert first.__notes__ is not second.__notes__


@pytest.mark.parametrize("status", [SUCCESS, PENDING, "STARTED", "PROGRESS", "BROKEN"])
def test_no_exception_in_other_states(status: str) -> None:
    assert PLAIN.exception(TaskMeta(task_id=ID, status=status, result=failure().result)) is None


def test_retries() -> None:
    assert PLAIN.exception(TaskMeta(task_id=ID, status=RETRY, result=None)) is None
    exc = raised(failure().result, RETRY)
    assert repr(exc) == "ValueError('x')"
    assert exc.__notes__ == [f"task {ID} is to be retried"]


def test_the_traceback_reads_well() -> None:
    exc = PLAIN.exception(
        failure(
            traceback="Traceback (most recent call last):\n  …\nValueError: x\n", name="app.resize", worker="w1@lab"
        )
    )
    assert exc is not None
    text = "".join(traceback.format_exception(exc))
    assert text.startswith(
        'asyncresult.codec.RemoteTraceback: \n"""\nTraceback (most recent call last):\n  …\nValueError: x\n"""\n'
    )
    assert "The above exception was the direct cause of the following exception:" in text
    assert text.endswith(f"ValueError: x\ntask app.resize {ID} failed on w1@lab\n")
    cause = pickle.loads(pickle.dumps(exc.__cause__))
    assert isinstance(cause, RemoteTraceback)
    assert str(cause) == str(exc.__cause__)
    assert str(RemoteTraceback()) == ""
    plain = PLAIN.exception(failure())
    assert plain is not None
    assert plain.__cause__ is None


def test_names_are_escaped() -> None:
    exc = PLAIN.exception(failure("Bad\nType\x1b[31m", module="mod\rule", name="na\nme", worker="w\u202e"))
    assert str(exc) == r"mod\rule.Bad\nType\x1b[31m: x"
    assert exc.__notes__ == [rf"task na\nme {ID} failed on w\u202e"]
    assert exc.exc_type == "Bad\nType\x1b[31m"  # the fact itself is as it was recorded
    assert len(str(raised({"exc_type": "x" * 10_000, "exc_module": "m"}))) < 300


@pytest.mark.parametrize(
    ("stored", "message", "args"),
    [
        ({"exc_type": "Foo", "exc_message": ["x"], "exc_module": "gone"}, "gone.Foo: x", ("x",)),
        ({"exc_type": "Foo", "exc_message": [], "exc_module": "gone"}, "gone.Foo", ()),
        ({"exc_type": "Foo", "exc_message": ["a", 1], "exc_module": "gone"}, "gone.Foo: ('a', 1)", ("a", 1)),
        ({"exc_type": "Foo", "exc_message": "text"}, "Foo: text", ("text",)),
        ({"exc_type": "Foo", "exc_module": "gone"}, "gone.Foo", ("",)),
        ({"exc_type": "Foo", "exc_message": None}, "Foo: None", (None,)),
        ({"exc_type": "Foo", "exc_message": {"a": 1}, "exc_module": 5}, "Foo: {'a': 1}", ({"a": 1},)),
        ({"exc_message": ["x"]}, "x", ("x",)),
        ({"exc_type": None, "exc_message": ["x"]}, "x", ("x",)),
        ({"exc_type": "", "exc_message": ["x"], "exc_module": "m"}, "x", ("x",)),
        ({"exc_type": 5, "exc_message": ["x"], "exc_module": "m"}, "x", ("x",)),
        ({"reason": "mine"}, "{'reason': 'mine'}", ({"reason": "mine"},)),
        ([["exc_type", "Foo"], ["exc_message", ["q"]]], "Foo: q", ("q",)),
        ([1, 2], "[1, 2]", ([1, 2],)),
        ([[[], 1]], "[[[], 1]]", ([[[], 1]],)),
        ("text", "text", ("text",)),
        (5, "5", (5,)),
        (None, "the worker recorded no exception", ()),
        ({}, "the worker recorded no exception", ()),
        ("", "the worker recorded no exception", ()),
        (
            {
                "exc_type": "UnpickleableExceptionWrapper",
                "exc_module": "celery.utils.serialization",
                "exc_message": ["gone", "Local", ["a", 1], "Local('a', 1)"],
            },
            "gone.Local: ('a', 1)",
            ("a", 1),
        ),
        (
            {
                "exc_type": "UnpickleableExceptionWrapper",
                "exc_module": "celery.utils.serialization",
                "exc_message": [None, 5, "text"],
            },
            "text",
            ("text",),
        ),
        (
            {"exc_type": "UnpickleableExceptionWrapper", "exc_module": "gone", "exc_message": ["a", "b", "c"]},
            "gone.UnpickleableExceptionWrapper: ('a', 'b', 'c')",
            ("a", "b", "c"),
        ),
    ],
)
def test_all_forms_of_a_stored_exception(stored: Any, message: str, args: tuple[Any, ...]) -> None:
    exc = raised(stored)
    assert type(exc) is TaskFailed
    assert (str(exc), exc.exc_args, exc.task_id) == (message, args, ID)


def test_arguments_that_cannot_be_shown() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert str(raised({"exc_type": "Foo", "exc_message": [deep]})) == "Foo: (arguments that cannot be shown)"


def test_revoked() -> None:
    stored = {"exc_type": "TaskRevokedError", "exc_message": ["terminated"], "exc_module": "celery.exceptions"}
    for status in (REVOKED, FAILURE):
        exc = raised(stored, status)
        assert type(exc) is TaskRevoked
        assert (str(exc), exc.exc_type, exc.exc_module) == ("terminated", "TaskRevokedError", "celery.exceptions")
        assert exc.exc_args == ("terminated",)
    assert str(raised(None, REVOKED)) == "revoked"
    own = raised(failure().result, REVOKED)
    assert type(own) is TaskRevoked
    assert (str(own), own.exc_type, own.exc_module) == ("x", "ValueError", "builtins")
    assert own.__notes__ == [f"task {ID} was revoked"]


def test_errors_of_ours_are_told_from_those_of_others() -> None:
    """A timeout that the worker met is no timeout of this wait."""
    meta = failed(ResultTimeout("late", task_id="other", timeout=20))
    exc = PLAIN.exception(meta)
    assert type(exc) is TaskFailed
    assert str(exc) == "asyncresult.errors.ResultTimeout: late"


# -- hostile names -----------------------------------------------------------------------------------------------

RAN: list[str] = []


class _Meta(type):
    def __call__(cls, *args: Any) -> Any:
        RAN.append("metaclass call")
        return super().__call__(*args)

    def __getattribute__(cls, name: str) -> Any:
        RAN.append(f"metaclass {name}")
        return super().__getattribute__(name)

    def __eq__(cls, other: object) -> bool:
        RAN.append("metaclass eq")
        return True

    def __hash__(cls) -> int:
        RAN.append("metaclass hash")
        return 0

    def __instancecheck__(cls, instance: object) -> bool:
        RAN.append("metaclass instancecheck")
        return True

    def __subclasscheck__(cls, subclass: type) -> bool:
        RAN.append("metaclass subclasscheck")
        return True

    @property
    def __mro__(cls) -> Any:  # type: ignore[override]
        RAN.append("metaclass mro")
        return (ValueError, Exception)


class _Hostile(ValueError, metaclass=_Meta):
    def __new__(cls, *args: Any) -> Any:
        RAN.append("new")
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        RAN.append("init")

    def __getattribute__(self, name: str) -> Any:
        RAN.append(f"get {name}")
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        RAN.append(f"set {name}")

    def add_note(self, note: str) -> None:
        RAN.append("note")

    Inner = KeyError


class _HostileOS(OSError):
    def __init__(self, *args: Any) -> None:
        RAN.append("init")


class _Proxy:
    """Claims to be a class, as lazy objects do."""

    @property
    def __class__(self) -> Any:
        RAN.append("class")
        return type

    def __getattr__(self, name: str) -> Any:
        RAN.append(f"get {name}")
        return ValueError


class _LazyModule(types.ModuleType):
    def __getattribute__(self, name: str) -> Any:
        RAN.append(f"module {name}")
        return super().__getattribute__(name)

    @property
    def Lazy(self) -> Any:
        RAN.append("property")
        return ValueError


@pytest.fixture
def hostile() -> Iterator[str]:
    module = _LazyModule("hostile_module")
    space: dict[str, Any] = types.ModuleType.__dict__["__dict__"].__get__(module)
    space.update(
        __getattr__=lambda name: RAN.append(name) or ValueError,
        Hostile=_Hostile,
        HostileOS=_HostileOS,
        proxy=_Proxy(),
        other=sys,
        function=lambda *args: RAN.append("called"),
        instance=ValueError("x"),
        Both=type("Both", (SystemExit, ValueError.__mro__[1]), {}),
        Stop=type("Stop", (StopIteration,), {}),
        Group=type("Group", (ExceptionGroup,), {}),
        Plain=type("Plain", (), {"Nested": ValueError, "os": importlib, "prop": property(lambda self: ValueError)}),
    )
    sys.modules["hostile_module"] = module
    sys.modules["hostile_object"] = _Proxy()  # type: ignore[assignment]
    RAN.clear()
    yield "hostile_module"
    del sys.modules["hostile_module"], sys.modules["hostile_object"]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("builtins", "int"),
        ("builtins", "type"),
        ("builtins", "object"),
        ("builtins", "__import__"),
        ("builtins", "__loader__"),
        ("builtins", "BaseException"),
        ("builtins", "SystemExit"),
        ("builtins", "KeyboardInterrupt"),
        ("builtins", "GeneratorExit"),
        ("builtins", "StopIteration"),
        ("builtins", "StopAsyncIteration"),
        ("builtins", "BaseExceptionGroup"),
        ("asyncio", "CancelledError"),
        ("asyncio.exceptions", "CancelledError"),
        ("subprocess", "Popen"),
        ("subprocess", "os.error"),
        ("os", "path"),
        ("os", "path.os.error"),
        ("os", "sys.modules"),
        ("builtins", ""),
        ("builtins", "ValueError."),
        ("builtins", ".ValueError"),
        ("builtins", "ValueError.__class__"),
        ("builtins", "ValueError.__base__"),
        ("builtins", "ValueError.__init__"),
        ("builtins", "ValueError.__mro__"),
        ("builtins", "__builtins__.ValueError"),
        ("builtins", "__dict__"),
        ("", "ValueError"),
        ("antigravity", "E"),
        ("this", "E"),
        ("no.such.module", "E"),
        ("..", "E"),
        ("os\0", "error"),
        ("json.tool", "E"),
        ("hostile_module", "proxy"),
        ("hostile_module", "proxy.ValueError"),
        ("hostile_module", "missing"),
        ("hostile_module", "Lazy"),
        ("hostile_module", "function"),
        ("hostile_module", "instance"),
        ("hostile_module", "other.exc_info"),
        ("hostile_module", "Both"),
        ("hostile_module", "Stop"),
        ("hostile_module", "Group"),
        ("hostile_module", "Plain"),
        ("hostile_module", "Plain.os"),
        ("hostile_module", "Plain.prop"),
        ("hostile_module", "Plain.os.util"),
        ("hostile_object", "ValueError"),
        ("hostile_object", "anything"),
        ("asyncresult.errors", "TaskFailed"),
        ("asyncresult.errors", "BackendClosed"),
    ],
)
def test_hostile_names(module: str, name: str, hostile: str) -> None:
    before = dict(sys.modules)
    exc = raised({"exc_type": name, "exc_message": ["echo pwned"], "exc_module": module})
    assert type(exc) is TaskFailed
    assert (exc.exc_type, exc.exc_module) == (name or "Exception", module)
    assert exc.exc_args == ("echo pwned",)
    assert sys.modules == before
    assert RAN == []


def test_no_code_of_a_class_runs(hostile: str) -> None:
    stored = {"exc_type": "Hostile", "exc_message": ["a", 1], "exc_module": hostile}
    exc = PLAIN.exception(TaskMeta(task_id=ID, status=FAILURE, result=stored, traceback="text", worker="w"))
    nested = raised({"exc_type": "Hostile.Inner", "exc_message": ["k"], "exc_module": hostile})
    system = raised({"exc_type": "HostileOS", "exc_message": [2, "no", "f"], "exc_module": hostile})
    ran = list(RAN)
    assert ran == []
    assert type(exc) is _Hostile
    assert type(nested) is KeyError
    assert BaseException.__dict__["args"].__get__(exc) == ("a", 1)
    assert str(BaseException.__dict__["__cause__"].__get__(exc)) == '\n"""\ntext"""'
    assert type(system) is _HostileOS
    assert (system.errno, system.filename, str(system)) == (2, "f", "[Errno 2] no: 'f'")


class _NeedsInit(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
        self.made = True

    def __str__(self) -> str:
        return f"code {self.code}"


class _Picky(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(one, two)
        if one < 0:
            raise SystemError("picky")


class _Liar(Exception):
    def __new__(cls, *args: Any) -> Any:
        return 5


def stored_as(cls: type[BaseException], *args: Any) -> dict[str, Any]:
    return {"exc_type": cls.__qualname__, "exc_message": list(args), "exc_module": cls.__module__}


def test_listed_exceptions_are_constructed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Local(Exception):
        pass

    reader = Codec(exceptions=[_NeedsInit, _Picky, _Liar, Local])
    exc = raised(stored_as(_NeedsInit, 7), reader=reader)
    assert type(exc) is _NeedsInit
    assert (exc.code, exc.made, str(exc)) == (7, True, "code 7")
    assert exc.__notes__ == [f"task {ID} failed"]
    for misfit in (stored_as(_Picky, 1), stored_as(_Picky, -1, 0), stored_as(_Liar)):
        assert type(raised(misfit, reader=reader)) is TaskFailed
    # Nobody can find it by its name, but here it is; also as Celery stores what cannot be pickled.
    assert type(raised(stored_as(Local, "x"), reader=reader)) is Local
    wrapper = {"exc_type": "UnpickleableExceptionWrapper", "exc_module": "celery.utils.serialization"}
    wrapper["exc_message"] = [Local.__module__, "Local", ["x"], "Local('x')"]  # type: ignore[assignment]
    assert type(raised(wrapper, reader=reader)) is Local
    assert type(raised(wrapper)) is TaskFailed


def test_unlisted_exceptions_are_not(vexc: types.ModuleType) -> None:
    exc = raised({"exc_type": "Mismatch", "exc_message": ["a", "b"], "exc_module": "vexc"})
    assert type(exc) is vexc.Mismatch
    assert exc.args == ("a", "b")
    nested = raised({"exc_type": "Outer.Nested", "exc_message": "in", "exc_module": "vexc"})
    assert type(nested) is vexc.Outer.Nested


def test_what_could_not_be_shown_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """`_NeedsInit` without its constructor has no code, and its str() would fail in every log."""
    monkeypatch.setitem(sys.modules, "needy", types.ModuleType("needy"))
    monkeypatch.setattr(sys.modules["needy"], "NeedsInit", _NeedsInit, raising=False)
    exc = raised({"exc_type": "NeedsInit", "exc_message": [7], "exc_module": "needy"})
    assert type(exc) is TaskFailed
    assert str(exc) == "needy.NeedsInit: 7"


# -- writing -----------------------------------------------------------------------------------------------------


class _Json:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __json__(self) -> Any:
        return self.value


class _Number(IntEnum):
    ONE = 1


class _Word(StrEnum):
    A = "a"


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
    | st.sampled_from([_Number.ONE, _Word.A])
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
        task_id=ID, status=SUCCESS, result=1, traceback="t", children_raw=(),
        date_done_raw=datetime(2024, 1, 2, tzinfo=UTC),
        group_id="g", parent_id="p", name="n", args=(1,), kwargs={"k": 2}, worker="w", retries=0, queue="q",
        extra={"stamped_headers": ["s"], "s": 1, "status": "forged", "task_id": "forged"},
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
    native = TaskMeta(task_id=ID, status=SUCCESS, date_done_raw=datetime(2024, 1, 2, 3, tzinfo=UTC))
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


def test_exceptions_are_written_as_celery_does() -> None:
    when = datetime(2024, 1, 2, tzinfo=UTC)
    encoded = PLAIN.encode_exception(KeyError("k", (1, (2,)), when, {1}, {"t": ()}))
    assert encoded == {
        "exc_type": "KeyError",
        "exc_message": ["k", [1, [2]], when, "{1}", {"t": []}],
        "exc_module": "builtins",
    }
    assert list(encoded) == ["exc_type", "exc_message", "exc_module"]
    assert PLAIN.encode_exception(_NeedsInit(5))["exc_type"] == "_NeedsInit"
    group = PLAIN.encode_exception(ExceptionGroup("eg", [ValueError(1)]))
    assert group["exc_message"] == ["eg", "[ValueError(1)]"]
    assert PLAIN.encode_exception(KeyboardInterrupt())["exc_type"] == "KeyboardInterrupt"


def test_failures_that_were_read_are_passed_on() -> None:
    stored = {"exc_type": "Outer.Gone", "exc_message": ["a", 1], "exc_module": "gone"}
    assert PLAIN.encode_exception(raised(stored)) == stored
    revoked = {"exc_type": "TaskRevokedError", "exc_message": ["expired"], "exc_module": "celery.exceptions"}
    assert PLAIN.encode_exception(raised(revoked, REVOKED)) == revoked
    assert PLAIN.encode_exception(TaskRevoked("expired")) == revoked
    own = PLAIN.encode_exception(TaskFailed("mine"))
    assert own == {"exc_type": "TaskFailed", "exc_message": ["mine"], "exc_module": "asyncresult.errors"}


def test_stock_celery_reads_what_we_write() -> None:
    celery = pytest.importorskip("celery")
    backend = celery.Celery(backend="cache+memory://", set_as_current=False).backend
    when = datetime(2024, 1, 2, tzinfo=UTC)
    meta = backend.decode_result(
        PLAIN.encode(TaskMeta(task_id=ID, status=SUCCESS, result={"when": when, "b": b"\xff"}, date_done_raw=when))
    )
    assert meta["result"] == {"when": when, "b": b"\xff"}
    meta = backend.decode_result(PLAIN.encode(failed(KeyError("k"), traceback="tb")))
    assert repr(meta["result"]) == "KeyError('k')"
    meta = backend.decode_result(PLAIN.encode(failed(TaskRevoked("terminated"), REVOKED)))
    assert repr(meta["result"]) == "TaskRevokedError('terminated')"


class _Point:
    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Point) and (self.x, self.y) == (other.x, other.y)

    __hash__ = object.__hash__


def test_registered_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_values, "_encoders", dict(_values._encoders))
    monkeypatch.setattr(_values, "_decoders", dict(_values._decoders))
    register_type(_Point, "point", lambda p: [p.x, p.y], lambda xy: _Point(*xy))
    meta = TaskMeta(task_id=ID, status=SUCCESS, result=[_Point(1, 2)])
    payload = PLAIN.encode(meta)
    assert b'[{"__type__": "point", "__value__": [1, 2]}]' in payload
    assert PLAIN.decode(ID, payload) == PLAIN.decode_large(ID, payload) == meta
    with pytest.raises(ResultDecodeError, match="TypeError"):
        PLAIN.decode(ID, payload.replace(b"[1, 2]}", b"[1]}"))
    register_type(_Point, None, lambda p: {"x": p.x})
    assert b'[{"x": 1}]' in PLAIN.encode(meta)


# -- groups ------------------------------------------------------------------------------------------------------


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


# -- the type that a caller expects ------------------------------------------------------------------------------


@dataclass
class Row:
    id: int
    when: datetime | None = None


class Options(TypedDict):
    size: int


class Shape(msgspec.Struct):
    name: str
    points: list[tuple[int, int]]


NOW = datetime(2024, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "type_", "converted"),
    [
        ({"a": 1}, Any, {"a": 1}),
        (5, None, 5),
        (5, int, 5),
        (5, float, 5.0),
        (None, int | None, None),
        ([1, 2], tuple[int, int], (1, 2)),
        ({"1": 2}, dict[int, int], {1: 2}),
        ([{"id": 1, "when": NOW}], list[Row], [Row(1, NOW)]),
        ([{"id": 1, "when": NOW.isoformat()}], list[Row], [Row(1, NOW)]),
        ({"size": 1}, Options, {"size": 1}),
        ({"name": "n", "points": [[1, 2]]}, Shape, Shape("n", [(1, 2)])),
        (NOW, datetime, NOW),
        (Decimal("1.5"), Decimal, Decimal("1.5")),
        (uuid.UUID(int=5), uuid.UUID, uuid.UUID(int=5)),
        (str(uuid.UUID(int=5)), uuid.UUID, uuid.UUID(int=5)),
        (b"x", bytes, b"x"),
        (time(3), time, time(3)),
        ("a", _Word, _Word.A),
        ([1], set[int], {1}),
    ],
)
def test_convert(value: Any, type_: Any, converted: Any) -> None:
    result = convert(value, type_, task_id=ID)
    assert result == converted
    assert type(result) is type(converted)


@pytest.mark.parametrize(
    ("value", "type_", "words"),
    [
        ("1", int, "not of the type int: Expected `int`, got `str`"),
        ([{"id": 1}, {"id": "x"}], list[Row], r"list\[.*Row\]: Expected `int`, got `str` - at `result\[1\]\.id`"),
        ("aGVsbG8=", bytes, "not of the type bytes"),
        ({}, Row, "not of the type Row: Object missing required field `id`"),
        (None, int, "got `null`"),
        (1, "int", "'int'"),
        (1, 3, "not of the type 3"),
        (NOW, str | datetime, "may not contain more than one str-like type"),
    ],
)
def test_convert_refuses(value: Any, type_: Any, words: str) -> None:
    with pytest.raises(ResultTypeError, match=words) as caught:
        convert(value, type_, task_id=ID)
    assert caught.value.task_id == ID
    assert ID in str(caught.value)


def test_convert_with_pydantic() -> None:
    pydantic = pytest.importorskip("pydantic")
    item = pydantic.create_model("Item", id=(int, ...), when=(datetime | None, None))
    parsed = convert([{"id": 1, "when": NOW}], list[item], task_id=ID)
    assert parsed == [item(id=1, when=NOW)]
    assert convert({"id": 1}, item, task_id=ID) == item(id=1)
    assert convert(["1"], pydantic.TypeAdapter(list[int]), task_id=ID) == [1]
    assert convert(5, Annotated[int, pydantic.Field(gt=1)], task_id=ID) == 5
    assert convert(5, Annotated[int, pydantic.Field(json_schema_extra={"x": 1}), {}], task_id=ID) == 5
    with pytest.raises(ResultTypeError, match=r"Item.*valid integer.* - at `result\[1\]\['id'\]`"):
        convert([{"id": 1}, {"id": "x"}], list[item], task_id=ID)
    with pytest.raises(ResultTypeError, match="greater than 1"):
        convert(0, Annotated[int, pydantic.Field(gt=1)], task_id=ID)


def test_nothing_is_imported() -> None:
    """Reading imports nothing, whatever the bytes are; pydantic is there only if the application has it."""
    before = set(sys.modules)
    for name in CAPTURED:
        outcome(PLAIN.decode, VECTORS[name].get("task_id", ID), raw(VECTORS[name]))
    convert({"id": 1}, Row, task_id=ID)
    assert set(sys.modules) == before
    for module in (codec, _values, _failures):
        assert "pickle" not in vars(module)
