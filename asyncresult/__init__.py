"""Awaitable results of background tasks. Start with :func:`connect` and :class:`AsyncResult`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ._extensions import provide_default
from .version import __version__

# Each name is imported on its first use: many programs use few of them (benchmarks: import), and the command
# line answers --version and --help without any.
if TYPE_CHECKING:
    from asyncio import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION

    from ._handles.result import AsyncResult
    from ._handles.updates import Updates
    from ._storage.engine import BackendStats, Health
    from ._storage.notes import Sent
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
    from .executor import Executor, value_of
    from .graph import DependencyGraph
    from .meta import TaskMeta
    from .probe import Probe, WaitEnded
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
    "Probe",
    "Promise",
    "ResultDecodeError",
    "ResultEncodeError",
    "ResultSet",
    "ResultTimeout",
    "ResultTooLarge",
    "ResultTypeError",
    "Sent",
    "Settled",
    "TaskContext",
    "TaskFailed",
    "TaskMeta",
    "TaskRevoked",
    "Updates",
    "WaitEnded",
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
    _NAMES = {
        "._handles.result": ["AsyncResult"],
        "._handles.updates": ["Updates"],
        "._storage.engine": ["BackendStats", "Health"],
        "._storage.notes": ["Sent"],
        ".backend": ["Backend", "connect", "current_backend"],
        ".codec.json": ["register_type"],
        ".errors": [
            "AsyncResultError",
            "BackendClosed",
            "BackendError",
            "BackendPermissionError",
            "BackendUnavailable",
            "CycleError",
            "NotReady",
            "ResultDecodeError",
            "ResultEncodeError",
            "ResultTimeout",
            "ResultTooLarge",
            "ResultTypeError",
            "TaskFailed",
            "TaskRevoked",
        ],
        ".executor": ["Executor", "value_of"],
        ".graph": ["DependencyGraph"],
        ".meta": ["TaskMeta"],
        ".probe": ["Probe", "WaitEnded"],
        ".promise": ["Promise", "Settled"],
        ".result": [
            "EagerResult",
            "GroupResult",
            "ResultSet",
            "as_completed",
            "gather",
            "result_from_tuple",
            "scope",
            "wait",
        ],
        ".worker": ["TaskContext", "current_task"],
        "asyncio": ["ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"],
    }
    _HOME = {name: module for module, names in _NAMES.items() for name in names}
    _MODULES = {
        "backend",
        "codec",
        "control",
        "errors",
        "executor",
        "graph",
        "meta",
        "promise",
        "result",
        "states",
        "worker",
    }

    def __getattr__(name):
        if name in _HOME:
            found = getattr(importlib.import_module(_HOME[name], __name__), name)
        elif name in _MODULES:
            found = importlib.import_module(f".{name}", __name__)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found
        return found

    def __dir__():
        return sorted({*globals(), *__all__})

    # A program may import AsyncResult alone, and name its backend by $ASYNCRESULT_URL.
    provide_default(lambda: importlib.import_module(".backend", __name__).default_backend())
    del provide_default
