"""The statistics of backends, as Prometheus pulls them."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

import asyncresult
from asyncresult.integrations.prometheus import collector

DOCS = Path(__file__).parents[2] / "docs"


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


async def test_how_long_it_takes_is_measured(redis_url: str) -> None:
    registry = CollectorRegistry()
    async with asyncresult.connect(redis_url) as backend:
        measuring = collector(backend)
        registry.register(measuring)

        def value(name: str, **labels: str) -> float | None:
            return registry.get_sample_value(f"asyncresult_{name}", {"backend": str(backend), **labels})

        waiting = asyncio.ensure_future(backend.result("t").get())
        while backend.stats().subscribed < 1:
            await asyncio.sleep(0.01)
        async with backend.track("t"):
            assert value("tracked_tasks") == 1
        assert value("tracked_tasks") == 0
        await waiting
        await backend.store_result("u", 1, "MINE")
        assert not await backend.store_result("t", 1, "STARTED")
        await backend.result("t").get()
        assert value("wait_duration_seconds_count", outcome="success", source="pushed") == 1
        assert value("wait_duration_seconds_count", outcome="success", source="read") == 1
        assert value("notification_lag_seconds_count") == 1
        assert value("records_total", source="pushed") == 1
        assert value("records_total", source="read") == 1
        assert value("lost_notifications_total") == 0
        assert value("task_duration_seconds_count", outcome="success") == 1
        assert value("store_duration_seconds_count", state="SUCCESS", kept="yes") == 1
        assert value("store_duration_seconds_count", state="STARTED", kept="no") == 1
        assert value("store_duration_seconds_count", state="custom", kept="yes") == 1
        measuring.close()
        await backend.result("t").get()
        assert value("wait_duration_seconds_count", outcome="success", source="read") == 1


async def test_dashboard_alerts_and_page_name_metrics_that_exist() -> None:
    registry = CollectorRegistry()
    async with asyncresult.connect("memory://") as backend:
        registry.register(collector(backend))
        await backend.mark_as_done("t", 1)
        await backend.result("t")
        exposed = {name for family in registry.collect() for name in _series(family)}
    for path in ("dashboards/asyncresult.json", "dashboards/alerts.yml", "howto/operate.md"):
        named = set(re.findall(r"\basyncresult_[a-z_]+", (DOCS / path).read_text(encoding="utf-8")))
        assert len(named) >= 4
        assert named - exposed == set(), path


def _series(family: Metric) -> set[str]:
    if family.type == "counter":
        return {f"{family.name}_total"}
    if family.type == "histogram":
        return {family.name, *(f"{family.name}_{end}" for end in ("bucket", "count", "sum"))}
    return {family.name}
