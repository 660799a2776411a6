"""The call that a task makes: what kind of function it is, and the handles among its arguments."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from ._handles.result import AsyncResult
from ._handles.sets import ResultSet
from .errors import TaskFailed

__all__ = ["is_coroutine_function", "is_handle", "with_values"]


def is_coroutine_function(fn: Any) -> bool:
    """Whether calling ``fn`` gives a coroutine."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


def is_handle(argument: Any) -> bool:
    """Whether it is a handle, or a set of handles, whose value is meant."""
    return isinstance(argument, (AsyncResult, ResultSet))


async def with_values(call: functools.partial[Any]) -> functools.partial[Any]:
    """The call with values in place of handles.

    Raises:
        TaskFailed: The task behind one of the handles has failed.
    """
    args = [await _value(argument) for argument in call.args]
    kwargs = {name: await _value(argument) for name, argument in call.keywords.items()}
    return functools.partial(call.func, *args, **kwargs)


async def _value(argument: Any) -> Any:
    if not is_handle(argument):
        return argument
    try:
        return await argument
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise TaskFailed(f"task {argument}, whose result is an argument of this one, failed: {reason}") from error
