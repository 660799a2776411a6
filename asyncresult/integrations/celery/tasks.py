"""Tasks and signatures that are sent without blocking the event loop, and tasks that await.

``delay()`` and ``apply_async()`` are Celery's, and give Celery's own result (:mod:`.awaitable`): blocking code,
canvases, trails, chords and workers see what they always saw. The coroutines here give handles.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypeVar, overload

from celery.canvas import Signature

from ...result import AsyncResult as Handle
from .awaitable import AwaitableResult, make_awaitable, with_await
from .backend import sending, sent
from .config import make_backend
from .coroutines import as_child, running_task, wrap_coroutine_function
from .results import VALUE_TYPE
from .rpc import watch
from .sending import place_of, send
from .values import returned_type, store_plain_values

if TYPE_CHECKING:
    from .canvas import TypedSignature

if TYPE_CHECKING:
    from .._untyped import Untyped as StockTask
else:
    from celery import Task as StockTask

__all__ = ["Task", "install", "shared_task", "task"]

P = ParamSpec("P")
R = TypeVar("R")


if TYPE_CHECKING:

    class _Generic(Generic[P, R]): ...

else:

    class _Generic:
        """In place of typing.Generic, with which the class of a task that is there already cannot be exchanged."""

        __class_getitem__ = classmethod(types.GenericAlias)


class _Methods(_Generic[P, R]):
    """What :class:`Task` adds to Celery's: apart, so that it can be put in front of any task class.

    Attributes:
        convert: Whether values are made what the function's annotation says; see :func:`task`.
    """

    convert: bool = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _set_run(cls, cls.__dict__.get("run"))

    @classmethod
    def on_bound(cls, app: Any) -> None:
        super().on_bound(app)  # type: ignore[misc]
        make_awaitable(app)
        watch(app, make_backend)

    if TYPE_CHECKING:

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
            """Run the function here, without sending anything. A coroutine function blocks as well, until its end."""
            ...

        def delay(self, *args: P.args, **kwargs: P.kwargs) -> AwaitableResult[R]:
            """Send the task. Blocks until the broker has it: in coroutines use :meth:`adelay`.

            Returns:
                Celery's own result, which can be awaited: ``value = await add.delay(2, 3)``.
            """
            ...

        def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> AwaitableResult[R]:
            """:meth:`delay` with Celery's options for sending. Returns Celery's own result, which can be awaited."""
            ...

        def s(self, *args: Any, **kwargs: Any) -> TypedSignature[R]:
            """A signature. It may lack arguments, which a canvas adds."""
            ...

        def si(self, *args: P.args, **kwargs: P.kwargs) -> TypedSignature[R]:
            """A signature to which a canvas adds nothing."""
            ...

    else:

        def apply_async(self, *args, **options):
            with sending(self.app), as_child():
                result = super().apply_async(*args, **options)
            return with_await(sent(result))

    def AsyncResult(self, task_id: str, **options: Any) -> AwaitableResult[R]:
        """Celery's own result of a task with this id, which can be awaited."""
        result: AwaitableResult[R] = with_await(super().AsyncResult(task_id, **options))  # type: ignore[misc]
        if self.convert:
            setattr(result, VALUE_TYPE, self._value_type)
        return result

    @functools.cached_property
    def _value_type(self) -> Any:
        run: Any = self.run  # type: ignore[attr-defined]
        return returned_type(run)

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Send the task without blocking the event loop: over an asyncio connection where the broker is Redis or
        RabbitMQ, else in a thread. Cancelling returns at once; the task may have been sent by then.

        Returns:
            The handle: ``handle = await add.adelay(2, 3)``, then ``value = await handle``. Where the class of the task
            gives no result (None, say, because it will be sent later), what it gives.

        Raises:
            SendUnconfirmed: The connection was lost before the broker's answer came: it may have been sent.
            kombu.exceptions.OperationalError: The broker cannot be reached, or refuses; nothing was sent.
            Exception: What else ``delay`` raises; nothing was sent.
        """
        if (place := place_of(self)) is not None:
            await place
        handle: Handle[R] = await send(self, functools.partial(self.delay, *args, **kwargs), {}, (args, kwargs))
        return handle

    async def aapply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Handle[R]:
        """:meth:`adelay` with Celery's options for sending."""
        if (place := place_of(self)) is not None:
            await place
        call = functools.partial(self.apply_async, args, kwargs, **options)
        handle: Handle[R] = await send(self, call, options, (args, kwargs))
        return handle

    @property
    def request(self) -> Any:
        """The request that is being worked on, as in Celery; also in a coroutine."""
        running = running_task()
        if running is not None and running.task is self:
            return running.request
        return super().request  # type: ignore[misc]


def _set_run(cls: Any, run: Any) -> None:
    """Let a worker call ``run``, and store what it gives, if it is a coroutine function or its values are converted."""
    if run is None:
        return
    wrap_coroutine_function(cls, run)
    if cls.convert:
        store_plain_values(cls, inspect.getattr_static(cls, "run"))


class Task(_Methods[P, R], StockTask):
    """A base class for the tasks of an app: ``Celery(task_cls="asyncresult.integrations.celery:Task")``.

    ``delay()`` and ``apply_async()`` are Celery's, and their results can be awaited; ``adelay()`` and
    ``aapply_async()`` do not block the event loop, and give handles. A coroutine function can be a task.
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
def task(app: Any, *, bind: Literal[True], convert: bool = False, **options: Any) -> _BindingDecorator: ...
@overload
def task(app: Any, *, bind: Literal[False] = False, convert: bool = False, **options: Any) -> _Decorator: ...
def task(app: Any, *, convert: bool = False, **options: Any) -> Any:
    """``app.task`` for type checkers: ``@task(app)`` makes a ``Task[P, R]`` of a function ``P -> R``.

    So ``adelay`` takes what the function takes, and ``await`` gives what it returns.

    Args:
        convert: Make values what the function's annotation says: with ``-> Report`` a handle gives a Report, and with
            ``-> tuple[int, int]`` a tuple. The worker stores dataclasses, msgspec's, attrs' and pydantic's classes as
            plain JSON, and the handle builds them. Celery's own ``get()`` gives the plain values.
        options: Those of ``app.task``.
    """
    if not issubclass(app.Task, _Methods):
        options.setdefault("base", Task)
    return app.task(convert=convert, **options)


@overload
def shared_task(function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
@overload
def shared_task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def shared_task(*, bind: Literal[True], convert: bool = False, **options: Any) -> _BindingDecorator: ...
@overload
def shared_task(*, bind: Literal[False] = False, convert: bool = False, **options: Any) -> _Decorator: ...
def shared_task(function: Any = None, /, *, convert: bool = False, **options: Any) -> Any:
    """Celery's ``shared_task``, for tasks that can be awaited, and with types: see :func:`task`.

    For modules that do not know their app, as those of Django's apps. The app need not have been given a ``task_cls``.
    """
    from celery import shared_task as celerys

    options.setdefault("base", Task)
    decorate: Any = celerys(convert=convert, **options)
    return decorate if function is None else decorate(function)


def install(app: Any) -> None:
    """Give the tasks of an existing app what :class:`Task` has: those it has, whatever their base class, and those it
    will get."""
    app = getattr(app, "_get_current_object", lambda: app)()  # celery.current_app is a proxy
    if not issubclass(app.Task, _Methods):
        app.Task = type("Task", (_Methods, app.Task), {"__module__": __name__, "abstract": True})
    make_awaitable(app)
    watch(app, make_backend)
    registry: Any = app._tasks
    cls: Any = type(registry)
    if not issubclass(cls, _AdoptingRegistry):
        registry.__class__ = type(cls.__name__, (_AdoptingRegistry, cls), {"__module__": cls.__module__})
    for registered in registry.values():
        _adopt(registered)


class _AdoptingRegistry:
    """In front of the class of an app's registry of tasks, through which each task comes, however it is declared."""

    def __setitem__(self, name: str, task: Any) -> None:
        _adopt(task)
        super().__setitem__(name, task)  # type: ignore[misc]


def _adopt(task: Any) -> None:
    """Put :class:`_Methods` in front of a task's class; the task stays the same object."""
    cls = type(task)
    if issubclass(cls, _Methods):
        return
    adopted = type(cls.__name__, (_Methods, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__})
    _set_run(adopted, inspect.getattr_static(cls, "run"))
    task.__class__ = adopted
    if "_orig_run" in vars(task):  # autoretry_for has put itself in front of run already
        task._orig_run = inspect.getattr_static(adopted, "run").__get__(task, adopted)


# -- sending ------------------------------------------------------------------------------------------------


async def _aapply_async(self: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
    """Send this signature, of a task, chain, group, chord, map, starmap or chunks, without blocking the event loop.

    Returns:
        The handle, with its parents; a group's has its members. None for an empty chain.

    Raises: as :meth:`_Methods.adelay`.
    """
    if (place := place_of(self)) is not None:
        await place
    return await send(self, functools.partial(self.apply_async, args, kwargs, **options), options)


async def _adelay(self: Any, *args: Any, **kwargs: Any) -> Any:
    """``aapply_async(args, kwargs)``."""
    return await _aapply_async(self, args, kwargs)


_signature: Any = Signature
_signature.aapply_async = _aapply_async
_signature.adelay = _adelay
