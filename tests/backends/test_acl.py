"""Users with the documented rules and no others; credentials that a provider renews."""

from __future__ import annotations

import asyncio
import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.credentials import CredentialProvider, StreamingCredentialProvider

import asyncresult
from asyncresult import BackendPermissionError, BackendUnavailable
from tests.tools.servers import Flavour, RedisServer
from tests.tools.topologies import Cluster, Sentinels, slot_of

from .stock import stock_store
from .waiting import until, waits_for

ACL_PAGE = Path(__file__).parents[2] / "docs" / "reference" / "acl.md"
USERS = dict(re.findall(r"^user (\w+) (.+)$", ACL_PAGE.read_text(), re.MULTILINE))


@pytest.fixture(scope="module", params=["redis", "valkey"])
def shared_locked_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    flavour: Flavour = request.param
    with RedisServer(flavour=flavour, password="nobody knows") as server:
        yield server


@pytest.fixture
def server(shared_locked_server: RedisServer) -> RedisServer:
    """A server that knows the documented users."""
    shared_locked_server.reset()
    for name, rules in USERS.items():
        shared_locked_server.cli("ACL", "SETUSER", name, "reset", *rules.split())
    shared_locked_server.cli("ACL", "LOG", "RESET")
    return shared_locked_server


def refusals(server: RedisServer) -> set[bytes]:
    """What was refused, but for the name of the library (the page says so)."""
    log = [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in server.cli("ACL", "LOG")]
    return {entry[b"object"] for entry in log} - {b"client|setinfo"}


# -- the documented users -----------------------------------------------------------------------------------


async def test_the_reader_waits_reads_and_deletes_and_nothing_is_refused(server: RedisServer) -> None:
    async with asyncresult.connect(server.url(username="reader", password="secret"), client_name="app") as backend:
        waiting = asyncio.ensure_future(backend.result("x").get())
        await waits_for(backend, 1)
        stock_store(server, backend, {"x": 1})
        assert await waiting == 1
        handle = backend.result("x")
        assert await handle.state() == "SUCCESS"
        assert await handle.exists()
        assert await backend.restore_group("g") is None
        await handle.forget()
        assert not await handle.exists()
    assert refusals(server) == set()


async def test_the_reader_cannot_write(server: RedisServer) -> None:
    async with asyncresult.connect(server.url(username="reader", password="secret")) as backend:
        with pytest.raises(BackendPermissionError, match=r"\+eval"):
            await backend.mark_as_done("x", 1)


async def test_the_writer_runs_tasks_and_nothing_is_refused(server: RedisServer) -> None:
    url = server.url(username="writer", password="secret")
    async with asyncresult.connect(url) as backend, asyncresult.connect(url) as other:
        waiting = asyncio.ensure_future(other.result("x").get())
        await waits_for(other, 1)
        async with backend.track("x", history=3) as task:
            await task.progress(1, 2)
            task.set_result("done")
        assert await waiting == "done"
        async with asyncresult.Executor(backend) as executor:
            assert await executor.submit(int, "7") == 7
            group = executor.map(int, ["1", "2"])
            assert await group == [1, 2]
            await group.save()
            await group.delete()
        revoked = asyncio.ensure_future(run_until_revoked(backend))
        await until(lambda: backend.stats().pending)
        await other.result("y").revoke()
        assert await revoked
    assert refusals(server) == set()


async def run_until_revoked(backend: asyncresult.Backend) -> bool:
    try:
        async with backend.track("y"):
            await asyncio.sleep(60)
    except asyncresult.TaskRevoked:
        return True
    return False


@pytest.mark.parametrize(
    ("lacking", "advice"),
    [
        ("resetchannels", "&celery-task-meta-"),
        ("-subscribe", r"\+subscribe"),
        ("resetkeys", "~celery-task-meta-"),
        ("-mget", r"\+mget"),
    ],
)
async def test_a_rule_that_lacks_is_named(server: RedisServer, lacking: str, advice: str) -> None:
    server.cli("ACL", "SETUSER", "reader", lacking)
    async with asyncresult.connect(server.url(username="reader", password="secret")) as backend:
        with pytest.raises(BackendPermissionError, match=advice) as caught:
            await backend.result("x").get(timeout=20)
        assert "secret" not in str(caught.value)


async def test_a_sweep_needs_no_right_to_search(server: RedisServer) -> None:
    server.cli("ACL", "SETUSER", "reader", "-exists")
    url = server.url(username="reader", password="secret")
    async with asyncresult.connect(url, safety_interval=0.05) as backend:
        waiting = asyncio.ensure_future(backend.result("x").get())
        await until(lambda: backend.stats().sweeps > 2)
        server.cli("SET", backend.task_key("x").decode(), '{"status": "SUCCESS", "result": 1, "task_id": "x"}')
        assert await waiting == 1
    assert refusals(server) == {b"exists"}


async def test_the_names_may_be_forbidden(server: RedisServer) -> None:
    server.cli("ACL", "SETUSER", "reader", "-hello", "-client|setname")
    async with asyncresult.connect(server.url(username="reader", password="secret")) as backend:
        waiting = asyncio.ensure_future(backend.result("x").get())
        await waits_for(backend, 1)
        stock_store(server, backend, {"x": 1})
        assert await waiting == 1


@pytest.mark.parametrize("login", [{"username": "reader", "password": "wrong"}, {"username": "nobody"}, {}])
async def test_wrong_credentials_end_the_wait(server: RedisServer, login: dict[str, str]) -> None:
    url = f"redis://127.0.0.1:{server.port}"
    async with asyncresult.connect(url, **login) as backend, asyncio.timeout(20):
        with pytest.raises(BackendPermissionError):
            await backend.result("x").get()
        with pytest.raises(BackendPermissionError):
            await backend.mark_as_started("x")


# -- the rules for topologies -------------------------------------------------------------------------------

ROWS = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", ACL_PAGE.read_text().replace("\\|", "¦"), re.MULTILINE))


def rules_for(row: str) -> list[str]:
    """What stands in backquotes in a row of the page's table."""
    (text,) = [text for title, text in ROWS.items() if title.startswith(row)]
    return [rule.replace("¦", "|") for quoted in re.findall("`(.+?)`", text) for rule in quoted.split()]


@pytest.mark.topology
@pytest.mark.parametrize("sharded", [False, True])
async def test_the_writer_of_a_cluster(cluster: Cluster, sharded: bool) -> None:
    rules = [*USERS["writer"].split(), *rules_for("`redis+cluster://`")]
    if sharded:
        both = rules_for("`redis+cluster://…?sharded=true`")
        rules = [rule for rule in rules if rule not in both[3:]] + both[:3]
    for server in cluster.servers:
        server.cli("ACL", "SETUSER", "writer", "reset", *rules)
        server.cli("ACL", "LOG", "RESET")
    query: dict[str, Any] = {"username": "writer", "password": "secret", "sharded": str(sharded)}
    async with asyncresult.connect(cluster.url(**query)) as backend:
        slot = slot_of(backend.task_key("{moving}"))
        target = next(master for master in cluster.masters if master is not cluster.owner(slot))
        waiting = [asyncio.ensure_future(backend.result(id).get()) for id in ("a", "b", "{moving}")]
        await waits_for(backend, 3)
        with cluster.migrating(slot, target):
            await asyncio.gather(*(backend.mark_as_done(id, id) for id in ("a", "b", "{moving}")))
        assert await asyncio.gather(*waiting) == ["a", "b", "{moving}"]
        assert await backend.forget("a", "b") == 2
    for server in cluster.servers:
        assert refusals(server) == set()
        server.cli("ACL", "DELUSER", "writer")


@pytest.mark.topology
async def test_the_users_of_both_layers_of_sentinel(sentinels: Sentinels) -> None:
    for server in sentinels.data:
        server.cli("ACL", "SETUSER", "reader", "reset", *USERS["reader"].split(), *rules_for("`sentinel://`, the data"))
    for server in sentinels.sentinels:
        server.cli("ACL", "SETUSER", "asker", "reset", "on", ">other", *rules_for("`sentinel://`, the sentinels"))
    for server in sentinels.servers:
        server.cli("ACL", "LOG", "RESET")
    query: dict[str, Any] = {
        "sentinel_username": "asker",
        "sentinel_password": "other",
        "username": "reader",
        "password": "secret",
    }
    async with asyncresult.connect(sentinels.url(**query), heartbeat=0.2) as backend:
        waiting = asyncio.ensure_future(backend.result("x").get())
        await waits_for(backend, 1)
        await until(lambda: sentinels.primary.commandstats().get("role", 0) > 3)
        stock_store(sentinels.primary, backend, {"x": 1})
        assert await waiting == 1
    for server in sentinels.servers:
        assert refusals(server) == set()
    for server in sentinels.data:
        server.cli("ACL", "DELUSER", "reader")
    for server in sentinels.sentinels:
        server.cli("ACL", "DELUSER", "asker")


# -- credential providers -----------------------------------------------------------------------------------


class Provider(CredentialProvider):
    def __init__(self, *credentials: str) -> None:
        self.credentials = credentials

    async def get_credentials_async(self) -> Any:
        return self.credentials


class Token:
    def __init__(self, username: str, password: str) -> None:
        self.username, self.password = username, password

    def try_get(self, key: str) -> str:
        assert key == "oid"
        return self.username

    def get_value(self) -> str:
        return self.password


class StreamingProvider(Provider, StreamingCredentialProvider):
    """As redis-py's own kinds: one listener, awaited with each new token."""

    def on_next(self, callback: Callable[[Any], Any]) -> None:
        self.listener = callback

    def on_error(self, callback: Callable[[Exception], Any]) -> None:
        self.error_listener = callback

    def is_streaming(self) -> bool:
        return True

    async def renew(self, username: str, password: str) -> None:
        self.credentials = (username, password)
        await self.listener(Token(username, password))


async def test_a_provider_is_called_for_each_connection(server: RedisServer) -> None:
    provider = Provider("reader", "secret")
    async with asyncresult.connect(server.url(password=""), credential_provider=provider) as backend:
        waiting = asyncio.ensure_future(backend.result("x").get())
        await waits_for(backend, 1)
        server.cli("ACL", "SETUSER", "reader", "resetpass", ">renewed")
        provider.credentials = ("reader", "renewed")
        server.kill_clients("pubsub")
        server.kill_clients("normal")
        await until(lambda: backend.stats().reconnects)
        await waits_for(backend, 1)
        stock_store(server, backend, {"x": 1})
        assert await waiting == 1


@pytest.mark.parametrize("protocol", [2, 3])
async def test_renewed_credentials_reach_both_connections(server: RedisServer, protocol: int) -> None:
    """RESP3 logs in again on the living connections; RESP2 forbids that while subscribed, and reconnects."""
    provider = StreamingProvider("reader", "secret")
    url = server.url(password="")
    async with asyncresult.connect(url, credential_provider=provider, protocol=protocol) as backend:
        waiting = asyncio.ensure_future(backend.result("x").get())
        await waits_for(backend, 1)
        server.cli("ACL", "SETUSER", "writer", "resetpass", ">renewed")
        await provider.renew("writer", "renewed")
        await until(lambda: [client["user"] for client in server.clients()] == ["writer", "writer"])
        await waits_for(backend, 1)
        assert backend.stats().reconnects == (1 if protocol == 2 else 0)
        assert await backend.mark_as_done("x", 1)  # the reader could not
        assert await waiting == 1


async def test_a_provider_that_fails_is_an_outage_and_keeps_its_secrets(server: RedisServer) -> None:
    class Broken(CredentialProvider):
        async def get_credentials_async(self) -> Any:
            raise RuntimeError("its password is hunter2")

    async with asyncresult.connect(server.url(password=""), credential_provider=Broken(), retry=0.1) as backend:
        waiting = asyncio.ensure_future(backend.result("x").get())
        with pytest.raises(BackendUnavailable, match="RuntimeError") as caught:
            await backend.mark_as_started("x")
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))
        assert not waiting.done()  # an outage, as any other
        waiting.cancel()


def test_a_provider_and_a_password_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="not both"):
        asyncresult.connect("redis://:secret@h", credential_provider=Provider("a", "b"))
