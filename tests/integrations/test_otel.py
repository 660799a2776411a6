"""Metrics and spans, as OpenTelemetry's exporters in memory get them; a trace that goes through a worker and back."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, chain
from celery.signals import before_task_publish
from opentelemetry import context, propagate
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

import asyncresult
from asyncresult import Backend, Executor, ResultTimeout, TaskMeta
from asyncresult._storage.store import engine_of
from asyncresult.integrations import otel
from asyncresult.integrations.celery import send_many
from asyncresult.integrations.otel import MAX_LINKS, Instrumentation, _Headers, _Senders, _Spans, instrument
from tests.backends.waiting import until
from tests.integrations.celery_project import in_thread
from tests.tools import jobs


class Seen:
    """What is exported, by providers that are nobody else's."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.meters = MeterProvider([self._reader])
        self._exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._made: list[Instrumentation] = []

    def instrument(self, *backends: Backend, **options: Any) -> Instrumentation:
        made = instrument(*backends, meter_provider=self.meters, tracer_provider=self.tracers, **options)
        self._made.append(made)
        return made

    @contextmanager
    def span(self, name: str) -> Iterator[str]:
        """A span of the application's; gives its traceparent."""
        with self.tracers.get_tracer("test").start_as_current_span(name):
            carrier: dict[str, str] = {}
            propagate.inject(carrier)
            yield carrier["traceparent"]

    def spans(self, beginning: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name.startswith(beginning)]

    @property
    def metrics(self) -> dict[str, Any]:
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        found = [metric for scope in data.resource_metrics[0].scope_metrics for metric in scope.metrics]
        return {metric.name: metric for metric in found}

    def value(self, metric: str, /, **wanted: object) -> float | None:
        """A counter's value, or how many values a histogram has; an attribute is named by the end of its name."""
        found = self.metrics.get(metric)
        for point in found.data.data_points if found is not None else ():
            given = point.attributes.items()
            if all(
                (end, value) in [(key[-len(end) :], value) for key, value in given] for end, value in _dotted(wanted)
            ):
                return float(point.count if hasattr(point, "count") else point.value)
        return None

    def close(self) -> None:
        for made in self._made:
            made.uninstrument()
        self.meters.shutdown()
        self.tracers.shutdown()


@pytest.fixture
def seen() -> Generator[Seen]:
    made = Seen()
    yield made
    made.close()


def _dotted(wanted: dict[str, object]) -> Iterator[tuple[str, object]]:
    for name, value in wanted.items():
        yield "." + name.replace("_", "."), value


def parent_of(span: ReadableSpan) -> str:
    assert span.parent is not None
    return written(span.parent)


def written(span: Any) -> str:
    return f"00-{format_trace_id(span.trace_id)}-{format_span_id(span.span_id)}-{span.trace_flags:02x}"


def links_of(span: ReadableSpan) -> list[str]:
    return [written(link.context) for link in span.links]


async def test_metrics(redis_url: str, seen: Seen) -> None:
    async with asyncresult.connect(redis_url) as backend, asyncresult.connect("memory://shop") as other:
        instrumentation = seen.instrument(backend, other, task_names=True)
        waiting = asyncio.ensure_future(backend.result("t").get())
        await until(lambda: backend.stats().subscribed == 1)
        assert seen.value("asyncresult.waiters", backend=str(backend)) == 1
        assert seen.value("asyncresult.waiters", backend=str(other)) == 0
        async with backend.track("t", name="add"):
            assert seen.value("asyncresult.tracked_tasks", backend=str(backend)) == 1
        await waiting
        assert not await backend.store_result("t", 1, "STARTED")
        await backend.store_result("u", 1, "MINE")
        with pytest.raises(ResultTimeout):
            await backend.result("never").get(timeout=0.01)
        assert seen.value("asyncresult.tracked_tasks", backend=str(backend)) == 0
        assert seen.value("asyncresult.connected", backend=str(backend)) == 1
        assert seen.value("asyncresult.wait.duration", outcome="success") == 1
        assert seen.value("asyncresult.wait.duration", outcome="timeout") == 1
        assert seen.value("asyncresult.records", source="pushed", backend=str(backend)) == 1
        assert seen.value("asyncresult.lost_notifications", backend=str(backend)) == 0
        assert seen.value("asyncresult.notification.lag") == 1
        assert seen.value("asyncresult.store.duration", state="STARTED", kept=False) == 1
        assert seen.value("asyncresult.store.duration", state="custom", kept=True) == 1
        assert seen.value("messaging.process.duration", task_name="add") == 1
        assert {metric.unit for metric in seen.metrics.values() if hasattr(metric.data.data_points[0], "count")} == {
            "s"
        }
        assert seen.spans("") == []
        assert (await backend.get_meta("t")).traceparent is None
        instrumentation.uninstrument()
        assert backend.probe is None
        await backend.result("t").get()
        assert seen.value("asyncresult.wait.duration", outcome="success") == 1
        assert seen.value("asyncresult.waiters", backend=str(backend)) is None


async def test_a_backend_is_instrumented_once_at_a_time(seen: Seen, caplog: pytest.LogCaptureFixture) -> None:
    async with asyncresult.connect("memory://") as backend:
        instrumentation = seen.instrument(backend)
        with pytest.raises(ValueError, match="already"):
            seen.instrument(backend)
        instrumentation.uninstrument()
        instrumentation.uninstrument()
        again = seen.instrument(backend)
        assert seen.value("asyncresult.waiters") == 0
        again.uninstrument()
    assert caplog.records == []  # the SDK would complain of instruments that are made twice


async def test_a_join_is_one_span_with_a_link_to_each_writer(redis_url: str, seen: Seen) -> None:
    async with asyncresult.connect(redis_url) as backend, Executor(backend) as executor:
        instrumentation = seen.instrument(backend, spans=True)

        async def double(x: int) -> int:
            return 2 * x

        with seen.span("sender") as sender:
            handles = [executor.submit(double, n) for n in range(3)]
        with seen.span("request") as request:
            assert await asyncresult.gather(*handles) == (0, 2, 4)
        processes = seen.spans("process ")
        assert {parent_of(span) for span in processes} == {sender}
        (wait,) = seen.spans("wait")
        assert (wait.name, wait.kind, parent_of(wait)) == ("wait", SpanKind.CLIENT, request)
        assert sorted(links_of(wait)) == sorted(written(span.context) for span in processes)
        attributes = dict(wait.attributes or {})
        assert attributes.pop("asyncresult.source") in ("pushed", "read")
        assert attributes == {
            "messaging.system": "asyncresult",
            "asyncresult.backend": str(backend),
            "messaging.operation.name": "wait",
            "messaging.operation.type": "receive",
            "messaging.batch.message_count": 3,
            "asyncresult.outcome": "success",
        }
        many = [backend.result(f"{n}") for n in range(MAX_LINKS + 5)]
        for handle in many:
            with seen.span("writer"):
                await backend.mark_as_done(handle.id, 1)
        await asyncresult.gather(*many)
        assert len(seen.spans("wait")[-1].links) == MAX_LINKS
        instrumentation.uninstrument()


async def test_a_task_of_a_queue_of_ones_own(redis_url: str, seen: Seen) -> None:
    """The message carries the trace to track(), and the record carries it to who awaits, in another process."""
    async with asyncresult.connect(redis_url) as backend, asyncresult.connect(redis_url) as elsewhere:
        instrumentation = seen.instrument(backend, elsewhere, spans=True)
        message: dict[str, str] = {}
        with seen.span("sender") as sender:
            propagate.inject(message)
        token = context.attach(propagate.extract(message))
        with pytest.raises(ValueError, match="secret"):
            async with backend.track("t", name="shop.buy", queue="orders") as task:
                with seen.span("inside") as inside:
                    pass
                await task.retry(ValueError("once more"))
                raise ValueError("secret")
        with pytest.raises(ValueError, match="secret"):
            async with task:
                raise ValueError("secret")
        outside: dict[str, str] = {}
        propagate.inject(outside)
        context.detach(token)
        assert outside["traceparent"] == sender
        with pytest.raises(ValueError, match="secret"):
            await elsewhere.result("t").get()
        retried, failed = seen.spans("process shop.buy")
        assert parent_of(retried) == parent_of(failed) == sender
        assert inside[:35] == written(retried.context)[:35]
        assert [span.parent.span_id for span in seen.spans("inside") if span.parent] == [retried.context.span_id]
        states = [(span.attributes or {})["asyncresult.state"] for span in (retried, failed)]
        assert (states, failed.kind) == (["RETRY", "FAILURE"], SpanKind.CONSUMER)
        (wait,) = seen.spans("wait shop.buy")
        assert links_of(wait) == [written(failed.context)]
        assert (wait.attributes or {})["messaging.destination.name"] == "orders"
        for span in (failed, wait):
            assert (span.status.status_code, (span.attributes or {})["error.type"]) == (StatusCode.ERROR, "ValueError")
            assert "secret" not in span.to_json()
        instrumentation.uninstrument()
        with seen.span("writer"):
            await backend.mark_as_done("u", 1)
        assert (await backend.get_meta("u")).traceparent is None


async def test_a_worker_process_of_an_executor_is_within_the_trace(seen: Seen) -> None:
    async with asyncresult.connect("memory://") as backend, Executor(backend) as executor:
        in_process = executor.options(process=True)
        assert await in_process.submit(jobs.has_imported, "opentelemetry") is False
        instrumentation = seen.instrument(backend, spans=True)
        with seen.span("request") as request:
            traceparent = await in_process.submit(jobs.traceparent)
        (process,) = seen.spans("process")
        assert (parent_of(process), written(process.context)) == (request, traceparent)
        instrumentation.uninstrument()
        assert await in_process.submit(jobs.traceparent) is None


async def test_what_a_record_says_of_its_trace_is_not_believed(seen: Seen) -> None:
    async with asyncresult.connect("memory://") as backend:
        instrumentation = seen.instrument(backend, spans=True)
        for number, strange in enumerate(["", "00-zz-1-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", 5, None, ["x"]]):
            request = type("Request", (), {"own_fields": {"traceparent": strange}})()
            await backend.store_result(f"{number}", 1, "SUCCESS", request=request)
            assert await backend.result(f"{number}") == 1
        assert [links_of(span) for span in seen.spans("wait")] == [[]] * 6
        instrumentation.uninstrument()


async def test_an_exporter_can_encode_whatever_a_record_holds(seen: Seen) -> None:
    """Spans are exported many at a time: a text that UTF-8 has no form for would cost all of them."""
    strange = "\ud800\n" + "x" * 100_000
    record = {"status": "FAILURE", "name": strange, "queue": strange, "result": {"exc_type": strange}}
    async with asyncresult.connect("memory://") as backend:
        instrumentation = seen.instrument(backend, spans=True)
        await engine_of(backend).put(backend.task_key("t"), json.dumps(record).encode(), None)
        with pytest.raises(asyncresult.TaskFailed):
            await backend.result("t")
        await engine_of(backend).put(backend.task_key("u"), json.dumps({"status": strange}).encode(), None)
        assert (await backend.result("u").until(strange)).status == strange
        failed, reached = seen.spans("wait")
        for text in (failed.name, *(failed.attributes or {}).values(), *(reached.attributes or {}).values()):
            assert len(str(text).encode()) < 300
        instrumentation.uninstrument()


@pytest.mark.celery
async def test_a_trace_goes_through_a_worker_to_who_awaits(stock_app: Celery, seen: Seen) -> None:
    trace = stock_app.tasks["project.trace"]
    async with asyncresult.connect(stock_app) as backend:
        instrumentation = seen.instrument(backend, spans=True)
        with seen.span("request") as request:
            plain = await in_thread(stock_app, trace.delay)
            sent = [
                await trace.adelay(),
                await trace.aapply_async(),
                *await send_many([trace.s(), chain(trace.s(), trace.s())]),
            ]
            many = await asyncresult.gather(plain, *sent)
        assert list(many[:-1]) == [request] * 4
        (join,) = seen.spans("wait")
        assert (parent_of(join), links_of(join)) == (request, [request])
        assert (join.attributes or {})["messaging.system"] == "celery"
        with seen.span("later") as later:
            await backend.result(sent[0].id).get(timeout=20)
            await (await trace.adelay()).get(timeout=20)
        first, own = seen.spans("wait")[1:]
        assert [(parent_of(span), links_of(span)) for span in (first, own)] == [(later, [request]), (later, [later])]
        with seen.span("request"):
            own_header = await trace.aapply_async(headers={"traceparent": request})
            assert await own_header.get(timeout=20) == request
        assert seen.value("messaging.client.sent.messages", system="celery") == 6
        instrumentation.uninstrument()
        with seen.span("request"):
            assert await (await trace.adelay()).get(timeout=20) is None


# -- what is left out ---------------------------------------------------------------------------------------


async def test_without_celery_nothing_is_put_into_headers(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "celery.signals", None)
    async with asyncresult.connect("memory://") as backend:
        seen.instrument(backend).uninstrument()


async def test_headers_that_have_a_trace_keep_it(seen: Seen) -> None:
    headers = _Headers(_Senders())
    headers._publishing(None)  # of another protocol
    with seen.span("mine") as mine:
        kept = {"traceparent": "theirs"}
        headers._publishing(kept)
        assert kept == {"traceparent": "theirs"}
        given = {"id": "t"}
        headers._publishing(given)
        assert given == {"id": "t", "traceparent": mine}


@pytest.mark.celery
@pytest.mark.parametrize("first", ["theirs", "ours"])
async def test_a_span_for_sending_is_what_a_wait_links_to(stock_app: Celery, seen: Seen, first: str) -> None:
    """Whichever instrumentation is switched on first."""
    tracer = seen.tracers.get_tracer("theirs")

    def make_span(headers: Any = None, **_: Any) -> None:
        with tracer.start_as_current_span("apply_async"):
            propagate.inject(headers)

    async with asyncresult.connect(stock_app) as backend:
        if first == "ours":
            seen.instrument(backend, spans=True)
        before_task_publish.connect(make_span, weak=False)
        try:
            if first == "theirs":
                seen.instrument(backend, spans=True)
            with seen.span("request"):
                handle = await stock_app.tasks["project.trace"].adelay()
                received = await handle.get(timeout=20)
        finally:
            before_task_publish.disconnect(make_span)
        (made,), (wait,) = seen.spans("apply_async"), seen.spans("wait")
        assert [received] == links_of(wait) == [written(made.context)]


async def test_only_the_latest_senders_are_known(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otel, "MAX_SENDERS", 2)
    senders = _Senders()
    senders.note("outside of any span")
    with seen.span("mine"):
        for id in ("a", "b", "c"):
            senders.note(id)
    known = [id for id in ("outside of any span", "a", "b", "c") if senders.of(SimpleNamespace(id=id, parent=None))]
    assert known == ["b", "c"]
    behind = SimpleNamespace(id="d", parent=SimpleNamespace(id="c", parent=None))
    assert senders.of(behind) == senders.of(behind.parent)


async def test_a_state_of_the_tracer_is_kept_in_a_link(seen: Seen) -> None:
    async with asyncresult.connect("memory://") as backend:
        spans = _Spans(backend, seen.tracers, _Senders())
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        meta = TaskMeta(task_id="t", status="SUCCESS", traceparent=parent, _extra={"tracestate": "a=b"})
        (link,) = spans._links([SimpleNamespace(id="t", parent=None, snapshot=meta)])
        assert link.context.trace_state.get("a") == "b"
        spans.task_left(backend, "SUCCESS", None)  # it began before this was switched on
        spans.sent(0.1, [SimpleNamespace(id="t"), object()])  # a result without an id is no task's
        assert seen.spans("") == []


async def test_reads_of_a_polled_store_are_counted(seen: Seen) -> None:
    async with asyncresult.connect("memory://") as backend:
        seen.instrument(backend)
        assert backend.probe is not None
        backend.probe.polled(0.25, 3)
        assert seen.value("asyncresult.poll.keys") == 3
        assert seen.value("asyncresult.poll.duration") == 1
