"""Celery's portable form of results, as handles."""

from __future__ import annotations

import reprlib
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple, overload

from .._checks import check_no_url
from .._storage.store import Store
from .base import N, Node
from .groups import GroupResult
from .result import AsyncResult

__all__ = ["result_from_tuple"]


@overload
def result_from_tuple(obj: N, backend: Store | None = None) -> N: ...
@overload
def result_from_tuple(obj: tuple[Any, None], backend: Store | None = None) -> AsyncResult[Any]: ...
@overload
def result_from_tuple(obj: tuple[Any, Sequence[Any]], backend: Store | None = None) -> GroupResult[Any]: ...
@overload
def result_from_tuple(obj: Any, backend: Store | None = None) -> Any: ...
def result_from_tuple(obj: Any, backend: Store | None = None) -> Any:
    """A handle from Celery's portable form, as ``as_tuple()`` gives it.

    Args:
        obj: ``((id, parent), None)`` for a task, ``((id, parent), [members])`` for a group, with lists in
            place of tuples, a bare id in place of ``(id, parent)``, or a handle, which is given back.
        backend: Of all the handles; None is the current one at their first use.

    Raises:
        ValueError: Not of that form, or it contains itself.
        TypeError: ``backend`` is a URL.

    Source: celery/result.py (5.7), result_from_tuple.
    """
    check_no_url(backend)
    try:
        return _convert(obj, backend)
    except (TypeError, ValueError) as error:
        raise ValueError(f"not the tuple form of a result: {reprlib.repr(obj)}") from error


class _Assembly(NamedTuple):
    """The step that makes a handle of its parts, which have been made by then."""

    form: Any
    id: str | uuid.UUID
    has_parent: bool
    members: int | None


def _convert(form: Any, backend: Store | None) -> Node[Any]:
    # Without recursion: the form of a long chain is as deep as the chain is long. The parts of a form are made before
    # it, its parent first and then its members, and are the last of ``made`` when its turn comes.
    made: list[Node[Any]] = []
    begun: set[int] = set()
    steps: list[Any] = [form]
    while steps:
        step = steps.pop()
        if isinstance(step, _Assembly):
            begun.discard(id(step.form))
            made.append(_assemble(step, made, backend))
        elif isinstance(step, (AsyncResult, GroupResult)):
            made.append(step)
        else:
            head, members = step
            name, parent = (head, None) if isinstance(head, str) else head
            if members is not None and not isinstance(name, str | uuid.UUID):
                raise TypeError(f"the id of a group is text or a UUID, not {type(name).__name__}")
            if id(step) in begun:
                raise ValueError("it contains itself")
            begun.add(id(step))
            members = list(members) if members is not None else None
            steps.append(_Assembly(step, name, bool(parent), len(members) if members is not None else None))
            steps += reversed([*([parent] if parent else ()), *(members or ())])
    return made.pop()


def _assemble(step: _Assembly, made: list[Node[Any]], backend: Store | None) -> Node[Any]:
    first = len(made) - (step.members or 0)
    members = made[first:]
    del made[first:]
    parent = made.pop() if step.has_parent else None
    if step.members is None:
        return AsyncResult(step.id, backend=backend, parent=parent)
    return GroupResult(str(step.id), members, parent=parent, backend=backend)
