"""Reading: MGETs that are made smaller where they are too large or partly forbidden."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..errors import AsyncResultError, BackendClosed, BackendError, ResultTooLarge
from .connection import WithGaps
from .errors import reply_error
from .exceptions import NoPermissionError, TooLargeError
from .packing import Command, KeysCommand
from .pump import Job

__all__ = ["Read", "Receiver"]

#: What MGET gives for a key.
_VALUES = frozenset({bytes, type(None)})


class Receiver(Protocol):
    """Where values go: each key once, in any number of slices."""

    def found(self, keys: Sequence[bytes], values: Sequence[bytes | None]) -> None: ...
    def failed(self, keys: Sequence[bytes], error: AsyncResultError) -> None: ...


class Read(Job):
    """The values of some keys.

    Args:
        receiver: Gets the values.
        send: Takes the jobs that replace this one.
        patience: As for any job.
        one_by_one: Use a command for each key. In a cluster, keys of one command must live in one slot, and even then
            it is refused (TRYAGAIN) while that slot is moving.
        address: For messages.
    """

    __slots__ = ("_address", "_keys", "_one_by_one", "_receiver", "_send")

    def __init__(
        self,
        keys: Sequence[bytes],
        receiver: Receiver,
        send: Callable[[Job], None],
        patience: float | None,
        *,
        one_by_one: bool,
        address: object,
    ) -> None:
        commands: list[Command] = [("MGET", key) for key in keys] if one_by_one else [KeysCommand(("MGET", *keys))]
        super().__init__(commands, patience)
        self._keys = keys
        self._receiver = receiver
        self._send = send
        self._one_by_one = one_by_one
        self._address = address

    @property
    def size(self) -> int:
        return len(self._keys)

    @property
    def key(self) -> bytes | None:
        return self._keys[0] if len(self._keys) == 1 else None

    def split(self, size: int) -> list[Read]:
        parts = []
        for i in range(0, len(self._keys), size):
            part = Read(
                self._keys[i : i + size],
                self._receiver,
                self._send,
                self.patience,
                one_by_one=self._one_by_one,
                address=self._address,
            )
            part.deadline = self.deadline
            parts.append(part)
        return parts

    def done(self, replies: list[Any]) -> None:
        if not self._one_by_one and not isinstance(replies[0], Exception):
            self._found(self._keys, replies[0], isinstance(replies[0], WithGaps))
        elif len(replies) == 1 and len(self._keys) > 1 and isinstance(replies[0], NoPermissionError):
            # One forbidden key takes the whole command with it: read each alone.
            for part in self.split(1):
                self._send(part)
        elif self._one_by_one:
            pairs = list(zip(self._keys, replies, strict=True))
            if found := [(key, reply[0]) for key, reply in pairs if not isinstance(reply, Exception)]:
                has_gaps = any(isinstance(reply, WithGaps) for reply in replies)
                self._found([key for key, _ in found], [value for _, value in found], has_gaps)
            for key, reply in pairs:
                if error := reply_error(reply, self._address):
                    self._receiver.failed([key], error)
        elif error := reply_error(replies[0], self._address):
            self._receiver.failed(self._keys, error)

    def _found(self, keys: Sequence[bytes], values: Sequence[Any], has_gaps: bool) -> None:
        if has_gaps:
            found: list[tuple[bytes, Any]] = []
            for key, value in zip(keys, values, strict=True):
                if isinstance(value, TooLargeError):
                    self._receiver.failed([key], _too_large(key, value))
                else:
                    found.append((key, value))
            keys, values = [key for key, _ in found], [value for _, value in found]
        if len(values) != len(keys) or not _VALUES.issuperset(map(type, values)):
            raise TypeError("the values that were read are not as many strings as keys")
        if keys:
            self._receiver.found(keys, values)

    def failed(self, error: BackendError | BackendClosed) -> None:
        self._receiver.failed(self._keys, error)


def _too_large(key: bytes, error: TooLargeError) -> ResultTooLarge:
    sizes = str(error).partition(" ")[2]
    return ResultTooLarge(f"the record {key.decode(errors='backslashreplace')} has {sizes}")
