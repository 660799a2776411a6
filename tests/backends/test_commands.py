"""The pump of commands: every job gets an answer or an error, whatever happens to the pump."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from redis.exceptions import BusyLoadingError, ConnectionError

from asyncresult._redis.connection import Command, Interrupted
from asyncresult._redis.outage import Health
from asyncresult._redis.pump import BYTES_PER_SLICE, Job, Pump
from asyncresult.errors import BackendClosed, BackendUnavailable
from tests.backends.waiting import until


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
        self.commands.submit(Job([(name,)], future.set_result, future.set_exception, patience))
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


async def test_what_one_tick_asks_for_travels_together(pump: World) -> None:
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


async def test_asked_after_it_was_closed(pump: World) -> None:
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

    pump.commands.submit(Job([("x",)], done, failed.append, 5.0))
    assert await pump.submit("y") == [b"OK"]
    assert len(failed) == 1 and "unexpected reply" in caplog.text
