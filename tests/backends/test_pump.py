"""The pump of commands: every job gets an answer or an error, whatever happens to the pump."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import pytest

from asyncresult._redis.backoff import BACKOFF_FIRST, Backoff, Health
from asyncresult._redis.connection import Interrupted
from asyncresult._redis.exceptions import AuthenticationError, BusyLoadingError, ConnectionError, NoPermissionError
from asyncresult._redis.packing import Command
from asyncresult._redis.pump import BYTES_PER_SLICE, PROMPT_LOSSES, Call, Pump
from asyncresult._redis.reads import Read
from asyncresult._redis.writes import Script, Terms, Write, WriteBatch
from asyncresult.errors import AsyncResultError, BackendClosed, BackendError, BackendPermissionError, BackendUnavailable
from tests.backends.waiting import until

TERMS = Terms.of("SUCCESS", None, second=False, kept=0, attempt=None)


class World:
    """A pump whose server does what ``answer`` says."""

    def __init__(self) -> None:
        self.answer: Callable[[list[Command]], Any] = lambda commands: [b"OK"] * len(commands)
        self.rounds: list[list[Command]] = []
        self.resets: list[str] = []
        self.health = Health()
        self.commands = Pump(self.execute, self.resets.append, address="test", health=self.health)

    async def execute(self, commands: list[Command], replies: list[Any]) -> None:
        self.rounds.append(commands)
        answer = self.answer(commands)
        if asyncio.iscoroutine(answer):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        for reply in answer:
            if isinstance(reply, Interrupted):
                raise reply
            replies.append(reply)

    def submit(self, name: str, patience: float | None = 5.0) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.commands.submit(Call([(name,)], future.set_result, future.set_exception, patience))
        return future


@pytest.fixture
async def pump() -> AsyncGenerator[World]:
    world = World()
    yield world
    await asyncio.wait([world.commands.close()])


async def closed(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, timeout=20)
    for future in futures:
        assert future.done(), "a job got neither an answer nor an error"
        assert isinstance(future.exception(), BackendClosed)


async def test_what_one_tick_requests_travels_together(pump: World) -> None:
    assert await asyncio.gather(*(pump.submit(f"c{n}") for n in range(5))) == [[b"OK"]] * 5
    assert [len(commands) for commands in pump.rounds] == [5]


async def test_closed_before_it_began(pump: World) -> None:
    future = pump.submit("x", None)
    pump.commands.close()
    await closed(future)


async def test_closed_while_answers_are_handed_out(pump: World) -> None:
    """Large answers are handed out with breaths between: those behind a breath are not forgotten."""
    pump.answer = lambda commands: [b"x" * (BYTES_PER_SLICE + 1)] * len(commands)
    futures = [pump.submit(f"c{n}") for n in range(3)]
    await futures[0]
    pump.commands.close()
    await closed(*futures[1:])


async def test_used_after_it_was_closed(pump: World) -> None:
    await pump.submit("x")
    ending = pump.commands.close()
    late = pump.submit("late")
    await asyncio.wait([ending])
    await closed(late)
    await closed(pump.submit("too late"))


async def test_draining_waits_for_what_is_handed_out(pump: World) -> None:
    pump.answer = lambda commands: [b"x" * (BYTES_PER_SLICE + 1)] * len(commands)
    futures = [pump.submit(f"c{n}") for n in range(3)]
    await futures[0]
    await pump.commands.drain(5)
    assert all(future.done() for future in futures)


async def test_patience_ends_for_those_whose_turn_has_not_come(pump: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round of many hangs and fails; jobs behind it do not hang once more each."""
    monkeypatch.setattr("asyncresult._redis.pump.COMMANDS_PER_ROUND", 2)
    hang = asyncio.Event()

    async def answer() -> list[Any]:
        await hang.wait()
        raise ConnectionError("no answer in time")

    pump.answer = lambda commands: answer()
    futures = [pump.submit(f"c{n}", patience=0.01) for n in range(6)]
    forever = pump.submit("read", patience=None)
    await until(lambda: pump.rounds)
    await asyncio.sleep(0.02)  # their patience
    pump.answer = lambda commands: [b"OK"] * len(commands)
    hang.set()
    await asyncio.wait(futures)
    assert [type(future.exception()) for future in futures] == [BackendUnavailable] * 6
    assert await forever == [b"OK"]
    assert [commands[0][0] for commands in pump.rounds] == ["c0", "read"]


async def test_one_command_that_cannot_be_done_now_is_tried_again_alone(pump: World) -> None:
    pump.answer = lambda commands: [
        BusyLoadingError("LOADING") if command == ("b",) and len(pump.rounds) < 3 else b"OK" for command in commands
    ]
    assert await asyncio.gather(*map(pump.submit, "abc")) == [[b"OK"]] * 3
    assert pump.rounds == [[("a",), ("b",), ("c",)], [("b",)], [("b",)]]


async def test_a_callback_that_fails_hurts_its_own_job_only(pump: World, caplog: pytest.LogCaptureFixture) -> None:
    failed: list[Exception] = []

    def done(replies: list[Any]) -> None:
        raise ZeroDivisionError

    pump.commands.submit(Call([("x",)], done, failed.append, 5.0))
    assert await pump.submit("y") == [b"OK"]
    assert len(failed) == 1 and "unexpected reply" in caplog.text
    assert "OK" not in str(failed[0]), "no reply is quoted: it may be somebody's record"


# -- how much travels together ----------------------------------------------------------------------------------------


class Received:
    """What a :class:`Read` was given."""

    def __init__(self, pump: World, keys: list[bytes], *, one_by_one: bool = False) -> None:
        self.values: dict[bytes, bytes | None] = {}
        self.errors: dict[bytes, AsyncResultError] = {}
        self._keys = keys
        send = pump.commands.submit
        send(Read(keys, self, send, None, one_by_one=one_by_one, address="test"))

    def found(self, keys: Sequence[bytes], values: Sequence[bytes | None]) -> None:
        self.values.update(zip(keys, values, strict=True))

    def failed(self, keys: Sequence[bytes], error: AsyncResultError) -> None:
        self.errors.update(dict.fromkeys(keys, error))

    async def all(self) -> None:
        await until(lambda: len(self.values) + len(self.errors) == len(self._keys))


def stored(commands: list[Command]) -> list[Any]:
    """Each key has its own name as value, and is as long as a suspicious record."""
    return [list(keys) if verb == "MGET" else 10**6 for verb, *keys in commands]


def size_of(commands: list[Command]) -> int:
    return sum(len(command) - 1 for command in commands)


KEYS = [b"k%d" % n for n in range(100)]


@pytest.mark.parametrize("one_by_one", [False, True])
async def test_what_is_lost_again_is_halved(pump: World, one_by_one: bool) -> None:
    pump.answer = lambda commands: Interrupted("closed") if size_of(commands) > 10 else stored(commands)
    reading = Received(pump, KEYS, one_by_one=one_by_one)
    await reading.all()
    if one_by_one:
        assert set(reading.values) == set(KEYS)
    else:
        assert reading.values == dict(zip(KEYS, KEYS, strict=True))
    sizes = [size_of(commands) for commands in pump.rounds]
    assert sizes[:6] == [100, 100, 50, 25, 12, 6]
    assert max(sizes[6:]) <= 11, "what was lost is not tried again"
    assert len(sizes) < 30


def batch_of(pump: World, count: int) -> list[asyncio.Future[bool]]:
    """Submit one batch of so many records; whether each was stored."""
    futures: list[asyncio.Future[bool]] = [asyncio.get_running_loop().create_future() for _ in range(count)]

    def never(write: Write) -> None:
        raise AssertionError(write)

    writes = [Write(future, (b"k%d" % number,), b"{}", "SUCCESS", TERMS) for number, future in enumerate(futures)]
    pump.commands.submit(WriteBatch(writes, Script("PUBLISH"), 10, never, never, address="test", patience=5.0))
    return futures


def records_of(commands: list[Command]) -> list[int]:
    """How many records each call of the script holds: its third word counts the keys."""
    return [command[2] for command in commands]


@pytest.mark.parametrize("most", [30, 2])
async def test_a_batch_of_records_that_is_lost_again_is_halved(pump: World, most: int) -> None:
    """Down to single records, if need be; each is stored, and the next batch begins with what was found out."""

    def answer(commands: list[Command]) -> Any:
        counts = records_of(commands)
        return Interrupted("closed") if sum(counts) > most else [[1] * count for count in counts]

    pump.answer = answer
    async with asyncio.timeout(20):
        assert await asyncio.gather(*batch_of(pump, 200)) == [True] * 200
        sizes = [sum(records_of(commands)) for commands in pump.rounds]
        assert sizes[:5] == [200, 200, 100, 50, 20]
        assert await asyncio.gather(*batch_of(pump, 100)) == [True] * 100
    assert max(sum(records_of(commands)) for commands in pump.rounds[len(sizes) :]) <= 40


async def test_the_log_speaks_once_of_a_batch_that_is_halved(pump: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "asyncresult")
    pump.answer = lambda commands: Interrupted("closed") if size_of(commands) > 10 else stored(commands)
    await Received(pump, KEYS).all()
    await until(lambda: pump.commands.outage.reason is None and "is back" in caplog.text)
    assert [caplog.text.count(words) for words in ("lost: closed", "is back")] == [1, 1]


async def test_lost_once_the_same_round_goes_again(pump: World) -> None:
    pump.answer = lambda commands: Interrupted("a restart") if len(pump.rounds) == 1 else stored(commands)
    await Received(pump, KEYS).all()
    assert [size_of(commands) for commands in pump.rounds] == [100, 100]


async def test_a_record_that_is_lost_alone_fails_alone_and_by_name(pump: World) -> None:
    def answer(commands: list[Command]) -> Any:
        return Interrupted("closed") if any(b"k7" in command for command in commands if command[0] == "MGET") else None

    pump.answer = lambda commands: answer(commands) or stored(commands)
    reading = Received(pump, KEYS[:20])
    await reading.all()
    assert set(reading.values) == set(KEYS[:20]) - {b"k7"}
    assert isinstance(reading.errors[b"k7"], BackendError)
    assert "k7" in str(reading.errors[b"k7"]) and "client-output-buffer-limit" in str(reading.errors[b"k7"])
    later = Received(pump, KEYS[:7])
    await later.all()
    assert len(later.values) == 7, "and whoever reads later is served"


async def test_a_small_record_is_never_suspected(pump: World) -> None:
    pump.answer = lambda commands: [10] if commands[0][0] == "STRLEN" else Interrupted("closed at random")
    reading = Received(pump, KEYS[:1])
    await until(lambda: len([1 for commands in pump.rounds if commands[0][0] == "STRLEN"]) == 2)
    assert not reading.errors
    pump.answer = stored
    await reading.all()
    assert reading.values == {b"k0": b"k0"}


async def test_a_forbidden_key_hurts_no_other(pump: World) -> None:
    pump.answer = lambda commands: [
        NoPermissionError("NOPERM no permissions to access one of the keys") if b"k3" in command else list(command[1:])
        for command in commands
    ]
    reading = Received(pump, KEYS)
    await reading.all()
    assert set(reading.values) == set(KEYS) - {b"k3"}
    assert isinstance(reading.errors[b"k3"], BackendPermissionError)


async def test_what_was_answered_before_the_connection_was_lost_is_not_sent_again(pump: World) -> None:
    pump.answer = lambda commands: [b"OK", Interrupted("lost")] if len(pump.rounds) == 1 else [b"OK"] * len(commands)
    assert await asyncio.gather(*map(pump.submit, "abc")) == [[b"OK"]] * 3
    assert pump.rounds == [[("a",), ("b",), ("c",)], [("b",), ("c",)]]


async def test_a_server_that_is_busy_says_nothing_of_the_size(pump: World) -> None:
    def answer(commands: list[Command]) -> Any:
        if len(pump.rounds) > 6:
            return stored(commands)
        length = BusyLoadingError("BUSY") if len(pump.rounds) < 6 else 10
        return [length] if commands[0][0] == "STRLEN" else Interrupted("closed at random")

    pump.answer = answer
    reading = Received(pump, KEYS[:1])
    await reading.all()
    assert [commands[0][0] for commands in pump.rounds] == ["MGET"] * 3 + ["STRLEN"] * 3 + ["MGET"]
    assert not reading.errors


async def test_who_always_hangs_up_is_not_stormed(pump: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first losses are followed at once, to find out what is too large; a proxy without a server goes on and on."""
    bounds: list[float] = []

    def next_pause(backoff: Backoff) -> float:
        bounds.append(backoff._bound)
        backoff._bound *= 2
        return 0.0

    monkeypatch.setattr(Backoff, "next", next_pause)
    pump.answer = lambda commands: [10] if commands[0][0] == "STRLEN" else Interrupted("no server behind it")
    reading = Received(pump, KEYS[:1])
    await until(lambda: len(bounds) > PROMPT_LOSSES + 5)
    assert set(bounds[:PROMPT_LOSSES]) == {BACKOFF_FIRST}
    assert bounds[PROMPT_LOSSES : PROMPT_LOSSES + 3] == [2 * BACKOFF_FIRST, 4 * BACKOFF_FIRST, 8 * BACKOFF_FIRST]
    assert not reading.errors


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["at the login", "in a reply"])
async def test_a_refusal_is_final_until_there_was_a_healthy_start(pump: World, where: str) -> None:
    refused = AuthenticationError("WRONGPASS no")
    pump.answer = lambda commands: refused if where == "at the login" else [refused] * len(commands)
    if where == "at the login":
        with pytest.raises(BackendPermissionError, match="password"):
            await pump.submit("x")
    else:  # whoever sent it makes an error of it
        assert await pump.submit("x") == [refused]
    pump.answer = lambda commands: [b"OK"] * len(commands)
    assert await pump.submit("x") == [b"OK"]
    pump.answer = lambda commands: refused if where == "at the login" else [refused] * len(commands)
    forever = pump.submit("read", None)
    with pytest.raises(BackendPermissionError, match="password"):
        await pump.submit("x", 0.05)
    assert not forever.done() and "WRONGPASS" in str(pump.commands.outage.reason)
    pump.answer = lambda commands: [b"OK"] * len(commands)
    assert await forever == [b"OK"]
    assert pump.commands.outage.reason is None
