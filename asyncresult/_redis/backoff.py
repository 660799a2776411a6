"""What the tasks that keep a connection share: pauses between attempts, and whether the server has let us in."""

from __future__ import annotations

import random

__all__ = ["BACKOFF_FIRST", "BACKOFF_LAST", "Backoff", "Health"]

#: Seconds between attempts: doubled from the first to the last, each drawn between 0 and that (full jitter),
#: so that the processes of a site do not come back in step.
BACKOFF_FIRST, BACKOFF_LAST = 0.05, 1.0


class Backoff:
    """The seconds to pause before the next attempt."""

    def __init__(self) -> None:
        self._bound = BACKOFF_FIRST

    def next(self) -> float:
        delay = self._bound * random.random()
        self._bound = min(self._bound * 2, BACKOFF_LAST)
        return delay

    def reset(self) -> None:
        self._bound = BACKOFF_FIRST


class Health:
    """Shared by all connections of an engine.

    Attributes:
        proven: The server has let us in once, and has answered a command. Before that, refused credentials are an
            error at once; afterwards they are an outage as any other.
    """

    __slots__ = ("proven",)

    def __init__(self) -> None:
        self.proven = False
