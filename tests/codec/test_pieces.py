"""Large JSON in pieces: the same records, the same errors, and no piece that is large."""

from __future__ import annotations

import base64
import json
import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncresult.codec import (
    Codec,
    codec,
    pieces,
)
from asyncresult.codec import (
    json as kombu_json,
)
from asyncresult.errors import (
    ResultDecodeError,
)
from asyncresult.meta import TaskMeta
from asyncresult.states import SUCCESS
from tests.codec.records import (
    ID,
    PLAIN,
    VALUES,
    outcome,
    record,
    spelled,
)


@settings(max_examples=150)
@given(
    spelled() | spelled(VALUES.map(lambda value: {"status": SUCCESS, "result": value})), st.sampled_from([12, 40, 200])
)
def test_pieces_make_the_same_record(payload: bytes, piece_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE_BYTES", piece_bytes)
        assert outcome(PLAIN.decode_large, ID, payload) == outcome(PLAIN.decode, ID, payload)


@settings(max_examples=150)
@given(spelled(VALUES), st.sampled_from([12, 40]), st.integers(0, 200), st.integers(0, 3), st.binary(max_size=2))
def test_pieces_take_nothing_that_is_not_json(text: bytes, piece_bytes: int, at: int, cut: int, put: bytes) -> None:
    """What decode_in_pieces takes is what json takes, and what it calls broken is broken; also of a damaged text."""
    text = text[:at] + put + text[at + cut :]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE_BYTES", piece_bytes)
        try:
            value = pieces.decode_in_pieces(text)
        except pieces.NotInPieces:
            return
        except (ValueError, TypeError):
            with pytest.raises((ValueError, TypeError)):
                kombu_json.json_decode(text.decode())
            return
    assert repr(value) == repr(kombu_json.json_decode(text.decode()))


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
    monkeypatch.setattr(pieces, "PIECE_BYTES", piece_bytes)
    with pytest.raises((pieces.NotInPieces, ValueError)):
        pieces.decode_in_pieces(text.replace("LONG", LONG).encode())


@pytest.mark.parametrize("piece_bytes", range(12, 60))
def test_characters_are_not_cut(piece_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither between the halves of a surrogate pair, nor in an escape, nor in a character of UTF-8."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", piece_bytes)
    text = "\U0001f600\n\\é" * 40
    for ascii_only in (True, False):
        assert pieces.decode_in_pieces(json.dumps(text, ensure_ascii=ascii_only).encode()) == text


@pytest.mark.parametrize(
    "text",
    ["{SPACE}", "[SPACE]", '{"a": {SPACE}}', "[1, 2SPACE]", "[trueSPACE]", '{"a"SPACE:SPACE[1]SPACE}', "[-1.DIGITS]"],
)
@pytest.mark.parametrize("piece_bytes", [16, 64])
def test_what_is_only_unusual_is_not_called_broken(
    text: str, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", piece_bytes)
    text = text.replace("SPACE", " \n" * 100).replace("DIGITS", "5" * 200)
    try:
        assert pieces.decode_in_pieces(text.encode()) == json.loads(text)
    except pieces.NotInPieces:
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
    monkeypatch.setattr(pieces, "PIECE_BYTES", 4096)
    monkeypatch.setattr(codec, "_fast_decode", lambda _: pytest.fail("decoded as a whole"))
    with pytest.raises(ResultDecodeError, match=words) as caught:
        PLAIN.decode_large(ID, payload)
    assert caught.value.__context__ is None


def test_a_text_that_is_cut_short_is_noticed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = record(result=[[n] for n in range(2000)])[:-5]
    monkeypatch.setattr(pieces, "PIECE_BYTES", 4096)
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
        patch.setattr(pieces, "PIECE_BYTES", 16)
        assert read(kombu_json._from_base64) == read(base64.b64decode)


def test_nothing_is_lost_beside_a_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of a mapping is decoded with a key of our own, which must not be one of the mapping's."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", 80)
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

    monkeypatch.setattr(pieces, "PIECE_BYTES", 4096)
    monkeypatch.setattr(pieces, "_fast_decode", counted(pieces._fast_decode))
    monkeypatch.setattr(pieces, "json_decode", counted(pieces.json_decode))  # type: ignore[attr-defined]
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
    with pytest.raises(pieces.NotInPieces):
        pieces.decode_in_pieces(payload)
