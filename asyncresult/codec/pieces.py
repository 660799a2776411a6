"""JSON in pieces: a large text is decoded without holding the GIL for long.

A C decoder holds the GIL for as long as it runs: 0.3 s for 40 MB, and the event loop of every thread is stopped.
:func:`decode_in_pieces` therefore walks down the big containers in Python and hands the decoder at most
:data:`PIECE_BYTES` at once. A regular expression guesses where a piece may end, and nothing depends on its guess: a
parse that starts at the beginning of an item is determined, so a piece that decodes as a complete list (or mapping)
did end between two items, and any other piece raises.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from .json import Bytes, json_decode, suits_msgspec, untagged

__all__ = ["PIECE_BYTES", "NotInPieces", "decode_in_pieces"]

#: What the decoder gets at once: about 1 ms of work, after 3 ms to find where it may end.
PIECE_BYTES = 128 * 1024
#: How far Python walks down into big containers. Its own limit is not enough: 3.13.0 does not always keep it, and
#: dies of a text of brackets.
MAX_LEVELS = 100

_fast_decode = msgspec.json.Decoder().decode

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
    """The text is unusual: it is left to the ordinary decoder."""


def decode_in_pieces(text: Bytes) -> Any:
    """Decode a JSON text as :data:`json_decode` does, never holding the GIL for long.

    Raises:
        NotInPieces: It is not in a form that can be cut: :data:`json_decode` may be able to read it, or not.
        Exception: It is not JSON, or a decoder of tags raised this. json_decode would raise something, too.
    """
    tail = bytes(text[-64:]).rstrip(b" \t\n\r")[-1:]
    if tail and tail != {b"{": b"}", b"[": b"]"}.get(bytes(text[:1]), tail):
        raise ValueError("it is cut short")
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
    """Decode ``[…]``, ``{…}`` or ``"…"``, given what is inside, and its position."""
    from json import JSONDecodeError  # imported long since: a codec was made

    try:
        return _decoded_piece(opening, inside, closing)
    except JSONDecodeError as error:
        # Its own position would be that within the piece.
        problem, at = error.msg, at + error.pos
    raise _broken(problem, at)


def _decoded_piece(opening: Bytes, inside: Bytes, closing: Bytes) -> Any:
    text = bytes(opening + inside + closing)
    if suits_msgspec(text):
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
            raise NotInPieces  # not long, but nested deeper than _ITEM: many of those would take forever
        at = _skip(_SPACE, text, at)
        if text[at : at + 1] != b",":
            break
        at += 1
    if text[at : at + 1] != closing:
        raise _broken("a comma or the end is missing", at)
    return (items if opening == b"[" else untagged(mapping)), at + 1


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
