"""The life of the subscription, on transports and a clock of the test's own."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import hiredis
import pytest

from asyncresult._redis.backoff import BACKOFF_FIRST, BACKOFF_LAST
from asyncresult._redis.subscriber import Subscriber
from asyncresult._redis.wire import Wire
from asyncresult._storage.outage import Outage
from asyncresult._storage.waiters import Waiters
from asyncresult.errors import AsyncResultError, BackendError, BackendPermissionError, BackendUnavailable
from asyncresult.meta import TaskMeta

HEARTBEAT, CONNECT_TIMEOUT = 5.0, 3.0
HELLO = b"%1\r\n$5\r\nproto\r\n:3\r\n"
ACK = b">3\r\n$9\r\nsubscribe\r\n$1\r\n%s\r\n:1\r\n"


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now = loop.time()

    async def settle(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        await self.settle()
        self.now += seconds
        await self.settle()


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.BaseEventLoop):
        pytest.skip("this event loop has a clock that cannot be replaced")
    clock = Clock(loop)
    monkeypatch.setattr(loop, "time", lambda: clock.now)
    return clock


class Transport(asyncio.Transport):
    def __init__(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.BufferedProtocol)
        super().__init__()
        self.protocol = protocol
        self.sent = hiredis.Reader()
        self.closed = False
        protocol.connection_made(self)

    def write(self, data: Any) -> None:
        assert not self.closed
        self.sent.feed(data)

    def abort(self) -> None:
        self.lose(None)

    # -- the server's side

    def commands(self) -> list[list[bytes]]:
        """What was written since the last look."""
        return list(iter(self.sent.gets, False))

    def say(self, data: bytes) -> None:
        memoryview(self.protocol.get_buffer(-1))[: len(data)] = data
        self.protocol.buffer_updated(len(data))

    def lose(self, error: Exception | None) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, error)


class Sink:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.wanted = True
        self.told: list[Any] = []

    def connected(self) -> None:
        self.told.append("connected")

    def disconnected(self) -> None:
        self.told.append("disconnected")

    def acked(self, keys: list[bytes]) -> None:
        self.told.append(("acked", keys))

    def dropped(self, keys: list[bytes]) -> None:
        self.told.append(("dropped", keys))

    def refused(self, keys: list[bytes], error: AsyncResultError) -> None:
        self.told.append(("refused", keys, error))

    def fail_all(self, error: AsyncResultError) -> None:
        self.told.append(("failed", error))

    def pushed_many(self, messages: list[bytes]) -> None:
        self.told += zip(messages[::2], messages[1::2], strict=True)


Accept = Callable[[Transport], object]


class World:
    """A subscriber, a sink, and a server that takes every connection unless ``trouble`` says otherwise."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.sink = Sink()
        self.transports: list[Transport] = []
        self.dialled: list[float] = []
        self.trouble: BaseException | None = None
        self.accept: Accept = lambda transport: None
        self.make_wire: Callable[[], Awaitable[Wire]] = self._wire
        self.subscriber = Subscriber(
            dial=self.dial,
            wire=lambda: self.make_wire(),
            sink=cast("Any", self.sink),
            address="test",
            heartbeat=HEARTBEAT,
            connect_timeout=CONNECT_TIMEOUT,
        )

    async def _wire(self) -> Wire:
        return Wire(password="secret")

    async def dial(self, factory: Callable[[], asyncio.BaseProtocol]) -> object:
        self.dialled.append(self.clock.now)
        if self.trouble is not None:
            raise self.trouble
        self.transports.append(transport := Transport(factory()))
        self.accept(transport)
        return transport

    async def up(self) -> Transport:
        """Somebody waits; until the connection stands."""
        self.subscriber.wake()
        await self.clock.settle()
        transport = self.transports[-1]
        assert transport.commands()[0][0] == b"HELLO"
        transport.say(HELLO)
        await self.clock.settle()
        assert self.sink.told[-1] == "connected"
        self.sink.told.clear()
        return transport


@pytest.fixture
async def world(clock: Clock) -> AsyncGenerator[World]:
    world = World(clock)
    yield world
    ending = world.subscriber.close()
    await asyncio.wait([ending])
    assert all(transport.closed for transport in world.transports)
    assert not world.subscriber.up


@pytest.fixture
def longest_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """The jitter draws its longest delay each time."""
    monkeypatch.setattr(random, "random", lambda: 1.0)


async def dials(world: World, seconds: float) -> list[float]:
    """When it dials in the next ``seconds``, to a hundredth."""
    before = len(world.dialled)
    for _ in range(int(seconds * 100)):
        await world.clock.advance(0.01)
    return world.dialled[before:]


# -- the watchdog -----------------------------------------------------------------------------------------------------


async def test_silence_is_followed_by_a_ping_and_then_taken_for_death(world: World) -> None:
    transport = await world.up()
    await world.clock.advance(HEARTBEAT - 0.1)
    assert transport.commands() == []
    await world.clock.advance(0.2)
    assert transport.commands() == [[b"PING"]]
    await world.clock.advance(HEARTBEAT - 0.2)
    assert not transport.closed
    await world.clock.advance(0.2)
    assert transport.closed and world.sink.told == ["disconnected"]
    assert "no answer" in str(world.subscriber.last_error)
    await world.clock.advance(BACKOFF_FIRST)
    assert len(world.transports) == 2, "aborted, not closed; and dialled anew"


@pytest.mark.parametrize("sign", [b"+PONG\r\n", b"-NOPERM no ping for you\r\n", b">1\r\n", b"$"])
async def test_any_byte_counts_as_an_answer(world: World, sign: bytes) -> None:
    transport = await world.up()
    await world.clock.advance(HEARTBEAT)
    assert transport.commands() == [[b"PING"]]
    await world.clock.advance(HEARTBEAT - 0.1)
    transport.say(sign)
    await world.clock.advance(0.2)
    assert not transport.closed
    await world.clock.advance(HEARTBEAT - 0.2)
    assert not transport.closed, "the silence is counted from that byte"
    assert transport.commands() == [[b"PING"]]


async def test_a_busy_connection_is_not_pinged(world: World) -> None:
    transport = await world.up()
    for _ in range(20):
        await world.clock.advance(HEARTBEAT / 2)
        transport.say(b">3\r\n$7\r\nmessage\r\n$1\r\nk\r\n$1\r\nv\r\n")
    assert transport.commands() == []
    assert world.sink.told == [(b"k", b"v")] * 20


# -- going away and coming back ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("longest_draw")
async def test_the_back_off_is_doubled_and_bounded(world: World) -> None:
    world.trouble = ConnectionRefusedError("nobody there")
    world.subscriber.wake()
    times = await dials(world, 6)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps[:5] == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8], abs=0.011)
    assert gaps[5:] == pytest.approx([BACKOFF_LAST] * len(gaps[5:]), abs=0.011)
    assert world.sink.told == [], "an outage ends no wait"


async def test_the_back_off_is_jittered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn between nothing and the bound, so that a site does not come back in step."""
    draws = iter([0.5, 0.25, 1.0])
    monkeypatch.setattr(random, "random", lambda: next(draws, 1.0))
    world.trouble = ConnectionRefusedError()
    world.subscriber.wake()
    times = await dials(world, 0.5)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps[:3] == pytest.approx([0.025, 0.025, 0.2], abs=0.011)


@pytest.mark.usefixtures("longest_draw")
async def test_a_server_that_hangs_up_after_each_greeting_is_not_stormed(world: World) -> None:
    """A handshake alone does not end the back-off; a subscription that stands does."""

    def hang_up(transport: Transport) -> None:
        transport.say(HELLO)
        transport.lose(None)

    world.accept = hang_up
    world.subscriber.wake()
    assert len(await dials(world, 10)) < 16
    world.accept = lambda transport: None
    await dials(world, BACKOFF_LAST)
    transport = world.transports[-1]
    transport.say(HELLO)
    world.subscriber.subscribe([b"k"])
    transport.say(b">3\r\n$9\r\nsubscribe\r\n$1\r\nk\r\n:1\r\n")
    transport.lose(None)
    assert len(await dials(world, BACKOFF_FIRST + 0.02)) == 1


async def test_nobody_waits_any_more(world: World) -> None:
    transport = await world.up()
    world.sink.wanted = False
    transport.lose(ConnectionResetError("reset"))
    assert await dials(world, 3) == []
    world.sink.wanted = True
    world.subscriber.wake()
    assert len(await dials(world, 0.01)) == 1


@pytest.mark.parametrize("where", ["dial", "credentials"])
async def test_an_error_that_nobody_expects_does_not_end_the_subscriber(
    world: World, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def make_wire() -> Wire:
        raise ZeroDivisionError("a bug")

    if where == "dial":
        world.trouble = ZeroDivisionError("a bug")
    else:
        world.make_wire = make_wire
    world.subscriber.wake()
    await world.clock.advance(2)
    assert world.subscriber.last_error == "a bug"
    assert "unexpected error" in caplog.text, "and loudly"
    world.trouble, world.make_wire = None, world._wire
    await world.clock.advance(2)
    await world.up()


async def test_credentials_that_cannot_be_had(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """An outage of the provider: the wait goes on, told to the log once; no traceback, which may hold a secret."""

    async def make_wire() -> Wire:
        raise BackendError("the credential provider failed: KeyError") from KeyError("secret")

    world.make_wire = make_wire
    world.subscriber.wake()
    for _ in range(10):
        await world.clock.advance(1)
    assert len(caplog.records) == 1 and not caplog.records[0].exc_info
    assert world.sink.told == []
    world.make_wire = world._wire
    await world.clock.advance(1)
    await world.up()


async def test_credentials_that_never_come(world: World) -> None:
    asked = 0

    async def make_wire() -> Wire:
        nonlocal asked
        asked += 1
        if asked == 1:
            await asyncio.get_running_loop().create_future()
        return Wire()

    world.make_wire = make_wire
    world.subscriber.wake()
    await world.clock.advance(CONNECT_TIMEOUT - 0.1)
    assert (asked, world.transports) == (1, [])
    await world.clock.advance(0.2)
    await world.clock.advance(BACKOFF_FIRST)
    await world.up()


async def test_a_dial_that_never_ends(world: World) -> None:
    """The budget covers it; what comes up too late is hung up on."""
    late: list[Callable[[], asyncio.BaseProtocol]] = []
    answer = world.dial

    async def dial(factory: Callable[[], asyncio.BaseProtocol]) -> object:
        world.subscriber._dial = answer
        late.append(factory)
        return await asyncio.get_running_loop().create_future()

    world.subscriber._dial = dial
    world.subscriber.wake()
    await world.clock.advance(CONNECT_TIMEOUT + 0.1)
    assert "no answer in time" in str(world.subscriber.last_error)
    assert Transport(late[0]()).closed
    await world.clock.advance(BACKOFF_FIRST)
    await world.up()


async def test_a_handshake_that_is_never_answered(world: World) -> None:
    world.subscriber.wake()
    await world.clock.advance(CONNECT_TIMEOUT - 0.1)
    assert not world.transports[0].closed
    await world.clock.advance(0.2)
    assert world.transports[0].closed
    assert world.sink.told == []


@pytest.mark.parametrize("said", [b"-LOADING Redis is loading\r\n", b"-ERR max number of clients reached\r\n", b"HTTP"])
async def test_trouble_in_the_handshake_is_an_outage(world: World, said: bytes) -> None:
    world.accept = lambda transport: transport.say(said)
    world.subscriber.wake()
    await world.clock.advance(0.2)
    assert world.sink.told == [] and world.transports[0].closed
    world.accept = lambda transport: None
    await world.clock.advance(1)
    await world.up()


async def test_garbage_on_an_established_connection(world: World) -> None:
    """No acknowledgement of the old generation counts after it: the sink is told at once, and once."""
    transport = await world.up()
    transport.say(b"+unasked\r\n")
    assert world.sink.told == ["disconnected"], "in the same call"
    await world.clock.advance(1)
    assert world.sink.told == ["disconnected"] and transport.closed
    await world.up()


async def test_an_outage_is_logged_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "asyncresult")
    world.trouble = ConnectionRefusedError("nobody there")
    world.subscriber.wake()
    for _ in range(10):
        await world.clock.advance(1)
    world.trouble = None
    await world.clock.advance(1)
    transport = await world.up()
    world.subscriber.subscribe([b"a"])
    transport.say(ACK % b"a")
    await world.clock.settle()
    assert [(record.levelname, "nobody there" in record.message) for record in caplog.records] == [
        ("WARNING", True),
        ("WARNING", False),  # at the same level: a log that shows the loss shows the recovery
    ]
    assert world.subscriber.last_error is None


def test_an_outage_that_lasts_is_logged_again_at_doubling_intervals(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("asyncresult._storage.outage.time", SimpleNamespace(monotonic=lambda: clock.now))
    outage = Outage("subscription to here")
    logged: list[int] = []
    for second in range(100):
        clock.now = 1000.0 + second
        caplog.clear()
        outage.note("nobody there")
        logged += [second] * len(caplog.records)
    assert logged == [0, 10, 30, 70]
    outage.over()
    outage.note("nobody there")
    lines = [(record.levelno, record.__dict__["event"]) for record in caplog.records]
    assert lines == [(logging.WARNING, "back"), (logging.WARNING, "lost")], "the next one begins anew"


# -- what no later attempt can make right -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["denied", "certificate"])
async def test_waits_end_and_the_next_one_tries_again(
    world: World, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    if kind == "denied":
        world.accept = lambda transport: transport.say(b"-WRONGPASS invalid username-password pair\r\n")
    else:
        world.trouble = ssl.SSLCertVerificationError(1, "certificate verify failed")
        world.trouble.verify_message = "self-signed certificate"
    world.subscriber.wake()
    assert len(await dials(world, 3)) == 1, "asleep, not storming a server that said no"
    [(told, error)] = world.sink.told
    assert told == "failed"
    assert isinstance(error, BackendPermissionError if kind == "denied" else BackendUnavailable)
    assert "secret" not in f"{error!r} {error}"
    assert "the waits end" in caplog.text
    assert "reconnecting" not in caplog.text, "nobody does"
    world.sink.told.clear()
    world.accept, world.trouble = (lambda transport: None), None
    await world.up()


async def test_renewed_credentials_on_the_living_connection(world: World) -> None:
    transport = await world.up()
    world.subscriber.login_again("me", "fresh")
    assert transport.commands() == [[b"AUTH", b"me", b"fresh"]]
    transport.say(b"-WRONGPASS no\r\n")
    assert world.sink.told == ["disconnected"], "refused: a new connection asks for newer ones"


async def test_renewed_credentials_where_auth_is_not_possible_meanwhile(world: World) -> None:
    async def make_wire() -> Wire:
        return Wire(resp3=False)

    world.make_wire = make_wire
    world.subscriber.wake()
    await world.clock.settle()
    transport = world.transports[-1]
    transport.say(b"+PONG\r\n")
    await world.clock.settle()
    world.subscriber.login_again("me", "fresh")
    assert transport.closed
    await world.clock.advance(BACKOFF_FIRST)
    assert len(world.transports) == 2


async def test_one_forbidden_channel_among_many(world: World) -> None:
    """It takes the whole command with it; the others are asked for alone."""
    transport = await world.up()
    world.subscriber.subscribe([b"a", b"forbidden", b"c"])
    assert transport.commands() == [[b"SUBSCRIBE", b"a", b"forbidden", b"c"]]
    transport.say(b"-NOPERM no permissions to access one of the channels\r\n")
    assert transport.commands() == [[b"SUBSCRIBE", b"a"], [b"SUBSCRIBE", b"forbidden"], [b"SUBSCRIBE", b"c"]]
    transport.say(ACK % b"a" + b"-NOPERM no permissions to access one of the channels\r\n" + ACK % b"c")
    told = [told[:2] for told in world.sink.told]
    assert told == [("acked", [b"a"]), ("refused", [b"forbidden"]), ("acked", [b"c"])]
    assert not transport.closed


@pytest.mark.parametrize("reason", ["LOADING Redis is loading", "ERR the proxy's own words"])
async def test_a_refused_subscribe_for_other_reasons_is_an_outage(world: World, reason: str) -> None:
    transport = await world.up()
    world.subscriber.subscribe([b"a"])
    transport.say(f"-{reason}\r\n".encode())
    assert transport.closed and world.sink.told == ["disconnected"]


# -- closing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["not begun", "asleep", "dialling", "handshake", "just up", "up", "backing off"])
async def test_closing_in_any_state(world: World, state: str) -> None:
    subscriber = world.subscriber
    if state == "asleep":
        await world.clock.settle()
    elif state == "dialling":

        async def dial(factory: Callable[[], asyncio.BaseProtocol]) -> object:
            return await asyncio.get_running_loop().create_future()

        subscriber._dial = dial
    elif state == "backing off":
        world.trouble = ConnectionRefusedError()
    if state not in ("not begun", "asleep"):
        subscriber.wake()
        await world.clock.settle()
    if state == "just up":
        world.transports[0].say(HELLO)
    elif state == "up":
        await world.up()
    assert not subscriber._task.done()
    await asyncio.wait([subscriber.close()])
    await world.clock.settle()
    assert all(transport.closed for transport in world.transports)
    if state in ("just up", "up"):
        assert world.sink.told[-1] == "disconnected"


# -- with the real table of waiters -----------------------------------------------------------------------------------


class Table(Waiters):
    """The table, with this subscriber as its source; reads are noted and never answered."""

    def __init__(self, world: World) -> None:
        self.asked: list[bytes] = []
        source, decoder = cast("Any", self), cast("Any", SimpleNamespace(at_once=None, many_at_once=None))
        super().__init__(source, decoder, loop=asyncio.get_running_loop(), safety_interval=1e6)
        self.subscribe, self.unsubscribe = world.subscriber.subscribe, world.subscriber.unsubscribe
        self.wake = world.subscriber.wake

    def fetch(self, keys: list[bytes]) -> None:
        self.asked += keys


class Listener:
    _follows = False

    def _follower(self) -> None: ...
    def _on_record(self, meta: TaskMeta) -> None: ...
    def _on_error(self, error: AsyncResultError) -> None: ...


@pytest.fixture
async def table(world: World) -> AsyncGenerator[Table]:
    table = Table(world)
    world.subscriber._sink = table
    yield table
    table.close(BackendUnavailable("the test is over"))


async def test_no_wish_is_lost_between_connecting_and_ready(world: World, table: Table) -> None:
    """Waits that begin while it dials, in the handshake, in the tick of its end, and after it."""

    def wait(name: bytes) -> None:
        table.add(name, name.decode(), Listener())

    world.accept = lambda transport: wait(b"dialling")
    wait(b"before")
    await world.clock.settle()
    [transport] = world.transports
    assert [words[0] for words in transport.commands()] == [b"HELLO"]
    wait(b"handshake")
    await world.clock.settle()
    assert transport.commands() == []
    wait(b"same tick")
    transport.say(HELLO)
    wait(b"just after")
    await world.clock.settle()
    wait(b"later")
    await world.clock.settle()
    wished = [name for words in transport.commands() for name in words[1:]]
    assert sorted(wished) == [b"before", b"dialling", b"handshake", b"just after", b"later", b"same tick"]


async def test_a_new_generation_subscribes_to_everything_again(world: World, table: Table) -> None:
    names = [b"%d" % n for n in range(500)]
    for name in names:
        table.add(name, name.decode(), Listener())
    await world.clock.settle()
    world.transports[0].say(HELLO)
    await world.clock.settle()
    world.transports[0].lose(ConnectionResetError())
    table.add(b"in the gap", "in the gap", Listener())
    await world.clock.advance(BACKOFF_FIRST)
    [transport] = world.transports[1:]
    transport.say(HELLO)
    await world.clock.settle()
    assert sorted(name for words in transport.commands()[1:] for name in words[1:]) == sorted([*names, b"in the gap"])
