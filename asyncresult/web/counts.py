"""What the streams of a process do, counted for each backend, for its ``stats()``."""

from __future__ import annotations

import weakref
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from .._storage.engine import BackendStats
from .._storage.store import Store

__all__ = ["StreamCounts", "counts_of"]


@dataclass
class StreamCounts:
    """See the fields of these names of :class:`asyncresult.BackendStats`."""

    streams: int = 0
    streamed: int = 0
    slow_streams: int = 0
    dropped: int = 0
    refused_streams: int = 0

    def put_into(self, stats: BackendStats) -> BackendStats:
        counts: dict[str, Any] = asdict(self)
        return msgspec.structs.replace(stats, **counts)


_counts: weakref.WeakKeyDictionary[Store, StreamCounts] = weakref.WeakKeyDictionary()


def counts_of(backend: Store) -> StreamCounts:
    """The counts of a backend's streams, which are in its statistics from the first call on."""
    counts = _counts.get(backend)
    if counts is None:
        counts = _counts[backend] = StreamCounts()
        backend.counters["streams"] = counts.put_into
    return counts
