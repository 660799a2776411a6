"""The handles: one result, a known result, several results, groups of results.

The code is in :mod:`._handles`.
"""

from __future__ import annotations

from ._handles.eager import EagerResult
from ._handles.forms import result_from_tuple
from ._handles.functions import as_completed, gather, wait
from ._handles.groups import GroupResult
from ._handles.result import AsyncResult
from ._handles.scope import Scope, scope
from ._handles.sets import ResultSet
from ._handles.streams import Completed, SetUpdates
from ._handles.updates import Updates

__all__ = [
    "AsyncResult",
    "Completed",
    "EagerResult",
    "GroupResult",
    "ResultSet",
    "Scope",
    "SetUpdates",
    "Updates",
    "as_completed",
    "gather",
    "result_from_tuple",
    "scope",
    "wait",
]
