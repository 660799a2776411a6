"""``sentinel://``: one primary at a time, and sentinels that know which.

The sentinels are queried at each connect, all of them at once, and the answer with the highest configuration
epoch counts: that is the sentinels' own rule for who is up to date, so one that was cut off and still names
the old primary cannot win. What they name must also call itself a primary (ROLE).

Three things reveal a failover while the connections are up, because any one of them may fail::

    +switch-master   received from every sentinel, on a small subscription of its own    at once
    ROLE             sent with each heartbeat, on the command connection             after a heartbeat
    READONLY         the answer to a write                                            at the next write

Then both connections leave the old primary together, also when it is still alive and willing. A command
that it holds is given up and sent again, a wait is subscribed and read anew at the new primary.

Source: Redis documentation, "Guidelines for Redis clients with support for Redis Sentinel".
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from .._storage.waiters import Waiters
from ..errors import AsyncResultError
from .address import Address, dial_address
from .connection import LIBRARY, CommandConnection, Patience, query
from .driver import RedisDriver
from .errors import describe, is_refusal
from .exceptions import ConnectionError as RedisConnectionError
from .exceptions import NoPermissionError, RedisError, ResponseError
from .options import Options
from .packing import Command
from .pump import Call
from .single import OneServer
from .subscriber import Subscriber
from .topology import Links, Topology
from .urls import parse_sentinel
from .wire import Wire

__all__ = ["Sentinel", "SentinelDriver"]

#: Seconds that the other sentinels get once one has answered: one that is down must not hold us up.
LATECOMERS = 0.25
SWITCH = b"+switch-master"


class SentinelDriver(RedisDriver):
    """Records in the primary that Redis Sentinel or Valkey Sentinel names.

    Its URL is ``sentinel://[[user]:password@]host[:port][;host[:port]…][/db]?service=name``; user, password and
    database are the data servers'. ``sentinels://`` for TLS. Celery's form, which repeats the scheme in front of each
    host, is read too.

    Its options are those of :class:`RedisDriver`, and ``service`` (or Celery's ``master_name``),
    ``min_other_sentinels``, ``sentinel_username``, ``sentinel_password``, ``sentinel_ssl`` (whether the sentinels
    speak TLS, if that differs from the data servers), or Celery's ``sentinel_kwargs``.
    """

    scheme: ClassVar[str] = "sentinel"

    @staticmethod
    def _parse(url: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], Options]:
        return parse_sentinel(url, options)

    @staticmethod
    def _topology(links: Links, table: Waiters) -> Topology:
        return Sentinel(links, table)

    def __str__(self) -> str:
        assert self.options.sentinels is not None
        hosts = ";".join(map(str, self.options.sentinels.addresses))
        scheme = "sentinels" if self.options.tls else self.scheme
        return f"{scheme}://{hosts}/{self.options.db}?service={self.options.service}"


class _Unsuitable(RedisConnectionError):
    """What answers is no sentinel, or does not know the service."""


class Sentinel(OneServer):
    """The primary: each connect finds out who that is, and a failover moves both connections."""

    def __init__(self, links: Links, table: Waiters) -> None:
        assert links.options.sentinels is not None
        self._options = links.options
        self._sentinels = links.options.sentinels
        self._sentinel_tls = self._sentinels.ssl_context()
        self._patience = Patience(self._sentinels.connect_timeout)
        self._connection: CommandConnection | None = None
        # Where the two connections lead; None while that is being found out.
        self._connected_to: Address | None = None
        self._subscribed_at: Address | None = None
        self._round: asyncio.Timeout | None = None
        self._role_due = False
        self._news = 0
        self._checking: asyncio.Task[None] | None = None
        super().__init__(links, table, dial=self._dial, execute=self._execute, reset=self._reset, locate=self._locate)
        self._announcers = [
            _Announcer(self, links, address, self._sentinel_tls) for address in self._sentinels.addresses
        ]
        self._heartbeat = self._loop.call_later(links.heartbeat, self._ask_role)

    # -- who is the primary ---------------------------------------------------------------------------

    async def _resolve(self) -> Address:
        """The address of the primary, by the sentinels' word and its own.

        Raises:
            AuthenticationError, NoPermissionError: A sentinel or the server refuses the user.
            ResponseError: Every sentinel is none, or does not know the service, and none ever did.
            ConnectionError: No sentinel answers, or none knows a primary that is one; or, with that
                as its cause, a certificate does not convince.
        """
        while True:
            news = self._news
            address = await self._query_sentinels()
            primary = await self._is_primary(address)
            if news != self._news:  # a failover was announced meanwhile: the answer is void
                continue
            if not primary:
                raise RedisConnectionError(f"the sentinels name {address}, which is not a primary")
            return address

    async def _query_sentinels(self) -> Address:
        queries = {
            self._loop.create_task(self._query_sentinel(address), name=f"asyncresult sentinel {address}")
            for address in self._sentinels.addresses
        }
        answers: list[tuple[int, Address]] = []
        troubles: list[Exception] = []
        try:
            while queries:
                wait = LATECOMERS if answers else None
                done, queries = await asyncio.wait(queries, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    break
                for task in done:
                    if isinstance(outcome := task.result(), tuple):
                        answers.append(outcome)
                    else:
                        troubles.append(outcome)
        finally:
            for task in queries:
                task.cancel()
        if answers:
            return max(answers, key=lambda answer: answer[0])[1]
        for trouble in troubles:  # what no later attempt may make right comes before what passes
            if is_refusal(trouble):
                raise trouble
        reasons = f"no sentinel names a primary ({'; '.join(sorted(map(describe, troubles)))})"
        if not self._links.health.proven and all(isinstance(trouble, _Unsuitable) for trouble in troubles):
            raise ResponseError(reasons)  # a mistake in the settings, by the word of every one of them
        raise RedisConnectionError(reasons)

    async def _query_sentinel(self, sentinel: Address) -> tuple[int, Address] | Exception:
        """The configuration epoch of one sentinel and the primary that it names."""
        service = self._options.service
        try:
            named, facts = await query(
                self._sentinels,
                sentinel,
                self._sentinel_tls,
                ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service),
                ("SENTINEL", "MASTER", service),
                patience=self._patience,
            )
        except (RedisError, OSError) as error:
            return error
        if isinstance(named, Exception):
            is_none = str(named).startswith("ERR unknown command")
            return _Unsuitable(f"{sentinel} is no sentinel: {describe(named)}") if is_none else named
        if named is None:
            return _Unsuitable(f"{sentinel} does not know the service {service!r}")
        # A user without +sentinel|master gets no epochs: then one answer is as good as another.
        known = dict(zip(facts[::2], facts[1::2], strict=True)) if isinstance(facts, list) else {}
        if int(known.get(b"num-other-sentinels", 0)) < self._options.min_other_sentinels:
            return RedisConnectionError(f"{sentinel} knows too few other sentinels")
        return int(known.get(b"config-epoch", 0)), Address(named[0].decode(), int(named[1]))

    async def _is_primary(self, address: Address) -> bool:
        # As patient as with the sentinels: one that is frozen must not hold up who looks for its successor.
        (role,) = await query(self._options, address, self._links.tls, ("ROLE",), patience=self._patience)
        return _says_primary(role)

    # -- the connections ------------------------------------------------------------------------------

    async def _locate(self) -> None:
        self._subscribed_at = None
        self._subscribed_at = address = await self._resolve()
        self._primary_is(address)

    async def _dial(self, factory: Callable[[], asyncio.BaseProtocol]) -> object:
        if self._subscribed_at is None:
            raise RedisConnectionError("the primary is another one by now")
        return await self._links.dial(self._subscribed_at, factory)

    async def _execute(self, commands: list[Command], replies: list[Any]) -> None:
        try:
            async with asyncio.timeout(None) as self._round:
                if self._connection is None or self._connected_to is None:
                    self._reset("the primary is looked for")
                    address = await self._resolve()
                    self._connection, self._connected_to = self._links.connection(address), address
                    self._primary_is(address)
                check_role, self._role_due = self._role_due, False
                await self._connection.execute([*commands, ("ROLE",)] if check_role else commands, replies)
                if check_role and not _says_primary(replies.pop()):
                    demoted = f"{self._connected_to} is no primary any more"
                    self._subscriber.abort(demoted)
                    replies.clear()  # a write may be lost with the next synchronisation
                    raise RedisConnectionError(demoted)
        except (RedisError, OSError) as error:
            self._reset(describe(error))
            raise
        finally:
            self._round = None

    def _reset(self, reason: str) -> None:
        connection, self._connection, self._connected_to = self._connection, None, None
        if connection is not None:
            connection.abort(reason)

    # -- failovers ------------------------------------------------------------------------------------

    def _primary_is(self, address: Address) -> None:
        """Leave every other server."""
        if self._subscribed_at not in (None, address):
            self._subscribed_at = None
            self._subscriber.abort(f"the primary is {address} now")
        if self._connected_to not in (None, address):
            self._connected_to = None
            if self._round is not None:
                self._round.reschedule(self._loop.time())

    def announced(self, address: Address) -> None:
        """A sentinel says that there was a failover."""
        self._news += 1
        self._primary_is(address)

    def look_again(self) -> None:
        """A sentinel is connected again: what it published meanwhile was missed."""
        if self._checking is None or self._checking.done():
            self._checking = self._loop.create_task(self._look(), name=f"asyncresult sentinels {self._links.name}")

    async def _look(self) -> None:
        try:
            self._primary_is(await self._resolve())
        except (RedisError, OSError):
            pass  # whoever needs a connection will find out too, and say so

    def _ask_role(self) -> None:
        self._role_due = True
        self._pump.submit(Call([], lambda replies: None, lambda error: None, 0.0))
        self._heartbeat = self._loop.call_later(self._links.heartbeat, self._ask_role)

    # -- life -----------------------------------------------------------------------------------------

    def stop_listening(self) -> set[asyncio.Task[None]]:
        self._heartbeat.cancel()
        ending = super().stop_listening() | {announcer.close() for announcer in self._announcers}
        if self._checking is not None:
            self._checking.cancel()
            ending.add(self._checking)
        return ending


class _Announcer:
    """Listens to one sentinel; the sink of a subscription that is about failovers instead of results."""

    wanted = True

    def __init__(self, topology: Sentinel, links: Links, sentinel: Address, tls: ssl.SSLContext | None) -> None:
        assert links.options.sentinels is not None
        self._topology = topology
        self._service = links.options.service.encode()
        self._subscribed_before = False
        options = links.options.sentinels

        async def wire() -> Wire:
            return Wire(
                username=options.username,
                password=options.password,
                client_name=options.client_name,
                library=LIBRARY,
                resp3=options.protocol == 3,
            )

        self._subscriber = Subscriber(
            dial=functools.partial(dial_address, sentinel, tls),
            wire=wire,
            sink=self,
            address=f"sentinel {sentinel}",
            heartbeat=links.heartbeat,
            connect_timeout=options.connect_timeout,
        )
        self._subscriber.wake()

    def close(self) -> asyncio.Task[None]:
        return self._subscriber.close()

    def connected(self) -> None:
        self._subscriber.subscribe([SWITCH])

    def acked(self, keys: list[bytes]) -> None:
        if self._subscribed_before:
            self._topology.look_again()
        self._subscribed_before = True

    def pushed_many(self, messages: list[bytes]) -> None:
        for payload in messages[1::2]:
            words = payload.split()  # service, old host and port, new host and port
            if len(words) == 5 and words[0] == self._service and words[4].isdigit():
                self._topology.announced(Address(words[3].decode(), int(words[4])))

    # Not subscribed for now: the other sentinels are, and ROLE is sent.
    def disconnected(self) -> None: ...
    def dropped(self, keys: list[bytes]) -> None: ...
    def refused(self, keys: list[bytes], error: AsyncResultError) -> None: ...
    def fail_all(self, error: AsyncResultError) -> None: ...


def _says_primary(role: Any) -> bool:
    """Whether an answer to ROLE speaks of a primary; a user without +role is taken at the sentinels' word."""
    return isinstance(role, NoPermissionError) or (isinstance(role, list) and role[0] in (b"master", b"primary"))
