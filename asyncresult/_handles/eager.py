"""A result that is known already."""

from __future__ import annotations

from typing import Any

from .._storage.notes import Sent
from .._storage.store import Store
from ..control import Reply
from ..errors import TaskRevoked
from ..meta import TaskMeta
from ..states import EXCEPTION_STATES, PROPAGATE_STATES, REVOKED, SUCCESS
from .base import T_co
from .lookup import lookup
from .result import AsyncResult

__all__ = ["EagerResult"]


class EagerResult(AsyncResult[T_co]):
    """The result of a task that was run on the spot. Needs no backend and no event loop to be read.

    A failure is raised as the exception itself, not as one rebuilt from a record. This handle keeps it, and with its
    traceback the frames that it was raised in last.

    Args:
        id: The task's id.
        ret_value: The value; for FAILURE, REVOKED and RETRY the exception.
        state: How the task ended.
        traceback: Its traceback text.
        name: The task's name.

    Raises:
        TypeError: ``state`` is FAILURE or REVOKED and ``ret_value`` is no exception.
    """

    __slots__ = ("_raised",)

    _is_eager = True  # also in RETRY: nobody will run it again

    def __init__(
        self,
        id: str,
        ret_value: Any,
        state: str = SUCCESS,
        traceback: str | None = None,
        name: str | None = None,
        *,
        backend: Store | None = None,
    ) -> None:
        super().__init__(id, backend=backend)
        if state in PROPAGATE_STATES and not isinstance(ret_value, Exception):
            raise TypeError(f"a task that ended in {state} has an exception, not {ret_value!r:.60}")
        self._raised: Exception | None = None
        self._end(state, ret_value, traceback, name)

    def _end(self, state: str, ret_value: Any, traceback: str | None, name: str | None) -> None:
        if state in EXCEPTION_STATES and isinstance(ret_value, Exception):
            self._raised = ret_value
        self._meta = TaskMeta(
            task_id=self.id, status=state, result=ret_value, traceback=traceback, name=name, _children=()
        )

    def _failure(self, meta: TaskMeta) -> Exception | None:
        # Its own exception, not a rebuilt one; without the frames of earlier raises.
        return self._raised.with_traceback(None) if self._raised is not None else None

    @lookup
    async def exists(self) -> bool:
        """True: the result is here, though stored nowhere."""
        return True

    @lookup
    async def known(self) -> bool:
        """True: the result is here."""
        return True

    @lookup
    async def sent(self) -> Sent | None:
        """None: it was not sent, but run on the spot."""
        return None

    async def forget(self) -> None:
        """Nothing is stored, so nothing is forgotten."""

    async def revoke(
        self, *, terminate: bool = False, signal: str | None = None, wait: bool = False, timeout: float | None = None
    ) -> list[Reply]:
        """Turn into REVOKED: there is no worker to reach."""
        self._value = self._raised = None
        revoked = TaskRevoked("revoked", exc_type="TaskRevokedError", exc_args=("revoked",), task_id=self.id)
        self._end(REVOKED, revoked, None, self._meta.name if self._meta is not None else None)
        return []

    def __copy__(self) -> EagerResult[T_co]:
        assert self._meta is not None
        meta = self._meta
        return type(self)(self.id, meta.result, meta.status, meta.traceback, meta.name, backend=self._backend)

    def __reduce__(self) -> tuple[Any, ...]:
        assert self._meta is not None
        return type(self), (self.id, self._meta.result, self._meta.status, self._meta.traceback, self._meta.name)
