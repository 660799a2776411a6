"""RabbitMQ as the broker: messages of kombu's leave over one connection for each event loop."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from amqp.exceptions import AMQPError, MessageNacked, RecoverableChannelError, RecoverableConnectionError
from kombu.exceptions import OperationalError

from ..._log import Log, get_logger
from ..._storage.notes import Note
from ...backend import Backend
from .amqp_connection import Connection, open_connection
from .amqp_messages import COLLECTING, Declaration, Publication
from .control import in_thread
from .messages import UnsupportedBroker
from .templates import TemplateComposer

__all__ = ["AmqpBroker"]

logger: Log = get_logger("asyncresult")

#: In place of a URL, which may hold a secret.
ADDRESS = "amqp://"
#: Seconds between two attempts to connect.
RETRY_DELAY = 0.2
_SCHEMES = ("amqp", "amqps", "pyamqp")
#: Errors for which kombu would try again: so they are its OperationalError in the end.
_RECOVERABLE = (OSError, RecoverableConnectionError, RecoverableChannelError, MessageNacked)


class AmqpBroker:
    """The broker of an app, where it is RabbitMQ; see :class:`.brokers.Broker`.

    Args:
        app: The Celery app.
        connection: A connection of kombu's to the broker, which need not be open.

    Raises:
        UnsupportedBroker: One of several URLs is no RabbitMQ's; or event loops of this system cannot take over a
            socket.
    """

    def __init__(self, app: Any, connection: Any) -> None:
        if sys.platform == "win32":
            raise UnsupportedBroker("on Windows event loops cannot take over kombu's connection to RabbitMQ")
        if any("://" in url and url.partition("://")[0] not in _SCHEMES for url in connection.alt):
            raise UnsupportedBroker("its URLs are of several kinds")
        self._app = app
        self._collecting = COLLECTING[connection.get_transport_cls()]
        self._by_loop: dict[asyncio.AbstractEventLoop, _Connecting] = {}
        self._declared: dict[str, Declaration] = {}

    def composer(self) -> TemplateComposer:
        return TemplateComposer(self._app, self._collecting)

    def keeps_notes_of(self, backend: Backend) -> bool:
        return False

    def close_with(self, backend: Backend) -> None:
        if self not in backend.companions:
            backend.companions.append(self)

    async def send(self, commands: Sequence[Any], patience: float | None, notes: Sequence[Note]) -> None:
        publications = [command for command in commands if isinstance(command, Publication)]
        try:
            connection = await self._connecting().connection(patience)
            if len(publications) < len(commands):
                await self._declare(connection, [each for each in commands if not isinstance(each, Publication)])
            if publications:
                await connection.publish(publications)
        except OperationalError:
            raise
        except _RECOVERABLE as error:
            raise OperationalError(str(error) or type(error).__name__) from error

    async def aclose(self, *, timeout: float) -> None:
        """Close the connections. Messages that have left get ``timeout`` seconds to be confirmed."""
        here = asyncio.get_running_loop()
        by_loop, self._by_loop = self._by_loop, {}
        for loop, connecting in by_loop.items():
            if loop is not here and not loop.is_closed():  # another thread's: it is not waited for
                asyncio.run_coroutine_threadsafe(connecting.aclose(timeout), loop)
        if (own := by_loop.get(here)) is not None:
            await own.aclose(timeout)

    def _connecting(self) -> _Connecting:
        loop = asyncio.get_running_loop()
        found = self._by_loop.get(loop)
        if found is None:
            for other in [other for other in self._by_loop if other.is_closed()]:
                self._by_loop.pop(other).abandon()
            found = self._by_loop[loop] = _Connecting(self._app, self._declare_again)
            theirs: Backend | None = vars(self._app).get("_asyncresult_backend")
            if theirs is not None and not theirs.closed:
                self.close_with(theirs)
        return found

    async def _declare(self, connection: Connection, declarations: Sequence[Declaration]) -> None:
        await connection.declare(declarations)
        self._declared.update((repr(declaration), declaration) for declaration in declarations)

    async def _declare_again(self, connection: Connection) -> None:
        """Declare all on a new connection: a broker that was restarted has lost what is not durable, and drops messages
        for a queue that is not there."""
        for declaration in list(self._declared.values()):
            try:
                await connection.declare([declaration])
            except AMQPError as error:  # it was made otherwise meanwhile; who declares it the next time gets the reason
                logger.debug("not declared again: %s", error, extra={"event": "not declared", "backend": ADDRESS})


class _Connecting:
    """The connection of one event loop: opened at the first send, and anew at the next after it was lost."""

    def __init__(self, app: Any, prepare: Callable[[Connection], Awaitable[None]]) -> None:
        self._app = app
        self._prepare = prepare
        self._connection: Connection | None = None
        self._attempt: asyncio.Task[Connection] | None = None
        self._opened: deque[Any] = deque()  # by a thread, and not taken over yet
        self._closed = False

    async def connection(self, patience: float | None) -> Connection:
        """The connection, once it is there.

        Raises: what kombu and py-amqp raise: when ``patience`` seconds have passed, or at once if trying again is of no
            use.
        """
        if self._connection is not None and self._connection.connected:
            return self._connection
        loop = asyncio.get_running_loop()
        deadline = None if patience is None else loop.time() + patience
        while True:
            attempt = self._attempt
            if attempt is None:
                attempt = self._attempt = loop.create_task(self._open(), name=f"asyncresult connecting to {ADDRESS}")
                attempt.add_done_callback(_retrieve)
            try:
                return await asyncio.shield(attempt)  # others wait for it, too
            except asyncio.CancelledError:
                if self._closed and attempt.cancelled():
                    raise ConnectionAbortedError("the connection to the broker was closed") from None
                raise
            except _RECOVERABLE:
                if deadline is not None and loop.time() >= deadline:
                    raise
            await asyncio.sleep(RETRY_DELAY)

    async def _open(self) -> Connection:
        try:
            await in_thread(self._open_in_thread)
            connection = self._connection = Connection(self._opened.pop())
            await self._prepare(connection)
            return connection
        finally:
            self._attempt = None

    def _open_in_thread(self) -> None:
        self._opened.append(open_connection(self._app))
        if self._closed:
            self._collect()

    def _collect(self) -> None:
        """Close what a thread has opened for nobody. Either side may do so."""
        try:
            self._opened.pop().collect()
        except IndexError:
            pass

    async def aclose(self, timeout: float) -> None:
        """Close the connection, and give up opening one."""
        self._closed = True
        if self._attempt is not None:
            self._attempt.cancel()
        self._collect()
        if self._connection is not None:
            await self._connection.aclose(timeout)

    def abandon(self) -> None:
        """Close the socket: the loop is closed."""
        self._closed = True
        self._collect()
        if self._connection is not None:
            self._connection.close()


def _retrieve(attempt: asyncio.Task[Connection]) -> None:
    """Who waited for it, and was cancelled, does not look at its error."""
    if not attempt.cancelled():
        attempt.exception()
