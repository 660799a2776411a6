"""Metrics and traces of what waits, for OpenTelemetry. Needs ``asyncresult[otel]``, which is its API alone.

::

    instrumentation = instrument(backend, spans=True)
    ...
    instrumentation.uninstrument()

Names follow the semantic conventions for messaging (1.45, where they are in development): where a convention has a
metric, it is that one; what it does not know begins with ``asyncresult.``. No attribute of a metric carries an id.

How a trace goes from the request that sends a task to the one that awaits it::

    request ──headers of the message──> worker ──fields of the record──> wait
       └──────────────── a link, by the task's id ─────────────────────────┘

The first half is Celery's message, whoever makes it. The second is for records that asyncresult writes, as Celery's
workers store no headers.
"""

from __future__ import annotations

import functools
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from .._extensions import without_extra

try:
    from opentelemetry import context as contexts
    from opentelemetry import metrics, propagate, trace
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
    from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TracerProvider
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as _error:
    raise without_extra("otel", _error) from None

from .._storage.engine import BackendStats
from ..backend import Backend
from ..codec.exceptions import printable
from ..meta import TaskMeta
from ..probe import Outcome, Probe, WaitEnded, outcome_of_state
from ..states import RETRY
from ..version import __version__

__all__ = ["Instrumentation", "instrument"]

_SCOPE = "asyncresult"
#: Where a span links to: as many as the SDK keeps by default.
MAX_LINKS = 128
#: Tasks whose sender is remembered, the latest.
MAX_SENDERS = 10_000

_Attributes = dict[str, str | int | bool]

# Those that the conventions advise for messaging; a wait lasts as long as its task, and a store is fast.
_MESSAGING = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_FAST = (0.0005, 0.001, 0.0025, *_MESSAGING)

# Name, field of the statistics, unit, description.
_UP_DOWN = (
    ("asyncresult.waiters", "pending", "{wait}", "Tasks that are waited for."),
    ("asyncresult.subscriptions", "subscribed", "{key}", "Tasks whose channel is subscribed."),
    ("asyncresult.web.streams", "streams", "{stream}", "Streams of events that are open."),
)
_COUNTERS = (
    ("asyncresult.reconnects", "reconnects", "{connection}", "Subscription connections lost."),
    ("asyncresult.sweeps", "sweeps", "{sweep}", "Times that everything waited for was read again."),
    ("asyncresult.decode_errors", "decode_errors", "{record}", "Records that could not be read."),
    ("asyncresult.lost_notifications", "lost", "{record}", "Results found by a sweep, without a notification."),
    ("asyncresult.rpc.received", "received", "{message}", "Replies received by rpc://."),
    ("asyncresult.rpc.refused", "refused", "{message}", "Replies refused by rpc://."),
    ("asyncresult.web.events", "streamed", "{event}", "Events sent on streams."),
    ("asyncresult.web.slow_streams", "slow_streams", "{stream}", "Streams whose client has not read for a ping."),
    ("asyncresult.web.dropped_states", "dropped", "{state}", "States never sent to clients that read too slowly."),
    ("asyncresult.web.refused_streams", "refused_streams", "{stream}", "Streams refused: there were too many."),
)
#: Celery's states and ours are few; any other one is shown as "custom".
_STATES = frozenset({"SUCCESS", "FAILURE", "REVOKED", "RETRY", "STARTED", "PROGRESS", "PENDING", "RECEIVED"})


class _Instruments:
    """The instruments of one meter provider. The API cannot remove any, so they are made once, and observe whatever
    backends are instrumented when they are read."""

    def __init__(self, provider: MeterProvider) -> None:
        self.probes: list[_Metrics] = []
        meter = provider.get_meter(_SCOPE, __version__)

        def histogram(name: str, text: str, bounds: Sequence[float]) -> metrics.Histogram:
            return meter.create_histogram(name, "s", text, explicit_bucket_boundaries_advisory=bounds)

        self.waits: metrics.Histogram = histogram("asyncresult.wait.duration", "How long waits took.", _WAITS)
        self.lag: metrics.Histogram = histogram(
            "asyncresult.notification.lag", "From date_done until the notification came.", _FAST
        )
        self.stores: metrics.Histogram = histogram(
            "asyncresult.store.duration", "How long storing a record took.", _FAST
        )
        self.polls: metrics.Histogram = histogram("asyncresult.poll.duration", "How long reading a store took.", _FAST)
        self.polled: metrics.Counter = meter.create_counter("asyncresult.poll.keys", "{key}", "Keys that were read.")
        self.sends: metrics.Histogram = histogram(
            "messaging.client.operation.duration", "How long sending tasks took.", _MESSAGING
        )
        self.sent: metrics.Counter = meter.create_counter(
            "messaging.client.sent.messages", "{message}", "Tasks that were sent."
        )
        self.tasks: metrics.Histogram = histogram(
            "messaging.process.duration", "How long tracked tasks took.", _MESSAGING
        )
        self._observe(meter)

    def _observe(self, meter: Meter) -> None:
        for name, field, unit, text in _UP_DOWN:
            meter.create_observable_up_down_counter(name, [self._sums(_field(field))], unit, text)
        meter.create_observable_up_down_counter(
            "asyncresult.tracked_tasks", [self._running], "{task}", "Tracked tasks that run."
        )
        meter.create_observable_gauge(
            "asyncresult.connected", [self._connected], "1", "Whether the connections are up."
        )
        for name, field, unit, text in _COUNTERS:
            meter.create_observable_counter(name, [self._sums(_field(field))], unit, text)
        by_source = [self._sums(_field(source), {"asyncresult.source": source}) for source in ("pushed", "read")]
        meter.create_observable_counter("asyncresult.records", by_source, "{record}", "Results that came.")

    def _sums(
        self, value: Callable[[BackendStats], int], attributes: Mapping[str, str] | None = None
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return _summed(((probe, value(probe.backend.stats())) for probe in self.probes), attributes or {})

        return observe

    def _running(self, _: CallbackOptions) -> Iterable[Observation]:
        return _summed(((probe, len(probe.running)) for probe in self.probes), {})

    def _connected(self, _: CallbackOptions) -> Iterator[Observation]:
        for probe in self.probes:
            yield Observation(int(probe.backend.stats().connected), probe.attributes)


def _field(name: str) -> Callable[[BackendStats], int]:
    return lambda stats: int(getattr(stats, name))


def _summed(values: Iterable[tuple[_Metrics, int]], attributes: Mapping[str, str]) -> Iterable[Observation]:
    """One observation for each address: two backends may have the same."""
    sums: dict[str, int] = {}
    for probe, value in values:
        address = str(probe.backend)
        sums[address] = sums.get(address, 0) + value
    return [Observation(value, {"asyncresult.backend": address, **attributes}) for address, value in sums.items()]


_instruments: weakref.WeakKeyDictionary[MeterProvider, _Instruments] = weakref.WeakKeyDictionary()


def _instruments_of(provider: MeterProvider) -> _Instruments:
    found = _instruments.get(provider)
    if found is None:
        found = _instruments[provider] = _Instruments(provider)
    return found


class _Metrics(Probe):
    """Fills the instruments for one backend."""

    def __init__(self, backend: Backend, instruments: _Instruments, *, task_names: bool) -> None:
        self.backend: Backend = backend
        self.attributes: _Attributes = {"asyncresult.backend": str(backend)}
        self.running: weakref.WeakSet[Any] = weakref.WeakSet()  # one whose loop is gone never ends
        self._messaging: _Attributes = {**self.attributes, "messaging.system": _system(backend)}
        self._instruments = instruments
        self._task_names = task_names

    def wait_ended(self, wait: WaitEnded) -> None:
        self._instruments.waits.record(wait.seconds, {**self.attributes, **_ended(wait)})

    def notified(self, lag: float) -> None:
        self._instruments.lag.record(lag, self.attributes)

    def stored(self, seconds: float, state: str, kept: bool) -> None:
        state = state if state in _STATES else "custom"
        kinds: _Attributes = {"asyncresult.state": state, "asyncresult.kept": kept}
        self._instruments.stores.record(seconds, {**self.attributes, **kinds})

    def task_started(self, task: Any) -> None:
        self.running.add(task)

    def task_left(self, task: Any, state: str | None, error: BaseException | None) -> None:
        self.running.discard(task)

    def task_ended(self, seconds: float, name: str | None, outcome: Outcome) -> None:
        attributes = {**self._messaging, "messaging.operation.name": "process"}
        if outcome != "success":
            attributes["error.type"] = outcome
        if self._task_names and name is not None:
            attributes["asyncresult.task.name"] = name
        self._instruments.tasks.record(seconds, attributes)

    def sent(self, seconds: float, handles: Sequence[Any]) -> None:
        attributes = {**self._messaging, "messaging.operation.name": "send"}
        self._instruments.sent.add(len(handles), attributes)
        self._instruments.sends.record(seconds, {**attributes, "messaging.operation.type": "send"})

    def polled(self, seconds: float, keys: int) -> None:
        self._instruments.polls.record(seconds, self.attributes)
        self._instruments.polled.add(keys, self.attributes)


class _Senders:
    """Which span was current when a task was sent."""

    def __init__(self) -> None:
        self._spans: OrderedDict[str, SpanContext] = OrderedDict()

    def __contains__(self, id: object) -> bool:
        return id in self._spans

    def note(self, id: str, within: contexts.Context | None = None) -> None:
        """It is sent now, in this context; None is the current one."""
        span = trace.get_current_span(within).get_span_context()
        if not span.is_valid:
            return
        self._spans[id] = span
        if len(self._spans) > MAX_SENDERS:
            try:
                self._spans.popitem(last=False)
            except KeyError:  # another thread took it
                pass

    def of(self, handle: Any) -> SpanContext | None:
        """The sender of a task, or of the one that it was chained to: a worker sends the later ones."""
        while handle is not None:
            span = self._spans.get(getattr(handle, "id", ""))
            if span is not None:
                return span
            handle = getattr(handle, "parent", None)
        return None


class _Spans(Probe):
    """Makes the spans of one backend: one for each wait that ends, and one for each tracked task."""

    # What is stored is for whoever may read the record: no baggage, which may hold anything.
    _fields = TraceContextTextMapPropagator()

    def __init__(self, backend: Backend, provider: TracerProvider, senders: _Senders) -> None:
        self._tracer = provider.get_tracer(_SCOPE, __version__)
        self._senders = senders
        self._common: _Attributes = {"messaging.system": _system(backend), "asyncresult.backend": str(backend)}
        self._running: weakref.WeakKeyDictionary[Any, tuple[Span, contexts.Context]] = weakref.WeakKeyDictionary()

    def wait_ended(self, wait: WaitEnded) -> None:
        end = time.time_ns()
        alone = wait.handles[0] if len(wait.handles) == 1 else None
        meta: TaskMeta | None = alone.snapshot if alone is not None else None
        attributes: _Attributes = {
            **self._common,
            "messaging.operation.name": "wait",
            "messaging.operation.type": "receive",
            **_ended(wait),
        }
        if alone is not None:
            attributes["messaging.message.id"] = alone.id
        else:
            attributes["messaging.batch.message_count"] = len(wait.handles)
        if meta is not None:
            attributes |= _described(meta.name, meta.queue) | {"asyncresult.state": printable(meta.status)}
        about = attributes.get("asyncresult.task.name") or attributes.get("messaging.destination.name")
        span = self._tracer.start_span(
            f"wait {about}" if about else "wait",
            kind=SpanKind.CLIENT,
            attributes=attributes,
            links=self._links(wait.handles),
            start_time=end - int(wait.seconds * 1e9),
        )
        if wait.outcome not in ("success", "cancelled"):
            _fail(span, _class_of(wait.error) if wait.error is not None else _class_in(meta) or wait.outcome)
        span.end(end)

    def sent(self, seconds: float, handles: Sequence[Any]) -> None:
        for handle in handles:
            # What Celery's signal has noted is more exact: who made a span for sending has ended it by now.
            if isinstance(id := getattr(handle, "id", None), str) and id not in self._senders:
                self._senders.note(id)

    def task_started(self, task: Any) -> None:
        request = task.request
        attributes: _Attributes = {
            **self._common,
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.message.id": task.id,
            **_described(request.task, request.delivery_info.get("routing_key")),
        }
        about = request.task or request.delivery_info.get("routing_key")
        span = self._tracer.start_span(
            f"process {about}" if about else "process", kind=SpanKind.CONSUMER, attributes=attributes
        )
        self._running[task] = span, contexts.get_current()
        contexts.attach(trace.set_span_in_context(span))
        request.own_fields = self.record_fields()  # also where it is stored later, by others

    def task_left(self, task: Any, state: str | None, error: BaseException | None) -> None:
        span, outer = self._running.pop(task, (None, None))
        if span is None or outer is None:
            return
        if state is not None:
            span.set_attribute("asyncresult.state", state)
        if state is None or state == RETRY or outcome_of_state(state) != "success":
            _fail(span, _class_of(error) if error is not None else (state or "failure").lower())
        span.end()
        # Not by a token: the block may be left in another context than it was entered in.
        if trace.get_current_span() is span:
            contexts.attach(outer)

    def for_process(self, call: Callable[[], Any]) -> Callable[[], Any]:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return functools.partial(_call_within, carrier, call) if carrier else call

    def record_fields(self) -> Mapping[str, str]:
        fields: dict[str, str] = {}
        self._fields.inject(fields)
        return fields

    def _links(self, handles: Sequence[Any]) -> list[Link]:
        """To those who sent the tasks, and to those who stored the results; each once."""
        found: dict[tuple[int, int], SpanContext] = {}
        for handle in handles[:MAX_LINKS]:
            for span in (self._senders.of(handle), self._writer(handle.snapshot)):
                if span is not None and span.is_valid:
                    found.setdefault((span.trace_id, span.span_id), span)
        return [Link(span) for span in list(found.values())[:MAX_LINKS]]

    def _writer(self, meta: TaskMeta | None) -> SpanContext | None:
        if meta is None or not isinstance(meta.traceparent, str):
            return None
        fields = {"traceparent": meta.traceparent}
        if isinstance(state := meta.extra.get("tracestate"), str):
            fields["tracestate"] = state
        return trace.get_current_span(self._fields.extract(fields, contexts.Context())).get_span_context()


def _call_within(carrier: Mapping[str, str], call: Callable[[], Any]) -> Any:
    """Runs in a worker process of an Executor, which imports this module for it."""
    token = contexts.attach(propagate.extract(carrier))
    try:
        return call()
    finally:
        contexts.detach(token)


def _ended(wait: WaitEnded) -> _Attributes:
    ended: _Attributes = {"asyncresult.outcome": wait.outcome}
    return ended if wait.source is None else {**ended, "asyncresult.source": wait.source}


def _described(name: str | None, queue: Any) -> _Attributes:
    """Short, and of characters that an exporter can encode: one text that it cannot would cost it many spans."""
    given = {"asyncresult.task.name": name, "messaging.destination.name": queue}
    return {key: printable(text) for key, text in given.items() if isinstance(text, str)}


def _fail(span: Span, kind: str) -> None:
    """No text of an exception, which may hold anything: its class says enough."""
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR))


def _class_of(error: BaseException) -> str:
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _class_in(meta: TaskMeta | None) -> str | None:
    """The class of the failure that a record holds, as the worker named it; ``get()`` raises it after its wait."""
    stored = meta.result if meta is not None and meta.ready else None
    name = stored.get("exc_type") if isinstance(stored, dict) else None
    return printable(name) if isinstance(name, str) else None


def _system(backend: Backend) -> str:
    """Who sends the tasks: Celery where an app was connected."""
    celerys = f"{__package__}.celery."
    return "celery" if any(type(way).__module__.startswith(celerys) for way in backend.controllers) else "asyncresult"


class _Headers:
    """Puts the trace into the headers of what Celery sends, and notes who sent it."""

    def __init__(self, senders: _Senders) -> None:
        self._senders = senders

    def connect(self) -> None:
        """Harmless where Celery is not installed."""
        try:
            from celery.signals import after_task_publish, before_task_publish
        except ImportError:
            return
        before_task_publish.connect(self._publishing, weak=False, dispatch_uid=id(self))
        after_task_publish.connect(self._published, weak=False, dispatch_uid=id(self))

    def disconnect(self) -> None:
        try:
            from celery.signals import after_task_publish, before_task_publish
        except ImportError:
            return
        before_task_publish.disconnect(self._publishing, dispatch_uid=id(self))
        after_task_publish.disconnect(self._published, dispatch_uid=id(self))

    def _publishing(self, headers: Any = None, **_: Any) -> None:
        if not isinstance(headers, dict):
            return
        if not any(field in headers for field in propagate.get_global_textmap().fields):
            propagate.inject(headers)

    def _published(self, headers: Any = None, **_: Any) -> None:
        """Other instrumentation may have put its own span into the headers since: that is the sender."""
        if isinstance(headers, dict) and isinstance(id := headers.get("id"), str):
            self._senders.note(id, propagate.extract(headers))


class Instrumentation:
    """What :func:`instrument` has switched on."""

    def __init__(
        self, instruments: _Instruments, probes: Sequence[tuple[Backend, Probe]], headers: _Headers | None
    ) -> None:
        self._instruments = instruments
        self._probes = probes
        self._headers = headers
        for backend, probe in probes:
            backend.add_probe(probe)
            if isinstance(probe, _Metrics):
                instruments.probes = [*instruments.probes, probe]
        if headers is not None:
            headers.connect()

    def uninstrument(self) -> None:
        """Measure no more, and leave the headers of messages alone. Harmless when it was done before."""
        ours = [probe for _, probe in self._probes]
        for backend, probe in self._probes:
            backend.remove_probe(probe)
        self._instruments.probes = [probe for probe in self._instruments.probes if probe not in ours]
        if self._headers is not None:
            self._headers.disconnect()


def instrument(
    *backends: Backend,
    spans: bool = False,
    task_names: bool = False,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
) -> Instrumentation:
    """Report what these backends do to OpenTelemetry.

    Args:
        backends: Those of this process, connected or not.
        spans: Also make spans, and carry the trace along: ``wait …`` for each wait (:class:`asyncresult.WaitEnded`),
            with links to the spans that sent its tasks, and to those that stored its results; ``process …`` for each
            task of ``track()`` or an ``Executor``, whose worker processes get the context, too. Messages that Celery
            sends in this process, by any app and method, get the headers of the global propagator unless they have
            them; records that are stored get ``traceparent``.
        task_names: Measure the durations of tracked tasks by their name, too. There must be few names.
        meter_provider: None is the global one.
        tracer_provider: None is the global one.

    Returns:
        What ends it: :meth:`Instrumentation.uninstrument`.

    Raises:
        ValueError: One of the backends is instrumented already.

    Metrics, all with ``asyncresult.backend``, the address without secrets:

    * counted up and down: ``asyncresult.waiters``, ``asyncresult.subscriptions``, ``asyncresult.tracked_tasks``,
      ``asyncresult.web.streams``; a gauge: ``asyncresult.connected``;
    * counters: ``asyncresult.records`` (``asyncresult.source``), ``asyncresult.lost_notifications``,
      ``asyncresult.reconnects``, ``asyncresult.sweeps``, ``asyncresult.decode_errors``, ``asyncresult.poll.keys``,
      ``asyncresult.rpc.received``, ``asyncresult.rpc.refused``, ``asyncresult.web.events``,
      ``asyncresult.web.slow_streams``, ``asyncresult.web.dropped_states``, ``asyncresult.web.refused_streams``,
      ``messaging.client.sent.messages``;
    * histograms, in seconds: ``asyncresult.wait.duration`` (``asyncresult.outcome``, ``asyncresult.source``),
      ``asyncresult.notification.lag``,
      ``asyncresult.store.duration`` (``asyncresult.state``, ``asyncresult.kept``), ``asyncresult.poll.duration``,
      ``messaging.client.operation.duration``, ``messaging.process.duration`` (``error.type``).

    Source: OpenTelemetry's semantic conventions 1.45, messaging spans and messaging metrics.
    """
    instruments = _instruments_of(meter_provider or metrics.get_meter_provider())
    seen = [probe.backend for probe in instruments.probes]
    for backend in backends:
        if any(other is backend for other in seen):
            raise ValueError(f"{backend!r} is instrumented already: uninstrument() it first")
        seen.append(backend)
    probes: list[tuple[Backend, Probe]] = [
        (backend, _Metrics(backend, instruments, task_names=task_names)) for backend in backends
    ]
    if not spans:
        return Instrumentation(instruments, probes, None)
    senders = _Senders()
    tracers = tracer_provider or trace.get_tracer_provider()
    probes += [(backend, _Spans(backend, tracers, senders)) for backend in backends]
    return Instrumentation(instruments, probes, _Headers(senders))
