"""Celery's results as handles, and back."""

from __future__ import annotations

from typing import Any, TypeVar

from celery import result as celery_results
from celery.backends.base import Backend as CelerysBackend

from ..._storage.store import Store
from ...backend import Backend
from ...errors import TaskFailed
from ...result import AsyncResult, EagerResult, GroupResult, ResultSet
from ...states import PROPAGATE_STATES
from .config import backend_for, backend_of, make_backend

__all__ = ["CeleryAsyncResult", "CeleryGroupResult", "connect", "from_celery", "make_awaitable", "to_celery"]

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")

Node = AsyncResult[Any] | GroupResult[Any]


def connect(app: Any, **options: Any) -> Backend:
    """The backend of a Celery app: where its workers store, with its prefix, expiries, serializers, TLS …

    It can revoke the app's tasks. It is the one that the handles of the app's tasks use, and the same at each
    call; with ``options`` it is a new one, which the app's handles use from then on. From now on Celery's own results
    of this app can be awaited too.

    Args:
        app: The app; or one of Celery's result backends: its app's own, or another.
        options: See :class:`asyncresult.Backend`; they take precedence over the app's settings. Most apps need
            ``exceptions=[…]``: their exception classes that are constructed from a record by calling them. With
            ``rpc://`` also those of :class:`RpcBackend`.

    Raises:
        ValueError: A setting that cannot be honoured, or makes no sense. It is named; no secret is.
        celery.exceptions.ImproperlyConfigured: Celery itself refuses it.
    """
    app = getattr(app, "_get_current_object", lambda: app)()  # celery.current_app is a proxy
    if isinstance(app, CelerysBackend):
        theirs, app = app, app.app
        make_awaitable(app)
        return make_backend(app, theirs, **options) if options else backend_for(app, theirs)
    make_awaitable(app)
    return backend_of(app, **options)


def make_awaitable(app: Any) -> None:
    """Let Celery's own results, of this app, be awaited: a canvas that was sent with ``delay()`` gives them."""
    for cls in (app.AsyncResult, app.ResultSet, app.GroupResult):
        cls.__await__ = _await_result


def _await_result(self: Any) -> Any:
    return from_celery(self).__await__()


class CeleryAsyncResult(AsyncResult[T_co], celery_results.ResultBase):  # type: ignore[misc]
    """A handle that also Celery's code takes for a result, wherever it only asks what it is a result of: a
    task may return it, it may be a ``parent``, stand in a trail or in ``result_from_tuple``.

    Celery's own sets wait through methods that block; they need :meth:`to_celery`.

    Args:
        app: Whose task it is: its backend is used where none is given, and is made at the first use.
    """

    __slots__ = ("_app",)

    _backend: Store | None

    def __init__(
        self, id: str, *, app: Any = None, backend: Store | None = None, parent: Node | None = None, type: Any = Any
    ) -> None:
        super().__init__(id, backend=backend, parent=parent, type=type)
        self._app = app

    @property
    def backend(self) -> Store:
        """As given; else that of the app; else the current one. Raises ValueError: see :func:`connect`."""
        if self._backend is None and self._app is not None:
            self._backend = backend_of(self._app)
        return super().backend

    def then(self, on_success: Any = None, on_error: Any = None, *, weak: bool = False) -> Any:
        """See :meth:`AsyncResult.then`."""
        if isinstance(on_success, celery_results.barrier):  # Celery's ResultSet: it would wait for ever, and silently
            raise TypeError(
                "a set of Celery's waits with methods that block: give it handle.to_celery(app),"
                " or make it an asyncresult.ResultSet"
            )
        return super().then(on_success, on_error, weak=weak)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, celery_results.AsyncResult):
            return bool(self.id == other.id)
        return super().__eq__(other)

    __hash__ = AsyncResult.__hash__

    def __copy__(self) -> CeleryAsyncResult[T_co]:
        twin: CeleryAsyncResult[T_co] = super().__copy__()  # type: ignore[assignment]
        twin._app = self._app
        return twin


class CeleryGroupResult(GroupResult[T], celery_results.ResultBase):  # type: ignore[misc]
    """The handles of a group, likewise a result to Celery's code."""


def from_celery(result: Any) -> Any:
    """The handle for a result of Celery's, with parents and members; a handle is given back as it is.

    Raises:
        TypeError: It is no result.
    """
    if isinstance(result, (AsyncResult, ResultSet)):
        return result
    theirs: Any = result  # untyped, whatever type checkers make of Celery's classes
    if not isinstance(result, celery_results.ResultBase):
        raise TypeError(f"from_celery() takes a result of Celery's, not {type(result).__name__}: {result!r:.60}")
    parent = from_celery(theirs.parent) if theirs.parent is not None else None
    if isinstance(result, celery_results.EagerResult):
        return _from_eager(theirs, parent)
    if isinstance(result, celery_results.GroupResult):
        return CeleryGroupResult(theirs.id, map(from_celery, theirs.results), parent=parent)
    if isinstance(result, celery_results.ResultSet):
        return ResultSet(map(from_celery, theirs.results))
    handle: CeleryAsyncResult[Any] = CeleryAsyncResult(theirs.id, app=theirs.app, parent=parent)
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


def to_celery(handle: Any, app: Any) -> Any:
    """Celery's own result, of ``app``, for a handle, with parents and members."""
    if isinstance(handle, GroupResult):
        members = [to_celery(member, app) for member in handle.results]
        return app.GroupResult(handle.id, members, parent=_parent_to_celery(handle, app))
    if isinstance(handle, ResultSet):
        return app.ResultSet([to_celery(member, app) for member in handle.results])
    if isinstance(handle, EagerResult):
        meta = handle.snapshot
        assert meta is not None
        value = meta.result if handle.exception is None else handle.exception
        result = celery_results.EagerResult(handle.id, value, meta.status, meta.traceback, meta.name)
        result.parent = _parent_to_celery(handle, app)
        return result
    result = app.AsyncResult(handle.id, parent=_parent_to_celery(handle, app))
    result.ignored = handle.ignored
    return result


def _parent_to_celery(handle: Any, app: Any) -> Any:
    return to_celery(handle.parent, app) if handle.parent is not None else None
