"""Groups, blocking, with the names and shapes of Celery's ``GroupResult``."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any, Self

from .._handles import groups as _groups
from .._handles.base import T
from .._portal import run
from ..backend import Backend as AsyncBackend
from ..codec.exceptions import printable
from .base import backend_now, blocking
from .sets import ResultSet

__all__ = ["GroupResult"]


class GroupResult(ResultSet[T]):
    """The results of a group of tasks, with an id under which the list of members can be saved.

    Args:
        id: The group's id; a new one by default.
        results: The members.
        parent: The result of what must succeed before the group runs.
        kwargs: As of :class:`ResultSet`.
    """

    def __init__(
        self, id: str | None = None, results: Iterable[Any] | None = None, parent: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(results or (), **kwargs)
        self.id: str = str(id) if id is not None else str(uuid.uuid4())
        self.parent = parent

    def _async(self) -> _groups.GroupResult[T]:
        members = [member._async() for member in self.results]
        return _groups.GroupResult(self.id, members, parent=self.parent._async() if self.parent is not None else None)

    @property
    def children(self) -> list[Any]:
        """The members."""
        return self.results

    def save(self, backend: Any = None) -> Self:
        """Store which results belong to this group, in Celery's form. Returns itself."""
        run(self._store(backend).save_group, self)
        return self

    def delete(self, backend: Any = None) -> None:
        """Delete the saved list; the members' records stay."""
        run(self._store(backend).delete_group, self.id)

    def _store(self, backend: Any) -> AsyncBackend:
        return backend_now(backend) if backend is not None else self.backend._async()

    @classmethod
    def restore(cls, id: str, backend: Any = None, app: Any = None) -> GroupResult[Any] | None:
        """The group that was saved under ``id``, or None. Raises: as :meth:`asyncresult.GroupResult.restore`."""
        group = run(_groups.GroupResult.restore, id, backend_now(backend, app))
        return cls._of(group) if group is not None else None

    @classmethod
    def _of(cls, group: _groups.GroupResult[Any]) -> Self:
        above = blocking(group.parent) if group.parent is not None else None
        return cls(group.id, [blocking(member) for member in group.results], above)

    def as_tuple(self) -> tuple[tuple[str, Any], list[Any]]:
        """Celery's portable form: ``((id, parent's form or None), [members' forms])``."""
        return self._async().as_tuple()

    def as_list(self) -> list[str]:
        """The id of the group, of its members and of its parents."""
        return self._async().as_list()

    def __bool__(self) -> bool:
        return bool(self.id or self.results)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return self.id == other.id and self.results == other.results and self.parent == other.parent
        return self.id == other if isinstance(other, str) else super().__eq__(other)

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(self.id)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.id, self.results, self.parent)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        shown = ", ".join(printable(str(member)) for member in self.results)
        return f"<{type(self).__name__}: {printable(self.id)} [{shown}]>"


@blocking.register
def _(group: _groups.GroupResult) -> GroupResult[Any]:
    return GroupResult._of(group)
