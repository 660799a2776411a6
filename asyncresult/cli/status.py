"""Exit statuses, which scripts rely on."""

from __future__ import annotations

from enum import IntEnum

from ..states import FAILURE, READY_STATES, REVOKED

__all__ = ["CommandError", "Status", "status_of_state"]


class Status(IntEnum):
    """How a command ended. Of several results the largest counts."""

    SUCCESS = 0
    FAILED = 1
    """A task failed."""
    USAGE = 2
    """The command line, a URL or an option is wrong, or does not apply to this store; or the output is full."""
    REVOKED = 3
    UNKNOWN = 4
    """Nothing is stored for that id, not even that it was sent."""
    UNREACHABLE = 5
    """The server cannot be reached, or refuses."""
    UNREADABLE = 6
    """What is stored cannot be read."""
    TIMEOUT = 124
    """The time ran out; as timeout(1)."""
    INTERRUPTED = 130
    """Ctrl-C; as shells report it."""


class CommandError(Exception):
    """Ends a command with one line on stderr.

    Args:
        message: What is wrong, and what to do.
        status: The exit status.
    """

    def __init__(self, message: str, status: Status = Status.USAGE) -> None:
        super().__init__(message)
        self.status = status


def status_of_state(state: str) -> Status:
    """The exit status for a task in that state; a state that is not final is no failure."""
    if state == REVOKED:
        return Status.REVOKED
    if state in READY_STATES:
        return Status.FAILED if state == FAILURE else Status.SUCCESS
    return Status.SUCCESS
