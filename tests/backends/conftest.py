"""One fixture, every kind of backend: the contract of the handles is the same over all of them.

``make_backend(**options)`` opens another backend on the same records, as another process would.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import celery
import pytest

import asyncresult
from asyncresult import Backend
from asyncresult._storage import memory
from asyncresult.integrations.celery import receiver
from asyncresult.integrations.celery.config import make_backend as celery_backend
from tests.tools.databases import PostgresServer, memcached, mongodb
from tests.tools.topologies import Cluster, Sentinels

from . import stores
from .replied import ReplyingApp, ReplyingBackend

MakeBackend = Callable[..., Backend]

#: Stores that announce nothing; and those among them that store fields, not bytes.
POLLED = ("sqlite", "django", "postgresql", "memcached", "mongodb")
ROWS = ("sqlite", "django", "postgresql", "mongodb")
#: What Celery's own tables have no columns for before 5.7, and write pickles of.
whole_records = pytest.mark.not_over(
    *(("sqlite", "postgresql") if celery.VERSION < (5, 7) else ()),
    reason="before Celery 5.7 its tables have no children, and groups are pickles",
)


@pytest.fixture(scope="session")
def shared_sentinels(request: pytest.FixtureRequest) -> Iterator[Sentinels]:
    with Sentinels(flavour=request.config.getoption("--flavour")) as sentinels:
        yield sentinels


@pytest.fixture
def sentinels(shared_sentinels: Sentinels) -> Sentinels:
    """Three sentinels, an empty primary, a replica; nothing may be killed."""
    shared_sentinels.primary.reset()
    return shared_sentinels


@pytest.fixture(scope="session")
def shared_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with Cluster(flavour=request.config.getoption("--flavour")) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    """Three empty masters with a replica each; nothing may be killed."""
    for master in shared_cluster.masters:
        master.reset()
    return shared_cluster


@pytest.fixture(scope="session")
def store_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL for the session; whoever stops it starts it again."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def memcached_address() -> Iterator[tuple[str, int]]:
    with memcached() as address:
        yield address


@pytest.fixture(scope="session")
def mongodb_url() -> Iterator[str]:
    with mongodb() as url:
        yield url


@pytest.fixture
def rpc_app(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReplyingApp]:
    monkeypatch.setattr(receiver, "POLL_INTERVAL", 0.01)  # it bounds how fast one is closed
    app = ReplyingApp()
    yield app
    app.end()


@pytest.fixture(
    params=[
        "memory",
        "rpc",
        "redis",
        pytest.param("cluster", marks=pytest.mark.topology),
        *(pytest.param(kind, marks=[pytest.mark.topology, pytest.mark.slow]) for kind in ("sentinel", "sharded")),
        "sqlite",
        # What is their own has tests of its own.
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in POLLED if kind != "sqlite"),
    ]
)
def backend_url(request: pytest.FixtureRequest) -> Any:
    """The URL of an empty store, or the Celery app whose results are in one."""
    return open_store(request.param, request)


def open_store(kind: str, request: pytest.FixtureRequest) -> Any:
    """The URL of an empty store of this kind, or the Celery app whose results are in one."""
    for excluded in request.node.iter_markers("not_over"):
        if kind in excluded.args:
            pytest.skip(f"not over {kind}: {excluded.kwargs['reason']}")
    fixture = request.getfixturevalue
    if kind in POLLED:
        return _polled_app(kind, fixture)
    if kind == "memory":
        return f"memory://{uuid.uuid4()}"
    if kind == "rpc":
        return fixture("rpc_app")
    if kind == "redis":
        return str(fixture("redis_url"))
    if kind == "sentinel":
        return str(fixture("sentinels").url())
    return str(fixture("cluster").url(sharded=str(kind == "sharded")))


def _polled_app(kind: str, fixture: Callable[[str], Any]) -> Any:
    memory._shared.clear()  # what earlier tests have kept beside the same store: histories, requests to revoke
    if kind == "postgresql":
        return stores.postgres_app(fixture("postgres_server"))
    if kind == "memcached":
        return stores.memcached_app(fixture("memcached_address"))
    if kind == "mongodb":
        return stores.mongodb_app(fixture("mongodb_url"))
    open_app = stores.sqlite_app if kind == "sqlite" else stores.django_app
    return open_app(fixture("store_directory") / f"{kind}.sqlite")


@pytest.fixture
async def make_backend(backend_url: Any) -> AsyncIterator[MakeBackend]:
    async with contextlib.AsyncExitStack() as stack:

        def make(**options: Any) -> Backend:
            if isinstance(backend_url, str):
                backend = asyncresult.connect(backend_url, **options)
            elif isinstance(backend_url, ReplyingApp):
                backend = ReplyingBackend(backend_url, **options)
            else:  # not connect(app), which gives the same one again
                backend = celery_backend(backend_url, **options)
                backend.controllers.clear()  # its app has no workers, for whose answers a revocation would wait
            stack.push_async_callback(backend.aclose)
            return backend

        yield make


@pytest.fixture
async def backend(make_backend: MakeBackend) -> AsyncIterator[Backend]:
    """The current backend of the test."""
    async with make_backend() as entered:
        yield entered
