"""Running functions as tasks in this process, from blocking code."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

from .. import executor as _executor
from .._portal import run
from .backend import Backend
from .base import ResultBase, async_backend, blocking
from .groups import GroupResult
from .result import AsyncResult

__all__ = ["Executor", "Submitter"]

P = ParamSpec("P")
T = TypeVar("T")
X = TypeVar("X")


class Submitter:
    """Accepts tasks with the same options. Made by :meth:`Executor.options`."""

    def __init__(self, executor: _executor.Executor, submitter: _executor.Submitter) -> None:
        self._executor = executor
        self._submitter = submitter

    @overload
    def submit(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncResult[T]: ...
    @overload
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[T]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> AsyncResult[Any]:
        """Have ``fn(*args, **kwargs)`` run: a coroutine function on the loop, any other function in a thread.

        Blocks while ``max_pending`` tasks wait. A result among the arguments is waited for first, and its
        value takes its place.

        Raises: as :meth:`asyncresult.Executor.submit`, but never QueueFull.
        """

        async def accept() -> Any:
            await self._executor.wait_for_capacity()
            return self._submitter.submit(
                fn, *map(_unblocked, args), **{name: _unblocked(value) for name, value in kwargs.items()}
            )

        result: AsyncResult[Any] = blocking(run(accept))
        return result

    @overload
    def map(self, fn: Callable[[X], Coroutine[Any, Any, T]], items: Iterable[X]) -> GroupResult[T]: ...
    @overload
    def map(self, fn: Callable[[X], T], items: Iterable[X]) -> GroupResult[T]: ...
    def map(self, fn: Callable[..., Any], items: Iterable[Any]) -> GroupResult[Any]:
        """``submit(fn, item)`` for each item: the results, in the order of the items, as a group.

        Blocks while ``max_pending`` tasks wait; then the items are accepted together, however many they are.

        Raises: as :meth:`asyncresult.Executor.map`, but never QueueFull.
        """
        arguments = [_unblocked(item) for item in items]

        async def accept() -> Any:
            if arguments:
                await self._executor.wait_for_capacity()
            return self._submitter.map(fn, arguments)

        group: GroupResult[Any] = blocking(run(accept))
        return group


class Executor(Submitter):
    """Runs functions in the background, as tasks whose results any process can wait for.

    ::

        with connect("redis://…") as backend, Executor(backend) as executor:
            print(executor.submit(resize, "cat.png", width=100).get())

    Leaving the block waits for all tasks; a block that fails, or Ctrl-C, cancels them. See
    :class:`asyncresult.Executor`, also for ``options``: ``concurrency=10``, ``max_pending=1000``,
    ``cancel_pending=False``, ``heartbeat=None``, ``worker=None``.
    """

    def __init__(self, backend: Backend | None = None, **options: Any) -> None:
        executor = _executor.Executor(async_backend(backend), **options)
        super().__init__(executor, executor)

    @property
    def backend(self) -> Backend:
        """Where states and results are stored. Raises RuntimeError: none was given and none is entered."""
        return Backend(self._executor.backend)

    @property
    def pending(self) -> int:
        """Tasks that wait for their turn."""
        return self._executor.pending

    @property
    def running(self) -> int:
        """Tasks that were started and are not over."""
        return self._executor.running

    def options(self, **options: Any) -> Submitter:
        """``executor.options(timeout=10, retries=3).submit(fn, …)``; see :meth:`asyncresult.Executor.options`."""
        return Submitter(self._executor, self._executor.options(**options))

    def __enter__(self) -> Self:
        run(self._executor.__aenter__)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            run(self._executor.__aexit__, exc_type, exc, tb)
        except BaseException as error:  # Ctrl-C while it waits for the tasks: they are cancelled, and that has an end
            run(self._executor.__aexit__, type(error), error, error.__traceback__)
            raise


def _unblocked(argument: Any) -> Any:
    """What the loop's side awaits, for an argument that is a result."""
    return argument._async() if isinstance(argument, ResultBase) else argument
