"""Awaitable results of background tasks. Start with :func:`connect` and :class:`AsyncResult`."""

from __future__ import annotations

import importlib
from asyncio import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from typing import TYPE_CHECKING

from ._handles.result import AsyncResult
from ._handles.updates import Updates
from ._storage.engine import BackendStats
from .backend import Backend, connect, current_backend
from .codec.json import register_type
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
from .meta import TaskMeta
from .version import __version__

# What many programs never use is imported when somebody asks for it (benchmarks: import).
if TYPE_CHECKING:
    from .executor import Executor, value_of
    from .graph import DependencyGraph
    from .promise import Promise, Settled
    from .result import EagerResult, GroupResult, ResultSet, as_completed, gather, result_from_tuple, scope, wait
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

if not TYPE_CHECKING:  # a type checker that sees __getattr__ lets every name pass
    _ROOMS = {
        "executor": ("Executor", "value_of"),
        "control": (),
        "graph": ("DependencyGraph",),
        "promise": ("Promise", "Settled"),
        "result": (
            "EagerResult",
            "GroupResult",
            "ResultSet",
            "as_completed",
            "gather",
            "result_from_tuple",
            "scope",
            "wait",
        ),
        "worker": ("TaskContext", "current_task"),
    }

    def __getattr__(name):
        for room, names in _ROOMS.items():
            if name in names or name == room:
                module = importlib.import_module(f".{room}", __name__)
                found = globals()[name] = module if name == room else getattr(module, name)
                return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})
