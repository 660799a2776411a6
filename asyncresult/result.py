"""The handles: one result, a known result, several results, groups of results.

The machinery stands in :mod:`._handle`, :mod:`._eager`, :mod:`._sets` and :mod:`._tree`.
"""

from __future__ import annotations

from ._eager import EagerResult
from ._handle import AsyncResult
from ._scope import Scope, scope
from ._sets import GroupResult, ResultSet, as_completed, gather, wait
from ._streams import Completed, SetUpdates
from ._tree import result_from_tuple
from ._updates import Updates

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
