"""The states of a task by name: what is stored for each of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from ..states import FAILURE, RETRY, REVOKED, STARTED, SUCCESS

__all__ = ["Marks"]


class Marks(ABC):
    """Stores the states that every task may have."""

    @abstractmethod
    async def store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        *,
        traceback: str | None = None,
        request: Any = None,
        expires: float | None = None,
    ) -> bool:
        """Store a state of a task and announce it."""

    async def mark_as_started(self, task_id: str, **meta: Any) -> bool:
        """Store STARTED; ``meta`` says who runs it (Celery's workers give pid and hostname).

        Returns, raises: as :meth:`store_result`.
        """
        return await self.store_result(task_id, meta, STARTED)

    async def mark_as_done(
        self, task_id: str, result: Any, *, request: Any = None, expires: float | None = None
    ) -> bool:
        """Store SUCCESS with the value. Args, returns, raises: as :meth:`store_result`."""
        return await self.store_result(task_id, result, SUCCESS, request=request, expires=expires)

    async def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        *,
        traceback: str | None = None,
        request: Any = None,
        expires: float | None = None,
    ) -> bool:
        """Store FAILURE with the exception and its traceback text. Args, returns, raises: as :meth:`store_result`."""
        return await self.store_result(task_id, exc, FAILURE, traceback=traceback, request=request, expires=expires)

    async def mark_as_retry(
        self, task_id: str, exc: BaseException | None, *, traceback: str | None = None, request: Any = None
    ) -> bool:
        """Store RETRY with the exception that made a retry necessary, if one did.

        Args, returns, raises: as :meth:`store_result`.
        """
        return await self.store_result(task_id, exc, RETRY, traceback=traceback, request=request)

    async def mark_as_revoked(self, task_id: str, reason: str = "revoked", *, request: Any = None) -> bool:
        """Store REVOKED. Readers see TaskRevoked, those of stock Celery its TaskRevokedError, with that reason.

        Returns, raises: as :meth:`store_result`.
        """
        revoked = {"exc_type": "TaskRevokedError", "exc_message": [reason], "exc_module": "celery.exceptions"}
        return await self.store_result(task_id, revoked, REVOKED, request=request)
