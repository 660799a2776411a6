"""Tasks and signatures that are sent without blocking the event loop, and tasks that await.

Inside, Celery goes on with its own results: only what a task's ``delay()`` and ``apply_async()`` return, and
what the coroutines here return, is a handle. So canvases, trails, chords and workers see what they always saw.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypeVar, overload

from celery import Task as StockTask
from celery.canvas import Signature

from ...result import AsyncResult
from .backend import sending
from .config import make_backend
from .control import in_thread
from .coroutines import as_child, running_task, wrap_coroutine_function
from .results import from_celery, make_awaitable
from .rpc import watch

__all__ = ["Task", "install", "task"]

P = ParamSpec("P")
R = TypeVar("R")


if TYPE_CHECKING:

    class _Generic(Generic[P, R]): ...

else:

    class _Generic:
        """In place of typing.Generic, with which the class of a task that is there already cannot be exchanged."""

        __class_getitem__ = classmethod(types.GenericAlias)


class _Methods(_Generic[P, R]):
    """What :class:`Task` adds to Celery's: apart, so that it can be put in front of any task class."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        wrap_coroutine_function(cls, cls.__dict__.get("run"))

    @classmethod
    def on_bound(cls, app: Any) -> None:
        super().on_bound(app)  # type: ignore[misc]
        make_awaitable(app)
        watch(app, make_backend)

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send the task. Blocks until the broker has it: in coroutines use :meth:`adelay`.

        Returns:
            The handle: ``value = await add.delay(2, 3)``.
        """
        return self.apply_async(args, kwargs)

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult[R]:
        """:meth:`delay` with Celery's options for sending. Returns the handle."""
        with sending(self.app), as_child():  # type: ignore[attr-defined]
            handle: AsyncResult[R] = from_celery(super().apply_async(args, kwargs, **options))  # type: ignore[misc]
        return handle

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send the task, in a thread. Cancelling returns at once; the task may have been sent by then.

        Returns:
            The handle: ``handle = await add.adelay(2, 3)``, then ``value = await handle``.

        Raises:
            kombu.exceptions.OperationalError: The broker cannot be reached; what else ``delay`` raises.
        """
        return await self.aapply_async(args, kwargs)

    async def aapply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult[R]:
        """:meth:`adelay` with Celery's options for sending."""
        return await in_thread(functools.partial(self.apply_async, args, kwargs, **options))

    @property
    def request(self) -> Any:
        """The request that is being worked on, as in Celery; also in a coroutine."""
        running = running_task()
        if running is not None and running.task is self:
            return running.request
        return super().request  # type: ignore[misc]


class Task(_Methods[P, R], StockTask):  # type: ignore[misc]
    """A base class for the tasks of an app: ``Celery(task_cls="asyncresult.integrations.celery:Task")``.

    ``delay()`` and ``apply_async()`` return a handle that can be awaited; ``adelay()`` and ``aapply_async()``
    do not block the event loop. A coroutine function can be a task.
    """

    abstract = True


class _Decorator(Protocol):
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class _BindingDecorator(Protocol):
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...


@overload
def task(app: Any, *, bind: Literal[True], **options: Any) -> _BindingDecorator: ...
@overload
def task(app: Any, *, bind: Literal[False] = False, **options: Any) -> _Decorator: ...
def task(app: Any, **options: Any) -> Any:
    """``app.task`` for type checkers: ``@task(app)`` makes a ``Task[P, R]`` of a function ``P -> R``.

    So ``adelay`` takes what the function takes, and ``await`` gives what it returns.

    Args:
        options: Those of ``app.task``.
    """
    if not issubclass(app.Task, _Methods):
        options.setdefault("base", Task)
    return app.task(**options)


def install(app: Any) -> None:
    """Give the tasks of an existing app what :class:`Task` has: those it has, and those it will get.

    A task that is declared with a ``base=`` of its own after the app was finalized is not reached: let that
    class derive from :class:`Task`.
    """
    if not issubclass(app.Task, _Methods):
        app.Task = type("Task", (_Methods, app.Task), {"__module__": __name__, "abstract": True})
    make_awaitable(app)
    watch(app, make_backend)
    if app.finalized:
        _adopt_all(app)
    else:
        app.on_after_finalize.connect(_adopt_all, weak=False)


def _adopt_all(sender: Any, **_: object) -> None:
    for registered in sender.tasks.values():
        cls = type(registered)
        if not issubclass(cls, _Methods):
            namespace = {"__module__": cls.__module__, "__doc__": cls.__doc__}
            adopted = type(cls.__name__, (_Methods, cls), namespace)
            wrap_coroutine_function(adopted, inspect.getattr_static(cls, "run"))
            registered.__class__ = adopted


# -- sending ------------------------------------------------------------------------------------------------


async def _aapply_async(self: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
    """Send this signature, of a task, chain, group, chord, map, starmap or chunks, in a thread.

    Returns:
        The handle, with its parents; a group's has its members. None for an empty chain.
    """

    def send() -> Any:
        with sending(self.app), as_child():
            result = self.apply_async(args, kwargs, **options)
            return from_celery(result) if result is not None else None

    return await in_thread(send)


async def _adelay(self: Any, *args: Any, **kwargs: Any) -> Any:
    """``aapply_async(args, kwargs)``."""
    return await _aapply_async(self, args, kwargs)


_signature: Any = Signature
_signature.aapply_async = _aapply_async
_signature.adelay = _adelay
