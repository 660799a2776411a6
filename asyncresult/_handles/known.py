"""What is known about one task: its latest record, its value or exception, or why there is none. Memory only.

An error is kept without a traceback, and copied for whoever it is raised for: a kept error that was raised would hold
the frames it passed through, and what they hold, and these often enough hold the error.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from .._storage.current import current_store
from .._storage.store import Store
from ..codec.convert import convert
from ..codec.exceptions import printable
from ..errors import AsyncResultError, BackendClosed, BackendError, NotReady, ResultDecodeError, copy_error
from ..meta import TaskMeta
from ..states import EXCEPTION_STATES, PROPAGATE_STATES, READY_STATES, SUCCESS
from .base import Node, T_co

__all__ = [
    "UNKNOWN",
    "Known",
    "Reason",
    "bind",
    "forget_record",
    "fresh",
    "give_up",
    "has_failed",
    "info_of",
    "is_of_look",
    "is_ready",
    "is_settled",
    "needs_cause",
    "outcome",
    "saw_failure",
    "set_cause",
    "settled",
]

Reason: TypeAlias = "AsyncResultError | Known[Any]"
"""Why a wait is over without a record: the error, or the task before this one that failed. See :func:`fresh`."""

#: In place of what nobody has looked for yet.
UNKNOWN: Any = object()


class Known(Node[T_co]):
    """One task, and what was learned of it. Who wants to know: :class:`.handle.Handle`."""

    __slots__ = ("_backend", "_cause", "_error", "_meta", "_type", "_value", "id", "ignored", "parent")

    #: Whether the record that the handle knows is the last one, whatever its state.
    _is_eager = False

    # All set by the one constructor, that of Handle: a call for each class would be a fifth of it (benchmarks: join).
    id: str
    parent: Node[Any] | None
    ignored: bool
    _backend: Store | None
    _type: Any
    _meta: TaskMeta | None
    _error: Reason | None
    _cause: Any  # of a failure: see needs_cause()
    _value: Any

    @property
    def task_id(self) -> str:
        """The task's id, under Celery's other name."""
        return self.id

    @property
    def backend(self) -> Store:
        """The backend; the current one from the first use on, where none was given.

        Raises:
            RuntimeError: None was given and none is entered.
        """
        if self._backend is None:
            self._backend = current_store()
        return self._backend

    def done(self) -> bool:
        """Whether this handle has learned how the task ended, or that there is no result to wait for: its record
        cannot be had, a task before it in a chain has failed, or it is ignored."""
        return self._error is not None or self.ignored or is_ready(self)

    @property
    def value(self) -> T_co:
        """The value that this handle has learned.

        Raises:
            NotReady: Nothing was learned yet.
            Exception: The task's own, rebuilt; or why the record cannot be had.
        """
        return outcome(self, propagate=True)  # type: ignore[no-any-return]

    @property
    def exception(self) -> Exception | None:
        """The task's exception, a fresh instance at each access; None when it succeeded. Or why there is no record.

        Raises:
            NotReady: Nothing was learned yet.
        """
        if self.done():
            return settled(self)[1]
        raise self._not_ready()

    @property
    def snapshot(self) -> TaskMeta | None:
        """The latest record that this handle has seen, final or not."""
        return self._meta

    def _not_ready(self) -> NotReady:
        return NotReady(f"the result of task {printable(self.id)} is not known yet: wait for it first, by get()")

    def _failure(self, meta: TaskMeta) -> Exception | None:
        """The exception that a record holds, a fresh instance each time: tracebacks must not pile up."""
        return self.backend.codec.exception(meta) if meta.status in EXCEPTION_STATES else None

    def _values(self, propagate: bool) -> Any:
        if propagate:
            return outcome(self, propagate=True)
        value, error = settled(self)
        return value if error is None else error


# What the other modules of this folder do with it. Not methods: all that is public on a handle is the users'.


def fresh(reason: Reason) -> Exception:
    """What to raise for a reason: a new instance each time."""
    if isinstance(reason, Known):
        failure = settled(reason)[1]
        assert failure is not None
        return failure
    return copy_error(reason)


def is_ready(handle: Known[Any]) -> bool:
    """Whether the handle knows the task's last record."""
    meta = handle._meta
    return meta is not None and (meta.status in READY_STATES or handle._is_eager)


def is_of_look(handle: Known[Any], meta: TaskMeta) -> bool:
    """Whether those who follow the states are to be given what a look has found: nothing, or again the latest.

    All else they are given by the table, in its turn.
    """
    return not meta.ready and meta is handle._meta


def saw_failure(handle: Known[Any]) -> None:
    """A failure that was seen needs no report: see :meth:`.._jobs.Session.failed`."""
    if handle._backend is not None:
        handle._backend.unseen_failures.pop(handle.id, None)


def needs_cause(handle: Known[Any]) -> bool:
    """Whether the task has failed, and it is not known yet whether that only reports the failure of one before it.

    The body of a chord fails so, with a record of its own, and which of the two records comes first is chance.
    """
    return handle.parent is not None and handle._cause is UNKNOWN and has_failed(handle) and not handle.ignored


def set_cause(handle: Known[Any], before: Iterable[Known[Any]]) -> None:
    """Have the handle know the tasks before it: the first of them that has failed is the cause of its failure."""
    handle._cause = next((task for task in before if has_failed(task)), None)


def is_settled(handle: Known[Any]) -> bool:
    """Whether the handle knows the task's last record, and whose failure it is if it is one."""
    meta = handle._meta
    # The rule, without another call (benchmarks: gather).
    return meta is not None and (meta.status == SUCCESS or (is_ready(handle) and not needs_cause(handle)))


def bind(handles: Iterable[Known[Any]]) -> None:
    """Have those without a backend take the current one, before it is another."""
    current: Store | None = None
    for handle in handles:
        if handle._backend is None:
            handle._backend = current = current or current_store()


def has_failed(handle: Known[Any]) -> bool:
    """Whether the handle knows that the task has failed, or was revoked."""
    return is_ready(handle) and handle._meta is not None and handle._meta.status in PROPAGATE_STATES


def settled(handle: Known[Any], *, own: bool = False) -> tuple[Any, Exception | None]:
    """The value of a handle that is done, or the exception in its place. Nothing is raised but NotReady.

    Args:
        own: Take the task's own exception, whatever has caused it.
    """
    if handle.ignored:
        return None, None
    if is_ready(handle):
        meta = handle._meta
        assert meta is not None
        if meta.status != SUCCESS:
            cause = None if own or handle._cause is UNKNOWN else handle._cause
            # A cause that was forgotten meanwhile explains nothing.
            return None, fresh(cause) if cause is not None and has_failed(cause) else handle._failure(meta)
        if handle._type is Any:
            return meta.result, None
        try:
            if handle._value is UNKNOWN:
                handle._value = convert(meta.result, handle._type, task_id=handle.id)
            return handle._value, None
        except ResultDecodeError as error:
            return None, error.with_traceback(None)
    if handle._error is not None:
        return None, fresh(handle._error)
    raise handle._not_ready()


def outcome(handle: Known[Any], *, propagate: bool, own: bool = False) -> Any:
    """The value; or else the exception, raised, or given where it need not ``propagate``. ``own``: see settled()."""
    meta = handle._meta
    # The rule, without another call (benchmarks: gather).
    if meta is not None and meta.status == SUCCESS and handle._type is Any and not handle.ignored:
        return meta.result
    if meta is not None and handle._is_eager and meta.status not in READY_STATES:
        return None  # run on the spot, and to be retried: there is nobody to do that
    value, error = settled(handle, own=own)
    if error is None:
        return value
    try:
        # That a record cannot be had, or is not of the type, is not the task's exception.
        if propagate or isinstance(error, ResultDecodeError | BackendError | BackendClosed):
            raise error
        return error
    finally:
        del error  # it would hold this frame, which holds it


def give_up(handle: Known[Any], reason: Reason) -> None:
    """Have the handle know why there is no record, without calling anybody."""
    handle._error = reason


def info_of(handle: Known[Any], meta: TaskMeta) -> Any:
    """What a record says: the value, the exception, or what the worker reported."""
    if meta.status == SUCCESS:
        return outcome(handle, propagate=False)
    failure = handle._failure(meta)
    return meta.result if failure is None else failure  # its class may have a __bool__ or __len__


def forget_record(handle: Known[Any]) -> None:
    """Have the handle know nothing."""
    handle._meta = handle._error = None
    handle._cause = handle._value = UNKNOWN
