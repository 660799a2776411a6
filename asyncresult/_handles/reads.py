"""What one record says: a method for each field, one read each."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from .._storage.notes import Sent, is_known, read_note
from .._storage.store import engine_of
from .base import Node, T_co, handles_in
from .handle import Handle
from .known import forget_record, info_of
from .lookup import lookup
from .making import make_handles

__all__ = ["Readable"]


class Readable(Handle[T_co]):
    """A handle of which each field of the record can be read."""

    __slots__ = ()

    @lookup
    async def state(self) -> str:
        """The task's state: PENDING, STARTED, SUCCESS … Raises: as :meth:`meta`."""
        return (await self.meta()).status

    status = state

    async def result(self) -> Any:
        """The value, the task's exception (not raised), or what the worker reported.

        Raises: as :meth:`meta`; ResultTypeError when the value is not of the ``type``.
        """
        return info_of(self, await self.meta())

    info = result

    async def traceback(self) -> str | None:
        """The worker's traceback text; None without a failure. Raises: as :meth:`meta`."""
        return (await self.meta()).traceback

    async def children(self) -> list[Node[Any]] | None:
        """Handles on what the task sent while it ran; None where the record does not say.

        Raises: as :meth:`meta`; ResultDecodeError also when the children are not in Celery's form.
        """
        from .tree import children_of

        meta = await self.meta()
        children = meta.children
        if children is None or (isinstance(children, list) and not children):
            return children  # needs no backend: an eager one may have none
        return await make_handles(self.backend, children, lambda: children_of(self, meta))

    async def _below(self) -> list[Node[Any]]:
        return await self.children() or []

    async def date_done(self) -> datetime | None:
        """When the task ended, timezone-aware; None while it has not.

        Raises: as :meth:`meta`; ResultDecodeError also when it is not a time.
        """
        return (await self.meta()).date_done

    async def name(self) -> str | None:
        """The task's name, where the worker records it (``result_extended``). Raises: as :meth:`meta`."""
        return (await self.meta()).name

    async def args(self) -> Any:
        """The positional arguments, where the worker records them. Raises: as :meth:`meta`."""
        return (await self.meta()).args

    async def kwargs(self) -> Any:
        """The keyword arguments, where the worker records them. Raises: as :meth:`meta`."""
        return (await self.meta()).kwargs

    async def worker(self) -> str | None:
        """The worker that ran it, where that is recorded. Raises: as :meth:`meta`."""
        return (await self.meta()).worker

    async def queue(self) -> str | None:
        """The queue it came through, where the worker records it. Raises: as :meth:`meta`."""
        return (await self.meta()).queue

    async def retries(self) -> int | None:
        """How often it was tried again, where the worker records it. Raises: as :meth:`meta`."""
        return (await self.meta()).retries

    @lookup
    async def ready(self) -> bool:
        """Whether the task is over; True at once for an ignored result, of which nothing more will be known.

        Raises: as :meth:`meta`, never what the task raised.
        """
        return self.ignored or (await self.meta()).ready

    @lookup
    async def successful(self) -> bool:
        """Whether the task returned. Raises: as :meth:`meta`."""
        return (await self.meta()).successful

    @lookup
    async def failed(self) -> bool:
        """Whether the task raised; a revoked task did not. Raises: as :meth:`meta`."""
        return (await self.meta()).failed

    @lookup
    async def exists(self) -> bool:
        """Whether a record is stored, without fetching it.

        Raises: as :meth:`meta`, but not ResultDecodeError.

        Wire: STRLEN.
        """
        backend = self.backend
        return await engine_of(backend).exists(backend.task_key(self.id))

    @lookup
    async def known(self) -> bool:
        """Whether a record is stored, or a note that the task was sent (``connect(…, register=True)``).

        False for the id of a task that nobody has sent, if those who send tasks register them; else also for one that
        is pending.

        Raises: as :meth:`exists`.

        Wire: STRLEN, twice, in one pipeline.
        """
        return await is_known(self.backend, self.id)

    @lookup
    async def sent(self) -> Sent | None:
        """When and as what the task was sent; None where that was not noted.

        Raises: as :meth:`meta`.

        Wire: one MGET for all reads of a loop tick.
        """
        return await read_note(self.backend, self.id)

    async def forget(self) -> None:
        """Delete the record and those of the parents, and what this handle knows.

        A task that still runs will write its record again.

        Raises: BackendError, BackendClosed.

        Wire: DEL.
        """
        ids = [self.id]
        node = self.parent
        while node is not None:
            ids += [leaf.id for leaf in handles_in(node)]
            node = node.parent
        await self.backend.forget(*ids)
        forget_record(self)
