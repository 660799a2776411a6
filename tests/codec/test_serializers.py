"""MessagePack, YAML, and what is accepted."""

from __future__ import annotations

import sys
import uuid
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from asyncresult.codec import (
    Codec,
)
from asyncresult.errors import (
    ResultDecodeError,
    ResultEncodeError,
    ResultTimeout,
)
from asyncresult.meta import TaskMeta
from asyncresult.states import PENDING, SUCCESS
from tests.codec.records import (
    ID,
    PLAIN,
    WIDE,
    record,
)


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="never loads pickles"):
        Codec(serializer="pickle")
    with pytest.raises(ValueError, match="never loads pickles"):
        Codec(accept=("json", "application/x-python-serialize"))
    with pytest.raises(ValueError, match="unknown serializer 'cbor'"):
        Codec(accept=("cbor",))
    with pytest.raises(ValueError, match="unknown compression 'zip'"):
        Codec(compression="zip")
    with pytest.raises(ValueError, match="max_result_bytes must be a whole number"):
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
    with pytest.raises(ResultDecodeError, match="aliases multiply it without measure"):
        WIDE.decode(ID, text.encode())


def test_a_small_yaml_document_does_not_become_a_million_values() -> None:
    """They are one in memory, but whoever goes through them stops the loop."""
    pytest.importorskip("yaml")
    text = "status: SUCCESS\na: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcde", "bcdef", strict=True)
    )
    assert len(text) < 500
    with pytest.raises(ResultDecodeError, match="aliases multiply it without measure"):
        WIDE.decode(ID, text.encode())


@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
@pytest.mark.parametrize(
    ("result", "words"),
    [
        (":".join(["1"] * 5_000), "whole number has more than 3500 digits"),
        ("0x" + "f" * 5_000, "whole number has more than 3500 digits"),
        ("{" + ", ".join(f"{(2**61 - 1) * n}: 1" for n in range(9)) + "}", "key is a number of more than 15 digits"),
        ("!!set {" + ", ".join(f"{(2**61 - 1) * n}" for n in range(9)) + "}", "key is a number of more than 15 digits"),
    ],
    ids=["to the base of 60", "hexadecimal", "keys with one hash", "members with one hash"],
)
def test_yaml_numbers_that_would_take_hours(
    result: str, words: str, loader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml = pytest.importorskip("yaml")
    monkeypatch.setattr(yaml, "CSafeLoader", getattr(yaml, loader, yaml.SafeLoader), raising=False)
    codec = Codec(serializer="yaml", accept=("yaml",))
    with pytest.raises(ResultDecodeError, match=words):
        codec.decode(ID, f"status: SUCCESS\nresult: {result}\n".encode())
    read = codec.decode(ID, b"status: SUCCESS\nresult: {1: [12:30, 0xff, -7, 18446744073709551616]}\n")
    assert read.result == {1: [750, 255, -7, 2**64]}


@pytest.mark.parametrize(
    "text", ["status: [", "- 1", "status: X\n1: 2", "? [1]\n: 2", "status: 2024-99-99", "!!python/object:os.system {}"]
)
def test_yaml_that_is_no_record(text: str) -> None:
    pytest.importorskip("yaml")
    with pytest.raises(ResultDecodeError):
        WIDE.decode(ID, text.encode())


@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
@pytest.mark.parametrize(
    "text", ["status: hunter2\nresult: [@", "status: !hunter2 {}", "status: '\\hunter2", "a: \x00hunter2"]
)
def test_an_error_in_yaml_quotes_nothing(text: str, loader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = pytest.importorskip("yaml")
    monkeypatch.setattr(yaml, "CSafeLoader", getattr(yaml, loader, yaml.SafeLoader), raising=False)
    codec = Codec(serializer="yaml", accept=("yaml",))
    with pytest.raises(ResultDecodeError) as caught:
        codec.decode(ID, text.encode())
    assert "hunter2" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_yaml_may_refer_to_itself_in_moderation() -> None:
    pytest.importorskip("yaml")
    shared = [1, 2]
    meta = TaskMeta(task_id=ID, status=SUCCESS, result=[shared, shared], _date_done="2024-01-02T00:00:00+00:00")
    payload = Codec(serializer="yaml").encode(meta)
    assert b"*id001" in payload
    assert WIDE.decode(ID, payload) == meta
