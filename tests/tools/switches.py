"""The faults of a :class:`~tests.tools.proxy.FaultProxy`: what each needs to know while it is switched on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal, Self

from .frames import Match, Request, matcher

if TYPE_CHECKING:
    from .proxy import FaultProxy, Link

Direction = Literal["up", "down", "both"]
"""up: from the client to the server; down: from the server to the client."""
Ending = Literal["rst", "fin"]


class Fault:
    """A fault that is switched on.

    Attributes:
        hits: To how many commands, replies, connections or writes it happened so far.
    """

    def __init__(self, proxy: FaultProxy) -> None:
        self.hits = 0
        self._proxy = proxy

    def remove(self) -> None:
        """Switch it off; doing it twice is fine."""
        self._proxy.in_loop(self._remove)

    def _remove(self) -> None:
        self._proxy.faults = [fault for fault in self._proxy.faults if fault is not self]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.remove()


class ForRequests(Fault):
    def __init__(self, proxy: FaultProxy, match: Match) -> None:
        super().__init__(proxy)
        self.matches = matcher(match)


class Delay(ForRequests):
    def __init__(self, proxy: FaultProxy, seconds: float, match: Match, direction: Direction) -> None:
        super().__init__(proxy, match)
        self.seconds, self.direction = seconds, direction


class Before(ForRequests):
    def __init__(self, proxy: FaultProxy, match: Match, action: Callable[[Request], Awaitable[object]]) -> None:
        super().__init__(proxy, match)
        self.action = action


class ReplyError(ForRequests):
    def __init__(self, proxy: FaultProxy, message: str, match: Match, times: int | None) -> None:
        super().__init__(proxy, match)
        self.message, self.times = message, times


class DropMessages(Fault):
    def __init__(self, proxy: FaultProxy, only: Callable[[bytes], bool] | None) -> None:
        super().__init__(proxy)
        self.only = only


class Throttle(Fault):
    def __init__(self, proxy: FaultProxy, bytes_per_second: float, direction: Direction) -> None:
        super().__init__(proxy)
        self.rate, self.direction = bytes_per_second, direction


class CutAfter(Fault):
    def __init__(self, proxy: FaultProxy, size: int, direction: Direction, how: Ending) -> None:
        super().__init__(proxy)
        self.size, self.direction = size, direction
        self.how: Ending = how
        self.passed: Counter[Link] = Counter()


class BlackHole(Fault):
    def __init__(self, proxy: FaultProxy, takes_new: bool) -> None:
        super().__init__(proxy)
        self.takes_new = takes_new


class Refuse(Fault):
    def __init__(self, proxy: FaultProxy, message: str | None) -> None:
        super().__init__(proxy)
        self.message = message

    def _remove(self) -> None:
        super()._remove()
        self._proxy.listen()
