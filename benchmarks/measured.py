"""``python -m benchmarks.measured [--members N] [--rounds R]``: what metrics and spans cost a join.

One process joins N tasks that all wait, again and again, in turn: not measured, measured by each collector, not
measured once more, which shows the noise. What counts is the CPU time of that process, from the first handle to the
last value, as a ratio to the join of the same round that is not measured. Another process stores the results, when all
are subscribed.

Records with a trace are those that ``track()`` and an Executor write with ``spans=True``. They are joined without a
collector, too, so that their decoding has a row of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import platform
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from redis import Redis

import asyncresult
from asyncresult import Backend
from asyncresult.integrations.otel import instrument
from asyncresult.integrations.prometheus import collector
from tests.tools.servers import RedisServer

RESULTS = Path(__file__).parent / "results"
TRACE = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}

METERS = MeterProvider([InMemoryMetricReader()])
TRACERS = TracerProvider()
TRACERS.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))

Stop = Callable[[], None]


class Case(NamedTuple):
    """A way to join, and what the records have besides."""

    start: Callable[[Backend], Stop]
    fields: dict[str, str]


def _off(_: Backend) -> Stop:
    return lambda: None


def _otel(backend: Backend) -> Stop:
    return instrument(backend, meter_provider=METERS).uninstrument


def _spans(backend: Backend) -> Stop:
    return instrument(backend, spans=True, meter_provider=METERS, tracer_provider=TRACERS).uninstrument


CASES = {
    "off": Case(_off, {}),
    "off, once more": Case(_off, {}),
    "Prometheus": Case(lambda backend: collector(backend).close, {}),
    "OpenTelemetry, metrics": Case(_otel, {}),
    "OpenTelemetry, metrics and spans": Case(_spans, {}),
    "off, records with a trace": Case(_off, TRACE),
    "OpenTelemetry, records with a trace": Case(_spans, TRACE),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.measured", description=__doc__)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.store:
        _store(arguments.store)
        return
    with RedisServer() as server:
        seconds = asyncio.run(_measure(server.url(), arguments.members, arguments.rounds))
    rows = {name: _row(seconds[name], seconds["off"]) for name in CASES}
    for name, row in rows.items():
        print(
            f"{name:40} {row['cpu_ms']:8.1f} ms   {row['ratio']:.3f}   quartiles {row['low']:.3f} to {row['high']:.3f}"
        )
    about = {"members": arguments.members, "rounds": arguments.rounds, "python": platform.python_version()}
    path = RESULTS / f"measured-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    path.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n", encoding="utf-8")


def _row(seconds: list[float], off: list[float]) -> dict[str, float]:
    ratios = [with_it / without for with_it, without in zip(seconds, off, strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    figures = {"cpu_ms": statistics.median(seconds) * 1e3, "ratio": ratio, "low": low, "high": high}
    return {name: round(figure, 4) for name, figure in figures.items()}


async def _measure(url: str, members: int, rounds: int) -> dict[str, list[float]]:
    """The seconds of CPU that each join took, by case and round. The first round does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    names = list(CASES)
    command = [sys.executable, "-m", "benchmarks.measured", "--store", url]
    producer = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE)
    assert producer.stdin is not None
    async with asyncresult.connect(url) as backend:
        for round in range(-1, rounds):
            first = round % len(names)
            for name in names[first:] + names[:first]:
                stop = CASES[name].start(backend)
                used = await _join(backend, members, CASES[name].fields, producer.stdin)
                stop()
                if round >= 0:
                    seconds[name].append(used)
    producer.stdin.close()
    await producer.wait()
    return seconds


async def _join(backend: Backend, members: int, fields: dict[str, str], producer: asyncio.StreamWriter) -> float:
    ids = [str(uuid.uuid4()) for _ in range(members)]
    order = json.dumps({"ids": ids, "fields": fields}).encode() + b"\n"
    gc.collect()
    begun = time.process_time()
    joining = asyncio.ensure_future(asyncresult.gather(*map(backend.result, ids)))
    await _until_subscribed(backend, members)
    asked = time.process_time()
    producer.write(order)
    await producer.drain()
    joined = time.process_time()
    assert len(await joining) == members
    used = time.process_time() - begun - (joined - asked)
    await _until_subscribed(backend, 0)
    return used


async def _until_subscribed(backend: Backend, keys: int) -> None:
    while backend.stats().subscribed != keys:  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0.005)


def _store(url: str) -> None:
    """Store what each line of the input names."""
    with Redis.from_url(url) as client:
        for line in sys.stdin:
            order = json.loads(line)
            with client.pipeline(transaction=False) as pipeline:
                for id in order["ids"]:
                    record = {"task_id": id, "status": "SUCCESS", "result": 1, "traceback": None, "children": []}
                    payload = json.dumps(record | order["fields"])
                    pipeline.set(f"celery-task-meta-{id}", payload, ex=60)
                    pipeline.publish(f"celery-task-meta-{id}", payload)
                pipeline.execute()


if __name__ == "__main__":
    main()
