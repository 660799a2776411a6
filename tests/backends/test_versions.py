"""What servers differ in: Redis and Valkey, RESP3 and RESP2, and what they show of us."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

import asyncresult
from tests.tools.proxy import FaultProxy
from tests.tools.servers import RedisServer

from .stock import stock_store
from .waiting import waits_for


@pytest.fixture(scope="module", params=["redis", "valkey"])
def shared_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(flavour=request.param) as server:
        yield server


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    shared_server.reset()
    return shared_server


@pytest.mark.parametrize("protocol", [2, 3])
async def test_both_protocols(server: RedisServer, protocol: int) -> None:
    async with asyncresult.connect(server.url(), protocol=protocol, client_name="app") as backend:
        waiting = [asyncio.ensure_future(backend.result(id).get()) for id in ("a", "b")]
        await waits_for(backend, 2)
        stock_store(server, backend, {"a": 1})
        await backend.mark_as_done("b", 2)
        assert await asyncio.gather(*waiting) == [1, 2]
        assert await backend.forget("a", "b") == 2


async def test_a_server_that_knows_no_hello(server: RedisServer) -> None:
    """Redis before 6, and some proxies."""
    async with FaultProxy(server) as proxy:
        proxy.reply_error("ERR unknown command 'HELLO'", "HELLO")
        async with asyncresult.connect(proxy.url()) as backend:
            waiting = asyncio.ensure_future(backend.result("a").get())
            await waits_for(backend, 1)
            stock_store(server, backend, {"a": 1})
            assert await waiting == 1
        assert proxy.stats.commands["HELLO"] == 1


async def test_both_connections_show_their_name_and_library(server: RedisServer) -> None:
    async with asyncresult.connect(server.url(), client_name="app") as backend:
        waiting = asyncio.ensure_future(backend.result("a").get())
        await waits_for(backend, 1)
        assert await backend.result("b").state() == "PENDING"
        clients = server.clients()
        assert [client["name"] for client in clients] == ["app", "app"]
        if "lib-name" in clients[0]:  # since Redis 7.2
            assert {(client["lib-name"], client["lib-ver"]) for client in clients} == {
                ("asyncresult", asyncresult.__version__)
            }
        waiting.cancel()
