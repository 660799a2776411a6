"""One connection for commands, over a transport by hand: what ends it, and what is tried again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from asyncresult._redis.address import Address
from asyncresult._redis.connection import CommandConnection, Interrupted, _Replies
from asyncresult._redis.exceptions import InvalidResponse
from asyncresult._redis.options import Options

ADDRESS = Address("127.0.0.1", 1)


class Transport(asyncio.Transport):
    """Answers each write with the next of ``answers``, None by hanging up; then only what the test feeds."""

    def __init__(self, protocol: _Replies, *answers: bytes | None) -> None:
        super().__init__()
        self._protocol = protocol
        self._answers = list(answers)
        self.unsent = 0
        self.aborted = False

    def write(self, data: Any) -> None:
        if self._answers:
            asyncio.get_running_loop().call_soon(self._answer, self._answers.pop(0))

    def _answer(self, answer: bytes | None) -> None:
        if answer is None:
            self._protocol.connection_lost(None)
        else:
            feed(self._protocol, answer)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def abort(self) -> None:
        self.aborted = True


def feed(replies: _Replies, data: bytes) -> None:
    replies.get_buffer(-1)[: len(data)] = data
    replies.buffer_updated(len(data))


def connected(*answers: bytes | None, patience: float = 60.0) -> tuple[_Replies, Transport]:
    replies = _Replies(30.0, patience, 2**30)
    transport = Transport(replies, *answers)
    replies.connection_made(transport)
    return replies, transport


async def test_a_connection_that_is_lost_takes_no_command() -> None:
    replies, transport = connected(b"+OK\r\n:5\r\n")
    found: list[Any] = []
    await replies.exchange(b"commands", 2, found)
    assert found == [b"OK", 5]
    replies.abort("over")
    assert transport.aborted
    with pytest.raises(Interrupted, match="the connection was lost"):
        await replies.exchange(b"command", 1, [])


async def test_no_command_needs_no_connection() -> None:
    connection = CommandConnection(Options((ADDRESS,)), ADDRESS, None, heartbeat=30.0)
    connection._dial = None  # type: ignore[assignment]
    await connection.execute([], [])


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"-ERR max number of clients reached\r\n", "unsolicited reply: ERR max number"),
        (b"+OK\r\n", "unsolicited reply$"),
    ],
)
async def test_what_a_server_says_unasked_is_quoted_where_it_is_an_error(
    said: bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies, transport = connected()
    ended: list[Exception] = []
    monkeypatch.setattr(replies, "_over", ended.append)
    feed(replies, said)
    assert transport.aborted
    with pytest.raises(InvalidResponse, match=words):
        raise ended[0]


async def test_given_up_while_it_was_dialled() -> None:
    replies = _Replies(30.0, 60.0, 2**30)
    transport = Transport(replies)
    replies.abort("no answer in time")
    replies.connection_made(transport)
    assert transport.aborted


async def test_a_peer_that_takes_what_is_sent_is_alive() -> None:
    """However long its answer takes: patience is for silence."""
    replies, transport = connected(patience=0.02)
    transport.unsent = 100
    exchange = asyncio.create_task(replies.exchange(b"command", 1, []))
    await asyncio.sleep(0)
    began, transport.unsent = replies._sign_of_life, 50
    replies._watch()
    assert replies._sign_of_life > began
    with pytest.raises(Interrupted, match="no reply for"):  # it has taken nothing since
        async with asyncio.timeout(20):
            await exchange


async def test_redis_pys_retry_begins_with_a_connection_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[list[bytes | None]] = [[b"+OK\r\n" * 2, None], [b"+OK\r\n" * 2, b"+PONG\r\n"]]
    made: list[Transport] = []

    async def dial(factory: Any) -> None:
        protocol = factory()
        made.append(Transport(protocol, *answers[len(made)]))
        protocol.connection_made(made[-1])

    options = Options((ADDRESS,), retry=Retry(NoBackoff(), 1))
    connection = CommandConnection(options, ADDRESS, None, heartbeat=30.0)
    monkeypatch.setattr(connection, "_dial", dial)
    found: list[Any] = ["of an attempt before"]
    await connection.execute([("PING",)], found)
    assert (found, len(made)) == ([b"PONG"], 2)
    connection.abort("over")
