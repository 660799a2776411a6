"""What sets of results do, for handles that are not in a set: ``gather()``, ``as_completed()`` and ``wait()``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias, TypeVar, overload

from .._checks import ReturnWhen
from .base import SupportsAsyncResult, T
from .result import AsyncResult
from .sets import ResultSet
from .streams import Completed

__all__ = ["as_completed", "gather", "wait"]

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")

AnyResult: TypeAlias = AsyncResult[T] | SupportsAsyncResult[T]


@overload
async def gather(
    a: AnyResult[A], /, *, timeout: float | None = None, return_exceptions: Literal[False] = False
) -> tuple[A]: ...
@overload
async def gather(
    a: AnyResult[A], /, *, timeout: float | None = None, return_exceptions: bool
) -> tuple[A | Exception]: ...
@overload
async def gather(
    a: AnyResult[A], b: AnyResult[B], /, *, timeout: float | None = None, return_exceptions: Literal[False] = False
) -> tuple[A, B]: ...
@overload
async def gather(
    a: AnyResult[A], b: AnyResult[B], /, *, timeout: float | None = None, return_exceptions: bool
) -> tuple[A | Exception, B | Exception]: ...
@overload
async def gather(
    a: AnyResult[A],
    b: AnyResult[B],
    c: AnyResult[C],
    /,
    *,
    timeout: float | None = None,
    return_exceptions: Literal[False] = False,
) -> tuple[A, B, C]: ...
@overload
async def gather(
    a: AnyResult[A], b: AnyResult[B], c: AnyResult[C], /, *, timeout: float | None = None, return_exceptions: bool
) -> tuple[A | Exception, B | Exception, C | Exception]: ...
@overload
async def gather(
    a: AnyResult[A],
    b: AnyResult[B],
    c: AnyResult[C],
    d: AnyResult[D],
    /,
    *,
    timeout: float | None = None,
    return_exceptions: Literal[False] = False,
) -> tuple[A, B, C, D]: ...
@overload
async def gather(
    a: AnyResult[A],
    b: AnyResult[B],
    c: AnyResult[C],
    d: AnyResult[D],
    /,
    *,
    timeout: float | None = None,
    return_exceptions: bool,
) -> tuple[A | Exception, B | Exception, C | Exception, D | Exception]: ...
@overload
async def gather(
    *results: AnyResult[T], timeout: float | None = None, return_exceptions: Literal[False] = False
) -> tuple[T, ...]: ...
@overload
async def gather(
    *results: AnyResult[T], timeout: float | None = None, return_exceptions: bool
) -> tuple[T | Exception, ...]: ...
async def gather(
    *results: AnyResult[Any], timeout: float | None = None, return_exceptions: bool = False
) -> tuple[Any, ...]:
    """Wait for all ``results``; their values in order, a tuple. Args, raises: as :meth:`ResultSet.get`."""
    return tuple(await ResultSet(results).get(timeout, return_exceptions=return_exceptions))


def as_completed(results: Iterable[AnyResult[T]], *, timeout: float | None = None) -> Completed[T]:
    """The handles, done, in the order in which their tasks end: ``async for handle in as_completed(results)``.

    Args:
        timeout: The total budget in seconds; None waits forever, 0 looks once.

    Returns, raises: see :class:`Completed`.
    """
    return ResultSet[T](results).as_completed(timeout=timeout)


async def wait(
    results: Iterable[AnyResult[T]],
    *,
    timeout: float | None = None,
    return_when: ReturnWhen = "ALL_COMPLETED",
    count: int | None = None,
) -> tuple[set[AsyncResult[T]], set[AsyncResult[T]]]:
    """Wait for some or all ``results``. Args, returns, raises: as :meth:`ResultSet.wait`."""
    return await ResultSet[T](results).wait(timeout=timeout, return_when=return_when, count=count)
