"""JSON as kombu writes it: the standard library's, with tags for rich values.

Theory of operation
===================

**The language** is what Celery writes: JSON by the rules of the standard library (NaN, integers of any size, lone
surrogates, the last of two equal keys wins) with kombu's ``{"__type__": …, "__value__": …}`` for rich values.
:func:`json_decode` defines it. msgspec's decoder is ten times as fast and either refuses or agrees: it refuses
whatever is not strict JSON, and it agrees on everything else but the tags, which it does not know. So a text in
which :func:`suits_msgspec` sees ``__type__``, also when a letter of that is spelled ``\\u00XX``, is kept from it; so
is one with numbers for which it takes very long.

Source: kombu/utils/json.py (5.7).
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
import sys
import uuid
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any

import msgspec

from .exceptions import call_of_others

__all__ = [
    "SLOW_NUMBERS_BYTES",
    "Bytes",
    "escapes_ascii",
    "holds_slow_numbers",
    "json_codec",
    "json_decode",
    "json_texts",
    "register_type",
    "suits_msgspec",
    "untagged",
]

Bytes = bytes | bytearray

#: How much base64 is decoded at once: 0.1 ms, during which no other thread runs.
BASE64_BYTES = 128 * 1024

_Encoders = dict[type, tuple[str | None, Callable[[Any], Any]]]
_Decoders = dict[str, Callable[[Any], Any]]

#: What the application has registered here. It goes before kombu's registry, and that before ours.
_registered_encoders: _Encoders = {}
_registered_decoders: _Decoders = {}
# A datetime is a date too: the more special one comes first.
_encoders: _Encoders = {
    datetime: ("datetime", datetime.isoformat),
    date: ("date", date.isoformat),
    time: ("time", time.isoformat),
    Decimal: ("decimal", str),
    uuid.UUID: ("uuid", lambda value: {"hex": value.hex}),
}
_decoders: _Decoders = {
    "datetime": datetime.fromisoformat,
    "date": lambda text: datetime.fromisoformat(text).date(),
    "time": time.fromisoformat,
    "decimal": Decimal,
    "uuid": lambda fields: uuid.UUID(**fields),
    "bytes": lambda text: text.encode(),
    "base64": lambda text: _from_base64(text.encode()),
}
#: Types that msgspec leaves as they are when it takes a model apart: they have tags of their own.
_TAGGED_TYPES = (bytes, datetime, date, time, Decimal, uuid.UUID)


def _from_base64(text: bytes) -> bytes:
    """What base64.b64decode makes of it; a long text in pieces, unless it is not quite as it should be."""
    if len(text) <= BASE64_BYTES:
        return base64.b64decode(text)
    parts: list[bytes] = []
    try:
        for at in range(0, len(text), BASE64_BYTES):
            parts.append(binascii.a2b_base64(text[at : at + BASE64_BYTES], strict_mode=True))
    except ValueError:
        return base64.b64decode(text)
    if all(len(part) == BASE64_BYTES // 4 * 3 for part in parts[:-1]):  # no padding but at the end
        return b"".join(parts)
    return base64.b64decode(text)


def register_type(
    cls: type, marker: str | None, encoder: Callable[[Any], Any], decoder: Callable[[Any], Any] = lambda value: value
) -> None:
    """Let JSON records hold values of a type of yours, for every backend of this process.

    Args:
        cls: The type; instances of its subclasses are encoded likewise.
        marker: The ``__type__`` in the record. None stores what `encoder` returns as it is.
        encoder: Makes a value that can be stored of an instance.
        decoder: Makes an instance again of what `encoder` returned.

    Types that are registered with kombu are known here too, in a process that has loaded kombu. Dataclasses, attrs
    classes, ``msgspec.Struct`` and pydantic models need no registration: they are stored as plain JSON, and the
    ``type=`` of a handle reads them back.

    Source: kombu.utils.json.register_type. Worker and reader need the same registration.
    """
    _registered_encoders[cls] = (marker, encoder)
    if marker is not None:
        _registered_decoders[marker] = decoder


def _kombu(name: str) -> dict[Any, Any]:
    """A registry of kombu's JSON, if that is loaded: what workers can write, their clients can read."""
    registry = getattr(sys.modules.get("kombu.utils.json"), name, None)
    return registry if isinstance(registry, dict) else {}


def _tagged(value: Any) -> Any:
    """What json is to write for a value that is not JSON's own."""
    reducer = getattr(value, "__json__", None)
    if reducer is not None:
        return reducer()
    for registry in (_registered_encoders, _kombu("_encoders"), _encoders):
        for cls, (marker, encoder) in list(registry.items()):
            if isinstance(value, cls):
                encoded = encoder(value)
                return encoded if marker is None else {"__type__": marker, "__value__": encoded}
    if isinstance(value, bytes):
        try:
            return {"__type__": "bytes", "__value__": value.decode()}
        except UnicodeDecodeError:
            return {"__type__": "base64", "__value__": base64.b64encode(value).decode()}
    return _plain_form(value)


def _plain_form(value: Any) -> Any:
    """What a model is in JSON; ``type=`` makes a model of it again. No package is imported for it."""
    cls: Any = type(value)
    if hasattr(cls, "__pydantic_serializer__"):  # models and dataclasses of pydantic
        return cls.__pydantic_serializer__.to_python(value, mode="json", by_alias=True)
    if isinstance(value, msgspec.Struct) or hasattr(cls, "__dataclass_fields__") or hasattr(cls, "__attrs_attrs__"):
        return msgspec.to_builtins(value, builtin_types=_TAGGED_TYPES, enc_hook=_tagged)
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"Object of type {cls.__name__} is not JSON serializable")


def untagged(mapping: dict[str, Any]) -> Any:
    """The value that a mapping of exactly the two keys represents; any other mapping itself."""
    if len(mapping) != 2 or "__type__" not in mapping or "__value__" not in mapping:
        return mapping
    marker = mapping["__type__"]
    decoder = _registered_decoders.get(marker)
    if decoder is None:
        theirs = _kombu("_decoders").get(marker)
        # kombu's own decoders are those of this module, which reads large texts in pieces.
        own = theirs is None or getattr(theirs, "__module__", None) == "kombu.utils.json"
        decoder = _decoders.get(marker, theirs) if own else theirs
    if decoder is None:
        raise ValueError(f"no decoder is registered for the __type__ {marker!r}")
    return call_of_others(decoder, mapping["__value__"])


@functools.cache
def json_codec() -> tuple[Callable[[Any], str], Callable[[str], Any]]:
    """What writes and what reads, made by the first codec: the import of json takes a while (benchmarks: import)."""
    import json.encoder

    library = json.JSONEncoder(default=_tagged).encode
    decode = json.JSONDecoder(object_hook=untagged).decode
    # The library makes its C encoder anew for each document: a third of the time for a small one (benchmarks:
    # store-each). One that is kept must not remember in which containers it is, for threads share it: hence None.
    encoder: Any = json.encoder
    try:
        chunks = encoder.c_make_encoder(
            None, _tagged, encoder.encode_basestring_ascii, None, ": ", ", ", False, False, True
        )
    except (AttributeError, TypeError):
        return library, decode  # it is private: not every Python has one, or has it like this

    def encode(value: Any) -> str:
        try:
            return "".join(chunks(value, 0))
        except Exception:
            pass
        return library(value)  # says what is wrong, also that a value contains itself

    return encode, decode


def json_texts() -> tuple[Callable[[Any], str], Callable[[str], str]]:
    """What writes a value, and what writes a text: the parts of a document that is put together elsewhere."""
    import json.encoder

    return json_codec()[0], json.encoder.encode_basestring_ascii


def json_decode(text: str) -> Any:
    """Decode a JSON text with tags; this defines the language."""
    return json_codec()[1](text)


def suits_msgspec(text: Bytes) -> bool:
    """Whether msgspec reads this JSON text, if at all, as :func:`json_decode` does, and in good time."""
    return (
        text.find(b"__type__") < 0
        and not escapes_ascii(text)
        and (len(text) < SLOW_NUMBERS_BYTES or not holds_slow_numbers(text))
    )


#: What is shorter cannot hold so many slow numbers that it matters: 4 ms.
SLOW_NUMBERS_BYTES = 4096
#: Numbers with an exponent of three digits: msgspec takes up to 20 us for one, so 1 MB of them takes three seconds.
_slow_number = re.compile(rb"[\[,: \t\n\r]-?[0-9]++(?:\.[0-9]++)?[eE][+-]?[0-9]{3}").search
_DIGITS_ALIKE = bytes.maketrans(b"123456789E+", b"000000000e-")


def holds_slow_numbers(text: Bytes) -> bool:
    """Whether the standard library's decoder is the faster one, because of the numbers in a text."""
    alike = text.translate(_DIGITS_ALIKE)  # 1 ns a byte, where a pattern takes 10
    return (alike.find(b"e000") >= 0 or alike.find(b"e-000") >= 0) and _slow_number(text) is not None


def escapes_ascii(text: Bytes) -> bool:
    """Whether a letter of ``__type__`` may be spelled as an escape. Celery writes none such, but anybody may."""
    # The letters are in these rows of ASCII. Plain searches are faster than a pattern, which is slow to find nothing.
    return text.find(b"\\u00") >= 0 and any(text.find(row) >= 0 for row in (b"\\u005", b"\\u006", b"\\u007"))
