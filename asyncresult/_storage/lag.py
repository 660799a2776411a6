"""How long notifications take, as a sample: looking at each would cost a join of thousands more than its records."""

from __future__ import annotations

import asyncio
import time

from ..errors import ResultDecodeError
from ..meta import TaskMeta
from ..probe import Probe

__all__ = ["LagSampler"]

#: Seconds between two that are looked at.
INTERVAL = 0.01


class LagSampler:
    """Called with final records that have arrived as messages; reports the time since ``date_done`` of some.

    Args:
        loop: Where they arrive.
        probe: Who is reported to.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, probe: Probe) -> None:
        self._loop = loop
        self._probe = probe
        self._next = 0.0

    def __call__(self, meta: TaskMeta) -> None:
        now = self._loop.time()
        if now < self._next:
            return
        self._next = now + INTERVAL
        try:
            done = meta.date_done
        except ResultDecodeError:
            return
        if done is not None:
            self._probe.notified(max(0.0, time.time() - done.timestamp()))
