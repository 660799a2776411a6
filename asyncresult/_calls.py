"""The call that a task makes: its options, its kind of function, the handles among its arguments, what it raises."""

from __future__ import annotations

import functools
import inspect
import signal
import threading
from dataclasses import dataclass
from typing import Any

from ._handles.result import AsyncResult
from ._handles.sets import ResultSet
from .errors import TaskFailed

__all__ = ["Options", "is_coroutine_function", "is_handle", "may_be_ctrl_c", "with_values"]


@dataclass(frozen=True, slots=True)
class Options:
    """See :meth:`.executor.Executor.options`."""

    task_id: str | None = None
    name: str | None = None
    timeout: float | None = None
    expires: float | None = None
    retries: int = 0
    backoff: float = 1.0
    retry_on: tuple[type[Exception], ...] = (Exception,)
    process: bool = False
    history: int | None = None


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


def may_be_ctrl_c(error: BaseException) -> bool:
    """Whether a signal may have raised it, and not the function: then it ends the program, too.

    asyncio.run() makes a cancellation of the first Ctrl-C, so that there it is always the function's.
    """
    return (
        isinstance(error, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
