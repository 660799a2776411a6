"""Sending tasks without a thread, where the broker is Redis or RabbitMQ.

Celery and kombu make the messages (:mod:`.messages`), or what differs from the last (:mod:`.templates`), on the event
loop; they leave over an asyncio connection (:mod:`.brokers`), those of one tick of the loop in one write. Many of them
take turns with whatever else the loop has to do (:mod:`.turns`)::

    send ──its turn──> compose (Celery, kombu; a template) ──> one job ──> the broker's connection ──> answer ──> handle
     └──no──> place in the queue ──a later turn of the loop──┘

Where it cannot be done so (another broker, code of the application that may block), Celery sends in a thread.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import msgspec
from celery.result import AsyncResult as CelerysResult
from kombu.exceptions import OperationalError

from ..._log import Log, get_logger
from ..._storage.engine import BackendStats
from ..._storage.notes import Note
from ...backend import Backend
from ...errors import add_note
from .backend import sending, sent
from .brokers import Broker, SendUnconfirmed
from .config import once
from .control import in_thread
from .coroutines import as_child
from .messages import Message, UnsupportedBroker, composing, use_composers
from .notes import put, registering
from .results import from_celery, is_result
from .rpc import settled
from .templates import Plain, TemplateComposer
from .turns import Turns

__all__ = ["Publisher", "SendUnconfirmed", "publisher_of"]

logger: Log = get_logger("asyncresult")

#: Commands that leave in one pipeline, of many tasks that are sent at once. To write twice as many takes 4 ms.
BATCH = 500


class Composed(NamedTuple):
    """The messages of one task or canvas.

    Attributes:
        value: The handle.
        commands: What sends them.
        messages: What kombu's producer was given of each.
        notes: Notes about them.
    """

    value: Any
    commands: Sequence[Any]
    messages: Sequence[Message]
    notes: Sequence[Note]


class Bulk:
    """Messages of many tasks and canvases, in the parts in which they are sent: of about BATCH commands each."""

    def __init__(self) -> None:
        self.begun: float = time.perf_counter()
        self.parts: deque[Composed] = deque()

    def add(self, composed: Composed) -> None:
        """Put one task or canvas behind the others."""
        if not self.parts or len(self.parts[-1].commands) >= BATCH:
            self.parts.append(Composed([], [], [], []))
        # Nothing is kept of each but this: thousands of objects more would have the garbage collector go through all.
        handles, commands, messages, notes = (cast("list[Any]", part) for part in self.parts[-1])
        handles.append(composed.value)
        commands += composed.commands
        messages += composed.messages
        notes += composed.notes


class Publisher:
    """Sends what an app publishes. Used by any number of event loops.

    Args:
        app: The Celery app.

    Attributes:
        sent: Messages that were accepted by the broker.
        in_thread: Calls that were sent by a thread.
        reason: Why nothing can be sent without a thread; None where it can.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self.sent: int = 0
        self.in_thread: int = 0
        self.reason: str | None = None
        self.broker: Broker | None = None
        self._idle: list[TemplateComposer] = []
        self._turns: dict[asyncio.AbstractEventLoop, Turns] = {}
        try:
            self.broker = _broker_of(app)
        except UnsupportedBroker as error:
            self.reason = str(error)
        else:
            use_composers(app)

    async def send(self, call: Callable[[], Any], *, blocks: bool = False, plain: Plain | None = None) -> Any:
        """Call what sends a task or canvas with Celery's own code; send what it publishes; give the handle.

        Args:
            blocks: It may block, and is called in a thread. What it publishes is sent from here.
            plain: What the call does, if it is no more than that: a template may do it instead.

        Raises:
            SendUnconfirmed: It may have been sent.
            kombu.exceptions.OperationalError: It was not.
            Exception: What Celery's code raises. Nothing was sent.
        """
        begun = time.perf_counter()
        composed = await self.compose(call, blocks=blocks, plain=plain)
        if composed.commands:
            await self._push(composed)
        self._report(begun, [composed.value])
        return composed.value

    async def send_bulk(self, bulk: Bulk) -> list[Any]:
        """Send messages that :meth:`compose` has made; give the handles.

        Raises: as :meth:`send`; the text says how many tasks were sent, and how many may have been.
        """
        handles: list[Any] = []
        total = sum(len(part.value) for part in bulk.parts)
        while bulk.parts:
            part = bulk.parts.popleft()  # what was sent is freed part by part, as to free all at once takes 5 ms
            try:
                if part.commands:
                    await self._push(part)
            except OperationalError as error:
                words = "may have been sent" if isinstance(error, SendUnconfirmed) else "were not sent"
                raise type(error)(
                    f"{error} ({len(handles)} of {total} tasks were sent, the next {len(part.value)} {words}, "
                    f"the rest were not)"
                ) from error
            handles += part.value
        self._report(bulk.begun, handles)
        return handles

    async def send_in_thread(self, call: Callable[[], Any]) -> Any:
        """Have Celery send, in a thread, with its own connection."""
        (handle,) = await self.send_many_in_thread([call])
        return handle

    async def send_many_in_thread(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """:meth:`send_in_thread` for each, one after another, in one thread. The first that fails ends it."""
        begun = time.perf_counter()
        self.in_thread += len(calls)
        _ = self._theirs

        def send() -> list[Any]:
            handles: list[Any] = []
            with sending(self.app, always=True), as_child():
                for call in calls:
                    try:
                        handles.append(_handle(call()))
                    except Exception as error:
                        if len(calls) > 1:
                            add_note(error, f"{len(handles)} of {len(calls)} tasks were sent before this one.")
                        raise
            return handles

        sent_now = await in_thread(send)
        self._report(begun, sent_now)
        return sent_now

    def _report(self, begun: float, handles: list[Any]) -> None:
        backend = self._theirs
        if backend is not None and backend.probe is not None:
            backend.probe.sent(time.perf_counter() - begun, handles)

    def _count(self, stats: BackendStats) -> BackendStats:
        counters = {"sent": self.sent, "sent_by_threads": self.in_thread, "thread_reason": self.reason}
        return msgspec.structs.replace(stats, **counters)

    @property
    def _theirs(self) -> Backend | None:
        """The backend of the app, if it has been made; it shows what was sent."""
        backend: Backend | None = vars(self.app).get("_asyncresult_backend")
        if backend is not None:
            backend.counters["sends"] = self._count
        return backend

    # -- composing ----------------------------------------------------------------------------------------

    @property
    def turns(self) -> Turns:
        """Those of the running loop. Whoever sends waits for a place before."""
        loop = asyncio.get_running_loop()
        turns = self._turns.get(loop)
        if turns is None:
            for other in [other for other in list(self._turns) if other.is_closed()]:
                self._turns.pop(other, None)  # another thread may have done so
            turns = self._turns[loop] = Turns(loop, self.app)
        return turns

    async def compose(self, call: Callable[[], Any], *, blocks: bool = False, plain: Plain | None = None) -> Composed:
        """Make the messages that :meth:`send` sends. Raises: as it does."""
        if blocks:
            used: list[TemplateComposer] = []
            composed = await in_thread(functools.partial(self._compose, call, None, used))
            self._idle += used  # not where this was cancelled: what they have declared is not sent
            return composed
        turns, begun = self.turns, time.perf_counter()
        try:
            return self._compose(call, None if turns.settings.announces else plain, self._idle)
        finally:
            turns.made(time.perf_counter() - begun)

    def discard(self) -> None:
        """What was composed, and declared on the way, is not sent: whoever composes next declares it again."""
        self._idle.clear()

    def _compose(self, call: Callable[[], Any], plain: Plain | None, idle: list[TemplateComposer]) -> Composed:
        """Make the messages; the composer is added to ``idle``, unless it has declared what is not sent."""
        try:
            composer = self._idle.pop()
        except IndexError:
            composer = self._broker.composer()
        filled = self._filled(composer, plain) if plain is not None else None
        if filled is not None:
            return filled
        token = composing.set(composer)
        try:
            with settled(self.app), sending(self.app, always=True), as_child():
                value = _handle(call())
            commands, messages, notes = composer.take()
            self._broker.composed(commands)
            if plain is not None:
                composer.templates.learn(plain, commands, messages, value)
        except BaseException:
            # What it has declared is not sent: others must declare it again.
            if not composer.take()[0]:
                idle.append(composer)
            raise
        finally:
            composing.reset(token)
        idle.append(composer)
        return Composed(value, commands, messages, notes)

    def _filled(self, composer: TemplateComposer, plain: Plain) -> Composed | None:
        """The message of a template; the composer is idle again where there is one, or where the call is refused."""
        try:
            filled = composer.templates.fill(plain)
        except BaseException:
            self._idle.append(composer)
            raise
        if filled is None:
            return None
        self._idle.append(composer)
        notes = (Note(filled.handle.id, plain.task.name),) if registering(self.app) is not None else ()
        return Composed(filled.handle, (filled.command,), (filled.message,), notes)

    # -- sending ------------------------------------------------------------------------------------------

    @property
    def _broker(self) -> Broker:
        assert self.broker is not None, self.reason
        return self.broker

    def close_with(self, backend: Backend) -> None:
        """Close the connections to the broker together with a backend of the app's, which somebody enters."""
        if self.broker is not None:
            self.broker.close_with(backend)

    async def _push(self, composed: Composed) -> None:
        patience = composed.messages[-1].patience if composed.messages else 0.0
        turns, count = self.turns, len(composed.commands)
        turns.departed(count)
        try:
            await self._send(composed, patience)
        except BaseException:
            self.discard()  # declarations may be lost
            raise
        finally:
            turns.arrived(count)
        self.sent += len(composed.messages)

    async def _send(self, composed: Composed, patience: float | None) -> None:
        notes = composed.notes
        registrar = registering(self.app) if notes else None
        if registrar is None:
            notes = ()
        elif not self._broker.keeps_notes_of(registrar):
            await put(registrar, notes)
            notes = ()
        await self._broker.send(composed.commands, patience, notes)


def publisher_of(app: Any) -> Publisher:
    """The publisher of an app, made at its first use."""
    publisher: Publisher | None = vars(app).get("_asyncresult_publisher")
    return publisher if publisher is not None else once(app, "_asyncresult_publisher", lambda: Publisher(app))


def _broker_of(app: Any) -> Broker:
    """The broker of an app.

    Raises:
        UnsupportedBroker: Only kombu's own connection can send to it.
    """
    connection = app.connection_for_write()
    transport = connection.get_transport_cls()
    module = transport.__module__  # a class of the application's may do something else
    if module == "kombu.transport.redis":
        from .redis_broker import RedisBroker

        return RedisBroker(app, connection)
    if module == "kombu.transport.pyamqp":
        from .amqp_broker import AmqpBroker

        return AmqpBroker(app, connection)
    raise UnsupportedBroker(f"the broker's transport is {module}.{transport.__qualname__}")


def _handle(result: Any) -> Any:
    """The handle for what Celery gives; what is no result as it is."""
    if not is_result(result):
        return result
    return from_celery(sent(result) if isinstance(result, CelerysResult) else result)
