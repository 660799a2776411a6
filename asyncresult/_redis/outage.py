"""What the loops that keep a connection share: pauses between attempts, and one line in the log for each outage."""

from __future__ import annotations

import logging
import random

__all__ = ["BACKOFF_FIRST", "BACKOFF_LAST", "Backoff", "Health", "Outage"]

logger = logging.getLogger("asyncresult")

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
        proven: The server has let us in once. Before that, refused credentials are an error at once; afterwards they
            are an outage as any other.
    """

    __slots__ = ("proven",)

    def __init__(self) -> None:
        self.proven = False


class Outage:
    """What is wrong with a connection, said to the log once and not at every attempt.

    Args:
        what: The connection, for messages; holds no secret.
    """

    def __init__(self, what: str) -> None:
        self.reason: str | None = None
        self._what = what
        self._logged = False

    def note(self, reason: str, *, log: bool = True) -> None:
        """An attempt failed, or the connection was lost."""
        if log and not self._logged:
            self._logged = True
            logger.warning("%s lost: %s; waiting goes on, reconnecting", self._what, reason)
        self.reason = reason

    def over(self) -> None:
        """The connection is up again."""
        if self._logged:
            logger.info("%s is back", self._what)
        self._logged = False
        self.reason = None
