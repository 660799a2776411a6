"""Redis as the broker: commands of kombu's leave in pipelines, over a connection of a backend of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kombu.exceptions import OperationalError
from kombu.transport import redis as transports

from ..._redis.driver import RedisDriver
from ..._redis.engine import RedisEngine
from ..._redis.errors import first_error
from ..._redis.packing import Command
from ..._redis.pump import Unanswered
from ..._storage.notes import Note
from ..._storage.store import engine_of
from ...backend import Backend
from ...backend import connect as connect_url
from ...errors import BackendClosed, BackendError
from .brokers import SendUnconfirmed
from .messages import UnsupportedBroker
from .notes import in_one_step
from .redis import connection_url
from .redis_messages import COLLECTING, Routed
from .templates import TemplateComposer

__all__ = ["RedisBroker"]


class RedisBroker:
    """The broker of an app, where it is Redis; see :class:`.brokers.Broker`.

    Args:
        app: The Celery app.
        connection: A connection of kombu's to the broker, which need not be open.

    Raises:
        UnsupportedBroker: A setting is not known.
    """

    def __init__(self, app: Any, connection: Any) -> None:
        transport = connection.get_transport_cls()
        is_sentinel = transport is transports.SentinelTransport
        if len(connection.alt) > 1 and not is_sentinel:
            raise UnsupportedBroker("there is more than one broker URL")
        self._app = app
        self._collecting = COLLECTING[transport]
        try:
            self._url, self._settings = _connection(self.composer(), is_sentinel)
            self._own: Backend = connect_url(self._url, **self._settings)
        except ValueError as error:
            raise UnsupportedBroker(f"the broker's connection: {error}") from None
        self._shares: tuple[Backend | None, bool] = (None, False)

    def composer(self) -> TemplateComposer:
        return TemplateComposer(self._app, self._collecting)

    @property
    def store(self) -> Backend:
        """The backend that is connected to the broker: the app's own where that is the same server and database."""
        theirs: Backend | None = vars(self._app).get("_asyncresult_backend")
        if theirs is not self._shares[0]:
            self._shares = theirs, theirs is not None and _same_connection(theirs, self._own)
        if theirs is not None and self._shares[1] and not theirs.closed:
            return theirs
        if self._own.closed:
            self._own = connect_url(self._url, **self._settings)
        if theirs is not None and not theirs.closed:
            self.close_with(theirs)
        return self._own

    def composed(self, commands: Sequence[Any]) -> None: ...  # one connection, which keeps their order

    def keeps_notes_of(self, backend: Backend) -> bool:
        return backend is self.store

    def close_with(self, backend: Backend) -> None:
        if self._own not in backend.companions:
            backend.companions.append(self._own)

    async def send(self, commands: Sequence[Any], patience: float | None, notes: Sequence[Note]) -> None:
        store = self.store
        engine: Any = engine_of(store)
        try:
            if any(isinstance(command, Routed) for command in commands):
                commands = await _routed(engine, commands, patience)
            if not commands:
                return
            replies = await engine.send_once(in_one_step(store, notes, commands) if notes else commands, patience)
            if notes and (error := first_error(replies[-1], store)):
                raise error
        except (Unanswered, BackendClosed) as error:
            raise SendUnconfirmed(f"the task may have been sent: {error}") from error
        except BackendError as error:
            raise OperationalError(str(error)) from error


async def _routed(engine: RedisEngine, commands: Sequence[Any], patience: float | None) -> list[Command]:
    """The commands, with those in place of each :class:`Routed` that deliver it.

    What is declared in front of it has to be on the server before its table is read.
    """
    before = [command for command in commands if not isinstance(command, Routed)]
    questions = {command.exchange: command.question() for command in commands if isinstance(command, Routed)}
    declared = [command for command in before if command[0] in ("SADD", "EVAL")]
    replies = await engine.send_once([*declared, *questions.values()], patience)
    tables = dict(zip(questions, replies[len(declared) :], strict=True))
    routed: list[Command] = []
    for command in commands:
        if isinstance(command, Routed):
            routed += command.commands(tables[command.exchange])
        elif command not in declared:
            routed.append(command)
    return routed


def _connection(composer: TemplateComposer, is_sentinel: bool) -> tuple[str, dict[str, Any]]:
    """URL and options of our connections to the broker, from those that kombu's would have.

    Raises:
        ValueError: One is not known.
    """
    channel = composer.channel
    params = channel._connparams()
    transport = composer.app.conf.broker_transport_options
    sentinels = None
    if is_sentinel:
        known = [client.connection_pool.connection_kwargs for client in channel.pool.sentinel_manager.sentinels]
        sentinels = [{"host": params["host"], "port": params["port"]} for params in known]
    return connection_url(params, transport, {}, sentinels)


def _same_connection(theirs: Backend, own: Backend) -> bool:
    """Whether a backend's connection leads where the broker's would, in the same way."""
    options: Any = theirs.options
    if not isinstance(theirs.driver, RedisDriver) or type(theirs.driver) is not type(own.driver):
        return False
    if not isinstance(options.retry, (int, float)):
        return False  # it may send twice what must be sent once
    same: bool = replace(options, retry=own.options.retry, client_name=None) == own.options
    return same
