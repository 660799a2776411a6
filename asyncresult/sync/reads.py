"""What one record says: a property or method for each field, one read each, blocking."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic

from .._handles.base import T_co
from .._handles.known import info_of, is_ready
from .._handles.result import AsyncResult as AsyncHandle
from .._portal import run
from .._storage.notes import Sent
from ..meta import TaskMeta
from .base import ResultBase, blocking
from .celery import in_celerys_terms

__all__ = ["Readable"]


class Readable(ResultBase, Generic[T_co]):
    """A blocking handle, of which each field of the record can be read."""

    _handle: AsyncHandle[T_co]

    def meta(self) -> TaskMeta:
        """The record as it is now. Final records are remembered.

        Raises:
            BackendUnavailable, BackendPermissionError, BackendClosed: It could not be read.
            ResultDecodeError: It cannot be read.
        """
        handle = self._handle
        known = handle.snapshot
        return known if known is not None and is_ready(handle) else run(handle.meta)

    @property
    def state(self) -> str:
        """The task's state: PENDING, STARTED, SUCCESS … Properties raise as :meth:`meta`."""
        return self.meta().status

    status = state

    @property
    def result(self) -> Any:
        """The value, the task's exception (not raised), or what the worker reported."""
        return in_celerys_terms(info_of(self._handle, self.meta()))

    info = result

    @property
    def traceback(self) -> str | None:
        """The worker's traceback text."""
        return self.meta().traceback

    @property
    def children(self) -> list[Any] | None:
        """Handles on what the task sent while it ran; None where the record does not say."""
        from .._handles.tree import children_of

        children = children_of(self._handle, self.meta())
        return [blocking(child) for child in children] if children is not None else None

    @property
    def date_done(self) -> datetime | None:
        """When the task ended, timezone-aware."""
        return self.meta().date_done

    @property
    def name(self) -> str | None:
        """The task's name, where the worker records it (``result_extended``)."""
        return self.meta().name

    @property
    def args(self) -> Any:
        """The positional arguments, likewise."""
        return self.meta().args

    @property
    def kwargs(self) -> Any:
        """The keyword arguments, likewise."""
        return self.meta().kwargs

    @property
    def worker(self) -> str | None:
        """The node that ran it, likewise."""
        return self.meta().worker

    @property
    def queue(self) -> str | None:
        """The queue it came through, likewise."""
        return self.meta().queue

    @property
    def retries(self) -> int | None:
        """How often it was tried again, likewise."""
        return self.meta().retries

    def ready(self) -> bool:
        """Whether the task is over."""
        return self.meta().ready

    def successful(self) -> bool:
        """Whether the task returned."""
        return self.meta().successful

    def failed(self) -> bool:
        """Whether the task raised; a revoked task did not."""
        return self.meta().failed

    def exists(self) -> bool:
        """Whether a record is stored, without fetching it."""
        return run(self._handle.exists)

    def known(self) -> bool:
        """Whether a record is stored, or a note that the task was sent (``connect(…, register=True)``)."""
        return run(self._handle.known)

    def sent(self) -> Sent | None:
        """When and as what the task was sent; None where that was not noted."""
        return run(self._handle.sent)

    def forget(self) -> None:
        """Delete the record and those of the parents, and what this handle knows."""
        run(self._handle.forget)
