"""Groups: sets that have an id, a place in the tree of tasks, and a list of members that can be saved."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any, Self, overload

from .._checks import check_no_url
from .._storage.current import current_store
from .._storage.store import Store
from ..codec.exceptions import error_text, printable
from ..errors import ResultDecodeError
from .base import Node, ResultBase, T
from .making import make_handles
from .result import AsyncResult
from .sets import ResultSet

__all__ = ["GroupResult"]


class GroupResult(ResultSet[T], Node[list[T]]):
    """The results of a group of tasks, with an id under which the list of members can be saved.

    Args:
        id: The group's id; a new one by default.
        results: The members.
        parent: The handle of what must succeed before the group runs.
        backend: Where :meth:`save` stores; None is that of the first member, else the current one.
    """

    @overload
    def __init__(
        self,
        id: str | None = None,
        results: Iterable[ResultBase[T]] = (),
        *,
        parent: Node[Any] | None = None,
        backend: Store | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: GroupResult[Any],
        id: str | None = None,
        results: Iterable[Any] = (),
        *,
        parent: Node[Any] | None = None,
        backend: Store | None = None,
    ) -> None: ...
    def __init__(
        self,
        id: str | None = None,
        results: Iterable[Any] = (),
        *,
        parent: Node[Any] | None = None,
        backend: Store | None = None,
    ) -> None:
        check_no_url(backend)
        super().__init__(results)
        self.id: str = str(id) if id is not None else str(uuid.uuid4())
        self.parent = parent
        self._backend = backend

    @property
    def children(self) -> list[Any]:
        """The members."""
        return self.results

    @property
    def backend(self) -> Store:
        """Where the group is saved.

        Raises:
            RuntimeError: None is known and none is entered.
        """
        if self._backend is not None:
            return self._backend
        first: Store = self.results[0].backend if self.results else AsyncResult(self.id).backend
        return first

    async def save(self, backend: Store | None = None) -> Self:
        """Store which results belong to this group, in Celery's form. Returns itself.

        Raises:
            TypeError: ``backend`` is a URL.
            BackendUnavailable, BackendPermissionError, BackendClosed: It may or may not have been stored.
        """
        check_no_url(backend)
        await (backend or self.backend).save_group(self)
        return self

    async def delete(self, backend: Store | None = None) -> None:
        """Delete the saved list; the members' records stay.

        Raises:
            TypeError: ``backend`` is a URL.
            BackendError, BackendClosed: It could not be deleted.
        """
        check_no_url(backend)
        await (backend or self.backend).delete_group(self.id)

    @classmethod
    async def restore(cls, id: str, backend: Store | None = None) -> GroupResult[Any] | None:
        """The group saved under ``id``, or None.

        Raises:
            ResultDecodeError: What is saved there cannot be decoded, or is another group.
            BackendError, BackendClosed: It could not be read.
            RuntimeError: No backend is given, and none is entered.
            TypeError: ``backend`` is a URL.
        """
        check_no_url(backend)
        backend = backend or current_store()
        form = await backend.restore_group(id)
        if form is None:
            return None
        shown = printable(id)

        def make() -> Any:
            try:
                return backend._revive(form)
            except Exception as error:  # values of registered types may raise anything
                raise ResultDecodeError(
                    f"the saved group {shown} is not in Celery's form: {error_text(error)}", task_id=id
                ) from error

        group = await make_handles(backend, form, make)
        if not isinstance(group, GroupResult):
            raise ResultDecodeError(f"what is saved as group {shown} is a single result", task_id=id)
        if group.id != str(id):  # its delete() would delete another
            raise ResultDecodeError(f"what is saved as group {shown} is another one, {printable(group.id)}", task_id=id)
        return group

    async def _below(self) -> list[Any]:
        return list(self.results)

    def _member_forms(self) -> list[Any]:
        return [member.as_tuple() for member in self.results]

    def _member_ids(self) -> list[str]:
        return [id for member in self.results for id in member.as_list()]

    def __bool__(self) -> bool:
        return bool(self.id or self.results)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return self.id == other.id and self.results == other.results and self.parent == other.parent
        return self.id == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(self.id)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_group, (type(self), self.id, self.results, self.parent)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        shown = ", ".join(printable(str(member)) for member in self.results[:5])
        return f"<{type(self).__name__}: {printable(self.id)} [{shown}]>"


def _rebuild_group(cls: type[GroupResult[Any]], id: str, results: list[Any], parent: Any) -> GroupResult[Any]:
    return cls(id, results, parent=parent)
