"""The blocking face: scripts, threads, and code that was written for ``celery.result``.

::

    from asyncresult.sync import AsyncResult, connect      # where celery.result was imported from

    with connect("redis://localhost/0"):
        print(AsyncResult(task_id).get(timeout=10))

The nouns are those of :mod:`asyncresult`, the shapes Celery's: ``r.state``, ``r.result`` and ``r.children`` are
properties, ``r.get()`` blocks. One event loop in a thread of its own serves all threads of the process, over the
same two connections. On a thread that runs an event loop everything that would wait raises RuntimeError at
once: there, await :mod:`asyncresult`.

The loop is in :mod:`asyncresult._portal`; what differs where Celery is loaded, in :mod:`.celery`.
"""

from __future__ import annotations

from asyncio import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION

from .backend import Backend, connect, current_backend
from .base import ResultBase, Stream, Updates
from .celery import allow_join_result, assert_will_not_block, denied_join_result
from .eager import EagerResult
from .executor import Executor
from .functions import as_completed, gather, result_from_tuple, wait
from .groups import GroupResult
from .result import AsyncResult
from .sets import ResultSet

__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "AsyncResult",
    "Backend",
    "EagerResult",
    "Executor",
    "GroupResult",
    "ResultBase",
    "ResultSet",
    "Stream",
    "Updates",
    "allow_join_result",
    "as_completed",
    "assert_will_not_block",
    "connect",
    "current_backend",
    "denied_join_result",
    "gather",
    "result_from_tuple",
    "wait",
]
