"""Who measures a store: its probes, and what they see beside the ends of waits."""

from __future__ import annotations

import asyncio
import time

from ..errors import ResultDecodeError
from ..meta import TaskMeta
from ..probe import Probe, Probes
from .engine import Engine, Outcome
from .engines import Engines

__all__ = ["Probed", "report_many", "report_stored"]

#: Seconds between two notifications whose lag is reported: each of thousands would cost more than its record.
LAG_INTERVAL = 0.01


class Probed:
    """A store's engines, and its probes.

    Attributes:
        probe: What is reported to; None where nobody measures.
    """

    def __init__(self) -> None:
        self.probe: Probes | None = None
        self._engines: Engines = Engines()

    def add_probe(self, probe: Probe) -> None:
        """Have a probe see what happens from now on: how waits end, what is stored. It may see several backends."""
        self._set_probes([*self._probes, probe])

    def remove_probe(self, probe: Probe) -> None:
        """Take a probe off. Harmless when it is not there."""
        self._set_probes([other for other in self._probes if other is not probe])

    @property
    def _probes(self) -> tuple[Probe, ...]:
        return self.probe.probes if self.probe is not None else ()

    def _set_probes(self, probes: list[Probe]) -> None:
        self.probe = Probes(probes) if probes else None
        for engine in self._engines.all():
            self._sample_lag(engine)

    def _sample_lag(self, engine: Engine) -> None:
        engine.waiters.on_received = _LagSampler(self, engine) if self.probe is not None else None


def report_stored(probe: Probe, begun: float, state: str, stored: asyncio.Future[bool]) -> None:
    """The callback of a store that began at that value of the performance counter."""
    if not stored.cancelled() and stored.exception() is None:
        probe.stored(time.perf_counter() - begun, state, stored.result())


def report_many(probe: Probe, begun: float, state: str, stored: asyncio.Future[list[Outcome]]) -> None:
    """The callback of many stores, as :func:`report_stored`."""
    if not stored.cancelled() and stored.exception() is None:
        seconds = time.perf_counter() - begun
        for outcome in stored.result():
            if isinstance(outcome, bool):
                probe.stored(seconds, state, outcome)


class _LagSampler:
    """Called with a final record that has arrived as a message; reports the time since its ``date_done``.

    It then takes itself off the table for a while: those that arrive meanwhile cost nothing (benchmarks: measured).
    """

    def __init__(self, store: Probed, engine: Engine) -> None:
        self._store = store
        self._engine = engine
        self._probe: Probe | None = store.probe

    def __call__(self, meta: TaskMeta) -> None:
        self._engine.waiters.on_received = None
        self._engine.loop.call_later(LAG_INTERVAL, self._resume)
        try:
            done = meta.date_done
        except ResultDecodeError:
            return
        if done is not None and self._probe is not None:
            self._probe.notified(max(0.0, time.time() - done.timestamp()))

    def _resume(self) -> None:
        if self._store.probe is self._probe:  # else another sampler is there, or none
            self._engine.waiters.on_received = self
