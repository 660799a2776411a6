"""The blocking handle on a result that is known already."""

from __future__ import annotations

from typing import Any

from .._handles.base import T_co
from .._handles.eager import EagerResult as EagerHandle
from ..states import SUCCESS
from .base import blocking
from .result import AsyncResult

__all__ = ["EagerResult"]


class EagerResult(AsyncResult[T_co]):
    """The result of a task that was run on the spot; everything about it is known.

    Args:
        id: The task's id.
        ret_value: The value; for FAILURE, REVOKED and RETRY the exception.
        state: How the task ended.
        traceback: Its traceback text.
        name: The task's name.

    Raises:
        TypeError: ``state`` is FAILURE or REVOKED and ``ret_value`` is no exception.
    """

    supports_native_join = False

    def __init__(
        self, id: str, ret_value: Any, state: str = SUCCESS, traceback: str | None = None, name: str | None = None
    ) -> None:
        self.app: Any = None
        self._handle = EagerHandle(id, ret_value, state, traceback, name)

    def ready(self) -> bool:
        """True, also in RETRY: nobody will run it again."""
        return True


blocking.register(EagerHandle, EagerResult._of)
