"""Celery's results as handles, and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from celery import result as celery_results

from ..._storage.store import Store
from ...errors import TaskFailed
from ...result import AsyncResult, EagerResult, GroupResult, ResultSet
from ...states import PROPAGATE_STATES
from .config import backend_for

if TYPE_CHECKING:
    from .._untyped import Untyped as ResultBase
else:
    ResultBase = celery_results.ResultBase

__all__ = ["VALUE_TYPE", "CeleryAsyncResult", "CeleryGroupResult", "from_celery", "is_result", "to_celery"]

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")

Node = AsyncResult[Any] | GroupResult[Any]

#: The attribute of Celery's results that holds the type of the value, if the task converts it.
VALUE_TYPE = "_asyncresult_type"


class CeleryAsyncResult(AsyncResult[T_co], ResultBase):
    """A handle that also Celery's code takes for a result, wherever it only checks what it is a result of: a
    task may return it, it may be a ``parent``, be in a trail or in ``result_from_tuple``.

    Celery's own sets wait through methods that block; they need :meth:`to_celery`.

    Args:
        app: Whose task it is: its backend is used where none is given, and is made at the first use.
        theirs: Celery's result backend that has the result; None is that of the app.
    """

    __slots__ = ("_app", "_theirs")

    _backend: Store | None

    def __init__(
        self,
        id: str,
        *,
        app: Any = None,
        theirs: Any = None,
        backend: Store | None = None,
        parent: Node | None = None,
        type: Any = Any,
    ) -> None:
        super().__init__(id, backend=backend, parent=parent, type=type)
        self._app = app
        self._theirs = theirs

    @property
    def backend(self) -> Store:
        """As given; else the one for Celery's; else the current one.

        Raises:
            ValueError: Celery's result backend cannot be replaced; see :func:`connect`.
        """
        if self._backend is None and (self._app is not None or self._theirs is not None):
            self._backend = backend_for(self._app, self._theirs)
        return super().backend

    def then(self, on_success: Any = None, on_error: Any = None, *, weak: bool = False) -> Any:
        """See :meth:`AsyncResult.then`."""
        if isinstance(on_success, celery_results.barrier):  # Celery's ResultSet: it would wait forever, and silently
            raise TypeError(
                "a set of Celery's waits with methods that block: give it handle.to_celery(app),"
                " or make it an asyncresult.ResultSet"
            )
        return super().then(on_success, on_error, weak=weak)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, celery_results.AsyncResult):
            return bool(self.id == other.id)
        return super().__eq__(other)

    def __hash__(self) -> int:
        return super().__hash__()

    def __copy__(self) -> CeleryAsyncResult[T_co]:
        twin: CeleryAsyncResult[T_co] = super().__copy__()  # type: ignore[assignment]
        twin._app, twin._theirs = self._app, self._theirs
        return twin


class CeleryGroupResult(GroupResult[T], ResultBase):
    """The handles of a group, likewise a result to Celery's code."""


def is_result(thing: Any) -> bool:
    """Whether it is something that can be waited for. A task class may return what is not: a lock that is held gives
    an EagerResult without an id, sending at the end of a transaction gives None."""
    if isinstance(thing, (AsyncResult, ResultSet)):
        return True
    theirs: Any = thing
    return isinstance(thing, ResultBase) and getattr(theirs, "id", "") is not None


# -- from Celery --------------------------------------------------------------------------------------------


def from_celery(result: Any) -> Any:
    """The handle for a result of Celery's, with parents and members; a handle is given back as it is.

    The handle waits where the result is kept: a result that names a backend of its own is looked for there.

    Raises:
        TypeError: It is no result.
        ValueError: It contains itself.
    """
    if isinstance(result, (AsyncResult, ResultSet)):
        return result
    made: dict[int, Any] = {}
    begun: set[int] = set()
    steps = [result]
    # Without recursion: a chain may be long. A result is made after its parts.
    while steps:
        step = steps[-1]
        missing = [part for part in _parts(step) if id(part) not in made]
        if missing and id(step) in begun:
            raise ValueError(f"a result that contains itself: {step!r:.60}")
        begun.add(id(step))
        if not missing:
            made[id(step)] = _handle(step, made)
            steps.pop()
        steps += missing
    return made[id(result)]


def _parts(theirs: Any) -> Iterator[Any]:
    """The results of which a result of Celery's is made."""
    if isinstance(theirs, (AsyncResult, ResultSet)):
        return
    if not isinstance(theirs, ResultBase):
        raise TypeError(f"from_celery() takes a result of Celery's, not {type(theirs).__name__}: {theirs!r:.60}")
    parent: Any = getattr(theirs, "parent", None)
    if parent is not None:
        yield parent
    if _is_set(theirs):
        members: Any = theirs
        yield from members.results


def _is_set(theirs: object) -> bool:
    return isinstance(theirs, celery_results.ResultSet)


def _handle(theirs: Any, made: dict[int, Any]) -> Any:
    """The handle for a result whose parts are made."""
    if isinstance(theirs, (AsyncResult, ResultSet)):
        return theirs
    parent = made[id(theirs.parent)] if theirs.parent is not None else None
    if isinstance(theirs, celery_results.EagerResult):
        return _from_eager(theirs, parent)
    if _is_set(theirs):
        members = [made[id(member)] for member in theirs.results]
        if isinstance(theirs, celery_results.GroupResult):
            return CeleryGroupResult(theirs.id, members, parent=parent)
        return ResultSet(members)
    type = vars(theirs).get(VALUE_TYPE, Any)
    handle: CeleryAsyncResult[Any] = CeleryAsyncResult(
        theirs.id, app=theirs.app, theirs=theirs.backend, parent=parent, type=type
    )
    handle.ignored = bool(theirs.ignored)
    return handle


def _from_eager(result: Any, parent: Node | None) -> EagerResult[Any]:
    value = result.result
    if result.state in PROPAGATE_STATES and not isinstance(value, Exception):
        # A SystemExit, say: the same as of a task that ran elsewhere.
        value = TaskFailed(str(value), exc_type=type(value).__qualname__, exc_module=type(value).__module__)
    handle: EagerResult[Any] = EagerResult(result.id, value, result.state, result.traceback, result.name)
    handle.parent = parent
    return handle


# -- to Celery ----------------------------------------------------------------------------------------------


def to_celery(handle: Any, app: Any) -> Any:
    """Celery's own result, of ``app``, for a handle, with parents and members."""
    parent = None
    for node in reversed(_chain(handle)):  # without recursion: a chain may be long
        parent = _to_celery(node, parent, app)
    return parent


def _chain(handle: Any) -> list[Any]:
    chain = [handle]
    while (parent := chain[-1].parent) is not None:
        chain.append(parent)
    return chain


def _to_celery(handle: Any, parent: Any, app: Any) -> Any:
    if isinstance(handle, ResultSet):
        members = [to_celery(member, app) for member in handle.results]
        if isinstance(handle, GroupResult):
            return app.GroupResult(handle.id, members, parent=parent)
        return app.ResultSet(members)
    if isinstance(handle, EagerResult):
        meta = handle.snapshot
        assert meta is not None
        value = meta.result if handle.exception is None else handle.exception
        result = celery_results.EagerResult(handle.id, value, meta.status, meta.traceback, meta.name)
        result.parent = parent
        return result
    theirs: Any = None
    if isinstance(handle, CeleryAsyncResult) and handle._app is app:
        theirs = handle._theirs
    result = app.AsyncResult(handle.id, backend=theirs, parent=parent)
    result.ignored = handle.ignored
    return result
