"""One fixture, every kind of backend: the contract of the handles is the same over all of them.

``make_backend(**options)`` opens another backend on the same records, as another process would.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import asyncresult
from asyncresult import Backend
from tests.tools.servers import Cluster, Sentinels

MakeBackend = Callable[..., Backend]


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


@pytest.fixture(
    params=[
        "memory",
        "redis",
        *(pytest.param(kind, marks=pytest.mark.topology) for kind in ("sentinel", "cluster", "sharded")),
    ]
)
def backend_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store."""
    kind, fixture = request.param, request.getfixturevalue
    if kind == "memory":
        return f"memory://{uuid.uuid4()}"
    if kind == "redis":
        return str(fixture("redis_url"))
    if kind == "sentinel":
        return str(fixture("sentinels").url())
    return str(fixture("cluster").url(sharded=str(kind == "sharded")))


@pytest.fixture
async def make_backend(backend_url: str) -> AsyncIterator[MakeBackend]:
    async with contextlib.AsyncExitStack() as stack:

        def make(**options: Any) -> Backend:
            backend = asyncresult.connect(backend_url, **options)
            stack.push_async_callback(backend.aclose)
            return backend

        yield make


@pytest.fixture
async def backend(make_backend: MakeBackend) -> AsyncIterator[Backend]:
    """The current backend of the test."""
    async with make_backend() as entered:
        yield entered
