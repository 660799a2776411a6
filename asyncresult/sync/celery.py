"""What the blocking facade owes to a process in which Celery is loaded too, without ever importing Celery.

Celery's modules are looked up in ``sys.modules``: where they are not, nobody can be inside a Celery task, and
nobody can have Celery's exceptions in an ``except`` clause.
"""

from __future__ import annotations

import functools
from collections.abc import Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from .._extensions import loaded
from .._handles.handle import Handle
from ..errors import AsyncResultError, NotReady, ResultTimeout, TaskRevoked, _rebuild
from ..meta import TaskMeta, stored_fields

__all__ = [
    "allow_join_result",
    "assert_will_not_block",
    "celerys_terms",
    "denied_join_result",
    "document",
    "in_celerys_terms",
]

E = TypeVar("E")


# -- waiting inside tasks -------------------------------------------------------------------------------------


def assert_will_not_block() -> None:
    """Raise RuntimeError where a Celery task runs: it would hold a worker's slot that its subtask may need.

    Source: celery/result.py (5.7), assert_will_not_block.
    """
    will_block = loaded("celery._state", "task_join_will_block")
    if will_block is not None and will_block():
        raise RuntimeError(
            "Never call result.get() within a task! If that task cannot be the last free slot of its workers, say"
            " so with allow_join_result() or disable_sync_subtasks=False; else make the tasks a chain or a chord"
        )


def allow_join_result() -> Any:
    """A context manager: inside it, results may be waited for within a Celery task."""
    return _joining(will_block=False)


def denied_join_result() -> Any:
    """A context manager: inside it, results may not be waited for, as within a Celery task."""
    return _joining(will_block=True)


@contextmanager
def _joining(*, will_block: bool) -> Generator[None]:
    get, set_to = (loaded("celery._state", name) for name in ("task_join_will_block", "_set_task_join_will_block"))
    if set_to is None:  # no Celery: nothing is denied, and nobody reads the flag
        yield
        return
    before = get()
    set_to(will_block)
    try:
        yield
    finally:
        set_to(before)


# -- Celery's exceptions --------------------------------------------------------------------------------------

#: Our errors, and their names in celery.exceptions.
_NAMES: dict[type[AsyncResultError], str] = {
    ResultTimeout: "TimeoutError",
    TaskRevoked: "TaskRevokedError",
    NotReady: "IncompleteStream",
}


def in_celerys_terms(error: E) -> E:
    """Make an error also an instance of Celery's class for it, so that ``except`` clauses written for Celery hold.

    In place: the error keeps its traceback, cause and notes. Anything else is given back as it is.
    """
    ours: Any = type(error)
    theirs = loaded("celery.exceptions", _NAMES[ours]) if ours in _NAMES else None
    if theirs is not None:
        error.__class__ = _twin(ours, theirs)  # type: ignore[assignment]
    return error


@functools.cache
def _twin(ours: type[AsyncResultError], theirs: type[Exception]) -> type[AsyncResultError]:
    """A class that is both, and to the eye, and to pickle, is ours."""

    def reduce(self: AsyncResultError) -> tuple[Any, ...]:
        return _rebuild, (ours, self.args, self.__dict__)

    return type(ours.__name__, (ours, theirs), {"__module__": ours.__module__, "__reduce__": reduce})


class _CelerysTerms:
    """A block whose errors leave it as :func:`in_celerys_terms` makes them."""

    def __enter__(self) -> None: ...

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if exc is not None:
            in_celerys_terms(exc)


celerys_terms: _CelerysTerms = _CelerysTerms()


# -- Celery's records -----------------------------------------------------------------------------------------

_ALWAYS = frozenset({"task_id", "status", "result", "traceback", "children", "date_done"})


def document(handle: Handle[Any], meta: TaskMeta) -> dict[str, Any]:
    """A record as Celery hands it to ``on_message``: a dict, with the exception rebuilt."""
    fields = stored_fields(meta)
    failure = handle._failure(meta)
    if failure is not None:
        fields["result"] = in_celerys_terms(failure)
    return {name: value for name, value in fields.items() if value is not None or name in _ALWAYS}
