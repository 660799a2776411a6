"""Results that come as messages, while connections and brokers fail."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import ssl
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Producer

import asyncresult
from asyncresult import BackendPermissionError, ResultDecodeError
from asyncresult.integrations.celery.rpc import RpcBackend
from tests.integrations.celery_project import client
from tests.integrations.rabbitmq import RabbitMQ
from tests.tools.celery_worker import CeleryWorker
from tests.tools.certificates import Certificates
from tests.tools.certificates import certificates as make_certificates
from tests.tools.processes import wait_until
from tests.tools.proxy import FaultProxy
from tests.tools.servers import HOST, RedisServer, free_port

pytestmark = [pytest.mark.celery, pytest.mark.rabbitmq]

PROJECT = "tests.integrations.celery_project:app"
ROOT = Path(__file__).parents[2]


@contextmanager
def behind_a_proxy(node: RabbitMQ, **config: Any) -> Generator[tuple[Celery, FaultProxy]]:
    """A client whose connections, and no others, go through a proxy."""
    with FaultProxy.in_thread((HOST, node.port), parse=False) as proxy:
        url = config["broker_url"].replace(f":{node.port}/", f":{proxy.port}/")
        # What adelay() has returned is at the broker, and not in a proxy that is about to freeze.
        confirm = {"broker_transport_options": {"confirm_publish": True}}
        with client(**{**config, **confirm, "broker_url": url}) as app:
            yield app, proxy


def connected(app: Celery, **options: Any) -> RpcBackend:
    backend = asyncresult.connect(app, **options)
    assert isinstance(backend, RpcBackend)
    return backend


async def until(backend: RpcBackend, what: str, value: Any) -> None:
    """Wait until ``backend.stats()`` says so."""
    async with asyncio.timeout(30):
        while getattr(backend.stats(), what) != value:
            await asyncio.sleep(0.02)


async def test_a_connection_that_is_cut_loses_nothing(
    rabbitmq_node: RabbitMQ, rpc_rabbitmq_worker: CeleryWorker, caplog: pytest.LogCaptureFixture
) -> None:
    """34 waits; the connection is cut while results come, and for half a second there is no other."""
    with behind_a_proxy(rabbitmq_node, **rpc_rabbitmq_worker.config) as (app, proxy):
        async with connected(app) as backend:
            handles = [await app.tasks["tests.slow"].adelay(0.05, i) for i in range(34)]
            await handles[3].get(timeout=20)
            with proxy.refuse():
                proxy.cut()
                await asyncio.sleep(0.5)
            assert await asyncresult.gather(*handles, timeout=30) == tuple(range(34))
            assert backend.stats().reconnects == 1
            assert backend.stats().last_error is None
    outages = [(r.levelno, r.__dict__["event"]) for r in caplog.records if r.name == "asyncresult.rpc"]
    assert set(outages) == {(logging.WARNING, "lost"), (logging.WARNING, "back")}


async def test_a_frozen_connection_is_given_up(rabbitmq_node: RabbitMQ, rpc_rabbitmq_worker: CeleryWorker) -> None:
    """Nothing says that the connection is gone but that no signs of life come."""
    with behind_a_proxy(rabbitmq_node, **rpc_rabbitmq_worker.config) as (app, proxy):
        async with connected(app, heartbeat=1.0) as backend:
            handles = [await app.tasks["tests.slow"].adelay(0.5, i) for i in range(4)]
            with proxy.black_hole(only=lambda link: True):
                assert await asyncresult.gather(*handles, timeout=30) == tuple(range(4))
            assert backend.stats().reconnects == 1


@pytest.mark.slow
async def test_a_broker_that_restarts_keeps_persistent_results() -> None:
    config = {"result_persistent": True, "broker_connection_retry": True, "broker_connection_max_retries": None}
    with RabbitMQ() as node:
        worker = CeleryWorker(broker=node.url(), backend="rpc://", app=PROJECT, config=config)
        with worker, behind_a_proxy(node, **worker.config) as (app, proxy):
            async with connected(app) as backend:
                await (await app.tasks["tests.add"].adelay(1, 1)).get(timeout=10)
                handles = [await app.tasks["tests.slow"].adelay(0.5, i) for i in range(4)]
                with proxy.refuse():
                    proxy.cut()
                    wait_until(lambda: worker.log().count("succeeded") == 5, "all results lie in the queue")
                    await asyncio.to_thread(node.stop)
                    await asyncio.to_thread(node.start)
                assert await asyncresult.gather(*handles, timeout=30) == tuple(range(4))
                assert backend.stats().reconnects == 1


@pytest.mark.slow
async def test_tls(certificates: Certificates) -> None:
    """To send and to receive, by the app's own settings; the broker's certificate is checked."""
    port = free_port()
    options = {
        "cacertfile": certificates.ca_cert,
        "certfile": certificates.server_cert,
        "keyfile": certificates.server_key,
    }
    config = [f"listeners.ssl.1 = {HOST}:{port}", *(f"ssl_options.{name} = {path}" for name, path in options.items())]
    with RabbitMQ(config) as node:
        url = node.url(vhost=node.new_vhost(), port=port).replace("amqp://", "amqps://")
        trusted = {"ca_certs": str(certificates.ca_cert), "cert_reqs": int(ssl.CERT_REQUIRED)}
        worker = CeleryWorker(broker=url, backend="rpc://", app=PROJECT, config={"broker_use_ssl": trusted})
        with worker, client(**worker.config) as app:
            async with connected(app) as backend:
                assert await (await app.tasks["tests.add"].adelay(1, 1)).get(timeout=20) == 2
                assert backend.stats().last_error is None
                assert backend.stats().sent_by_threads == 0
        strangers = make_certificates()
        distrusted = {**trusted, "ca_certs": str(strangers.ca_cert)}
        with client(**{**worker.config, "broker_use_ssl": distrusted}) as app:
            async with connected(app) as backend:
                waiting = asyncio.ensure_future(backend.result("some-task").get())
                async with asyncio.timeout(30):
                    while "CERTIFICATE_VERIFY_FAILED" not in (backend.stats().last_error or ""):
                        await asyncio.sleep(0.02)
                assert not backend.stats().connected
                waiting.cancel()


async def test_a_queue_that_was_deleted_is_made_again(rpc_rabbitmq_worker: CeleryWorker) -> None:
    with client(**rpc_rabbitmq_worker.config) as app:
        async with connected(app) as backend:
            assert await (await app.tasks["project.add"].adelay(1, 1)).get(timeout=10) == 2
            with Connection(rpc_rabbitmq_worker.broker) as connection:
                connection.channel().queue_delete(backend.replies.queue)
            await until(backend, "reconnects", 1)
            assert await (await app.tasks["project.add"].adelay(1, 2)).get(timeout=10) == 3


async def test_a_header_that_kombu_cannot_follow_hurts_no_other_reply(rpc_rabbitmq_worker: CeleryWorker) -> None:
    """The broker would deliver that message again on each connection, for ever."""
    with client(**rpc_rabbitmq_worker.config) as app:
        async with connected(app) as backend:
            forged = backend.result("forged")
            assert await (await app.tasks["project.add"].adelay(1, 1)).get(timeout=10) == 2
            with Connection(rpc_rabbitmq_worker.broker) as connection:
                Producer(connection.channel()).publish(
                    b"neither compressed nor JSON",
                    routing_key=backend.replies.queue,
                    correlation_id="forged",
                    content_type="application/json",
                    content_encoding="utf-8",
                    headers={"compression": "application/x-gzip"},
                )
            with pytest.raises(ResultDecodeError, match="'forged' cannot be read: it cannot be decompressed"):
                await forged.get(timeout=10)
            assert await (await app.tasks["project.add"].adelay(1, 2)).get(timeout=10) == 3
            assert backend.stats().reconnects == 0


async def test_a_compressed_reply(rpc_rabbitmq_worker: CeleryWorker) -> None:
    with client(**rpc_rabbitmq_worker.config) as app:
        async with connected(app) as backend:
            handle = backend.result("compressed")
            await (await app.tasks["project.add"].adelay(1, 1)).get(timeout=10)  # the queue is there
            with Connection(rpc_rabbitmq_worker.broker) as connection:
                Producer(connection.channel()).publish(
                    {"task_id": "compressed", "status": "SUCCESS", "result": ["x" * 1000]},
                    routing_key=backend.replies.queue,
                    correlation_id="compressed",
                    serializer="json",
                    compression="gzip",
                )
            assert await handle.get(timeout=10) == ["x" * 1000]


async def test_a_login_that_is_refused_ends_the_waits(rabbitmq_node: RabbitMQ) -> None:
    with client(broker_url=rabbitmq_node.url(password="wrong"), result_backend="rpc://") as app:
        async with connected(app) as backend:
            with pytest.raises(BackendPermissionError, match="ACCESS_REFUSED") as caught:
                await backend.result("some-task").get(timeout=30)
            assert "wrong" not in str(caught.value)


async def test_a_queue_of_other_arguments_ends_the_waits(rabbitmq_node: RabbitMQ) -> None:
    """As if another version had declared it."""
    with Connection(rabbitmq_node.url()) as connection:
        connection.channel().queue_declare("fixed", durable=False, auto_delete=False)
        with client(broker_url=rabbitmq_node.url(), result_backend="rpc://") as app:
            async with connected(app, reply_queue="fixed") as backend:
                with pytest.raises(asyncresult.BackendError, match="PRECONDITION_FAILED"):
                    await backend.result("some-task").get(timeout=30)
        connection.channel().queue_delete("fixed")


async def test_a_process_started_again_finds_its_queue(rpc_rabbitmq_worker: CeleryWorker) -> None:
    """With a name of its own for the queue: what came while it was away waits there."""
    with client(**rpc_rabbitmq_worker.config) as app:
        async with connected(app, reply_queue="shop-1"):
            id = (await app.tasks["project.sleep"].adelay(0.5)).id
    wait_until(lambda: f"[{id}] succeeded" in rpc_rabbitmq_worker.log(), "the result lies in the queue")
    with client(**rpc_rabbitmq_worker.config) as app:
        async with connected(app, reply_queue="shop-1") as backend:
            assert await backend.result(id).get(timeout=10) == "slept"
    with Connection(rpc_rabbitmq_worker.broker) as connection:
        connection.channel().queue_delete("shop-1")


def _send_and_get(config: dict[str, Any], results: Any) -> None:
    app = _inherited
    assert app is not None

    async def main() -> tuple[str, int]:
        async with connected(app) as backend:
            value = await (await app.tasks["project.add"].adelay(20, 3)).get(timeout=20)
            return backend.replies.queue, value

    results.put(asyncio.run(main()))


_inherited: Celery | None = None


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_a_queue_of_its_own(rpc_rabbitmq_worker: CeleryWorker) -> None:
    """Forked while the parent is connected; both get what they have sent."""
    global _inherited
    context = multiprocessing.get_context("fork")

    async def main(app: Celery) -> tuple[str, int]:
        async with connected(app) as backend:
            assert await (await app.tasks["project.add"].adelay(1, 2)).get(timeout=20) == 3
            results = context.Queue()
            child = context.Process(target=_send_and_get, args=(rpc_rabbitmq_worker.config, results))
            child.start()
            theirs, value = await asyncio.to_thread(results.get, True, 30)
            await asyncio.to_thread(child.join)
            assert value == 23
            assert await (await app.tasks["project.add"].adelay(3, 4)).get(timeout=20) == 7
            results.close()
            results.join_thread()
            assert theirs != backend.replies.queue
            return theirs, child.exitcode or 0

    with client(**rpc_rabbitmq_worker.config) as app:
        _inherited = app
        try:
            assert asyncio.run(main(app))[1] == 0
        finally:
            _inherited = None


_PROGRAM = """
import asyncio, sys
import asyncresult
from tests.integrations.celery_project import make_project

app = make_project(broker_url=sys.argv[1], result_backend="rpc://")

async def main():
    handle = await app.tasks["project.add"].adelay(1, 2)
    async with asyncresult.connect(app) as backend:
        print(await handle.get(timeout=20), backend.replies.queue)

asyncio.run(main())
"""


@pytest.mark.parametrize("broker", ["rabbitmq", "redis"])
def test_a_program_that_ends_leaves_no_queue(broker: str, request: pytest.FixtureRequest) -> None:
    worker: CeleryWorker = request.getfixturevalue(f"rpc_{broker}_worker")
    run = subprocess.run(
        [sys.executable, "-c", _PROGRAM, worker.broker],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    value, queue = run.stdout.split()
    assert value == "3"
    with Connection(worker.broker) as connection:
        channel = connection.channel()
        with pytest.raises((*connection.channel_errors, KeyError)):
            channel.queue_declare(queue, passive=True)


async def test_redis_as_a_broker_is_cut(rpc_redis_worker: CeleryWorker, tmp_path: Path) -> None:
    """What had not left the list when the connection was cut is received over the next one."""
    port = int(rpc_redis_worker.broker.rsplit(":", 1)[1].split("/")[0])
    gate = tmp_path / "open"
    with FaultProxy.in_thread((HOST, port)) as proxy:
        url = rpc_redis_worker.broker.replace(f":{port}", f":{proxy.port}")
        with client(**{**rpc_redis_worker.config, "broker_url": url}) as app:
            async with connected(app) as backend:
                handles = [await app.tasks["tests.wait_for_file"].adelay(str(gate), i) for i in range(4)]
                for handle in handles[:2]:  # that is all that comes, as long as both processes wait
                    await handle.until("STARTED", timeout=30)
                with proxy.refuse():
                    proxy.cut()
                    gate.touch()
                    ended = [f"[{handle.id}] succeeded" for handle in handles]
                    wait_until(
                        lambda: all(line in rpc_redis_worker.log() for line in ended), "the results are in the list"
                    )
                assert await asyncresult.gather(*handles, timeout=30) == tuple(range(4))
                assert backend.stats().reconnects == 1


async def test_redis_as_a_broker_falls_silent(redis_server: RedisServer) -> None:
    """Nothing says that the connection is gone but that BRPOP is not answered, which it is each second."""
    with FaultProxy.in_thread((HOST, redis_server.port)) as proxy:
        with client(broker_url=f"redis://{HOST}:{proxy.port}/0", result_backend="rpc://") as app:
            async with connected(app, heartbeat=1.0) as backend:
                handle = await app.tasks["tests.add"].adelay(1, 1)
                waiting = asyncio.ensure_future(handle.get(timeout=60))
                await until(backend, "connected", value=True)
                proxy.black_hole(only=lambda link: True)
                redis_server.kill_clients("normal")  # so that it gives the reply to nobody who is gone
                with Connection(redis_server.url(0)) as connection:
                    queue = backend.replies.queue
                    reply = {"task_id": handle.id, "status": "SUCCESS", "result": 2, "traceback": None, "children": []}
                    connection.Producer().publish(reply, routing_key=queue, correlation_id=handle.id)
                assert await waiting == 2
                assert backend.stats().reconnects == 1
