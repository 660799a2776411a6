"""RESP as a proxy sees it: whole frames, and the commands among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import hiredis

if TYPE_CHECKING:
    from .proxy import Link


class Frames:
    """Cuts a stream of RESP 2 or RESP 3 into whole top-level frames, however it is cut when it arrives."""

    def __init__(self) -> None:
        self._stream = bytearray()
        self._position = 0  # everything before it is understood
        self._missing = 1  # elements until the frame is whole

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that became whole with ``data``.

        Raises:
            ValueError: This is not RESP.
        """
        stream, position, missing, start = self._stream, self._position, self._missing, 0
        stream += data
        frames: list[bytes] = []
        while (end := stream.find(b"\r\n", position)) >= 0:
            kind = stream[position]
            after = end + 2
            if kind in b"$!=":
                length = int(stream[position + 1 : end])
                if length >= 0:
                    after += length + 2
                    if after > len(stream):
                        break
                missing -= 1
            elif kind in b"*~>":
                missing += max(int(stream[position + 1 : end]), 0) - 1
            elif kind in b"%|":
                # An attribute ("|") comes before the element that it describes, and counts for none.
                missing += 2 * int(stream[position + 1 : end]) - (kind == ord("%"))
            else:
                missing -= 1
            position = after
            if not missing:
                frames.append(bytes(stream[start:position]))
                start, missing = position, 1
        del stream[:start]
        self._position, self._missing = position - start, missing
        return frames


@dataclass(frozen=True)
class Request:
    """A command as a client sent it."""

    name: str
    """In capitals."""
    args: tuple[bytes, ...]
    raw: bytes
    link: Link = field(repr=False)

    @classmethod
    def parse(cls, raw: bytes, link: Link) -> Self:
        if raw[:1] == b"*":
            reader = hiredis.Reader()
            reader.feed(raw)
            words = reader.gets() or [b""]
        else:
            words = raw.split() or [b""]  # the inline form
        return cls(words[0].decode(errors="replace").upper(), tuple(words[1:]), raw, link)


Match = str | Callable[[Request], bool] | None
"""Which commands: the name of one, several names with blanks between, a predicate, or None for all."""


def matcher(match: Match) -> Callable[[Request], bool]:
    if match is None:
        return lambda request: True
    if isinstance(match, str):
        names = frozenset(match.upper().split())
        return lambda request: request.name in names
    return match


def channel_of(frame: bytes) -> bytes | None:
    """The channel, if the frame is a message of a subscription."""
    if frame.startswith(
        (b">3\r\n$7\r\nmessage", b"*3\r\n$7\r\nmessage", b">3\r\n$8\r\nsmessage", b"*3\r\n$8\r\nsmessage")
    ):
        index = 1
    elif frame.startswith((b">4\r\n$8\r\npmessage", b"*4\r\n$8\r\npmessage")):
        index = 2
    else:
        return None
    reader = hiredis.Reader()
    reader.feed(frame)
    message = reader.gets()
    return bytes(message[index])
