"""Awaitable results of background tasks. Start with :func:`connect` and :class:`AsyncResult`."""

from __future__ import annotations

import importlib
from asyncio import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from typing import TYPE_CHECKING

from ._handles.result import AsyncResult
from ._handles.updates import Updates
from ._storage.engine import BackendStats, Health
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
    "Health",
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
    _LATER = {
        "DependencyGraph": "graph",
        "EagerResult": "result",
        "Executor": "executor",
        "GroupResult": "result",
        "Promise": "promise",
        "ResultSet": "result",
        "Settled": "promise",
        "TaskContext": "worker",
        "as_completed": "result",
        "current_task": "worker",
        "gather": "result",
        "result_from_tuple": "result",
        "scope": "result",
        "value_of": "executor",
        "wait": "result",
    }
    _MODULES = {"control", *_LATER.values()}

    def __getattr__(name):
        if name not in _LATER and name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f".{_LATER.get(name, name)}", __name__)
        found = globals()[name] = getattr(module, name) if name in _LATER else module
        return found

    def __dir__():
        return sorted({*globals(), *__all__})
