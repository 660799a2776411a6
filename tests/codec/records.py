"""What the tests of the codec share: captured records, strategies, and records of their own."""

from __future__ import annotations

import base64
import json
from enum import StrEnum
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from asyncresult.codec import (
    Codec,
    codec,
    compression,
    register_type,
)
from asyncresult.errors import (
    ResultDecodeError,
)
from asyncresult.meta import TaskMeta
from asyncresult.states import FAILURE, RETRY, REVOKED, SUCCESS

DATA = Path(__file__).parents[1] / "data"
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
    return PLAIN._record(ID, PLAIN._document(ID, payload), payload)


CAPTURED = [name for name in READABLE if VECTORS[name]["kind"] != "synthetic" and VECTORS[name]["raw_value"]]


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


def compressed(content_type: str, body: bytes) -> bytes:
    return compression.COMPRESSED + content_type.encode() + b"\0" + body


def stored_as(cls: type[BaseException], *args: Any) -> dict[str, Any]:
    return {"exc_type": cls.__qualname__, "exc_message": list(args), "exc_module": cls.__module__}


class NeedsInit(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
        self.made = True

    def __str__(self) -> str:
        return f"code {self.code}"


class Word(StrEnum):
    A = "a"


class Vague:
    """A value of a registered type of which nothing can be said, as arrays and missing values have it."""

    def _refuse(self, *_: object) -> Any:
        raise RuntimeError("it cannot be said")

    __bool__ = __eq__ = __iter__ = __len__ = __repr__ = _refuse
    __hash__ = object.__hash__


#: Such a value, as it is stored.
VAGUE = {"__type__": "tests.vague", "__value__": None}
register_type(Vague, "tests.vague", lambda _: None, lambda _: Vague())
