"""Celery's own results, which can be awaited: what ``delay()`` and ``apply_async()`` return.

Nothing of Celery's is overridden: ``r.state``, ``r.failed()``, ``r.get()`` and all the rest are Celery's, block as
they always did, and give what they always gave. A result only gets, in addition, ``await``, and :attr:`handle`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from celery import result as celery_results

from ...result import AsyncResult
from .results import from_celery, is_result

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    class _CelerysResult:
        """Celery's class has no types: as a base it would fit everything."""
else:
    _CelerysResult = celery_results.AsyncResult

__all__ = ["AwaitableResult", "make_awaitable", "with_await"]

T_co = TypeVar("T_co", covariant=True)

_HANDLE = "_asyncresult_handle"


class _Awaitable:
    """What a class of Celery's results gets."""

    @property
    def handle(self) -> Any:
        """asyncresult's handle for this result: the same each time, so that it keeps what it has learned."""
        attributes: dict[str, Any] = vars(self)
        handle = attributes.get(_HANDLE)
        if handle is None:
            handle = attributes[_HANDLE] = from_celery(self)
        return handle

    def __asyncresult__(self) -> Any:
        return self.handle

    def __await__(self) -> Generator[Any, None, Any]:
        return self.handle.__await__()  # type: ignore[no-any-return]


class AwaitableResult(_CelerysResult, Generic[T_co]):
    """Celery's own result of a task, of the app's own class: ``value = await add.delay(2, 3)``.

    All that it has in Celery it has unchanged, blocking: ``r.get(timeout=10)``, ``r.state``, ``r.failed()``. Awaiting
    it, and putting it into ``asyncio.gather``, :class:`asyncresult.ResultSet`, :func:`asyncresult.gather` or
    ``scope().adopt`` does not block. Made by Celery.
    """

    if TYPE_CHECKING:
        id: str
        task_id: str
        app: Any
        backend: Any
        parent: Any
        ignored: bool

        @property
        def handle(self) -> AsyncResult[T_co]:
            """asyncresult's handle for this result: the same each time, so that it keeps what it has learned."""
            ...

        def __asyncresult__(self) -> AsyncResult[T_co]: ...
        def __await__(self) -> Generator[Any, None, T_co]: ...

        @property
        def state(self) -> str:
            """Celery's: the task's state. Blocks."""
            ...

        @property
        def status(self) -> str:
            """Celery's: :attr:`state`."""
            ...

        @property
        def result(self) -> Any:
            """Celery's: the value, or the exception. Blocks."""
            ...

        @property
        def info(self) -> Any:
            """Celery's: :attr:`result`."""
            ...

        @property
        def traceback(self) -> str | None:
            """Celery's: the traceback's text. Blocks."""
            ...

        @property
        def date_done(self) -> datetime | None:
            """Celery's: when the task ended. Blocks."""
            ...

        @property
        def children(self) -> list[Any] | None:
            """Celery's: the results of what the task sent. Blocks."""
            ...

        def get(
            self,
            timeout: float | None = None,
            propagate: bool = True,
            interval: float = 0.5,
            no_ack: bool = True,
            follow_parents: bool = True,
            callback: Callable[[str, Any], object] | None = None,
            on_message: Callable[[dict[str, Any]], object] | None = None,
            on_interval: Callable[[], object] | None = None,
            disable_sync_subtasks: bool = True,
            **options: Any,
        ) -> T_co:
            """Celery's: wait for the value. Blocks."""
            ...

        def ready(self) -> bool:
            """Celery's: whether the task is over. Blocks."""
            ...

        def successful(self) -> bool:
            """Celery's: whether the task returned. Blocks."""
            ...

        def failed(self) -> bool:
            """Celery's: whether the task raised. Blocks."""
            ...

        def forget(self) -> None:
            """Celery's: delete what is stored. Blocks."""
            ...

        def revoke(
            self,
            connection: Any = None,
            terminate: bool = False,
            signal: str | None = None,
            wait: bool = False,
            timeout: float | None = None,
        ) -> None:
            """Celery's: request of the workers not to run it. Blocks."""
            ...

        def then(self, callback: Any, on_error: Any = None, weak: bool = False) -> Any:
            """Celery's: call back when a blocking wait has found the result."""
            ...

        def as_tuple(self) -> tuple[Any, Any]:
            """Celery's portable form."""
            ...

        def as_list(self) -> list[str]:
            """Celery's: the ids of this and its parents."""
            ...

        def collect(self, intermediate: bool = False, **options: Any) -> Any:
            """Celery's: the values of this and what it sent. Blocks."""
            ...

        def maybe_throw(self, propagate: bool = True, callback: Any = None) -> Any:
            """Celery's: raise what the task raised. Blocks."""
            ...

        maybe_reraise = maybe_throw
        wait = get

    else:
        handle = vars(_Awaitable)["handle"]
        __asyncresult__ = _Awaitable.__asyncresult__
        __await__ = _Awaitable.__await__


def make_awaitable(app: Any) -> None:
    """Let Celery's own results, of this app, be awaited: those of tasks, canvases and ``send_task()``."""
    for name, mixin in (("AsyncResult", AwaitableResult), ("ResultSet", _Awaitable), ("GroupResult", _Awaitable)):
        cls: Any = getattr(app, name)
        if not issubclass(cls, mixin):
            # An app's attribute is a class of its own that Celery makes at the first use.
            setattr(app, name, type(cls.__name__, (mixin, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__}))


def with_await(result: Any) -> Any:
    """A result as it is; its class can be awaited from now on, also if it is one that a task class has of its own, as
    AbortableTask has. What is no result is given back as it is."""
    cls: Any = type(result)
    if isinstance(result, celery_results.AsyncResult) and not hasattr(cls, "__await__") and is_result(result):
        for name in ("handle", "__asyncresult__", "__await__"):
            setattr(cls, name, vars(_Awaitable)[name])
    return result


def _await_eager(self: Any) -> Generator[Any, None, Any]:
    if is_result(self):
        return from_celery(self).__await__()  # type: ignore[no-any-return]
    return _known(self).__await__()


async def _known(result: Any) -> Any:
    """What an EagerResult without an id gives, as its own ``get()``: no handle can be made of it."""
    return result.get(disable_sync_subtasks=False)


# With task_always_eager the tasks of any app give Celery's one class for that; what is known already does not block.
_eager: Any = celery_results.EagerResult
_eager.handle = vars(_Awaitable)["handle"]
_eager.__asyncresult__ = _Awaitable.__asyncresult__
_eager.__await__ = _await_eager
