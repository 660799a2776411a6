"""JSON as kombu writes it: the standard library's, with tags for rich values.

Theory of operation
===================

**The language** is what Celery writes: JSON by the rules of the standard library (NaN, integers of any size, lone
surrogates, the last of two equal keys wins) with kombu's ``{"__type__": …, "__value__": …}`` for rich values.
:func:`json_decode` defines it. msgspec's decoder is ten times as fast and either refuses or agrees: it refuses
whatever is not strict JSON, and it agrees on everything else but the tags, which it does not know. So a text in
which :func:`may_hold_tags` sees ``__type__``, also when a letter of that is spelled ``\\u00XX``, is kept from it.

Source: kombu/utils/json.py (5.7).
"""

from __future__ import annotations

import base64
import binascii
import functools
import uuid
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

__all__ = ["Bytes", "escapes_ascii", "json_codec", "json_decode", "may_hold_tags", "register_type", "untagged"]

Bytes = bytes | bytearray

#: How much base64 is decoded at once: 0.1 ms, during which no other thread runs.
BASE64_BYTES = 128 * 1024

_encoders: dict[type, tuple[str | None, Callable[[Any], Any]]] = {}
_decoders: dict[str, Callable[[Any], Any]] = {
    "bytes": lambda text: text.encode(),
    "base64": lambda text: _from_base64(text.encode()),
}


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

    Source: kombu.utils.json.register_type. Worker and reader have to be told the same.
    """
    _encoders[cls] = (marker, encoder)
    if marker is not None:
        _decoders[marker] = decoder


# A datetime is a date too: the more special one is asked first.
register_type(datetime, "datetime", datetime.isoformat, datetime.fromisoformat)
register_type(date, "date", lambda day: day.isoformat(), lambda text: datetime.fromisoformat(text).date())
register_type(time, "time", lambda clock: clock.isoformat(), time.fromisoformat)
register_type(Decimal, "decimal", str, Decimal)
register_type(uuid.UUID, "uuid", lambda value: {"hex": value.hex}, lambda fields: uuid.UUID(**fields))


def _tagged(value: Any) -> Any:
    """What json shall write for a value that is not JSON's own."""
    reducer = getattr(value, "__json__", None)
    if reducer is not None:
        return reducer()
    for cls, (marker, encoder) in _encoders.items():
        if isinstance(value, cls):
            encoded = encoder(value)
            return encoded if marker is None else {"__type__": marker, "__value__": encoded}
    if isinstance(value, bytes):
        try:
            return {"__type__": "bytes", "__value__": value.decode()}
        except UnicodeDecodeError:
            return {"__type__": "base64", "__value__": base64.b64encode(value).decode()}
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def untagged(mapping: dict[str, Any]) -> Any:
    """The value that a mapping of exactly the two keys stands for; any other mapping itself."""
    if len(mapping) != 2 or "__type__" not in mapping or "__value__" not in mapping:
        return mapping
    decoder = _decoders.get(mapping["__type__"])
    if decoder is None:
        raise ValueError(f"no decoder is registered for the __type__ {mapping['__type__']!r}")
    return decoder(mapping["__value__"])


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
        return library(value)  # tells what is wrong, also that a value contains itself

    return encode, decode


def json_decode(text: str) -> Any:
    """Decode a JSON text with tags; this defines the language."""
    return json_codec()[1](text)


def may_hold_tags(text: Bytes) -> bool:
    """Whether msgspec could read this JSON text differently."""
    return text.find(b"__type__") >= 0 or escapes_ascii(text)


def escapes_ascii(text: Bytes) -> bool:
    """Whether a letter of ``__type__`` may be spelled as an escape. Celery writes none such, but anybody may."""
    # The letters are in these rows of ASCII. Plain searches are faster than a pattern, which is slow to find nothing.
    return text.find(b"\\u00") >= 0 and any(text.find(row) >= 0 for row in (b"\\u005", b"\\u006", b"\\u007"))
