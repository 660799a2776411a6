"""Bytes to plain values and back: kombu's JSON, the other serializers, compression.

Theory of operation
===================

**The language** is what Celery writes: JSON by the rules of the standard library (NaN, integers of any size, lone
surrogates, the last of two equal keys wins) with kombu's ``{"__type__": …, "__value__": …}`` for rich values.
:data:`json_decode` defines it. msgspec's decoder is ten times as fast and either refuses or agrees: it refuses
whatever is not strict JSON, and it agrees on everything else but the tags, which it does not know. So a text in
which :func:`may_hold_tags` sees ``__type__``, also when a letter of that is spelled ``\\u00XX``, is kept from it.

**In pieces.** A C decoder holds the GIL for as long as it runs: 0.3 s for 40 MB, and the event loop of every
thread stands still. :func:`decode_in_pieces` therefore walks down the big containers in Python and hands the
decoder at most :data:`PIECE_BYTES` at once. A regular expression guesses where a piece may end, and nothing
depends on its guess: a parse that starts at the beginning of an item is determined, so a piece that decodes as a
complete list (or mapping) did end between two items, and any other piece raises.

**The garbage collector** holds the GIL, too. A full collection looks at every container of the process, and starts
again each time their number has grown by a quarter: 40 MB of small records cost several, up to 0.9 s each. What a
piece made is therefore put among the oldest objects at once (:class:`_FullCollections`), which starts the counting
anew, so that none comes while a value is read.

**Compression** is undone chunk by chunk, so that a small stream cannot become more than the caller allows.

Source: kombu/utils/json.py, kombu/serialization.py, kombu/compression.py (5.7).
"""

from __future__ import annotations

import base64
import binascii
import functools
import gc
import importlib
import re
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import msgspec

__all__ = [
    "COMPRESSED",
    "NotInPieces",
    "compression",
    "decode_in_pieces",
    "decompressed",
    "escapes_ascii",
    "json_decode",
    "known_serializer",
    "load_compressions",
    "may_hold_tags",
    "register_type",
    "serializer",
]

#: What the decoder gets at once: about 1 ms of work, after 3 ms to find where it may end. A piece cannot make so many
#: containers that their number alone brings a full collection: 84,000 by Python's default thresholds.
PIECE_BYTES = 128 * 1024
#: How far Python walks down into big containers. Its own limit is not enough: 3.13.0 does not always keep it, and
#: dies of a text of brackets.
MAX_LEVELS = 100
#: What is decompressed at once: the most by which the limit is overshot.
CHUNK_BYTES = 1024 * 1024

Bytes = bytes | bytearray


# -- JSON with kombu's tags --------------------------------------------------------------------------------------

_encoders: dict[type, tuple[str | None, Callable[[Any], Any]]] = {}
_decoders: dict[str, Callable[[Any], Any]] = {
    "bytes": lambda text: text.encode(),
    "base64": lambda text: _from_base64(text.encode()),
}


def _from_base64(text: bytes) -> bytes:
    """What base64.b64decode makes of it; a long text in pieces, unless it is not quite as it should be."""
    if len(text) <= PIECE_BYTES:
        return base64.b64decode(text)
    parts: list[bytes] = []
    try:
        for at in range(0, len(text), PIECE_BYTES):
            parts.append(binascii.a2b_base64(text[at : at + PIECE_BYTES], strict_mode=True))
    except ValueError:
        return base64.b64decode(text)
    if all(len(part) == PIECE_BYTES // 4 * 3 for part in parts[:-1]):  # no padding but at the end
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


def _untagged(mapping: dict[str, Any]) -> Any:
    """The value that a mapping of exactly the two keys stands for; any other mapping itself."""
    if len(mapping) != 2 or "__type__" not in mapping or "__value__" not in mapping:
        return mapping
    decoder = _decoders.get(mapping["__type__"])
    if decoder is None:
        raise ValueError(f"no decoder is registered for the __type__ {mapping['__type__']!r}")
    return decoder(mapping["__value__"])


@functools.cache
def _json() -> tuple[Callable[[Any], str], Callable[[str], Any]]:
    """What writes and what reads, made by the first codec: the import of json takes a while (benchmarks: import)."""
    import json.encoder

    library = json.JSONEncoder(default=_tagged).encode
    decode = json.JSONDecoder(object_hook=_untagged).decode
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
    return _json()[1](text)


_fast_decode = msgspec.json.Decoder().decode


def may_hold_tags(text: Bytes) -> bool:
    """Whether msgspec could read this JSON text differently."""
    return text.find(b"__type__") >= 0 or escapes_ascii(text)


def escapes_ascii(text: Bytes) -> bool:
    """Whether a letter of ``__type__`` may be spelled as an escape. Celery writes none such, but anybody may."""
    # The letters are in these rows of ASCII. Plain searches are faster than a pattern, which is slow to find nothing.
    return text.find(b"\\u00") >= 0 and any(text.find(row) >= 0 for row in (b"\\u005", b"\\u006", b"\\u007"))


# -- serializers -------------------------------------------------------------------------------------------------

_CONTENT_TYPES = {"application/json": "json", "application/x-msgpack": "msgpack", "application/x-yaml": "yaml"}
_MSGPACK_LEAVES = (str, int, float, bytes, type(None))


def known_serializer(name: str) -> str:
    """The short name of a serializer, given that or its content type. ValueError: not one of ours."""
    name = _CONTENT_TYPES.get(name, name)
    if name in ("pickle", "application/x-python-serialize"):
        raise ValueError(
            "asyncresult never loads pickles, because reading one runs whatever its writer wanted: "
            "set result_serializer='json' in the workers"
        )
    if name not in _CONTENT_TYPES.values():
        raise ValueError(f"unknown serializer {name!r}: it is one of 'json', 'msgpack' and 'yaml'")
    return name


def serializer(name: str, limit: int) -> tuple[Callable[[Any], bytes], Callable[[Bytes], Any]]:
    """The functions that write and read; they may raise anything. ValueError: a package is missing."""
    if name == "json":
        encode, decode = _json()
        return lambda value: encode(value).encode(), lambda data: decode(data.decode())
    if name == "msgpack":
        return _msgpack_encode, msgspec.msgpack.decode
    try:
        yaml = importlib.import_module("yaml")
    except ImportError:
        raise ValueError("the serializer 'yaml' needs PyYAML: pip install 'asyncresult[yaml]'") from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    def yaml_decode(data: Bytes) -> Any:
        document = yaml.load(data.decode(), Loader=loader)
        if _weight(document, {}) > limit:
            raise ValueError("its references multiply beyond all measure")
        return document

    return lambda value: yaml.safe_dump(value).encode(), yaml_decode


def _msgpack_encode(value: Any) -> bytes:
    # msgspec would write a datetime or a Decimal as plain text, which no reader could tell from a text again.
    # The order is free: a refusal is looked into by the caller.
    parts = [value]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            parts += part
            parts += part.values()
        elif isinstance(part, (list, tuple)):
            parts += part
        elif not isinstance(part, _MSGPACK_LEAVES):
            raise TypeError(f"Object of type {type(part).__name__} is not MessagePack serializable")
    return msgspec.msgpack.encode(value)


def _weight(value: Any, known: dict[int, float]) -> float:
    """How many values a walk meets: references can make a small YAML document huge, or endless."""
    if not isinstance(value, (list, tuple, dict, set)):
        return 1
    if id(value) not in known:
        known[id(value)] = float("inf")  # and that it stays for what contains itself
        known[id(value)] = 1 + sum(_weight(v, known) for v in (value.values() if isinstance(value, dict) else value))
    return known[id(value)]


# -- compression -------------------------------------------------------------------------------------------------

#: A compressed record: this, the content type, a NUL, the stream.
COMPRESSED = b"\0celery-compressed\0"

_GZIP, _BZ2, _LZMA = "application/x-gzip", "application/x-bz2", "application/x-lzma"
_BROTLI, _ZSTD = "application/x-brotli", "application/zstd"
_COMPRESSIONS = {
    **dict.fromkeys(("gzip", "zlib", _GZIP), _GZIP),  # a zlib stream, whatever the name says
    **dict.fromkeys(("bzip2", "bzip", _BZ2), _BZ2),
    **dict.fromkeys(("lzma", "xz", _LZMA), _LZMA),
    **dict.fromkeys(("brotli", _BROTLI), _BROTLI),
    **dict.fromkeys(("zstd", "zstandard", _ZSTD), _ZSTD),
}
_NEEDS = {_BROTLI: "the package brotli, 1.2 or later", _ZSTD: "Python 3.14 or the package backports.zstd"}
# liblzma takes the memory that the stream asks for; its strongest preset asks for 65 MB.
_LZMA_MEMORY = 128 * 1024 * 1024


_MODULES = {
    _GZIP: ("zlib",),
    _BZ2: ("bz2",),
    _LZMA: ("lzma",),
    _BROTLI: ("brotli", "brotlicffi"),
    _ZSTD: ("compression.zstd", "backports.zstd"),
}
_modules: dict[str, Any] = {}


def _first_module(*names: str) -> Any:
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            pass
    return None


def load_compressions() -> None:
    """Import what undoes compression, for a codec that is made: not sooner (benchmarks: import), and not later, for
    then it would be an import because of what Redis holds."""
    for content_type, names in _MODULES.items():
        if content_type not in _modules:
            module = _first_module(*names)
            if content_type == _BROTLI and not hasattr(getattr(module, "Decompressor", None), "can_accept_more_data"):
                module = None  # before 1.2 there was no way to limit its output
            _modules[content_type] = module


def compression(name: str) -> tuple[str, Any]:
    """The content type and the module for a name or content type. ValueError: unknown or not installed."""
    content_type = _COMPRESSIONS.get(name)
    if content_type is None:
        raise ValueError(f"unknown compression {name[:80]!r}")
    module = _modules[content_type]
    if module is None:
        raise ValueError(f"{content_type} needs {_NEEDS.get(content_type, 'a Python that was built with it')}")
    return content_type, module


def decompressed(name: str, body: Bytes) -> Iterator[bytes]:
    """The content of one stream, by at most a little more than CHUNK_BYTES. It may raise anything."""
    content_type, module = compression(name)
    brotli = content_type == _BROTLI
    stream: Any
    if content_type == _GZIP:
        stream = module.decompressobj()
    elif content_type == _BZ2:
        stream = module.BZ2Decompressor()
    elif content_type == _LZMA:
        stream = module.LZMADecompressor(memlimit=_LZMA_MEMORY)
    elif content_type == _ZSTD:
        stream = module.ZstdDecompressor()
    else:
        stream = module.Decompressor()

    def ended() -> bool:
        return bool(stream.is_finished() if brotli else stream.eof)

    while not ended():
        if brotli:
            chunk = stream.process(body, output_buffer_limit=CHUNK_BYTES)
        else:
            chunk = stream.decompress(body, CHUNK_BYTES)
        if not chunk and not ended():
            raise EOFError("the stream is cut short")
        yield chunk
        # All but zlib keep for themselves what they have not looked at yet.
        body = stream.unconsumed_tail if content_type == _GZIP else b""


# -- JSON in pieces ----------------------------------------------------------------------------------------------

# The empty alternative at the end of a repeated group is for Python before 3.11.5, whose possessive repeats
# stop where the last attempt failed instead of where it began (CPython issue 106052). An empty match does not fail.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'


def _container(levels: int) -> bytes:
    inner = rb'[^"\[\]{}]++|' + _STRING
    if levels:
        inner += rb"|" + _container(levels - 1)
    return rb"[\[{](?:" + inner + rb"|)*+[\]}]"


_ITEM = rb'[^"\[\]{},]*+(?:(?:' + _STRING + rb"|" + _container(8) + rb')[^"\[\]{},]*+|)*+'
# Items of a list or a mapping, each with its comma. The first alternative takes many plain ones in one go.
_ITEMS = rb'(?:[^"\[\]{}]*,|' + _ITEM + rb",|)*+"
_LAST_ITEM = _ITEM + rb"(?=[\]}])"
_COLON = rb"[ \t\n\r]*+:"
_SPACE = rb"[ \t\n\r]*+"
# The inside of a string, with whole escapes, and with both halves of a surrogate pair or none.
_CHARACTERS = (
    rb'(?:[^"\\]++|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}'
    rb"|\\u(?![dD][89abAB])[0-9a-fA-F]{4}|\\[^u]|)*+"
)


class NotInPieces(Exception):
    """The text is unusual: the ordinary decoder shall look at it."""


class _FullCollections:
    """Keeps full garbage collections away while a big value is read (docs/decisions/0009).

    Nothing of the process is switched off or set: gc.freeze() and gc.unfreeze() together put what there is
    among the oldest objects, without looking at it, and let the counting start anew. Collections of young
    objects go on, of other threads' too.
    """

    #: Bytes of JSON that are read before a full collection must have had its turn: about half a minute.
    LIMIT = 1024 * 1024 * 1024
    #: Objects that Python 3.12 freezes for itself. More are frozen by the application, which is then left alone.
    FROZEN_BY_PYTHON = 1000

    # A build without GIL has another collector: freezing walks over all objects, and nobody waits for a GIL.
    _possible: bool = hasattr(gc, "freeze") and "t" not in getattr(sys, "abiflags", "")
    #: Pieces until it is looked again whether the application froze objects: Python counts them one by one.
    REST = 100

    def __init__(self) -> None:
        self._seen = -1
        self._bytes = 0
        self._resting = 0

    def begin(self) -> None:
        """A big value is to be read; a full collection may be due just now."""
        self._resting = 0
        self.postpone(0)

    def postpone(self, size: int) -> None:
        """A piece of `size` bytes was read."""
        if not self._possible or not gc.isenabled():
            return
        if self._resting:
            self._resting -= 1
            return
        if gc.get_freeze_count() > self.FROZEN_BY_PYTHON:
            self._resting = self.REST
            return
        done = gc.get_stats()[-1]["collections"]
        if done != self._seen:
            self._seen, self._bytes = done, 0
        self._bytes += size
        if self._bytes <= self.LIMIT:
            gc.freeze()
            gc.unfreeze()


_full_collections = _FullCollections()


def decode_in_pieces(text: Bytes) -> Any:
    """Decode a JSON text as :data:`json_decode` does, never holding the GIL for long.

    Raises:
        NotInPieces: It is not in a form that can be cut: :data:`json_decode` may be able to read it, or not.
        Exception: It is not JSON, or a decoder of tags raised this. json_decode would raise something, too.
    """
    tail = bytes(text[-64:]).rstrip(b" \t\n\r")[-1:]
    if tail and tail != {b"{": b"}", b"[": b"]"}.get(bytes(text[:1]), tail):
        raise ValueError("it is cut short")
    _full_collections.begin()
    value, end = _big_value(text, 0, MAX_LEVELS)
    if _skip(_SPACE, text, end) != len(text):
        raise _broken("more follows after its end", end)
    return value


def _broken(problem: str, at: int) -> ValueError:
    return ValueError(f"{problem}, about byte {at}")


@functools.cache
def _compiled(pattern: bytes) -> re.Pattern[bytes]:
    """Compiled at its first use, for large records only: it takes long (benchmarks: import)."""
    return re.compile(pattern, re.DOTALL)


def _skip(pattern: bytes, text: Bytes, at: int, limit: int = sys.maxsize) -> int:
    """Where the match ends that begins at `at`; `at` itself if there is none."""
    match = _compiled(pattern).match(text, at, limit)
    return at if match is None else match.end()


def _piece(opening: Bytes, inside: Bytes, closing: Bytes, at: int) -> Any:
    """Decode ``[…]``, ``{…}`` or ``"…"``, given what is inside, and where that stands."""
    from json import JSONDecodeError  # imported long since: a codec was made

    try:
        return _decoded_piece(opening, inside, closing)
    except JSONDecodeError as error:
        # Its own position would be that within the piece.
        problem, at = error.msg, at + error.pos
    finally:
        _full_collections.postpone(len(inside))
    raise _broken(problem, at)


def _decoded_piece(opening: Bytes, inside: Bytes, closing: Bytes) -> Any:
    text = bytes(opening + inside + closing)
    if not may_hold_tags(text):
        try:
            return _fast_decode(text)
        except ValueError:
            pass
    if opening != b"{" or not inside.strip():
        return json_decode(text.decode())
    # Part of a big mapping, not to be taken for a tag: a third key rules that out. JSON spells NUL in one way only.
    if inside.find(b"\\u0000") >= 0:
        raise NotInPieces
    part = json_decode('{"\\u0000":0,' + inside.decode() + closing.decode())
    del part["\0"]
    return part


def _big_value(text: Bytes, at: int, levels: int) -> tuple[Any, int]:
    """Decode the value that begins at `at`, if it is not nested too deeply; also return where it ends."""
    opening = text[at : at + 1]
    if opening == b'"':
        return _big_string(text, at + 1)
    if opening not in (b"[", b"{") or not levels:
        raise NotInPieces
    items: list[Any] = []
    mapping: dict[str, Any] = {}
    add: Callable[[Any], None] = items.extend if opening == b"[" else mapping.update
    closing = b"]" if opening == b"[" else b"}"
    at += 1
    while True:
        end = _skip(_ITEMS, text, at, at + PIECE_BYTES)
        if end > at:
            part = _piece(opening, text[at : end - 1], closing, at)
            if not part:
                raise _broken("a comma has nothing before it", at)
            add(part)
            at = end
            continue
        last = _compiled(_LAST_ITEM).match(text, at, at + PIECE_BYTES)
        if last is not None:
            part = _piece(opening, last[0], closing, at)
            if not part and (items or mapping):
                raise _broken("a comma has nothing after it", at)
            add(part)
            at = last.end()
            break
        # The next item does not end within a piece: it is big itself.
        start = at = _skip(_SPACE, text, at)
        if opening == b"{":
            end = _skip(_STRING, text, at)
            if end == at and text[at : at + 1] == closing:
                raise NotInPieces  # nothing but a lot of space
            if end == at:
                raise _broken("a key is missing", at)
            key = _piece(b"", text[at:end], b"", at)
            at = _skip(_COLON, text, end)
            if at == end:
                raise _broken("a colon is missing", at)
            value, at = _big_value(text, _skip(_SPACE, text, at), levels - 1)
            mapping[key] = value
        else:
            value, at = _big_value(text, at, levels - 1)
            items.append(value)
        if at - start < PIECE_BYTES // 2:
            raise NotInPieces  # not long, but nested deeper than _ITEM: many of those would take for ever
        at = _skip(_SPACE, text, at)
        if text[at : at + 1] != b",":
            break
        at += 1
    if text[at : at + 1] != closing:
        raise _broken("a comma or the end is missing", at)
    return (items if opening == b"[" else _untagged(mapping)), at + 1


def _big_string(text: Bytes, at: int) -> tuple[str, int]:
    parts: list[str] = []
    while text[at : at + 1] != b'"':
        end = _skip(_CHARACTERS, text, at, at + PIECE_BYTES)
        while end < len(text) and text[end] & 0xC0 == 0x80:
            end += 1  # not within a character of UTF-8
        if end == at:
            raise NotInPieces
        parts.append(_piece(b'"', text[at:end], b'"', at))
        at = end
    return "".join(parts), at + 1
