"""What waits, how long waits take and how the connections are, for Prometheus. Needs ``asyncresult[prometheus]``.

::

    REGISTRY.register(collector(backend))        # prometheus_client's registry; any number of backends

Gauges and counters are pulled from :meth:`Backend.stats` when Prometheus scrapes; histograms are filled by a probe,
once for each wait that ends, whether it is for one task or for thousands. No label carries an id; ``backend`` is the
address without secrets.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import Any

from .._extensions import without_extra

try:
    from prometheus_client import Counter, Histogram
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ModuleNotFoundError as _error:
    raise without_extra("prometheus", _error) from None

from .._storage.engine import BackendStats
from ..backend import Backend
from ..probe import Outcome, Probe, WaitEnded

__all__ = ["BackendCollector", "collector"]

_GAUGES = {
    "waiters": ("pending", "Tasks that are waited for."),
    "subscriptions": ("subscribed", "Tasks whose channel is subscribed."),
    "connected": ("connected", "Whether the connections are up (1) or are being made anew (0)."),
    "web_streams": ("streams", "Streams of events that are open."),
}
_COUNTERS = {
    "reconnects": ("reconnects", "Subscription connections lost."),
    "sweeps": ("sweeps", "Times that everything waited for was read again."),
    "decode_errors": ("decode_errors", "Records that could not be read."),
    "lost_notifications": ("lost", "Results that a sweep has found, and whose notification never came."),
    "rpc_received": ("received", "Replies received by rpc://."),
    "rpc_refused": ("refused", "Replies refused by rpc://."),
    "web_events": ("streamed", "Events sent on streams."),
    "web_slow_streams": ("slow_streams", "Streams whose client has not read for as long as the ping."),
    "web_dropped_states": ("dropped", "States never sent to clients that read too slowly."),
    "web_refused_streams": ("refused_streams", "Streams refused, as there were too many."),
}
_SOURCES = ("pushed", "read")

_WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def _histogram(name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
    return Histogram(f"asyncresult_{name}", text, ["backend", *labels], buckets=buckets, registry=None)


class _Measurements:
    """The metrics that probes fill, for all backends of a collector."""

    def __init__(self) -> None:
        self.waits = _histogram("wait_duration_seconds", "How long waits took.", _WAITS, "outcome", "source")
        self.lag = _histogram(
            "notification_lag_seconds", "From date_done until the notification came; a sample.", _FAST
        )
        self.stores = _histogram("store_duration_seconds", "How long storing a record took.", _FAST, "state", "kept")
        self.tasks = _histogram("task_duration_seconds", "How long tracked tasks took.", _WAITS, "outcome")
        self.polls = _histogram("poll_duration_seconds", "How long reading a store took.", _FAST)
        self.polled = Counter("asyncresult_poll_keys", "Keys that were read.", ["backend"], registry=None)
        self.sends = _histogram("send_duration_seconds", "How long sending tasks took.", _FAST)
        self.sent = Counter("asyncresult_sent_tasks", "Tasks that were sent.", ["backend"], registry=None)

    def all(self) -> list[Collector]:
        return list(vars(self).values())


class _Probe(Probe):
    """Fills the metrics of one backend. Celery's own states and ours are few; any other one is shown as ``custom``."""

    _STATES = frozenset({"SUCCESS", "FAILURE", "REVOKED", "RETRY", "STARTED", "PROGRESS", "PENDING", "RECEIVED"})

    def __init__(self, backend: Backend, metrics: _Measurements) -> None:
        self._address = str(backend)
        self._metrics = metrics
        self._lag = metrics.lag.labels(self._address)
        self.running: weakref.WeakSet[Any] = weakref.WeakSet()  # one whose loop is gone never ends

    def wait_ended(self, wait: WaitEnded) -> None:
        self._metrics.waits.labels(self._address, wait.outcome, wait.source or "none").observe(wait.seconds)

    def notified(self, lag: float) -> None:
        self._lag.observe(lag)

    def stored(self, seconds: float, state: str, kept: bool) -> None:
        state = state if state in self._STATES else "custom"
        self._metrics.stores.labels(self._address, state, "yes" if kept else "no").observe(seconds)

    def task_started(self, task: Any) -> None:
        self.running.add(task)

    def task_left(self, task: Any, state: str | None, error: BaseException | None) -> None:
        self.running.discard(task)

    def task_ended(self, seconds: float, name: str | None, outcome: Outcome) -> None:
        self._metrics.tasks.labels(self._address, outcome).observe(seconds)

    def polled(self, seconds: float, keys: int) -> None:
        self._metrics.polls.labels(self._address).observe(seconds)
        self._metrics.polled.labels(self._address).inc(keys)

    def sent(self, seconds: float, handles: Sequence[Any]) -> None:
        self._metrics.sends.labels(self._address).observe(seconds)
        self._metrics.sent.labels(self._address).inc(len(handles))


class BackendCollector(Collector):
    """Gives the metrics of some backends. Made by :func:`collector`."""

    def __init__(self, backends: tuple[Backend, ...]) -> None:
        self._metrics = _Measurements()
        self._probes = [(backend, _Probe(backend, self._metrics)) for backend in backends]
        for backend, probe in self._probes:
            backend.add_probe(probe)

    def collect(self) -> Iterator[Metric]:
        stats = {str(backend): backend.stats() for backend, _ in self._probes}
        for name, (field, text) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"asyncresult_{name}", text, labels=["backend"])
            for address, now in stats.items():
                gauge.add_metric([address], float(getattr(now, field)))
            yield gauge
        tracked = GaugeMetricFamily("asyncresult_tracked_tasks", "Tracked tasks that run.", labels=["backend"])
        for backend, probe in self._probes:
            tracked.add_metric([str(backend)], len(probe.running))
        yield tracked
        for name, (field, text) in _COUNTERS.items():
            counter = CounterMetricFamily(f"asyncresult_{name}", text, labels=["backend"])
            for address, now in stats.items():
                counter.add_metric([address], float(getattr(now, field)))
            yield counter
        records = CounterMetricFamily(
            "asyncresult_records", "Results that came, by where they came from.", labels=["backend", "source"]
        )
        for address, now in stats.items():
            for source in _SOURCES:
                records.add_metric([address, source], float(getattr(now, source)))
        yield records
        for metric in self._metrics.all():
            yield from metric.collect()

    def close(self) -> None:
        """Measure no more."""
        for backend, probe in self._probes:
            backend.remove_probe(probe)


def collector(*backends: Backend) -> BackendCollector:
    """A collector for a registry of ``prometheus_client``.

    Args:
        backends: Those of this process, connected or not.

    Metrics, all with the label ``backend``:

    * gauges: ``asyncresult_waiters``, ``asyncresult_subscriptions``, ``asyncresult_connected``,
      ``asyncresult_tracked_tasks``, ``asyncresult_web_streams``;
    * counters: ``asyncresult_records_total`` (by ``source``: ``pushed`` or ``read``),
      ``asyncresult_lost_notifications_total``, ``asyncresult_reconnects_total``, ``asyncresult_sweeps_total``,
      ``asyncresult_decode_errors_total``, ``asyncresult_sent_tasks_total``, ``asyncresult_poll_keys_total``,
      ``asyncresult_rpc_received_total``, ``asyncresult_rpc_refused_total``, ``asyncresult_web_events_total``,
      ``asyncresult_web_slow_streams_total``, ``asyncresult_web_dropped_states_total``,
      ``asyncresult_web_refused_streams_total``;
    * histograms, in seconds: ``asyncresult_wait_duration_seconds`` (by ``outcome``, and by ``source``: where the
      record came from that ended it),
      ``asyncresult_notification_lag_seconds``, ``asyncresult_store_duration_seconds`` (by ``state`` and ``kept``),
      ``asyncresult_task_duration_seconds`` (by ``outcome``), ``asyncresult_send_duration_seconds``,
      ``asyncresult_poll_duration_seconds``.
    """
    return BackendCollector(backends)


assert {field for field, _ in (*_GAUGES.values(), *_COUNTERS.values())} <= set(BackendStats.__struct_fields__)
