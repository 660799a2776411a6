"""Replies in, replies out, without what is larger than anybody wants: its bytes are dropped as they come.

hiredis makes one object of each string, which takes 0.7 ms for each MB: for a record of 100 MB the loop would stop,
only for it to be refused. RESP needs no parser to know where a string begins: a stream of replies is a row of lines, of
which those that begin with ``$`` are followed by as many bytes as they say, however the replies are nested. A string
that is too large becomes an error in its place (see :class:`.exceptions.TooLargeError`), given once its last byte is
here.

Source: RESP specification.
"""

from __future__ import annotations

__all__ = ["LineTooLong", "Sieve"]

#: The first byte of a string whose length is announced: bulk strings, and in RESP3 bulk errors and verbatim strings.
_ANNOUNCED = b"$!="
_CRLF = b"\r\n"
#: Bytes of a line: only announced strings are longer.
_LINE_BYTES = 64 * 1024


class LineTooLong(Exception):
    """The peer does not speak the Redis protocol."""


class Sieve:
    """Looks through one stream of replies, from the beginning of one.

    Args:
        limit: Bytes of a string that may pass.

    Attributes:
        has_dropped: Whether a string was too large.
    """

    __slots__ = ("_is_dropping", "_left", "_length", "_limit", "_line", "has_dropped")

    def __init__(self, limit: int) -> None:
        self.has_dropped = False
        self._limit = limit
        self._line = b""  # the beginning of one whose end has not come
        self._length = self._left = 0  # of the string that is under way, and of what is missing of it with its CRLF
        self._is_dropping = False

    def sift(self, data: bytes) -> bytes:
        """What is to be parsed of the bytes that came next.

        Raises:
            LineTooLong: They are no replies.
        """
        data, self._line = self._line + data, b""
        passed: list[bytes] = []
        start = at = 0  # of what passes; of what is looked at
        end = len(data)
        while True:
            step = min(self._left, end - at)
            at += step
            self._left -= step
            if self._is_dropping:
                start = at
                if not self._left:
                    passed.append(
                        b"-TOOLARGE %d bytes, more than max_result_bytes=%d\r\n" % (self._length, self._limit)
                    )
                    self._is_dropping = False
            newline = data.find(_CRLF, at)
            if self._left or newline < 0:
                break
            if data[at] in _ANNOUNCED and (length := _length(data[at + 1 : newline])) is not None:
                self._left = length + len(_CRLF)
                if length > self._limit:
                    passed.append(data[start:at])
                    self._length, self._is_dropping = length, True
                    self.has_dropped = True
            at = newline + len(_CRLF)
        if not self._left:
            self._line, end = data[at:], at
            if len(self._line) > _LINE_BYTES:
                raise LineTooLong
        passed.append(data[start:end])
        return b"".join(passed)


def _length(digits: bytes) -> int | None:
    """The length of a string; None where there is none: ``$-1`` is a null."""
    return int(digits) if digits.isdigit() else None
