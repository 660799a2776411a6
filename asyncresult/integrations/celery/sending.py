"""How tasks and canvases are sent: on the event loop, with Celery's code in a thread, or by Celery in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

from celery import Celery
from celery import Task as StockTask
from celery.canvas import Signature, _chain, chord, group

from .publisher import Bulk, Publisher, publisher_of
from .templates import Plain, is_overridden, plain_signature

if TYPE_CHECKING:
    from ...result import AsyncResult, GroupResult
    from .canvas import GroupSignature, TypedSignature

__all__ = ["asend_task", "place_of", "send", "send_many"]

R = TypeVar("R")

#: Tasks of a canvas whose messages are made on the event loop; more would hold it up.
MOST_ON_LOOP = 16
#: Where the caller brings a connection of kombu's, or says how long a blocking one may block; what RabbitMQ refuses.
_CONNECTIONS = ("producer", "publisher", "connection", "timeout", "confirm_timeout", "immediate")


def place_of(sender: Any) -> asyncio.Future[None] | None:
    """What to wait for before a task or signature is sent; None if it may be sent at once.

    A thousand sends that begin together all get here in one turn of the loop: so their coroutines call this before
    anything else.
    """
    return publisher_of(sender.app).turns.place()


async def send(
    sender: Any, call: Callable[[], Any], options: Mapping[str, Any], arguments: tuple[Any, Any] | None = None
) -> Any:
    """Send a task or signature, whose place (:func:`place_of`) has come.

    Args:
        sender: The task or signature.
        call: Sends it with Celery's code.
        options: For sending.
        arguments: Those of the task, by position and by name.

    Returns:
        The handle; what is no result as it is.

    Raises: as :meth:`.publisher.Publisher.send`.
    """
    app = sender.app
    publisher = publisher_of(app)
    if _needs_thread(publisher, options):
        return await publisher.send_in_thread(call)
    plain = Plain(sender, *arguments, options) if arguments is not None else plain_signature(sender, app)
    return await publisher.send(call, blocks=_may_block(sender, app), plain=plain)


@overload
async def send_many(signatures: Iterable[TypedSignature[R]]) -> list[AsyncResult[R]]: ...
@overload
async def send_many(signatures: Iterable[GroupSignature[R]]) -> list[GroupResult[R]]: ...
@overload
async def send_many(signatures: Iterable[Signature]) -> list[AsyncResult[Any]]: ...
async def send_many(signatures: Iterable[Any]) -> list[Any]:
    """Send many tasks or canvases, without blocking the event loop.

    Where the broker is Redis or RabbitMQ, all messages of an app are made before the first is sent, and they leave
    about 500 at a time: if one cannot be made, none is sent. Elsewhere Celery sends them in a thread, one after
    another. Cancelling returns at once; any number of them may have been sent by then.

    Args:
        signatures: What to send: ``add.s(2, 3)``, ``add.signature((2, 3), countdown=10)``, groups, chains, chords.

    Returns:
        Their handles, in the same order.

    Raises:
        SendUnconfirmed: The connection was lost before an answer came: the text says how many tasks were sent, and how
            many may have been.
        kombu.exceptions.OperationalError: The broker cannot be reached, or refuses; the text says how many were sent.
        Exception: What ``delay`` raises, of the first for which it does. Where the broker is Redis or RabbitMQ nothing
            was sent, else a note says how many were.
    """
    handles: list[Any] = []
    bulks: dict[int, _Outgoing] = {}
    try:
        # One by one, as messages are made: to collect or to look at all of them first would hold up the loop.
        for index, signature in enumerate(signatures):
            handles.append(None)
            app = signature.app
            bulk = bulks.get(id(app))
            if bulk is None:
                bulk = bulks[id(app)] = _Outgoing(app)
            await bulk.add(index, signature)
    except BaseException:
        for bulk in bulks.values():
            bulk.publisher.discard()
        raise
    for bulk in bulks.values():
        await bulk.send(handles)
    return handles


class _Outgoing:
    """What :func:`send_many` sends of one app."""

    def __init__(self, app: Any) -> None:
        self.publisher: Publisher = publisher_of(app)
        self._app = app
        self._bulk = Bulk()
        self._bulk_at: list[int] = []
        self._by_thread: list[Any] = []
        self._by_thread_at: list[int] = []

    async def add(self, index: int, signature: Any) -> None:
        """Make the messages of a signature; ``index`` is its place among all."""
        if (place := self.publisher.turns.place()) is not None:
            await place
        call = signature.apply_async
        if _needs_thread(self.publisher, signature.options):
            self._by_thread.append(call)
            self._by_thread_at.append(index)
            return
        app = self._app
        blocks, plain = _may_block(signature, app), plain_signature(signature, app)
        self._bulk.add(await self.publisher.compose(call, blocks=blocks, plain=plain))
        self._bulk_at.append(index)

    async def send(self, handles: list[Any]) -> None:
        """Send them, and put the handles in their places."""
        sent: list[Any] = []
        if self._bulk.parts:
            sent += await self.publisher.send_bulk(self._bulk)
        if self._by_thread:
            sent += await self.publisher.send_many_in_thread(self._by_thread)
        for index, handle in zip(self._bulk_at + self._by_thread_at, sent, strict=True):
            handles[index] = handle


async def asend_task(app: Any, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
    """``app.send_task`` without blocking the event loop.

    Returns:
        The handle.

    Raises: as :meth:`.publisher.Publisher.send`.
    """
    publisher = publisher_of(app)
    if (place := publisher.turns.place()) is not None:
        await place

    def call() -> Any:
        return app.send_task(name, args, kwargs, **options)

    if publisher.reason is not None or _brings_connection(options):
        return await publisher.send_in_thread(call)
    return await publisher.send(call, blocks=_has_own_send_task(app))


def _needs_thread(publisher: Publisher, *options: Mapping[str, Any]) -> bool:
    """Whether Celery has to send it itself, or call it where tasks are eager."""
    if publisher.reason is not None or publisher.turns.settings.always_eager:
        return True
    return any(map(_brings_connection, options))


def _brings_connection(options: Mapping[str, Any]) -> bool:
    return any(options.get(name) is not None for name in _CONNECTIONS)


def _may_block(sender: Any, app: Any) -> bool:
    """Whether Celery's code, or the application's, may block the event loop for long."""
    if _has_own_send_task(app):
        return True
    if isinstance(sender, Signature):
        tasks = _tasks(sender)
        return tasks is None or len(tasks) > MOST_ON_LOOP or any(map(_has_own_apply_async, tasks))
    return _has_own_apply_async(sender)


def _tasks(signature: Any) -> list[Any] | None:
    """The tasks of a canvas; None if sending it talks to the result backend, as chords do, or it is not known."""
    if isinstance(signature, chord):
        return None
    if isinstance(signature, _chain):
        found: list[Any] = []
        for step in signature.tasks or ():
            if isinstance(step, (group, chord, _chain)):  # a group becomes a chord there
                return None
            found.append(_task_of(step))
        return found
    if isinstance(signature, group):
        members = signature.tasks
        if not isinstance(members, (list, tuple)) or any(isinstance(m, (group, chord, _chain)) for m in members):
            return None
        return [_task_of(member) for member in members]
    return [_task_of(signature)]


def _task_of(signature: Any) -> Any:
    name = signature.get("task") if isinstance(signature, dict) else None
    app = getattr(signature, "app", None)
    return app._tasks.get(name) if app is not None else None


def _has_own_apply_async(task: Any) -> bool:
    """Whether a class of the application's sends tasks in a way of its own."""
    return task is not None and is_overridden(type(task), ("apply_async", "delay"), StockTask)


def _has_own_send_task(app: Any) -> bool:
    return is_overridden(type(app), ("send_task",), Celery)
