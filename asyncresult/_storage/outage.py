"""What the log says of a store that is away."""

from __future__ import annotations

import time

from .._log import Log, get_logger

__all__ = ["Outage"]

logger: Log = get_logger("asyncresult")

#: Seconds after which an outage that goes on is logged again; doubled each time.
LOGGED_AGAIN_AFTER = 10.0


class Outage:
    """What is wrong with a connection or store, said to the log at first and then at doubling intervals, not at every
    attempt.

    Its end is logged at the level of its beginning: a log that shows one shows the other.

    Args:
        what: The connection or store, for messages; holds no secret.
    """

    def __init__(self, what: str) -> None:
        self.reason: str | None = None
        self._what = what
        self._began: float | None = None
        self._interval = self._log_at = 0.0

    def note(self, reason: str, *, log: bool = True, then: str = "waiting goes on, reconnecting") -> None:
        """An attempt failed, or the connection was lost; ``then``: what becomes of those who wait."""
        self.reason = reason
        if not log:
            return
        now = time.monotonic()
        if self._began is None:
            self._began = now
            self._interval = LOGGED_AGAIN_AFTER
            self._log("lost: %s; %s", reason, then)
        elif now >= self._log_at:
            self._interval *= 2
            self._log("still away after %.0f s: %s", now - self._began, reason)
        else:
            return
        self._log_at = now + self._interval

    def over(self, *, log: bool = True) -> None:
        """The connection is up again; without ``log``, the next loss is taken as part of the same outage."""
        self.reason = None
        if log and self._began is not None:
            self._log("is back after %.1f s", time.monotonic() - self._began, event="back")
            self._began = None

    def _log(self, text: str, *arguments: object, event: str = "lost") -> None:
        logger.warning("%s " + text, self._what, *arguments, extra={"backend": self._what, "event": event})  # noqa: G003
