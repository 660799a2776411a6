"""What waits, and how the connections are, for Prometheus. Needs ``asyncresult[prometheus]``.

::

    REGISTRY.register(collector(backend))        # prometheus_client's registry; any number of backends

The numbers are pulled from :meth:`Backend.stats` when Prometheus scrapes: a wait costs nothing more. No label carries
an id; ``backend`` is the address without secrets.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .._storage.engine import BackendStats
from ..backend import Backend

__all__ = ["BackendCollector", "collector"]

_GAUGES = {
    "waiters": ("pending", "Tasks that are waited for."),
    "subscriptions": ("subscribed", "Tasks whose channel is subscribed."),
    "connected": ("connected", "Whether the connections are established (1) or are being made anew (0)."),
}
_COUNTERS = {
    "reconnects": ("reconnects", "Subscription connections lost."),
    "sweeps": ("sweeps", "Times that everything waited for was read again."),
    "decode_errors": ("decode_errors", "Records that could not be read."),
    "rpc_received": ("received", "Replies received by rpc://."),
    "rpc_refused": ("refused", "Replies refused by rpc://."),
}


class BackendCollector(Collector):
    """Gives the statistics of some backends. Made by :func:`collector`."""

    def __init__(self, backends: tuple[Backend, ...]) -> None:
        self._backends = backends

    def collect(self) -> Iterator[Metric]:
        stats = {str(backend): backend.stats() for backend in self._backends}
        for name, (field, text) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"asyncresult_{name}", text, labels=["backend"])
            for address, now in stats.items():
                gauge.add_metric([address], float(getattr(now, field)))
            yield gauge
        for name, (field, text) in _COUNTERS.items():
            counter = CounterMetricFamily(f"asyncresult_{name}", text, labels=["backend"])
            for address, now in stats.items():
                counter.add_metric([address], float(getattr(now, field)))
            yield counter


def collector(*backends: Backend) -> BackendCollector:
    """A collector for a registry of ``prometheus_client``.

    Args:
        backends: Those of this process, connected or not.

    Metrics: the gauges ``asyncresult_waiters``, ``asyncresult_subscriptions`` and ``asyncresult_connected``, the
    counters ``asyncresult_reconnects_total``, ``asyncresult_sweeps_total``, ``asyncresult_decode_errors_total``,
    ``asyncresult_rpc_received_total`` and ``asyncresult_rpc_refused_total``; all with the label ``backend``.
    """
    return BackendCollector(backends)


assert {field for field, _ in (*_GAUGES.values(), *_COUNTERS.values())} <= set(BackendStats.__struct_fields__)
