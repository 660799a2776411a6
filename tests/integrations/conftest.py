"""Workers of :mod:`.celery_project`: a stock one with processes, and one with the plug-in and threads."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import celery
import pytest
from celery import Celery

from tests.integrations.celery_project import client
from tests.integrations.rabbitmq import RabbitMQ
from tests.tools.celery_worker import CeleryWorker
from tests.tools.servers import RedisServer

PROJECT = "tests.integrations.celery_project:app"
STARTED = {"task_track_started": True}


@pytest.fixture(scope="session")
def stock_worker() -> Generator[CeleryWorker]:
    """Processes; Celery's own result backend."""
    with (
        RedisServer() as server,
        CeleryWorker(
            broker=server.url(0), backend=server.url(1), app=PROJECT, pool="prefork", concurrency=2, config=STARTED
        ) as worker,
    ):
        yield worker


@pytest.fixture(scope="session")
def rabbitmq_node() -> Generator[RabbitMQ]:
    """A node of its own, for the session."""
    with RabbitMQ() as node:
        yield node


@pytest.fixture
def rabbitmq_url(rabbitmq_node: RabbitMQ) -> str:
    """A virtual host for the test alone."""
    return rabbitmq_node.url(vhost=rabbitmq_node.new_vhost())


@pytest.fixture(scope="session")
def rpc_rabbitmq_worker(rabbitmq_node: RabbitMQ) -> Generator[CeleryWorker]:
    """Processes; tasks and results come through RabbitMQ."""
    with _rpc_worker(rabbitmq_node.url(vhost=rabbitmq_node.new_vhost())) as worker:
        yield worker


@pytest.fixture(scope="session")
def rpc_redis_worker() -> Generator[CeleryWorker]:
    """Processes; tasks and results are messages, in Redis."""
    with RedisServer() as server, _rpc_worker(server.url(0)) as worker:
        yield worker


def _rpc_worker(broker: str) -> CeleryWorker:
    return CeleryWorker(broker=broker, backend="rpc://", app=PROJECT, pool="prefork", concurrency=2, config=STARTED)


@pytest.fixture(scope="session")
def rabbitmq_worker(rabbitmq_node: RabbitMQ) -> Generator[CeleryWorker]:
    """Processes; tasks come through RabbitMQ."""
    url = rabbitmq_node.url(vhost=rabbitmq_node.new_vhost())
    with (
        RedisServer() as server,
        CeleryWorker(
            broker=url, backend=server.url(1), app=PROJECT, pool="prefork", concurrency=2, config=STARTED
        ) as worker,
    ):
        yield worker


@pytest.fixture(scope="session")
def plugin_worker() -> Generator[CeleryWorker]:
    """Threads; our result backend, and every setting that changes the records."""
    config: dict[str, Any] = {
        "result_extended": True,
        "result_expires": 600,
        "result_backend_transport_options": {"global_keyprefix": "shop"},
        "task_track_started": True,
        "timezone": "Asia/Tokyo",
    }
    if celery.VERSION >= (5, 7):
        config |= {"result_compression": "gzip", "result_failure_expires": 1200}
    with (
        RedisServer() as server,
        CeleryWorker(
            broker=server.url(0),
            backend=f"asyncresult+{server.url(1)}",
            app=PROJECT,
            pool="threads",
            concurrency=4,
            config=config,
        ) as worker,
    ):
        yield worker


@pytest.fixture(params=["stock", "plugin"])
def worker(request: pytest.FixtureRequest) -> CeleryWorker:
    """Each of them."""
    found: CeleryWorker = request.getfixturevalue(f"{request.param}_worker")
    return found


@pytest.fixture
def app(worker: CeleryWorker) -> Generator[Celery]:
    """The client's side of ``worker``; its tasks have asyncresult's Task as their base."""
    with client(**worker.config) as made:
        yield made


@pytest.fixture
def stock_app(stock_worker: CeleryWorker) -> Generator[Celery]:
    with client(**stock_worker.config) as made:
        yield made


@pytest.fixture
def plugin_app(plugin_worker: CeleryWorker) -> Generator[Celery]:
    with client(**plugin_worker.config) as made:
        yield made
