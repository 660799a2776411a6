"""The statistics of backends, as Prometheus pulls them."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry, generate_latest

import asyncresult
from asyncresult.integrations.prometheus import collector


def sample(registry: CollectorRegistry, name: str, backend: asyncresult.Backend) -> float | None:
    return registry.get_sample_value(name, {"backend": str(backend)})


async def test_what_waits_is_counted_when_prometheus_scrapes(redis_url: str) -> None:
    registry = CollectorRegistry()
    async with asyncresult.connect(redis_url) as there, asyncresult.connect("memory://shop") as here:
        registry.register(collector(there, here))
        assert sample(registry, "asyncresult_waiters", there) == 0
        waiting = [asyncio.ensure_future(there.result(f"task-{n}").get()) for n in range(3)]
        while there.stats().subscribed < 3:
            await asyncio.sleep(0.01)
        assert sample(registry, "asyncresult_waiters", there) == 3
        assert sample(registry, "asyncresult_subscriptions", there) == 3
        assert sample(registry, "asyncresult_connected", there) == 1
        assert sample(registry, "asyncresult_waiters", here) == 0
        for n in range(3):
            await there.mark_as_done(f"task-{n}", n)
        assert await asyncio.gather(*waiting) == [0, 1, 2]
        assert sample(registry, "asyncresult_waiters", there) == 0


async def test_the_address_has_no_secret(redis_url: str) -> None:
    registry = CollectorRegistry()
    registry.register(collector(asyncresult.connect("redis://user:secret@127.0.0.1:1/0")))
    text = generate_latest(registry).decode()
    assert "secret" not in text
    assert 'asyncresult_reconnects_total{backend="redis://127.0.0.1:1/0"} 0.0' in text
