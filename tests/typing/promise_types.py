"""What the type checkers must infer about promises. Checked by mypy and pyright, never run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Never, assert_type

from asyncresult.promise import Promise, Settled


def to_text(value: int) -> str:
    return str(value)


async def to_text_later(value: int) -> str:
    return str(value)


def to_text_promise(value: int) -> Promise[str]:
    return Promise.resolve(str(value))


def recover(error: Exception) -> bytes:
    return repr(error).encode()


async def recover_later(error: Exception) -> bytes:
    return repr(error).encode()


def nothing() -> None: ...


async def then_carries_the_type_of_its_callback(promise: Promise[int]) -> None:
    assert_type(await promise, int)
    assert_type(promise.then(to_text), Promise[str])
    assert_type(promise.then(to_text_later), Promise[str])
    assert_type(promise.then(to_text_promise), Promise[str])
    assert_type(promise.then(to_text, weak=True), Promise[str])
    assert_type(promise.then(lambda value: value / 2), Promise[float])
    assert_type(promise.then(print), Promise[None])
    assert_type(promise.then(to_text).then(len), Promise[int])
    assert_type(promise.then(), Promise[int])


async def with_on_error_it_is_the_union(promise: Promise[int]) -> None:
    assert_type(promise.then(to_text, recover), Promise[str | bytes])
    assert_type(promise.then(to_text_later, recover_later), Promise[str | bytes])
    assert_type(promise.then(to_text, recover_later), Promise[str | bytes])
    assert_type(promise.then(None, recover), Promise[int | bytes])
    assert_type(promise.catch(recover), Promise[int | bytes])
    assert_type(promise.catch(recover_later), Promise[int | bytes])
    assert_type(promise.finally_(nothing), Promise[int])


async def wrong_callbacks_are_refused(promise: Promise[int]) -> None:
    promise.then(recover)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    promise.catch(to_text)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def constructors() -> None:
    def executor(resolve: Callable[[Awaitable[int] | int], None], reject: Callable[[BaseException], None]) -> None:
        resolve(1)

    assert_type(Promise(executor), Promise[int])
    assert_type(Promise[int](lambda resolve, reject: resolve(1)), Promise[int])
    assert_type(Promise.resolve(), Promise[None])
    assert_type(Promise.resolve(1), Promise[int])
    assert_type(Promise.resolve(to_text_later(1)), Promise[str])
    assert_type(Promise.resolve(Promise.resolve(1)), Promise[int])
    assert_type(Promise.reject(ValueError()), Promise[Never])


async def joins(number: Promise[int]) -> None:
    assert_type(Promise.all([number, number]), Promise[list[int]])
    assert_type(await Promise.all([number, number]), list[int])
    assert_type(Promise.all([1, 2]), Promise[list[int]])
    assert_type(Promise.all_settled([number]), Promise[list[Settled[int]]])
    assert_type(Promise.any([number, number]), Promise[int])
    assert_type(Promise.race([number, number]), Promise[int])
    mixed: list[Awaitable[int] | int] = [number, 1]
    assert_type(Promise.all(mixed), Promise[list[int]])


async def with_asyncio(number: Promise[int], text: Promise[str]) -> None:
    assert_type(await asyncio.gather(number, text), tuple[int, str])
    assert_type(await asyncio.wait_for(number, 1), int)


def covariant(promise: Promise[bool]) -> Promise[int]:
    return promise
