"""redis-py's Retry as ``retry=``: it decides by redis-py's classes, and everything else sees ours."""

from __future__ import annotations

import pytest
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from asyncresult._redis import exceptions
from asyncresult._redis.connection import Interrupted
from asyncresult._redis.retries import call_with_retry


class Attempts:
    """Fails with each of these errors in turn, then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.seen: list[type] = []

    async def attempt(self) -> None:
        if self.errors:
            raise self.errors.pop(0)

    async def failed(self, error: Exception) -> None:
        self.seen.append(type(error))


async def test_it_tries_again_after_what_redis_py_calls_a_connection_error() -> None:
    attempts = Attempts(Interrupted("lost"), exceptions.BusyLoadingError("LOADING"), exceptions.TimeoutError("late"))
    await call_with_retry(Retry(NoBackoff(), 3), attempts.attempt, attempts.failed)
    assert attempts.seen == [
        redis.exceptions.ConnectionError,
        redis.exceptions.BusyLoadingError,
        redis.exceptions.TimeoutError,
    ]


@pytest.mark.parametrize(
    ("error", "tried"), [(exceptions.MasterDownError("MASTERDOWN"), 0), (exceptions.AuthenticationError("NOAUTH"), 1)]
)
async def test_what_it_gives_up_is_our_error_again(error: exceptions.RedisError, tried: int) -> None:
    attempts = Attempts(error, error)
    with pytest.raises(type(error)) as caught:
        await call_with_retry(Retry(NoBackoff(), 0), attempts.attempt, attempts.failed)
    assert caught.value is error
    assert len(attempts.seen) == tried


async def test_other_errors_pass() -> None:
    attempts = Attempts(OSError("unreachable"))
    with pytest.raises(OSError, match="unreachable"):
        await call_with_retry(Retry(NoBackoff(), 3), attempts.attempt, attempts.failed)
    assert attempts.seen == []


async def test_an_error_of_redis_pys_own_passes() -> None:
    """Of its credential provider, say."""
    attempts = Attempts(redis.exceptions.AuthenticationError("its own"))
    with pytest.raises(redis.exceptions.AuthenticationError, match="its own"):
        await call_with_retry(Retry(NoBackoff(), 0), attempts.attempt, attempts.failed)
