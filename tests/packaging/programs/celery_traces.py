"""One trace from the request that awaits to Celery's worker, whose spans opentelemetry-instrumentation-celery makes."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from support import REDIS_URL, background

import asyncresult
from asyncresult import AsyncResult
from asyncresult.integrations.otel import instrument

# Programs beside this one are named celery and otel, too.
SHOP = Path.cwd() / "shop"
SHOP.mkdir()
SPANS = SHOP / "spans"
(SHOP / "shop.py").write_text(
    textwrap.dedent(f"""\
    from celery import Celery

    app = Celery("shop", broker={REDIS_URL!r}, backend={REDIS_URL!r})

    @app.task
    def add(x: int, y: int) -> int:
        return x + y
    """)
)
(SHOP / "worker.py").write_text(
    textwrap.dedent(f"""\
    from celery.signals import worker_process_init
    from opentelemetry import trace
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

    from shop import app

    @worker_process_init.connect(weak=False)
    def begin(**_):
        line = lambda span: span.to_json(indent=None) + chr(10)
        exporter = ConsoleSpanExporter(out=open({str(SPANS)!r}, "a"), formatter=line)
        trace.set_tracer_provider(TracerProvider())
        trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
        CeleryInstrumentor().instrument()
    """)
)
sys.path.insert(0, str(SHOP))

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)


def theirs_of(task_id: str) -> dict[str, Any]:
    """The worker's span of a task: it ends soon after the result is stored."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        lines = SPANS.read_text().splitlines(keepends=True) if SPANS.exists() else []
        spans: list[dict[str, Any]] = [json.loads(line) for line in lines if line.endswith("\n")]
        for span in spans:
            if span["attributes"]["messaging.message.id"] == task_id:
                return span
        time.sleep(0.05)
    raise AssertionError(f"no span of task {task_id}: {SPANS.read_text()}")


async def send_each_way() -> list[Any]:
    add = importlib.import_module("shop").add
    return [
        await add.s(1, 2).adelay(),
        await add.s(1, 2).aapply_async(countdown=0.1),
        AsyncResult.from_celery(await asyncio.to_thread(add.delay, 1, 2)),
    ]


async def check() -> None:
    exporter.clear()
    with trace.get_tracer("shop").start_as_current_span("request"):
        handles = await send_each_way()
        for handle in handles:
            assert await handle.get(timeout=30) == 3
    spans = exporter.get_finished_spans()
    (request,) = [span for span in spans if span.name == "request"]
    sends = {(span.attributes or {})["messaging.message.id"]: span for span in spans if span.kind is SpanKind.PRODUCER}
    waits = {(span.attributes or {})["messaging.message.id"]: span for span in spans if span.name.startswith("wait")}
    assert len(spans) == 1 + 2 * len(handles), [span.name for span in spans]
    for handle in handles:
        check_task(request, sends[handle.id], theirs_of(handle.id), waits[handle.id])


def check_task(request: ReadableSpan, send: ReadableSpan, run: dict[str, Any], wait: ReadableSpan) -> None:
    """request ── apply_async ── run, and request ── wait, which links to apply_async."""
    assert request.context and send.context and send.parent and wait.parent
    assert run["context"]["trace_id"] == f"0x{request.context.trace_id:032x}"
    assert run["parent_id"] == f"0x{send.context.span_id:016x}"
    assert send.parent.span_id == wait.parent.span_id == request.context.span_id
    links = [link.context.span_id for link in wait.links]
    assert links == [send.context.span_id], (wait.to_json(), send.to_json())


async def main() -> None:
    async with asyncresult.connect(importlib.import_module("shop").app) as backend:
        for first in ("theirs", "ours"):
            if first == "theirs":
                CeleryInstrumentor().instrument()
            instrumentation = instrument(backend, spans=True)
            if first == "ours":
                CeleryInstrumentor().instrument()
            await check()
            instrumentation.uninstrument()
            CeleryInstrumentor().uninstrument()


with background("-m", "celery", "-A", "worker", "worker", "--loglevel=INFO", directory=SHOP, until=" ready."):
    asyncio.run(main())
