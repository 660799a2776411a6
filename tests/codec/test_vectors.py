"""The codec against the records of real workers."""

from __future__ import annotations

import base64
from fnmatch import fnmatchcase
from typing import Any

import pytest

from asyncresult.codec import (
    Codec,
    codec,
)
from asyncresult.errors import (
    ResultDecodeError,
)
from asyncresult.states import EXCEPTION_STATES, PROPAGATE_STATES
from tests.codec.records import (
    CAPTURED,
    READABLE,
    VECTORS,
    raw,
)

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
