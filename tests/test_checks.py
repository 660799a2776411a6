"""Numbers that make no sense are refused where they are given, not where a timer or a counter trips over them."""

from __future__ import annotations

import inspect
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import celery.result
import pytest

import asyncresult
from asyncresult import (
    AsyncResult,
    Backend,
    Executor,
    GroupResult,
    NotReady,
    ResultSet,
    ResultTimeout,
    as_completed,
    connect,
    gather,
    result_from_tuple,
    sync,
    wait,
)

NAN, ENDLESS, HUGE = math.nan, math.inf, 10**400


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with asyncresult.connect("memory://") as backend:
        yield backend


async def drained(stream: Any) -> None:
    async for _ in stream:
        pass


def pair() -> ResultSet[Any]:
    return ResultSet([AsyncResult("t"), AsyncResult("u")])


#: A budget may be negative or infinite, but not NaN: a timer for that moment puts the loop's others out of order.
BUDGETS: dict[str, Callable[[Backend, Any], Any]] = {
    "get": lambda _, n: AsyncResult("t").get(n),
    "until": lambda _, n: AsyncResult("t").until("STARTED", timeout=n),
    "updates": lambda _, n: drained(AsyncResult("t").updates(timeout=n)),
    "collect": lambda _, n: drained(AsyncResult("t").collect(timeout=n)),
    "get_leaf": lambda _, n: AsyncResult("t").get_leaf(timeout=n),
    "revoke": lambda _, n: AsyncResult("t").revoke(wait=True, timeout=n),
    "revoke_by_stamped_headers": lambda _, n: AsyncResult("t").revoke_by_stamped_headers({"a": 1}, timeout=n),
    "a set": lambda _, n: pair().get(n),
    "updates of a set": lambda _, n: drained(pair().updates(timeout=n)),
    "as_completed": lambda _, n: drained(pair().as_completed(timeout=n)),
    "wait of a set": lambda _, n: pair().wait(timeout=n),
    "first_success": lambda _, n: pair().first_success(timeout=n),
    "gather": lambda _, n: gather(AsyncResult("t"), timeout=n),
    "wait": lambda _, n: wait([AsyncResult("t")], timeout=n),
    "as_completed()": lambda _, n: drained(as_completed([AsyncResult("t")], timeout=n)),
    "health": lambda backend, n: backend.health(timeout=n),
    "aclose": lambda backend, n: backend.aclose(timeout=n),
}
COUNTS: dict[str, Callable[[Backend, Any], Any]] = {
    "maxsize": lambda _, n: AsyncResult("t").updates(maxsize=n),
    "maxsize of a set": lambda _, n: pair().updates(maxsize=n),
    "count": lambda _, n: pair().wait(count=n),
    "limit": lambda backend, n: drained(backend.task_ids(limit=n)),
    "history": lambda backend, n: backend.track("t", history=n),
    "history of jobs": lambda _, n: Executor().options(history=n),
    "retries": lambda _, n: Executor().options(retries=n),
    "concurrency": lambda _, n: Executor(concurrency=n),
    "max_pending": lambda _, n: Executor(max_pending=n),
    "max_result_bytes": lambda _, n: connect("memory://", max_result_bytes=n),
}
SECONDS: dict[str, Callable[[Backend, Any], Any]] = {
    "heartbeat": lambda backend, n: backend.track("t", heartbeat=n),
    "progress_interval": lambda backend, n: backend.track("t", progress_interval=n),
    "heartbeat of jobs": lambda _, n: Executor(heartbeat=n),
    "shutdown_timeout": lambda _, n: Executor(shutdown_timeout=n),
    "timeout of jobs": lambda _, n: Executor().options(timeout=n),
    "expires of jobs": lambda _, n: Executor().options(expires=n),
    "backoff": lambda _, n: Executor().options(backoff=n),
}
#: How long a record is kept is cut to whole seconds, and none is forever: half a second would be kept forever.
LIFETIMES: dict[str, Callable[[Backend, Any], Any]] = {
    "expires of a backend": lambda _, n: connect("memory://", expires=n),
    "failure_expires of a backend": lambda _, n: connect("memory://", failure_expires=n),
    "expires in a URL": lambda _, n: connect(f"memory://?expires={n}"),
    "failure_expires in a URL": lambda _, n: connect(f"memory://?failure_expires={n}"),
    "expires of track": lambda backend, n: backend.track("t", expires=n),
    "failure_expires of track": lambda backend, n: backend.track("t", failure_expires=n),
    "store_result": lambda backend, n: backend.store_result("t", 1, "SUCCESS", expires=n),
    "store_many": lambda backend, n: backend.store_many([("t", 1)], expires=n),
    "mark_as_done": lambda backend, n: backend.mark_as_done("t", 1, expires=n),
    "mark_as_failure": lambda backend, n: backend.mark_as_failure("t", ValueError(), expires=n),
    "put_beside": lambda backend, n: backend.put_beside("t", "note", 1, expires=n),
    "register": lambda backend, n: backend.register("t", expires=n),
}
CASES = [
    *((f"{name}({n!r:.5})", use, n) for name, use in BUDGETS.items() for n in (NAN, HUGE)),
    *((f"{name}({n!r:.5})", use, n) for name, use in COUNTS.items() for n in (NAN, ENDLESS, -1, 0.5, True)),
    *((f"{name}({n!r:.5})", use, n) for name, use in SECONDS.items() for n in (NAN, ENDLESS, -1, HUGE)),
    *((f"{name}({n!r:.5})", use, n) for name, use in LIFETIMES.items() for n in (NAN, ENDLESS, -1, 0.5)),
]


@pytest.mark.parametrize(("use", "number"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
async def test_it_is_refused(backend: Backend, use: Callable[[Backend, Any], Any], number: Any) -> None:
    with pytest.raises(ValueError, match="must "):
        made = use(backend, number)
        if inspect.isawaitable(made):
            await made
    assert not [id async for id in backend.task_ids(limit=1)], "nothing was stored"


@pytest.mark.parametrize("use", BUDGETS.values(), ids=BUDGETS)
async def test_a_budget_that_is_no_number_is_refused_by_name(
    backend: Backend, use: Callable[[Backend, Any], Any]
) -> None:
    with pytest.raises(TypeError, match="timeout must be None or a number of seconds, not '5'"):
        await use(backend, "5")


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\n", "\x7f", "\x80", "\x9b"])
def test_ids_hold_no_control_characters(character: str) -> None:
    with pytest.raises(ValueError, match="must not hold control characters") as caught:
        AsyncResult(f"a{character}b")
    assert str(caught.value).isprintable()


async def test_other_characters_that_cannot_be_seen_are_shown_escaped() -> None:
    """They may be part of an id, and would break or turn round the line of a log."""
    async with connect("memory://") as backend:
        handle = backend.result("a\u2028b\u202ec")
        with pytest.raises(ResultTimeout, match=r"a\\u2028b\\u202ec") as one:
            await handle.get(timeout=0)
        with pytest.raises(ResultTimeout, match=r"a\\u2028b\\u202ec") as several:
            await ResultSet([handle]).get(timeout=0)
        with pytest.raises(NotReady) as unknown:
            _ = handle.value
        assert all(str(caught.value).isprintable() for caught in (one, several, unknown))


@pytest.mark.parametrize(
    ("thing", "hint"),
    [
        ("t", r"str: 't'; AsyncResult\(id\) makes one"),
        ([AsyncResult("t")], r"list: \[<AsyncResult: t>\]; several are given one by one: gather\(\*results\)"),
        (celery.result.AsyncResult("t"), r"AsyncResult: .*; AsyncResult\.from_celery\(result\) makes one"),
        (5, "int: 5"),
    ],
)
async def test_what_is_no_result_is_refused_with_what_to_do(thing: Any, hint: str) -> None:
    takers: list[Any] = [gather, ResultSet, sync.gather, sync.ResultSet]
    for take in takers:
        if isinstance(thing, celery.result.AsyncResult) and take in (sync.gather, sync.ResultSet):
            continue  # blocking code takes Celery's results
        with pytest.raises(TypeError, match=f"expected a result, not {hint}$"):
            made = take(thing) if take in (gather, sync.gather) else take([thing])
            if inspect.isawaitable(made):
                await made


async def test_a_url_in_place_of_a_backend_says_what_makes_one() -> None:
    url: Any = "redis://localhost"
    for take in (
        lambda: AsyncResult("t", backend=url),
        lambda: GroupResult("g", backend=url),
        lambda: GroupResult.restore("g", url),
        lambda: GroupResult("g").save(url),
        lambda: GroupResult("g").delete(url),
        lambda: result_from_tuple((("t", None), None), url),
    ):
        with pytest.raises(TypeError, match=r"not a URL: backend=connect\("):
            made: Any = take()
            await made


def test_a_handle_in_place_of_an_id_says_where_the_id_is() -> None:
    with pytest.raises(TypeError, match=r"a task id is text or a UUID, not AsyncResult: .*; give its \.id$"):
        AsyncResult(AsyncResult("t"))  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("localhost:6379", "a backend's URL has no scheme; known are redis://"),
        ("", "a backend's URL has no scheme; known are redis://"),
        ("amqp://localhost", "unknown scheme 'amqp'; known are redis://"),
        ("pass/word://localhost", "a backend's URL begins with what is no scheme; known are redis://"),
    ],
)
def test_a_url_that_is_none_says_why_and_what_to_do(place: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{why}.* are read by its app: connect\\(app\\)$"):
        connect(place)


@pytest.mark.parametrize("url", ["redis://localhost/0\n", " redis://localhost", "'redis://localhost'", "rpc:// "])
def test_what_a_file_or_a_shell_leaves_around_a_url_is_named(url: str) -> None:
    with pytest.raises(ValueError, match="has white space or quotation marks around it"):
        connect(url)


def test_what_tries_again_is_seconds_or_an_object_of_redis_py() -> None:
    with pytest.raises(ValueError, match="retry is a number of seconds or a Retry of redis-py, not str"):
        connect("redis://127.0.0.1:1", retry="5")
