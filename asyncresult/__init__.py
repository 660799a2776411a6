"""Awaitable results of background tasks. Start with :func:`connect` and :class:`AsyncResult`."""

from __future__ import annotations

from asyncio import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION

from ._executor import Executor, value_of
from .backends import connect, current_backend
from .backends.base import Backend, BackendStats
from .codec import register_type
from .errors import (
    AsyncResultError,
    BackendClosed,
    BackendError,
    BackendPermissionError,
    BackendUnavailable,
    CycleError,
    NotReady,
    ResultDecodeError,
    ResultEncodeError,
    ResultTimeout,
    ResultTooLarge,
    ResultTypeError,
    TaskFailed,
    TaskRevoked,
)
from .graph import DependencyGraph
from .meta import TaskMeta
from .promise import Promise, Settled
from .result import (
    AsyncResult,
    EagerResult,
    GroupResult,
    ResultSet,
    Updates,
    as_completed,
    gather,
    result_from_tuple,
    scope,
    wait,
)
from .version import __version__
from .worker import TaskContext, current_task

__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "AsyncResult",
    "AsyncResultError",
    "Backend",
    "BackendClosed",
    "BackendError",
    "BackendPermissionError",
    "BackendStats",
    "BackendUnavailable",
    "CycleError",
    "DependencyGraph",
    "EagerResult",
    "Executor",
    "GroupResult",
    "NotReady",
    "Promise",
    "ResultDecodeError",
    "ResultEncodeError",
    "ResultSet",
    "ResultTimeout",
    "ResultTooLarge",
    "ResultTypeError",
    "Settled",
    "TaskContext",
    "TaskFailed",
    "TaskMeta",
    "TaskRevoked",
    "Updates",
    "__version__",
    "as_completed",
    "connect",
    "current_backend",
    "current_task",
    "gather",
    "register_type",
    "result_from_tuple",
    "scope",
    "value_of",
    "wait",
]
