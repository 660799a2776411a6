"""redis-py's ``Retry``, where an application gives one as ``retry=``. Only then is redis-py imported.

It tries again after errors of redis-py's classes, those that its maker has named: so ours become theirs on the way in,
and ours again on the way out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from redis import exceptions as theirs

from . import exceptions as ours

__all__ = ["call_with_retry"]

#: The errors that end a round trip. The others of ours are replies to single commands, which are not retried here.
_THEIRS: dict[type, type[theirs.RedisError]] = {
    ours.RedisError: theirs.RedisError,
    ours.ConnectionError: theirs.ConnectionError,
    ours.TimeoutError: theirs.TimeoutError,
    ours.AuthenticationError: theirs.AuthenticationError,
    ours.BusyLoadingError: theirs.BusyLoadingError,
    ours.InvalidResponse: theirs.InvalidResponse,
    ours.ResponseError: theirs.ResponseError,
    ours.NoPermissionError: theirs.NoPermissionError,
    ours.ReadOnlyError: theirs.ReadOnlyError,
}


async def call_with_retry(
    retry: Any, attempt: Callable[[], Awaitable[None]], failed: Callable[[Exception], Awaitable[None]]
) -> None:
    """Attempt as often as ``retry`` says, with ``failed`` after each failure. Raises what the last attempt did."""

    async def in_their_words() -> None:
        try:
            await attempt()
        except ours.RedisError as error:
            raise _their_error(error) from error

    try:
        await retry.call_with_retry(in_their_words, failed)
        return
    except theirs.RedisError as error:
        if not isinstance(error.__cause__, ours.RedisError):
            raise
        own = error.__cause__
    raise own


def _their_error(error: ours.RedisError) -> theirs.RedisError:
    known = next(cls for cls in type(error).__mro__ if cls in _THEIRS)
    return _THEIRS[known](str(error))
