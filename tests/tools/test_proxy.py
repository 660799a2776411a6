"""Each fault happens, happens only where it was asked for, and ends."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncGenerator

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from .certificates import Certificates
from .leaks import LoopErrors
from .proxy import FaultProxy, Frames, Link, Request, subscribing
from .servers import RedisServer

# --- a client without opinions of its own: it says what it is told, and reads frames


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._frames = Frames()
        self._read: list[bytes] = []

    @classmethod
    async def connect(cls, proxy: FaultProxy) -> Client:
        return cls(*await asyncio.open_connection(proxy.host, proxy.port))

    def send(self, *lines: str) -> None:
        self.writer.write("".join(f"{line}\r\n" for line in lines).encode())

    async def receive(self) -> bytes:
        """The next frame; ConnectionError if there will be none."""
        while not self._read:
            data = await self.reader.read(1 << 16)
            if not data:
                raise ConnectionError("end of the stream")
            self._read += self._frames.feed(data)
        return self._read.pop(0)

    async def ask(self, line: str) -> bytes:
        self.send(line)
        return await self.receive()

    async def hears_nothing(self, seconds: float = 0.05) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self.receive()
        except TimeoutError:
            return True
        return False

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass


@pytest.fixture
async def client(proxy: FaultProxy) -> AsyncGenerator[Client]:
    made = await Client.connect(proxy)
    yield made
    await made.close()


# --- frames

_text = st.text("abc", max_size=5).map(str.encode)
_leaves = st.one_of(
    st.builds(lambda kind, text: kind + text + b"\r\n", st.sampled_from([b"+", b"-", b",", b"("]), _text),
    st.integers(-5, 10**20).map(b":%d\r\n".__mod__),
    st.sampled_from([b"_\r\n", b"#t\r\n", b"$-1\r\n", b"*-1\r\n", b"*0\r\n", b"%0\r\n", b"~0\r\n"]),
    st.builds(lambda kind, data: b"%c%d\r\n%s\r\n" % (kind, len(data), data), st.sampled_from(b"$!="), st.binary()),
)


def _several(children: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    items = st.lists(children, max_size=4)
    pairs = st.lists(st.tuples(children, children).map(b"".join), max_size=3)
    return st.one_of(
        st.builds(lambda kind, of: b"%c%d\r\n" % (kind, len(of)) + b"".join(of), st.sampled_from(b"*~>"), items),
        pairs.map(lambda of: b"%%%d\r\n" % len(of) + b"".join(of)),
        st.builds(lambda of, what: b"|%d\r\n" % len(of) + b"".join(of) + what, pairs, children),
    )


@given(frames=st.lists(st.recursive(_leaves, _several, max_leaves=10), max_size=5), data=st.data())
def test_frames_are_found_however_the_stream_is_cut(frames: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    cutter = Frames()
    found: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += cutter.feed(stream[start:end])
    assert found == frames


def test_what_is_not_resp_is_refused() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        Frames().feed(b"$no number\r\n")


def test_a_frame_of_many_pieces_takes_linear_time() -> None:
    frame = b"*1000\r\n" + (b"$10000\r\n" + b"x" * 10_000 + b"\r\n") * 1000
    cutter = Frames()
    start = time.process_time()
    found = [whole for at in range(0, len(frame), 1000) for whole in cutter.feed(frame[at : at + 1000])]
    assert found == [frame]
    assert time.process_time() - start < 1  # quadratic: minutes


def test_requests() -> None:
    link = Link(1)
    request = Request.parse(b"*3\r\n$3\r\nset\r\n$1\r\nk\r\n$2\r\n\xff\x00\r\n", link)
    assert (request.name, request.args) == ("SET", (b"k", b"\xff\x00"))
    assert Request.parse(b"get  k\r\n", link).args == (b"k",)
    assert Request.parse(b"\r\n", link).name == ""


# --- without faults


async def test_transparent(proxy: FaultProxy, client: Client) -> None:
    assert await client.ask("SET key value") == b"+OK\r\n"
    client.send(*["GET key"] * 1000)  # pipelined
    for _ in range(1000):
        assert await client.receive() == b"$5\r\nvalue\r\n"
    client.writer.write(b"*1\r\n$4\r\nPI")  # split
    await asyncio.sleep(0.01)
    client.writer.write(b"NG\r\n")
    assert await client.receive() == b"+PONG\r\n"
    assert proxy.stats.commands == {"SET": 1, "GET": 1000, "PING": 1}
    assert proxy.stats.accepted == 1
    assert proxy.stats.bytes_up == len("SET key value\r\n") + 1000 * len("GET key\r\n") + 14
    assert proxy.stats.bytes_down == 5 + 1000 * 11 + 7
    assert [link.commands["GET"] for link in proxy.links] == [1000]
    await client.close()
    await proxy.until(lambda: not proxy.links)


async def test_big_values_go_through(proxy: FaultProxy, redis_server: RedisServer, client: Client) -> None:
    value = b"x" * 20_000_000
    client.writer.write(b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$%d\r\n%s\r\n" % (len(value), value))
    assert await client.receive() == b"+OK\r\n"
    assert redis_server.cli("STRLEN", "key") == len(value)
    assert await client.ask("GET key") == b"$%d\r\n%s\r\n" % (len(value), value)


async def test_until_waits_for_a_command(proxy: FaultProxy, client: Client) -> None:
    waiting = asyncio.create_task(proxy.until(lambda: proxy.stats.commands["GET"] >= 2))
    await client.ask("GET key")
    assert not waiting.done()
    await client.ask("GET key")
    await waiting
    with pytest.raises(TimeoutError):
        await proxy.until(lambda: False, timeout=0.01)


async def test_without_a_server_the_client_is_cut_off() -> None:
    server = RedisServer()  # never started
    async with FaultProxy(server) as proxy:
        client = await Client.connect(proxy)
        with pytest.raises(ConnectionError):
            await client.ask("PING")
        await client.close()


# --- each fault


async def test_delay_of_a_command(proxy: FaultProxy, client: Client) -> None:
    with proxy.delay(0.2, "subscribe GET") as fault:
        await client.ask("SET key value")
        assert fault.hits == 0
        start = time.monotonic()
        client.send(*["GET key"] * 10, "PING")
        for _ in range(10):
            assert await client.receive() == b"$5\r\nvalue\r\n"
        assert time.monotonic() - start > 0.199
        assert await client.receive() == b"+PONG\r\n", "the order is kept"
        assert fault.hits == 10
    await client.ask("GET key")
    assert fault.hits == 10, "it is over"


async def test_the_delay_of_many_is_not_the_sum_of_theirs(proxy: FaultProxy, client: Client) -> None:
    with proxy.delay(0.2, "GET"):
        start = time.monotonic()
        client.send(*["GET key"] * 100)
        for _ in range(100):
            await client.receive()
        assert time.monotonic() - start < 10  # the sum is 20


async def test_delay_of_replies(proxy: FaultProxy, redis_server: RedisServer, client: Client) -> None:
    await client.ask("SUBSCRIBE channel")
    with proxy.delay(0.05, direction="down"):
        start = time.monotonic()
        redis_server.cli("PUBLISH", "channel", "text")
        await client.receive()
        assert time.monotonic() - start > 0.049


async def test_before_a_command(proxy: FaultProxy, redis_server: RedisServer, client: Client) -> None:
    async def store(request: Request) -> None:
        redis_server.cli("SET", request.args[0], "just in time")

    with proxy.before("GET", store):
        assert await client.ask("GET key") == b"$12\r\njust in time\r\n"


async def test_an_error_in_a_callback_is_not_lost(proxy: FaultProxy, client: Client, loop_errors: LoopErrors) -> None:
    async def fail(request: Request) -> None:
        raise OSError("in the test")

    with proxy.before("GET", fail):
        with pytest.raises(ConnectionError):
            await client.ask("GET key")
    assert "in the test" in str(loop_errors.describe())
    loop_errors.clear()


async def test_error_in_the_place_of_a_reply(proxy: FaultProxy, redis_server: RedisServer, client: Client) -> None:
    redis_server.cli("SET", "key", "value")
    with proxy.reply_error("READONLY You can't write against a read only replica.", "SET", times=1) as fault:
        client.send("GET key", "SET key changed", "GET key")
        assert await client.receive() == b"$5\r\nvalue\r\n"
        assert await client.receive() == b"-READONLY You can't write against a read only replica.\r\n"
        assert await client.receive() == b"$5\r\nvalue\r\n"
        assert fault.hits == 1
        assert await client.ask("SET key changed") == b"+OK\r\n", "once was asked for"


async def test_error_in_a_transaction(proxy: FaultProxy, client: Client) -> None:
    with proxy.reply_error("LOADING Redis is loading", "SET"):
        assert await client.ask("MULTI") == b"+OK\r\n"
        assert await client.ask("SET key value") == b"-LOADING Redis is loading\r\n"
        assert (await client.ask("EXEC")).startswith(b"-EXECABORT")


async def test_error_while_subscribed_and_before_login() -> None:
    with RedisServer(password="secret") as server:
        async with FaultProxy(server) as proxy:
            client = await Client.connect(proxy)
            with proxy.reply_error("LOADING Redis is loading"):
                assert await client.ask("AUTH secret") == b"-LOADING Redis is loading\r\n"
            assert await client.ask("AUTH secret") == b"+OK\r\n"
            await client.ask("SUBSCRIBE channel")
            with proxy.reply_error("NOPERM not you", "SUBSCRIBE"):
                assert await client.ask("SUBSCRIBE another") == b"-NOPERM not you\r\n"
            await client.close()


@pytest.mark.parametrize("protocol", [2, 3])
async def test_messages_are_dropped_and_nothing_else(
    proxy: FaultProxy, redis_server: RedisServer, client: Client, protocol: int
) -> None:
    await client.ask(f"HELLO {protocol}")
    client.send("SUBSCRIBE one two", "PSUBSCRIBE t*")
    for _ in range(3):
        await client.receive()
    with proxy.drop_messages(lambda channel: channel == b"two") as fault:
        redis_server.cli("PUBLISH", "two", "lost twice: by name and by pattern")
        redis_server.cli("PUBLISH", "one", "arrives")
        assert b"arrives" in await client.receive()
        assert fault.hits == 2
    with proxy.drop_messages():
        redis_server.cli("PUBLISH", "one", "lost")
        assert b"three" in await client.ask("SUBSCRIBE three"), "acknowledgements are no messages"
    redis_server.cli("PUBLISH", "one", "arrives again")
    assert b"arrives again" in await client.receive()


async def test_black_hole(proxy: FaultProxy, redis_server: RedisServer, client: Client) -> None:
    await client.ask("SUBSCRIBE channel")
    with proxy.black_hole() as fault:
        redis_server.cli("PUBLISH", "channel", "lost")
        client.send("PING")
        late = await Client.connect(proxy)
        late.send("PING")
        assert await client.hears_nothing()
        assert await late.hears_nothing()
        assert fault.hits == 2
        redis_server.kill_clients("pubsub")
        assert await client.hears_nothing(), "that the server went away is lost too"
    assert await client.hears_nothing(), "lost is lost"
    fresh = await Client.connect(proxy)
    assert await fresh.ask("PING") == b"+PONG\r\n"
    for one in (late, fresh, client):
        await one.close()
    await proxy.until(lambda: not proxy.links)


async def test_faults_for_some_of_the_connections(proxy: FaultProxy, client: Client) -> None:
    other = await Client.connect(proxy)
    await other.ask("SUBSCRIBE channel")
    await client.ask("PING")
    with proxy.black_hole(only=subscribing):
        other.send("PING")
        assert await other.hears_nothing()
        assert await client.ask("PING") == b"+PONG\r\n"
    assert proxy.cut(only=lambda link: not subscribing(link)) == 1
    with pytest.raises(ConnectionError):
        await client.receive()
    await other.close()


async def test_cut_with_rst(proxy: FaultProxy, client: Client) -> None:
    await client.ask("PING")
    assert proxy.cut("rst") == 1
    with pytest.raises(ConnectionResetError):
        await client.receive()


async def test_cut_with_fin(proxy: FaultProxy, client: Client) -> None:
    await client.ask("PING")
    assert proxy.cut("fin") == 1
    assert await client.reader.read() == b""


async def test_refused(proxy: FaultProxy, client: Client) -> None:
    await client.ask("PING")
    with proxy.refuse():
        with pytest.raises(ConnectionRefusedError):
            await Client.connect(proxy)
        assert await client.ask("PING") == b"+PONG\r\n", "who is in stays in"
    again = await Client.connect(proxy)
    assert await again.ask("PING") == b"+PONG\r\n"
    await again.close()


async def test_refused_with_a_message(proxy: FaultProxy) -> None:
    with proxy.refuse("ERR max number of clients reached") as fault:
        client = await Client.connect(proxy)
        assert await client.receive() == b"-ERR max number of clients reached\r\n"
        with pytest.raises(ConnectionError):
            await client.receive()
        assert fault.hits == 1
        await client.close()


@pytest.mark.parametrize("how", ["rst", "fin"])
async def test_cut_after_some_bytes(proxy: FaultProxy, redis_server: RedisServer, client: Client, how: str) -> None:
    redis_server.cli("SET", "key", "x" * 1000)
    with proxy.cut_after(500, how="rst" if how == "rst" else "fin"):
        client.send("GET key")
        received = b""
        try:
            while data := await client.reader.read(100):
                received += data
        except ConnectionResetError:
            assert how == "rst"
        assert len(received) <= 500
        if how == "fin":
            assert received == b"$1000\r\n" + b"x" * 493
    again = await Client.connect(proxy)
    assert len(await again.ask("GET key")) == 1009
    await again.close()


async def test_throttle(proxy: FaultProxy, redis_server: RedisServer, client: Client) -> None:
    redis_server.cli("SET", "key", "x" * 10_000)
    with proxy.throttle(100_000, direction="down"):
        start = time.monotonic()
        assert len(await client.ask("GET key")) == 10_010
        assert 0.09 < time.monotonic() - start < 5


async def test_clear(proxy: FaultProxy, client: Client) -> None:
    proxy.delay(10)
    proxy.refuse()
    proxy.drop_messages()
    proxy.clear()
    assert await client.ask("PING") == b"+PONG\r\n"
    again = await Client.connect(proxy)
    assert await again.ask("PING") == b"+PONG\r\n"
    await again.close()


# --- other uses


def test_in_a_thread(redis_server: RedisServer) -> None:
    with FaultProxy.in_thread(redis_server) as proxy:
        with redis.Redis.from_url(proxy.url(), socket_timeout=30) as client:
            assert client.ping()
            assert proxy.stats.commands["PING"] == 1
            with proxy.delay(0.05, "PING"):
                start = time.monotonic()
                client.ping()
                assert time.monotonic() - start > 0.049
            assert proxy.cut() == 1
            assert client.ping(), "redis-py notices, and connects again"
            assert proxy.stats.accepted == 2
            with proxy.refuse(), pytest.raises(ConnectionRefusedError):
                socket.create_connection((proxy.host, proxy.port))
            assert client.ping()
            client.connection_pool.disconnect()


async def test_tls_goes_through_unread(certificates: Certificates) -> None:
    context = ssl.create_default_context(cafile=str(certificates.ca_cert))
    with RedisServer(tls=certificates) as server:
        async with FaultProxy(server, parse=False) as proxy:
            client = Client(*await asyncio.open_connection(proxy.host, proxy.port, ssl=context))
            assert await client.ask("PING") == b"+PONG\r\n"
            with proxy.delay(0.05):
                start = time.monotonic()
                await client.ask("PING")
                assert time.monotonic() - start > 0.049
            proxy.cut()
            with pytest.raises(ConnectionError):
                await client.ask("PING")
            await client.close()


async def test_closing_ends_what_is_open(redis_server: RedisServer) -> None:
    async with FaultProxy(redis_server) as proxy:
        client = await Client.connect(proxy)
        await client.ask("PING")
    with pytest.raises(ConnectionError):
        await client.receive()
    with pytest.raises(ConnectionRefusedError):
        await Client.connect(proxy)
    await client.close()
