"""The statistics of backends, as Prometheus pulls them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

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


@pytest.fixture
async def registry() -> CollectorRegistry:
    """What a process exposes that has waited and stored."""
    registry = CollectorRegistry()
    async with asyncresult.connect("memory://") as backend:
        registry.register(collector(backend))
        await backend.mark_as_done("t", 1)
        await backend.result("t")
        async with backend.track("u"):
            pass
        for probe in backend.probe.probes if backend.probe is not None else ():
            probe.sent(0.1, ["t"])
            probe.polled(0.1, 1)
            probe.notified(0.1)
    return registry


def test_what_is_exposed_can_be_read(registry: CollectorRegistry) -> None:
    """By the parsers of both formats, with nothing lost."""
    values = {sample for sample in _samples(registry.collect()) if not sample[0].endswith("_created")}
    text = generate_latest(registry).decode()
    assert {sample for sample in _samples(plain(text)) if not sample[0].endswith("_created")} == values
    assert values <= _samples(openmetrics(generate_openmetrics(registry).decode()))
    assert len(values) > 100


def test_the_queries_of_dashboard_and_alerts_are_promql_over_what_is_exposed(registry: CollectorRegistry) -> None:
    promql = pytest.importorskip("promql_parser")
    labels: dict[str, set[str]] = {}
    for name, given, _ in _samples(registry.collect()):
        labels.setdefault(name, set()).update(label for label, _ in given)

    def check(part: Any) -> None:
        """That a selector's labels are there, and those by which an aggregation groups."""
        if isinstance(part, promql.VectorSelector):
            assert {matcher.name for matcher in part.matchers.matchers} <= labels[part.name], part
        elif isinstance(part, promql.AggregateExpr) and part.modifier is not None:
            for selector in _parts(promql, part.expr, promql.VectorSelector):
                assert set(part.modifier.labels) <= labels[selector.name], part

    dashboard = json.loads((DOCS / "dashboards/asyncresult.json").read_text(encoding="utf-8"))
    (group,) = yaml.safe_load((DOCS / "dashboards/alerts.yml").read_text(encoding="utf-8"))["groups"]
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [rule["expr"] for rule in group["rules"]]
    assert len(queries) > 15
    for query in queries:
        for part in _parts(promql, promql.parse(query.replace("$__rate_interval", "5m")), promql.Expr):
            check(part)


def _parts(promql: Any, expression: Any, kind: Any) -> list[Any]:
    """The parts of an expression, of one kind; a range is looked into."""
    found: list[Any] = []

    def visit(part: Any) -> None:
        part = part.vector_selector if isinstance(part, promql.MatrixSelector) else part
        if isinstance(part, kind):
            found.append(part)

    promql.walk(expression, visit)
    return found


async def test_the_page_names_metrics_that_exist(registry: CollectorRegistry) -> None:
    exposed = {name for family in registry.collect() for name in _series(family)}
    named = set(re.findall(r"\basyncresult_[a-z_]+", (DOCS / "howto/operate.md").read_text(encoding="utf-8")))
    assert len(named) >= 4
    assert named - exposed == set()


def _samples(families: Iterable[Metric]) -> set[tuple[str, frozenset[tuple[str, str]], float]]:
    return {
        (sample.name, frozenset(sample.labels.items()), float(sample.value))
        for family in families
        for sample in family.samples
    }


def _series(family: Metric) -> set[str]:
    if family.type == "counter":
        return {f"{family.name}_total"}
    if family.type == "histogram":
        return {family.name, *(f"{family.name}_{end}" for end in ("bucket", "count", "sum"))}
    return {family.name}
