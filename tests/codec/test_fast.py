"""Reading many ordinary records at once, and none that is not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asyncresult.codec import LARGE_PAYLOAD_BYTES, Codec
from asyncresult.states import SUCCESS


def of(id: str, result: Any) -> bytes:
    return json.dumps({"status": SUCCESS, "result": result, "task_id": id}).encode()


#: What many records are not read at once with, beside an ordinary one: each has a way of its own.
OUT_OF_THE_ORDINARY = {
    "missing": None,
    "empty": b"",
    "a tag": of("two", {"__type__": "decimal", "__value__": "1.5"}),
    "a tag spelled with escapes": b'{"status": "SUCCESS", "result": {"\\u005f_type__": 1}, "task_id": "two"}',
    "of another task": of("three", 1),
    "an unknown field": b'{"status": "SUCCESS", "result": 1, "task_id": "two", "stamps": []}',
    "the name of no field": b'{"status": "SUCCESS", "result": 1, "task_id": "two", "(extra)": {"a": 1}}',
    "no JSON": b'{"status": "SUCCESS", "result": NaN, "task_id": "two"}',
    "half of two": b'{"status": "SUCCESS", "result": [1',
    "many numbers": of("two", [1] * 2000),
}


def test_many_ordinary_records_are_read_at_once() -> None:
    ids = ["one", "two", "three"]
    payloads = [of("one", {"n": 1}), of("two", 'caf\u00e9 \\ "'), of("three", None)]
    metas = Codec().decode_many(ids, payloads)
    assert metas == [Codec().decode(id, payload) for id, payload in zip(ids, payloads, strict=True)]


@pytest.mark.parametrize("kind", OUT_OF_THE_ORDINARY)
def test_one_record_out_of_the_ordinary_is_not_read_with_others(kind: str) -> None:
    payloads = [of("one", 1), OUT_OF_THE_ORDINARY[kind], of("three", 3)]
    assert Codec().decode_many(["one", "two", "three"], payloads) is None


def test_many_records_that_are_large_together_are_not_read_at_once() -> None:
    payloads = [of("one", "x" * 4000)] * (LARGE_PAYLOAD_BYTES // 4000 + 1)
    assert Codec().decode_many(["one"] * len(payloads), payloads) is None
