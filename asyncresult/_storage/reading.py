"""Reading the records of many tasks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from ..codec.codec import LARGE_PAYLOAD_BYTES
from ..meta import TaskMeta
from ..states import PENDING
from .decoding import DECODED_AT_ONCE
from .engine import Engine
from .keys import Keys, task_keys
from .rounds import READ_CHUNK

__all__ = ["read_records"]

#: Reads under way. While the records of one are decoded, the server is busy with the next (benchmarks: fetch).
READS_UNDER_WAY = 2


async def read_records(keys: Keys, engine: Engine, ids: Sequence[str]) -> list[TaskMeta]:
    """The records of ``ids``, in their order. Raises: as :meth:`.Store.get_many`."""
    chunks = deque(ids[start : start + READ_CHUNK] for start in range(0, len(ids), READ_CHUNK))
    reads: deque[tuple[Sequence[str], asyncio.Future[list[bytes | None]]]] = deque()
    metas: list[TaskMeta] = []
    try:
        while chunks or reads:
            while chunks and len(reads) < READS_UNDER_WAY:
                chunk = chunks.popleft()
                reads.append((chunk, engine.read_many(task_keys(keys, chunk))))
            chunk, read = reads[0]
            payloads = await read
            reads.popleft()
            for start in range(0, len(chunk), DECODED_AT_ONCE):
                part = slice(start, start + DECODED_AT_ONCE)
                metas += await _decode(engine, chunk[part], payloads[part])
            await asyncio.sleep(0)  # where all has come already, too, others have their turn
    finally:
        for _, read in reads:
            if not read.cancel() and not read.cancelled():
                read.exception()  # seen: the first that failed is the one that is raised
    return metas


async def _decode(engine: Engine, ids: Sequence[str], payloads: Sequence[bytes | None]) -> list[TaskMeta]:
    metas = engine.decoder.many_at_once(ids, payloads)
    return await _decode_each(engine, ids, payloads) if metas is None else metas


async def _decode_each(engine: Engine, ids: Sequence[str], payloads: Sequence[bytes | None]) -> list[TaskMeta]:
    """Records of any kind and size, some of which may not be there."""
    decode = engine.decoder.at_once
    metas: list[TaskMeta] = []
    size = 0
    for id, payload in zip(ids, payloads, strict=True):
        meta = decode(id, payload) if payload else TaskMeta(task_id=id, status=PENDING)
        metas.append(await engine.decoder.whole(id, payload) if meta is None else meta)
        size += len(payload or b"")
        if size >= LARGE_PAYLOAD_BYTES:  # many small records add up: let other tasks run
            size = 0
            await asyncio.sleep(0)
    return metas
