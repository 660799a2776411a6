"""What is too large is dropped as it comes; all else passes byte for byte, however it is cut."""

from __future__ import annotations

import random
from typing import Any

import hiredis
import pytest

from asyncresult._redis.errors import error_reply
from asyncresult._redis.exceptions import TooLargeError
from asyncresult._redis.sieve import LineTooLong, Sieve

LIMIT = 20
#: Strings that look like replies, in replies of every kind; and one that is exactly as large as may be.
INNOCENT = [
    b"+OK\r\n",
    b"-ERR no\r\n",
    b":1\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"$0\r\n\r\n",
    b"*3\r\n$8\r\n\r\n$99\r\n\r\r\n$3\r\n-1$\r\n$20\r\n" + LIMIT * b"$" + b"\r\n",
    b"*2\r\n*1\r\n$2\r\n\r\n\r\n*0\r\n",
]
TOO_LARGE = b"$%d\r\n%b\r\n" % (LIMIT + 1, b"\r\n$5\r\n*1\r\n$99\r\n-ERR\r\n"[: LIMIT + 1])


def cut(data: bytes, rng: random.Random) -> list[bytes]:
    """Cut anywhere, often into single bytes."""
    pieces = []
    while data:
        size = rng.choice([1, 1, 2, 7, 40])
        pieces.append(data[:size])
        data = data[size:]
    return pieces


def parsed(pieces: list[bytes]) -> list[Any]:
    reader = hiredis.Reader(replyError=error_reply)
    for piece in pieces:
        reader.feed(piece)
    replies = []
    while (reply := reader.gets()) is not False:
        replies.append(reply)
    assert not reader.has_data()
    return replies


def test_what_is_not_too_large_passes_as_it_is() -> None:
    rng = random.Random(1)
    for _ in range(50):
        data = b"".join(rng.choices(INNOCENT, k=10))
        sieve = Sieve(LIMIT)
        assert b"".join(map(sieve.sift, cut(data, rng))) == data
        assert not sieve.has_dropped


@pytest.mark.parametrize("seed", range(3))
def test_an_error_is_in_the_place_of_what_is_too_large(seed: int) -> None:
    rng = random.Random(seed)
    data = b"".join([b":1\r\n*3\r\n$1\r\na\r\n", TOO_LARGE, b"*2\r\n$1\r\nb\r\n", TOO_LARGE, TOO_LARGE, b":2\r\n"])
    sieve = Sieve(LIMIT)
    one, (a, gap, (b, inner)), alone, two = parsed([sieve.sift(piece) for piece in cut(data, rng)])
    assert (one, a, b, two) == (1, b"a", b"b", 2)
    for error in (gap, inner, alone):
        assert isinstance(error, TooLargeError)
        assert str(error) == "TOOLARGE 21 bytes, more than max_result_bytes=20"
    assert sieve.has_dropped


def test_the_error_comes_when_all_is_there() -> None:
    sieve = Sieve(LIMIT)
    assert not b"".join(map(sieve.sift, cut(TOO_LARGE[:-1], random.Random(1))))
    assert sieve.sift(TOO_LARGE[-1:]).startswith(b"-TOOLARGE")


def test_a_line_without_an_end_is_no_reply() -> None:
    sieve = Sieve(LIMIT)
    with pytest.raises(LineTooLong):
        for _ in range(1000):
            sieve.sift(1000 * b"x")
