"""Functions over several results, and from Celery's portable form to a result, blocking."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, overload

from .._checks import ReturnWhen
from .._handles import forms as _forms
from .._handles.base import T
from .._handles.functions import A, B, C, D
from .base import ResultBase, Stream, async_backend, blocking
from .result import AsyncResult
from .sets import ResultSet

__all__ = ["as_completed", "gather", "result_from_tuple", "wait"]


def result_from_tuple(r: Any, app: Any = None) -> Any:
    """A result, or group, from Celery's portable form, as ``as_tuple()`` gives it; a result is given back.

    Args:
        app: A Celery app, whose result backend is meant; None is the current backend.

    Raises:
        ValueError: Not of that form, or a chain of parents without end.

    Source: celery/result.py (5.7), result_from_tuple.
    """
    return r if isinstance(r, ResultBase) else blocking(_forms.result_from_tuple(r, async_backend(None, app)))


@overload
def gather(
    a: AsyncResult[A], /, *, timeout: float | None = None, return_exceptions: Literal[False] = False
) -> tuple[A]: ...
@overload
def gather(a: AsyncResult[A], /, *, timeout: float | None = None, return_exceptions: bool) -> tuple[A | Exception]: ...
@overload
def gather(
    a: AsyncResult[A], b: AsyncResult[B], /, *, timeout: float | None = None, return_exceptions: Literal[False] = False
) -> tuple[A, B]: ...
@overload
def gather(
    a: AsyncResult[A], b: AsyncResult[B], /, *, timeout: float | None = None, return_exceptions: bool
) -> tuple[A | Exception, B | Exception]: ...
@overload
def gather(
    a: AsyncResult[A],
    b: AsyncResult[B],
    c: AsyncResult[C],
    /,
    *,
    timeout: float | None = None,
    return_exceptions: Literal[False] = False,
) -> tuple[A, B, C]: ...
@overload
def gather(
    a: AsyncResult[A], b: AsyncResult[B], c: AsyncResult[C], /, *, timeout: float | None = None, return_exceptions: bool
) -> tuple[A | Exception, B | Exception, C | Exception]: ...
@overload
def gather(
    a: AsyncResult[A],
    b: AsyncResult[B],
    c: AsyncResult[C],
    d: AsyncResult[D],
    /,
    *,
    timeout: float | None = None,
    return_exceptions: Literal[False] = False,
) -> tuple[A, B, C, D]: ...
@overload
def gather(
    a: AsyncResult[A],
    b: AsyncResult[B],
    c: AsyncResult[C],
    d: AsyncResult[D],
    /,
    *,
    timeout: float | None = None,
    return_exceptions: bool,
) -> tuple[A | Exception, B | Exception, C | Exception, D | Exception]: ...
@overload
def gather(
    *results: AsyncResult[T], timeout: float | None = None, return_exceptions: Literal[False] = False
) -> tuple[T, ...]: ...
@overload
def gather(
    *results: AsyncResult[T], timeout: float | None = None, return_exceptions: bool
) -> tuple[T | Exception, ...]: ...
@overload
def gather(*results: Any, timeout: float | None = None, return_exceptions: bool = False) -> tuple[Any, ...]: ...
def gather(*results: Any, timeout: float | None = None, return_exceptions: bool = False) -> tuple[Any, ...]:
    """Wait for all ``results``; their values in order. See :meth:`ResultSet.get`."""
    return tuple(ResultSet[Any](results).get(timeout, return_exceptions=return_exceptions))


@overload
def as_completed(results: Iterable[AsyncResult[T]], *, timeout: float | None = None) -> Stream[AsyncResult[T]]: ...
@overload
def as_completed(results: Iterable[Any], *, timeout: float | None = None) -> Stream[AsyncResult[Any]]: ...
def as_completed(results: Iterable[Any], *, timeout: float | None = None) -> Stream[AsyncResult[Any]]:
    """The handles, done, in the order in which their tasks end. See :meth:`ResultSet.as_completed`."""
    return ResultSet[Any](results).as_completed(timeout=timeout)


@overload
def wait(
    results: Iterable[AsyncResult[T]],
    *,
    timeout: float | None = None,
    return_when: ReturnWhen = "ALL_COMPLETED",
    count: int | None = None,
) -> tuple[set[AsyncResult[T]], set[AsyncResult[T]]]: ...
@overload
def wait(
    results: Iterable[Any],
    *,
    timeout: float | None = None,
    return_when: ReturnWhen = "ALL_COMPLETED",
    count: int | None = None,
) -> tuple[set[AsyncResult[Any]], set[AsyncResult[Any]]]: ...
def wait(
    results: Iterable[Any],
    *,
    timeout: float | None = None,
    return_when: ReturnWhen = "ALL_COMPLETED",
    count: int | None = None,
) -> tuple[set[AsyncResult[Any]], set[AsyncResult[Any]]]:
    """Wait for some or all ``results``. See :meth:`ResultSet.wait`."""
    return ResultSet[Any](results).wait(timeout=timeout, return_when=return_when, count=count)
