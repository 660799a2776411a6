"""A pytest plugin for the tests of taskiq and taskiq-redis: what they call a result backend is ours."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest
import taskiq
import taskiq.serializers
import taskiq_redis
import taskiq_redis.exceptions

from asyncresult.integrations.taskiq import ResultBackend, ResultIsMissing, install

taskiq_redis.exceptions.ResultIsMissingError = ResultIsMissing  # type: ignore[misc, assignment]


def _single(redis_url: str, **options: Any) -> ResultBackend[Any]:
    options.pop("max_connection_pool_size", None)  # ours has two connections
    options.pop("timeout", None)
    return ResultBackend(redis_url, **options)


def _cluster(redis_url: str, **options: Any) -> ResultBackend[Any]:
    return ResultBackend(f"redis+cluster://{urlsplit(redis_url).netloc}", **options)


def _sentinel(sentinels: list[tuple[str, int]], master_name: str, **options: Any) -> ResultBackend[Any]:
    hosts = ",".join(f"{host}:{port}" for host, port in sentinels)
    return ResultBackend(f"sentinel://{hosts}/0?service={master_name}", **options)


taskiq_redis.RedisAsyncResultBackend = _single  # type: ignore[misc, assignment]
taskiq_redis.RedisAsyncClusterResultBackend = _cluster  # type: ignore[misc, assignment]
taskiq_redis.RedisAsyncSentinelResultBackend = _sentinel  # type: ignore[misc, assignment]

# Their packages need not be installed: ours takes no serializer.
taskiq.serializers.MSGPackSerializer = taskiq.serializers.PickleSerializer  # type: ignore[misc, assignment]
taskiq.serializers.CBORSerializer = taskiq.serializers.PickleSerializer  # type: ignore[misc, assignment]

_make = taskiq.InMemoryBroker.__init__


def _make_with_ours(self: Any, *args: Any, **options: Any) -> None:
    _make(self, *args, **options)
    install(self.with_result_backend(ResultBackend("memory://")))


taskiq.InMemoryBroker.__init__ = _make_with_ours  # type: ignore[method-assign]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that bring a result backend of their own get ours in its place."""
    for item in items:
        module: Any = getattr(item, "module", None)
        if hasattr(module, "SerializingBackend"):
            module.SerializingBackend = lambda serializer: ResultBackend("memory://")
