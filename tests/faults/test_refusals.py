"""What servers say instead of serving: a mistake in the settings is an error at once, all else is an outage.

The servers are scripted here: they say what real ones say rarely, or only from another machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import hiredis
import pytest

from asyncresult import Backend, BackendError, BackendPermissionError, connect
from tests.backends.waiting import until

HANG_UP = b""

Answer = Callable[[list[bytes]], bytes | Awaitable[bytes]]


class Server:
    """Answers each command by ``special`` (name to answer), or as an empty Redis does; ``HANG_UP`` closes."""

    def __init__(self) -> None:
        self.port = 0
        self.special: dict[str, bytes | Answer] = {}
        self.connections = 0
        self.commands: list[str] = []
        self._writers: set[asyncio.StreamWriter] = set()

    def url(self, login: str = "") -> str:
        return f"redis://{login}127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        parser = hiredis.Reader()
        try:
            while data := await reader.read(1 << 16):
                parser.feed(data)
                for words in iter(parser.gets, False):
                    self.commands.append(words[0].decode())
                    answer = self.special.get(words[0].decode(), usual)
                    said = answer(words) if callable(answer) else answer
                    said = await said if not isinstance(said, bytes) else said
                    if said == HANG_UP:
                        return
                    writer.write(said)
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
            self._writers.discard(writer)

    def hang_up(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()


def usual(words: list[bytes]) -> bytes:
    match words[0]:
        case b"HELLO":
            return b"%1\r\n+proto\r\n:3\r\n"
        case b"SUBSCRIBE" | b"UNSUBSCRIBE" as verb:
            each = b">3\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n:1\r\n"
            return b"".join(each % (len(verb), verb.lower(), len(name), name) for name in words[1:])
        case b"MGET":
            return b"*%d\r\n" % (len(words) - 1) + b"$-1\r\n" * (len(words) - 1)
        case b"EXISTS" | b"STRLEN":
            return b":0\r\n"
        case _:
            return b"+OK\r\n"


@asynccontextmanager
async def scripted(**special: bytes | Answer) -> AsyncIterator[Server]:
    server = Server()
    server.special.update(special)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield server
        listening.close()
        for _ in range(10):  # turns of the loop: one that was accepted just now is served first, and then closed
            server.hang_up()
            await asyncio.sleep(0)


async def everything(backend: Backend) -> list[Any]:
    """A wait, a read and a store at once, or what they raised."""
    things = (backend.result("a").get(timeout=20), backend.result("b").state(), backend.mark_as_done("c", 1))
    return list(await asyncio.gather(*things, return_exceptions=True))


# -- mistakes ---------------------------------------------------------------------------------------------------------


async def test_a_password_where_the_server_has_none() -> None:
    """HELLO takes it, AUTH does not: that the subscription was let in proves nothing about the commands."""

    async def refused_later(words: list[bytes]) -> bytes:
        await asyncio.sleep(0.1)
        return b"-ERR AUTH <password> called without any password configured for the default user.\r\n"

    async with scripted(AUTH=refused_later) as server, connect(server.url(":secret@")) as backend:
        for error in await everything(backend):
            assert isinstance(error, BackendPermissionError) and "check the user and password" in str(error)
        assert "AUTH" in str(backend.stats().last_error) and not backend.stats().connected


async def test_protected_mode() -> None:
    """Said to clients of other machines in place of the first reply, before the server hangs up."""
    denied = b"-DENIED Redis is running in protected mode because protected mode is enabled\r\n"

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(denied)
        await reader.read(1)  # not before: what has come unread when a connection is reset may be lost
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as listening:
        url = f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with connect(url) as backend:
            for error in await everything(backend):
                assert isinstance(error, BackendPermissionError) and "protected-mode no" in str(error)
        for _ in range(10):  # turns of the loop, in which the server closes its side
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    "said",
    [
        b"-MOVED 13853 127.0.0.1:7001\r\n",
        b"-ASK 13853 127.0.0.1:7001\r\n",
        b"-CROSSSLOT Keys in request don't hash to the same slot\r\n",
    ],
)
async def test_a_node_of_a_cluster(said: bytes) -> None:
    async with scripted(MGET=said, EVAL=said, EVALSHA=said) as server, connect(server.url()) as backend:
        for _ in range(2):
            for error in await everything(backend):
                assert type(error) is BackendError and "use a redis+cluster:// URL" in str(error)
            server.hang_up()  # it is the same mistake after a restart


async def test_another_server_after_a_healthy_start_is_an_outage() -> None:
    async with scripted() as server, connect(server.url(), retry=0.1) as backend:
        assert await backend.result("a").state() == "PENDING"
        server.special["MGET"] = b"-MOVED 13853 127.0.0.1:7001\r\n"
        server.hang_up()
        waiting = asyncio.ensure_future(backend.result("a").get())
        await until(lambda: "redis+cluster://" in str(backend.stats().last_error))
        with pytest.raises(BackendError, match=r"redis\+cluster://"):
            await backend.result("b").state()
        assert not waiting.done() and not backend.stats().connected
        del server.special["MGET"]
        await until(lambda: backend.stats().last_error is None)
        waiting.cancel()


# -- outages ----------------------------------------------------------------------------------------------------------


async def test_a_full_node_of_a_cluster_is_an_outage() -> None:
    said = b"-ERR max number of clients + cluster connections reached\r\n"
    async with scripted(HELLO=said, AUTH=said) as server, connect(server.url(":secret@")) as backend:
        waiting = asyncio.ensure_future(backend.result("a").get())
        await until(lambda: "max number of clients" in str(backend.stats().last_error))
        await until(lambda: server.connections > 5)
        assert not waiting.done()
        server.special.clear()
        await until(lambda: backend.stats().connected)
        waiting.cancel()


@pytest.mark.parametrize("said", [b"-CLUSTERDOWN no\r\n", b"-MOVED 1 127.0.0.1:7001\r\n", b"-ERR not here\r\n"])
async def test_a_server_that_refuses_every_subscription_is_not_stormed(
    said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is the log: it greets each time, but it is not back."""
    async with scripted(SUBSCRIBE=said) as server, connect(server.url()) as backend:
        waiting = asyncio.ensure_future(backend.result("a").get())
        await until(lambda: server.commands.count("SUBSCRIBE") >= 5)
        await asyncio.sleep(0.2)
        assert server.commands.count("SUBSCRIBE") < 50
        assert [record.__dict__["event"] for record in caplog.records] == ["lost"]
        del server.special["SUBSCRIBE"]
        await until(lambda: [record.__dict__["event"] for record in caplog.records] == ["lost", "back"])
        waiting.cancel()


async def test_sentinels_that_are_away_are_an_outage_and_no_surprise(caplog: pytest.LogCaptureFixture) -> None:
    async with connect("sentinel://127.0.0.1:1/0?service=main") as backend:
        waiting = asyncio.ensure_future(backend.result("a").get())
        await until(lambda: "no sentinel names" in str(backend.stats().last_error))
        await asyncio.sleep(0.3)  # several attempts
        assert not waiting.done()
        waiting.cancel()
    assert "unexpected" not in caplog.text
    assert len([record for record in caplog.records if "subscription to sentinel:" in record.message]) == 1


# -- nonsense ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [b":5\r\n", b"+OK\r\n", b"*0\r\n", b"*-1\r\n", b"*1\r\n:5\r\n", b"*1\r\n*1\r\n$-1\r\n", b"*1\r\n-ERR no\r\n"],
)
async def test_values_that_are_none(said: bytes) -> None:
    async with scripted(MGET=said) as server, connect(server.url()) as backend:
        for error in (await everything(backend))[:2]:
            assert type(error) is BackendError and str(error).endswith("unexpected reply to MGET")


@pytest.mark.parametrize("said", [b":5\r\n", b"*1\r\n:9\r\n", b"*1\r\n:3\r\n"])
async def test_an_answer_that_is_none_of_the_scripts(said: bytes) -> None:
    async with scripted(EVAL=said, EVALSHA=said) as server, connect(server.url()) as backend:
        with pytest.raises(BackendError, match="unexpected reply to the store script"):
            async with asyncio.timeout(20):
                await backend.mark_as_done("c", 1)
