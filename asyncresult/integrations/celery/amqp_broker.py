"""RabbitMQ as the broker: messages of kombu's leave over one connection for each event loop."""

from __future__ import annotations

import asyncio
import random
import sys
from collections import deque
from collections.abc import Sequence
from itertools import count
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
#: Seconds between two attempts to connect, on average.
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
        self._declarations: dict[str, Declaration] = {}
        self._versions = count(1)
        self._version = 0  # another one with each declaration

    def composer(self) -> TemplateComposer:
        return TemplateComposer(self._app, self._collecting)

    def composed(self, commands: Sequence[Any]) -> None:
        for command in commands:
            if not isinstance(command, Publication):
                self._declarations[repr(command)] = command
                self._version = next(self._versions)

    def keeps_notes_of(self, backend: Backend) -> bool:
        return False

    def close_with(self, backend: Backend) -> None:
        if self not in backend.companions:
            backend.companions.append(self)

    async def send(self, commands: Sequence[Any], patience: float | None, notes: Sequence[Note]) -> None:
        publications = [command for command in commands if isinstance(command, Publication)]
        own = [command for command in commands if not isinstance(command, Publication)]
        try:
            connection = await self._connecting().connection(patience)
            if own or connection.prepared != self._version:
                await self._prepare(connection, own)
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
            for other in [other for other in list(self._by_loop) if other.is_closed()]:
                if (left := self._by_loop.pop(other, None)) is not None:  # another thread may have done so
                    left.abandon()
            found = self._by_loop[loop] = _Connecting(self._app)
            theirs: Backend | None = vars(self._app).get("_asyncresult_backend")
            if theirs is not None and not theirs.closed:
                self.close_with(theirs)
        return found

    async def _prepare(self, connection: Connection, own: Sequence[Declaration]) -> None:
        """Declare what a send declares, and what is not declared on this connection though others have said so: the
        broker drops messages for a queue that is not there, in silence.

        A queue is declared by the message that was made first, which need not be the first to get here. And a broker
        that was restarted has lost what is not durable.

        Raises: as :meth:`.amqp_connection.Connection.declare`, for its own.
        """
        async with connection.preparing:
            version = self._version
            names = {repr(declaration) for declaration in own}
            try:
                if own:
                    await connection.declare(own)
            except AMQPError as error:
                self._forget(names, error)
                raise
            connection.declared |= names
            for name, declaration in list(self._declarations.items()):
                if name not in connection.declared:
                    await self._declare_for_others(connection, name, declaration)
            connection.prepared = version

    async def _declare_for_others(self, connection: Connection, name: str, declaration: Declaration) -> None:
        try:
            await connection.declare([declaration])
        except RecoverableConnectionError:
            raise
        except AMQPError as error:
            self._forget({name}, error)
            logger.debug("not declared again: %s", error, extra={"event": "not declared", "backend": ADDRESS})
        else:
            connection.declared.add(name)

    def _forget(self, names: set[str], error: AMQPError) -> None:
        """Let others do without what the broker refuses: it was made otherwise meanwhile, say, and who declares it the
        next time gets the reason. With the connection lost it is to be declared on the next."""
        if not isinstance(error, RecoverableConnectionError):
            for name in names:
                self._declarations.pop(name, None)


class _Connecting:
    """The connection of one event loop: opened at the first send, and anew at the next after it was lost."""

    def __init__(self, app: Any) -> None:
        self._app = app
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
        while not self._closed:
            attempt = self._attempt
            if attempt is None:
                attempt = self._attempt = loop.create_task(self._open(), name=f"asyncresult connecting to {ADDRESS}")
                attempt.add_done_callback(_retrieve)
            await asyncio.wait([attempt])  # others wait for it, too
            if attempt.cancelled():
                break
            try:
                return attempt.result()
            except _RECOVERABLE:
                if deadline is not None and loop.time() >= deadline:
                    raise
            await asyncio.sleep(RETRY_DELAY * random.uniform(0.5, 1.5))  # processes do not come back in step
        raise ConnectionAbortedError("the connection to the broker was closed")

    async def _open(self) -> Connection:
        try:
            await in_thread(self._open_in_thread)
            self._connection = Connection(self._opened.pop())
            return self._connection
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
