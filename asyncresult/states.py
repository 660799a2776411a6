"""The states of a task, Celery's words. Source: celery/states.py (5.7)."""

from __future__ import annotations

from typing import Final

__all__ = [
    "EXCEPTION_STATES",
    "FAILURE",
    "PENDING",
    "PROGRESS",
    "PROPAGATE_STATES",
    "READY_STATES",
    "RECEIVED",
    "RETRY",
    "REVOKED",
    "STARTED",
    "SUCCESS",
]

PENDING: Final = "PENDING"  # no key: unknown, waiting, expired, forgotten or ignored
RECEIVED: Final = "RECEIVED"
STARTED: Final = "STARTED"
PROGRESS: Final = "PROGRESS"  # a custom state by Celery's reckoning, the one everybody uses
RETRY: Final = "RETRY"
SUCCESS: Final = "SUCCESS"
FAILURE: Final = "FAILURE"
REVOKED: Final = "REVOKED"

#: The task is over. Custom states never are.
READY_STATES: Final = frozenset({SUCCESS, FAILURE, REVOKED})
#: ``result`` is an encoded exception.
EXCEPTION_STATES: Final = frozenset({FAILURE, RETRY, REVOKED})
#: ``get()`` raises.
PROPAGATE_STATES: Final = frozenset({FAILURE, REVOKED})
